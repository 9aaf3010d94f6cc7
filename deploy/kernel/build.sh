#!/bin/sh
# Build the enclave's small kernel from Debian's source package: `build.sh DIRECTORY` leaves DIRECTORY/bzImage and
# DIRECTORY/config. Cached by version and configuration; the build is deterministic (fixed user, host, time).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
cd "$1"
source=linux-source-6.12
sh "$here/../tools.sh" gcc=gcc make=make flex=flex bison=bison bc=bc zstd=zstd xz=xz-utils /usr/include/libelf.h=libelf-dev
[ -n "$(ls linux-source-*.deb 2>/dev/null)" ] || apt-get download "$source" >&2
package=$(ls linux-source-*.deb | tail -n 1)
version=$(dpkg-deb --field "$package" Version)
stamp=$({ echo "$version"; cat "$here/config" "$here/build.sh"; } | sha256sum | cut -c1-64)
if [ -e bzImage ] && [ "$(cat stamp 2>/dev/null)" = "$stamp" ]; then
    exit 0
fi
rm -rf unpacked source stamp
dpkg-deb --extract "$package" unpacked
mkdir source
tar -xJf "unpacked/usr/src/$source.tar.xz" -C source --strip-components=1
rm -rf unpacked
export KBUILD_BUILD_USER=cloister KBUILD_BUILD_HOST=cloister KBUILD_BUILD_TIMESTAMP='1970-01-01 00:00:00 UTC'
cd source
make -s KCONFIG_ALLCONFIG="$here/config" allnoconfig
# Every line of the request must have survived dependencies.
lost=$(grep '^CONFIG_' "$here/config" | while read -r line; do
    case $line in
    *=n) ! grep -q "^${line%=n}=" .config || echo "$line" ;;
    *) grep -qxF "$line" .config || echo "$line" ;;
    esac
done)
if [ -n "$lost" ]; then
    printf 'not in the result:\n%s\n' "$lost" >&2
    exit 1
fi
make -s -j"$(nproc)" bzImage
cp arch/x86/boot/bzImage ..
cp .config ../config
cd ..
rm -rf source
echo "$stamp" >stamp
ls -l bzImage

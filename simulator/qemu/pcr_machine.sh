#!/bin/sh
# Compile QEMU's own nitro-enclave machine from Debian's source: `pcr_machine.sh DIRECTORY` leaves DIRECTORY/qemu. An oracle:
# it computes PCR0, 1, 2, 3, 4 and 8 from an EIF by itself. Its documents are unsigned.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mirror=$(sh "$here/../../deploy/mirror.sh")
mkdir -p "$1"
cd "$1"
[ ! -x qemu ] || exit 0
include=/usr/include
sh "$here/../../deploy/tools.sh" gcc=gcc ninja=ninja-build pkg-config=pkg-config dpkg-source=dpkg-dev flex=flex bison=bison \
    $include/glib-2.0/glib.h=libglib2.0-dev $include/cbor.h=libcbor-dev $include/gnutls/gnutls.h=libgnutls28-dev $include/libfdt.h=libfdt-dev
# An apt of its own, so that the machine's sources stay as they are.
root=$(pwd)/apt
mkdir -p "$root/lists/partial" "$root/cache/archives/partial"
echo "deb-src $mirror trixie main" >"$root/sources.list"
: >"$root/status"
apt() {
    apt-get -o Dir::State::lists="$root/lists" -o Dir::State::status="$root/status" -o Dir::Cache="$root/cache" \
        -o Dir::Etc::sourcelist="$root/sources.list" -o Dir::Etc::sourceparts=/dev/null -o APT::Sandbox::User=root "$@"
}
apt -qq update
apt -qq source --download-only qemu
rm -rf source
rm -rf source
dpkg-source -x qemu_*.dsc source >/dev/null
python3 -m venv --without-pip tools 2>/dev/null || python3 -m venv tools
python3 -m pip --python tools/bin/python install --quiet 'meson>=1.5' pycotap
mkdir -p source/configs/devices/x86_64-softmmu
cat >source/configs/devices/x86_64-softmmu/default.mak <<'EOF'
CONFIG_NITRO_ENCLAVE=y
CONFIG_MICROVM=y
CONFIG_VHOST_USER_VSOCK=y
CONFIG_VIRTIO_NSM=y
EOF
mkdir -p source/build
cd source/build
PATH="$root/../tools/bin:$PATH" ../configure --target-list=x86_64-softmmu --without-default-features --without-default-devices --enable-tcg --enable-system \
    --enable-libcbor --enable-gnutls --enable-fdt=system --enable-vhost-user --disable-docs --disable-download --disable-install-blobs
ninja qemu-system-x86_64
cp qemu-system-x86_64 ../../qemu
cd ../..
rm -rf source

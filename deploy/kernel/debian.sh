#!/bin/sh
# Debian's own kernel for the emulator, the quick way: `debian.sh DIRECTORY` leaves DIRECTORY/bzImage, the modules that vsock and the
# security module need, unpacked, in DIRECTORY/modules, and their order in DIRECTORY/order.
set -eu
here=$(cd "$(dirname "$0")/../.." && pwd)
mkdir -p "$1"
cd "$1"
[ ! -s order ] || exit 0
sh "$here/deploy/tools.sh" xz=xz-utils
DEBS_ALONE=1 sh "$here/deploy/debs.sh" meta trixie linux-image-cloud-amd64
image=$(dpkg-deb --field meta/debs/*.deb Depends | sed 's/[ ,(].*//')
DEBS_ALONE=1 sh "$here/deploy/debs.sh" package trixie "$image"
cp package/root/boot/vmlinuz-* bzImage
rm -rf modules
mkdir modules

# Print a module and, before it, every module that it says it needs; what has no file is built in.
chain() {
    file=$(find package/root/usr/lib/modules -name "$1.ko*" -o -name "$(echo "$1" | tr _ -).ko*" | head -n 1)
    [ -n "$file" ] || return 0
    [ -e "modules/$1.ko" ] || case $file in
    *.xz) xz -dc "$file" >"modules/$1.ko" ;;
    *) cp "$file" "modules/$1.ko" ;;
    esac
    for needed in $(tr '\0' '\n' <"modules/$1.ko" | sed -n 's/^depends=//p' | tr ',' ' '); do
        chain "$needed"
    done
    echo "$1.ko"
}
for wanted in virtio_mmio vmw_vsock_virtio_transport nsm; do
    (chain "$wanted")
done >order.all
rm -f order
awk '!seen[$0]++' order.all >order.new
rm -rf meta package order.all
mv order.new order

#!/bin/sh
# Fetch QEMU from Debian (trixie-backports) without installing it: `qemu.sh DIRECTORY` leaves it below DIRECTORY/root, to be run
# through its own loader (simulator/qemu/machine.py), whatever this machine's C library is.
set -eu
here=$(cd "$(dirname "$0")/../.." && pwd)
[ ! -e "$1/done" ] || exit 0
sh "$here/deploy/debs.sh" "$1" "trixie-backports trixie" qemu-system-x86 qemu-system-data seabios
rm -rf "$1/debs"
touch "$1/done"

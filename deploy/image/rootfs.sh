#!/bin/sh
# Dockerfile.enclave with buildah, without daemon and network: `rootfs.sh BASE_ROOT OUTPUT` leaves an OCI layout in OUTPUT.
set -eu
here=$(cd "$(dirname "$0")/../.." && pwd)
sh "$here/deploy/tools.sh" buildah=buildah
base=$(cd "$1" && pwd)
mkdir -p "$2.storage"
storage=$(cd "$2.storage" && pwd)
rm -rf "$2"
build() {
    verb=$1
    shift
    buildah --root "$storage/root" --runroot "$storage/run" --storage-driver vfs "$verb" "$@"
}
container=$(build from scratch)
build add --quiet "$container" "$base" / >/dev/null
build commit --quiet --rm "$container" localhost/base:1 >/dev/null
cd "$here"
# shellcheck disable=SC2086
build bud --quiet --isolation chroot --pull-never --build-arg BASE=localhost/base:1 --tag localhost/enclave:1 \
    --file Dockerfile.enclave . >/dev/null
cd - >/dev/null
build push --quiet localhost/enclave:1 "oci:$2:enclave"
build rmi --all --force >/dev/null
rm -rf "$storage"

#!/bin/sh
# Fetch the wheels of requirements/enclave.lock for the image's Python, by hash: `wheels.sh PYTHON DIRECTORY`.
set -eu
here=$(cd "$(dirname "$0")/../.." && pwd)
lock=$here/requirements/enclave.lock
stamp=$(cat "$lock" "$0" | sha256sum | cut -c1-64)
[ "$(cat "$2.stamp" 2>/dev/null)" != "$stamp" ] || exit 0
rm -rf "$2" "$2.stamp"
mkdir -p "$2"
python=$1
"$python" -m pip download -qq --disable-pip-version-check --no-deps --require-hashes --requirement "$lock" --dest "$2" \
    --only-binary=:all: --implementation cp --python-version 3.13 --abi cp313 --abi abi3 --abi none \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --platform any
echo "$stamp" >"$2.stamp"

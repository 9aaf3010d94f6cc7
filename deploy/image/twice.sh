#!/bin/sh
# Build the image in two clean places from the same commit and compare: `twice.sh PYTHON`. The last line is the verdict.
set -eu
here=$(cd "$(dirname "$0")/../.." && pwd)
python=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
places=$(mktemp -d)
trap 'rm -rf "$places"' EXIT
for place in first second-with-another-name; do
    mkdir -p "$places/$place"
    (cd "$here" && git archive HEAD) | tar -x -C "$places/$place"
    # Only downloads are shared: they are what base.lock and the lock of the wheels name.
    mkdir -p "$places/$place/build"
    for cache in base kernel-debian wheels wheels.stamp; do
        [ ! -e "$here/build/$cache" ] || cp -a "$here/build/$cache" "$places/$place/build/$cache"
    done
    (
        cd "$places/$place"
        make --no-print-directory rootfs init kernel-debian PYTHON="$python"
        sh deploy/image/eif.sh "$python" build/image build/kernel-debian
    ) >"$places/$place.log" 2>&1 || {
        cat "$places/$place.log" >&2
        exit 1
    }
    grep '^PCR' "$places/$place.log" >"$places/$place.pcrs"
    echo "$place:"
    cat "$places/$place.pcrs"
    sha256sum "$places/$place/build/image/enclave.eif" | cut -c1-64
done
if cmp -s "$places/first/build/image/enclave.eif" "$places/second-with-another-name/build/image/enclave.eif"; then
    echo "equal: PCR0, PCR1, PCR2 and every byte of the image"
elif cmp -s "$places/first.pcrs" "$places/second-with-another-name.pcrs"; then
    echo "equal: PCR0, PCR1 and PCR2"
else
    echo "DIFFERENT"
    exit 1
fi

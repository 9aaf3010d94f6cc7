#!/bin/sh
# The image's base: Python and what it links to, from Debian trixie, exactly as base.lock says. `base.sh DIRECTORY [update]`
# leaves DIRECTORY/root; with `update` it writes base.lock anew instead of comparing. With BASE_MOVED=accept a base that Debian
# has moved on is used all the same, and said so: for testing, where the PCRs of a release do not matter. DIRECTORY/moved says how
# the base differs from base.lock; empty where it does not.
set -eu
here=$(cd "$(dirname "$0")/../.." && pwd)
lock=$here/base.lock
packages="python3.13-minimal libpython3.13-stdlib libstdc++6"
stamp=$(cat "$here/deploy/image/base.sh" "$here/deploy/debs.sh" "$lock" 2>/dev/null | sha256sum | cut -c1-64)
if [ "${2:-}" != update ] && [ "$(cat "$1/stamp" 2>/dev/null)" = "$stamp" ]; then
    exit 0
fi
rm -f "$1/stamp" # of another base, whose lock may come back
# shellcheck disable=SC2086
sh "$here/deploy/debs.sh" "$1" trixie $packages
heading='# The Debian packages (trixie) whose files the image is taken from: name, version, SHA-256. Written by `make base-update`.'
if [ "${2:-}" = update ]; then
    { echo "$heading"; cat "$1/packages"; } >"$lock"
    : >"$1/moved"
elif ! { echo "$heading"; cat "$1/packages"; } | diff -U0 "$lock" - >"$1/moved"; then
    echo "Debian has moved on from base.lock:" >&2
    grep '^[-+][^-+]' "$1/moved" >&2
    if [ "${BASE_MOVED:-}" = accept ]; then
        echo "accepted, for this image is no release" >&2
        exit 0
    fi
    echo "a release is rebuilt from the packages of its time; for a new image: make base-update, and commit base.lock" >&2
    exit 1
fi
cat "$here/deploy/image/base.sh" "$here/deploy/debs.sh" "$lock" | sha256sum | cut -c1-64 >"$1/stamp"

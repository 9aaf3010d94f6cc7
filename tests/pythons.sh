#!/bin/sh
# The suite on every Python from 3.11 to 3.13 that is here; names those that are not. Fails if one fails or none is found.
set -eu
cd "$(dirname "$0")/.."

ran=0
failed=
missing=
for version in 3.11 3.12 3.13; do
    python=$(sh requirements/find-python.sh "$version")
    if [ -z "$python" ]; then
        missing="$missing $version"
        continue
    fi
    ran=$((ran + 1))
    echo "== Python $version"
    ${MAKE:-make} --no-print-directory test PYTHON="$python" VENV=".venv-$version" || failed="$failed $version"
done
echo "Pythons run: $ran${missing:+, not here:$missing}${failed:+, FAILED:$failed}"
[ "$ran" -gt 0 ] && [ -z "$failed" ]

#!/bin/sh
# The suite on every Python from 3.11 to 3.13 that is here; names those that are not. Fails if one fails or none is found.
set -eu
cd "$(dirname "$0")/.."

find_python() { # an interpreter of the version, from PATH or from pyenv's versions
    for candidate in "python$1" $(ls -d "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$1".*/bin/python 2>/dev/null); do
        if "$candidate" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$1')" 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
}

ran=0
failed=
missing=
for version in 3.11 3.12 3.13; do
    python=$(find_python "$version")
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

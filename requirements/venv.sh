#!/bin/sh
# venv.sh PYTHON DIRECTORY LOCK...: an environment with exactly what the locks pin, every file checked against its hash.
set -eu
python=$1
directory=$2
shift 2

if ! "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
    echo "$python is missing or not Python 3.11 to 3.13; choose one with: make venv PYTHON=/path/to/python3.13" >&2
    exit 1
fi
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    echo "venv support is missing; install it with: sudo apt-get install python3-venv" >&2
    exit 1
fi
echo "creating $directory with $("$python" --version)" >&2
"$python" -m venv --clear "$directory"
for lock in "$@"; do
    "$directory/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --requirement "$lock" \
        >"$directory/install.log" 2>&1 || { cat "$directory/install.log" >&2; exit 1; }
done

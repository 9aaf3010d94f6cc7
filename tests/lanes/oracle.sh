#!/bin/sh
# usage: oracle.sh PYTHON DIRECTORY NAME...: one environment DIRECTORY/NAME for each tests/lanes/NAME.txt, made once.
# Oracles disagree about the versions of what they share, and none of it is a dependency of ours.
set -eu
python=$1 directory=$2
shift 2
for name in "$@"; do
    if ! cmp -s "tests/lanes/$name.txt" "$directory/$name/made"; then
        rm -rf "${directory:?}/$name"
        "$python" -m venv "$directory/$name"
        "$directory/$name/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "tests/lanes/$name.txt"
        cp "tests/lanes/$name.txt" "$directory/$name/made"
    fi
done

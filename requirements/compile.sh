#!/bin/sh
# Write every lock file anew: `make locks`. Run by the oldest Python that the project supports, so that every version chosen
# installs on all of them; no index address and no path of the machine reaches a lock.
set -eu
cd "$(dirname "$0")/.."

compile() { # compile LOCK ARGUMENT...
    lock=$1
    shift
    echo "requirements/$lock.lock" >&2
    {
        printf '# Made by `make locks` for Python 3.11 to 3.13, with hashes; edit pyproject.toml or requirements/*.in instead.\n'
        pip-compile --quiet --generate-hashes --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --no-emit-options --strip-extras \
            --no-header --resolver=backtracking --output-file=- "$@"
    } >"requirements/$lock.lock.new"
    # An extra that names another extra of this project makes pip-compile list the project itself, by its path.
    sed -i '/^# WARNING: pip install will require/,/^cloister @ /d' "requirements/$lock.lock.new"
    mv "requirements/$lock.lock.new" "requirements/$lock.lock"
}

compile dev pyproject.toml requirements/dev.in --extra simulator --extra sidecar
# One version of each distribution everywhere: the widest lock constrains all others.
constraint=$(mktemp)
trap 'rm -f "$constraint"' EXIT
sed -n 's/^\([A-Za-z0-9._-]*==[^ ]*\) .*/\1/p' requirements/dev.lock >"$constraint"

compile_within() {
    lock=$1
    shift
    compile "$lock" "$@" --constraint "$constraint"
    sed -i "/^    #   -c .*/d; s/ *# via -c [^ ]*$//; s/ *# via *$/    # via/" "requirements/$lock.lock"
}
compile_within verifier pyproject.toml
for extra in client sidecar owner simulator; do
    compile_within "$extra" pyproject.toml --extra "$extra"
done
# These two do without the verifier's dependencies: what is not installed cannot be imported.
compile_within parent requirements/parent.in
compile_within enclave requirements/enclave.in
compile build requirements/build.in --allow-unsafe
sed -i "s/^# The following packages are considered to be unsafe.*/# Also pinned:/" requirements/build.lock

#!/bin/sh
# See that tools of Debian packages are here: `tools.sh FILE-OR-COMMAND=PACKAGE...`. As root missing ones are installed; anybody else
# is told what to install.
set -eu
missing=
for pair in "$@"; do
    have=${pair%%=*}
    case $have in
    /*) [ -e "$have" ] || missing="$missing ${pair#*=}" ;;
    *) command -v "$have" >/dev/null || missing="$missing ${pair#*=}" ;;
    esac
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "missing; as root: apt-get install$missing" >&2
    exit 3
fi
echo "installing:$missing" >&2
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086
apt-get -qq -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 install --yes --no-install-recommends $missing >/dev/null 2>&1 || {
    apt-get -qq -o DPkg::Lock::Timeout=300 update
    apt-get -qq -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 install --yes --no-install-recommends $missing >/dev/null
}

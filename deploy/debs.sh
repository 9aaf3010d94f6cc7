#!/bin/sh
# Fetch and unpack Debian packages without installing any: `debs.sh DIRECTORY "SUITE ..." PACKAGE...` leaves the packages
# with all they depend on in DIRECTORY/debs, their files in DIRECTORY/root and `NAME VERSION SHA256` of each in
# DIRECTORY/packages. The first suite wins. Signatures are checked by apt against Debian's keys; no root rights are needed, nothing
# of the machine's own apt is changed, and no maintainer script runs. With DEBS_ALONE set, dependencies stay away.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mirror=$(sh "$here/mirror.sh")
directory=$1
suites=$2
shift 2
mkdir -p "$directory"
cd "$directory"
directory=$(pwd)
rm -rf apt debs root
mkdir -p apt/lists/partial apt/archives/partial debs root/usr/bin root/usr/lib root/usr/lib64 root/usr/sbin
: >apt/status
for suite in $suites; do
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >>apt/sources.list
done
apt() {
    apt-get -qq -o Dir::State="$directory/apt" -o Dir::State::lists="$directory/apt/lists" -o Dir::State::status="$directory/apt/status" \
        -o Dir::Cache="$directory/apt" -o Dir::Cache::archives="$directory/apt/archives" -o Dir::Etc::sourcelist="$directory/apt/sources.list" \
        -o Dir::Etc::sourceparts=/dev/null -o Dir::Etc::preferencesparts=/dev/null -o APT::Sandbox::User=root -o Debug::NoLocking=1 \
        -o APT::Install-Recommends=0 -o APT::Default-Release="${suites%% *}" "$@"
}
apt update
if [ -n "${DEBS_ALONE:-}" ]; then
    (cd apt/archives && apt download "$@")
else
    apt --yes --download-only -o Dpkg::Use-Pty=0 install "$@" >apt/log 2>&1 || {
        cat apt/log >&2
        exit 1
    }
fi
mv apt/archives/*.deb debs
# Debian's merged /usr, which its base-files would bring.
for link in bin lib lib64 sbin; do ln -s "usr/$link" "root/$link"; done
: >packages
for deb in debs/*.deb; do
    dpkg-deb --fsys-tarfile "$deb" | tar -x -C root --keep-directory-symlink --no-same-owner
    echo "$(dpkg-deb --field "$deb" Package) $(dpkg-deb --field "$deb" Version) $(sha256sum <"$deb" | cut -d' ' -f1)" >>packages
done
LC_ALL=C sort -o packages packages
rm -rf apt

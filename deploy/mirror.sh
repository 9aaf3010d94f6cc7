#!/bin/sh
# Print the address of the Debian archive that this machine's apt is configured with; no address stands in the project.
set -eu
mirror=$(apt-get indextargets --format '$(REPO_URI) $(ORIGIN) $(LABEL)' 'Created-By: Packages' | awk '$2 == "Debian" && $3 == "Debian" { print $1; exit }')
if [ -z "$mirror" ]; then
    echo "apt knows no Debian archive; as root: apt-get update" >&2
    exit 3
fi
echo "$mirror"

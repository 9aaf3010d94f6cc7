#!/bin/sh
# From root file system to image file: `eif.sh PYTHON IMAGE KERNEL [--write-files]` writes IMAGE/enclave.eif, its report and
# IMAGE/measurements.json; the two must agree.
set -eu
python=$1 image=$2 kernel=$3
shift 3
set -- --oci "$image/oci" --kernel "$kernel/bzImage" --init build/init/init "$@"
# The list of files belongs to the base of base.lock; where Debian has moved on and that was accepted, it cannot hold.
if [ "${BASE_MOVED:-}" != accept ] || [ ! -s build/base/moved ]; then
    set -- --files enclave.files "$@"
fi
if [ -s "$kernel/order" ]; then
    while read -r module; do
        set -- "$@" --module "$kernel/modules/$module"
    done <"$kernel/order"
fi
cloister() { # of this tree, wherever another one may be installed
    "$python" -P -c 'import sys; sys.path.insert(0, "."); from cloister.command.main import main; sys.exit(main())' "$@"
}
cloister image build "$@" --out "$image/enclave.eif" --report "$image/report.json"
cloister image measure "$image/enclave.eif" --json >"$image/measurements.json"
"$python" - "$image/report.json" "$image/measurements.json" <<'EOF'
import json
import sys

report, measured = (json.load(open(path))["pcrs"] for path in sys.argv[1:])
if report != {f"PCR{index}": value for index, value in measured.items() if value is not None}:
    sys.exit("the report and image measure disagree")
EOF

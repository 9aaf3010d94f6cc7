#!/bin/sh
# From root file system to image file: `eif.sh PYTHON IMAGE KERNEL [--write-files]` writes IMAGE/enclave.eif, its report and
# IMAGE/measurements.json. What both say of PCR0, PCR1 and PCR2 must be what registers.sh computes from the file on its own.
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
sh "$(dirname "$0")/registers.sh" "$image/enclave.eif" >"$image/registers"
"$python" - "$image/report.json" "$image/measurements.json" "$image/registers" <<'EOF'
import json
import sys

report, measured = (json.load(open(path))["pcrs"] for path in sys.argv[1:3])
computed = dict(line.split() for line in open(sys.argv[3]))
if not computed.items() <= report.items() or report != {f"PCR{index}": value for index, value in measured.items() if value is not None}:
    sys.exit("the report, image measure and registers.sh do not agree on the registers")
EOF

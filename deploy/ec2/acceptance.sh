#!/bin/sh
# make ec2-acceptance: the whole appliance on a real Nitro instance, step by step; stops at the first step that fails.
#
#   sh deploy/ec2/acceptance.sh [preflight|image|seal|boot|caller|refusals|debug ...]      (default: all, in this order)
#
# Run on the parent instance, as a user of the group `ne`, with AWS credentials whose profiles may do what docs/own.md says.
# What it needs to know comes as variables:
#   KEY_ARN ADMIN_ARN SEALER_ARN PARENT_ARN   the key and the three roles (deploy/aws)
#   ADMIN_PROFILE SEALER_PROFILE              AWS profiles for the owner's two roles
#   BLOBS                                     AWS's bzImage, cmdline, init, nsm.ko (default: where nitro-cli keeps them)
#   WORK                                      where everything is written (default: build/ec2)
# `boot` ends what it started when the script ends, and nothing else: steps that need the enclave stand behind it in one command.
# `seal` keeps the keys that are there and makes the rest anew.
# `caller` and `refusals` need only ENDPOINT VALUES CREDENTIAL CALLER_KEY MODEL TENSORS, and so run anywhere.
set -eu

WORK=${WORK:-build/ec2}
BLOBS=${BLOBS:-/usr/share/nitro_enclaves/blobs}
CLOISTER=${CLOISTER:-cloister}
PYTHON=${PYTHON:-python3}
CID=${CID:-16}
CPUS=${CPUS:-2}
MEMORY_MIB=${MEMORY_MIB:-2048}
ENDPOINT=${ENDPOINT:-tcp:127.0.0.1:8443}
VALUES=${VALUES:-$WORK/values.json}
CREDENTIAL=${CREDENTIAL:-$WORK/caller.credential}
CALLER_KEY=${CALLER_KEY:-$WORK/caller.pem}
MODEL=${MODEL:-acceptance}
TENSORS=${TENSORS:-$WORK/input.npy}
parent='' enclave='' # what this run started: a process and an enclave's id

say() { printf '%s\n' "== $*"; }
fail() { printf '%s\n' "acceptance: $*" >&2; exit 1; }
need() { for name in "$@"; do eval "[ -n \"\${$name:-}\" ]" || fail "$name is not set; see the head of deploy/ec2/acceptance.sh"; done; }

# Run a command that must end with this exit status.
expect() {
    wanted=$1
    shift
    status=0
    "$@" || status=$?
    [ "$status" -eq "$wanted" ] || fail "exit status $status instead of $wanted: $*"
}

# Run a line of Python on a JSON file: `d` is the document, `a` the argument behind it.
edit() { "$PYTHON" -c "import json, sys; d = json.load(open(sys.argv[1])); a = sys.argv[2:] and sys.argv[2]; $1" "$2" ${3:+"$3"}; }

preflight() {
    say "preflight: an instance with Nitro Enclaves"
    [ -e /dev/nitro_enclaves ] || fail "no /dev/nitro_enclaves: start an instance with enclave support and install aws-nitro-enclaves-cli"
    for tool in nitro-cli aws "$CLOISTER" make "$PYTHON"; do command -v "$tool" >/dev/null || fail "$tool is missing"; done
    need KEY_ARN ADMIN_ARN SEALER_ARN PARENT_ARN ADMIN_PROFILE SEALER_PROFILE
    aws sts get-caller-identity --query Arn --output text
}

image() {
    say "image: the root file system of make image, around AWS's kernel and init; nitro-cli must measure what we measure"
    make rootfs
    $CLOISTER image build --oci build/image/oci --blobs "$BLOBS" --out "$WORK/enclave.eif" --report "$WORK/report.json"
    $CLOISTER --json image measure "$WORK/enclave.eif" >"$WORK/measurements.json"
    nitro-cli describe-eif --eif-path "$WORK/enclave.eif" >"$WORK/described.json"
    for pcr in 0 1 2; do
        ours=$(edit 'print(d["pcrs"][a])' "$WORK/measurements.json" "$pcr")
        theirs=$(edit 'print(d["Measurements"]["PCR" + a])' "$WORK/described.json" "$pcr")
        [ "$ours" = "$theirs" ] || fail "PCR$pcr: $ours here, $theirs by nitro-cli"
    done
}

# y = x + 1 on four numbers, and one input for it.
make_model() {
    "$PYTHON" - "$WORK/model.onnx" "$TENSORS" <<'EOF'
import sys
import numpy
from onnx import TensorProto, helper, numpy_helper, save
shape = ["n", 4]
graph = helper.make_graph(
    [helper.make_node("Add", ["x", "one"], ["y"])], "shift",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)], [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    [numpy_helper.from_array(numpy.ones(4, numpy.float32), "one")],
)
save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), sys.argv[1])
numpy.save(sys.argv[2], numpy.arange(8, dtype=numpy.float32).reshape(2, 4))
EOF
}

seal() {
    say "seal: owner key, reference values, key policy, model, manifest, credential"
    mkdir -p "$WORK/feed"
    if [ ! -s "$WORK/passphrase" ]; then
        for key in owner issuer; do
            [ ! -e "$WORK/$key.pem" ] || fail "$WORK/$key.pem is there and its passphrase is not: put back $WORK/passphrase, or move the key away"
        done
        (umask 077 && head -c 24 /dev/urandom | base64 >"$WORK/passphrase")
    fi
    for key in owner issuer; do
        [ -e "$WORK/$key.pem" ] || $CLOISTER owner-key new --passphrase-file "$WORK/passphrase" "$WORK/$key.pem"
    done
    rm -f "$WORK/draft.json" "$WORK/caller.credential"
    owner=$WORK/owner.pub
    issuer=$WORK/issuer.pub
    $CLOISTER reference-values new --image "$WORK/measurements.json" --owner-key "$owner" --min-sequence 1 "$VALUES"
    $CLOISTER key-policy generate --reference-values "$VALUES" --epoch 1 \
        --admin "$ADMIN_ARN" --sealer "$SEALER_ARN" --parent "$PARENT_ARN" >"$WORK/policy.json"
    $CLOISTER key-policy lint "$WORK/policy.json" --reference-values "$VALUES" --epoch 1
    aws --profile "$ADMIN_PROFILE" kms put-key-policy --key-id "$KEY_ARN" --policy "file://$WORK/policy.json"
    make_model
    AWS_PROFILE=$SEALER_PROFILE $CLOISTER model seal "$WORK/model.onnx" --id "$MODEL" --version 1 --key-arn "$KEY_ARN" --owner-key "$owner" --out "$WORK/feed"
    $CLOISTER manifest new --deployment acceptance --key-arn "$KEY_ARN" --issuer "$issuer" "$WORK/draft.json"
    $CLOISTER manifest add "$WORK/draft.json" "$WORK/feed/$MODEL-1.json"
    $CLOISTER manifest sign --key "$WORK/owner.pem" --passphrase-file "$WORK/passphrase" --out "$WORK/feed/manifest.cose" "$WORK/draft.json"
    [ -e "$CALLER_KEY" ] || $CLOISTER caller-key new "$CALLER_KEY"
    $CLOISTER credential issue --issuer-key "$WORK/issuer.pem" --passphrase-file "$WORK/passphrase" --issuer acceptance \
        --subject acceptance --caller-key "${CALLER_KEY%.pem}.pub" --deployment acceptance --model "$MODEL" "$CREDENTIAL"
}

parent_config() {
    region=$(printf '%s' "$KEY_ARN" | cut -d: -f4)
    cat <<EOF
[enclave]
session = "vsock:$CID:7000"
cid = $CID
[listen]
sessions = ["$ENDPOINT"]
feed = "vsock:3:7001"
status = "vsock:3:7002"
credentials = "vsock:3:7003"
[feed]
directory = "$WORK/feed"
[credentials]
source = "imds"
[[egress]]
listen = "vsock:3:7010"
to = "kms.$region.amazonaws.com:443"
EOF
}

# Only the enclave that this run started is ever terminated, by its id.
run_enclave() {
    nitro-cli run-enclave "$@" --enclave-name cloister --cpu-count "$CPUS" --memory "$MEMORY_MIB" --enclave-cid "$CID" \
        --eif-path "$WORK/enclave.eif" >"$WORK/run.json"
    enclave=$(edit 'print(d["EnclaveID"])' "$WORK/run.json")
}

terminate_enclave() {
    ending=$enclave
    enclave=
    nitro-cli terminate-enclave --enclave-id "$ending" >/dev/null
}

clean() {
    [ -z "$enclave" ] || terminate_enclave || true
    # The number of one that has ended may be a stranger's by now; a child of this shell is none.
    if [ -n "$parent" ] && grep -qs "^PPid:[[:space:]]*$$\$" "/proc/$parent/status"; then
        kill "$parent"
    fi
}

boot() {
    say "boot: the parent, then the enclave; ends when the log says SERVING"
    parent_config >"$WORK/parent.toml"
    : >"$WORK/parent.log"
    "$PYTHON" -P -m parent --config "$WORK/parent.toml" >>"$WORK/parent.log" 2>&1 &
    parent=$!
    trap clean EXIT
    trap 'exit 130' INT TERM
    run_enclave
    waited=0
    until grep -q "SERVING" "$WORK/parent.log"; do
        grep "boot_failure=" "$WORK/parent.log" && fail "the boot stopped; docs/operate.md explains the code"
        waited=$((waited + 1))
        [ "$waited" -lt 180 ] || fail "not serving after 180 s; see $WORK/parent.log"
        sleep 1
    done
}

caller() {
    say "caller: fresh evidence, appraised against the reference values, then one sealed request"
    $CLOISTER attestation fetch "$ENDPOINT" --reference-values "$VALUES" --out "$WORK/evidence.bin"
    $CLOISTER infer "$ENDPOINT" "$MODEL" "$TENSORS" --reference-values "$VALUES" --credential "$CREDENTIAL" --key "$CALLER_KEY"
}

refusals() {
    say "refusals: other reference values are refused, and so is a caller without credential"
    edit 'd["measurements"][0]["pcr0"] = d["measurements"][0]["pcr0"][::-1]; print(json.dumps(d))' "$VALUES" >"$WORK/other-values.json"
    expect 1 $CLOISTER attestation fetch "$ENDPOINT" --reference-values "$WORK/other-values.json"
    expect 1 $CLOISTER infer "$ENDPOINT" "$MODEL" "$TENSORS" --reference-values "$WORK/other-values.json" --credential "$CREDENTIAL" --key "$CALLER_KEY"
    expect 1 $CLOISTER infer "$ENDPOINT" "$MODEL" "$TENSORS" --reference-values "$VALUES"
}

# A debug enclave has zero PCRs: KMS must not give it the key.
debug() {
    say "debug: the same image in debug mode must not boot to SERVING"
    [ -n "$enclave" ] || fail "debug stands behind boot, whose parent and place it takes"
    terminate_enclave
    : >"$WORK/parent.log"
    run_enclave --debug-mode
    waited=0
    until grep -q "boot_failure=KMS_REFUSED" "$WORK/parent.log"; do
        grep -q "SERVING" "$WORK/parent.log" && fail "a debug enclave serves: the key policy has a hole"
        waited=$((waited + 1))
        [ "$waited" -lt 180 ] || fail "no refusal after 180 s; see $WORK/parent.log"
        sleep 1
    done
}

mkdir -p "$WORK"
[ $# -gt 0 ] || set -- preflight image seal boot caller refusals debug
for step in "$@"; do
    case $step in
    preflight | image | seal | boot | caller | refusals | debug) "$step" ;;
    *) fail "no such step: $step" ;;
    esac
done
say "accepted: $*"

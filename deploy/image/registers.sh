#!/bin/sh
# What Nitro measures of an enclave image, by coreutils alone: `registers.sh FILE` prints PCR0, PCR1 and PCR2. A second reading
# of the format beside attestation/eif.py, with which it shares nothing. It trusts the file to be well-formed; the other does not.
#
# Header: 4 bytes magic, u16 version, u16 flags, u64 memory, u64 CPUs, u16 reserved, u16 number of sections, 32 x u64 offsets,
# 32 x u64 sizes, u32, u32 CRC; big-endian. Before each section's data: u16 type, u16 flags, u64 size.
set -eu
file=$1
kernel=1 cmdline=2 ramdisk=3

number() { od -An -v --endian=big -t "u$2" -j "$1" -N "$2" "$file" | tr -d ' '; } # OFFSET BYTES
data() { tail -c "+$(($1 + 13))" "$file" | head -c "$2"; }                         # OFFSET SIZE
sha384() { sha384sum | cut -c1-96; }

[ "$(head -c 4 "$file")" = .eif ] || {
    echo "$file: no enclave image" >&2
    exit 1
}
count=$(number 26 2)

# The data that a register measures, in file order: PCR0 all, PCR1 as far as the first ramdisk, PCR2 the ramdisks after it.
measured() {
    ramdisks=0
    index=0
    while [ "$index" -lt "$count" ]; do
        offset=$(number $((28 + 8 * index)) 8)
        size=$(number $((284 + 8 * index)) 8)
        type=$(number "$offset" 2)
        index=$((index + 1))
        moves=
        case $type in
        "$kernel" | "$cmdline") moves=01 ;;
        "$ramdisk")
            ramdisks=$((ramdisks + 1))
            moves=02
            [ "$ramdisks" -gt 1 ] || moves=01
            ;;
        esac
        case $moves in *"$1"*) data "$offset" "$size" ;; esac
    done
}

for register in 0 1 2; do
    digest=$(measured "$register" | sha384)
    value=$({ head -c 48 /dev/zero && printf '%s' "$digest" | tr a-f A-F | basenc --base16 -d; } | sha384)
    echo "PCR$register $value"
done

#!/usr/bin/env bash
# For owners of a part that Orrery has no measured table of: builds, checks, calibrates and packs one file to
# send. docs/calibration_kit.md says what is needed, what it does to the machine and what the file holds.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

budget=30m
device=0
out=out/calibration_kit
binary=${ORRERY_BINARY:-}

usage() {
  cat <<'TEXT'
tools/calibration_kit.sh [--budget 30m] [--device N] [--out DIR]
  --budget   time for measuring, after building and checking; 8m gives a coarse table, 60m a fine one
  --device   which GPU, from 0, in the driver's order
  --out      where everything goes; a second call with the same DIR goes on where the first one stopped
Environment: ORRERY_BINARY=PATH use this orrery instead of building one
TEXT
}
die() { printf 'calibration kit: %s\n' "$*" >&2; exit 2; }
say() { printf '\n== %s\n' "$*" >&2; }

while [ $# -gt 0 ]; do
  case "$1" in
    --budget|--device|--out)
      [ $# -ge 2 ] || die "$1 needs a value"
      declare "${1#--}=$2"; shift 2 ;;
    -h|--help) usage; exit 0 ;;
    *) usage >&2; die "unknown option: $1" ;;
  esac
done

if [ -z "$binary" ]; then
  command -v nvcc >/dev/null || [ -x /usr/local/cuda/bin/nvcc ] ||
    die "nvcc was not found: install the CUDA toolkit (12.8 or newer) or set PATH. AMD parts: see docs/calibration_kit.md"
  say "building"
  PATH=$PATH:/usr/local/cuda/bin ./dev build
  binary=build/release/orrery
fi
[ -x "$binary" ] || die "there is no program at $binary"
mkdir -p "$out"

# A check of the same build and device need not be repeated when a session goes on.
say "checking every kernel against its double-precision reference"
status=0
"$binary" calibrate --check --device "$device" --out "$out" || status=$?
case $status in
  0) ;;
  6) printf "calibration kit: no GPU can be used (see above)\n" >&2; exit 6 ;;
  7) die "kernels gave wrong results: please send $out/check.log instead; times of wrong results are no prices" ;;
  *) exit "$status" ;;
esac

say "measuring for $budget; Ctrl-C keeps what is there, and a second call goes on"
status=0
resume=()
[ ! -s "$out/journal.jsonl" ] || resume=(--resume)
"$binary" calibrate --device "$device" --out "$out" --budget "$budget" ${resume[@]+"${resume[@]}"} || status=$?
[ $status = 0 ] || [ $status = 130 ] || exit "$status"

hardware=$(sed -n '1s/.*"hardware":"\([a-z0-9.-]*\)".*/\1/p' "$out/journal.jsonl")
file=$out/${hardware:-unknown}.orrery.json
"$binary" calibrate --pack "$file" --out "$out"
# What we would find wrong with it is better found here.
"$binary" --quiet import calibration "$file" --to "$out/rehearsal"
printf '\nDone: %s\nSend this file; it is read with: orrery import calibration %s\n' "$file" "$(basename "$file")"

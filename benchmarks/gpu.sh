#!/usr/bin/env bash
# What of the estimator's benchmarks needs a GPU, in at most 8 minutes: bash benchmarks/gpu.sh [PART ...]
#   parts: controls noise large scale, all where none is named; each has a limit, and what it printed by then is kept
# Tables go to $OUT, or to output/gpu. With COMFYUI_PATH set, PYTHON (python3) starts the scripts in that host; without it,
# quickstart.py does.
set -u -o pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=${OUT:-output/gpu}
mkdir -p "$out"
start=("${PYTHON:-python3}")
[ -n "${COMFYUI_PATH:-}" ] || start+=(quickstart.py --run)

part() { # name, seconds, script and arguments
    local name=$1 limit=$2 began=$SECONDS
    shift 2
    timeout "$limit" "${start[@]}" "$@" 2>"$out/$name.log" | tee "$out/$name.md"
    echo "$name: exit $? after $((SECONDS - began)) s"
}

parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(controls noise large scale)
for name in "${parts[@]}"; do
    case $name in
    controls) part controls 130 benchmarks/controls.py positive negative two --sizes 65536 262144 --images 8 ;;
    noise) part noise 110 benchmarks/noise.py ;;
    large) part large 120 benchmarks/large.py --samples 250 --batch 125 ;;
    scale) part scale 120 benchmarks/scale.py --steps 8 24 --samples 250 --batch 250 --file "$out/scale.jsonl" ;;
    *) echo "$name is no part; there are controls, noise, large and scale." && exit 2 ;;
    esac
done

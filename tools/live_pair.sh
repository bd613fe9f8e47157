#!/bin/bash
# The runs of reports/results/live_h200_pair.md, on a machine with two GPUs: live_pair.sh BINARIES SCENARIOS OUT.
# Every run has its own time-out and what there is is packed whatever happens: OUT/live_2gpu.tar.xz.
# RUNS: names of some of the runs; empty: all. LIMIT: seconds for all of it.
set -u
bin=$1 scenarios=$2 out=$3 begin=$SECONDS
work=$(mktemp -d)
pack() { tar -C "$work" -cf - results | xz -T0 -3 > "$out/live_2gpu.tar.xz"; }
trap pack EXIT
mkdir -p "$work/results"
cd "$work/results" || exit
export CUDA_MODULE_LOADING=EAGER
part=h200
nvidia-smi -L | grep -q H200 || part=h100
{ date -u; nvidia-smi; nvidia-smi topo -m; } > machine.txt 2>&1
watch_clocks() {  # of both GPUs, twice a second, while a run goes on
  nvidia-smi --query-gpu=index,clocks.sm,power.draw --format=csv,noheader -lms 500 > "$1.clocks.csv" & echo $!
}
run() {  # NAME SECONDS COMMAND…
  local name=$1 limit=$2
  shift 2
  case " ${RUNS:-$name} " in *" $name "*) ;; *) return ;; esac
  [ $((SECONDS - begin + limit)) -le "${LIMIT:-500}" ] || { echo "$name: no time left" | tee -a runs.txt; return; }
  local from=$SECONDS watcher
  watcher=$(watch_clocks "$name")
  timeout -k 5 "$limit" "$@" > "$name.log" 2>&1
  echo "$name: exit $?, $((SECONDS - from)) s" | tee -a runs.txt
  kill "$watcher"
  tail -n 14 "$name.log"
}
live() {  # NAME SECONDS SCENARIO OPTIONS…
  local name=$1 limit=$2 scenario=$3
  shift 3
  sed "s/hardware: h200/hardware: $part/" "$scenarios/$scenario.yaml" > "$name.yaml"
  run "$name" "$limit" "$bin/orrery" live "$name.yaml" --intervals 16 --out "$name" --tape "$name.tape" "$@"
  rm -f "$name/comparison.html"
}
run check 90 "$bin/orrery-forward-check"
live tp2_qwen3-8b_nccl 70 tp2_qwen3-8b
live pd_whole_qwen3-8b 70 pd_whole_qwen3-8b
live tp2_qwen3-8b_own 70 tp2_qwen3-8b --own-all-reduce
live pd_layerwise_qwen3-8b 70 pd_layerwise_qwen3-8b
live tp2_qwen3-32b_nccl 90 tp2_qwen3-32b
live tp2_qwen3-30b-a3b-fp8_nccl 90 tp2_qwen3-30b-a3b-fp8
live tp2_qwen3-8b_nccl_measured 60 tp2_qwen3-8b --clock virtual
live pd_whole_qwen3-8b_measured 60 pd_whole_qwen3-8b --clock virtual
live pd_layerwise_qwen3-8b_measured 60 pd_layerwise_qwen3-8b --clock virtual
live tp2_qwen3-32b_own 90 tp2_qwen3-32b --own-all-reduce
live tp2_qwen3-30b-a3b-fp8_own 90 tp2_qwen3-30b-a3b-fp8 --own-all-reduce

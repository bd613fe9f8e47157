#!/bin/bash
# drive.sh MODEL(8b|0.6b) WARM_S WORK_S: server, warm-up, three workloads; everything to $R.
M=$1; R=/tmp/res/$M; mkdir -p $R /tmp/steplog/$M; cd $R
export ORRERY_DATA_DIR=$REPO LD_LIBRARY_PATH=/tmp/nine/lib:$LD_LIBRARY_PATH; O=/tmp/nine/bin/orrery; S=/tmp/nine/run
HW=h200; nvidia-smi -L | grep -q H100 && HW=h100
nvidia-smi > nvidia-smi.txt; lscpu | head -20 > cpu.txt; echo $HW > card.txt
nvidia-smi --query-gpu=timestamp,clocks.sm,clocks.mem,power.draw,temperature.gpu,clocks_throttle_reasons.active --format=csv -lms 500 > clocks.csv & CL=$!
date +%s.%N > begun.txt
args="--model /tmp/nine/models/qwen3-$M --served-model-name qwen3-$M --load-format dummy --generation-config vllm --port 8000"
if [ -n "$MOCK" ]; then
  $O live $S/poisson_$M.yaml --serve --port 8000 --set deployment.hardware=$HW > server.log 2>&1 & SV=$!
else
  PYTHONPATH=/tmp/nine/site VLLM_USE_FLASHINFER_SAMPLER=0 HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 VLLM_SERVER_DEV_MODE=1 ORRERY_STEP_LOG=/tmp/steplog/$M \
  setsid python3 -m vllm.entrypoints.openai.api_server $args > server.log 2>&1 & SV=$!
fi
echo "python3 -m vllm.entrypoints.openai.api_server $args" > server_args.txt
for i in $(seq 300); do python3 $S/get.py http://127.0.0.1:8000/health >/dev/null && break; kill -0 $SV 2>/dev/null || { tail -40 server.log; break; }; sleep 0.5; done
date +%s.%N > ready.txt; echo "$M up after $(python3 -c "print(round($(cat ready.txt)-$(cat begun.txt),1))") s"
python3 $S/get.py http://127.0.0.1:8000/v1/models | head -c 300; echo
python3 $S/get.py http://127.0.0.1:8000/v1/completions "{\"model\":\"qwen3-$M\",\"prompt\":[5000,6000,7000],\"max_tokens\":4,\"min_tokens\":4,\"ignore_eos\":true,\"temperature\":0,\"stream\":true,\"stream_options\":{\"include_usage\":true}}" > sample_stream.txt; head -c 700 sample_stream.txt
timeout ${2:-40} $O live $S/warm_$M.yaml --endpoint http://127.0.0.1:8000 --set deployment.hardware=$HW --intervals off --out $R/warm 2>&1 | tail -5
timeout 20 $O live $S/warm2_$M.yaml --endpoint http://127.0.0.1:8000 --set deployment.hardware=$HW --intervals off --out $R/warm2 2>&1 | tail -3
for w in poisson closed mooncake; do
  python3 $S/get.py http://127.0.0.1:8000/reset_prefix_cache ""; sleep 2
  python3 $S/get.py http://127.0.0.1:8000/metrics > metrics_before_$w.txt; date +%s.%N > $w.begun
  timeout ${3:-110} $O live $S/${w}_$M.yaml --endpoint http://127.0.0.1:8000 --set deployment.hardware=$HW $EXTRA --out $R/$w 2>&1 | tail -30
  date +%s.%N > $w.ended; python3 $S/get.py http://127.0.0.1:8000/metrics > metrics_after_$w.txt
done
kill -TERM $SV; for i in $(seq 40); do kill -0 $SV 2>/dev/null || break; sleep 0.5; done; kill -KILL -- -$SV 2>/dev/null; kill $CL; sleep 1
grep -iE "GPU KV cache size|Maximum concurrency|num_gpu_blocks|compil|Graph captur|attention backend|init engine" server.log | head -20
tail -3 server.log; nvidia-smi --query-gpu=memory.used --format=csv | tail -1

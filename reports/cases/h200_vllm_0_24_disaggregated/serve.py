"""One vLLM engine behind a ZMQ socket: requests in, one message per stream event out (times on the machine's monotonic clock)."""
import asyncio, json, os, pickle, sys, time
import zmq, zmq.asyncio
cfg = json.loads(sys.argv[1])
out = os.environ["PROBE_DIR"]
os.makedirs(out, exist_ok=True)
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.v1.engine.async_llm import AsyncLLM
from vllm import SamplingParams
from vllm.usage.usage_lib import UsageContext
from vllm.sampling_params import RequestOutputKind
from vllm.inputs import TokensPrompt

async def main():
    T0 = time.monotonic()
    ek = dict(load_format="dummy", skip_tokenizer_init=True, disable_log_stats=False, enable_prefix_caching=True)
    ek.update(cfg["engine"])
    eng = AsyncLLM.from_engine_args(AsyncEngineArgs(**ek), usage_context=UsageContext.OPENAI_API_SERVER)
    vc = eng.vllm_config
    info = dict(engine=ek, init_s=time.monotonic() - T0, num_gpu_blocks=vc.cache_config.num_gpu_blocks, block_size=vc.cache_config.block_size,
        max_num_batched_tokens=vc.scheduler_config.max_num_batched_tokens, max_num_seqs=vc.scheduler_config.max_num_seqs,
        async_scheduling=vc.scheduler_config.async_scheduling, cudagraph_sizes=vc.compilation_config.cudagraph_capture_sizes,
        cudagraph_mode=str(vc.compilation_config.cudagraph_mode), max_model_len=vc.model_config.max_model_len, gpu_mem_util=vc.cache_config.gpu_memory_utilization)
    json.dump(info, open(out + "/info.json", "w"), default=str, indent=1)
    sock = zmq.asyncio.Context().socket(zmq.PAIR); sock.set_hwm(0)
    sock.connect(cfg["socket"])
    await sock.send(pickle.dumps(("ready", info)))
    async def one(rid, toks, n, kv):
        sp = SamplingParams(max_tokens=n, min_tokens=n, ignore_eos=True, temperature=0.0, detokenize=False, output_kind=RequestOutputKind.DELTA,
                            extra_args={"kv_transfer_params": kv} if kv else None)
        t0 = time.monotonic(); stamps = []; counts = []; back = None; cached = None; st = "ok"
        try:
            async for o in eng.generate(TokensPrompt(prompt_token_ids=toks), sp, rid):
                stamps.append(time.monotonic()); counts.append(len(o.outputs[0].token_ids))
                if cached is None: cached = o.num_cached_tokens
                if o.kv_transfer_params: back = o.kv_transfer_params
        except Exception as e:
            st = f"{type(e).__name__}: {e}"
        await sock.send(pickle.dumps(("end", rid, t0, stamps, counts, back, cached, st)))
    tasks = set()
    while True:
        m = pickle.loads(await sock.recv())
        if m[0] == "stop": break
        if m[0] == "reset":
            ok = await eng.reset_prefix_cache(); await sock.send(pickle.dumps(("reset", ok))); continue
        t = asyncio.create_task(one(*m[1:])); tasks.add(t); t.add_done_callback(tasks.discard)
    await asyncio.sleep(1.5)
    eng.shutdown()
asyncio.run(main())

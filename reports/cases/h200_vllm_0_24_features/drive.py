"""Drive a real vLLM engine through defined experiments; write one JSON line per request."""
import argparse, asyncio, gzip, json, os, random, sys, time
import numpy as np
ap = argparse.ArgumentParser()
ap.add_argument("--model"); ap.add_argument("--out"); ap.add_argument("--exps"); ap.add_argument("--engine", default="{}")
ap.add_argument("--deadline", type=float, default=540)
a = ap.parse_args()
T0 = time.monotonic()
os.environ["PROBE_DIR"] = a.out
os.makedirs(a.out, exist_ok=True)
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.v1.engine.async_llm import AsyncLLM
from vllm import SamplingParams
from vllm.usage.usage_lib import UsageContext
from vllm.sampling_params import RequestOutputKind
from vllm.inputs import TokensPrompt

CFG = json.load(open(a.model + "/config.json"))
VOC = CFG.get("vocab_size") or CFG.get("text_config", {}).get("vocab_size", 32000)
if "text_config" in CFG: VOC = min(VOC, CFG.get("image_token_id", VOC)) - 100
_img = {}
def image(w, h, seed):
    from PIL import Image
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8))
def toks(seed, n):
    return np.random.default_rng(seed).integers(1000, VOC - 2000, n, dtype=np.int64).tolist()
_blk = {}
def prompt(r):
    if "hash" in r:
        out = []
        for h in r["hash"]:
            if h not in _blk: _blk[h] = toks(7_000_000 + h, 512)
            out += _blk[h]
        return out[: r["in"]]
    return toks(r["seed"], r["in"])

async def one(eng, name, i, r, t0, sem, res, slow=False):
    p = prompt(r); pics = r.get("images")
    if pics:   # text · begin, placeholder, end of each image · text; "in" counts the text, begin and end
        p = p[: r["in"] - 2 * len(pics)]; h = min(r.get("position", 16), len(p))
        for _ in pics: p = p[:h] + [CFG["vision_start_token_id"], CFG["image_token_id"], CFG["vision_end_token_id"]] + p[h:]
    if sem is None:
        d = t0 + r["t"] - time.monotonic()
        if d > 0: await asyncio.sleep(d)
    else: await sem.acquire()
    ts = time.monotonic(); stamps = []; counts = []; cached = None
    sp = SamplingParams(max_tokens=r["out"], min_tokens=r["out"], ignore_eos=True, temperature=0.0, detokenize=False, output_kind=RequestOutputKind.DELTA)
    try:
        tp = TokensPrompt(prompt_token_ids=p)
        if pics: tp["multi_modal_data"] = {"image": [_img[(r["seed"], j)] for j in range(len(pics))]}
        async for o in eng.generate(tp, sp, f"{name}-{i}"):
            if not stamps and pics: p = list(o.prompt_token_ids)
            stamps.append(time.monotonic() - ts); counts.append(len(o.outputs[0].token_ids))
            if cached is None: cached = o.num_cached_tokens
        st = "ok"
    except Exception as e:
        st = f"{type(e).__name__}: {e}"
    if sem is not None: sem.release()
    d = np.diff(np.array(stamps)) * 1e6 if len(stamps) > 1 else np.array([])
    res.append({"exp": name, "i": i, "t": r.get("t"), "sub": round(ts - t0, 6), "in": len(p), **({"text": r["in"], "images": pics} if pics else {}), "out": r["out"], "got": int(sum(counts)), "cached": cached,
                "ttft": round(stamps[0], 6) if stamps else None, "e2e": round(stamps[-1], 6) if stamps else None, "itl_us": [int(x) for x in d], "n": counts if max(counts or [1]) > 1 else 1, "st": st})

async def main():
    ek = dict(model=a.model, load_format="dummy", skip_tokenizer_init=True, disable_log_stats=False, enable_prefix_caching=True)
    ek.update(json.loads(a.engine))
    eng = AsyncLLM.from_engine_args(AsyncEngineArgs(**ek), usage_context=UsageContext.OPENAI_API_SERVER)
    vc = eng.vllm_config
    def safe(f):
        try: return f()
        except Exception as e: return str(e)
    info = dict(engine=ek, init_s=time.monotonic() - T0, num_gpu_blocks=safe(lambda: vc.cache_config.num_gpu_blocks), block_size=safe(lambda: vc.cache_config.block_size),
        max_num_batched_tokens=vc.scheduler_config.max_num_batched_tokens, max_num_seqs=vc.scheduler_config.max_num_seqs,
        async_scheduling=safe(lambda: vc.scheduler_config.async_scheduling), cudagraph_sizes=safe(lambda: vc.compilation_config.cudagraph_capture_sizes),
        cudagraph_mode=safe(lambda: str(vc.compilation_config.cudagraph_mode)), max_model_len=vc.model_config.max_model_len, gpu_mem_util=vc.cache_config.gpu_memory_utilization,
        long_prefill=safe(lambda: vc.scheduler_config.long_prefill_token_threshold), max_partial=safe(lambda: vc.scheduler_config.max_num_partial_prefills))
    json.dump(info, open(a.out + "/info.json", "w"), default=str, indent=1); print("INFO", json.dumps(info, default=str), flush=True)
    out = gzip.open(a.out + "/requests.jsonl.gz", "at")
    exps = json.load(gzip.open(a.exps) if a.exps.endswith("gz") else open(a.exps))
    # warm up
    res = []
    if "vision_config" in CFG and not ek.get("language_model_only"):
        for j, wh in enumerate([[640, 480], [1280, 720], [1920, 1080]]):
            _img[(50 + j, 0)] = image(*wh, j)
            await one(eng, "warm", 100 + j, {"t": 0, "in": 64, "out": 8, "seed": 50 + j, "images": [wh]}, time.monotonic(), None, res)
        print("WARM", [(r["st"], r["in"], r["ttft"]) for r in res], flush=True); res = []
    await asyncio.gather(*[one(eng, "warm", i, {"t": 0, "in": 700 + 50 * i, "out": 24, "seed": 99 + i}, time.monotonic(), None, res) for i in range(24)])
    for e in exps:
        left = a.deadline - (time.monotonic() - T0)
        if e.get("need", 10) > left: print("SKIP", e["name"], "left", left, flush=True); continue
        if e.get("sleep"): await asyncio.sleep(e["sleep"])
        await eng.reset_prefix_cache()
        res = []; sem = asyncio.Semaphore(e["conc"]) if "conc" in e else None
        for i, r in enumerate(e["reqs"]):   # pre-build shared blocks
            if "hash" in r: prompt(r)
            for j, (w, h) in enumerate(r.get("images", [])): _img[(r["seed"], j)] = image(w, h, 31 * r["seed"] + j)
        t0 = time.monotonic() + 0.3; w0 = t0
        if e.get("serial"):
            for i, r in enumerate(e["reqs"]): await one(eng, e["name"], i, {**r, "t": 0}, time.monotonic(), None, res)
        else: await asyncio.gather(*[one(eng, e["name"], i, r, t0, sem, res) for i, r in enumerate(e["reqs"])])
        el = time.monotonic() - t0
        ok = [r for r in res if r["st"] == "ok"]
        tt = sorted(r["ttft"] for r in ok); tp = sorted((r["e2e"] - r["ttft"]) / max(1, r["got"] - 1) for r in ok if r["got"] > 1)
        q = lambda v, p: round(v[min(len(v) - 1, int(p * len(v)))] * 1e3, 2) if v else None
        print(f"EXP {e['name']:28s} n={len(res)} ok={len(ok)} el={el:.2f}s out_tok/s={sum(r['got'] for r in ok)/el:.0f} ttft p50={q(tt,.5)} p99={q(tt,.99)} tpot p50={q(tp,.5)} p99={q(tp,.99)} cached={sum((r['cached'] or 0) for r in ok)}", flush=True)
        out.write(json.dumps({"exp": e["name"], "t0_monotonic": t0, "elapsed": el, "conc": e.get("conc")}) + "\n")
        for r in sorted(res, key=lambda r: r["i"]): out.write(json.dumps(r, separators=(",", ":")) + "\n")
        out.flush()
    out.close()
    await asyncio.sleep(1.0)
    eng.shutdown()
if __name__ == "__main__": asyncio.run(main())   # some models spawn their engine

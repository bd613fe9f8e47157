"""Kernel-by-kernel profile of real vLLM steps. profile_steps.py MODEL OUT.json.gz DEADLINE_S CASES"""
import gzip, json, os, sys, time
T0 = time.monotonic()
model, out, deadline, cases = sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4]
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ["PROBE_DIR"] = "/tmp/probe_" + os.path.basename(model)
import numpy as np, torch
from torch.profiler import profile, ProfilerActivity
from vllm import LLM, SamplingParams
from vllm.inputs import TokensPrompt
llm = LLM(model=model, load_format="dummy", skip_tokenizer_init=True, max_num_batched_tokens=8192, max_num_seqs=1024,
          gpu_memory_utilization=0.90, enable_prefix_caching=False, async_scheduling=False)
eng = llm.llm_engine
V = json.load(open(model + "/config.json"))["vocab_size"]
print("READY", time.monotonic() - T0, torch.cuda.get_device_name(), flush=True)
rng = np.random.default_rng(1)
n_req = [0]
def add(tokens, out_tokens):
    n_req[0] += 1
    sp = SamplingParams(max_tokens=out_tokens, min_tokens=out_tokens, ignore_eos=True, temperature=0.0, detokenize=False)
    eng.add_request(str(n_req[0]), TokensPrompt(prompt_token_ids=rng.integers(1000, V - 2000, tokens).tolist()), sp)
    return str(n_req[0])
def drain():
    while eng.has_unfinished_requests(): eng.step()
results = {"device": torch.cuda.get_device_name(), "init_s": time.monotonic() - T0, "cases": []}
def kernels_of(prof):
    ev = []
    for e in prof.events():
        if e.device_type == torch.autograd.DeviceType.CUDA and not e.name.startswith("ProfilerStep"):
            ev.append((e.time_range.start, e.time_range.end, e.name[:150]))
    ev.sort()
    return ev
def steps_timed(n):
    r = []
    for _ in range(n):
        e0 = torch.cuda.Event(enable_timing=True); e1 = torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize(); e0.record(); eng.step(); e1.record(); torch.cuda.synchronize(); r.append(e0.elapsed_time(e1) * 1e3)
    return r
def prof_step(n=1):
    with profile(activities=[ProfilerActivity.CUDA]) as p:
        for _ in range(n): eng.step()
        torch.cuda.synchronize()
    return kernels_of(p)
def save():
    with gzip.open(out, "wt") as f: json.dump(results, f)
add(64, 4); drain()
for c in cases.split(","):
    if time.monotonic() - T0 > deadline: print("SKIP", c); continue
    kind, a, b = c.split(":"); a, b = int(a), int(b)
    t = time.monotonic()
    if kind == "d":   # decode batch a, context b
        ids = [add(b, 64) for _ in range(a)]
        total = 0
        while total < a * b: total += 8192; eng.step()
        for _ in range(6): eng.step()
        timed = steps_timed(8)
        ev = prof_step(3)
        eng.abort_request(ids); drain()
    elif kind == "p":  # one prompt of a tokens
        add(a, 1); drain(); add(a, 1); timed = steps_timed(1); drain()
        add(a, 1); ev = prof_step(1); drain()
    elif kind == "m":  # a decodes at 1024 with a prompt of b
        ids = [add(1024, 64) for _ in range(a)]
        total = 0
        while total < a * 1024: total += 8192; eng.step()
        for _ in range(4): eng.step()
        ids.append(add(b, 8)); timed = steps_timed(1); eng.step(); ids.append(add(b, 8)); ev = prof_step(1)
        eng.abort_request(ids); drain()
    results["cases"].append({"case": c, "timed_us": timed, "events": ev})
    print("CASE", c, "timed", [round(x) for x in timed][:8], "kernels", len(ev), "sum", round(sum(e[1] - e[0] for e in ev)), "took", round(time.monotonic() - t, 1), flush=True)
    save()
save()

"""Kernels of vLLM 0.24.0, timed alone on one GPU: FlashAttention-3 with heads of 256, Gemma's norms, the chunked scan of gated
delta nets, and what lies between the nodes of a CUDA graph. Each section writes rows as it goes; a section that fails says so.

  PYTHONPATH=SITE OUT=folder python3 kernels.py [section ...]
"""
import collections, json, os, statistics, subprocess, sys, time, traceback
import torch

OUT = os.environ.get("OUT", ".")
DEV = "cuda"
BF = torch.bfloat16
rows = open(f"{OUT}/rows.jsonl", "a")
T0 = time.time()


def put(**row):
    rows.write(json.dumps(row) + "\n")
    rows.flush()


def say(*a):
    print(f"[{time.time() - T0:6.1f}]", *a, flush=True)


def clock():
    q = "name,driver_version,clocks.sm,clocks.mem,power.draw,temperature.gpu"
    return subprocess.run(["nvidia-smi", f"--query-gpu={q}", "--format=csv,noheader"], capture_output=True, text=True).stdout.strip()


def graph_us(calls, least_us=4000.0, rounds=7):
    """Median time of one call, the calls replayed one after another in a CUDA graph (their gaps included)."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for c in calls[:2]:
            c()
    torch.cuda.synchronize()
    g = torch.cuda.CUDAGraph()
    with torch.cuda.graph(g):
        for c in calls:
            c()
    g.replay()
    a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    a.record(); g.replay(); b.record(); torch.cuda.synchronize()
    n = max(1, min(60, int(least_us / max(1.0, a.elapsed_time(b) * 1000))))
    out = []
    for _ in range(rounds):
        a.record()
        for _ in range(n):
            g.replay()
        b.record(); torch.cuda.synchronize()
        out.append(a.elapsed_time(b) * 1000 / n / len(calls))
    del g
    return statistics.median(out)


def cuda_events(p):
    """(start, duration, name) of kernels and copies, ns, in order."""
    try:
        ev = [(e.start_ns(), e.duration_ns(), e.name()) for e in p.profiler.kineto_results.events() if "CUDA" in str(e.device_type())]
    except Exception:
        ev = [(int(e.time_range.start * 1000), int(e.time_range.elapsed_us() * 1000), e.name) for e in p.events() if "CUDA" in str(e.device_type)]
    return sorted(ev)


def profile(fn, times=5):
    """Median duration of each kernel of one call, by name, in order of first appearance; µs."""
    from torch.profiler import profile as prof, ProfilerActivity
    fn(); torch.cuda.synchronize()
    with prof(activities=[ProfilerActivity.CUDA]) as p:
        for _ in range(times):
            fn()
        torch.cuda.synchronize()
    by = collections.OrderedDict()
    for _, ns, name in cuda_events(p):
        by.setdefault(name, []).append(ns / 1000)
    return [[n[:200], len(v) / times, round(statistics.median(v), 3)] for n, v in by.items()]


def gaps_of(g, times=3):
    """Kernels of a replayed graph: (name, start, duration)."""
    from torch.profiler import profile as prof, ProfilerActivity
    g.replay(); torch.cuda.synchronize()
    with prof(activities=[ProfilerActivity.CUDA]) as p:
        for _ in range(times):
            g.replay(); torch.cuda.synchronize()
    return cuda_events(p)


# ---------------------------------------------------------------- attention
def attention_inputs(seqs, keys, kvh, d, copies, page=16):
    per = (keys + page - 1) // page
    total = seqs * per
    caches = [(torch.randn(total, page, kvh, d, device=DEV, dtype=BF), torch.randn(total, page, kvh, d, device=DEV, dtype=BF)) for _ in range(copies)]
    table = torch.randperm(total, device=DEV, dtype=torch.int32).view(seqs, per)
    return caches, table


def attention(heads, kvh, d, window, seqs, new, context, aot, split, prof=False, tag="", lens=None):
    """new: tokens of each sequence (lens: a list instead); context: keys before them."""
    from vllm.vllm_flash_attn import flash_attn_varlen_func, get_scheduler_metadata
    q_lens = lens or [new] * seqs
    ctx = context if isinstance(context, list) else [context] * len(q_lens)
    seqs = len(q_lens)
    k_lens = [a + b for a, b in zip(q_lens, ctx)]
    most = max(k_lens)
    size = seqs * most * 2 * kvh * d * 2
    if size > 20e9:
        return None
    copies = int(max(1, min(12, -(-200e6 // size))))
    caches, table = attention_inputs(seqs, most, kvh, d, copies)
    total = sum(q_lens)
    q = torch.randn(total, heads, d, device=DEV, dtype=BF)
    out = torch.empty_like(q)
    cu = torch.tensor([0] + list(torch.tensor(q_lens).cumsum(0)), device=DEV, dtype=torch.int32)
    used = torch.tensor(k_lens, device=DEV, dtype=torch.int32)
    win = [window - 1, 0] if window else [-1, -1]
    meta = None
    most_q, most_k = max(q_lens), (32768 if split else most)
    if aot:
        meta = get_scheduler_metadata(batch_size=seqs, max_seqlen_q=most_q, max_seqlen_k=most_k, num_heads_q=heads, num_heads_kv=kvh, headdim=d,
                                      cache_seqlens=used, qkv_dtype=BF, cu_seqlens_q=cu, page_size=16, causal=True, window_size=tuple(win), num_splits=split)

    def call(i):
        k, v = caches[i % copies]
        flash_attn_varlen_func(q=q, k=k, v=v, out=out, cu_seqlens_q=cu, max_seqlen_q=most_q, seqused_k=used, max_seqlen_k=most_k,
                               softmax_scale=d ** -0.5, causal=True, window_size=win, block_table=table, scheduler_metadata=meta, fa_version=3, num_splits=split)
    n = max(copies, 12 if size < 2e9 else 4)
    us = graph_us([lambda i=i: call(i) for i in range(n)])
    row = dict(op="attention", tag=tag, heads=heads, kv_heads=kvh, head_dim=d, window=window, sequences=seqs, new=new if not lens else None,
               context=context if not isinstance(context, list) else None, lens=lens, contexts=context if isinstance(context, list) else None,
               ahead=aot, splits=split, us=round(us, 3))
    if prof:
        row["kernels"] = profile(lambda: [call(i) for i in range(copies)])
    put(**row)
    del caches
    return us


def section_decode():
    for heads, kvh, d, window, aot in [(16, 8, 256, 1024, 0), (16, 8, 256, 0, 0), (16, 2, 256, 0, 1), (8, 4, 256, 1024, 0), (32, 8, 128, 0, 1), (32, 16, 128, 1024, 0)]:
        wide = d == 256 and heads == 16
        for seqs in ([1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 256] if wide else [1, 4, 8, 16, 32, 64, 128]):
            for keys in ([64, 256, 512, 1024, 1536, 2048, 4096, 8192, 16384, 32768] if wide else [256, 1024, 4096]):
                if seqs * keys > 1 << 20 or (window and keys > 4096):
                    continue
                attention(heads, kvh, d, window, seqs, 1, keys - 1, aot, 32, prof=(seqs in (1, 8, 64) and keys in (1024, 4096)), tag="decode")
        torch.cuda.empty_cache()
        say("decode", heads, kvh, d, window, clock())


def section_prompt():
    for heads, kvh, d, window, aot in [(16, 8, 256, 1024, 0), (16, 8, 256, 0, 0), (16, 2, 256, 0, 1)]:
        for seqs, new, ctx in [(1, 64, 0), (1, 128, 0), (1, 256, 0), (1, 512, 0), (1, 768, 0), (1, 1024, 0), (1, 1536, 0), (1, 2048, 0), (1, 3072, 0), (1, 4096, 0), (1, 8192, 0), (2, 512, 0), (2, 1024, 0), (4, 1024, 0),
                               (8, 1024, 0), (4, 256, 0), (16, 256, 0), (1, 512, 1024), (1, 1024, 1024), (1, 1024, 4096), (1, 2048, 8192), (1, 256, 8192)]:
            attention(heads, kvh, d, window, seqs, new, ctx, aot, 32 if seqs * new <= 512 else 0, prof=(seqs == 1 and new in (256, 1024)), tag="prompt")
        for n in (8, 32, 64, 128):   # decodes beside a chunk, one launch
            for chunk in (256, 1024, 2048):
                attention(heads, kvh, d, window, n + 1, None, [1023] * n + [0], aot, 0, tag="mixed", lens=[1] * n + [chunk])
        torch.cuda.empty_cache()
        say("prompt", heads, kvh, d, window, clock())


# ---------------------------------------------------------------- norms and other row-wise kernels
def rms(x, w, eps=1e-6):
    dt = x.dtype
    x = x.float()
    x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)
    return (x.to(w.dtype) * w).to(dt)


def add_rms(x, res, w, eps=1e-6):
    dt = x.dtype
    x = x.float() + res.float()
    res = x.to(dt)
    x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)
    return (x.to(w.dtype) * w).to(dt), res


def gemma_pair(x, res, w1, w2):
    return add_rms(rms(x, w1.float() + 1.0), res, w2.float() + 1.0)


def gemma_one(x, res, w1, w2):
    return add_rms(x, res, w2.float() + 1.0)


def plain_add(x, res, w1, w2):
    return add_rms(x, res, w2)


def gelu_mul(x):
    n = x.shape[-1] // 2
    return torch.nn.functional.gelu(x[..., :n], approximate="tanh") * x[..., n:]


def silu_mul(x):
    n = x.shape[-1] // 2
    return torch.nn.functional.silu(x[..., :n]) * x[..., n:]


TOKENS = [1, 8, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192]


def compiled(fn, make, name, width, tokens=TOKENS):
    torch._dynamo.reset()
    f = torch.compile(fn, fullgraph=True)
    first = make(8192)
    for t in first:
        if t.dim() == 2:
            torch._dynamo.mark_dynamic(t, 0)
    with torch.no_grad():
        f(*first)
        for n in tokens:
            args = make(n)
            us = graph_us([lambda: f(*args)] * 16)
            ks = profile(lambda: f(*args)) if n in (1, 64, 1024, 8192) else None
            put(op=name, width=width, tokens=n, us=round(us, 3), kernels=ks)


def section_norms():
    for h in (3840, 2048, 1152, 5376, 3584, 2560):
        def make(n, h=h):
            return [torch.randn(n, h, device=DEV, dtype=BF), torch.randn(n, h, device=DEV, dtype=BF), torch.randn(h, device=DEV, dtype=BF), torch.randn(h, device=DEV, dtype=BF)]
        if h != 2048:
            compiled(gemma_pair, make, "gemma_norm_add_norm", h)
        if h in (3840, 2048):
            compiled(gemma_one, make, "gemma_add_norm", h)
        if h == 3840:
            compiled(plain_add, make, "add_rms_norm", h)
        say("norms", h)
    for w in (15360, 6912):
        compiled(gelu_mul, lambda n, w=w: [torch.randn(n, 2 * w, device=DEV, dtype=BF)], "gelu_mul", w)
        if w == 15360:
            compiled(silu_mul, lambda n, w=w: [torch.randn(n, 2 * w, device=DEV, dtype=BF)], "silu_mul", w)
        say("gelu", w)
    say(clock())


def section_kv():
    import vllm._custom_ops as ops
    one = torch.ones((), device=DEV)
    for kvh, d in [(8, 256), (4, 256), (2, 256), (8, 128), (16, 128), (1, 256)]:
        k_cache = torch.zeros(2048, 16, kvh, d, device=DEV, dtype=BF)
        v_cache = torch.zeros_like(k_cache)
        for n in TOKENS:
            k = torch.randn(n, kvh, d, device=DEV, dtype=BF); v = torch.randn_like(k)
            slots = torch.randperm(2048 * 16, device=DEV)[:n]
            us = graph_us([lambda: ops.reshape_and_cache_flash(k, v, k_cache, v_cache, slots, "auto", one, one)] * 16)
            put(op="kv_write", width=kvh * d, tokens=n, us=round(us, 3), kv_heads=kvh, head_dim=d)
    say("kv")


# ---------------------------------------------------------------- gated delta nets
class Meta:
    pass


def section_gdn():
    from vllm.model_executor.layers.fla.ops import chunk_gated_delta_rule
    from vllm.model_executor.layers.fla.ops.fused_gdn_prefill_post_conv import fused_post_conv_prep
    from vllm.model_executor.layers.mamba.ops.causal_conv1d import causal_conv1d_fn
    from vllm.v1.attention.backends.utils import compute_causal_conv1d_metadata
    try:
        from vllm.model_executor.layers.fla.ops.index import prepare_chunk_indices, prepare_chunk_offsets
    except Exception:
        prepare_chunk_indices = None
    for hk, hv in [(16, 32), (8, 16), (4, 8)]:
        dim = hk * 128 * 2 + hv * 128
        w = torch.randn(dim, 4, device=DEV, dtype=BF) * 0.2
        A, dt = torch.rand(hv, device=DEV).log(), torch.rand(hv, device=DEV)
        blocks = 40
        conv = torch.zeros(blocks, 3, dim, device=DEV, dtype=BF).transpose(-1, -2)
        ssm = torch.zeros(blocks, hv, 128, 128, device=DEV, dtype=torch.float32)
        for seqs, new in [(1, 64), (1, 128), (1, 256), (1, 512), (1, 1024), (1, 2048), (1, 4096), (1, 8192), (4, 256), (4, 1024), (4, 2048), (16, 64), (16, 128), (16, 512), (32, 256)]:
            if hv != 32 and (seqs, new) not in ((1, 64), (1, 1024), (1, 4096), (1, 8192), (4, 1024), (16, 512)):
                continue
            T = seqs * new
            x = torch.randn(T, dim, device=DEV, dtype=BF)
            a, b = torch.randn(T, hv, device=DEV, dtype=BF), torch.randn(T, hv, device=DEV, dtype=BF)
            cpu = torch.arange(0, T + 1, new, dtype=torch.int32)
            cu = cpu.to(DEV)
            idx = torch.arange(1, seqs + 1, device=DEV, dtype=torch.int32)
            has = torch.zeros(seqs, dtype=torch.bool, device=DEV)
            m = Meta()
            m.nums_dict, m.batch_ptr, m.token_chunk_offset_ptr = compute_causal_conv1d_metadata(cpu, device=torch.device(DEV))
            ci = prepare_chunk_indices(cu, 64) if prepare_chunk_indices else None
            co = prepare_chunk_offsets(cu, 64) if prepare_chunk_indices else None

            def core():
                y = causal_conv1d_fn(x.transpose(0, 1), w, None, activation="silu", conv_states=conv, has_initial_state=has, cache_indices=idx,
                                     query_start_loc=cu, metadata=m).transpose(0, 1)
                q, k, v, g, beta = fused_post_conv_prep(conv_output=y, a=a, b=b, A_log=A, dt_bias=dt, num_k_heads=hk, head_k_dim=128, head_v_dim=128,
                                                        apply_l2norm=True, output_g_exp=False)
                s0 = ssm[idx]
                s0[~has, ...] = 0
                o, s = chunk_gated_delta_rule(q=q.unsqueeze(0), k=k.unsqueeze(0), v=v.unsqueeze(0), g=g.unsqueeze(0), beta=beta.unsqueeze(0), initial_state=s0,
                                              output_final_state=True, cu_seqlens=cu, chunk_indices=ci, chunk_offsets=co, use_qk_l2norm_in_kernel=False)
                ssm[idx] = s.to(ssm.dtype)
                return o.squeeze(0).clone()
            with torch.no_grad():
                for _ in range(3):
                    core()
                torch.cuda.synchronize()
                # Host: launches alone, in batches small enough for the driver's queue.
                host = []
                for _ in range(6):
                    torch.cuda.synchronize(); t = time.perf_counter()
                    for _ in range(10):
                        core()
                    host.append((time.perf_counter() - t) / 10 * 1e6)
                    torch.cuda.synchronize()
                put(op="gdn_core", key_heads=hk, value_heads=hv, sequences=seqs, new=new, host_us=round(statistics.median(host), 1), kernels=profile(core, 4))
        say("gdn", hk, hv, clock())


def section_gdn_decode():
    from vllm.model_executor.layers.fla.ops import fused_recurrent as fr
    from vllm.model_executor.layers.fla.ops import fused_sigmoid_gating as fs
    import inspect
    say(inspect.signature(fr.fused_recurrent_gated_delta_rule_packed_decode))
    for hk, hv in [(16, 32), (8, 16)]:
        dim = hk * 128 * 2 + hv * 128
        A, dt = torch.rand(hv, device=DEV).log(), torch.rand(hv, device=DEV)
        for n in (1, 2, 4, 8, 16, 32, 64, 128, 256):
            ssm = torch.zeros(4 * n + 1, hv, 128, 128, device=DEV, dtype=torch.float32)
            x = torch.randn(n, dim, device=DEV, dtype=BF)
            a, b = torch.randn(n, hv, device=DEV, dtype=BF), torch.randn(n, hv, device=DEV, dtype=BF)
            out = torch.empty(n, 1, hv, 128, device=DEV, dtype=BF)
            ids = [torch.arange(1 + c * n, 1 + (c + 1) * n, device=DEV, dtype=torch.int32) for c in range(4)]

            def call(i):
                fr.fused_recurrent_gated_delta_rule_packed_decode(mixed_qkv=x, a=a, b=b, A_log=A, dt_bias=dt, scale=128 ** -0.5, initial_state=ssm, out=out,
                                                                  ssm_state_indices=ids[i % 4], use_qk_l2norm_in_kernel=True)
            us = graph_us([lambda i=i: call(i) for i in range(12)])
            put(op="gdn_update", key_heads=hk, value_heads=hv, sequences=n, us=round(us, 3), kernels=profile(lambda: call(0)))
    say("gdn decode", clock())


# ---------------------------------------------------------------- gaps in graphs, host
def section_gaps():
    x = torch.randn(64, 2048, device=DEV, dtype=BF)
    y = torch.empty_like(x)
    small = torch.zeros(1024, device=DEV)
    w = torch.randn(2048, 2048, device=DEV, dtype=BF)
    kinds = {
        "add": lambda: torch.add(x, 1.0, out=y),
        "sigmoid": lambda: torch.sigmoid(x, out=y),
        "sum": lambda: x.sum(0),
        "fill": lambda: small.fill_(1.0),
        "memset": lambda: small.zero_(),
        "copy": lambda: y.copy_(x),
        "gemm": lambda: torch.mm(x, w),
        "add then gemm": lambda: (torch.add(x, 1.0, out=y), torch.mm(y, w)),
        "sum then sigmoid then add": lambda: (x.sum(0), torch.sigmoid(x, out=y), torch.add(x, 1.0, out=y)),
    }
    for name, f in kinds.items():
        f(); torch.cuda.synchronize()
        g = torch.cuda.CUDAGraph()
        with torch.cuda.graph(g):
            for _ in range(100):
                f()
        ev = gaps_of(g)
        gaps = [b[0] - a[0] - a[1] for a, b in zip(ev, ev[1:]) if b[0] - a[0] - a[1] < 20000]
        us = graph_us([f] * 100)
        put(op="graph_gap", kind=name, us_a_call=round(us, 3), durations=round(statistics.median(e[1] for e in ev) / 1000, 3), kernels_a_call=len(ev) / 300,
            gap_median=statistics.median(gaps) / 1000, gap_mean=round(statistics.mean(gaps) / 1000, 4),
            sum_durations_a_call=round(sum(e[1] for e in ev) / 300 / 1000, 3))
    say("gaps")


def section_experts():
    from vllm.model_executor.layers.fused_moe.fused_moe import fused_experts_op
    from vllm.config import VllmConfig, set_current_vllm_config
    with set_current_vllm_config(VllmConfig()):
        for e, k, hidden, inner in [(256, 8, 2048, 512), (128, 8, 2048, 768), (64, 6, 2048, 1408)]:
            w1 = torch.randn(e, 2 * inner, hidden, device=DEV, dtype=BF) * 0.02
            w2 = torch.randn(e, hidden, inner, device=DEV, dtype=BF) * 0.02
            for n in (1, 8, 64, 256, 1024):
                x = torch.randn(n, hidden, device=DEV, dtype=BF)
                wt, ids = torch.randn(n, e, device=DEV).softmax(-1).topk(k)
                ids = ids.to(torch.int32)

                def call():
                    return fused_experts_op(x, w1, w2, wt, ids)
                for _ in range(3):
                    call()
                torch.cuda.synchronize()
                host = []
                for _ in range(6):
                    torch.cuda.synchronize(); t = time.perf_counter()
                    for _ in range(10):
                        call()
                    host.append((time.perf_counter() - t) / 10 * 1e6)
                put(op="experts", experts=e, chosen=k, hidden=hidden, inner=inner, tokens=n, host_us=round(statistics.median(host), 1), kernels=profile(call))
            del w1, w2
            say("experts", e, clock())


def main():
    import vllm
    put(op="about", torch=torch.__version__, vllm=getattr(vllm, "__version__", "?"), gpu=clock(), cpu=open("/proc/cpuinfo").read().split("model name")[1].split("\n")[0])
    say(clock())
    want = sys.argv[1:] or ["kv", "decode", "norms", "gdn", "prompt", "gaps", "gdn_decode", "experts"]
    for s in want:
        t = time.time()
        try:
            globals()["section_" + s]()
        except Exception:
            say("FAILED", s, traceback.format_exc()[-1500:])
        torch.cuda.empty_cache()
        say(s, "took", round(time.time() - t, 1))


main()

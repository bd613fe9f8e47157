"""Step log for vLLM: what each step scheduled, when, and how long the device took."""
import atexit, json, os, threading, time

_on = False
def register():
    global _on
    out = os.environ.get("PROBE_DIR")
    if not out or _on: return
    _on = True
    os.makedirs(out, exist_ok=True)
    rank = [None]
    files = {}
    lock = threading.Lock()
    bufs = {"sched": [], "upd": [], "exec": []}
    def flush(k):
        b = bufs[k]
        if not b: return
        f = files.get(k)
        if f is None:
            f = files[k] = open(f"{out}/{k}.{os.getpid()}.jsonl", "a")
        f.write("\n".join(json.dumps(x, separators=(",", ":")) for x in b) + "\n"); f.flush(); b.clear()
    def flush_all():
        with lock:
            for k in bufs: 
                if k != "exec": flush(k)
    pid = [None]; dp_cell = [None]
    def ticker():
        while True:
            time.sleep(0.7); flush_all()
    def ensure():
        if pid[0] != os.getpid():
            pid[0] = os.getpid(); files.clear()
            threading.Thread(target=ticker, daemon=True).start()
    now = time.monotonic_ns
    from vllm.v1.core.sched.scheduler import Scheduler
    o_sched, o_upd = Scheduler.schedule, Scheduler.update_from_output
    cnt = [0]
    def schedule(self, *a, **k):
        t0 = now(); so = o_sched(self, *a, **k); t1 = now()
        if so.total_num_scheduled_tokens == 0: return so
        ensure(); cnt[0] += 1
        so._probe = cnt[0]
        pre = []; dec = 0; ctx = 0; drafts = []; enc = []
        sd = so.scheduled_spec_decode_tokens
        for rid, n in so.num_scheduled_tokens.items():
            r = self.requests[rid]
            if rid in sd and len(sd[rid]):
                drafts.append([rid, len(sd[rid]), r.num_computed_tokens]); dec += 1; ctx += r.num_computed_tokens
            elif n > 1:
                pre.append([rid, n, r.num_computed_tokens])   # computed includes n: the scheduler advances early
            else: dec += 1; ctx += r.num_computed_tokens
        for rid, ii in (so.scheduled_encoder_inputs or {}).items():
            f = self.requests[rid].mm_features
            enc.append([rid, [[i, f[i].mm_position.offset, f[i].mm_position.length] for i in ii]])
        new = [[r.req_id, r.num_computed_tokens] for r in so.scheduled_new_reqs]
        bufs["sched"].append([cnt[0], t0, t1, so.total_num_scheduled_tokens, len(so.num_scheduled_tokens), pre, new,
            len(self.running), len(self.waiting), self.kv_cache_manager.block_pool.get_num_free_blocks(),
            sorted(so.preempted_req_ids) if so.preempted_req_ids else [], dec, ctx, drafts, enc])
        return so
    def update(self, so, out_, *a, **k):
        said = []
        if getattr(self, "num_spec_tokens", 0) and out_.sampled_token_ids:
            said = [[q, len(out_.sampled_token_ids[out_.req_id_to_index[q]])] for q in so.num_scheduled_tokens if q in out_.req_id_to_index]
        t0 = now(); r = o_upd(self, so, out_, *a, **k)
        p = getattr(so, "_probe", None)
        if p is not None: bufs["upd"].append([p, t0, now()] + ([said] if said else []))
        return r
    Scheduler.schedule, Scheduler.update_from_output = schedule, update
    try:
        from vllm.v1.worker.gpu_worker import Worker
        import torch
        o_exec, o_samp = Worker.execute_model, Worker.sample_tokens
        pend = []; seq = [0]; cur = [None]; extra = {}   # extra: what drafting and encoding of this step took
        def timed(name, f):
            def g(self, *a, **k):
                if cur[0] is None and not in_exec[0]: return f(self, *a, **k)
                t0 = now(); e0 = torch.cuda.Event(enable_timing=True); e0.record()
                r = f(self, *a, **k)
                e1 = torch.cuda.Event(enable_timing=True); e1.record(); extra[name] = [now() - t0, e0, e1]
                return r
            return g
        in_exec = [False]
        def us(x): return None if x is None else [x[0], round(x[1].elapsed_time(x[2]) * 1000, 1)]
        def drain(force=False):
            while pend and (force or pend[0][-1].query()):
                s, t0, t1, t2, n, ex, e0, e1 = pend.pop(0)
                if force: e1.synchronize()
                bufs["exec"].append([s, t0, t1, t2, n, round(e0.elapsed_time(e1) * 1000, 1), us(ex.get("draft")), us(ex.get("encode"))])
            if len(bufs["exec"]) > 400 or force: flush("exec")
        prof = {"on": None, "left": 0, "kind": None, "done": set(), "name": None}
        def prof_before(so):
            for r in so.scheduled_new_reqs:
                if r.req_id.startswith("prof"): prof["name"] = r.req_id.split("-")[0]
            if prof["name"] is None or prof["on"]: return
            if not any(q.startswith("prof") for q in so.num_scheduled_tokens): return
            big = max(so.num_scheduled_tokens.values()) > 64
            kind = prof["name"] + (".prompt" if big else ".decode")
            if kind in prof["done"]: return
            if not big and len(so.num_scheduled_tokens) < int(prof["name"].split("_b")[1].split("_")[0]): return
            prof["done"].add(kind); torch.cuda.synchronize(); time.sleep(0.05)
            prof["kind"] = kind; prof["left"] = 1 if big else 3; prof["tokens"] = []
            prof["on"] = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]); prof["on"].__enter__()
        def prof_after(n):
            if not prof["on"]: return
            prof["left"] -= 1; prof["tokens"].append(n)
            if prof["left"]: return
            torch.cuda.synchronize(); p = prof["on"]; p.__exit__(None, None, None); prof["on"] = None
            rows = {}; seqn = []
            for e in sorted((e for e in p.events() if str(e.device_type).endswith("CUDA")), key=lambda e: e.time_range.start):
                c = rows.setdefault(e.name, [0, 0.0]); c[0] += 1; c[1] += e.time_range.end - e.time_range.start
                seqn.append([e.name, round(e.time_range.start, 2), round(e.time_range.end - e.time_range.start, 2)])
            names = sorted(rows); at = {n: i for i, n in enumerate(names)}
            json.dump({"tokens": prof["tokens"], "rows": rows, "names": names, "events": [[at[n], t - seqn[0][1], d] for n, t, d in seqn]}, open(f"{out}/{prof['kind']}.json", "w"))
        def execute_model(self, so, *a, **k):
            if so.total_num_scheduled_tokens == 0:
                drain(True); return o_exec(self, so, *a, **k)
            prof_before(so); extra.clear(); in_exec[0] = True
            t0 = now(); e0 = torch.cuda.Event(enable_timing=True); e0.record()
            r = o_exec(self, so, *a, **k); seq[0] += 1; in_exec[0] = False
            cur[0] = [seq[0], t0, now(), so.total_num_scheduled_tokens, e0]
            return r
        def sample_tokens(self, *a, **k):
            r = o_samp(self, *a, **k)
            if cur[0] is not None:
                s, t0, t1, n, e0 = cur[0]; cur[0] = None
                e1 = torch.cuda.Event(enable_timing=True); e1.record()
                pend.append([s, t0, t1, now(), n, dict(extra), e0, e1]); extra.clear()
                prof_after(n)
                if s % 64 == 0: drain()
            return r
        try:
            from vllm.v1.worker.gpu_model_runner import GPUModelRunner as G1
            G1.propose_draft_token_ids = timed("draft", G1.propose_draft_token_ids)
            o_enc = timed("encode", G1._execute_mm_encoder); p_enc = G1._execute_mm_encoder
            G1._execute_mm_encoder = lambda self, so: o_enc(self, so) if so.scheduled_encoder_inputs else p_enc(self, so)
        except Exception as e: print("probe: v1 hooks failed", e)
        try:
            from vllm.v1.worker.gpu.spec_decode.autoregressive import speculator as asp
            for c in [x for x in vars(asp).values() if isinstance(x, type) and "propose" in vars(x) and x.__module__ == asp.__name__]:
                c.propose = timed("draft", c.propose); print("probe: drafts of", c.__name__)
        except Exception as e: print("probe: v2 hooks failed", e)
        Worker.execute_model, Worker.sample_tokens = execute_model, sample_tokens
        atexit.register(lambda: drain(True))
    except Exception as e:
        print("probe: worker hook failed", e)
    # the processor of images, in the API process
    try:
        import vllm.multimodal.processing.processor as mp
        bufs["prep"] = []
        o_apply = mp.BaseMultiModalProcessor.apply
        def apply(self, *a, **k):
            t0 = now(); r = o_apply(self, *a, **k); ensure(); bufs["prep"].append([t0, now(), threading.current_thread().name]); return r
        mp.BaseMultiModalProcessor.apply = apply
    except Exception as e: print("probe: processor hook failed", e)
    try:
        import vllm.model_executor.models.llama_eagle3 as e3
        e3.Eagle3LlamaForCausalLM.has_own_lm_head = True   # dummy loading reads no file that would say so
    except Exception as e: print("probe: eagle3", e)
    # realistic random weights
    import vllm.model_executor.model_loader.weight_utils as wu, vllm.model_executor.model_loader.dummy_loader as dl
    done = set()
    def fill(p, name=""):
        import torch
        if p.device.type == "meta" or not p.is_floating_point(): return
        key = (p.data_ptr(), p.numel())
        if key in done: return
        done.add(key)
        with torch.no_grad():
            if p.dtype in (torch.float8_e4m3fn,):
                flat = p.view(torch.uint8).view(-1) if p.is_contiguous() else None
                n = p.numel(); step = 1 << 26
                tgt = p.view(-1) if p.is_contiguous() else None
                if tgt is None: return
                for i in range(0, n, step):
                    m = min(step, n - i)
                    tgt[i:i+m].copy_((torch.randn(m, device=p.device, dtype=torch.float16) * 60).clamp_(-440, 440).to(torch.float8_e4m3fn))
            elif "scale" in name:
                if "input" in name: p.fill_(0.02)
                elif name.endswith(("k_scale", "v_scale", "q_scale", "prob_scale")): p.fill_(1.0)
                else: p.fill_(0.02 / 60)
            elif p.dim() <= 1:
                if "norm" in name or "weight" in name: p.fill_(1.0)
                else: p.zero_()
            elif "embed" in name: p.normal_(0, 1.0)
            else:
                p.normal_(0, 0.02)
                if "lm_head" in name and os.environ.get("PROBE_NARROW"): p[2000:2008].mul_(12)   # few words, so that n-grams come back
    def init_dummy(model, *a, **k):
        for n, p in model.state_dict().items(): fill(p, n)
    wu.initialize_dummy_weights = init_dummy
    dl.initialize_dummy_weights = init_dummy
    atexit.register(flush_all)

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
        pre = []
        for rid, n in so.num_scheduled_tokens.items():
            if n > 1:
                r = self.requests[rid]
                pre.append([rid, n, r.num_computed_tokens])   # computed includes n when the scheduler advances early
        new = [[r.req_id, r.num_computed_tokens] for r in so.scheduled_new_reqs]
        bufs["sched"].append([cnt[0], t0, t1, so.total_num_scheduled_tokens, len(so.num_scheduled_tokens), pre, new,
            len(self.running), len(self.waiting), self.kv_cache_manager.block_pool.get_num_free_blocks(),
            sorted(so.preempted_req_ids) if so.preempted_req_ids else [], sum(n == 1 for n in so.num_scheduled_tokens.values()), sum(self.requests[q].num_computed_tokens for q, n in so.num_scheduled_tokens.items() if n == 1)])
        return so
    def update(self, so, out_, *a, **k):
        t0 = now(); r = o_upd(self, so, out_, *a, **k)
        p = getattr(so, "_probe", None)
        if p is not None: bufs["upd"].append([p, t0, now()])
        return r
    Scheduler.schedule, Scheduler.update_from_output = schedule, update
    try:
        from vllm.v1.worker.gpu_worker import Worker
        import torch
        o_exec, o_samp = Worker.execute_model, Worker.sample_tokens
        pend = []; seq = [0]; cur = [None]; dp_last = dp_cell
        def drain(force=False):
            while pend and (force or pend[0][-1].query()):
                s, t0, t1, t2, n, dl, e0, e1 = pend.pop(0)
                if force: e1.synchronize()
                bufs["exec"].append([s, t0, t1, t2, n, round(e0.elapsed_time(e1) * 1000, 1), None, None, dl])
            if len(bufs["exec"]) > 400 or force: flush("exec")
        def execute_model(self, so, *a, **k):
            if so.total_num_scheduled_tokens == 0: 
                drain(True); return o_exec(self, so, *a, **k)
            t0 = now(); e0 = torch.cuda.Event(enable_timing=True); e0.record()
            r = o_exec(self, so, *a, **k); seq[0] += 1
            cur[0] = [seq[0], t0, now(), so.total_num_scheduled_tokens, e0]
            return r
        def sample_tokens(self, *a, **k):
            r = o_samp(self, *a, **k)
            if cur[0] is not None:
                s, t0, t1, n, e0 = cur[0]; cur[0] = None
                e1 = torch.cuda.Event(enable_timing=True); e1.record()
                pend.append([s, t0, t1, now(), n, dp_last[0], e0, e1]); dp_last[0] = None
                if s % 64 == 0: drain()
            return r
        Worker.execute_model, Worker.sample_tokens = execute_model, sample_tokens
        atexit.register(lambda: drain(True))
    except Exception as e:
        print("probe: worker hook failed", e)
    # what each KV transfer took, by NIXL's own telemetry, and when a step asked for one
    try:
        import vllm.distributed.kv_transfer.kv_connector.v1.nixl.stats as ns
        bufs["xfer"] = []
        o_rec = ns.NixlKVConnectorStats.record_transfer
        def record(self, res):
            ensure(); bufs["xfer"].append(["done", now(), res.xferDuration, res.postDuration, res.totalBytes, res.descCount])
            return o_rec(self, res)
        ns.NixlKVConnectorStats.record_transfer = record
        import vllm.distributed.kv_transfer.kv_connector.v1.nixl.pull_worker as pw
        o_read = pw.NixlPullConnectorWorker._read_blocks_for_req
        def read(self, req_id, meta):
            t0 = now(); r = o_read(self, req_id, meta); ensure(); bufs["xfer"].append(["read", t0, now(), req_id]); return r
        pw.NixlPullConnectorWorker._read_blocks_for_req = read
        o_get = pw.NixlPullConnectorWorker.get_finished
        def get(self, *a, **k):
            t0 = now(); r = o_get(self, *a, **k)
            if r[0] or r[1]: ensure(); bufs["xfer"].append(["finished", t0, now(), sorted(r[0] or []), sorted(r[1] or [])])
            return r
        pw.NixlPullConnectorWorker.get_finished = get
        from vllm.v1.core.sched.scheduler import Scheduler as S2
        o_ukv = S2._update_from_kv_xfer_finished
        def ukv(self, out_):
            if out_ and (out_.finished_recving or out_.finished_sending):
                ensure(); bufs["xfer"].append(["noticed", now(), sorted(out_.finished_recving or []), sorted(out_.finished_sending or [])])
            return o_ukv(self, out_)
        S2._update_from_kv_xfer_finished = ukv
    except Exception as e:
        print("probe: nixl hook failed", e)
    dp_last = dp_cell
    try:
        import vllm.v1.worker.dp_utils as dpu
        o_sync = dpu._synchronize_dp_ranks
        def sync(*a, **k):
            t0 = now(); r = o_sync(*a, **k)
            c = r[1].tolist() if r[1] is not None else None
            dp_last[0] = [t0, now(), c, str(r[2]), None]
            return r
        dpu._synchronize_dp_ranks = sync
        from vllm.v1.worker.gpu_worker import Worker as W3
        o_dummy = W3.execute_dummy_batch
        def dummy(self, *a, **k):
            t0 = now(); r = o_dummy(self, *a, **k); t1 = now(); bufs["exec"].append([-1, t0, t1, t1, 1, None, None, None, dp_last[0]]); dp_last[0] = None
            return r
        W3.execute_dummy_batch = dummy
    except Exception as e:
        print("probe: dp hook failed", e)
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
            else: p.normal_(0, 0.02)
    def init_dummy(model, *a, **k):
        for n, p in model.state_dict().items(): fill(p, n)
    wu.initialize_dummy_weights = init_dummy
    dl.initialize_dummy_weights = init_dummy
    atexit.register(flush_all)

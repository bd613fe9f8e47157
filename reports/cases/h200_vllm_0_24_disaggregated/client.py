"""Proxy and client of one prefill and one decode engine (the order of vLLM's toy proxy), or of the two as equals in turn."""
import asyncio, gzip, json, os, pickle, sys, time
import numpy as np, zmq, zmq.asyncio
out, exps, deadline = sys.argv[1], json.load(open(sys.argv[2])), float(sys.argv[3])
T0 = time.monotonic()
VOC = 151000
def toks(seed, n): return np.random.default_rng(seed).integers(1000, VOC, n, dtype=np.int64).tolist()
_blk = {}
def prompt(r):
    if "hash" in r:
        o = []
        for h in r["hash"]:
            if h not in _blk: _blk[h] = toks(7_000_000 + h, 512)
            o += _blk[h]
        return o[: r["in"]]
    return toks(r["seed"], r["in"])
ctx = zmq.asyncio.Context()
class Engine:
    def __init__(self, path):
        self.s = ctx.socket(zmq.PAIR); self.s.set_hwm(0); self.s.bind(path); self.wait = {}; self.ready = asyncio.get_running_loop().create_future(); self.rs = None
        asyncio.create_task(self.read())
    async def read(self):
        while True:
            m = pickle.loads(await self.s.recv())
            if m[0] == "ready": self.ready.set_result(m[1])
            elif m[0] == "reset": self.rs.set_result(m[1])
            else: self.wait.pop(m[1]).set_result(m[2:])
    async def run(self, rid, p, n, kv=None):
        f = asyncio.get_running_loop().create_future(); self.wait[rid] = f
        await self.s.send(pickle.dumps(("go", rid, p, n, kv)))
        return await f
    async def reset(self):
        self.rs = asyncio.get_running_loop().create_future(); await self.s.send(pickle.dumps(("reset",))); return await self.rs
REMOTE = {"do_remote_decode": True, "do_remote_prefill": False, "remote_engine_id": None, "remote_block_ids": None, "remote_host": None, "remote_port": None}
async def main():
    P, D = Engine(sys.argv[4]), Engine(sys.argv[5])
    print("P", json.dumps(await P.ready, default=str), flush=True); print("D", json.dumps(await D.ready, default=str), flush=True)
    o = gzip.open(out + "/requests.jsonl.gz", "at")
    turn = [0]
    async def one(name, i, r, t0, sem, res, mode):
        p = prompt(r)
        if sem is None:
            d = t0 + r["t"] - time.monotonic()
            if d > 0: await asyncio.sleep(d)
        else: await sem.acquire()
        ts = time.monotonic()
        row = {"exp": name, "i": i, "t": r.get("t"), "sub": round(ts - t0, 6), "in": len(p), "out": r["out"]}
        if mode == "pd":
            a = await P.run(f"{name}-{i}", p, 1, REMOTE)
            tp = time.monotonic()
            st = a[5]
            if st == "ok" and a[3]:
                kv = a[3]; b = await D.run(f"{name}-{i}", p, r["out"], kv)
                row.update(p_in=round(a[0] - ts, 6), p_first=round(a[1][-1] - ts, 6), proxy=round(tp - ts, 6), p_cached=a[4], params={k: v for k, v in kv.items() if k not in ("remote_block_ids",)})
            else: b = a; st = st + " no params"
        else:
            e = (P, D)[turn[0] % 2]; row["engine"] = turn[0] % 2; turn[0] += 1
            b = await e.run(f"{name}-{i}", p, r["out"])
            st = b[5]
        if sem is not None: sem.release()
        s = np.array(b[1]) - ts
        row.update(d_in=round(b[0] - ts, 6), got=int(sum(b[2])), cached=b[4], ttft=round(float(s[0]), 6) if len(s) else None, e2e=round(float(s[-1]), 6) if len(s) else None,
                   itl_us=[int(x) for x in np.diff(s) * 1e6], n=b[2] if max(b[2] or [1]) > 1 else 1, st=st if st != "ok" else b[5])
        res.append(row)
    res = []
    await asyncio.gather(*[one("warm", i, {"t": 0.02 * i, "in": 700 + 50 * i, "out": 24, "seed": 99 + i}, time.monotonic(), None, res, "pd") for i in range(24)])
    print("WARM", res[0]["st"], res[0]["ttft"], res[0].get("params"), flush=True)
    res = []
    await asyncio.gather(*[one("warm2", i, {"t": 0.02 * i, "in": 700 + 50 * i, "out": 24, "seed": 199 + i}, time.monotonic(), None, res, "mixed") for i in range(24)])
    for e in exps:
        left = deadline - (time.monotonic() - T0)
        if e.get("need", 10) > left: print("SKIP", e["name"], left, flush=True); continue
        await asyncio.sleep(0.5); r1, r2 = await P.reset(), await D.reset()
        res = []; sem = asyncio.Semaphore(e["conc"]) if "conc" in e else None
        t0 = time.monotonic() + 0.3
        if e.get("serial"):
            for i, r in enumerate(e["reqs"]): await one(e["name"], i, {**r, "t": 0}, time.monotonic(), None, res, e["mode"])
        else: await asyncio.gather(*[one(e["name"], i, r, t0, sem, res, e["mode"]) for i, r in enumerate(e["reqs"])])
        el = time.monotonic() - t0
        ok = [r for r in res if r["st"] == "ok"]
        tt = sorted(r["ttft"] for r in ok); tp = sorted((r["e2e"] - r["ttft"]) / max(1, r["got"] - 1) for r in ok if r["got"] > 1)
        q = lambda v, p: round(v[min(len(v) - 1, int(p * len(v)))] * 1e3, 2) if v else None
        print(f"EXP {e['name']:28s} {e['mode']} reset={r1,r2} n={len(res)} ok={len(ok)} el={el:.2f}s tok/s={sum(r['got'] for r in ok)/el:.0f} ttft p50={q(tt,.5)} p99={q(tt,.99)} tpot p50={q(tp,.5)} p99={q(tp,.99)}", flush=True)
        o.write(json.dumps({"exp": e["name"], "t0_monotonic": t0, "elapsed": el, "conc": e.get("conc"), "mode": e["mode"]}) + "\n")
        for r in sorted(res, key=lambda r: r["i"]): o.write(json.dumps(r, separators=(",", ":")) + "\n")
        o.flush()
    o.close()
    for e in (P, D): await e.s.send(pickle.dumps(("stop",)))
    await asyncio.sleep(2.5)
asyncio.run(main())

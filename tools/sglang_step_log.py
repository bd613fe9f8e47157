"""Step log of a real SGLang server: what each step ran, when the host did what, how long the device took.

  mkdir DIR && cp sglang_step_log.py DIR/sitecustomize.py
  PYTHONPATH=DIR PROBE_DIR=LOG python3 -m sglang.launch_server …     rows in JSON lines under LOG, one file a kind and process

Hooks are put into the scheduler process as its modules are imported; without PROBE_DIR nothing happens. `--load-format dummy`
weights become normal (0.02), so that logits differ. tools/sglang_probe_to_run.py makes a run folder of it. Written for and used
with 0.5.17 (reports/cases/h200_sglang_0_5_17). Standard library only.

Rows, times in ns of the host's monotonic clock:
  recv     taken in, request, prompt tokens
  sched    step, begin, end, mode, [[request, new tokens, context] of prompts], decodes, their sequence lengths in sum, waiting,
           free slots, evictable slots, new-token ratio, chunked request, head of the queue, end of logging
  run      step, begin, end of the launch, whether a graph served
  res      step, begin, end of processing its result, requests that ended
  gpu      step, microseconds between events around forward and sampling
  retract  when, requests, new-token ratio after
"""
import importlib.abc
import importlib.machinery
import json
import os
import sys
import threading
import time

OUT = os.environ.get("PROBE_DIR")
WRITE_EVERY_S = 0.6
now = time.monotonic_ns
rows = {}
state = {"writing": False, "step": None}
pending = []  # steps whose events are awaited


def put(kind, row):
    rows.setdefault(kind, []).append(row)
    if not state["writing"]:
        state["writing"] = True
        threading.Thread(target=write, daemon=True).start()


def write():
    while True:
        time.sleep(WRITE_EVERY_S)
        for kind in list(rows):
            batch, rows[kind] = rows[kind], []
            if batch:
                with open(f"{OUT}/{kind}.{os.getpid()}.jsonl", "a", encoding="utf-8") as f:
                    f.write("\n".join(json.dumps(x, separators=(",", ":")) for x in batch) + "\n")


def count(ask):
    """A pool's counter; some releases give one number, some one a pool."""
    try:
        value = ask()
        return int(value[0] if isinstance(value, tuple) else value)
    except Exception:  # noqa: BLE001  a log must not stop a server
        return -1


def row_of(scheduler, batch, begin, end):
    prompts, decodes, lengths = [], 0, 0
    beside = {id(r) for r in (batch.decoding_reqs or [])}
    if batch.forward_mode.is_extend():
        for i, r in enumerate(batch.reqs):
            if id(r) in beside:
                decodes += 1
                lengths += len(r.origin_input_ids) + len(r.output_ids)
            else:
                prompts.append([r.rid, int(batch.extend_lens[i]), int(batch.prefix_lens[i])])
    else:
        decodes = len(batch.reqs)
        lengths = int(batch.seq_lens_cpu.sum()) if batch.seq_lens_cpu is not None else -1
    chunked = scheduler.chunked_req
    return [scheduler.forward_ct + 1, begin, end, batch.forward_mode.name, prompts, decodes, lengths, len(scheduler.waiting_queue),
            count(scheduler.token_to_kv_pool_allocator.available_size), count(scheduler.tree_cache.evictable_size),
            round(scheduler.new_token_ratio_tracker.current, 6), chunked.rid if chunked is not None else None,
            [r.rid for r in scheduler.waiting_queue[:3]], now()]


def hook_scheduler(module):
    cls = module.Scheduler
    take_in, compose, launch, process = (cls.process_input_requests, cls.get_next_batch_to_run, cls.run_batch,
                                         cls.process_batch_result)

    def process_input_requests(self, received, *a, **k):
        at = now()
        for r in received or ():
            ids = getattr(r, "input_ids", None)
            if ids is not None and getattr(r, "rid", None) is not None:
                put("recv", [at, r.rid, len(ids)])
        return take_in(self, received, *a, **k)

    def get_next_batch_to_run(self, *a, **k):
        begin = now()
        plan = compose(self, *a, **k)
        end = now()
        if plan.batch_to_run is not None:
            put("sched", row_of(self, plan.batch_to_run, begin, end))
        return plan

    def run_batch(self, batch, *a, **k):
        begin = now()
        state["step"] = self.forward_ct + 1
        result = launch(self, batch, *a, **k)
        put("run", [self.forward_ct, begin, now(), bool(getattr(result, "can_run_cuda_graph", False))])
        return result

    def process_batch_result(self, batch, result, *a, **k):
        begin = now()
        out = process(self, batch, result, *a, **k)
        put("res", [getattr(batch, "forward_iter", None), begin, now(), sum(1 for r in batch.reqs if r.finished())])
        return out

    cls.process_input_requests, cls.get_next_batch_to_run = process_input_requests, get_next_batch_to_run
    cls.run_batch, cls.process_batch_result = run_batch, process_batch_result
    retract = module.ScheduleBatch.retract_decode

    def retract_decode(self, *a, **k):
        at = now()
        out = retract(self, *a, **k)
        put("retract", [at, [r.rid for r in out[0]], round(out[1], 6)])
        return out

    module.ScheduleBatch.retract_decode = retract_decode


def hook_worker(module):
    import torch
    forward = module.TpModelWorker.forward_batch_generation

    def event():
        e = torch.cuda.Event(enable_timing=True)
        e.record()
        return e

    def forward_batch_generation(self, batch, *a, **k):
        begin = event()
        out = forward(self, batch, *a, **k)
        pending.append([state["step"], begin, event()])
        if len(pending) % 16 == 0:
            while pending and pending[0][-1].query():
                step, e0, e1 = pending.pop(0)
                put("gpu", [step, round(e0.elapsed_time(e1) * 1000, 1)])
        return out

    module.TpModelWorker.forward_batch_generation = forward_batch_generation


def hook_loader(module):
    import torch

    def initialize_dummy_weights(model, *_a, **_k):
        done = set()
        for name, p in model.state_dict().items():
            key = (p.data_ptr(), p.numel())
            if not p.is_floating_point() or key in done or "cos_sin" in name:
                continue
            done.add(key)
            with torch.no_grad():
                if p.dim() <= 1:
                    p.fill_(1.0) if "norm" in name or "weight" in name else p.zero_()
                else:
                    p.normal_(0, 1.0 if "embed" in name else 0.02)

    module.initialize_dummy_weights = initialize_dummy_weights


HOOKS = {"sglang.srt.managers.scheduler": hook_scheduler, "sglang.srt.managers.tp_worker": hook_worker,
         "sglang.srt.model_loader.loader": hook_loader}


class Finder(importlib.abc.MetaPathFinder):
    """Imports a module as always and hooks it afterwards."""

    def find_spec(self, name, path=None, target=None):
        if name not in HOOKS:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            try:
                HOOKS[name](module)
            except Exception as error:  # noqa: BLE001
                print(f"sglang_step_log: {name} is not logged: {error}", file=sys.stderr)

        spec.loader.exec_module = exec_module
        return spec


if OUT:
    sys.meta_path.insert(0, Finder())

"""The hooks of vllm_step_log.py in a worker: when a step was launched, and how long the device took for it and for
its drafting and encoding. Installed beside it (docs/step_log.md)."""
import importlib
import os
import time

EVENTS_KEPT = 1_000  # steps whose device time is awaited

now = time.monotonic_ns

# Parts of a step whose device time is logged by itself, where the engine has them: module of vllm.v1.worker,
# class, method, part.
PARTS = [("gpu_model_runner", "GPUModelRunner", "propose_draft_token_ids", "draft"),
         ("gpu_model_runner", "GPUModelRunner", "_execute_mm_encoder", "encode"),
         ("gpu.spec_decode.autoregressive.speculator", "AutoRegressiveSpeculator", "propose", "draft"),
         ("gpu.mm.encoder_runner", "EncoderRunner", "execute_mm_encoder", "encode")]


def hook_worker(log, Worker, cuda):
    def around_execute(original):
        def execute_model(self, scheduler_output, *a, **k):
            step = getattr(scheduler_output, "_orrery_step", None)  # the engine's own warm-up has none
            begun = None
            if log.on:
                try:
                    log.running = step is not None
                    if log.running:
                        begun = begin_execution(log, self, step, cuda, now())
                except Exception as e:
                    log.disable("execute_model", e)
            result = original(self, scheduler_output, *a, **k)
            if begun is not None:
                begun[2] = now()
                log.launched = begun
            return result
        return execute_model

    def after_sampling(log, worker, _, *a, **k):
        if log.launched is None:
            return
        sampled = now()
        step, start, launched, first, logging_ns = log.launched
        log.launched, last = None, None
        if first is not None:
            last = event(log, cuda)
            last.record()
        log.pending.append((step, start, launched, sampled, first, last, logging_ns, log.parts))
        log.parts, log.running = {}, False
        if len(log.pending) > EVENTS_KEPT:
            log.pending.popleft()
        drain(log)  # here the device has work and the host time

    for module, cls, method, part in PARTS if cuda is not None else ():
        try:
            cls = getattr(importlib.import_module("vllm.v1.worker." + module), cls)
        except Exception:  # this engine has none
            continue
        if callable(getattr(cls, method, None)):
            hook_part(log, cls, method, part, cuda)
    log.hook(Worker, "execute_model", around_execute)
    log.after(Worker, "sample_tokens", after_sampling)

    def around_shutdown(original):
        def shutdown(self, *a, **k):
            if log.on:
                try:
                    drain(log)
                    log.out.flush()
                except Exception as e:
                    log.disable("shutdown", e)
            return original(self, *a, **k)
        return shutdown
    log.hook(Worker, "shutdown", around_shutdown)


def hook_part(log, cls, method, part, cuda):
    def around(original):
        def timed(self, *a, **k):
            first = None
            try:
                if log.on and log.running:
                    first = event(log, cuda)
                    first.record()
            except Exception as e:
                log.disable(method, e)
            result = original(self, *a, **k)
            try:
                if first is not None and (part != "encode" or result):
                    log.parts[part] = (first, event(log, cuda))
                    log.parts[part][1].record()
            except Exception as e:
                log.disable(method, e)
            return result
        return timed
    log.hook(cls, method, around)


def event(log, cuda):
    return log.spare.pop() if log.spare else cuda.Event(enable_timing=True)


def cpu_name():
    try:
        with open("/proc/cpuinfo") as f:
            return next((line.split(":", 1)[1].strip() for line in f if line.startswith("model name")), None)
    except OSError:
        return None


def begin_execution(log, worker, step, cuda, entered):
    if "worker" not in log.told:
        log.told.add("worker")
        info = {"rank": worker.rank, "cpu": cpu_name(), "cpus": os.cpu_count()}
        if cuda is not None:
            import torch
            gpu = cuda.get_device_properties(cuda.current_device())
            info.update(gpu=gpu.name, gpu_memory_bytes=gpu.total_memory, torch=torch.__version__,
                        cuda=getattr(torch.version, "cuda", None))
        log.out.add(["i", info])
    first = None
    if cuda is not None:
        first = event(log, cuda)
        first.record()
    start = now()
    return [step, start, start, first, start - entered]


def drain(log):
    """Device times of steps that are over, without waiting for any."""
    while log.pending and (log.pending[0][5] is None or log.pending[0][5].query()):
        step, start, launched, sampled, first, last, logging_ns, parts = log.pending.popleft()
        times = [between(log, pair) for pair in ((first, last), parts.get("draft"), parts.get("encode"))]
        log.out.add(["x", step, start, launched, sampled, times[0], logging_ns, *times[1:]])


def between(log, pair):
    """Microseconds; the events are free again."""
    if pair is None or pair[1] is None:
        return None
    log.spare += pair
    return round(pair[0].elapsed_time(pair[1]) * 1e3, 1)

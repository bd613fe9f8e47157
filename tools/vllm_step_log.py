#!/usr/bin/env python3
"""Step log of one's own vLLM 0.24 server: what each step scheduled, when, and how long the device took.

  python3 vllm_step_log.py install [DIR]     it and its entry point into DIR (default: Python's)
  PYTHONPATH=DIR ORRERY_STEP_LOG=LOG vllm serve …    logs into the folder LOG; without the variable, nothing
  python3 vllm_step_log.py collect LOG OUT   a run for `orrery calibrate --from-steps`, `validate --schedule`

As a plugin (entry point vllm.general_plugins) it reaches the front end, the core process and every worker. A
hook that fails takes all hooks of its process away, says so once and leaves serving alone. Rows wait in a
bounded queue that a thread writes twice a second, so a crash loses half a second. No text and no token enters
the log: request ids are hashed with a salt, prompt blocks are known by vLLM's own prefix-cache hashes, cut to
eight bytes, and both are numbers in the collected run.

For a fit log a dozen prompts alone (some of 100 to 500 tokens, some of 1,000 to 2,000), then three or four loads of a
minute or two below saturation, a minute apart, and two batches: ten minutes (docs/from_steps.md has the commands).

Variables: ORRERY_STEP_LOG (folder) · ORRERY_STEP_LOG_ANY_VERSION=1 (hook a vLLM this was not written for) ·
ORRERY_STEP_LOG_PREFIXES=0 (no prompt blocks) · ORRERY_STEP_LOG_MAX_MB (of each process, default 2048).
Docs: docs/step_log.md. Standard library only.
"""
import atexit
import base64
import collections
import functools
import hashlib
import importlib
import json
import logging
import os
import sys
import threading
import time

VERSION = 2            # of the rows
WRITTEN_FOR = "0.24."  # vLLM versions whose methods these hooks were read from
MODULE = "orrery_vllm_step_log"
ROWS_KEPT = 100_000    # in memory, should the disk stall
WRITE_EVERY_S = 0.5

now = time.monotonic_ns  # one clock for all processes of a host


class Writer:
    """Rows of one process, in a file of its own, written by a thread of its own. Appending is a deque's, which
    is atomic, so that no row falls between two batches."""

    def __init__(self, folder, on_error, max_bytes):
        self.folder, self.on_error, self.left = folder, on_error, max_bytes
        self.rows = collections.deque()
        self.dropped = 0
        self.pid = os.getpid()
        self.file = None
        self.started = False
        self.writing = threading.Lock()

    def add(self, row):
        if len(self.rows) >= ROWS_KEPT:
            self.dropped += 1
            return
        self.rows.append(row)
        if not self.started:
            self.start()

    def start(self):
        self.started = True
        self.rows.appendleft(["p", {"rows": VERSION, "pid": os.getpid(), "parent": os.getppid(),
                                    "wall_s": time.time(),
                                    "monotonic_ns": now()}])
        threading.Thread(target=self.run, name="orrery-step-log", daemon=True).start()
        # Processes of multiprocessing end without atexit, but with its own finalisers.
        from multiprocessing import util
        util.Finalize(None, self.flush, exitpriority=10)
        atexit.register(self.flush)

    def run(self):
        while self.left > 0:
            time.sleep(WRITE_EVERY_S)
            self.flush()

    def flush(self):
        if self.pid != os.getpid():
            return  # a forked child that ends would write its parent's rows once more
        try:
            with self.writing:
                self.write()
        except Exception as e:  # a full disk must not reach the server
            self.left = 0
            self.on_error("writing the log", e)

    def write(self):
        if self.left <= 0:
            self.rows.clear()
            return
        lines = []
        while self.rows:
            lines.append(json.dumps(self.rows.popleft(), separators=(",", ":")))
        if self.dropped:
            lines.append(json.dumps(["l", self.dropped]))
            self.dropped = 0
        if not lines:
            return
        if self.file is None:
            self.file = open(os.path.join(self.folder, f"rows.{os.getpid()}.jsonl"), "ab", buffering=0)
        data = ("\n".join(lines) + "\n").encode()
        self.file.write(data)
        self.left -= len(data)
        if self.left <= 0:
            self.on_error("writing the log", RuntimeError("it has reached ORRERY_STEP_LOG_MAX_MB"))


class StepLog:
    """The hooks of one process and what they remember between calls."""

    def __init__(self, folder):
        self.on = True
        self.folder = folder
        self.prefixes = os.environ.get("ORRERY_STEP_LOG_PREFIXES", "1") != "0"
        self.max_bytes = int(float(os.environ.get("ORRERY_STEP_LOG_MAX_MB", "2048")) * 1e6)
        self.hooks = []  # (class, method, original, ours)
        self.salt = self.read_salt()
        self.begin()

    def begin(self):
        """Also in a forked child: what the parent had queued is the parent's."""
        self.out = Writer(self.folder, self.disable, self.max_bytes)
        self.numbers = {}      # request id → number, while it is in the engine
        self.requests = 0
        self.step = 0
        self.updating = None   # step whose output the scheduler is taking in
        self.told = set()      # which infos are in the log
        self.launched = None   # execution under way: [step, start, end, event, what logging took before it]
        self.running = False   # … from its beginning to the end of sampling
        self.parts = {}        # events around parts of it
        self.pending = collections.deque()
        self.spare = []        # events to use again

    def read_salt(self):
        path = os.path.join(self.folder, "salt")
        try:
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as f:
                f.write(os.urandom(16).hex())
        except FileExistsError:
            pass
        for _ in range(100):  # its maker may not have written it yet
            with open(path, encoding="ascii") as f:
                text = f.read()
            if len(text) == 32:
                break
            time.sleep(0.01)
        return bytes.fromhex(text)

    def disable(self, where, error):
        if not self.on:
            return
        self.on = False
        for cls, name, original, ours in reversed(self.hooks):
            if cls.__dict__.get(name) is ours:
                setattr(cls, name, original)
        warn(f"step log off after an error in {where}: {type(error).__name__}: {error}. Serving goes on.")

    def key(self, request_id):
        return hashlib.blake2b(request_id.encode(), key=self.salt, digest_size=8).hexdigest()

    def number(self, request_id):
        known = self.numbers.get(request_id)
        if known is None:
            known = self.numbers[request_id] = self.requests
            self.requests += 1
        return known

    def hook(self, cls, name, around):
        """`around(original)` is the new method. It calls the original exactly once, outside of any try."""
        original = getattr(cls, name)
        ours = functools.wraps(original)(around(original))
        self.hooks.append((cls, name, original, ours))
        setattr(cls, name, ours)

    def after(self, cls, name, record):
        """record(log, self, result, *arguments) once the method has returned."""
        def around(original):
            def method(obj, *a, **k):
                result = original(obj, *a, **k)
                if self.on:
                    try:
                        record(self, obj, result, *a, **k)
                    except Exception as e:
                        self.disable(name, e)
                return result
            return method
        self.hook(cls, name, around)


def warn(text):
    logging.getLogger("vllm." + MODULE).warning("%s", text)


# The core process

def hook_scheduler(log, Scheduler):
    def around_schedule(original):
        def schedule(self, *a, **k):
            start = now()
            output = original(self, *a, **k)
            end = now()
            if log.on and output.total_num_scheduled_tokens > 0:
                try:
                    record_schedule(log, self, output, start, end)
                except Exception as e:
                    log.disable("schedule", e)
            return output
        return schedule

    def around_update(original):
        def update_from_output(self, scheduler_output, model_runner_output, *a, **k):
            step = getattr(scheduler_output, "_orrery_step", None)
            said = []
            try:  # now, as who ends in it is forgotten there
                if log.on and step is not None and getattr(self, "num_spec_tokens", 0):
                    said = tokens_said(log, scheduler_output, model_runner_output)
            except Exception as e:
                log.disable("update_from_output", e)
            log.updating = step
            start = now()
            result = original(self, scheduler_output, model_runner_output, *a, **k)
            end = now()
            log.updating = None
            if log.on and step is not None:
                log.out.add(["u", step, start, end, said])
            return result
        return update_from_output

    log.hook(Scheduler, "schedule", around_schedule)
    log.hook(Scheduler, "update_from_output", around_update)
    log.after(Scheduler, "add_request", record_request)
    log.after(Scheduler, "_free_request", record_end)
    log.after(Scheduler, "reset_prefix_cache",
              lambda log, scheduler, emptied, *a, **k: log.out.add(["c", now(), bool(emptied)]))
    log.after(Scheduler, "shutdown", lambda log, *a, **k: log.out.flush())


def record_schedule(log, scheduler, output, start, end):
    """Costs O(changes), except in steps with prompts, which walk the dictionary of the step's sequences."""
    log.step += 1
    output._orrery_step = log.step  # travels to the workers with the output, and comes back with the update
    if "engine" not in log.told:
        log.told.add("engine")
        log.out.add(["i", engine_info(scheduler)])
    counts, cached, new = output.num_scheduled_tokens, output.scheduled_cached_reqs, output.scheduled_new_reqs
    decodes, context, chunks = len(counts), sum(cached.num_computed_tokens), []
    fresh = {r.req_id for r in new}
    if fresh or output.total_num_scheduled_tokens > decodes or 0 in cached.num_output_tokens:
        drafts = output.scheduled_spec_decode_tokens
        prompts = {r for r, n in zip(cached.req_ids, cached.num_output_tokens) if n == 0} | fresh
        for request_id, tokens in counts.items():
            if tokens == 1 and request_id not in prompts:
                continue
            request = scheduler.requests[request_id]
            before = request.num_computed_tokens - tokens  # the scheduler has moved it on already
            if before < request.num_prompt_tokens or tokens > 1 and request_id not in drafts:
                chunks.append([log.number(request_id), tokens, before])
                decodes -= 1
                context -= 0 if request_id in fresh else before
            elif request_id in fresh:
                context += before
    row = ["s", log.step, start, end, output.total_num_scheduled_tokens, len(counts), chunks,
           [[log.number(r.req_id), r.num_computed_tokens] for r in new], len(scheduler.running),
           len(scheduler.waiting), scheduler.kv_cache_manager.block_pool.get_num_free_blocks(),
           [log.number(r) for r in output.preempted_req_ids or ()], decodes, context,
           [[log.number(r), len(d)] for r, d in output.scheduled_spec_decode_tokens.items() if d],
           [[log.number(r), *place] for r, items in (output.scheduled_encoder_inputs or {}).items()
            for i, place in enumerate(images_of(scheduler.requests[r])) if i in items]]
    row.append(now() - end)  # what all this took stands between schedule and launch
    log.out.add(row)


def tokens_said(log, output, result):
    """Of every sequence that got some: async runners' tokens are on the host by now."""
    rows = [(r, len(result.sampled_token_ids[result.req_id_to_index[r]]))
            for r in output.num_scheduled_tokens if r in result.req_id_to_index]
    return [[log.number(r), n] for r, n in rows if n]


def images_of(request):
    """[offset in the prompt, tokens] of each."""
    places = [f.mm_position for f in getattr(request, "mm_features", None) or ()]
    return [[p.offset, p.length] for p in places]


def record_request(log, scheduler, _, request):
    if request.request_id in log.numbers:
        return  # more input of a streaming session
    blocks = None
    if log.prefixes and request.block_hashes:
        blocks = base64.b64encode(b"".join(h[:8] for h in request.block_hashes)).decode()
    log.out.add(["r", log.number(request.request_id), log.key(request.request_id), request.arrival_time, now(),
                 request.num_prompt_tokens, request.max_tokens, blocks, images_of(request)])


def record_end(log, scheduler, _, request, *a, **k):
    number = log.numbers.pop(request.request_id, None)
    if number is not None:
        log.out.add(["e", number, now(), log.updating, str(request.get_finished_reason()),
                     request.num_output_tokens, request.num_preemptions])


def engine_info(scheduler):
    c = scheduler.vllm_config

    def get(part, name):
        value = getattr(getattr(c, part, None), name, None)
        return value if isinstance(value, (int, float, str, bool, list, type(None))) else str(value)

    import vllm
    plain = {"vllm": vllm.__version__,
             "model": os.path.basename(str(get("model_config", "model")).rstrip("/")),
             "v2_runner": bool(getattr(c, "use_v2_model_runner", False)),
             "num_gpu_blocks": scheduler.kv_cache_config.num_blocks,
             "speculative": get("speculative_config", "method"),
             "drafts": getattr(scheduler, "num_spec_tokens", 0),
             "encoder_budget": getattr(scheduler, "max_num_encoder_input_tokens", 0),
             "kv_connector": scheduler.connector is not None,
             "scheduler": type(scheduler).__name__, "python": sys.version.split()[0],
             "kv_groups": [{"layers": len(g.layer_names), "block_size": g.kv_cache_spec.block_size,
                            "window": getattr(g.kv_cache_spec, "sliding_window", None)}
                           for g in scheduler.kv_cache_config.kv_cache_groups]}
    for part, names in {
            "model_config": "dtype quantization max_model_len enforce_eager",
            "cache_config": "block_size enable_prefix_caching gpu_memory_utilization cache_dtype",
            "scheduler_config": "max_num_batched_tokens max_num_seqs long_prefill_token_threshold "
                                "max_num_partial_prefills async_scheduling policy "
                                "disable_hybrid_kv_cache_manager enable_chunked_prefill",
            "parallel_config": "tensor_parallel_size pipeline_parallel_size data_parallel_size "
                               "enable_expert_parallel",
            "compilation_config": "cudagraph_mode cudagraph_capture_sizes"}.items():
        plain.update({name: get(part, name) for name in names.split()})
    plain["dtype"] = str(plain["dtype"]).removeprefix("torch.")
    # What prefix hashes were made with; the configuration names it only where it was overridden.
    plain["hash_block_size"] = getattr(scheduler.kv_cache_manager.block_pool, "hash_block_size", None)
    return plain


# The front end: what its own statistics say when a request ends (absent with --disable-log-stats)

def record_front_end(log, processor, _, state, reason, statistics):
    if statistics is not None and state.stats is not None:
        log.out.add(["f", log.key(state.request_id), state.stats.first_token_latency,
                     statistics.iteration_timestamp - state.stats.arrival_time,
                     state.stats.num_generation_tokens])


_log = None


def register():
    """The entry point. Called in every process, more than once in some; inherited by forked ones."""
    global _log
    folder = os.environ.get("ORRERY_STEP_LOG")
    if not folder or _log is not None:
        return
    try:
        import vllm
        known = vllm.__version__.startswith(WRITTEN_FOR)
        if not known and os.environ.get("ORRERY_STEP_LOG_ANY_VERSION") != "1":
            warn(f"step log off: written for vLLM {WRITTEN_FOR}x, this is {vllm.__version__}. "
                 f"ORRERY_STEP_LOG_ANY_VERSION=1 "
                 "tries all the same.")
            return
        from vllm.v1.core.sched.scheduler import Scheduler
        from vllm.v1.engine.output_processor import OutputProcessor
        from vllm.v1.worker.gpu_worker import Worker
        import torch
        for cls, names in [
                (Scheduler, "schedule update_from_output add_request _free_request reset_prefix_cache "
                            "shutdown"),
                (Worker, "execute_model sample_tokens shutdown"),
                (OutputProcessor, "_update_stats_from_finished")]:
            for name in names.split():
                if not callable(getattr(cls, name, None)):
                    raise AttributeError(f"{cls.__name__} has no {name}")
        os.makedirs(folder, exist_ok=True)
        log = _log = StepLog(folder)
    except Exception as e:
        warn(f"step log off, nothing is hooked: {type(e).__name__}: {e}")
        return
    try:
        hook_scheduler(log, Scheduler)
        worker = importlib.import_module(__name__ + "_worker")
        worker.hook_worker(log, Worker, torch.cuda if torch.cuda.is_available() else None)
        log.after(OutputProcessor, "_update_stats_from_finished", record_front_end)
        os.register_at_fork(after_in_child=log.begin)
    except Exception as e:
        log.disable("hooking", e)


# The command

def install(folder):
    """A package as pip would leave it: Python finds entry points in every folder of its path. Two modules: this
    file, and vllm_step_log_worker.py beside it."""
    os.makedirs(folder, exist_ok=True)
    meta = os.path.join(folder, f"{MODULE}-1.0.dist-info")
    os.makedirs(meta, exist_ok=True)
    sources = {}
    for module in ("", "_worker"):
        with open(os.path.abspath(__file__).removesuffix(".py") + module + ".py", encoding="utf-8") as f:
            sources[os.path.join(folder, MODULE + module + ".py")] = f.read()
    texts = {"METADATA": f"Metadata-Version: 2.1\nName: {MODULE.replace('_', '-')}\nVersion: 1.0\n",
             "INSTALLER": "vllm_step_log.py\n",
             "entry_points.txt": f"[vllm.general_plugins]\norrery_step_log = {MODULE}:register\n",
             "RECORD": ""}
    files = {**sources,
             **{os.path.join(meta, name): text for name, text in texts.items()}}
    files[os.path.join(meta, "RECORD")] = "".join(os.path.relpath(p, folder) + ",,\n" for p in files)
    for path, text in files.items():
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
    path = "" if folder in sys.path else f"PYTHONPATH={folder} "
    print(f"{folder}: installed. Start the server as always, behind {path}ORRERY_STEP_LOG=LOG_FOLDER; then: "
          f"{os.path.basename(sys.argv[0])} collect LOG_FOLDER RUN")


def main():
    words = sys.argv[1:]
    if words[:1] == ["install"] and len(words) <= 2:
        import sysconfig
        install(os.path.abspath(words[1]) if len(words) == 2 else sysconfig.get_paths()["purelib"])
    elif words[:1] == ["collect"]:
        sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
        import vllm_step_log_collect
        vllm_step_log_collect.main(words[1:])
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()

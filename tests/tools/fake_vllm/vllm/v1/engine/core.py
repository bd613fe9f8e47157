"""One process that schedules; workers in it (one rank) or in processes of their own. Two steps in flight."""
import collections
import multiprocessing
import os
import types

from vllm.plugins import load_general_plugins


def config(tp, blocks):
    part = types.SimpleNamespace
    drafts = int(os.environ.get("FAKE_DRAFTS", "0"))
    return part(
        model_config=part(model="/models/Qwen3-8B/", dtype="bfloat16", quantization=None, max_model_len=40960,
                          enforce_eager=False),
        cache_config=part(block_size=16, hash_block_size=None, enable_prefix_caching=True,
                          gpu_memory_utilization=0.92,
                          cache_dtype="auto", num_gpu_blocks=blocks),
        scheduler_config=part(max_num_batched_tokens=512, max_num_seqs=64, long_prefill_token_threshold=0,
                              max_num_partial_prefills=1, async_scheduling=drafts == 0, policy="fcfs",
                              disable_hybrid_kv_cache_manager=False, enable_chunked_prefill=True),
        parallel_config=part(tensor_parallel_size=tp, pipeline_parallel_size=1, data_parallel_size=1,
                             enable_expert_parallel=False),
        compilation_config=part(cudagraph_mode="FULL_AND_PIECEWISE",
                                cudagraph_capture_sizes=[1, 2, 4, 8, 16, 32, 64]),
        speculative_config=part(method="ngram") if drafts else None, num_speculative_tokens=drafts,
        use_v2_model_runner=drafts == 0)


def worker_main(rank, pipe):
    load_general_plugins()
    from vllm.v1.worker.gpu_worker import Worker
    worker = Worker(rank)
    while True:
        method, args = pipe.recv()
        result = getattr(worker, method)(*args)
        if method == "shutdown":
            return
        if rank == 0 and method == "sample_tokens":
            pipe.send(result)


class Executor:
    def __init__(self, tp):
        from vllm.v1.worker.gpu_worker import Worker
        self.worker, self.pipes, self.processes = None, [], []
        if tp == 1:
            self.worker = Worker(0)
            return
        spawn = multiprocessing.get_context("spawn")
        for rank in range(tp):
            ours, theirs = spawn.Pipe()
            process = spawn.Process(target=worker_main, args=(rank, theirs))
            process.start()
            self.pipes.append(ours)
            self.processes.append(process)

    def call(self, method, *args):
        if self.worker is not None:
            return getattr(self.worker, method)(*args)
        for pipe in self.pipes:
            pipe.send((method, args))
        return self.pipes[0].recv() if method == "sample_tokens" else None

    def shutdown(self):
        self.call("shutdown")
        for process in self.processes:
            process.join()


class EngineCore:
    def __init__(self, tp=1, blocks=4096):
        load_general_plugins()
        from vllm.v1.core.sched.scheduler import Scheduler
        self.executor = Executor(tp)
        groups = [types.SimpleNamespace(layer_names=["a"] * 36,
                                        kv_cache_spec=types.SimpleNamespace(block_size=16))]
        self.scheduler = Scheduler(config(tp, blocks),
                                   types.SimpleNamespace(num_blocks=blocks, kv_cache_groups=groups))
        self.queue = collections.deque()

    def add_request(self, request):
        self.scheduler.add_request(request)

    def step_with_batch_queue(self):
        """Requests that ended, or None while there is nothing to wait for."""
        if self.scheduler.requests:
            output = self.scheduler.schedule(False)
            if output.total_num_scheduled_tokens > 0:
                self.executor.call("execute_model", output)
                self.queue.appendleft((output, self.executor.call("sample_tokens", None)))
                if len(self.queue) < (1 if self.scheduler.num_spec_tokens else 2):
                    return []
        if not self.queue:
            return None
        output, result = self.queue.pop()
        return self.scheduler.update_from_output(output, result)

    def shutdown(self):
        self.executor.shutdown()
        self.scheduler.shutdown()

#!/usr/bin/env python3
"""Kernel-by-kernel profile of real vLLM steps, for tools/vllm_kernel_digest.py.

tools/vllm_kernel_profile.py MODEL OUT.json.gz --cases d:64:1024,p:2048:0,m:64:1024 [--engine '{"language_model_only": true}'] [--deadline 240]

Runs on a GPU machine with vLLM 0.24 and PyTorch; MODEL is a folder with config.json (weights are random). Cases:
d:B:C = B decodes of about C tokens of context, three steps in a row · p:T:0 = one prompt of T tokens · m:B:T = B
decodes at 1,024 tokens together with a prompt of T. Steps run synchronously, so that one is profiled at a time; their
kernels are those of asynchronous scheduling. A case that would begin after the deadline is skipped and said.
"""
import argparse
import gzip
import json
import os
import time

STARTED = time.monotonic()
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the engine core in this process: the profiler sees its kernels
LARGEST_STEP = 8192


class Profiler:
    def __init__(self, model, engine):
        import numpy
        import torch
        from vllm import LLM
        self.torch = torch
        arguments = {"max_num_batched_tokens": LARGEST_STEP, "max_num_seqs": 1024, "gpu_memory_utilization": 0.90, "enable_prefix_caching": False,
                     "async_scheduling": False, **engine}
        self.engine = LLM(model=model, load_format="dummy", skip_tokenizer_init=True, **arguments).llm_engine
        with open(os.path.join(model, "config.json"), encoding="utf-8") as f:
            config = json.load(f)
        self.vocabulary = config.get("text_config", config)["vocab_size"]
        self.random = numpy.random.default_rng(1)
        self.requests = 0

    def add(self, tokens, out_tokens):
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt
        self.requests += 1
        prompt = self.random.integers(1000, self.vocabulary - 2000, tokens).tolist()
        sampling = SamplingParams(max_tokens=out_tokens, min_tokens=out_tokens, ignore_eos=True, temperature=0.0,
                                  detokenize=False)
        self.engine.add_request(str(self.requests), TokensPrompt(prompt_token_ids=prompt), sampling)
        return str(self.requests)

    def drain(self):
        while self.engine.has_unfinished_requests():
            self.engine.step()

    def timed(self, steps):
        """Microseconds of steps without the profiler, launches included."""
        out = []
        for _ in range(steps):
            begin, end = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
            self.torch.cuda.synchronize()
            begin.record()
            self.engine.step()
            end.record()
            self.torch.cuda.synchronize()
            out.append(begin.elapsed_time(end) * 1e3)
        return out

    def kernels(self, steps):
        """(start, end, name) of every kernel and copy, microseconds."""
        from torch.profiler import ProfilerActivity, profile
        with profile(activities=[ProfilerActivity.CUDA]) as recorded:
            for _ in range(steps):
                self.engine.step()
            self.torch.cuda.synchronize()
        on_device = self.torch.autograd.DeviceType.CUDA
        return sorted((e.time_range.start, e.time_range.end, e.name[:150]) for e in recorded.events()
                      if e.device_type == on_device and not e.name.startswith("ProfilerStep"))

    def fill(self, sequences, context):
        """So many requests past their prompts, a few decode steps on."""
        ids = [self.add(context, 64) for _ in range(sequences)]
        for _ in range(-(-sequences * context // LARGEST_STEP) + 5):
            self.engine.step()
        return ids

    def case(self, kind, a, b):
        if kind == "d":
            ids = self.fill(a, b)
            timed, events = self.timed(8), self.kernels(3)
        elif kind == "p":
            ids = []
            self.add(a, 1)
            self.drain()
            self.add(a, 1)
            timed = self.timed(1)
            self.drain()
            self.add(a, 1)
            events = self.kernels(1)
        else:
            ids = self.fill(a, 1024)
            ids.append(self.add(b, 8))
            timed = self.timed(1)
            self.engine.step()
            ids.append(self.add(b, 8))
            events = self.kernels(1)
        self.engine.abort_request(ids)
        self.drain()
        return timed, events


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("out")
    parser.add_argument("--cases", required=True)
    parser.add_argument("--engine", type=json.loads, default={}, help="further engine arguments, JSON")
    parser.add_argument("--deadline", type=float, default=float("inf"), help="seconds from the start")
    arguments = parser.parse_args()
    profiler = Profiler(arguments.model, arguments.engine)
    profiler.add(64, 4)
    profiler.drain()
    results = {"device": profiler.torch.cuda.get_device_name(), "init_s": time.monotonic() - STARTED, "cases": []}
    for case in arguments.cases.split(","):
        if time.monotonic() - STARTED > arguments.deadline:
            print("skipped, out of time:", case)
            continue
        kind, a, b = case.split(":")
        timed, events = profiler.case(kind, int(a), int(b))
        results["cases"].append({"case": case, "timed_us": timed, "events": events})
        print(case, "kernels", len(events), "sum", round(sum(e[1] - e[0] for e in events)), "us", flush=True)
        with gzip.open(arguments.out, "wt") as f:  # after every case: a killed run keeps what it has
            json.dump(results, f)


if __name__ == "__main__":
    main()

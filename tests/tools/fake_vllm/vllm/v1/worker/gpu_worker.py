"""Executing a step takes no time; the device (torch.cuda here) has a clock of its own."""
import os

import torch

from vllm.v1.core.sched.output import ModelRunnerOutput
from vllm.v1.worker.gpu_model_runner import GPUModelRunner


class Worker:
    def __init__(self, rank):
        self.rank = rank
        self.computed = {}
        self.output = None
        self.runner = GPUModelRunner()

    def execute_model(self, scheduler_output):
        for r in scheduler_output.scheduled_new_reqs:
            self.computed[r.req_id] = r.num_computed_tokens
        for request_id, tokens in scheduler_output.num_scheduled_tokens.items():
            self.computed[request_id] += tokens
        self.runner._execute_mm_encoder(scheduler_output)
        torch.cuda.work_us(500 + 10 * scheduler_output.total_num_scheduled_tokens)
        ids = list(scheduler_output.num_scheduled_tokens)
        drafts = {r: len(d) for r, d in scheduler_output.scheduled_spec_decode_tokens.items()}
        # Some drafts are accepted: none, one, or all.
        said = [[0] * (1 + min(drafts.get(r, 0), self.computed[r] % 3)) for r in ids]
        self.output = ModelRunnerOutput({r: self.computed[r] for r in ids},
                                        {r: i for i, r in enumerate(ids)}, said)
        for r, tokens in zip(ids, said):
            self.computed[r] -= drafts.get(r, 0) + 1 - len(tokens)
        self.drafts = sum(drafts.values())

    def sample_tokens(self, grammar_output):
        torch.cuda.work_us(50)
        if os.environ.get("FAKE_DRAFTS"):
            self.runner.propose_draft_token_ids(self.drafts)
        return self.output

    def shutdown(self):
        pass

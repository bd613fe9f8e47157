"""Executing a step takes no time; the device (torch.cuda here) has a clock of its own."""
import torch


class Worker:
    def __init__(self, rank):
        self.rank = rank
        self.computed = {}
        self.output = None

    def execute_model(self, scheduler_output):
        for r in scheduler_output.scheduled_new_reqs:
            self.computed[r.req_id] = r.num_computed_tokens
        for request_id, tokens in scheduler_output.num_scheduled_tokens.items():
            self.computed[request_id] += tokens
        torch.cuda.work_us(500 + 10 * scheduler_output.total_num_scheduled_tokens)
        self.output = {r: self.computed[r] for r in scheduler_output.num_scheduled_tokens}

    def sample_tokens(self, grammar_output):
        torch.cuda.work_us(50)
        return self.output

    def shutdown(self):
        pass

import hashlib
import time
import types


class Request:
    def __init__(self, request_id, prompt_token_ids, max_tokens, eos_after=0, block_size=16, images=()):
        self.mm_features = [types.SimpleNamespace(mm_position=types.SimpleNamespace(offset=at, length=tokens))
                            for at, tokens in images]
        self.spec_token_ids = []  # drafts of its next step
        self.request_id, self.max_tokens, self.eos_after = request_id, max_tokens, eos_after
        self.arrival_time = time.time()
        self.num_prompt_tokens = len(prompt_token_ids)
        self.num_computed_tokens = self.num_output_tokens = self.num_preemptions = 0
        self.planned = 0  # output tokens of the steps composed so far
        self.reason = None
        self.block_hashes, chain = [], b"none"
        for at in range(0, self.num_prompt_tokens - block_size + 1, block_size):
            chain = hashlib.sha256(chain + bytes(str(prompt_token_ids[at:at + block_size]), "ascii")).digest()
            self.block_hashes.append(chain)

    def get_finished_reason(self):
        return self.reason

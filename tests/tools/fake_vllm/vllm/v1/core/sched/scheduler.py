"""First come, first served; chunked prompts; two steps in flight, or one where n-grams are looked for
(FAKE_DRAFTS: how many); images encoded where a chunk first touches them; prefix cache over full blocks; a pool
that never runs dry. FAKE_POOL_ANSWERS: how often the pool says how many blocks are free, which only a logger asks,
before it raises."""
import os

from vllm.v1.core.sched.output import CachedRequestData, NewRequestData, SchedulerOutput


class BlockPool:
    def __init__(self, blocks):
        self.free = blocks - 1  # the null block
        self.hash_block_size = 16
        self.cached = {}        # hash → users
        self.answers = int(os.environ.get("FAKE_POOL_ANSWERS", "1000000"))

    def get_num_free_blocks(self):
        self.answers -= 1
        if self.answers < 0:
            raise RuntimeError("the pool has changed its mind")
        return self.free


class KvCacheManager:
    def __init__(self, blocks, block_size):
        self.block_pool = BlockPool(blocks)
        self.block_size = block_size
        self.held = {}  # request → [blocks, hashes of those that are shared]

    def hit(self, request):
        found = 0
        for h in request.block_hashes[:(request.num_prompt_tokens - 1) // self.block_size]:
            if h not in self.block_pool.cached:
                break
            found += 1
        return found

    def take(self, request, hit):
        pool = self.block_pool
        for h in request.block_hashes[:hit]:
            pool.free -= pool.cached[h] == 0
            pool.cached[h] += 1
        self.held[request.request_id] = [hit, list(request.block_hashes[:hit])]

    def grow(self, request, tokens):
        held = self.held[request.request_id]
        needed = -(-tokens // self.block_size)
        self.block_pool.free -= max(0, needed - held[0])
        held[0] = max(needed, held[0])
        # Blocks are registered when the step that fills them is composed.
        for h in request.block_hashes[len(held[1]):tokens // self.block_size]:
            if h not in self.block_pool.cached:
                self.block_pool.cached[h] = 1
                held[1].append(h)
            else:
                break

    def release(self, request):
        blocks, shared = self.held.pop(request.request_id, [0, []])
        self.block_pool.free += blocks - len(shared)
        for h in shared:
            self.block_pool.cached[h] -= 1
            self.block_pool.free += self.block_pool.cached[h] == 0


class Scheduler:
    def __init__(self, vllm_config, kv_cache_config):
        self.vllm_config, self.kv_cache_config = vllm_config, kv_cache_config
        self.connector = None
        self.kv_cache_manager = KvCacheManager(kv_cache_config.num_blocks,
                                               vllm_config.cache_config.block_size)
        self.requests, self.running, self.waiting = {}, [], []
        self.num_spec_tokens = vllm_config.num_speculative_tokens
        self.max_num_encoder_input_tokens = 512

    def add_request(self, request):
        self.requests[request.request_id] = request
        self.waiting.append(request)

    def schedule(self, throttle_prefills=False):
        config = self.vllm_config.scheduler_config
        budget, counts, new = config.max_num_batched_tokens, {}, []
        cached = CachedRequestData([], [], [])
        for r in self.running:
            wanted = max(1 + len(r.spec_token_ids), r.num_prompt_tokens - r.num_computed_tokens)
            if r.num_computed_tokens >= r.num_prompt_tokens and r.planned >= r.max_tokens:
                continue  # its last token is under way
            tokens = min(wanted, budget)
            if tokens == 0:
                break
            cached.req_ids.append(r.request_id)
            cached.num_computed_tokens.append(r.num_computed_tokens)
            cached.num_output_tokens.append(r.planned)
            counts[r.request_id] = tokens
            budget -= tokens
            self.kv_cache_manager.grow(r, r.num_computed_tokens + tokens)
        while self.waiting and budget > 0 and len(self.running) < config.max_num_seqs:
            r = self.waiting.pop(0)
            hit = self.kv_cache_manager.hit(r)
            self.kv_cache_manager.take(r, hit)
            r.num_computed_tokens = hit * self.kv_cache_manager.block_size
            tokens = min(r.num_prompt_tokens - r.num_computed_tokens, budget)
            self.kv_cache_manager.grow(r, r.num_computed_tokens + tokens)
            self.running.append(r)
            new.append(NewRequestData(r.request_id, r.num_computed_tokens))
            counts[r.request_id] = tokens
            budget -= tokens
        drafts, encode = {}, {}
        for request_id, tokens in counts.items():
            r = self.requests[request_id]
            ends = r.num_computed_tokens + tokens
            images = [i for i, f in enumerate(r.mm_features)
                      if r.num_computed_tokens <= f.mm_position.offset < ends]
            if images:
                encode[request_id] = images
            if r.spec_token_ids:
                drafts[request_id], r.spec_token_ids = r.spec_token_ids, []
            r.num_computed_tokens = ends
            r.planned += r.num_computed_tokens >= r.num_prompt_tokens
        return SchedulerOutput(new, cached, counts, sum(counts.values()), drafts, set(), encode)

    def update_from_output(self, scheduler_output, model_runner_output):
        stopped = []
        for request_id in scheduler_output.num_scheduled_tokens:
            r = self.requests.get(request_id)
            if r is None:
                continue
            if model_runner_output.computed[request_id] < r.num_prompt_tokens:
                continue
            said = model_runner_output.sampled_token_ids[model_runner_output.req_id_to_index[request_id]]
            drafts = len(scheduler_output.scheduled_spec_decode_tokens.get(request_id, ()))
            r.num_computed_tokens -= drafts + 1 - len(said)  # of drafts that were not accepted
            limit = min(r.eos_after or r.max_tokens, r.max_tokens)
            r.num_output_tokens = min(limit, r.num_output_tokens + len(said))
            if r.num_output_tokens == r.eos_after:
                r.reason = "stop"
            elif r.num_output_tokens == r.max_tokens:
                r.reason = "length"
            else:
                found = (r.num_output_tokens * 3 + r.num_prompt_tokens) % 5 > 0
                r.spec_token_ids = [0] * self.num_spec_tokens if found else []
                continue
            self._free_request(r)
            stopped.append(r)
        self.running = [r for r in self.running if r not in stopped]
        return stopped

    def finish_requests(self, request_ids):
        for request_id in request_ids:
            r = self.requests[request_id]
            r.reason = "abort"
            self.running = [x for x in self.running if x is not r]
            self.waiting = [x for x in self.waiting if x is not r]
            self._free_request(r)

    def _free_request(self, request, delay_free_blocks=False):
        self.kv_cache_manager.release(request)
        del self.requests[request.request_id]

    def reset_prefix_cache(self, reset_running_requests=False, reset_connector=False):
        self.kv_cache_manager.block_pool.cached.clear()
        return True

    def shutdown(self):
        pass

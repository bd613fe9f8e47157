"""A server's life: serve.py TP [crash]. Two bursts of requests, 0.6 s between; prints what each request got.

FAKE_IMAGES: one request of the first has two.
The second burst begins with prompts of the first. `crash`: the process ends without a word while the second
is served."""
import os
import sys
import time

from vllm.plugins import load_general_plugins
from vllm.v1.engine import core
from vllm.v1.engine.output_processor import IterationStats, OutputProcessor, RequestState
from vllm.v1.request import Request


def prompt(seed, tokens):
    return [seed * 100_003 + i for i in range(tokens)]


def serve(engine, front, arrivals, leaves=None, crash_at=None):
    """arrivals: {step: [request]}; leaves: {step: [names]}."""
    step, states, got = 0, {}, []
    while True:
        for request in arrivals.pop(step, []):
            states[request.request_id] = RequestState(request)
            engine.add_request(request)
        if leaves and step in leaves:
            engine.scheduler.finish_requests(leaves[step])
        if step == crash_at:
            time.sleep(1.2)  # two batches are written, the third is not
            engine.step_with_batch_queue()
            os._exit(1)
        ended = engine.step_with_batch_queue()
        for request in ended or []:
            state = states[request.request_id]
            state.stats.first_token_latency = 0.0125
            state.stats.num_generation_tokens = request.num_output_tokens
            front._update_stats_from_finished(state, request.reason, IterationStats())
            got.append((request.request_id, request.num_output_tokens, request.reason))
        step += 1
        if ended is None and not arrivals:
            return got


def main():
    load_general_plugins()  # the front end does, too
    engine = core.EngineCore(tp=int(sys.argv[1]))
    front = OutputProcessor()
    first = {0: [Request("secret-alpha", prompt(1, 1300), 20),
                 Request("secret-beta", prompt(2, 40), 30, eos_after=7)],
             3: [Request(f"many-{i}", prompt(10 + i, 64 + 16 * i), 12 + i) for i in range(8)],
             9: [Request("like-alpha", prompt(1, 700), 5)],
             12: [Request("forks-from-alpha", prompt(1, 160) + prompt(5, 220), 4)],
             30: [Request("late", prompt(3, 33), 9)]}
    first[5] = [Request("gone", prompt(4, 50), 40)]  # its client leaves before step 15
    if os.environ.get("FAKE_IMAGES"):
        first[7] = [Request("seen", prompt(6, 400), 8, images=[(20, 100), (200, 64)])]
    print(serve(engine, front, first, leaves={15: ["gone"]}))
    time.sleep(0.6)
    second = {0: [Request("again", prompt(1, 1300), 6)],
              2: [Request(f"more-{i}", prompt(30 + i, 100), 10) for i in range(5)]}
    print(serve(engine, front, second, crash_at=8 if "crash" in sys.argv else None))
    engine.shutdown()


if __name__ == "__main__":
    main()

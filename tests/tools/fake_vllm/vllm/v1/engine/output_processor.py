import time


class RequestStateStats:
    def __init__(self, arrival_time):
        self.arrival_time = arrival_time
        self.first_token_latency = 0.0
        self.num_generation_tokens = 0


class RequestState:
    def __init__(self, request):
        self.request_id = request.request_id
        self.stats = RequestStateStats(request.arrival_time)


class IterationStats:
    def __init__(self):
        self.iteration_timestamp = time.time()


class OutputProcessor:
    def _update_stats_from_finished(self, req_state, finish_reason, iteration_stats):
        pass

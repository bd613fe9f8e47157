from dataclasses import dataclass


@dataclass
class NewRequestData:
    req_id: str
    num_computed_tokens: int


@dataclass
class CachedRequestData:
    req_ids: list
    num_computed_tokens: list
    num_output_tokens: list


@dataclass
class SchedulerOutput:
    scheduled_new_reqs: list
    scheduled_cached_reqs: CachedRequestData
    num_scheduled_tokens: dict
    total_num_scheduled_tokens: int
    scheduled_spec_decode_tokens: dict
    preempted_req_ids: set
    scheduled_encoder_inputs: dict  # request → which of its images


@dataclass
class ModelRunnerOutput:
    computed: dict  # request → tokens of it that have been computed after the step
    req_id_to_index: dict
    sampled_token_ids: list

// A real engine's run as it was logged: the layout of ../shared/truth (engine.json, experiments.jsonl,
// requests.csv, steps.csv; plain or compressed), with the additions of docs/step_log.md.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "sim/images.h"
#include "sim/scheduler.h"

namespace orrery {

struct MeasuredRequest {
  std::int64_t submit_ns = 0;  // when the client sent it, from the experiment's start
  std::int32_t prompt_tokens = 0;
  std::int32_t output_tokens = 0;
  std::vector<std::uint64_t> hash_ids;     // names of prompt blocks; empty = private
  std::int64_t ttft_ns = -1, e2e_ns = -1;  // from submit_ns; −1 = not logged
  // Logged by tools/vllm_step_log.py, else absent:
  std::int64_t known_ns = -1;          // when the core process learned of it; −1 = follows from the queue
  std::int32_t max_output_tokens = 0;  // what the client allowed; 0 = output_tokens
  std::int64_t stop_step = -1;         // the step whose output ended it before that; −1 = none
  std::int64_t gone_ns = -1;           // when the core process learned that its client is gone; −1 = never
  // In prompt_tokens, by offset, where the engine put them; each is an image of its own.
  std::vector<PlacedImage> images;
};

// When a step's parts happened, where the log has them (all of them or none): host clock of the core thread
// and of rank 0, from the experiment's start; `gpu_ns` lies between two events in stream order around the
// step, slowest rank, so it contains the bubble when launches come late.
struct MeasuredTimes {
  bool known = false;
  std::int64_t schedule_ns = 0, execute_start_ns = 0, sample_end_ns = 0, gpu_rank0_ns = 0, gpu_ns = 0,
               update_ns = 0;
  std::int64_t logging_ns = 0;  // what the logger itself took between schedule and execute; 0 = not logged
};

// One engine step. Some loggers count chunks of one token among the decodes instead of listing them.
struct MeasuredStep {
  struct Chunk {
    std::int64_t tokens = 0, context = 0;
    bool operator==(const Chunk&) const = default;
  };
  struct Admission {
    std::int64_t request = 0, cached_tokens = 0;
    bool operator==(const Admission&) const = default;
  };
  struct Count {  // tokens of a request
    std::int64_t request = 0, tokens = 0;
    bool operator==(const Count&) const = default;
  };
  std::int64_t step = 0;
  std::int64_t schedule_start_ns = 0, update_start_ns = 0;
  std::int64_t tokens = 0, sequences = 0, running = 0, waiting = 0, free_blocks = 0;  // running −1: not
                                                                                      // logged
  std::vector<Chunk> chunks;
  std::vector<std::int64_t> chunk_requests, preempted;
  std::vector<Admission> admitted;
  MeasuredTimes times;
  std::int64_t decodes = -1, decode_context = -1;  // −1 = not logged
  std::int64_t new_requests = 0;
  // Speculation: drafts of the decodes that bring some, and what everybody said whose tokens came of the
  // step.
  std::vector<Count> drafts, said;
  std::vector<Count> said_before;  // of the step before this one where only that much of it was logged
  std::vector<Count> encoded;      // images that the step encodes, by request and length of the placeholder
};

struct MeasuredExperiment {
  std::string name;
  bool serial = false;           // one request after another, each with its own zero of time
  std::int64_t concurrency = 0;  // closed loop of so many; 0 = open
  bool keeps_cache = false;      // begins with the prefix cache that the experiment before it left
  std::int32_t hash_block_size = 512;
  std::vector<MeasuredRequest> requests;
  std::vector<MeasuredStep> steps;  // from the first admission on: what comes before is the client's warm-up
};

struct MeasuredEngine {
  std::int64_t num_gpu_blocks = 0, max_num_batched_tokens = 0, max_num_seqs = 0, max_model_len = 0;
  std::int64_t long_prefill_token_threshold = 0;
  std::int32_t block_size = 0;
  bool enable_prefix_caching = true, async_scheduling = true;
  KvGroups kv_groups = {};  // the log does not name them: from the model's profile
  SpeculationRules speculation = {};
  std::int64_t encoder_budget = 0;  // embeddings that its vision encoder may compute, and keep; 0 = none
  bool v2_runner = false;           // it reports resumed requests as new ones
  bool sglang = false;              // logged by tools/sglang_step_log.py; else vLLM
  std::string model;                // as the engine was told
  Json arguments;                   // what the engine was started with, by its own names
  std::string gpu, version;         // empty where the log does not say
};

struct MeasuredRun {
  std::string folder;
  MeasuredEngine engine;
  std::vector<MeasuredExperiment> experiments;
};

// Errors: a missing file, column or field, with place.
Result<MeasuredRun> load_measured_run(const std::string& folder);

}  // namespace orrery

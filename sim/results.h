// What a run leaves behind: plain data, no behaviour. Reports read this and nothing else of the simulator.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/time.h"
#include "sim/fleet_result.h"
#include "sim/pool_role.h"
#include "sim/speculation_counters.h"

namespace orrery {

enum class RequestStatus : std::uint8_t { completed, failed, cancelled, timed_out, rejected };
const char* to_string(RequestStatus status);

// Prefill and decode apart: where the time to the first token went. The parts add up to it.
struct HandoffTimes {
  bool apart = false;
  InstanceId prefill_instance;
  SimDuration queue;  // arrival → scheduled by the prefill instance
  // → its answer is back at the proxy; where KV is sent: → all of it is computed
  SimDuration prefill;
  SimDuration wait;          // → the decode instance has blocks for the prompt, and the transfer begins
  SimDuration transfer;      // → all bytes are there; where KV is sent: what of it was not hidden
  SimDuration decode_queue;  // → scheduled by the decode instance
  SimDuration first_step;    // → first token at the client
};

// One request, complete. Delivered in trace order (see RecordSink).
struct RequestRecord {
  std::uint64_t request = 0;  // index in the trace
  SimTime arrival;            // at the server; closed loop: when the client submitted it
  SimDuration queue;          // arrival → first scheduled
  SimDuration ttft;           // arrival → first token at the client
  SimDuration e2e;            // arrival → last token at the client
  std::int32_t prompt_tokens = 0, output_tokens = 0;  // output: tokens delivered
  std::int32_t cached_tokens = 0;                     // found in the prefix cache at first admission
  std::int32_t preemptions = 0;
  InstanceId instance;
  RequestStatus status = RequestStatus::completed;
  // Inter-token gaps of this request, nanoseconds; filled only when asked for (--itl), −1 otherwise or
  // without gaps.
  std::int64_t itl_p50 = -1, itl_p99 = -1, itl_max = -1;
  std::int32_t drafts = 0, accepted_drafts = 0;  // speculation: that were verified for it
  HandoffTimes handoff;
  // (e2e − ttft) / (output_tokens − 1) in nanoseconds, rounded half to even; −1 when output_tokens < 2.
  std::int64_t tpot_ns() const;
};

class RecordSink {
 public:
  virtual ~RecordSink() = default;
  virtual void on_request(const RequestRecord& record) = 0;  // in trace order, each index exactly once
};

// One engine step (or a stretch of `steps` pure decode steps), for traces and step tables.
struct StepRecord {
  InstanceId instance;
  std::uint64_t step = 0;  // index in the instance; first of the stretch
  std::int64_t steps = 1;
  SimTime schedule_begin, launch_begin, device_begin, device_end, update_end;  // of the stretch: first begin,
                                                                               // last end
  std::int64_t prefill_tokens = 0;
  std::int32_t prefill_chunks = 0, decode_sequences = 0, running = 0, waiting = 0, preempted = 0,
               new_requests = 0;
  std::int64_t decode_context_tokens = 0;
  std::int64_t free_blocks = 0;
};

// Life of a request as events, for `explain` and traces.
struct RequestEvent {
  enum class Kind : std::uint8_t {
    arrived,
    rejected,
    admitted,
    prefill_chunk,
    encoded,
    loading,
    answered,  // prefill and decode apart: a prefill leg is, and its blocks wait to be fetched
    pulling,   // a decode instance has blocks for the prompt and fetches what it lacks
    pulled,    // which is there
    transfer_failed,
    first_token,
    preempted,
    resumed,
    finished,
    departed,  // its client had gone away, and the engine dropped it; at: when the client went
    lost       // its instance, or what it needed of another one, is gone: it is sent again, or failed
  } kind;
  std::uint64_t request = 0;
  InstanceId instance;
  SimTime at;
  std::uint64_t step = 0;
  // admitted, resumed: cached tokens; prefill_chunk: new tokens; encoded: images; loading: tokens; pulling:
  // blocks; preempted:
  // the request that it made room for; finished: output tokens
  std::int64_t tokens = 0;
  // prefill_chunk: tokens before it; encoded: their embeddings; admitted: of the tokens, those fetched
  std::int64_t context = 0;
  std::int32_t running = 0, waiting = 0;  // at the instance, then
};

// Sees a run as it happens. Default: nothing is asked for, and nothing is paid.
class RunObserver {
 public:
  virtual ~RunObserver() = default;
  virtual void on_step(const StepRecord&) {}
  virtual void on_request_event(const RequestEvent&) {}
  virtual void on_stay(const FleetResult::Stay&) {}  // of an instance in a state other than up; at the end
};

// Percentile p of n sorted values: index min(n − 1, ⌊p·n⌋), no interpolation (interfaces: Definitions).
struct Distribution {
  std::uint64_t count = 0;
  double mean = 0;                                           // nanoseconds
  std::int64_t p50 = 0, p90 = 0, p95 = 0, p99 = 0, max = 0;  // nanoseconds
  bool exact = true;  // false: from a log histogram, relative error ≤ 0.1 %
  // For charts: value at 0, 1, …, 100 % (101 entries; empty when count = 0), nanoseconds.
  std::vector<std::int64_t> curve;
};

// Averages over equal bins of simulated time, all instances together. `width` doubles as a run grows, so that
// there are at most 512 bins whatever the length.
struct TimeSeries {
  SimTime start;
  SimDuration width;
  std::vector<double> arrivals;        // requests per second
  std::vector<double> finished;        // requests per second
  std::vector<double> running;         // sequences, time average
  std::vector<double> waiting;         // sequences, time average
  std::vector<double> kv_utilization;  // 0 … 1, time average over instances, of held blocks
  std::vector<double> prefill_tokens;  // per second
  std::vector<double> decode_tokens;   // per second
  std::vector<double> preemptions;     // per second
};

struct PoolResult {
  std::string name;
  PoolRole role = PoolRole::mixed;
  std::int64_t first_instance = 0;  // instances are numbered through all pools, in order
  std::int64_t instances = 0, gpus_per_instance = 0;
  std::int32_t ranks = 1;  // of attention data parallelism; the blocks are one rank's
  std::int64_t kv_blocks = 0, kv_block_size = 0;
  std::int64_t window_tokens = 0;  // what the engine logs instead of all blocks' tokens when layers have
                                   // windows
  double peak_utilization = 0;     // held blocks ÷ usable, the highest of any instance
  std::int64_t kv_tokens() const { return window_tokens > 0 ? window_tokens : kv_blocks * kv_block_size; }
};

// Images of a multimodal run; all 0 without any.
// Experts where popularity is not uniform, or a balancer works; all instances.
struct ExpertResult {
  struct Sample {
    SimTime at;
    std::int64_t step = 0;
    double balancedness = 1;
  };
  bool on = false;
  // Mean rows of a rank ÷ those of the rank with most, summed over layers, as the popularity makes them (a
  // finite batch is less balanced): mean over steps, and the least.
  double balancedness = 0, least_balancedness = 0;
  double changing_steps = 0;   // that the mean is over, of pools whose loads change
  std::vector<Sample> series;  // of the first instance: at the start and at every change
  std::int64_t rebalances = 0, looks_without_change = 0, moved_experts = 0;
  double moved_bytes = 0;
  std::int64_t stall_ns = 0, moving_ns = 0;  // steps waited; weights were on their way
};

struct ImageResult {
  std::uint64_t arrived = 0, tokens = 0;  // images of all requests, and their placeholder tokens
  std::uint64_t kept_prepared = 0;        // were still prepared from an earlier request
  std::uint64_t encoded = 0, embeddings = 0, found = 0;  // encoder: computed (with outputs), found in its
                                                         // cache
  std::uint64_t passes = 0;                              // steps with encoder work
  std::int64_t prepare_ns = 0, prepare_wait_ns = 0;      // CPU time; time that requests waited for their turn
  std::int64_t send_ns = 0;                              // from the API process to the engine's core
  std::int64_t encoder_ns = 0, encoder_launch_ns = 0;    // device time of kernels; of the host to launch them
  std::int64_t cache_size = 0, cache_peak = 0;           // encoder cache of an instance, embeddings
  std::uint64_t fetches = 0;                             // encoder pools: requests whose embeddings travelled
  std::int64_t fetched_bytes = 0;                        // to all ranks together
};

// The host tier of KV blocks, all instances; all 0 without one.
struct OffloadResult {
  std::int64_t device_wait_ns = 0;         // for copies that steps wait for (TensorRT-LLM)
  std::int64_t capacity = 0;               // blocks
  std::uint64_t stored = 0, loaded = 0;    // blocks over the link
  std::uint64_t dropped = 0, refused = 0;  // blocks evicted; stores that found no room
  std::uint64_t loads = 0, deferrals = 0;  // requests that waited for blocks; look-ups put off
};

// Pipeline stages, all instances; 1 stage = all 0.
struct PipelineResult {
  std::int32_t stages = 1;
  std::vector<double> busy;         // by stage: share of the time with any step on any stage; hand-offs apart
  double handoff = 0;               // the same of hand-offs, mean over the stages
  double bubble = 0;                // the rest, mean over the stages
  std::uint64_t empty_batches = 0;  // steps of nobody that took a place in flight
};

// KV that travelled between prefill and decode instances; off in other deployments.
struct KvTransferResult {
  struct Links {  // of one class, both directions counted apart
    std::string link_class;
    std::int64_t used = 0, bytes = 0;  // how many carried anything, and what
    // Of those: bytes carried ÷ what their bandwidth allows from the first arrival to the last finish.
    double utilization = 0, busiest_utilization = 0;
    std::string busiest;
  };
  bool on = false;
  std::uint64_t pulls = 0, failed = 0;  // begun; of them, given up
  std::uint64_t retried = 0;            // requests that were sent again for it
  std::int64_t bytes = 0;
  std::vector<Links> links;
  Distribution queue, prefill, wait, transfer, decode_queue, first_step;  // of completed requests
};

struct RunResult {
  std::uint64_t completed = 0, failed = 0, cancelled = 0, timed_out = 0, rejected = 0;
  SimTime first_arrival, last_finish;
  // Where the measured part begins: the first arrival after the warm-up. All counts and distributions below
  // that speak of requests are of those that arrived from then on; `warmup_requests` came before.
  SimTime measured_from;
  std::uint64_t warmup_requests = 0;
  std::uint64_t input_tokens = 0, output_tokens = 0, cached_tokens = 0;  // of completed requests; prompts,
                                                                         // delivered, found
  Distribution ttft, tpot, itl, e2e, queue;
  // goodput: requests that met every limit of the SLO
  bool has_slo = false;
  std::uint64_t slo_met = 0, slo_output_tokens = 0;
  double prefix_cache_hit_rate = 0;  // hit tokens ÷ queried tokens over all admissions (the engine's own
                                     // metric)
  std::uint64_t preemptions = 0, steps = 0, stretches = 0, events = 0, prices = 0;
  std::vector<PoolResult> pools;
  bool saturated = false;  // the queue grew through the run
  TimeSeries series;
  // Time on the device, all instances: by operator class when the executor can say (name, nanoseconds); idle
  // is the rest.
  std::vector<std::pair<std::string, std::int64_t>> device_time;
  std::int64_t device_busy_ns = 0;
  // Share of that time by the rung of evidence that its prices stand on ("measured", "published", …).
  std::vector<std::pair<std::string, double>> price_sources;
  ImageResult images;
  OffloadResult offload;
  SpeculationCounters speculation;  // all instances
  ExpertResult experts;
  PipelineResult pipeline;
  KvTransferResult transfers;
  FleetResult fleet;
  std::uint64_t first_uses = 0;   // steps that compiled a kernel (first_request_effects), all instances,
  std::int64_t first_use_ns = 0;  // and by how much that held them up
  double kv_wraps = 0;            // blocks handed out ÷ usable blocks, least of all instances
  std::uint64_t digest = 0;
  // Not part of the digest; may differ between equal runs:
  double wall_s = 0;
};

}  // namespace orrery

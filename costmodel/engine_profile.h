// A version of an engine as data: defaults, process layout, memory accounting, host costs. The file
// (engine_profiles/<engine>-<version>.yaml) gives every figure a kind and a source.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/yaml_reader.h"
#include "costmodel/context_parallel.h"
#include "costmodel/data_parallel.h"
#include "costmodel/encoder_settings.h"
#include "costmodel/figure.h"
#include "costmodel/front_end.h"
#include "costmodel/kernel_laws.h"
#include "costmodel/memory_doubt.h"
#include "costmodel/nixl_reads.h"
#include "costmodel/overlap.h"
#include "costmodel/typed_profile.h"

namespace orrery {

// Settings that only TensorRT-LLM has, by its names.
struct TensorRtLlmSettings {
  double free_gpu_memory_fraction = 0.9;  // kv_cache_config.*
  std::int64_t max_tokens = 0;            // 0 = as many as fit
  std::int64_t max_gpu_total_bytes = 0;   // 0 = no limit
  bool enable_partial_reuse = true, copy_on_partial_reuse = true;
  bool max_utilization = false;  // scheduler_config.capacity_scheduler_policy
  bool equal_progress = false;   // scheduler_config.context_chunking_policy
  bool store_at_first_chunk = true;
  std::int64_t window = 0;  // kv_cache_config.max_attention_window: of the layers that do not keep everything
  bool enable_balance = false;  // attention_dp_config.*
  std::int64_t timeout_iters = 50, batching_wait_iters = 10;
};

constexpr std::int64_t longest_stream_interval = 1'000'000;  // tokens

// Scheduler settings after defaults, hardware rules and engine_args. Names are vLLM's; what another engine
// calls otherwise but means the same stands here too (max_num_tokens is max_num_batched_tokens, and so on).
struct SchedulerSettings {
  std::int64_t max_num_batched_tokens = 8192;
  std::int64_t max_num_seqs = 1024;
  std::int64_t max_model_len = 0;  // tokens; from the model's config unless given
  std::int64_t block_size = 16;
  std::int64_t num_gpu_blocks_override = 0;  // 0 = from the memory plan
  std::int64_t kv_cache_memory_bytes = 0;    // 0 = from the memory plan; per GPU
  double gpu_memory_utilization = 0.92;
  bool enable_prefix_caching = true;
  bool enable_chunked_prefill = true;
  bool async_scheduling = true;
  bool enforce_eager = false;
  bool scheduler_reserve_full_isl = true;
  bool disable_hybrid_kv_cache_manager = false;
  bool by_priority = false;                       // scheduling_policy: priority
  std::int64_t long_prefill_token_threshold = 0;  // 0 = off
  double watermark = 0;
  std::vector<std::int64_t> cudagraph_sizes;  // captured sizes, ascending; empty = no graphs
  // Engines that capture decode steps and steps with prompts apart: the sizes above are for decodes then,
  // these for the others, used when not more than widest_padding times the tokens.
  bool graphs_by_phase = false;
  std::vector<std::int64_t> prefill_graph_sizes;
  double widest_padding = 0;
  NamedOptions options;           // of this engine alone, resolved, by its own names
  std::int64_t draft_tokens = 0;  // of a decode, with speculation: graphs hold 1 + that many tokens of each
  bool graphs_without_drafts = false;  // and others that hold one token of each, for when nobody drafts
  bool graphs_of_decodes_only = false;  // vLLM's FULL_DECODE_ONLY: a step with prompts runs in none
  bool pad_to_graph = true;            // false: only a step of exactly a captured size runs in a graph
  TensorRtLlmSettings tensorrt_llm = {};
  EncoderSettings encoder = {};       // of multimodal models
  JointSettings joint = {};           // attention data parallelism
  ContextSettings context = {};       // context parallelism
  std::int64_t kv_offload_bytes = 0;  // host memory for KV blocks, all GPUs of the instance; 0 = none
  bool kv_offload_prompt_only = false;
  bool state_every_block = false;    // with prefix caching: mamba_cache_mode all; else at chunk ends (align)
  bool triton_scan = false;          // gdn_prefill_backend: triton, where FlashInfer's kernel would run
  std::int64_t stream_interval = 1;  // tokens that a stream event waits for (sim/stream_events.h)
};

// Host-side coefficients, microseconds; each term is measured per step on one resource (see pipeline.h).
struct HostCosts {
  // schedule = schedule_base + schedule_per_sequence·running + schedule_per_new_request·new requests
  Figure<Seconds> schedule_base, schedule_per_sequence, schedule_per_new_request;
  // prepare = prepare_base + prepare_per_sequence·sequences (input preparation, copies, RPC when
  // multi-process)
  // (V1 model runner: _v1)
  Figure<Seconds> prepare_base, prepare_per_sequence, prepare_per_sequence_v1, prepare_rpc;
  // launch = launch_graph (a part of every step) and, piecewise, launch_piece per graph and launch_kernel for
  // what stands between them; eager, launch_kernel per kernel, and what a fused expert layer or a collective
  // takes more
  Figure<Seconds> launch_graph, launch_piece, launch_kernel, launch_experts, launch_collective;
  // The part of launch_graph that passes before the first kernel runs on a device that waits for it (input
  // preparation, copies). And the device time between two steps back to back.
  Figure<double> first_kernel;
  Figure<Seconds> step_gap;
  // Launching of a step with prompts beside decodes varies: median of its time over the terms above,
  // deviation of log(time) below the median and above it (a host that is slow for a while), and correlation
  // of one such step with the next.
  Figure<double> launch_jitter_median, launch_jitter_below, launch_jitter_above;
  Figure<double> launch_jitter_correlation;
  Figure<Seconds> stream_gap;  // device: between kernels of a stream, beyond the gap between nodes of a graph
  // copy, update = update_base + update_per_sequence·sequences; gap: end of update to next schedule
  Figure<Seconds> copy, update_base, update_per_sequence, loop_gap;
  // Optional figures: absent = 0, but for ngram_token (not known, n-grams are refused). N-grams, between the
  // device's end and the update: the search, per token of context, and proposing, per step and per sequence.
  Figure<Seconds> ngram_token, ngram_propose, ngram_propose_per_sequence;
  // Each group of KV layers beyond the first: inputs prepared, per step (V1 model runner), and the
  // scheduler's look at a sequence.
  Figure<Seconds> prepare_per_group, schedule_per_group;
  Figure<Seconds> launch_triton;  // what a Triton kernel takes beyond launch_kernel, called from Python
  // client side, frontend none
  Figure<Seconds> input_delay, core_wake, input_per_request;
  // Taking a request into the core's process, per prompt token: time that a core thread which launches steps
  // itself loses if it is at that just then (both are Python of one process).
  Figure<Seconds> input_per_token;
  Figure<Seconds> output_delay, output_per_sequence;
};

// Defaults that depend on the device: the first entry whose condition holds.
struct DeviceDefaults {
  Bytes memory_at_least;  // as the framework reports it
  std::int64_t max_num_batched_tokens = 0, max_num_seqs = 0;
};

// Captured graph sizes: `dense`, then from `from` in steps of `step` below the next range, up to
// min(per_sequence · max_num_seqs, maximum, max_num_batched_tokens).
struct GraphRule {
  struct Range {
    std::int64_t from = 0, step = 0;
  };
  std::vector<std::int64_t> dense;
  std::vector<Range> ranges;
  std::int64_t per_sequence = 2, maximum = 512;
  std::vector<std::pair<std::string, std::int64_t>> maximum_of;  // by architecture; whatever max_num_seqs is
};

// TensorRT-LLM's: `exact` without padding, `padded` with it, then powers of two from `powers_from` below
// max_batch_size, and that.
struct BatchSizeRule {
  std::vector<std::int64_t> exact, padded;
  std::int64_t powers_from = 256, max_batch_size = 128;
  bool enable_padding = false;
};

enum class ArgumentEffect : std::uint8_t { effective, ignored, fixed, elsewhere, refused };
// An argument of the engine, by its Python name.
struct EngineArgument {
  std::string name;
  ArgumentEffect effect = ArgumentEffect::ignored;
  std::vector<std::string> only;  // fixed: the values that are modelled, as written in YAML
  std::string why;  // fixed, refused: what it would change; elsewhere: the scenario key that says it
};

// What the first step of its kind takes more to launch, while a kernel is compiled for it.
struct FirstUseCosts {
  Figure<Seconds> fused_experts;  // a step whose rows (tokens · chosen experts) are no multiple of 16
  Figure<Seconds> mxfp4_experts;  // a step of tokens that, rounded up to 32, were not seen
};

// What a process takes until it is ready to serve, beside its weights.
struct StartCosts {
  Figure<Seconds> engine, engine_fp8_block;  // the latter for FP8 block weights
  Figure<BytesPerSecond> load;               // of weights, an instance's from one source
};

// Pipeline stages: what they add on the host.
struct PipelineCosts {
  Figure<double> execute_share;  // of launch_graph: what a stage spends that does not sample
  Figure<Seconds> message;       // between two stages' launchers, both of which it takes
  Figure<Seconds> empty_wait;    // the core's sleep after a pass that ran nothing
};

// A backend of latent attention, of those that an engine chooses from by the part and the cache's type.
struct LatentBackend {
  std::string name;                 // "FLASHMLA"; "" = the profile does not say which would run
  std::string architecture;         // of the part, "sm_90a"; "" = any
  std::int64_t kv_bytes = 0;        // of an element of the cache; 0 = any
  std::int64_t block_size = 0;      // tokens: the block is this or a multiple of it; 0 = as for other models
  std::int64_t absorbed_chunk = 0;  // prompts of up to so many new tokens run as decodes do
  bool sparse = false;  // of models that attend to a choice of tokens (costmodel/ops/sparse_attention.cpp)
  bool absorbed_graphs = false;  // and so do all steps with prompts that a captured graph holds
  std::string refused;           // why this one is not modelled; "" = it is
};

struct EngineProfile {
  std::string name;       // "vllm-0.24"
  std::string engine;     // "vllm"
  std::string version;    // "0.24.0"
  std::string scheduler;  // a name of sim/policies: "vllm-v1"
  std::string kernels;    // hardware_profiles/tables/<part>/<kernels>; of "a b" the first that the part has
  std::int32_t steps_in_flight = 2;
  bool speculates_on_host = false;      // by n-grams: needs a step's tokens before the next step is composed
  bool single_process_per_gpu = false;  // every rank schedules for itself and launches from the core thread
  bool single_process_at_one_gpu = true;  // the core thread launches kernels itself when the instance has one
                                          // GPU
  SchedulerSettings settings;
  HostCosts host;
  // Memory that is neither weights nor KV, per model-runner generation (bytes per GPU).
  Figure<Bytes> residue_v1, residue_v2;
  MemoryError memory_error;
  std::vector<std::string> v2_architectures;
  std::vector<std::string> ignored_args;  // engine_args given that change no prediction (for
                                          // scenario.resolved.yaml)
  std::string runner;                     // "v1" | "v2", resolved for the model
  double interval_host_error = 0;         // one standard deviation of log(host time)
  std::string description;
  bool static_batches = false;  // made for, and compared with, requests that all arrive at once; runs say so
  std::vector<DeviceDefaults> device_defaults;  // most memory first
  GraphRule graph_rule;
  BatchSizeRule batch_size_rule;
  // Bytes per logit (row × vocabulary entry) that live at once when the sampler is profiled; bytes that the
  // engine subtracts per captured graph (0 = it does not).
  Figure<double> logit_bytes_v1, logit_bytes_v2;
  std::vector<std::pair<std::string, Figure<double>>> operator_factors;  // by operator class; absent = 1
  Figure<Bytes> graph_bytes_v1, graph_bytes_v2;
  Figure<Bytes> graph_layer_bytes_v1;  // more for each layer of the model: a graph's memory is that of its
                                       // nodes
  std::vector<EngineArgument> arguments;
  ImageCosts image_costs;                          // absent: the profile says nothing about images
  std::optional<FrontEndCosts> front_end;          // read with `workload.frontend: openai` only
  std::optional<FirstUseCosts> first_use;          // read with `deployment.first_request_effects` only
  std::optional<StartCosts> start;                 // read where instances start in a run (docs/faults.md)
  std::vector<LatentBackend> latent_backends;      // in order of preference
  LatentBackend latent;                            // resolved, for a model with latent attention
  std::optional<NixlFigures> nixl;                 // read with prefill and decode apart over NIXL only
  std::optional<DataParallelRules> data_parallel;  // absent: parallel.dp is refused
  std::optional<PipelineCosts> pipeline;           // absent: parallel.pp is refused
  OverlapRules overlap;                            // absent: nothing overlaps
  std::vector<KernelLaws> kernel_laws;             // resolved: those of this part, at most one
  std::optional<TypedProfile> typed;  // instead of defaults, graph_rule, logit, graph and residue bytes
};

// By name from engine_profiles/, or a path relative to `folder`, before any model, part or argument is known:
// settings hold the plain defaults. A file may be a whole profile, or one's own figures or another version
// over another (docs/from_steps.md):
//   name, description, base: NAME, version, host: {some of its terms}, operators: {operator class: factor on
//   its time}, v2_architectures: [names] (which model runner serves what; [] as in versions before the V2
//   runner), defaults: {source, some of gpu_memory_utilization, async_scheduling,
//   scheduler_reserve_full_isl}, kernel_laws: as costmodel/kernel_laws.h has them
Result<EngineProfile> load_engine(const std::string& name_or_path, const std::string& folder = ".");
Result<EngineProfile> parse_engine(const std::string& text, const std::string& file_name);

struct HardwareProfile;
struct ModelSpec;
struct ParallelPlan;
// costmodel/latent_backend.cpp, for the loader and the resolvers of arguments. `latent_attention` of a
// profile: {source, backends: [{backend, architecture, kv_bytes, block_size, absorbed_chunk, absorbed_graphs,
// sparse, refused}]}
void read_latent_backends(const Yaml& node, EngineProfile& engine);
void choose_latent_backend(EngineProfile& engine, const HardwareProfile& hardware, const ModelSpec& model,
                           const Yaml& place);
void check_latent_blocks(const EngineProfile& engine, const Yaml& place);
// costmodel/state_arguments.cpp, for models in which some layers keep a state: vLLM's defaults, its arguments
// mamba_…, and the size of blocks that follows. Errors: what is not modelled beside a state.
void set_state_defaults(EngineProfile& engine, const ModelSpec& model);
void apply_state_argument(const std::string& name, const Yaml& value, EngineProfile& engine,
                          ModelSpec& model);
void check_state_blocks(const EngineProfile& engine, const ModelSpec& model, const Yaml& args,
                        const Yaml& place);
void choose_state_blocks(EngineProfile& engine, const ModelSpec& model, const ParallelPlan& plan,
                         const Yaml& args, const Yaml& place);

// Resolves the runner and the settings for a model on a part. `args` is `engine_args` (absent = none); an
// unknown, refused or impossible argument is an error there. Errors that have no argument to blame stand at
// `args` or at `place`.
void resolve_engine(EngineProfile& engine, const HardwareProfile& hardware, ModelSpec& model,
                    const ParallelPlan& plan, const Yaml& args, const Yaml& place);

}  // namespace orrery

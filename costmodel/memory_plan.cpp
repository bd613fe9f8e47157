#include "costmodel/memory_plan.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "base/json.h"
#include "base/text.h"
#include "costmodel/encoder_pricer.h"
#include "costmodel/expanded_context.h"
#include "costmodel/expert_exchange.h"
#include "costmodel/gemma_rules.h"
#include "costmodel/host_block.h"
#include "costmodel/memory_doubt.h"
#include "costmodel/stages.h"
#include "costmodel/state_pool.h"
#include "costmodel/tensorrt_llm_states.h"
#include "costmodel/typed_pools.h"

namespace orrery {

namespace {

constexpr std::int64_t vocabulary_padding = 64;  // vLLM's VocabParallelEmbedding

// How a tensor is spread over tensor-parallel ranks.
enum class Sharding : std::uint8_t { split, replicated, kv_heads };

Sharding sharding_of(const WeightTensor& t) {
  const std::string& n = t.name;
  if (n == "k_proj" || n == "v_proj" || n == "k_proj.bias" || n == "v_proj.bias") return Sharding::kv_heads;
  const bool row_parallel_bias = n == "o_proj.bias" || n == "down_proj.bias" || n == "experts.down.bias";
  const bool down_to_latent = n == "q_a_proj" || n == "kv_a_proj";
  if ((n.ends_with("norm") && n != "state.gated_norm") || n == "draft_projection" ||
      n.starts_with("router") || row_parallel_bias || down_to_latent)
    return Sharding::replicated;
  return Sharding::split;
}

// Widths that a rank's share of the weights follows: of attention and the embedding, of routed experts, and
// of the rest.
struct Widths {
  std::int64_t attention = 1, others = 1, experts = 1, shared = 1, dense = 1, embedding = 1;
};

Widths widths_of(const InstanceSpec& spec) {
  return {.attention = spec.plan.tp,
          .others = spec.head_ranks(),
          .experts = spec.expert_ranks(),
          .shared = spec.shared_expert_ranks(),
          .dense = spec.dense_mlp_ranks(),
          .embedding = embedding_ranks(spec.model, spec.engine, spec.plan)};
}

// SGLang under attention data parallelism: the embedding too is split inside a rank only
// (`get_embedding_tp_kwargs`), MLPs, experts and the head over all GPUs.
bool of_attention(const WeightTensor& t) {
  constexpr std::array names{"q_proj",   "k_proj",   "v_proj",    "o_proj",
                             "q_a_proj", "q_b_proj", "kv_a_proj", "kv_b_proj"};
  return std::any_of(names.begin(), names.end(), [&](const char* name) {
    return t.name == name || t.name == std::string(name) + ".bias";
  });
}

Bytes rank_bytes(const WeightTensor& t, const ModelSpec& model, Widths widths) {
  double share = 1;
  const bool dense = t.name == "gate_proj" || t.name == "up_proj" || t.name == "down_proj";
  const std::int64_t tp = of_attention(t)                        ? widths.attention
                          : t.name == "embed_tokens"             ? widths.embedding
                          : t.name.starts_with("experts.")       ? widths.experts
                          : t.name.starts_with("shared_expert.") ? widths.shared
                          : dense                                ? widths.dense
                                                                 : widths.others;
  switch (sharding_of(t)) {
    case Sharding::split: share = 1.0 / static_cast<double>(tp); break;
    case Sharding::kv_heads:  // at least one head a rank
      share = 1.0 / static_cast<double>(std::min(widths.attention, model.kv_heads));
      break;
    case Sharding::replicated: break;
  }
  if (t.name == "embed_tokens" || t.name == "lm_head") {
    const std::int64_t rows = (t.rows + vocabulary_padding - 1) / vocabulary_padding * vocabulary_padding;
    share *= static_cast<double>(rows) / static_cast<double>(t.rows);
  }
  return t.bytes() * share;
}

// The drafting network's, where there is one.
Bytes draft_weights_of_rank(const InstanceSpec& spec, Widths tp) {
  const std::int64_t layers = draft_layers_loaded(spec.speculation, spec.model);
  Bytes total;
  if (layers == 0) return total;
  for (const WeightTensor& t : draft_globals(spec.speculation, spec.model))
    total += rank_bytes(t, spec.model, tp);
  for (const WeightTensor& t : draft_layer(spec.speculation, spec.model).weights)
    total += rank_bytes(t, spec.model, tp) * static_cast<double>(layers);
  return total;
}

// Redundant experts are whole ones, or parts of one on each of several GPUs; an equal number on each rank and
// layer.
Bytes redundant_experts_of_rank(const InstanceSpec& spec) {
  const ExpertSpec& e = spec.experts;
  return Bytes(e.expert_bytes * static_cast<double>(e.eplb.redundant) * static_cast<double>(e.layers) /
               static_cast<double>(spec.expert_ranks()));
}

Bytes weights_of_rank(const ModelSpec& model, Widths tp) {
  Bytes total;
  for (const WeightTensor& t : model.global_weights) total += rank_bytes(t, model, tp);
  for (const LayerKind& kind : model.layer_kinds) {
    for (const WeightTensor& t : kind.weights)
      total += rank_bytes(t, model, tp) * static_cast<double>(kind.count);
  }
  // Absorbed decodes have copies of kv_b_proj in the activation type (W_UK_T, W_UV in mla_attention.py).
  const LatentAttention& latent = model.latent;
  const std::int64_t copied =
      model.layers * model.heads / tp.attention * latent.rank * (latent.key_dim + latent.value_dim);
  return total + Bytes(static_cast<double>(copied) * bytes_per_element(model.activation_dtype));
}

bool is_tensorrt_llm(const InstanceSpec& spec) { return spec.engine.engine == "tensorrt-llm"; }

// vLLM's modular expert kernels keep two buffers of max_num_batched_tokens · k rows
// (`TritonExperts.workspace_shapes`, v1/worker/workspace.py); the mxfp4 kernels allocate for themselves.
bool has_expert_workspace(const InstanceSpec& spec) {
  return spec.engine.engine == "vllm" && spec.model.quantization != Quantization::mxfp4;
}

// The most that lives at once while one dummy step of max_num_batched_tokens runs, and then the sampler on a
// row per request (`profile_run`, `_dummy_sampler_run`): the widest part of a layer with the hidden states
// and the residual, or the hidden states with the logits in the types that the runner's sampler holds.
Bytes activation_peak(const InstanceSpec& spec) {
  const ModelSpec& m = spec.model;
  const double tp = spec.plan.tp, width = bytes_per_element(m.activation_dtype);
  const SchedulerSettings& s = spec.engine.settings;
  const double tokens = static_cast<double>(s.max_num_batched_tokens);
  // vLLM samples a row per request; TensorRT-LLM's estimation run holds whole prompts, so few rows have
  // logits.
  const std::int64_t prompts =
      (s.max_num_batched_tokens + s.max_model_len - 2) / std::max<std::int64_t>(1, s.max_model_len - 1);
  const double rows = static_cast<double>(
      is_tensorrt_llm(spec) ? prompts : std::min(s.max_num_seqs, s.max_num_batched_tokens));
  const double stream = 2 * static_cast<double>(m.hidden);
  const double kv_heads = static_cast<double>(std::max<std::int64_t>(1, m.kv_heads / spec.plan.tp));
  const double heads = static_cast<double>(m.heads) / tp;
  double widest = stream + (2 * heads + 2 * kv_heads) * static_cast<double>(m.head_dim);
  if (m.latent.present()) {  // queries, keys, values and outputs of a prompt, expanded, with the latent
    const double key = static_cast<double>(m.latent.key_dim + m.latent.rotary_dim);
    widest = stream + static_cast<double>(m.head_dim + m.latent.query_rank) +
             heads * (2 * key + 2 * static_cast<double>(m.latent.value_dim));
  }
  if (m.sparse.present())  // absorbed: queries and outputs of the latent's width, and the indexer's queries
    widest += heads * static_cast<double>(m.head_dim + m.latent.rank) +
              static_cast<double>(2 * m.sparse.heads * m.sparse.dim);
  if (m.output_gate) widest += heads * static_cast<double>(m.head_dim);
  // What one product makes, what is convolved, and the output before and after its norm.
  widest = std::max(widest, stream + static_cast<double>(2 * m.state.channels() + 3 * m.state.values()) / tp);
  double kept = 0;                    // elements of a token that stay allocated between layers and steps
  const double ranks = spec.plan.dp;  // whose tokens the experts see in one dummy step of all
  for (const LayerKind& kind : m.layer_kinds) {
    if (kind.moe) {
      const double made = m.gated_mlp ? 2 : 1;
      const double inner = static_cast<double>(m.expert_intermediate * spec.plan.ep) / (tp * ranks),
                   k = static_cast<double>(m.experts_per_token), hidden = static_cast<double>(m.hidden);
      if (s.joint.exchanges()) {
        // Buffers of grouped rows (`BatchedDeepGemmExperts.workspace_shapes`): every expert's for all tokens
        // that any rank may send, or the rows of a dummy step.
        const double held =
            s.joint.exchange == ExpertExchange::low_latency ? static_cast<double>(m.experts) : k;
        kept = std::max(kept, held * (std::max(made * inner, hidden) + inner));
        widest = std::max(widest, stream + hidden);
      } else if (has_expert_workspace(spec)) {
        kept = std::max(kept, ranks * k * (std::max(inner, hidden) + std::max(made * inner, hidden)));
        widest = std::max(widest, stream + hidden + (ranks > 1 ? ranks * hidden : 0));  // gathered rows
      } else {  // gate_up output and down output share one buffer, the activated rows have their own
        widest = std::max(widest, stream + hidden + k * (std::max(made * inner, hidden) + inner));
      }
    } else {
      widest = std::max(widest, stream + 3 * static_cast<double>(m.intermediate) / tp);
    }
  }
  const Figure<double>& per_logit =
      spec.engine.runner == "v2" ? spec.engine.logit_bytes_v2 : spec.engine.logit_bytes_v1;
  const double forward = std::max(tokens * widest, expanded_context(spec)) * width;
  // With drafts the V1 runner also verifies one a row (rejection_sampler.py, `forward`): two rows of logits
  // and one of bonus logits in 16 bits, in fp32 those as raw logprobs, the drafts' twice, their
  // probabilities, noise and its reciprocal.
  const bool verifies = spec.engine.engine == "vllm" && spec.engine.runner == "v1" && spec.speculation.on();
  const double sampler =
      tokens * static_cast<double>(m.hidden) * width +
      rows * static_cast<double>(m.vocabulary) * (verifies ? 3 * width + 6 * 4 : per_logit.value);
  // A pipeline stage that is not the last has no sampler; one that is not the first keeps buffers for what it
  // receives (`make_empty_intermediate_tensors`): hidden states and residual.
  const double received = spec.stage.first() ? 0 : tokens * stream * width;
  return sparse_workspace(spec) +
         Bytes(received + tokens * kept * width + (spec.stage.last() ? std::max(forward, sampler) : forward));
}

// vLLM's DeepEP managers (distributed/device_communicators/all2all.py of 0.24.0): VLLM_DEEPEP_BUFFER_SIZE_MB,
// 1 GiB, for scale-up links, and the network's: the same, or for low latency a message of every expert for
// every token of a step, to send and to get, twice (csrc/config.hpp of DeepEP).
Bytes exchange_buffers(const InstanceSpec& spec) {
  const JointSettings& joint = spec.engine.settings.joint;
  const Bytes fixed(1024.0 * 1024 * 1024);
  if (joint.exchange_library != "deepep") return Bytes(0);
  if (joint.exchange != ExpertExchange::low_latency) return spec.plan.ep > gpus_of_node ? fixed * 2 : fixed;
  const double message = 2 * static_cast<double>(spec.model.hidden), header = 16;
  const double messages =
      static_cast<double>(spec.model.experts * spec.engine.settings.max_num_batched_tokens);
  return fixed + Bytes(2 * messages * (2 * message + header));
}

Bytes residue(const InstanceSpec& spec) {
  const Bytes engine =
      spec.engine.runner == "v2" ? spec.engine.residue_v2.value : spec.engine.residue_v1.value;
  return spec.exchange == nullptr ? engine : engine + exchange_buffers(spec);
}

// Subtracted for graphs: only by a runner that estimates them, and on NVIDIA only
// (`determine_available_memory`).
Bytes graph_bytes(const InstanceSpec& spec) {
  const Figure<Bytes>& each =
      spec.engine.runner == "v2" ? spec.engine.graph_bytes_v2 : spec.engine.graph_bytes_v1;
  if (spec.hardware.vendor == "amd") return Bytes(0);
  const bool without = spec.engine.settings.graphs_without_drafts;
  const bool one_kind = is_tensorrt_llm(spec) || spec.engine.settings.graphs_of_decodes_only;
  const double kinds = one_kind && !without ? 1 : 2;  // vLLM: full and piecewise
  const double graphs = kinds * static_cast<double>(spec.engine.settings.cudagraph_sizes.size());
  const Bytes layers = spec.engine.runner == "v2" ? Bytes(0) : spec.engine.graph_layer_bytes_v1.value;
  return (each.value + layers * static_cast<double>(spec.model.layers)) * graphs + split_sums(spec);
}

// The drafting network keeps keys and values of its own in the same pool.
std::int64_t kv_layers(const InstanceSpec& spec) {
  return spec.model.attention_layers() +
         draft_layers_cached(spec.speculation, spec.model, spec.engine.engine);
}

Bytes kv_bytes_per_token(const InstanceSpec& spec) {
  return Bytes(spec.model.kv_layer_bytes(spec.plan.tp) * static_cast<double>(kv_layers(spec)) /
               spec.engine.settings.context.cache_ranks);
}

std::string gib(Bytes bytes) { return format_fixed(bytes.value() / (1024.0 * 1024 * 1024), 2) + " GiB"; }

Error infeasible(const std::string& message) {
  return make_error(ErrorKind::infeasible, message, {}, "deployment");
}

// The least tensor-parallel width above the plan's whose weights leave room, 0 when none up to 64 does.
std::int64_t width_that_fits(const InstanceSpec& spec, Bytes room) {
  if (spec.plan.dp * spec.plan.cp > 1) return 0;
  for (std::int64_t tp = spec.plan.tp + 1; tp <= 64; ++tp) {
    if (spec.model.heads % tp != 0) continue;
    if (weights_of_rank(spec.model, {tp, tp, tp, tp, tp, tp}) < room) return tp;
  }
  return 0;
}

Error weights_too_large(const InstanceSpec& spec, const MemoryPlan& plan) {
  const Bytes room = plan.requested - plan.activation_peak - plan.graphs - plan.residue;
  std::string message = "the model does not fit: each " + spec.hardware.name + " has " + gib(plan.requested) +
                        " to give (" + format_number(spec.engine.settings.gpu_memory_utilization) + " of " +
                        gib(plan.total) + "), but weights take " + gib(plan.weights) +
                        " and activations, graphs and the framework " + gib(plan.requested - room) + "; " +
                        gib(Bytes(0) - plan.kv_available) + " too much, before any KV cache";
  const std::int64_t tp = width_that_fits(spec, room);
  if (tp > 0) message += "; parallel.tp: " + std::to_string(tp) + " would fit";
  if (spec.model.quantization == Quantization::none)
    message += (tp > 0 ? ", or " : "; ") + std::string("an 8- or 4-bit quantization");
  return infeasible(message);
}

// The longest sequence that the blocks can hold.
std::int64_t longest_sequence(const InstanceSpec& spec, const MemoryPlan& plan) {
  std::int64_t fits = 0, too_long = plan.kv_blocks * plan.block_size + 1;
  while (too_long - fits > 1) {
    const std::int64_t middle = fits + (too_long - fits) / 2;
    (plan.groups.blocks_of_sequence(middle, spec.engine.settings) <= plan.kv_blocks ? fits : too_long) =
        middle;
  }
  return fits;
}

Error cache_too_small(const InstanceSpec& spec, const MemoryPlan& plan) {
  const bool trt = is_tensorrt_llm(spec);
  const std::string limit = trt ? "max_seq_len" : "max_model_len";
  const std::int64_t length = spec.engine.settings.max_model_len;
  const std::int64_t needed = plan.groups.blocks_of_sequence(length, spec.engine.settings);
  const std::int64_t fits = longest_sequence(spec, plan);
  const Bytes block = plan.kv_bytes_per_token / static_cast<double>(kv_layers(spec)) *
                      static_cast<double>(plan.groups.layers * plan.block_size);
  std::string message = "the KV cache cannot hold one sequence of " + limit + " " + std::to_string(length) +
                        ": that takes " + std::to_string(needed) + " blocks (" +
                        gib(block * static_cast<double>(needed)) + "), and there are " +
                        std::to_string(plan.kv_blocks) + " (" +
                        gib(block * static_cast<double>(std::max<std::int64_t>(0, plan.kv_blocks))) + ")";
  if (fits > 0) message += "; engine_args." + limit + ": " + std::to_string(fits) + " would fit";
  if (plan.blocks_overridden)
    message +=
        std::string(", or a larger ") + (trt ? "kv_cache_config.max_tokens" : "num_gpu_blocks_override");
  else
    message +=
        std::string(fits > 0 ? ", or " : "; ") + "a larger parallel.tp, kv_cache_dtype: fp8, or quantization";
  return infeasible(message);
}

// §4.6 of ../shared/reference/tensorrt_llm_1_2.md: a fraction of what an estimation run with graphs leaves.
// It reckons a token's bytes with head width × KV heads ÷ tp even where heads are replicated; then a second
// line, the same fraction of what is free when the real cache is built, in true bytes, is what binds.
std::int64_t tensorrt_llm_blocks(const InstanceSpec& spec, MemoryPlan& plan, double token_bytes) {
  const TensorRtLlmSettings& t = spec.engine.settings.tensorrt_llm;
  const ModelSpec& m = spec.model;
  const double shared =  // latents are reckoned whole
      m.latent.present()
          ? 1
          : static_cast<double>(m.head_dim * m.kv_heads / spec.plan.tp) /
                static_cast<double>(m.head_dim * std::max<std::int64_t>(1, m.kv_heads / spec.plan.tp));
  const double built = plan.total.value() - plan.weights.value() - plan.residue.value() - plan.states.value();
  double tokens = std::floor(plan.kv_available.value() / (token_bytes * shared));
  tokens = std::min(tokens, std::floor(t.free_gpu_memory_fraction * built / token_bytes));
  if (t.max_gpu_total_bytes > 0)
    tokens = std::min(tokens, std::floor(static_cast<double>(t.max_gpu_total_bytes) / token_bytes));
  if (t.window > 0) return blocks_by_window(spec, plan, tokens * token_bytes);
  if (t.max_tokens > 0 && static_cast<double>(t.max_tokens) <= tokens) {
    tokens = static_cast<double>(t.max_tokens);
    plan.blocks_overridden = true;
  }
  return (static_cast<std::int64_t>(tokens) + plan.block_size - 1) / plan.block_size;
}

// vLLM refuses to start where graphs of a full decode batch could not have a state each
// (config/compilation.py, `resolve_cudagraph_mode_and_sizes`).
Status check_states(const InstanceSpec& spec, const MemoryPlan& plan) {
  const SchedulerSettings& s = spec.engine.settings;
  if (plan.groups.states == 0 || s.cudagraph_sizes.empty() || s.max_num_seqs <= plan.kv_blocks)
    return ok_status();
  return infeasible("max_num_seqs " + std::to_string(s.max_num_seqs) + " is more than the " +
                    std::to_string(plan.kv_blocks) +
                    " blocks of the cache, of which every sequence takes one for its state in each group of "
                    "layers; vLLM does not start then: engine_args.max_num_seqs: " +
                    std::to_string(plan.kv_blocks) + " would");
}

Result<MemoryPlan> plan_stages(const InstanceSpec& spec);

// A prompt takes its blocks whole in both pools. Each has a tier: neither may be empty where there is to be
// one.
Result<MemoryPlan> check_window_pools(const InstanceSpec& spec, const MemoryPlan& plan, std::int64_t needed) {
  if (plan.windowed_blocks < needed)
    return infeasible("the KV cache of the layers with a window holds " +
                      std::to_string(plan.windowed_blocks) + " blocks, and a prompt of max_seq_len takes " +
                      std::to_string(needed) + "; a smaller max_seq_len, or leave out max_attention_window");
  const bool asked = spec.engine.settings.kv_offload_bytes > 0;
  if (!asked || std::min(plan.host_blocks, plan.windowed_host_blocks) > 0) return plan;
  return infeasible(
      "half of kv_cache_config.host_cache_size holds not even one KV block of the layers with "
      "a window, or of the others");
}

}  // namespace

Result<MemoryPlan> plan_memory(const InstanceSpec& spec) {
  if (spec.plan.pp > 1 && spec.stage.of == 1) return plan_stages(spec);
  const SchedulerSettings& s = spec.engine.settings;
  const ModelSpec& m = spec.model;
  MemoryPlan plan;
  plan.total = spec.hardware.memory_total.value;
  plan.requested = Bytes(std::ceil(plan.total.value() * s.gpu_memory_utilization));
  const EncoderMemory encoder = encoder_memory(spec);
  plan.encoder = encoder.weights;
  const Widths widths = widths_of(spec);
  plan.weights = weights_of_rank(m, widths) + draft_weights_of_rank(spec, widths) +
                 redundant_experts_of_rank(spec) + encoder.weights;
  plan.block_size = s.block_size;
  plan.kv_bytes_per_token = kv_bytes_per_token(spec);
  const std::int64_t layers = kv_layers(spec), drafting = layers - m.attention_layers();
  plan.groups = kv_cache_groups(m, spec.engine, drafting);
  // vLLM keeps a state for every draft with a sequence's own; SGLang's stand apart (costmodel/state_pool.h).
  const std::int64_t ahead = spec.engine.engine == "vllm" ? s.draft_tokens : 0;
  plan.state_bytes = Bytes(m.state.bytes(spec.plan.tp, m.activation_dtype, ahead) *
                           static_cast<double>(m.state_layers() * (1 + ahead)));
  if (spec.engine.typed) {
    share_by_fraction(spec, plan);
    if (plan.kv_available.value() <= 0) return weights_too_large(spec, plan);
    ORRERY_TRY_STATUS(check_state_pool(spec, plan));
    if (plan.kv_blocks == 0) return weights_too_large(spec, plan);
    ORRERY_TRY_STATUS(check_pools_of_typed(spec, plan));
    plan.kv_deviation = kv_deviation(spec, plan);
    return plan;
  }
  // vLLM profiles the encoder with its largest items and keeps their outputs while it profiles the step.
  plan.activation_peak =
      encoder.outputs + Bytes(std::max(activation_peak(spec).value(), encoder.activations.value()));
  plan.graphs = graph_bytes(spec);
  plan.residue = residue(spec);
  plan.states = states_of_batch(spec, plan);
  plan.kv_available =
      plan.requested - plan.weights - plan.activation_peak - plan.graphs - plan.residue - plan.states;
  if (is_tensorrt_llm(spec)) plan.kv_available = plan.kv_available * s.tensorrt_llm.free_gpu_memory_fraction;
  if (plan.kv_available.value() <= 0) return weights_too_large(spec, plan);
  const Bytes cache =
      s.kv_cache_memory_bytes > 0 ? Bytes(static_cast<double>(s.kv_cache_memory_bytes)) : plan.kv_available;
  const double page =
      plan.kv_bytes_per_token.value() / static_cast<double>(layers) * static_cast<double>(plan.block_size);
  // Groups of layers share pages; a drafting network's layers (one group then) add theirs.
  plan.kv_blocks = static_cast<std::int64_t>(cache.value() / page) /
                   (plan.groups.layers + (plan.groups.simple() ? drafting : 0));
  if (is_tensorrt_llm(spec))
    plan.kv_blocks = tensorrt_llm_blocks(spec, plan, plan.kv_bytes_per_token.value());
  if (s.num_gpu_blocks_override > 0) {
    plan.kv_blocks = s.num_gpu_blocks_override;
    plan.blocks_overridden = true;
  }
  plan.kv_deviation = kv_deviation(spec, plan);
  const std::int64_t needed = plan.groups.blocks_of_sequence(s.max_model_len, s);
  if (plan.kv_blocks < needed) return cache_too_small(spec, plan);
  ORRERY_TRY_STATUS(check_states(spec, plan));
  plan.window_tokens =
      static_cast<std::int64_t>(static_cast<double>(plan.kv_blocks) / static_cast<double>(needed) *
                                static_cast<double>(s.max_model_len));
  if (plan.windowed_blocks > 0) return check_window_pools(spec, plan, needed);
  // cpu.spec of the offloading connector: a block of all ranks is one block of host memory.
  const double block = host_block_bytes(spec, plan).value() * static_cast<double>(spec.plan.tp);
  plan.host_blocks = static_cast<std::int64_t>(static_cast<double>(s.kv_offload_bytes) / block);
  if (s.kv_offload_bytes > 0 && plan.host_blocks == 0)
    return infeasible(std::string(is_tensorrt_llm(spec) ? "kv_cache_config.host_cache_size of all ranks"
                                                        : "kv_offloading_size") +
                      " holds not even one KV block, which takes " + gib(Bytes(block)));
  return plan;
}

namespace {

// The engine spreads the layers of all workers over groups and gives each worker its layers of them
// (`get_kv_cache_configs`). Where a stage's layers alone would be spread otherwise, what the pool holds is
// not reckoned here.
Status check_stage_groups(const InstanceSpec& spec, const InstanceSpec& stage) {
  const KvCacheGroups whole = kv_cache_groups(spec.model, spec.engine);
  const bool stateful = spec.model.state.present();
  if (!stateful && whole.windowed == 0) return ok_status();
  const KvCacheGroups own = kv_cache_groups(stage.model, spec.engine);
  if (!stateful) {
    if (own.full == whole.full && own.windowed == whole.windowed) return ok_status();
    return invalid_input("stage " + std::to_string(stage.stage.index + 1) + " of " +
                             std::to_string(spec.plan.pp) +
                             " has another mixture of layers with a window and without than the whole model, "
                             "which is not modelled; take a pp that divides the model's pattern of layers",
                         {}, "deployment.parallel.pp");
  }
  if (stage.model.attention_layers() > 0 && stage.model.state_layers() > 0) {
    // SGLang's pool of states is reckoned by the stage with most of them (`_handle_max_mamba_cache`).
    const bool even = spec.engine.engine != "sglang" ||
                      stage.model.state_layers() * spec.plan.pp == spec.model.state_layers();
    if (own.full == whole.full && own.states == whole.states && even) return ok_status();
  }
  return invalid_input(
      "stage " + std::to_string(stage.stage.index + 1) + " of " + std::to_string(spec.plan.pp) + " has " +
          std::to_string(stage.model.state_layers()) + " layers that keep a state and " +
          std::to_string(stage.model.attention_layers()) +
          " that attend, another mixture than the whole model's, which is not modelled; take "
          "a pp that divides the model's pattern of layers",
      {}, "deployment.parallel.pp");
}

// vLLM gives all workers the blocks of the one with least (`get_kv_cache_configs`).
Result<MemoryPlan> plan_stages(const InstanceSpec& spec) {
  MemoryPlan least;
  std::vector<std::int64_t> blocks;
  for (std::int32_t s = 0; s < spec.plan.pp; ++s) {
    const InstanceSpec stage = stage_spec(spec, s);
    ORRERY_TRY_STATUS(check_stage_groups(spec, stage));
    ORRERY_TRY(plan, plan_memory(stage));
    blocks.push_back(plan.kv_blocks);
    if (s > 0 && plan.kv_blocks >= least.kv_blocks) continue;
    least = plan;
    least.stage = stage.stage;
    least.stage_layers = stage.model.layers;
  }
  least.stage_blocks = std::move(blocks);
  return least;
}

}  // namespace

}  // namespace orrery

#include "live/forward/step_forward.h"

#include <algorithm>
#include <utility>

#include "kernels/attention_prefill.h"
#include "kernels/gather_rows.h"
#include "kernels/kv_write.h"
#include "kernels/logits_copy.h"
#include "kernels/quantize.h"
#include "kernels/rms_norm.h"
#include "kernels/rotary.h"
#include "kernels/sample.h"
#include "kernels/silu_mul.h"

namespace orrery {

namespace {
constexpr std::int64_t block = kernels::kv_block_tokens;

Error no_room(const char* what) {
  return make_error(ErrorKind::infeasible, std::string("the device has no room for ") + what);
}
}  // namespace

StepForward::StepForward(const ForwardShape& shape, const ForwardOptions& options,
                         kernels::DeviceMemory& memory)
    : shape_(shape), options_(options), memory_(memory) {}

Result<std::unique_ptr<StepForward>> StepForward::create(const ModelSpec& model,
                                                         const ForwardOptions& options,
                                                         kernels::DeviceMemory& memory) {
  Result<ForwardShape> shape = forward_shape(model, options.ranks, options.rank, options.shares_experts);
  if (!shape) return shape.errors();
  if (options.fp32 && (shape->fp8 || shape->experts > 0 || shape->latent() || shape->ranks > 1))
    return invalid_input("the fp32 forward pass has no code for 8-bit weights, experts, latents or ranks", {},
                         "model");
  std::unique_ptr<StepForward> forward(new StepForward(*shape, options, memory));
  if (Result<Unit> ready = forward->prepare(); !ready) return ready.errors();
  return forward;
}

Result<Unit> StepForward::prepare() {
  std::string why;
  stream_ = kernels::make_step_stream(memory_.device_index(), why);
  if (stream_ == nullptr) return make_error(ErrorKind::unavailable, why);
  wgmma_ = kernels::attention_prefill_wgmma_refusal() == nullptr;
  latent_wgmma_ = kernels::mla_decode_wgmma_refusal() == nullptr && shape_.heads >= kernels::mla_wgmma_heads;
  Result<ForwardWeights> weights = make_weights(shape_, options_.seed, options_.head_spread, memory_);
  if (!weights) return weights.errors();
  weights_ = *weights;
  const std::int64_t turned = shape_.latent() ? kernels::latent_rotary : shape_.head_dim;
  const std::int64_t blocks_of_sequence = (options_.max_positions + block - 1) / block;
  rotary_ = make_rotary_table(blocks_of_sequence * block, turned, memory_);
  if (rotary_ == nullptr) return no_room("the rotary table");
  products_ = std::make_unique<ForwardProducts>(memory_);
  if (!products_->ready()) return no_room("cuBLASLt's workspace");
  if (Result<Unit> scratch = allocate_scratch(); !scratch) return scratch.errors();
  // One block more than the pool: padding attends to it, so it must hold numbers.
  const auto bytes = static_cast<std::size_t>((options_.kv_blocks + 1) * block * shape_.kv_width() * 2);
  const auto of_block = static_cast<std::size_t>(block * shape_.kv_width() * 2);
  for (std::int64_t l = 0; l < shape_.layers; ++l) {
    KvPool pool;
    for (std::uint16_t** cache : {&pool.keys, &pool.values}) {
      if (shape_.latent() && cache == &pool.values) continue;
      auto* memory = static_cast<unsigned char*>(memory_.allocate(bytes));
      if (memory == nullptr) return no_room("the KV pool");
      if (options_.random_kv)
        memory_.fill_random(memory, bytes / 2, "bf16", 1, options_.seed + static_cast<std::uint64_t>(l));
      memory_.fill(memory + bytes - of_block, 0, of_block);
      *cache = reinterpret_cast<std::uint16_t*>(memory);
    }
    pool_.push_back(pool);
  }
  if (options_.fp32) {
    fp32_ =
        Fp32Forward::create(shape_, weights_, rotary_, options_.max_rows + 1, options_.kv_blocks, memory_);
    if (fp32_ == nullptr) return no_room("fp32 copies of the weights");
  }
  if (options_.marks_layers) stream_->hold_marks(static_cast<std::size_t>(shape_.layers));
  const InputLimits limits{options_.max_rows, options_.max_sequences, blocks_of_sequence, options_.kv_blocks};
  const AttentionHeads heads{shape_.heads, shape_.kv_heads, shape_.latent(),
                             latent_wgmma_ ? kernels::mla_wgmma_heads : kernels::mla_plain_heads};
  if (!inputs_.prepare(limits, heads, *stream_, memory_)) return no_room("a step's inputs");
  std::int32_t any = 0;  // fills run in a queue of their own: a download waits for them
  memory_.download(&any, scratch_.tokens, sizeof any);
  return Unit{};
}

Result<Unit> StepForward::allocate_scratch() {
  const std::int64_t rows = ForwardProducts::launched_rows(options_.max_rows) + 1,
                     sampled = ForwardProducts::launched_rows(options_.max_sequences);
  bool room = true;
  for (std::uint16_t** row : {&scratch_.x, &scratch_.residual, &scratch_.zeros, &scratch_.normed}) {
    room = room && allocate(*row, rows * shape_.hidden);
  }
  room = room && allocate(scratch_.qkv, rows * shape_.qkv_width()) &&
         allocate(scratch_.queries, rows * shape_.q_width()) &&
         allocate(scratch_.attended, rows * shape_.attended_width()) &&
         allocate(scratch_.sampled, sampled * shape_.hidden) &&
         allocate(scratch_.logits, sampled * shape_.whole_vocabulary()) &&
         allocate(scratch_.logits_fp32, sampled * shape_.whole_vocabulary()) &&
         allocate(scratch_.tokens, sampled) &&
         allocate(scratch_.sample_partial, sampled * kernels::sample_most_splits) &&
         allocate(scratch_.sample_arrived, sampled);
  room = room && allocate(scratch_.gate_up, rows * 2 * shape_.mlp_width()) &&
         allocate(scratch_.inner, rows * shape_.mlp_width());
  if (shape_.ranks > 1) room = room && allocate(scratch_.logits_part, sampled * shape_.vocabulary);
  if (shape_.experts > 0) room = room && allocate_experts();
  if (shape_.latent()) room = room && allocate_latent();
  if (shape_.experts > 0 && options_.popularity != nullptr)
    room = room && drawn_.prepare(options_.popularity, *stream_, memory_);
  if (shape_.fp8) {
    const std::int64_t width = std::max({shape_.hidden, shape_.q_width(), shape_.intermediate});
    scratch_.scale_stride = (rows + 3) / 4 * 4;  // as the copy engine takes scales
    room = room && allocate(scratch_.eight, rows * width) &&
           allocate(scratch_.scales, scratch_.scale_stride * width / kernels::fp8_group);
  }
  sampled_host_ = static_cast<std::int32_t*>(stream_->host_memory(static_cast<std::size_t>(sampled) * 4));
  if (!room || sampled_host_ == nullptr || !hold_pieces(options_.max_sequences))
    return no_room("a step's activations");
  return Unit{};
}

// Room for the partial results of so many pieces; more than before moves them, and graphs know the old place.
bool StepForward::hold_pieces(std::int64_t slots) {
  piece_slots_ = std::max(2 * piece_slots_, slots);
  const auto rows = static_cast<std::size_t>(piece_slots_ * shape_.heads),
             width = static_cast<std::size_t>(shape_.latent() ? kernels::latent_width : shape_.head_dim);
  scratch_.partial = static_cast<float*>(memory_.allocate(rows * width * 4));
  scratch_.log_sums = static_cast<float*>(memory_.allocate(rows * 4));
  graphs_.clear();
  if (scratch_.partial != nullptr && scratch_.log_sums != nullptr) return true;
  piece_slots_ = 0;
  return false;
}

Result<Unit> StepForward::launch(const StepBatch& batch) {
  stream_->make_current();
  if (drawn_.on()) {
    if (batch.expert_keys.size() != batch.tokens.size())
      return make_error(ErrorKind::internal, "rows whose experts are drawn have keys");
    drawn_.follow(batch.expert_epoch);
  }
  Result<DeviceStep> step = inputs_.put(batch);
  if (!step) return step.errors();
  if (step->slots_used > piece_slots_) {
    const bool room = hold_pieces(step->slots_used);
    if (Result<Unit> met = meet(room, no_room("attention's partial results")); !met) return met.errors();
  }
  counts_.clear();
  counting_ = false;
  if (options_.link != nullptr) {
    if (Result<Unit> ready = rehearse(*step); !ready) return ready.errors();
  }
  counting_ = options_.count_launches;
  if (batch.padded_rows > 0) {
    if (Result<Unit> ran = run_graph(*step); !ran) return ran.errors();
  } else {
    stream_->begin_step();
    launch_layers(*step, stream_->handle());
  }
  launch_head(*step, stream_->handle());
  stream_->end_step();
  last_sampled_ = step->sampled;
  stream_->download(sampled_host_, scratch_.tokens, static_cast<std::size_t>(step->sampled) * 4);
  std::string why = products_->take_refusal();
  if (why.empty() && options_.link != nullptr) why = options_.link->take_refusal();
  if (!why.empty()) return make_error(ErrorKind::unavailable, why);
  return Unit{};
}

// A new graph's launches run once by themselves first: products are planned, and time their candidates, where
// nothing is captured. They write what the graph writes.
Result<Unit> StepForward::run_graph(const DeviceStep& step) {
  const auto body = [this, step](kernels::Stream stream) { launch_layers(step, stream); };
  auto& graph = graphs_[step.key()];
  if (graph == nullptr) {
    const bool counting = std::exchange(counting_, false);
    if (options_.link == nullptr) body(stream_->handle());  // else it was rehearsed
    std::string why;
    graph = stream_->capture(body, why);
    ++captured_;
    counting_ = counting;
    if (Result<Unit> met = meet(graph != nullptr, make_error(ErrorKind::unavailable, why)); !met)
      return met.errors();
  }
  stream_->begin_step();
  if (counting_) {
    launching_ = false;
    launch_layers(step, stream_->handle());
    launching_ = true;
  }
  const bool counting = std::exchange(counting_, false);  // the simulator's replay runs the body
  stream_->replay(*graph);
  counting_ = counting;
  return Unit{};
}

Result<std::span<const std::int32_t>> StepForward::sampled() {
  std::string why;
  if (!stream_->wait(why)) return make_error(ErrorKind::unavailable, why);
  return std::span<const std::int32_t>(sampled_host_, static_cast<std::size_t>(last_sampled_));
}

std::vector<float> StepForward::logits() {
  std::vector<float> values(static_cast<std::size_t>(last_sampled_ * shape_.whole_vocabulary()));
  memory_.download(values.data(), scratch_.logits_fp32, values.size() * sizeof(float));
  return values;
}

std::vector<void*> StepForward::kv_pools() const {
  std::vector<void*> pools;
  for (const KvPool& pool : pool_) {
    pools.push_back(pool.keys);
    if (pool.values != nullptr) pools.push_back(pool.values);
  }
  return pools;
}

void StepForward::count(const char* use, OpClass op_class, double flops, double memory_bytes,
                        double activation_bytes, double link_bytes) {
  if (timing_) time_from_here(use, op_class);
  if (counting_) counts_.push_back({use, op_class, flops, memory_bytes, activation_bytes, link_bytes});
}

void StepForward::launch_layers(const DeviceStep& step, kernels::Stream stream) {
  if (fp32_ != nullptr) return fp32_->layers(step, stream);
  embed(step, stream);
  // What the first layer adds is zero: the step graph has one kind of norm, and this is its work.
  const std::uint16_t* residual = scratch_.zeros;
  for (std::size_t l = 0; l < weights_.layers.size(); ++l) {
    const LayerWeights& layer = weights_.layers[l];
    norm("input_norm", residual, layer.input_norm, &layer.qkv, step, stream);
    residual = scratch_.residual;
    shape_.latent() ? latent_attention(l, step, stream) : attention(l, step, stream);
    if (options_.marks_layers && step.chunk_rows > 0 && together_) {
      stream_->mark(l);
      launched_layers_ = static_cast<std::int64_t>(l) + 1;
    }
    if (layer.o.fp8())
      quantise("o_quantize", scratch_.attended, shape_.attended_width(), step.rows, eight_bits(), stream);
    multiply("o_proj", layer.o, scratch_.attended, scratch_.x, step.rows, step.row_range, stream);
    sum_over_ranks("attention_all_reduce", step.rows, stream);
    const bool moe = layer.router.data != nullptr;
    norm("post_norm", residual, layer.post_norm, moe ? nullptr : &layer.gate_up, step, stream);
    moe ? feed_experts(l, step, stream) : feed_forward(layer.gate_up, layer.down, false, step, stream);
    sum_over_ranks(moe ? "moe_all_reduce" : "mlp_all_reduce", step.rows, stream);
  }
  norm("final_norm", residual, weights_.final_norm, nullptr, step, stream);
}

void StepForward::launch_head(const DeviceStep& step, kernels::Stream stream) {
  if (step.sampled == 0) return;
  const double rows = step.sampled, vocabulary = static_cast<double>(shape_.whole_vocabulary());
  if (fp32_ != nullptr)
    fp32_->head(step, scratch_.logits_fp32, stream);
  else
    make_logits(step, stream);
  kernels::SampleLaunch sample;
  sample.logits = scratch_.logits_fp32;
  sample.tokens = scratch_.tokens;
  sample.partial = scratch_.sample_partial;
  sample.arrived = scratch_.sample_arrived;
  sample.rows = step.sampled;
  sample.vocabulary = static_cast<std::int32_t>(shape_.whole_vocabulary());
  count("argmax", OpClass::sampling, 0, 0, rows * vocabulary * 4);
  kernels::launch_sample(sample, stream);
}

void StepForward::make_logits(const DeviceStep& step, kernels::Stream stream) {
  const double rows = step.sampled, hidden = static_cast<double>(shape_.hidden),
               vocabulary = static_cast<double>(shape_.whole_vocabulary());
  kernels::GatherRowsLaunch gather;
  gather.source = scratch_.normed;
  gather.indices = step.sampled_rows;
  gather.out = scratch_.sampled;
  gather.row_bytes = shape_.hidden * 2;
  gather.rows = step.sampled;
  gather.source_rows = step.rows;
  count("sample_gather", OpClass::sampling, 0, 0, rows * hidden * 2 * bf16_bytes);
  kernels::launch_gather_rows(gather, stream);
  multiply("lm_head", weights_.head, scratch_.sampled,
           shape_.ranks > 1 ? scratch_.logits_part : scratch_.logits, step.sampled, step.sampled_range,
           stream);
  if (shape_.ranks > 1) gather_logits(step, stream);
  count("logits_fp32", OpClass::sampling, 0, 0, rows * vocabulary * (bf16_bytes + 4));
  kernels::launch_logits_copy(
      {scratch_.logits, scratch_.logits_fp32, std::int64_t{step.sampled} * shape_.whole_vocabulary()},
      stream);
}

void StepForward::embed(const DeviceStep& step, kernels::Stream stream) {
  const double bytes = step.rows * static_cast<double>(shape_.hidden) * bf16_bytes;
  count("embedding", OpClass::elementwise, 0, bytes, bytes);
  if (!launching_) return sum_over_ranks("embedding_all_reduce", step.rows, stream);
  kernels::GatherRowsLaunch gather;
  gather.source = weights_.embedding.data;
  gather.indices = step.tokens;
  gather.out = scratch_.x;
  gather.row_bytes = shape_.hidden * 2;
  gather.rows = step.rows;
  gather.source_rows = static_cast<std::int32_t>(shape_.vocabulary);
  gather.first_index = shape_.rank * gather.source_rows;  // another rank's token: zeros
  kernels::launch_gather_rows(gather, stream);
  sum_over_ranks("embedding_all_reduce", step.rows, stream);
}

kernels::Fp8Output StepForward::eight_bits() const {
  return {kernels::Fp8Scaling::group, scratch_.eight, scratch_.scales, 1, scratch_.scale_stride};
}

void StepForward::norm(const char* use, const std::uint16_t* residual, const std::uint16_t* weight,
                       const Weight* reader, const DeviceStep& step, kernels::Stream stream) {
  const bool quantised = reader != nullptr && reader->fp8();
  const double bytes = 3 * bf16_bytes + (quantised ? 1 : bf16_bytes);
  count(use, OpClass::elementwise, 0, 0, step.rows * static_cast<double>(shape_.hidden) * bytes);
  if (!launching_) return;
  kernels::RmsNormLaunch launch;
  launch.x = scratch_.x;
  launch.residual = residual;
  launch.residual_out = scratch_.residual;
  launch.weight = weight;
  launch.out = scratch_.normed;
  if (quantised) launch.quantized = eight_bits();
  launch.rows = step.rows;
  launch.columns = static_cast<std::int32_t>(shape_.hidden);
  launch.epsilon = norm_epsilon;
  kernels::launch_rms_norm(launch, stream);
}

void StepForward::quantise(const char* use, const std::uint16_t* from, std::int64_t width, std::int32_t rows,
                           const kernels::Fp8Output& to, kernels::Stream stream) {
  count(use, OpClass::elementwise, 0, 0, rows * static_cast<double>(width) * (bf16_bytes + 1));
  if (!launching_) return;
  kernels::QuantizeLaunch launch;
  launch.x = from;
  launch.out = to;
  launch.rows = rows;
  launch.columns = static_cast<std::int32_t>(width);
  kernels::launch_quantize(launch, stream);
}

// What 8-bit weights multiply was quantised into scratch just before.
void StepForward::multiply(const char* use, const Weight& weight, const std::uint16_t* in, std::uint16_t* out,
                           std::int32_t rows, const std::int32_t* range, kernels::Stream stream) {
  const double m = rows, n = static_cast<double>(weight.n), k = static_cast<double>(weight.k);
  count(use, OpClass::gemm, 2 * m * n * k, weight.bytes(),
        m * (k * (weight.fp8() ? 1 : bf16_bytes) + n * bf16_bytes));
  if (!launching_) return;
  ActivationRows operand{in, nullptr, 0};
  if (weight.fp8()) operand = {scratch_.eight, scratch_.scales, scratch_.scale_stride};
  products_->multiply(weight, operand, out, rows, range, stream);
}

void StepForward::attention(std::size_t index, const DeviceStep& step, kernels::Stream stream) {
  const LayerWeights& layer = weights_.layers[index];
  multiply("qkv_proj", layer.qkv, scratch_.normed, scratch_.qkv, step.rows, step.row_range, stream);
  rotate(layer, step, stream);
  write_kv(pool_[index], step, stream);
  attend(pool_[index], step, stream);
}

// Queries become dense, for attention; keys stay where the product left them.
void StepForward::rotate(const LayerWeights& layer, const DeviceStep& step, kernels::Stream stream) {
  const double width = static_cast<double>(shape_.q_width() + shape_.kv_width());
  count("rotary", OpClass::elementwise, 0, 0, step.rows * width * 2 * bf16_bytes);
  if (!launching_) return;
  kernels::RotaryLaunch launch;
  launch.qkv = scratch_.qkv;
  launch.out = scratch_.queries;
  launch.k_out = scratch_.qkv + shape_.q_width();
  launch.q_weight = layer.q_norm;
  launch.k_weight = layer.k_norm;
  launch.positions = step.positions;
  launch.cos_sin = rotary_;
  launch.in_stride = shape_.qkv_width();
  launch.out_stride = shape_.q_width();
  launch.tokens = step.rows;
  launch.heads = static_cast<std::int32_t>(shape_.heads);
  launch.kv_heads = static_cast<std::int32_t>(shape_.kv_heads);
  launch.head_dim = static_cast<std::int32_t>(shape_.head_dim);
  launch.epsilon = norm_epsilon;
  kernels::launch_rotary(launch, stream);
}

void StepForward::write_kv(const KvPool& pool, const DeviceStep& step, kernels::Stream stream) {
  const double bytes = step.rows * 2 * static_cast<double>(shape_.kv_width()) * bf16_bytes;
  count("kv_write", OpClass::elementwise, 0, bytes, bytes);
  if (!launching_) return;
  kernels::KvWriteLaunch launch;
  launch.keys = scratch_.qkv + shape_.q_width();
  launch.values = launch.keys + shape_.kv_width();
  launch.slots = step.slots;
  launch.key_cache = pool.keys;
  launch.value_cache = pool.values;
  launch.in_stride = shape_.qkv_width();
  launch.tokens = step.rows;
  launch.width = static_cast<std::int32_t>(shape_.kv_width());
  launch.block_size = block;
  launch.head_dim = static_cast<std::int32_t>(shape_.head_dim);
  kernels::launch_kv_write(launch, stream);
}

void StepForward::feed_forward(const Weight& gate_up, const Weight& down, bool shared, const DeviceStep& step,
                               kernels::Stream stream) {
  multiply(shared ? "shared_gate_up_proj" : "gate_up_proj", gate_up, scratch_.normed, scratch_.gate_up,
           step.rows, step.row_range, stream);
  const bool quantised = down.fp8();
  count(shared ? "shared_silu_mul" : "silu_mul", OpClass::elementwise, 0, 0,
        step.rows * static_cast<double>(down.k) * (2 * bf16_bytes + (quantised ? 1 : bf16_bytes)));
  if (launching_) {
    kernels::SiluMulLaunch launch;
    launch.gate_up = scratch_.gate_up;
    launch.out = scratch_.inner;
    if (quantised) launch.quantized = eight_bits();
    launch.rows = step.rows;
    launch.columns = static_cast<std::int32_t>(down.k);
    kernels::launch_silu_mul(launch, stream);
  }
  multiply(shared ? "shared_down_proj" : "down_proj", down, scratch_.inner,
           shared ? experts_.shared : scratch_.x, step.rows, step.row_range, stream);
}

}  // namespace orrery

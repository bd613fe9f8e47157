#include "live/forward/fp32_forward.h"

#include <cmath>

#include "kernels/gather_rows.h"
#include "kernels/plain_fp32.h"
#include "kernels/small_floats.h"

namespace orrery {

namespace {

class Copier {
 public:
  explicit Copier(kernels::DeviceMemory& memory) : memory_(memory) {}
  bool room() const { return room_; }

  // NaNs until something is written, as a pool has.
  float* floats(std::int64_t count) {
    auto* made = static_cast<float*>(memory_.allocate(static_cast<std::size_t>(count) * sizeof(float)));
    room_ = room_ && made != nullptr;
    return made;
  }
  float* zeros(std::int64_t count) {
    float* made = floats(count);
    if (room_) memory_.fill(made, 0, static_cast<std::size_t>(count) * sizeof(float));
    return made;
  }
  float* widened(const void* from, std::int64_t count) {
    if (from == nullptr) return nullptr;
    std::vector<std::uint16_t> bits(static_cast<std::size_t>(count));
    memory_.download(bits.data(), from, bits.size() * 2);
    std::vector<float> values;
    values.reserve(bits.size());
    for (const std::uint16_t each : bits) values.push_back(kernels::bf16_to_float(each));
    float* made = floats(count);
    if (room_) memory_.upload(made, values.data(), values.size() * sizeof(float));
    return made;
  }

 private:
  kernels::DeviceMemory& memory_;
  bool room_ = true;
};

}  // namespace

std::unique_ptr<Fp32Forward> Fp32Forward::create(const ForwardShape& shape, const ForwardWeights& weights,
                                                 const float* rotary, std::int64_t rows,
                                                 std::int64_t kv_blocks, kernels::DeviceMemory& memory) {
  std::unique_ptr<Fp32Forward> made(new Fp32Forward(shape));
  Copier copier(memory);
  const auto matrix = [&](const Weight& w) {
    return Matrix{copier.widened(w.data, w.n * w.k), static_cast<std::int32_t>(w.n),
                  static_cast<std::int32_t>(w.k)};
  };
  made->embedding_ = matrix(weights.embedding);
  made->head_ = matrix(weights.head);
  made->final_norm_ = copier.widened(weights.final_norm, shape.hidden);
  made->rotary_ = rotary;
  const std::int64_t of_block = kernels::kv_block_tokens * shape.kv_width();
  for (const LayerWeights& w : weights.layers) {
    Layer layer;
    layer.input_norm = copier.widened(w.input_norm, shape.hidden);
    layer.post_norm = copier.widened(w.post_norm, shape.hidden);
    layer.q_norm = copier.widened(w.q_norm, shape.head_dim);
    layer.k_norm = copier.widened(w.k_norm, shape.head_dim);
    layer.qkv = matrix(w.qkv);
    layer.o = matrix(w.o);
    layer.gate_up = matrix(w.gate_up);
    layer.down = matrix(w.down);
    for (float** cache : {&layer.keys, &layer.values}) {
      *cache = copier.floats((kv_blocks + 1) * of_block);
      // Padding attends to the block behind the pool.
      if (copier.room())
        memory.fill(*cache + kv_blocks * of_block, 0, static_cast<std::size_t>(of_block) * sizeof(float));
    }
    made->layers_.push_back(layer);
  }
  for (float** row : {&made->x_, &made->residual_, &made->zeros_, &made->normed_, &made->sampled_})
    *row = copier.zeros(rows * shape.hidden);
  made->qkv_ = copier.zeros(rows * shape.qkv_width());
  made->queries_ = copier.zeros(rows * shape.q_width());
  made->attended_ = copier.zeros(rows * shape.q_width());
  made->gate_up_ = copier.zeros(rows * 2 * shape.intermediate);
  made->inner_ = copier.zeros(rows * shape.intermediate);
  return copier.room() ? std::move(made) : nullptr;
}

void Fp32Forward::multiply(const Matrix& weights, const float* in, float* out, std::int32_t rows,
                           kernels::Stream stream) {
  kernels::plain_product({in, weights.data, out, rows, weights.n, weights.k}, stream);
}

void Fp32Forward::norm(const float* residual, const float* weight, const DeviceStep& step,
                       kernels::Stream stream) const {
  kernels::PlainNorm launch;
  launch.x = x_;
  launch.residual = residual;
  launch.weight = weight;
  launch.residual_out = residual_;
  launch.out = normed_;
  launch.rows = step.rows;
  launch.columns = static_cast<std::int32_t>(shape_.hidden);
  launch.epsilon = norm_epsilon;
  kernels::plain_norm(launch, stream);
}

void Fp32Forward::attend(const Layer& layer, const DeviceStep& step, kernels::Stream stream) const {
  kernels::PlainHeads heads;
  heads.qkv = qkv_;
  heads.q_weight = layer.q_norm;
  heads.k_weight = layer.k_norm;
  heads.cos_sin = rotary_;
  heads.queries = queries_;
  heads.keys = layer.keys;
  heads.values = layer.values;
  heads.positions = step.positions;
  heads.slots = step.slots;
  heads.rows = step.rows;
  heads.heads = static_cast<std::int32_t>(shape_.heads);
  heads.kv_heads = static_cast<std::int32_t>(shape_.kv_heads);
  heads.head_dim = static_cast<std::int32_t>(shape_.head_dim);
  heads.epsilon = norm_epsilon;
  kernels::plain_heads(heads, stream);
  kernels::PlainAttention attention;
  attention.queries = queries_;
  attention.keys = layer.keys;
  attention.values = layer.values;
  attention.out = attended_;
  attention.positions = step.positions;
  attention.tables = step.tables;
  attention.table_of_row = step.table_of_row;
  attention.table_stride = step.table_stride;
  attention.rows = step.rows;
  attention.heads = heads.heads;
  attention.kv_heads = heads.kv_heads;
  attention.head_dim = heads.head_dim;
  attention.softmax_scale = static_cast<float>(1 / std::sqrt(static_cast<double>(shape_.head_dim)));
  kernels::plain_attention(attention, stream);
}

void Fp32Forward::layers(const DeviceStep& step, kernels::Stream stream) const {
  kernels::GatherRowsLaunch gather;
  gather.source = embedding_.data;
  gather.indices = step.tokens;
  gather.out = x_;
  gather.row_bytes = shape_.hidden * 4;
  gather.rows = step.rows;
  gather.source_rows = embedding_.n;
  kernels::launch_gather_rows(gather, stream);
  const float* residual = zeros_;
  for (const Layer& layer : layers_) {
    norm(residual, layer.input_norm, step, stream);
    residual = residual_;
    multiply(layer.qkv, normed_, qkv_, step.rows, stream);
    attend(layer, step, stream);
    multiply(layer.o, attended_, x_, step.rows, stream);
    norm(residual, layer.post_norm, step, stream);
    multiply(layer.gate_up, normed_, gate_up_, step.rows, stream);
    kernels::plain_gate({gate_up_, inner_, step.rows, static_cast<std::int32_t>(shape_.intermediate)},
                        stream);
    multiply(layer.down, inner_, x_, step.rows, stream);
  }
  norm(residual, final_norm_, step, stream);
}

void Fp32Forward::head(const DeviceStep& step, float* logits, kernels::Stream stream) const {
  kernels::GatherRowsLaunch gather;
  gather.source = normed_;
  gather.indices = step.sampled_rows;
  gather.out = sampled_;
  gather.row_bytes = shape_.hidden * 4;
  gather.rows = step.sampled;
  gather.source_rows = step.rows;
  kernels::launch_gather_rows(gather, stream);
  multiply(head_, sampled_, logits, step.sampled, stream);
}

}  // namespace orrery

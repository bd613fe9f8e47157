#include "kernels/plain_fp32.h"

#include "kernels/gpu_runtime.h"

namespace orrery::kernels {

namespace {

constexpr unsigned threads = 64;
constexpr float log2_e = 1.44269504F;

__global__ void __launch_bounds__(threads) norm_kernel(PlainNorm a) {
  const std::int64_t at = std::int64_t{blockIdx.x} * a.columns;
  float squares = 0;
  for (int i = static_cast<int>(threadIdx.x); i < a.columns; i += static_cast<int>(threads)) {
    const float sum = a.x[at + i] + a.residual[at + i];
    a.residual_out[at + i] = sum;
    squares += sum * sum;
  }
  const float mean = gpu_block_sum(squares) / static_cast<float>(a.columns);
  const float factor = 1.0F / gpu_sqrt(mean + a.epsilon);
  for (int i = static_cast<int>(threadIdx.x); i < a.columns; i += static_cast<int>(threads)) {
    a.out[at + i] = a.residual_out[at + i] * factor * a.weight[i];
  }
}

__global__ void __launch_bounds__(threads) product_kernel(PlainProduct a) {
  const GpuPlace place = gpu_place(gpu_thread_index(), static_cast<unsigned>(a.n));
  if (place.row >= static_cast<unsigned>(a.rows)) return;
  const float* in = a.in + std::int64_t{place.row} * a.k;
  const float* weights = a.weights + std::int64_t{place.vector} * a.k;
  float sum = 0;
  for (int i = 0; i < a.k; ++i) sum += in[i] * weights[i];
  a.out[std::int64_t{place.row} * a.n + place.vector] = sum;
}

// A head of q or k, normed and turned, to `to`.
GPU_DEVICE void turn_head(const PlainHeads& a, const float* x, const float* weight, const float* table,
                          float* to) {
  float factor = 1;
  if (weight != nullptr) {
    float squares = 0;
    for (int i = 0; i < a.head_dim; ++i) squares += x[i] * x[i];
    factor = 1.0F / gpu_sqrt(squares / static_cast<float>(a.head_dim) + a.epsilon);
  }
  const int half = a.head_dim / 2;
  for (int i = 0; i < half; ++i) {
    const float first = x[i] * factor * (weight != nullptr ? weight[i] : 1.0F);
    const float second = x[i + half] * factor * (weight != nullptr ? weight[i + half] : 1.0F);
    to[i] = first * table[i] - second * table[half + i];
    to[i + half] = second * table[i] + first * table[half + i];
  }
}

// A thread a head of q, k or v.
__global__ void __launch_bounds__(threads) heads_kernel(PlainHeads a) {
  const GpuPlace place = gpu_place(gpu_thread_index(), static_cast<unsigned>(a.heads + 2 * a.kv_heads));
  if (place.row >= static_cast<unsigned>(a.rows)) return;
  const int head = static_cast<int>(place.vector);
  const std::int64_t row = place.row, slot = a.slots[row], width = a.head_dim;
  const float* x = a.qkv + (row * (a.heads + 2 * a.kv_heads) + head) * width;
  const float* table = a.cos_sin + a.positions[row] * width;
  if (head < a.heads) return turn_head(a, x, a.q_weight, table, a.queries + (row * a.heads + head) * width);
  if (slot < 0) return;
  if (head < a.heads + a.kv_heads)
    return turn_head(a, x, a.k_weight, table, a.keys + (slot * a.kv_heads + head - a.heads) * width);
  float* to = a.values + (slot * a.kv_heads + head - a.heads - a.kv_heads) * width;
  for (int i = 0; i < a.head_dim; ++i) to[i] = x[i];
}

// A thread eight dimensions of a row's head, and all of its scores: registers cannot be indexed.
__global__ void __launch_bounds__(threads) attention_kernel(PlainAttention a) {
  const unsigned parts = static_cast<unsigned>(a.head_dim) / 8;
  const GpuPlace place = gpu_place(gpu_thread_index(), static_cast<unsigned>(a.heads) * parts);
  if (place.row >= static_cast<unsigned>(a.rows)) return;
  const std::int64_t row = place.row, head = place.vector / parts, width = a.head_dim;
  const std::int64_t kv_head = head / (a.heads / a.kv_heads), first = place.vector % parts * 8;
  const float* query = a.queries + (row * a.heads + head) * width;
  const std::int32_t* table = a.tables + a.table_of_row[row] * a.table_stride;
  float largest = -gpu_infinity, sum = 0;
  GpuFloat8 out{};
  for (std::int64_t token = 0; token <= a.positions[row]; ++token) {
    const std::int64_t slot =
        std::int64_t{table[token / kv_block_tokens]} * kv_block_tokens + token % kv_block_tokens;
    const std::int64_t at = (slot * a.kv_heads + kv_head) * width;
    float score = 0;
    for (int i = 0; i < a.head_dim; ++i) score += query[i] * a.keys[at + i];
    score *= a.softmax_scale * log2_e;
    // A NaN that nobody should have read must show.
    const float before = largest;
    largest = score > largest || score != score ? score : largest;
    const float shrink = sum > 0 ? gpu_exp2(before - largest) : 0.0F, weight = gpu_exp2(score - largest);
    sum = sum * shrink + weight;
    GPU_UNROLL for (int i = 0; i < 8; ++i) {
      out.value[i] = out.value[i] * shrink + weight * a.values[at + first + i];
    }
  }
  GPU_UNROLL for (int i = 0; i < 8; ++i) {
    a.out[(row * a.heads + head) * width + first + i] = out.value[i] / sum;
  }
}

__global__ void __launch_bounds__(threads) gate_kernel(PlainGate a) {
  const GpuPlace place = gpu_place(gpu_thread_index(), static_cast<unsigned>(a.columns));
  if (place.row >= static_cast<unsigned>(a.rows)) return;
  const float* row = a.gate_up + std::int64_t{place.row} * 2 * a.columns;
  const float gate = row[place.vector], up = row[static_cast<unsigned>(a.columns) + place.vector];
  a.out[std::int64_t{place.row} * a.columns + place.vector] = gate / (1.0F + gpu_exp2(-gate * log2_e)) * up;
}

}  // namespace

void plain_norm(const PlainNorm& a, void* stream) {
  gpu_launch(norm_kernel, {static_cast<unsigned>(a.rows)}, threads, stream, a);
}
void plain_product(const PlainProduct& a, void* stream) {
  gpu_launch(product_kernel, {gpu_blocks_for(std::int64_t{a.rows} * a.n, threads)}, threads, stream, a);
}
void plain_heads(const PlainHeads& a, void* stream) {
  const std::int64_t heads = std::int64_t{a.rows} * (a.heads + 2 * a.kv_heads);
  gpu_launch(heads_kernel, {gpu_blocks_for(heads, threads)}, threads, stream, a);
}
void plain_attention(const PlainAttention& a, void* stream) {
  gpu_launch(attention_kernel, {gpu_blocks_for(std::int64_t{a.rows} * a.heads * (a.head_dim / 8), threads)},
             threads, stream, a);
}
void plain_gate(const PlainGate& a, void* stream) {
  gpu_launch(gate_kernel, {gpu_blocks_for(std::int64_t{a.rows} * a.columns, threads)}, threads, stream, a);
}

}  // namespace orrery::kernels

#include "kernels/expert_slots.h"

#include "kernels/fp8_quantize.h"
#include "kernels/gpu_peer.h"

namespace orrery::kernels {

namespace {

constexpr unsigned threads = 256, ahead = 4;

// The epoch of this launch, which block and launch keep for themselves: a kind of launch has the same blocks
// in every call. All threads call it.
GPU_DEVICE std::uint32_t next_epoch(const ExpertSlots& s, unsigned kind) {
  std::uint32_t* word = s.epochs + kind * expert_most_blocks + blockIdx.x;
  const std::uint32_t epoch = *word + 1;
  gpu_barrier();
  if (threadIdx.x == 0) *word = epoch;
  return epoch;
}

GPU_DEVICE int local_experts(const ExpertSlots& s) { return s.experts / s.ranks; }
GPU_DEVICE int capacity(const ExpertSlots& s) { return s.ranks * s.most_tokens; }

GPU_DEVICE unsigned char* arriving_row(const ExpertSlots& s, std::uint32_t epoch, int expert, int from,
                                       int row) {
  const int local = local_experts(s), owner = expert / local;
  const std::int64_t place =
      ((std::int64_t{epoch % 2} * local + expert % local) * s.ranks + from) * s.most_tokens + row;
  return s.rows[owner] + place * s.row_bytes;
}

// A peer may be one dispatch ahead, so counts have halves too.
GPU_DEVICE int count_place(const ExpertSlots& s, std::uint32_t epoch, int expert, int from) {
  return (static_cast<int>(epoch % 2) * local_experts(s) + expert) * s.ranks + from;
}

// Rows that this rank's earlier tokens send to the expert: where the next one goes. Lanes of a warp together.
GPU_DEVICE int rows_before(const ExpertDispatchLaunch& a, int token, int expert) {
  float before = 0;  // exact: far below 2²⁴
  const int end = token * a.slots.top_k;
  for (int i = static_cast<int>(gpu_lane()); i < end; i += GPU_WARP)
    before += a.chosen[i] == expert ? 1.0F : 0.0F;
  return static_cast<int>(gpu_group_sum(before));
}

// A block a token.
GPU_DEVICE void send_token(const ExpertDispatchLaunch& a, std::uint32_t epoch, int token) {
  const ExpertSlots& s = a.slots;
  GPU_SHARED(unsigned char*, to, expert_most_choices);
  for (unsigned j = gpu_warp_index(); j < static_cast<unsigned>(s.top_k); j += threads / GPU_WARP) {
    const int flat = token * s.top_k + static_cast<int>(j), expert = a.chosen[flat];
    const int row = expert < 0 ? 0 : rows_before(a, token, expert);
    if (gpu_lane() != 0) continue;
    to[j] = expert < 0 ? nullptr : arriving_row(s, epoch, expert, s.rank, row);
    if (expert < 0) continue;
    gpu_atomic_add(s.sent + expert, 1U);
    *reinterpret_cast<std::int32_t*>(to[j] + s.columns + s.columns / 32) =
        s.rank * s.most_tokens * s.top_k + flat;
  }
  gpu_barrier();
  // Sixteen values a lane, so that they leave as 16 bytes.
  const unsigned width = static_cast<unsigned>(s.columns) / 16;
  const std::uint16_t* x = a.x + std::int64_t{token} * s.columns;
  for (unsigned begin = 0; begin < width; begin += threads) {
    const unsigned v = begin + threadIdx.x;
    const bool inside = v < width;
    GpuFloat8 low{}, high{};
    if (inside) {
      low = gpu_unpack_bf16(gpu_load<GpuBytes16>(x, 2 * v));
      high = gpu_unpack_bf16(gpu_load<GpuBytes16>(x, 2 * v + 1));
    }
    const float largest = gpu_max(largest_magnitude(low), largest_magnitude(high));
    const float scale = scale_for(gpu_group_max<lanes_of_group / 2>(largest));
    if (!inside) continue;
    const float factor = gpu_reciprocal(scale);
    const GpuBytes8 first = gpu_pack8_fp8(low, factor), second = gpu_pack8_fp8(high, factor);
    const GpuBytes16 packed = {{first.word[0], first.word[1], second.word[0], second.word[1]}};
    for (int j = 0; j < s.top_k; ++j) {
      if (to[j] == nullptr) continue;
      gpu_store(to[j], v, packed);
      if (v % (lanes_of_group / 2) == 0) gpu_store(to[j] + s.columns, v / (lanes_of_group / 2), scale);
    }
  }
  gpu_barrier();  // before `to` is written again
}

__global__ void __launch_bounds__(threads) send_kernel(ExpertDispatchLaunch a) {
  const ExpertSlots& s = a.slots;
  const std::uint32_t epoch = next_epoch(s, 0);
  for (int token = static_cast<int>(blockIdx.x); token < a.tokens; token += static_cast<int>(gridDim.x)) {
    send_token(a, epoch, token);
  }
  if (!gpu_last_block(s.sent + s.experts)) return;
  const int local = local_experts(s);
  for (int e = static_cast<int>(threadIdx.x); e < s.experts; e += threads) {
    const unsigned rows = gpu_atomic_add(s.sent + e, 0U);
    s.sent[e] = 0;
    gpu_store_release(s.counts[e / local] + count_place(s, epoch, e % local, s.rank),
                      std::uint64_t{epoch} << 32 | rows);
  }
}

// A block takes what one rank sent to one expert.
__global__ void __launch_bounds__(threads) receive_kernel(ExpertDispatchLaunch a) {
  const ExpertSlots& s = a.slots;
  const std::uint32_t epoch = next_epoch(s, 1);
  const int expert = static_cast<int>(blockIdx.x) / s.ranks, from = static_cast<int>(blockIdx.x) % s.ranks;
  GPU_SHARED(int, counts, peer_most_ranks);
  if (threadIdx.x < static_cast<unsigned>(s.ranks)) {
    const int place = count_place(s, epoch, expert, static_cast<int>(threadIdx.x));
    counts[threadIdx.x] = static_cast<int>(gpu_await_count(s.counts[s.rank] + place, epoch));
  }
  gpu_barrier();
  int begin = 0, all = 0;
  for (int r = 0; r < s.ranks; ++r) {
    if (r < from) begin += counts[r];
    all += counts[r];
  }
  if (from == 0 && threadIdx.x == 0) a.arrived.counts[expert] = all;
  const unsigned width = static_cast<unsigned>(s.columns) / 16,
                 groups = static_cast<unsigned>(s.columns) / fp8_group;
  const unsigned char* rows = arriving_row(s, epoch, s.rank * local_experts(s) + expert, from, 0);
  const std::int64_t row_bytes = s.row_bytes, first = std::int64_t{expert} * capacity(s) + begin;
  for (unsigned i = threadIdx.x; i < static_cast<unsigned>(counts[from]) * width; i += threads) {
    const auto [row, v] = gpu_place(i, width);
    gpu_store(a.arrived.values + (first + row) * s.columns, v,
              gpu_load<GpuBytes16>(rows + row * row_bytes, v));
  }
  for (unsigned i = threadIdx.x; i < static_cast<unsigned>(counts[from]) * (groups + 1); i += threads) {
    const auto [row, g] = gpu_place(i, groups + 1);
    const unsigned char* behind = rows + row * row_bytes + s.columns;
    if (g == groups)
      a.arrived.sources[first + row] = gpu_load<std::int32_t>(behind, g);
    else
      gpu_store(a.arrived.scales + (first + row) * groups, g, gpu_load<float>(behind, g));
  }
}

// A block takes a row home, the rows of all experts dealt out evenly.
__global__ void __launch_bounds__(threads) return_kernel(ExpertCombineLaunch a) {
  const ExpertSlots& s = a.slots;
  const std::uint32_t epoch = next_epoch(s, 2);
  const unsigned width = static_cast<unsigned>(s.columns) / 8;
  const int local = local_experts(s), of_rank = s.most_tokens * s.top_k;
  GPU_SHARED(int, counts, expert_most_blocks);
  GPU_SHARED(int, begins, expert_most_blocks + 1);
  for (int e = static_cast<int>(threadIdx.x); e < local; e += threads) counts[e] = a.arrived.counts[e];
  gpu_barrier();
  for (int e = static_cast<int>(threadIdx.x); e <= local; e += threads) {
    int before = 0;
    for (int f = 0; f < e; ++f) before += counts[f];
    begins[e] = before;
  }
  gpu_barrier();
  int expert = 0;
  for (int i = static_cast<int>(blockIdx.x); i < begins[local]; i += static_cast<int>(gridDim.x)) {
    while (i >= begins[expert + 1]) ++expert;
    const std::int64_t place = std::int64_t{expert} * capacity(s) + i - begins[expert];
    const int source = a.arrived.sources[place], home = source / of_rank;
    std::uint16_t* to = s.returned[home] + (std::int64_t{epoch % 2} * of_rank + source % of_rank) * s.columns;
    const std::uint16_t* y = a.y + place * s.columns;
    for (unsigned v = threadIdx.x; v < width; v += ahead * threads) {
      GpuBytes16 part[ahead] = {};
      GPU_UNROLL for (unsigned n = 0; n < ahead; ++n) {
        if (v + n * threads < width) part[n] = gpu_load<GpuBytes16>(y, v + n * threads);
      }
      GPU_UNROLL for (unsigned n = 0; n < ahead; ++n) {
        if (v + n * threads < width) gpu_store(to, v + n * threads, part[n]);
      }
    }
  }
  if (!gpu_last_block(s.sent + s.experts + 1)) return;
  if (threadIdx.x < static_cast<unsigned>(s.ranks)) gpu_store_release(s.flags[threadIdx.x] + s.rank, epoch);
}

__global__ void __launch_bounds__(threads) combine_kernel(ExpertCombineLaunch a) {
  const ExpertSlots& s = a.slots;
  const std::uint32_t epoch = next_epoch(s, 3);
  if (threadIdx.x < static_cast<unsigned>(s.ranks)) gpu_await(s.flags[s.rank] + threadIdx.x, epoch);
  gpu_barrier();
  const unsigned width = static_cast<unsigned>(s.columns) / 8;
  const std::uint16_t* returned =
      s.returned[s.rank] + std::int64_t{epoch % 2} * s.most_tokens * s.top_k * s.columns;
  for (unsigned i = gpu_thread_index(); i < static_cast<unsigned>(a.tokens) * width;
       i += gridDim.x * threads) {
    const auto [token, v] = gpu_place(i, width);
    GpuFloat8 sum{};
    for (int j = 0; j < s.top_k; ++j) {
      const std::size_t choice =
          std::size_t{token} * static_cast<unsigned>(s.top_k) + static_cast<unsigned>(j);
      if (a.chosen[choice] < 0) continue;
      const float weight = a.weights[choice];
      const GpuFloat8 y = gpu_unpack_bf16(gpu_load<GpuBytes16>(returned, choice * width + v));
      GPU_UNROLL for (int n = 0; n < 8; ++n) sum.value[n] += weight * y.value[n];
    }
    gpu_store(a.out, i, gpu_pack8_bf16(sum));
  }
}

// `each` blocks a compute unit.
unsigned filling(unsigned each) {
  const unsigned blocks = each * gpu_compute_units();
  return blocks < expert_most_blocks ? blocks : expert_most_blocks;
}

}  // namespace

std::int64_t expert_rows_bytes(const ExpertSlots& s) {
  return std::int64_t{2} * s.experts * s.most_tokens * s.row_bytes;
}
std::int64_t expert_returned_bytes(const ExpertSlots& s) {
  return std::int64_t{2} * s.most_tokens * s.top_k * s.columns * 2;
}

void launch_expert_send(const ExpertDispatchLaunch& a, void* stream) {
  gpu_launch(send_kernel, {filling(1)}, threads, stream, a);
}
void launch_expert_receive(const ExpertDispatchLaunch& a, void* stream) {
  gpu_launch(receive_kernel, {static_cast<unsigned>(a.slots.experts)}, threads, stream, a);
}
void launch_expert_return(const ExpertCombineLaunch& a, void* stream) {
  gpu_launch(return_kernel, {filling(4)}, threads, stream, a);
}
void launch_expert_combine(const ExpertCombineLaunch& a, void* stream) {
  gpu_launch(combine_kernel, {filling(2)}, threads, stream, a);
}

}  // namespace orrery::kernels

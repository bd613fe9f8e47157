#include "kernels/expert_rows.h"

#include "kernels/gpu_peer.h"

namespace orrery::kernels {

namespace {

constexpr unsigned threads = 256, plan_threads = 512, ahead = 4;
constexpr unsigned blocks_a_unit = 4;  // copies need many loads under way

// words[]: epochs of the two kinds of exchange, and how many blocks have arrived. All blocks of a launch read
// the epoch of their exchange; one launch that is alone on the stream counts it up.
enum Word : unsigned { rows_epoch, returned_epoch, rows_arrived, returned_arrived };

// Rows for each of eight ranks as counters of 16 bits.
struct Counters {
  std::uint64_t low, high;
};
GPU_DEVICE Counters operator+(Counters a, Counters b) { return {a.low + b.low, a.high + b.high}; }
GPU_DEVICE int counter(const Counters& c, int rank) {
  return static_cast<int>((rank < 4 ? c.low : c.high) >> (16 * (rank % 4)) & 0xFFFFU);
}

// Which ranks the token's experts are on, a bit each.
GPU_DEVICE unsigned ranks_of(const ExpertRowsDispatchLaunch& a, int token) {
  const ExpertRows& e = a.exchange;
  const int local = e.experts / e.ranks;
  unsigned ranks = 0;
  for (int j = 0; j < e.top_k; ++j) {
    const int expert = a.chosen[token * e.top_k + j];
    if (expert >= 0) ranks |= 1U << (expert / local);
  }
  return ranks;
}
GPU_DEVICE Counters ones_of(unsigned ranks) {
  Counters c{};
  GPU_UNROLL for (unsigned r = 0; r < 4; ++r) {
    c.low |= std::uint64_t{ranks >> r & 1U} << (16 * r);
    c.high |= std::uint64_t{ranks >> (r + 4) & 1U} << (16 * r);
  }
  return c;
}

// The sum over all threads before this one, and over all. Every thread of the block calls it.
GPU_DEVICE Counters sum_before(Counters mine, Counters& all) {
  GPU_SHARED(Counters, of_warp, gpu_most_warps);
  Counters upto = mine;
  for (unsigned d = 1; d < GPU_WARP; d *= 2) {
    const unsigned lane = gpu_lane(), from = lane >= d ? lane - d : lane;
    const Counters other = {gpu_shuffle(upto.low, from), gpu_shuffle(upto.high, from)};
    if (lane >= d) upto = upto + other;
  }
  if (gpu_lane() == GPU_WARP - 1) of_warp[gpu_warp_index()] = upto;
  gpu_barrier();
  Counters before{};
  all = Counters{};
  for (unsigned w = 0; w < blockDim.x / GPU_WARP; ++w) {
    if (w < gpu_warp_index()) before = before + of_warp[w];
    all = all + of_warp[w];
  }
  return {before.low + upto.low - mine.low, before.high + upto.high - mine.high};
}

// Where this rank's rows go: one block.
__global__ void __launch_bounds__(plan_threads) plan_kernel(ExpertRowsDispatchLaunch a) {
  const ExpertRows& e = a.exchange;
  const std::uint32_t epoch = e.words[rows_epoch] + 1;
  const int each = (a.tokens + static_cast<int>(plan_threads) - 1) / static_cast<int>(plan_threads);
  const int begin = static_cast<int>(threadIdx.x) * each;
  const int end = begin + each < a.tokens ? begin + each : a.tokens;
  Counters mine{}, all{};
  for (int t = begin; t < end; ++t) mine = mine + ones_of(ranks_of(a, t));
  Counters before = sum_before(mine, all);
  for (int t = begin; t < end; ++t) {
    const unsigned ranks = ranks_of(a, t);
    for (int r = 0; r < e.ranks; ++r) {
      e.places[t * e.ranks + r] = (ranks >> r & 1U) != 0 ? counter(before, r) : -1;
    }
    before = before + ones_of(ranks);
  }
  GPU_SHARED(int, rows, peer_most_ranks* peer_most_ranks);
  const int i = static_cast<int>(threadIdx.x), n = e.ranks;
  // All ranks learn the whole matrix: a prefix needs what the ranks before send to the same reader.
  if (i < n * n) {
    const std::uint64_t word = std::uint64_t{epoch} << 32 | static_cast<unsigned>(counter(all, i % n));
    gpu_store_release(e.counts[i / n] + e.rank * n + i % n, word);
  }
  gpu_barrier();  // nobody waits before all have been told
  if (i < n * n) rows[i] = static_cast<int>(gpu_await_count(e.counts[e.rank] + i, epoch));
  gpu_barrier();
  if (i <= n) {
    int sum = 0;
    const int to = i < n ? i : e.rank, until = i < n ? e.rank : n;
    for (int from = 0; from < until; ++from) sum += rows[from * n + to];
    e.begins[i] = sum;
  }
  if (i == 0) e.words[rows_epoch] = epoch;
}

// 16 bytes a lane, several loads ahead of their stores. Threads of a block together.
GPU_DEVICE void copy_row(unsigned char* to, const unsigned char* from, unsigned vectors) {
  unsigned v = threadIdx.x;
  for (; v + (ahead - 1) * threads < vectors; v += ahead * threads) {
    GpuBytes16 part[ahead];
    GPU_UNROLL for (unsigned i = 0; i < ahead; ++i) part[i] = gpu_load<GpuBytes16>(from, v + i * threads);
    GPU_UNROLL for (unsigned i = 0; i < ahead; ++i) gpu_store(to, v + i * threads, part[i]);
  }
  for (; v < vectors; v += threads) gpu_store(to, v, gpu_load<GpuBytes16>(from, v));
}

GPU_DEVICE void tell_all(const ExpertRows& e, Word arrived, Word kind, std::uint32_t epoch) {
  if (!gpu_last_block(e.words + arrived)) return;
  if (threadIdx.x >= static_cast<unsigned>(e.ranks)) return;
  const unsigned at =
      (kind == rows_epoch ? 0U : static_cast<unsigned>(e.ranks)) + static_cast<unsigned>(e.rank);
  gpu_store_release(e.flags[threadIdx.x] + at, epoch);
}

__global__ void __launch_bounds__(threads) send_kernel(ExpertRowsDispatchLaunch a) {
  const ExpertRows& e = a.exchange;
  const std::uint32_t epoch = e.words[rows_epoch];
  const unsigned words = static_cast<unsigned>(e.route_words), k = static_cast<unsigned>(e.top_k);
  for (int t = static_cast<int>(blockIdx.x); t < a.tokens; t += static_cast<int>(gridDim.x)) {
    const std::size_t choices = static_cast<std::size_t>(t) * k;
    for (int i = 0; i < e.ranks; ++i) {
      const int r = (e.rank + i) % e.ranks, place = e.places[t * e.ranks + r];  // not all to one reader at
                                                                                // once
      if (place < 0) continue;
      const std::size_t row = static_cast<std::size_t>(e.begins[r] + place);
      copy_row(e.rows[r] + row * static_cast<unsigned>(e.row_bytes), a.x + std::int64_t{t} * e.row_bytes,
               static_cast<unsigned>(e.row_bytes) / 16);
      if (threadIdx.x >= words) continue;
      const unsigned w = threadIdx.x;
      std::int32_t word = e.rank * e.most_tokens + t;
      if (w > k)
        word = gpu_bit_cast<std::int32_t>(a.weights[choices + w - 1 - k]);
      else if (w > 0)
        word = a.chosen[choices + w - 1];
      e.routes[r][row * words + w] = word;
    }
  }
  tell_all(e, rows_arrived, rows_epoch, epoch);
}

__global__ void __launch_bounds__(64) receive_kernel(ExpertRowsDispatchLaunch a) {
  const ExpertRows& e = a.exchange;
  if (threadIdx.x < static_cast<unsigned>(e.ranks)) {
    gpu_await(e.flags[e.rank] + threadIdx.x, e.words[rows_epoch]);
  }
}

__global__ void __launch_bounds__(threads) return_kernel(ExpertRowsCombineLaunch a) {
  const ExpertRows& e = a.exchange;
  const std::uint32_t epoch = e.words[returned_epoch] + 1;
  const int rows = e.begins[e.ranks];
  const std::size_t words = static_cast<std::size_t>(e.route_words);
  for (int i = static_cast<int>(blockIdx.x); i < rows; i += static_cast<int>(gridDim.x)) {
    const int source = e.routes[e.rank][static_cast<std::size_t>(i) * words];
    const int home = source / e.most_tokens, token = source % e.most_tokens;
    const std::int64_t place = (std::int64_t{epoch % 2} * e.most_tokens + token) * e.ranks + e.rank;
    copy_row(reinterpret_cast<unsigned char*>(e.returned[home] + place * e.columns),
             reinterpret_cast<const unsigned char*>(a.y + std::int64_t{i} * e.columns),
             static_cast<unsigned>(e.columns) / 8);
  }
  tell_all(e, returned_arrived, returned_epoch, epoch);
}

__global__ void __launch_bounds__(threads) combine_kernel(ExpertRowsCombineLaunch a) {
  const ExpertRows& e = a.exchange;
  const std::uint32_t epoch = e.words[returned_epoch] + 1;
  if (threadIdx.x < static_cast<unsigned>(e.ranks)) gpu_await(e.flags[e.rank] + e.ranks + threadIdx.x, epoch);
  gpu_barrier();
  const unsigned width = static_cast<unsigned>(e.columns) / 8;
  const std::uint16_t* returned =
      e.returned[e.rank] + std::int64_t{epoch % 2} * e.most_tokens * e.ranks * e.columns;
  for (unsigned i = gpu_thread_index(); i < static_cast<unsigned>(a.tokens) * width;
       i += gridDim.x * threads) {
    const auto [token, v] = gpu_place(i, width);
    const std::size_t first = std::size_t{token} * static_cast<unsigned>(e.ranks);
    GpuFloat8 sum{};
    for (unsigned r = 0; r < static_cast<unsigned>(e.ranks); ++r) {
      if (e.places[first + r] < 0) continue;
      const GpuFloat8 y = gpu_unpack_bf16(gpu_load<GpuBytes16>(returned, (first + r) * width + v));
      GPU_UNROLL for (int n = 0; n < 8; ++n) sum.value[n] += y.value[n];
    }
    gpu_store(a.out, i, gpu_pack8_bf16(sum));
  }
}

// Behind the combine, which all its blocks began with the epoch before.
__global__ void __launch_bounds__(64) combined_kernel(std::uint32_t* words) {
  if (threadIdx.x == 0) ++words[returned_epoch];
}

}  // namespace

void launch_expert_rows_plan(const ExpertRowsDispatchLaunch& a, void* stream) {
  gpu_launch(plan_kernel, {1}, plan_threads, stream, a);
}
void launch_expert_rows_send(const ExpertRowsDispatchLaunch& a, void* stream) {
  gpu_launch(send_kernel, {blocks_a_unit * gpu_compute_units()}, threads, stream, a);
}
void launch_expert_rows_receive(const ExpertRowsDispatchLaunch& a, void* stream) {
  gpu_launch(receive_kernel, {1}, 64, stream, a);
}
void launch_expert_rows_return(const ExpertRowsCombineLaunch& a, void* stream) {
  gpu_launch(return_kernel, {blocks_a_unit * gpu_compute_units()}, threads, stream, a);
}
void launch_expert_rows_combine(const ExpertRowsCombineLaunch& a, void* stream) {
  gpu_launch(combine_kernel, {blocks_a_unit * gpu_compute_units()}, threads, stream, a);
  gpu_launch(combined_kernel, {1}, 64, stream, a.exchange.words);
}

}  // namespace orrery::kernels

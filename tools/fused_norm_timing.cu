// What an all-reduce in one kernel with residual add and RMSNorm takes beside both in kernels of their own
// (docs/overlap.md), on two GPUs with peer access, in CUDA graphs. Plain one-shot kernels, one block a row:
// the mechanism, not an engine's own kernels.
//   nvcc -arch=sm_90 -std=c++17 -O3 tools/fused_norm_timing.cu -o /tmp/fused_norm && /tmp/fused_norm
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>

namespace {

using Pair = __nv_bfloat162;
constexpr int ranks = 2, threads = 512, blocks = 132;

struct Peers {
  const Pair* rows[ranks];
  unsigned* flags[ranks];
  int count, me;
};
enum Part { reduce, reduce_and_norm, norm };

// All ranks' blocks of one index; `phase` 0 before the rows are read, 1 after.
__device__ void barrier(Peers p, int phase) {
  __syncthreads();
  __shared__ unsigned epoch;
  if (threadIdx.x == 0) epoch = ++*(p.flags[p.me] + 99999 + blockIdx.x);
  __syncthreads();
  if (static_cast<int>(threadIdx.x) < p.count) {
    const int slot = (phase * 512 + blockIdx.x) * 8;
    __threadfence_system();
    *static_cast<volatile unsigned*>(p.flags[threadIdx.x] + slot + p.me) = epoch;
    while (*static_cast<volatile unsigned*>(p.flags[p.me] + slot + threadIdx.x) < epoch) {
    }
  }
  __syncthreads();
}

template <Part part>
__global__ void run(Peers p, Pair* residual, Pair* out, int rows, int pairs) {
  if (part != norm) barrier(p, 0);
  for (int row = blockIdx.x; row < rows; row += gridDim.x) {
    const size_t at = static_cast<size_t>(row) * pairs;
    float kept[16], squares = 0;
    int k = 0;
    for (int i = threadIdx.x; i < pairs; i += threads) {
      float a = 0, b = 0;
      for (int rank = 0; rank < p.count; ++rank) {
        const float2 x = __bfloat1622float2(p.rows[rank][at + i]);
        a += x.x, b += x.y;
      }
      if (part == reduce) {
        out[at + i] = __floats2bfloat162_rn(a, b);
        continue;
      }
      const float2 r = __bfloat1622float2(residual[at + i]);
      a += r.x, b += r.y;
      residual[at + i] = __floats2bfloat162_rn(a, b);
      kept[k++] = a, kept[k++] = b;
      squares += a * a + b * b;
    }
    if (part == reduce) continue;
    __shared__ float warps[threads / 32];
    for (int d = 16; d; d /= 2) squares += __shfl_xor_sync(~0u, squares, d);
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = squares;
    __syncthreads();
    squares = 0;
    for (const float w : warps) squares += w;
    const float scale = rsqrtf(squares / pairs + 1e-6f);
    k = 0;
    for (int i = threadIdx.x; i < pairs; i += threads, k += 2)
      out[at + i] = __floats2bfloat162_rn(kept[k] * scale, kept[k + 1] * scale);
    __syncthreads();
  }
  if (part != norm) barrier(p, 1);
}

struct Gpu {
  Pair *rows, *residual, *sum, *out;
  unsigned* flags;
  cudaStream_t stream;
};

enum Mode { apart, fused, reduce_alone };

// The least of 12 replays of 200 uses, microseconds a use.
float use_us(Gpu (&gpu)[ranks], Mode mode, int rows, int pairs) {
  cudaGraphExec_t ready[ranks];
  for (int d = 0; d < ranks; ++d) {
    cudaSetDevice(d);
    Peers all = {}, own = {};
    all.count = ranks, all.me = d, own.count = 1, own.rows[0] = gpu[d].sum;
    for (int e = 0; e < ranks; ++e) all.rows[e] = gpu[e].rows, all.flags[e] = gpu[e].flags;
    cudaGraph_t graph;
    const int grid = std::min(rows, blocks);
    cudaStreamBeginCapture(gpu[d].stream, cudaStreamCaptureModeThreadLocal);
    for (int i = 0; i < 200; ++i) {
      if (mode == fused) {
        run<reduce_and_norm>
            <<<grid, threads, 0, gpu[d].stream>>>(all, gpu[d].residual, gpu[d].out, rows, pairs);
        continue;
      }
      run<reduce><<<grid, threads, 0, gpu[d].stream>>>(all, gpu[d].residual, gpu[d].sum, rows, pairs);
      if (mode == apart)
        run<norm><<<rows, threads, 0, gpu[d].stream>>>(own, gpu[d].residual, gpu[d].out, rows, pairs);
    }
    cudaStreamEndCapture(gpu[d].stream, &graph);
    cudaGraphInstantiate(&ready[d], graph, 0);
  }
  float least = 1e9f;
  for (int i = 0; i < 12; ++i) {
    for (int d = 0; d < ranks; ++d) cudaSetDevice(d), cudaStreamSynchronize(gpu[d].stream);
    cudaSetDevice(1), cudaGraphLaunch(ready[1], gpu[1].stream);
    cudaSetDevice(0);
    cudaEvent_t begin, end;
    cudaEventCreate(&begin), cudaEventCreate(&end);
    cudaEventRecord(begin, gpu[0].stream);
    cudaGraphLaunch(ready[0], gpu[0].stream);
    cudaEventRecord(end, gpu[0].stream);
    cudaEventSynchronize(end);
    float ms = 0;
    cudaEventElapsedTime(&ms, begin, end);
    least = std::min(least, ms * 5);
  }
  return least;
}

}  // namespace

int main() {
  Gpu gpu[ranks];
  const size_t bytes = size_t{32} << 20;
  for (int d = 0; d < ranks; ++d) {
    cudaSetDevice(d);
    cudaDeviceEnablePeerAccess(1 - d, 0);
    for (Pair** buffer : {&gpu[d].rows, &gpu[d].residual, &gpu[d].sum, &gpu[d].out}) {
      cudaMalloc(buffer, bytes);
      cudaMemset(*buffer, 0, bytes);
    }
    cudaMalloc(&gpu[d].flags, bytes);
    cudaMemset(gpu[d].flags, 0, bytes);
    cudaStreamCreate(&gpu[d].stream);
  }
  for (const int hidden : {4096, 7168}) {
    for (const int rows : {1, 16, 64, 256})
      std::printf("hidden %d rows %d apart %.2f fused %.2f all-reduce alone %.2f us\n", hidden, rows,
                  use_us(gpu, apart, rows, hidden / 2), use_us(gpu, fused, rows, hidden / 2),
                  use_us(gpu, reduce_alone, rows, hidden / 2));
  }
}

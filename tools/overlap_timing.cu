// What overlap saves on one NVIDIA GPU of sm_90 (docs/overlap.md), in CUDA graphs: dependent kernels that
// start while the one before them ends, and two streaming kernels one after the other or side by side.
//   nvcc -arch=sm_90 -std=c++17 -O3 tools/overlap_timing.cu -o /tmp/overlap_timing && /tmp/overlap_timing
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>

namespace {

enum Start { apart, trigger_at_end, trigger_at_begin };

__global__ void dependent(float* values, int count, Start start) {
  if (start != apart) asm volatile("griddepcontrol.wait;" ::: "memory");
  if (start == trigger_at_begin) asm volatile("griddepcontrol.launch_dependents;");
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x)
    values[i] = values[i] * 0.9f + 1;
  if (start == trigger_at_end) asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

__global__ void stream_in(const float4* values, size_t count, float* out) {
  float sum = 0;
  for (size_t i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) {
    const float4 v = values[i];
    sum += v.x + v.y + v.z + v.w;
  }
  if (sum == 1.5f) *out = sum;
}

void launch(cudaStream_t stream, float* values, int count, Start start) {
  cudaLaunchConfig_t config = {};
  config.gridDim = count < 34000 ? (count + 255) / 256 : 132;
  config.blockDim = 256;
  config.stream = stream;
  cudaLaunchAttribute early;
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &early;
  config.numAttrs = start != apart;
  cudaLaunchKernelEx(&config, dependent, values, count, start);
}

// The least of 30 replays, microseconds.
template <class Work>
float graph_us(cudaStream_t stream, Work work) {
  cudaGraph_t graph;
  cudaGraphExec_t ready;
  cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal);
  work();
  cudaStreamEndCapture(stream, &graph);
  cudaGraphInstantiate(&ready, graph, 0);
  cudaEvent_t begin, end;
  cudaEventCreate(&begin);
  cudaEventCreate(&end);
  float least = 1e9f;
  for (int i = 0; i < 30; ++i) {
    cudaEventRecord(begin, stream);
    cudaGraphLaunch(ready, stream);
    cudaEventRecord(end, stream);
    cudaEventSynchronize(end);
    float ms = 0;
    cudaEventElapsedTime(&ms, begin, end);
    least = std::min(least, ms * 1000);
  }
  return least;
}

}  // namespace

int main() {
  cudaStream_t stream, side;
  cudaStreamCreate(&stream);
  cudaStreamCreate(&side);
  const size_t bytes = size_t{4} << 30;
  char* memory = nullptr;
  cudaMalloc(&memory, bytes);
  cudaMemset(memory, 0, bytes);
  float* values = reinterpret_cast<float*>(memory);
  cudaEvent_t fork, join;
  cudaEventCreate(&fork);
  cudaEventCreate(&join);

  constexpr int chain = 500, layers = 100;
  for (const int count : {4096, 32768, 262144, 1 << 21}) {
    for (const Start start : {apart, trigger_at_end, trigger_at_begin}) {
      const float us = graph_us(stream, [&] {
        for (int i = 0; i < chain; ++i) launch(stream, values, count, start);
      });
      std::printf("dependent values %d start %d us %.3f\n", count, start, us / chain);
    }
  }
  for (const int first : {88, 22, 6, 1}) {
    for (const int second : {22, 6, 1}) {
      for (const bool beside : {false, true}) {
        const float us = graph_us(stream, [&] {
          size_t at = 0;
          const auto read = [&](cudaStream_t on, int mib) {
            const size_t size = static_cast<size_t>(mib) << 20;
            if (at + size > bytes) at = 0;
            stream_in<<<264, 512, 0, on>>>(reinterpret_cast<float4*>(memory + at), size / 16, values);
            at += size;
          };
          for (int i = 0; i < layers; ++i) {
            if (beside) cudaEventRecord(fork, stream), cudaStreamWaitEvent(side, fork);
            read(stream, first);
            read(beside ? side : stream, second);
            if (beside) cudaEventRecord(join, side), cudaStreamWaitEvent(stream, join);
            launch(stream, values, 4096, apart);
          }
        });
        std::printf("MiB %d and %d %s us %.2f\n", first, second, beside ? "beside" : "apart", us / layers);
      }
    }
  }
}

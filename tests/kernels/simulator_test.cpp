// The simulator and the guarded memory must see what kernels can do wrong.
#include <cmath>
#include <vector>

#include "catch.h"
#include "kernels/gpu_runtime.h"
#include "kernels/guarded_memory.h"

using namespace orrery::kernels;

namespace {

unsigned thread_x() { return threadIdx.x; }

std::string run(unsigned threads, void (*kernel)(float*), float* data) {
  static_cast<void>(simulator::take_error());
  gpu_launch(kernel, {2}, threads, nullptr, data);
  return simulator::take_error();
}

void divergent_barrier(float*) {
  if (thread_x() < 32) gpu_barrier();
}
void divergent_exchange(float* data) {
  if (gpu_lane() > 0) data[0] = gpu_shuffle_xor(1.0F, 1);
}
void warp_sums(float* data) { data[thread_x()] = gpu_group_sum(static_cast<float>(thread_x())); }
void small_group_sums(float* data) { data[thread_x()] = gpu_group_sum<16>(static_cast<float>(thread_x())); }
void block_reductions(float* data) {
  const float sum = gpu_block_sum(1.0F);
  data[thread_x()] = sum + 10000 * gpu_block_max(static_cast<float>(thread_x()));
}
void ballots(float* data) {
  const std::uint64_t odd = gpu_ballot(gpu_lane() % 2 == 1);
  data[thread_x()] = odd == (GPU_WARP == 64 ? 0xAAAAAAAAAAAAAAAAULL : 0xAAAAAAAAULL) ? 1 : 0;
}
// Neighbours' values without a barrier: wrong in one of the two orders.
void race(float* data) {
  GPU_SHARED(float, values, 64);
  values[thread_x()] = 1;
  if (thread_x() > 0) data[64 * blockIdx.x + thread_x()] = values[thread_x() - 1];
}
void race_other_way(float* data) {
  GPU_SHARED(float, values, 64);
  values[thread_x()] = 1;
  if (thread_x() < 63) data[64 * blockIdx.x + thread_x()] = values[thread_x() + 1];
}

bool any_nan(const std::vector<float>& values) {
  for (const float v : values) {
    if (std::isnan(v)) return true;
  }
  return false;
}

}  // namespace

TEST_CASE("the simulator names a barrier or an exchange that not all reach", "[kernels]") {
  float out = 0;
  CHECK(run(64, divergent_barrier, &out).find("divergent barrier in block (0, 0): of 64 threads 32 wait") ==
        0);
  CHECK(run(64, divergent_exchange, &out).find("divergent warp exchange") == 0);
  std::vector<float> data(64);
  CHECK(run(64, warp_sums, data.data()).empty());  // and goes on afterwards
}

TEST_CASE("warp and block operations", "[kernels]") {
  std::vector<float> data(256);
  CHECK(run(256, warp_sums, data.data()).empty());
  for (unsigned i = 0; i < 256; ++i) {
    const float first = static_cast<float>(i / GPU_WARP * GPU_WARP);
    CHECK(data[i] == GPU_WARP * first + (GPU_WARP * (GPU_WARP - 1)) / 2.0F);
  }
  CHECK(run(256, small_group_sums, data.data()).empty());
  for (unsigned i = 0; i < 256; ++i) CHECK(data[i] == 16.0F * static_cast<float>(i / 16 * 16) + 120);
  CHECK(run(256, block_reductions, data.data()).empty());
  for (const float v : data) CHECK(v == 256 + 2550000);
  CHECK(run(256, ballots, data.data()).empty());
  for (const float v : data) CHECK(v == 1);
}

TEST_CASE("a missing barrier shows as NaN whichever way it points", "[kernels]") {
  std::vector<float> data(128);
  CHECK(run(64, race, data.data()).empty());
  CHECK(any_nan(data));
  data.assign(128, 0);
  CHECK(run(64, race_other_way, data.data()).empty());
  CHECK(any_nan(data));
}

TEST_CASE("guard zones and poison", "[kernels]") {
  HostMemory memory;
  auto* bytes = static_cast<unsigned char*>(memory.allocate(100));
  REQUIRE(bytes != nullptr);
  CHECK(reinterpret_cast<std::uintptr_t>(bytes) % 256 == 0);
  for (int i = 0; i < 100; ++i) CHECK(bytes[i] == 0xFF);
  std::string what;
  CHECK(memory.guards_intact(what));
  bytes[100] = 0;  // the first byte behind the end, though the next allocation is far
  CHECK(!memory.guards_intact(what));
  CHECK(what == "allocation 0 of 100 bytes: written 0 bytes behind its end");
  bytes[100] = 0xA5;
  bytes[-1] = 0;
  CHECK(!memory.guards_intact(what));
  CHECK(what == "allocation 0 of 100 bytes: written 1 bytes before its begin");
}

TEST_CASE("random fills are normal and depend on seed and place only", "[kernels]") {
  HostMemory memory;
  constexpr std::size_t count = 10007;
  auto* device = static_cast<float*>(memory.allocate(count * sizeof(float)));
  memory.fill_random(device, count, "fp32", 2, 7);
  std::vector<float> first(device, device + count);
  double sum = 0, squares = 0;
  for (const float v : first) sum += v, squares += v * v;
  CHECK(sum / count == Approx(0).margin(0.08));
  CHECK(squares / count == Approx(4).margin(0.25));
  memory.fill_random(device, 10, "fp32", 2, 7);
  for (int i = 0; i < 10; ++i) CHECK(device[i] == first[static_cast<std::size_t>(i)]);
  memory.fill_random(device, count, "fp32", 2, 8);
  CHECK(device[0] != first[0]);
  std::string what;
  CHECK(memory.guards_intact(what));
}

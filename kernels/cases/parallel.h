// References in double precision are most of a check's time; their rows are independent.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <thread>
#include <vector>

namespace orrery::kernels {

// body(i) for every i below `count`, on all cores. What body(i) writes must be its own; callers then go over
// the results in order, so that nothing depends on which thread did what.
template <class Body>
void in_parallel(std::size_t count, const Body& body) {
  constexpr std::size_t most_threads = 16;
  const std::size_t cores = std::max(1U, std::thread::hardware_concurrency());
  const std::size_t threads = std::min({count, cores, most_threads});
  std::atomic<std::size_t> next{0};
  const auto work = [&] {
    for (std::size_t i = next++; i < count; i = next++) body(i);
  };
  std::vector<std::thread> helpers;
  for (std::size_t t = 1; t < threads; ++t) helpers.emplace_back(work);
  work();
  for (std::thread& helper : helpers) helper.join();
}

}  // namespace orrery::kernels

// Work that is shared among threads, in plan/ only.
#pragma once

#include <atomic>
#include <optional>
#include <thread>
#include <vector>

#include "base/result.h"

namespace orrery {

// Runs `work` for 0 … count − 1; the first error, by number, is returned.
template <class Work>
Status in_parallel(std::size_t count, int threads, const Work& work) {
  std::vector<std::optional<Errors>> failed(count);
  std::atomic<std::size_t> next{0};
  std::atomic<bool> stop{false};
  const auto worker = [&] {
    for (std::size_t i = next++; i < count && !stop; i = next++) {
      if (Status status = work(i); !status.ok()) {
        failed[i] = status.errors();
        stop = true;
      }
    }
  };
  {
    std::vector<std::jthread> pool;
    for (int t = 1; t < threads; ++t) pool.emplace_back(worker);
    worker();
  }
  for (const auto& errors : failed) {
    if (errors) return *errors;
  }
  return ok_status();
}

}  // namespace orrery

// Counter-based randomness (rule D3): value = f(seed, purpose, entity, draw). A stream has a name, not a
// place in a queue, so adding a consumer changes no other stream and order of use does not matter.
// Generator: Philox4x32-10 (Salmon et al., SC 2011), checked against Random123's published vectors.
#pragma once

#include <array>
#include <cstdint>

namespace orrery {

// What a stream is for. Values are part of the digest's meaning: append, never renumber.
enum class RandomPurpose : std::uint32_t {
  arrivals = 1,
  input_length = 2,
  output_length = 3,
  session = 4,
  prefix = 5,
  perturbation = 6,
  workload_resample = 7,
  property_test = 8,
  client = 9,
  kernel_operands = 10,
  expert_routing = 11,
  launch_jitter = 12,
  draft_acceptance = 13,
  draft_match = 14,
  expert_popularity = 40,
  expert_statistics = 41,
  faults = 60,
  bootstrap_room = 61,
  queue_order = 62,
};

std::array<std::uint32_t, 4> philox4x32_10(std::array<std::uint32_t, 4> counter,
                                           std::array<std::uint32_t, 2> key);

class RandomStream {
 public:
  RandomStream(std::uint64_t seed, RandomPurpose purpose, std::uint64_t entity = 0);

  std::uint64_t bits();                        // 64 uniform bits
  double uniform();                            // in [0, 1): 53 bits
  double uniform_open();                       // in (0, 1]: safe for log
  std::uint64_t below(std::uint64_t n);        // uniform in [0, n), unbiased; n ≥ 1
  double exponential(double mean);             // mean > 0
  double normal();                             // mean 0, deviation 1: Box-Muller, two values a draw
  double log_normal(double mu, double sigma);  // exp(mu + sigma·normal)
  double gamma(double shape, double scale);    // Marsaglia-Tsang 2000; shape, scale > 0

 private:
  std::uint64_t seed_;
  std::uint64_t entity_;
  std::uint32_t purpose_;
  std::uint64_t draw_ = 0;
  std::array<std::uint32_t, 4> block_{};
  int left_ = 0;
};

}  // namespace orrery

// Synthetic workloads: arrival process × length distributions × sessions. Each draw comes from a stream
// named by purpose and request index, so that changing one part of a specification moves no other draw.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/yaml_reader.h"
#include "workloads/request_source.h"

namespace orrery {

struct ArrivalSpec {
  enum class Kind { poisson, gamma, on_off, fixed } kind = Kind::poisson;
  double rate = 1.0;          // mean requests per second (> 0)
  double cv = 1.0;            // gamma: coefficient of variation of the gaps (> 0); 1 = Poisson
  double on_s = 10, off_s = 10;  // on_off: exponential mean lengths of the two phases; `rate` is the rate while on
};

struct LengthSpec {
  enum class Kind { fixed, log_normal, uniform, empirical } kind = Kind::fixed;
  double value = 512;                  // fixed
  double mean = 512, cv = 1.0;         // log_normal: mean and coefficient of variation of the length itself
  double low = 1, high = 131072;       // bounds of every kind (draws are clamped); uniform: its range
  std::vector<double> quantiles;       // empirical: lengths at equally spaced quantiles 0 … 1, interpolated linearly
};

struct SessionSpec {
  double turns_mean = 1;               // geometric, ≥ 1; 1 = no sessions
  double think_s = 10;                 // exponential mean gap from one turn's arrival to the next
  std::int32_t shared_prefix_tokens = 0;  // system prompt common to all requests of a prefix group
  std::int32_t prefix_groups = 1;      // how many different system prompts
};

struct GeneratorSpec {
  std::uint64_t requests = 1000;       // how many (≥ 1)
  ArrivalSpec arrivals;
  LengthSpec input, output;
  SessionSpec sessions;
};

// Reads `generator: {…}`; problems go to the document's errors.
GeneratorSpec read_generator(const Yaml& node);
std::unique_ptr<RequestSource> make_generator(const GeneratorSpec& spec, std::uint64_t seed);

}  // namespace orrery

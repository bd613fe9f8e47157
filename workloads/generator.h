// Synthetic workloads: arrival process × length distributions × sessions. Each draw comes from a stream
// named by purpose and request index, so that changing one part of a specification moves no other draw.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/yaml_reader.h"
#include "workloads/request_source.h"

namespace orrery {

struct ArrivalSpec {
  enum class Kind { poisson, gamma, on_off, fixed } kind = Kind::poisson;
  double rate = 1.0;             // mean requests per second (> 0)
  double cv = 1.0;               // gamma: coefficient of variation of the gaps (> 0); 1 = Poisson
  double on_s = 10, off_s = 10;  // on_off: exponential mean lengths of the two phases; `rate` is the rate
                                 // while on
};

struct LengthSpec {
  enum class Kind { fixed, log_normal, uniform, empirical } kind = Kind::fixed;
  double value = 512;             // fixed
  double mean = 512, cv = 1.0;    // log_normal: mean and coefficient of variation of the length itself
  double low = 1, high = 131072;  // bounds of every kind (draws are clamped); uniform: its range
  std::vector<double> quantiles;  // empirical: lengths at equally spaced quantiles 0 … 1, interpolated
                                  // linearly
};

struct SessionSpec {
  double turns_mean = 1;                    // geometric, ≥ 1; 1 = no sessions
  double think_s = 10;                      // exponential mean gap from one turn's arrival to the next
  std::int32_t shared_prefix_tokens = 0;    // system prompt common to all requests of a prefix group
  std::int32_t prefix_groups = 1;           // how many different system prompts
  std::int32_t max_prompt_tokens = 131072;  // a conversation ends before a later turn with a longer prompt
};

// ServeGen (alibaba/ServeGen): a folder of chunk-<client>-trace.csv (windows of rate, shape of the gaps) and
// chunk-<client>-dataset.json (windows of length distributions). Clients without a dataset file are an error.
struct ServegenSpec {
  std::string folder;
  double start_s = 0;  // where in the published days the workload begins
  double rate = 0;     // mean of all clients together, requests per second; 0 = as published
};

struct GeneratorSpec {
  std::uint64_t requests = 1000;  // how many (≥ 1)
  ArrivalSpec arrivals;
  LengthSpec input, output;
  // A trace file: (input, output) pairs drawn from its first 20,000 rows, so that their correlation is kept;
  // replaces input and output.
  std::string resample;
  SessionSpec sessions;
  std::optional<ServegenSpec> servegen;  // replaces everything but `requests`
};

// Streams. A conversation is one arrival of the process; its number is the entity of every stream that it
// draws from, so that with one turn each the entity is the request's index. `arrivals` draws the gap before
// the conversation, `session` its turns and think times, `prefix` its prefix group, `input_length`,
// `output_length` (or `workload_resample`) one length a turn.
//
// Arrivals. `rate` counts requests: conversations start at rate / turns_mean, and later turns are added, so
// that the rate is reached once the first conversations have gone through. fixed starts at 0; the others
// with a gap.
//
// Prompts. First turn: shared prefix + drawn input. Later turn: previous prompt + previous output + drawn
// input. A shared prefix is stated by hash_ids whose block size divides it exactly; growth by `session`.

// Reads `generator: {…}`; problems go to the document's errors. Relative paths stay as written.
GeneratorSpec read_generator(const Yaml& node);
// A file that cannot be read is an error() of the source.
std::unique_ptr<RequestSource> make_generator(const GeneratorSpec& spec, std::uint64_t seed);

}  // namespace orrery

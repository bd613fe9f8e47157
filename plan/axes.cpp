#include "plan/axes.h"

#include <algorithm>
#include <charconv>

namespace orrery {

namespace {

// vLLM, SGLang, TensorRT-LLM.
constexpr const char* sequence_keys[] = {"engine_args.max_num_seqs", "engine_args.max_running_requests",
                                         "engine_args.max_batch_size"};
constexpr const char* other_budgets[] = {
    "engine_args.max_num_batched_tokens", "engine_args.chunked_prefill_size", "engine_args.max_num_tokens",
    "engine_args.gpu_memory_utilization", "engine_args.mem_fraction_static"};

bool is_one_of(const std::string& key, const char* const* begin, const char* const* end) {
  return std::any_of(begin, end, [&](const char* name) { return key == name; });
}

}  // namespace

bool is_budget(const std::string& key) {
  return is_one_of(key, std::begin(sequence_keys), std::end(sequence_keys)) ||
         is_one_of(key, std::begin(other_budgets), std::end(other_budgets));
}

std::string graph_name(const Candidate& candidate) {
  std::string name = candidate.shape;
  for (const auto& [key, value] : candidate.values) {
    if (!is_budget(key)) name += '\n' + key + '=' + value;
  }
  return name;
}

std::int64_t own_sequences(const Candidate& candidate) {
  for (const auto& [key, value] : candidate.values) {
    if (!is_one_of(key, std::begin(sequence_keys), std::end(sequence_keys))) continue;
    std::int64_t number = 0;
    const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
    return error == std::errc() && end == value.data() + value.size() ? number : 0;
  }
  return 0;
}

}  // namespace orrery

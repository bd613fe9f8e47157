#include "sim/costed/first_use.h"

#include <algorithm>

namespace orrery {

// mxfp4: the routing kernels take a stride as a compile-time constant, the tokens rounded up to 32. Fused
// experts: rows are an argument of which Triton compiles two variants, multiples of 16 and others.
std::size_t FirstUse::variant(std::int64_t tokens) const {
  constexpr std::int64_t rows = 32, multiple = 16;
  if (mxfp4_) return static_cast<std::size_t>((tokens + rows - 1) / rows);
  return tokens * experts_per_token_ % multiple == 0 ? 0 : 1;
}

FirstUse::FirstUse(const InstanceSpec& spec, double host_scale, std::size_t instances) {
  if (!spec.engine.first_use) return;
  const SchedulerSettings& s = spec.engine.settings;
  captured_ = s.cudagraph_sizes.empty() ? 0 : s.cudagraph_sizes.back();
  if (spec.engine.runner == "v2") {
    // PyTorch's caching allocator (c10/cuda, kMinLargeAlloc): what is smaller comes out of shared segments.
    constexpr std::int64_t large = std::int64_t{10} << 20, bytes_per_logit = 4;  // the sampler's copy in fp32
    fresh_rows_ = large / (bytes_per_logit * spec.model.vocabulary);
    most_rows_.assign(instances, fresh_rows_);
  }
  if (spec.model.experts == 0) return;
  mxfp4_ = spec.model.quantization == Quantization::mxfp4;
  const FirstUseCosts& costs = *spec.engine.first_use;
  const Figure<Seconds>& figure = mxfp4_ ? costs.mxfp4_experts : costs.fused_experts;
  stall_ns_ = round_half_even(figure.value.value() * host_scale * 1e9);
  experts_per_token_ = spec.model.experts_per_token;
  // Memory is profiled with the largest step, which compiles what that needs.
  std::vector<bool> seen(std::max<std::size_t>(2, variant(s.max_num_batched_tokens) + 1), false);
  seen[variant(s.max_num_batched_tokens)] = true;
  fresh_ = seen;
  seen_.assign(instances, seen);
}

void FirstUse::reset(std::size_t instance) {
  if (!seen_.empty()) seen_[instance] = fresh_;
  if (!most_rows_.empty()) most_rows_[instance] = fresh_rows_;
}

}  // namespace orrery

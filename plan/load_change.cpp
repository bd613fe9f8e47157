#include "plan/load_change.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "base/json.h"
#include "base/random.h"
#include "plan/bounds.h"

namespace orrery {

namespace {

// Streams that nothing else draws from (plan/racing.cpp has another part of them).
constexpr std::uint64_t hit_stream = std::uint64_t{3} << 62;

}  // namespace

Result<ChangedLoad> with_longer_prompts(const SharedRequests& requests, double factor) {
  auto changed = std::make_shared<std::vector<TraceRequest>>(*requests);
  for (TraceRequest& r : *changed) {
    if (!r.images.empty())
      return make_error(ErrorKind::invalid_input, "prompts with images have no longer form", {},
                        "search.what_if.prompts");
    const double tokens = std::round(r.prompt_tokens * factor);
    if (tokens > 1e9) return make_error(ErrorKind::invalid_input, "prompts beyond a billion tokens");
    r.prompt_tokens = std::max(1, static_cast<std::int32_t>(tokens));
    if (r.hash_ids.empty()) continue;
    const std::size_t names =
        (static_cast<std::size_t>(r.prompt_tokens) + static_cast<std::size_t>(r.hash_block_size) - 1) /
        static_cast<std::size_t>(r.hash_block_size);
    std::vector<std::uint64_t> ids(names);
    for (std::size_t i = 0; i < names; ++i) {
      const auto old =
          std::min(r.hash_ids.size() - 1, static_cast<std::size_t>(static_cast<double>(i) / factor));
      ids[i] = r.hash_ids[old] * 1'000'003 +
               (i - static_cast<std::size_t>(std::ceil(static_cast<double>(old) * factor)));
    }
    r.hash_ids = std::move(ids);
  }
  return ChangedLoad{"prompts " + format_number(factor), std::move(changed)};
}

Result<ChangedLoad> with_fewer_hits(const SharedRequests& requests, double share, std::uint64_t seed) {
  if (!prompts_can_hit(*requests))
    return make_error(ErrorKind::invalid_input, "no request of this workload shares a prefix with another",
                      {}, "search.what_if.hit_rate");
  auto changed = std::make_shared<std::vector<TraceRequest>>(*requests);
  for (TraceRequest& r : *changed) {
    RandomStream stream(seed, RandomPurpose::workload_resample, hit_stream + r.index);
    if (stream.uniform() < share) continue;
    r.session = 0;
    for (std::uint64_t& id : r.hash_ids) id = stream.bits();
  }
  return ChangedLoad{"hit_rate " + format_number(share), std::move(changed)};
}

Result<ChangedLoad> with_longer_prompts(const WorkloadRequests& all, double factor) {
  ORRERY_TRY(out, with_longer_prompts(all.front(), factor));
  for (std::size_t w = 1; w < all.size(); ++w) {
    ORRERY_TRY(other, with_longer_prompts(all[w], factor));
    out.further.push_back(std::move(other.requests));
  }
  return out;
}

Result<ChangedLoad> with_fewer_hits(const WorkloadRequests& all, double share, std::uint64_t seed) {
  auto first = with_fewer_hits(all.front(), share, seed);
  const bool any = std::any_of(all.begin(), all.end(),
                               [](const SharedRequests& requests) { return prompts_can_hit(*requests); });
  if (!any) return first;
  ChangedLoad out{.name = "hit_rate " + format_number(share),
                  .requests = first.ok() ? first->requests : all.front()};
  for (std::size_t w = 1; w < all.size(); ++w) {
    auto other = with_fewer_hits(all[w], share, seed);
    out.further.push_back(other.ok() ? other->requests : all[w]);
  }
  return out;
}

}  // namespace orrery

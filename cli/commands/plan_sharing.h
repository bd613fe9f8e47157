// `orrery plan` in parts: what --shard and --merge set up, and what they say.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "plan/search.h"

namespace orrery {

struct PlanSharing {
  std::string shard;                // "i/n", from 1; empty: the whole
  bool merge = false;               // of what shards have made
  std::vector<std::string> stores;  // files, or folders that hold shards' stores; none: --out
  bool asked() const { return merge || !shard.empty(); }
};

constexpr const char* plan_store_name = "plan.sqlite";

// The stores of `search`, and its crew. A shard takes over what --out/plan.sqlite has and keeps its own
// results beside it; --merge makes that store of the shards'.
Result<std::unique_ptr<ShardCrew>> set_up_sharing(const PlanSharing& sharing, const std::string& out,
                                                  SearchOptions& search);

// What a shard says when it is done.
std::string shard_text(const PlanSharing& sharing, const ShardCrew& crew, const std::string& out, bool json);
// What --merge says where results are missing.
Error not_merged(const ShardCrew& crew, const std::string& out);

// The command without what results do not depend on: the same for every way of doing the work.
std::string command_without_sharing(const std::string& line);

}  // namespace orrery

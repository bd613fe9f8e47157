#include "costmodel/parallel_plan.h"

namespace orrery {

namespace {
constexpr std::int32_t most_stages = 64;
constexpr std::int32_t most_ranks = 512;  // a bit each in sim/rank_scheduler.h
}  // namespace

ParallelPlan read_parallel_plan(const Yaml& node) {
  ParallelPlan p;
  if (!node.present()) return p;
  const auto width = [&](const char* key) {
    return static_cast<std::int32_t>(node.optional(key).integer(1, 1, 4096));
  };
  p.tp = width("tp");
  p.pp = width("pp");
  p.ep = width("ep");
  p.dp = width("dp");
  p.cp = width("cp");
  const std::string all = p.cp > 1 ? "tp x dp x cp" : "tp x dp";
  if (p.mlp_ranks() % p.ep != 0)
    node.optional("ep").fail("must divide " + all + " = " + std::to_string(p.mlp_ranks()));
  if (p.pp > most_stages)
    node.optional("pp").fail("more than " + std::to_string(most_stages) +
                             " pipeline stages are not priced by this version of Orrery");
  if (p.dp > most_ranks)
    node.optional("dp").fail("more than " + std::to_string(most_ranks) +
                             " ranks of attention data parallelism are not priced by this version of Orrery");
  return p;
}

}  // namespace orrery

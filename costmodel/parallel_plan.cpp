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
  if (p.tp * p.dp % p.ep != 0)
    node.optional("ep").fail("must divide tp x dp = " + std::to_string(p.tp * p.dp));
  const auto refuse = [&](const char* key, std::int32_t value, const char* what) {
    if (value > 1)
      node.optional(key).fail(std::string(what) + " is not priced by this version of Orrery; use 1");
  };
  if (p.pp > most_stages)
    node.optional("pp").fail("more than " + std::to_string(most_stages) +
                             " pipeline stages are not priced by this version of Orrery");
  if (p.pp > 1 && p.dp > 1)
    node.optional("pp").fail(
        "pipeline stages beside attention data parallelism are not priced by this version of Orrery; use pp: "
        "1 or dp: 1");
  // Inside a tensor-parallel group: every rank sees every token, runs its own experts, and an all-reduce adds
  // up.
  if (p.ep != 1 && p.ep != p.mlp_ranks()) {
    node.optional("ep").fail(std::string("must be 1 or ") + (p.dp > 1 ? "tp x dp" : "tp") + " = " +
                             std::to_string(p.mlp_ranks()) +
                             "; other widths of expert parallelism are not priced by this version of Orrery");
  }
  if (p.dp > most_ranks)
    node.optional("dp").fail("more than " + std::to_string(most_ranks) +
                             " ranks of attention data parallelism are not priced by this version of Orrery");
  // vLLM 0.24.0: no attention backend sets `supports_pcp` (v1/attention/backend.py), which
  // v1/worker/cp_utils.py asserts; decode context parallelism would run.
  refuse("cp", p.cp,
         "context parallelism (vLLM 0.24's for prompts does not start with any attention backend)");
  return p;
}

}  // namespace orrery

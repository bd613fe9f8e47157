// The forward pass held against the reference: a few sequences served by a small schedule with all that can
// go wrong between a scheduler and a device. Prompts in chunks beside decodes, a sequence that reads blocks
// that another wrote, one that is preempted and recomputed into other blocks, blocks scattered over the pool,
// decodes with and without graphs. Each row's logits must lie within the derived bound of the reference's
// (reference_forward.h); each token be the reference's best, or one that the bound cannot tell from it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "costmodel/model_spec.h"
#include "kernels/kernel_case.h"
#include "live/forward/ranked_forward.h"

namespace orrery {

constexpr double bound_deviations = 7;  // reference_forward.h says why

// What a test breaks on purpose, in one step of the schedule.
enum class ForwardFault : std::uint8_t { none, slot, position, block_table, context, stale_prefix };

struct ForwardCheckOptions {
  std::uint64_t seed = 1;
  bool graphs = false, fp32 = false;
  bool brief = false;  // two sequences and few tokens
  ForwardFault fault = ForwardFault::none;
  double zipf = 0;  // above 0: experts are drawn by a popularity of this exponent
  RankedForward::Options ranks;
};

struct ForwardCheck {
  std::int64_t steps = 0, graph_steps = 0, graphs = 0, rows = 0;  // rows whose logits were compared
  std::int64_t tokens = 0, same_tokens = 0;  // sampled, and equal to the reference's best
  // Of tokens and experts: the bound tells them from the best; or, where experts are drawn, they are not
  // those that the simulation draws.
  std::int64_t wrong_tokens = 0, wrong_choices = 0;
  std::int64_t logits = 0, beyond_bound = 0;          // NaNs count as beyond
  bool ranks_agree = true;                            // on every token of every step
  double worst_deviations = 0, median_deviation = 0;  // largest error over its deviation; of logits' errors
  std::string detail;                                 // the first that is beyond
  bool passed() const { return rows > 0 && ranks_agree && beyond_bound + wrong_tokens + wrong_choices == 0; }
};

// Queries, keys, MLPs and vocabulary that two ranks share out; without experts and with.
std::vector<ModelSpec> checked_models_of_two();

// Two layers, small enough for the CPU simulator.
ModelSpec tiny_model(bool experts = false, Quantization quantization = Quantization::none);
// Queries, hidden units and MLP of three widths, where those of the one above are one: a stride of another's
// does not pass, nor a head of keys that is not the query's.
ModelSpec tiny_grouped_model(Quantization quantization);
ModelSpec tiny_latent_model();  // as DeepSeek-V2-Lite: a latent, an MLP, then experts with a shared one
std::vector<ModelSpec> checked_models();  // of every format that there is code for

// One row behind one that is there: the least that ranks can run together.
StepBatch least_step();

Result<ForwardCheck> check_forward(const ModelSpec& model, const ForwardCheckOptions& options,
                                   kernels::DeviceMemory& memory);

}  // namespace orrery

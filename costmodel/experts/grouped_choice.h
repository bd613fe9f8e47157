// Routers that choose groups of experts first (DeepSeek-V2, V3, R1; modeling_deepseek.py of their releases,
// `MoEGate.forward`; vLLM 0.24 layers/fused_moe/router/grouped_topk_router.py): a group's score is the sum of
// its two best experts' scores (`noaux_tc`) or its best one's (`group_limited_greedy`), the best groups are
// taken, and of their experts the k best.
//
// Over popularity: an expert's score is its log-weight with Gumbel noise, as in choice.h, so that without
// groups the law is that one. A network's scores are sigmoids or a softmax with a correction added; the sum
// of two is taken of the logarithms here, and what the correction balances has to be in the popularity.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "costmodel/experts/choice.h"

namespace orrery {

inline constexpr std::int64_t most_groups = 32;

struct GroupLimit {
  std::int32_t groups = 1, chosen = 1;  // of a layer; equal numbers of experts in a row
  std::int32_t best = 2;                // experts whose scores make a group's: 1 or 2
  bool on() const { return chosen < groups; }
  friend bool operator==(const GroupLimit&, const GroupLimit&) = default;
};

// Draws by the law, exactly. Experts ring at exponential times of their weights' rates (scores are minus the
// logarithms of the times), group by group: only rings that decide something are drawn.
class GroupedChoice {
 public:
  GroupedChoice() = default;
  // `limit` is on; its chosen groups have at least as many experts as are asked for.
  GroupedChoice(std::span<const double> weights, const GroupLimit& limit);
  // Fills `out` with distinct experts in the order of choice.
  void draw(RandomStream& stream, std::span<std::int32_t> out) const;

 private:
  struct Group {
    ExpertChoice choice;
    std::vector<double> weights;
    double sum = 0;
  };
  struct Race;
  static void ring(Race& race, RandomStream& stream);
  static double left(const Race& race);

  GroupLimit limit_;
  std::vector<Group> groups_;
};

// Choices of so many tokens, one after the other, in a stream that the weights name: what moments of the law
// are taken from.
inline constexpr std::int64_t sampled_tokens = 16384;
std::vector<std::uint16_t> sample_choices(std::span<const double> weights, std::int32_t k,
                                          const GroupLimit& limit);
// Of each expert, from such a sample; exact where all weights are equal. What a group gets is the sample's;
// of who is seldom chosen in it, how plain choice would deal that out counts more than the sample.
std::vector<double> inclusion_of_sample(std::span<const double> weights, std::int32_t k, std::int32_t groups,
                                        std::span<const std::uint16_t> sample);
// weights_of_counts (choice.h) under a limit: within what samples leave open, some 2 % of an expert.
std::vector<double> weights_of_counts(std::span<const double> counts, std::int32_t k,
                                      const GroupLimit& limit);

}  // namespace orrery

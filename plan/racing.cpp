#include "plan/racing.h"

#include <algorithm>
#include <array>

#include "base/random.h"
#include "plan/workload_mix.h"

namespace orrery {

namespace {

using Weights = std::array<double, block_count>;  // how often a block was drawn

// A name that no workload's own resampling has.
constexpr std::uint64_t racing_stream = std::uint64_t{1} << 63;

std::vector<Weights> draw_blocks(std::uint64_t seed) {
  std::vector<Weights> draws(racing_draws);
  for (std::size_t k = 0; k < draws.size(); ++k) {
    RandomStream stream(seed, RandomPurpose::workload_resample, racing_stream + k);
    draws[k].fill(0);
    for (std::size_t b = 0; b < block_count; ++b) draws[k][stream.below(block_count)] += 1;
  }
  return draws;
}

RequestBlock sum_of(const RequestBlocks& blocks, const Weights& weights) {
  RequestBlock sum;
  for (std::size_t b = 0; b < blocks.size(); ++b) {
    for (double RequestBlock::*field :
         {&RequestBlock::requests, &RequestBlock::met, &RequestBlock::answered, &RequestBlock::tokens,
          &RequestBlock::e2e_ms, &RequestBlock::met_tokens, &RequestBlock::busy_s})
      sum.*field += weights[b] * blocks[b].*field;
  }
  return sum;
}

bool in_time(const PlanScore& score, const RequestBlock& sum, double share) {
  if (sum.requests == 0) return false;
  return score.has_slo ? sum.met / sum.requests >= share : sum.answered == sum.requests;
}

// Instances more or fewer than the score's that these blocks ask for: one less where those would do, one more
// where these would not.
int instances_moved(const PlanSpace& space, const std::vector<const PlanScore*>& parts,
                    const Weights& weights, const std::vector<double>& shares, bool meets) {
  if (space.most_replicas == 0) return 0;
  bool fewer_do = true, met = true;
  for (std::size_t w = 0; w < parts.size(); ++w) {
    met &= parts[w]->meets;
    fewer_do &= !parts[w]->fewer.empty() && in_time(*parts[w], sum_of(parts[w]->fewer, weights), shares[w]);
  }
  if (fewer_do) return -1;
  return !meets && met && parts.front()->replicas < space.most_replicas ? 1 : 0;
}

// What the score of one workload would be of these blocks, with so many times its instances, all as fast.
PlanScore resampled_part(const PlanSpace& space, const PlanScore& score, const Weights& weights, double share,
                         double scale) {
  PlanScore out;
  const RequestBlock sum = sum_of(score.blocks, weights);
  out.has_slo = score.has_slo;
  out.meets = in_time(score, sum, share);
  out.attainment = sum.requests > 0 ? (score.has_slo ? sum.met : sum.answered) / sum.requests : 0;
  out.mean_e2e_ms = sum.answered > 0 ? sum.e2e_ms / sum.answered : 0;
  out.requests_per_s = sum.answered;  // whether there is any
  const double gpus = scale * static_cast<double>(score.gpus);
  const double busy = sum.busy_s > 0 ? sum.busy_s : 1e-9;
  switch (space.objective) {
    case PlanObjective::gpus: out.objective = gpus; break;
    case PlanObjective::cost:
      out.objective = sum.tokens > 0 ? scale * score.usd_per_hour / 3600 * busy / sum.tokens * 1e6 : 0;
      break;
    case PlanObjective::throughput: out.objective = -sum.tokens / busy / gpus; break;
    case PlanObjective::latency: out.objective = out.mean_e2e_ms; break;
    case PlanObjective::goodput: out.objective = -sum.met / busy / gpus; break;
    // The same boards, whatever they draw, for as long as these blocks take.
    case PlanObjective::energy:
      out.objective = sum.tokens > 0 ? score.watts_per_gpu * gpus * busy / sum.tokens : 0;
      break;
    case PlanObjective::rate: out.objective = score.objective; break;
  }
  return out;
}

PlanScore resampled(const PlanSpace& space, const PlanScore& score, const Weights& weights,
                    const std::vector<double>& shares) {
  std::vector<const PlanScore*> parts;
  for (const PlanScore& one : score.each) parts.push_back(&one);
  if (parts.empty()) parts.push_back(&score);
  bool meets = true;
  for (std::size_t w = 0; w < parts.size(); ++w)
    meets &= in_time(*parts[w], sum_of(parts[w]->blocks, weights), shares[w]);
  const int moved = instances_moved(space, parts, weights, shares, meets);
  const double scale = 1 + static_cast<double>(moved) / static_cast<double>(score.replicas);
  std::vector<PlanScore> each;
  for (std::size_t w = 0; w < parts.size(); ++w)
    each.push_back(resampled_part(space, *parts[w], weights, shares[w], scale));
  PlanScore out = each.size() == 1 ? std::move(each.front()) : combined(space, std::move(each));
  if (moved != 0) out.meets = true;
  return out;
}

bool has_blocks(const PlanScore& score) {
  return !score.blocks.empty() ||
         (!score.each.empty() && std::all_of(score.each.begin(), score.each.end(),
                                             [](const PlanScore& one) { return !one.blocks.empty(); }));
}

}  // namespace

std::vector<bool> significantly_worse(const PlanSpace& space, const std::vector<const PlanScore*>& scores,
                                      std::size_t least, std::uint64_t seed,
                                      const std::vector<double>& shares) {
  std::vector<bool> out(scores.size(), false);
  if (scores.size() <= least || !has_blocks(*scores.front())) return out;
  const std::vector<Weights> draws = draw_blocks(seed);
  std::vector<PlanScore> leader;
  for (const Weights& weights : draws) leader.push_back(resampled(space, *scores.front(), weights, shares));
  for (std::size_t i = least; i < scores.size(); ++i) {
    if (!has_blocks(*scores[i])) continue;
    double as_good = 0;
    const double most = racing_doubt * racing_draws;
    for (std::size_t k = 0; k < draws.size() && as_good < most; ++k)
      as_good += better(leader[k], resampled(space, *scores[i], draws[k], shares)) ? 0 : 1;
    out[i] = as_good < most;
  }
  return out;
}

}  // namespace orrery

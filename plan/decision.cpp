#include "plan/decision.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "base/json.h"
#include "base/text.h"

namespace orrery {

namespace {

const Candidate& candidate_of(const PlanSearch& search, const PlanEntry& entry) {
  return search.candidates.all[entry.candidate];
}

std::string percent(double share) { return format_fixed(share * 100, share < 0.1 ? 1 : 0) + " %"; }

struct LimitRoom {
  const char* name;
  double value, limit;
  std::size_t workload = 0;
  double room() const { return limit / value - 1; }  // how much longer it may take
};

// Limits of the SLO with what stands at its percentile, of every workload, the nearest first.
std::vector<LimitRoom> rooms_of(const Candidate& candidate, const PlanScore& score) {
  std::vector<LimitRoom> rooms;
  for (std::size_t w = 0; w <= candidate.further.size(); ++w) {
    const SloSpec& slo = candidate.under(w).slo;
    const PlanScore& s = score.each.empty() ? score : score.each[w];
    if (slo.ttft_ms > 0 && s.ttft_ms > 0) rooms.push_back({"ttft_ms", s.ttft_ms, slo.ttft_ms, w});
    if (slo.tpot_ms > 0 && s.tpot_ms > 0) rooms.push_back({"tpot_ms", s.tpot_ms, slo.tpot_ms, w});
  }
  std::stable_sort(rooms.begin(), rooms.end(),
                   [](const LimitRoom& a, const LimitRoom& b) { return a.room() < b.room(); });
  return rooms;
}

std::string under_which(const PlanSpace& space, std::size_t workload) {
  return space.workloads.empty() ? "" : " (" + space.workloads[workload].name + ")";
}

std::string label_of(const PlanSearch& search, const PlanEntry& entry) {
  return search.candidates.all[entry.candidate].label();
}

// The part of a deployment that has one only.
std::string only_part(const Scenario& scenario) {
  const auto pools = scenario.pools();
  const std::string& part = pools.front()->instance.hardware.name;
  return std::all_of(pools.begin(), pools.end(),
                     [&](const PoolSpec* pool) { return pool->instance.hardware.name == part; })
             ? part
             : "";
}

// At which price of its part the other one would cost as much.
std::string price_flip(const PlanSearch& search, const PlanEntry& choice, const PlanEntry& next) {
  const std::string part = only_part(*candidate_of(search, choice).scenario),
                    other = only_part(*candidate_of(search, next).scenario);
  const double own = choice.score.objective, its = next.score.objective;  // of `cost`
  if (part.empty() || other.empty() || part == other || own <= 0 || its <= 0 || next.score.gpus == 0)
    return "";
  const double price = next.score.usd_per_hour / static_cast<double>(next.score.gpus);
  return "It costs as much as the choice where a GPU hour of " + other + " is " +
         format_fixed(price * own / its, 2) + " USD (" + format_fixed(price, 2) + " now).";
}

// By how much a rejected candidate misses (1: by as much again), and the change that lets it in.
struct Miss {
  double by = -1;  // below 0: no figure says
  std::string change;
};

// The reason is what is kept of a rejection, and has its figures (beyond_owned, beyond_slo).
Miss miss_of(const Candidate& candidate) {
  const char* reason = candidate.reason.c_str();
  if (candidate.rejected == RejectedBy::owned) {
    long long takes = 0, has = 0;
    char part[128] = "";
    if (std::sscanf(reason, "takes %lld %127[^;]; `search.owned` has %lld", &takes, part, &has) != 3)
      return {};
    return {static_cast<double>(takes - has) / static_cast<double>(std::max(1LL, has)),
            "own " + std::to_string(takes - has) + " more " + part};
  }
  if (candidate.rejected == RejectedBy::memory) {  // MemoryPlan says what there is and what lacks
    double has = 0, lacks = 0;
    const char *give = std::strstr(reason, " has "), *much = std::strstr(reason, "; ");
    if (give == nullptr || much == nullptr || std::sscanf(give, " has %lf GiB to give", &has) != 1 ||
        std::sscanf(much, "; %lf GiB too much", &lacks) != 1)
      return {};
    return {lacks / std::max(1.0, has), "free " + format_number(lacks) +
                                            " GiB a GPU more: weights or a KV cache of fewer bits, more GPUs "
                                            "an instance, or a part with more memory"};
  }
  const char* floor = std::strstr(reason, "takes at least ");
  double least = 0, limit = 0;
  char key[64] = "";
  if (candidate.rejected != RejectedBy::bound || floor == nullptr ||
      std::sscanf(floor, "takes at least %lf ms, slo.%63[a-z_] is %lf", &least, key, &limit) != 3 ||
      limit <= 0)
    return {};
  return {least / limit - 1, "relax slo." + std::string(key) + " to more than " + format_number(least)};
}

}  // namespace

std::string nearest_rejected(const CandidateList& list) {
  const Candidate* nearest = nullptr;
  Miss least;
  for (const Candidate& candidate : list.all) {
    Miss miss = miss_of(candidate);
    if (miss.by < 0 || (nearest != nullptr && miss.by >= least.by)) continue;
    nearest = &candidate;
    least = std::move(miss);
  }
  if (nearest == nullptr) {  // what a configuration lacks has no size: who has the fewest mistakes
    long fewest = 0;
    for (const Candidate& candidate : list.all) {
      if (candidate.rejected != RejectedBy::configuration) continue;
      const std::size_t at = candidate.reason.rfind(" (and ");
      const long more =
          at == std::string::npos ? 0 : std::strtol(candidate.reason.c_str() + at + 6, nullptr, 10);
      if (nearest != nullptr && more >= fewest) continue;
      nearest = &candidate;
      fewest = more;
    }
    if (nearest == nullptr) return "";
    return ". The nearest is " + nearest->label() + ", refused for " + std::to_string(fewest + 1) +
           (fewest == 0 ? " reason" : " reasons") + " (" + nearest->reason + "): vary what that names";
  }
  return ". The nearest is " + nearest->label() + " (" + nearest->reason + "): " + least.change;
}

std::vector<std::string> would_change(const PlanSpace& space, const PlanSearch& search) {
  std::vector<std::string> out;
  if (search.finalists.empty() || !search.finalists.front().entry.score.meets) return out;
  const PlanEntry& choice = search.finalists.front().entry;
  for (const LimitRoom& room : rooms_of(candidate_of(search, choice), choice.score)) {
    out.push_back("slo." + std::string(room.name) + under_which(space, room.workload) + " is met with " +
                  format_number(std::round(room.value * 10) / 10) + " ms at its percentile, limit " +
                  format_number(room.limit) + ": " + percent(room.room()) +
                  " longer, and the choice misses it.");
  }
  const auto next = std::find_if(search.finalists.begin() + 1, search.finalists.end(),
                                 [](const Finalist& f) { return f.entry.score.meets; });
  if (next == search.finalists.end()) {
    out.emplace_back("No other finalist meets the SLO: there is nothing to change to.");
    return out;
  }
  const double own = choice.score.objective, its = next->entry.score.objective;
  const std::string name = label_of(search, next->entry);
  if (own == its && choice.score.mean_e2e_ms == next->entry.score.mean_e2e_ms) {
    out.push_back(name + " is its equal in all that was asked; the order of the file decides.");
  } else if (own == its || own == 0) {
    out.push_back(name + " has the same " + to_string(space.objective) +
                  "; the shorter mean end-to-end latency decides (" +
                  format_fixed(choice.score.mean_e2e_ms, 1) + " against " +
                  format_fixed(next->entry.score.mean_e2e_ms, 1) + " ms).");
  } else {
    out.push_back(name + " takes the lead where the choice's " + to_string(space.objective) + " is " +
                  percent(std::abs(its / own - 1)) +
                  " worse than predicted, beside it; of the draws it does in " +
                  percent(next->best_probability) + ".");
  }
  if (space.objective == PlanObjective::cost) {
    if (std::string flip = price_flip(search, choice, next->entry); !flip.empty())
      out.push_back(std::move(flip));
  }
  return out;
}

const PlanEntry& nearest_missing(const PlanSearch& search) {
  const auto room = [&](const Finalist& f) {
    const std::vector<LimitRoom> rooms = rooms_of(candidate_of(search, f.entry), f.entry.score);
    return rooms.empty() ? 0 : rooms.front().room();
  };
  const auto answers = [](const Finalist& f) { return f.entry.score.requests_per_s > 0; };
  return std::max_element(search.finalists.begin(), search.finalists.end(),
                          [&](const Finalist& a, const Finalist& b) {
                            return answers(a) != answers(b) ? answers(b) : room(a) < room(b);
                          })
      ->entry;
}

std::string missed_limits(const PlanSpace& space, const Candidate& candidate, const PlanScore& score) {
  std::string out;
  const std::vector<LimitRoom> rooms = rooms_of(candidate, score);
  for (const LimitRoom& room : rooms) {
    out += "; " + std::string(std::string(room.name) == "ttft_ms" ? "TTFT" : "TPOT") +
           under_which(space, room.workload) + " at that percentile " +
           format_fixed(room.value, room.value < 100 ? 1 : 0) + " ms, limit " + format_number(room.limit);
    if (room.room() < 0) out += " (" + percent(-room.room() / (1 + room.room())) + " too long)";
  }
  if (rooms.empty() || rooms.front().room() >= 0)
    return out +
           ". Each limit is met by enough requests, and both by too few: relax slo.percentile, own more "
           "GPUs, or offer less";
  // As the run stands, a request that misses one limit for the other's sake is not counted here: an estimate.
  const double digits = rooms.front().value < 10 ? 100 : 10;
  const double enough = std::ceil(rooms.front().value * digits) / digits;
  return out + ". Relax slo." + rooms.front().name + under_which(space, rooms.front().workload) +
         " to about " + format_number(enough) + ", own more GPUs, or offer less";
}

}  // namespace orrery

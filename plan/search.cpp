#include "plan/search.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <optional>
#include <set>

#include "base/digest.h"
#include "base/json.h"
#include "plan/axes.h"
#include "plan/bounded_space.h"
#include "plan/doubt.h"
#include "plan/racing.h"
#include "plan/rounds.h"
#include "plan/sensitivity.h"
#include "plan/workload_mix.h"

namespace orrery {

namespace {

// Shares of the workload on which candidates are compared before all of it: an eighth, a quarter, a half.
constexpr std::uint64_t first_part = 8;
constexpr std::uint64_t least_requests = 64;  // a part with fewer that count says too little of a queue

bool before(const PlanEntry& a, const PlanEntry& b) {
  if (better(a.score, b.score)) return true;
  return !better(b.score, a.score) && a.candidate < b.candidate;
}

class Search {
 public:
  Search(const PlanSpace& space, const SearchOptions& options, PlanStore store, BoundedSpace& bounded)
      : space_(space), options_(options), store_(std::move(store)), bounded_(bounded),
        runner_(space, options, store_, bounded.reader().tables()) {}

  Status join() {
    if (options_.crew == nullptr) return ok_status();
    return options_.crew->join(store_, [this] { return runner_.runs(); });
  }
  Result<PlanSearch> go(const WorkloadRequests& requests);

 private:
  Status run_wave(const std::vector<std::size_t>& which);
  Status first_wave();
  Status second_wave();
  Status read_rest();
  Status rounds(const WorkloadRequests& requests);
  Status round(std::uint64_t requests);
  Status run_all(std::vector<PlanEntry>& entries, std::uint64_t requests);
  Status estimate();
  void compare_draws();
  void drop_refused(std::vector<PlanEntry>& entries);
  void rule_out();               // whom enough others are better than
  void leave(std::size_t stay);  // the worst go, until so many are left
  std::size_t least_staying() const { return static_cast<std::size_t>(space_.finalists) * 2; }
  Candidate& of(const PlanEntry& entry) { return bounded_.list().all[entry.candidate]; }
  // One more is done; counted under the lock, so that progress never runs backwards.
  void tell(std::uint64_t& done, std::uint64_t of, const char* what) {
    const std::scoped_lock lock(progress_);
    ++done;
    if (options_.progress) options_.progress(done, of, what);
  }

  const PlanSpace& space_;
  const SearchOptions& options_;
  PlanStore store_;
  BoundedSpace& bounded_;
  PlanRunner runner_;
  PlanSearch out_;
  std::vector<PlanEntry> running_;
  std::map<std::size_t, PlanScore> whole_;  // by candidate: who was run on all of the workload
  std::optional<double> limit_;             // what enough of those reach that meet the SLO
  std::vector<double> shares_;              // of the requests that have to be in time, by workload
  std::uint64_t seed_ = 1;
  std::mutex progress_;
};

// The same work for everybody; scores of the whole workload are kept and not made twice.
Status Search::run_all(std::vector<PlanEntry>& entries, std::uint64_t requests) {
  std::uint64_t done = 0, of_all = 0;
  const bool all = requests == out_.requests;
  for (const PlanEntry& entry : entries) of_all += all && whole_.contains(entry.candidate) ? 0 : 1;
  const std::vector<PlanEntry> before_it = entries;  // a piece that is made again asks the same questions
  ORRERY_TRY_STATUS(run_batch(options_.crew, entries.size(), options_.threads, [&](std::size_t i) -> Status {
    PlanEntry& entry = entries[i];
    if (const auto known = whole_.find(entry.candidate); all && known != whole_.end()) {
      entry.score = known->second;
    } else {
      const ObjectiveBound& bound = bounded_.bound(entry.candidate);
      PlanRunner::Range range;
      if (!options_.exhaustive) range = {bound.instances, most_instances(space_, bound, limit_)};
      ORRERY_TRY(score, runner_.best(of(entry), before_it[i].score, range, requests));
      entry.score = score;
      tell(done, of_all, "candidates");
    }
    entry.requests = requests;
    return ok_status();
  }));
  drop_refused(entries);
  if (all) {
    for (const PlanEntry& entry : entries) whole_.insert_or_assign(entry.candidate, entry.score);
  }
  std::sort(entries.begin(), entries.end(), before);
  return ok_status();
}

// Runs them on all of the workload, for what they reach rules out whose bound is worse.
Status Search::run_wave(const std::vector<std::size_t>& which) {
  ORRERY_TRY_STATUS(bounded_.reader().read(which));
  ORRERY_TRY_STATUS(bounded_.reader().look_closer(which));
  std::vector<PlanEntry> wave;
  for (const std::size_t i : which) {
    if (bounded_.list().all[i].scenario != nullptr)
      wave.push_back({.candidate = i, .requests = 0, .score = {}});
  }
  ORRERY_TRY_STATUS(run_all(wave, out_.requests));
  rule_out();
  return ok_status();
}

// First of every step graph one, by their bounds, then whoever has the best bounds.
Status Search::first_wave() {
  const std::vector<std::size_t> order = bounded_.by_bound();
  if (order.size() <= least_staying()) return ok_status();
  std::vector<std::size_t> first;
  std::set<std::string> graphs;
  for (const bool of_new_graphs : {true, false}) {
    for (const std::size_t i : order) {
      if (first.size() == least_staying()) break;
      const Candidate& candidate = bounded_.list().all[i];
      if (!bounded_.bound(i).known || (of_new_graphs && candidate.scenario == nullptr)) continue;
      if (of_new_graphs && !graphs.insert(graph_name(candidate)).second) continue;
      if (std::find(first.begin(), first.end(), i) == first.end()) first.push_back(i);
    }
  }
  return run_wave(first);
}

// Then more of the graph that came out best: what many reach is nearer to the best than what one of each
// does.
Status Search::second_wave() {
  const auto best = std::min_element(whole_.begin(), whole_.end(),
                                     [](const auto& a, const auto& b) { return better(a.second, b.second); });
  if (best == whole_.end() || !best->second.meets) return ok_status();
  const std::string graph = graph_name(bounded_.list().all[best->first]);
  std::vector<std::size_t> members, some;
  for (const Candidate& candidate : bounded_.list().all) {
    if (candidate.rejected == RejectedBy::nothing && !whole_.contains(candidate.index) &&
        graph_name(candidate) == graph)
      members.push_back(candidate.index);
  }
  const std::size_t count = std::min(members.size(), least_staying());
  for (std::size_t k = 0; k < count; ++k) some.push_back(members[k * members.size() / count]);
  return run_wave(some);
}

// Whoever cannot be better than `finalists` others that meet the SLO on all of the workload.
void Search::rule_out() {
  std::vector<double> reached;
  for (const auto& [candidate, score] : whole_) {
    if (score.meets) reached.push_back(score.objective);
  }
  const auto enough = static_cast<std::size_t>(space_.finalists);
  if (reached.size() < enough || options_.exhaustive) return;
  std::sort(reached.begin(), reached.end());
  limit_ = reached[enough - 1];
  for (Candidate& candidate : bounded_.list().all) {
    const ObjectiveBound& bound = bounded_.bound(candidate.index);
    if (candidate.rejected != RejectedBy::nothing || !bound.known || whole_.contains(candidate.index))
      continue;
    if (bound.objective <= *limit_) continue;
    reject(candidate, RejectedBy::bound,
           std::to_string(enough) + " others that meet it are better than it can be");
    ++out_.saved.by_bounds;
    out_.saved.unread += candidate.read ? 0 : 1;
  }
  std::erase_if(running_, [&](const PlanEntry& entry) { return of(entry).rejected != RejectedBy::nothing; });
}

Status Search::read_rest() {
  std::vector<std::size_t> rest;
  for (const Candidate& candidate : bounded_.list().all) {
    if (candidate.rejected == RejectedBy::nothing) rest.push_back(candidate.index);
  }
  if (rest.size() > most_read) {
    return invalid_input("no bound rules out " + std::to_string(rest.size()) +
                             " of these combinations; at most " + std::to_string(most_read) +
                             " are run: shorten lists",
                         {space_.file, 0, 0}, "search");
  }
  ORRERY_TRY_STATUS(bounded_.reader().read(rest));
  ORRERY_TRY_STATUS(bounded_.reader().look_closer(rest));
  for (const std::size_t i : rest) {
    if (bounded_.list().all[i].scenario != nullptr)
      running_.push_back({.candidate = i, .requests = 0, .score = {}});
  }
  return ok_status();
}

Status Search::round(std::uint64_t requests) {
  ORRERY_TRY_STATUS(run_all(running_, requests));
  std::vector<const PlanScore*> scores;
  for (const PlanEntry& entry : running_) scores.push_back(&entry.score);
  const std::vector<bool> worse =
      significantly_worse(space_, scores, least_staying(), seed_ + requests, shares_);
  std::vector<PlanEntry> staying, leaving;
  for (std::size_t i = 0; i < running_.size(); ++i) (worse[i] ? leaving : staying).push_back(running_[i]);
  out_.saved.by_racing += leaving.size();
  out_.left.insert(out_.left.end(), leaving.rbegin(), leaving.rend());
  running_ = std::move(staying);
  return ok_status();
}

void Search::drop_refused(std::vector<PlanEntry>& entries) {
  for (const PlanEntry& entry : entries) {
    if (!entry.score.refused.empty()) reject(of(entry), RejectedBy::configuration, entry.score.refused);
  }
  std::erase_if(entries, [](const PlanEntry& entry) { return !entry.score.refused.empty(); });
}

void Search::leave(std::size_t stay) {
  while (running_.size() > stay) {
    out_.left.push_back(running_.back());
    running_.pop_back();
  }
}

Status Search::estimate() {
  out_.finalists.resize(std::min(running_.size(), static_cast<std::size_t>(space_.finalists)));
  leave(out_.finalists.size());
  std::uint64_t done = 0;
  return run_batch(options_.crew, out_.finalists.size(), options_.threads, [&](std::size_t i) -> Status {
    Finalist& finalist = out_.finalists[i];
    finalist.entry = running_[i];
    ORRERY_TRY_STATUS(runner_.estimate(of(finalist.entry), finalist));
    tell(done, out_.finalists.size(), "finalists");
    return ok_status();
  });
}

// Draw by draw: who is best, and how far the others are behind.
void Search::compare_draws() {
  std::vector<Finalist>& all = out_.finalists;
  if (all.empty()) return;  // none of them could be run
  const auto draws = static_cast<std::size_t>(space_.draws);
  const double each = 1.0 / static_cast<double>(draws);
  std::vector<std::size_t> met(all.size(), 0);
  for (std::size_t k = 0; k < draws; ++k) {
    std::size_t best = 0;
    for (std::size_t i = 1; i < all.size(); ++i) {
      if (better(all[i].draws[k], all[best].draws[k])) best = i;
    }
    const PlanScore& winner = all[best].draws[k];
    all[best].best_probability += each;
    for (std::size_t i = 0; i < all.size(); ++i) {
      const PlanScore& own = all[i].draws[k];
      all[i].shortfall += std::max(0.0, winner.attainment - own.attainment) * 100 * each;
      if (!own.meets) continue;
      ++met[i];
      all[i].regret += own.objective - winner.objective;
    }
  }
  for (std::size_t i = 0; i < all.size(); ++i) {
    all[i].meets_probability = static_cast<double>(met[i]) * each;
    if (met[i] > 0) all[i].regret /= static_cast<double>(met[i]);
  }
}

Status Search::rounds(const WorkloadRequests& requests) {
  // Every run of `rate` is at a rate of its own, and there are no pairs to compare.
  const bool races = !options_.exhaustive && space_.objective != PlanObjective::rate;
  for (std::uint64_t part = first_part; races && part > 1; part /= 2) {
    const std::uint64_t few = out_.requests / part;
    if (running_.size() <= least_staying()) break;
    // All candidates have the same workloads.
    bool enough = true;
    for (std::size_t w = 0; w < requests.size(); ++w) {
      const WorkloadSpec& workload = of(running_.front()).under(w).workload;
      enough &= measured_requests(*requests[w], workload, share_of(requests, w, few)) >= least_requests;
    }
    if (!enough) continue;
    // After a round that hardly anybody left the next one, twice as long, would be as idle.
    const std::size_t before_it = running_.size();
    ORRERY_TRY_STATUS(round(few));
    if (running_.size() > before_it - before_it / 4) break;
  }
  return run_all(running_, out_.requests);
}

Result<PlanSearch> Search::go(const WorkloadRequests& requests) {
  for (const SharedRequests& one : requests) out_.requests += one->size();
  shares_.assign(requests.size(), 1);
  out_.saved.graphs = bounded_.graphs();
  for (const Candidate& candidate : bounded_.list().all) {
    if (candidate.scenario == nullptr) continue;
    for (std::size_t w = 0; w < requests.size(); ++w) {
      if (candidate.under(w).slo.given) shares_[w] = candidate.under(w).slo.percentile / 100;
    }
    seed_ = candidate.scenario->seed;
    break;
  }
  if (!options_.exhaustive) {
    ORRERY_TRY_STATUS(first_wave());
    ORRERY_TRY_STATUS(second_wave());
  }
  ORRERY_TRY_STATUS(read_rest());
  ORRERY_TRY_STATUS(rounds(requests));
  out_.saved.to_the_end = running_.size();
  ORRERY_TRY_STATUS(estimate());
  compare_draws();
  out_.candidates = std::move(bounded_.list());
  out_.doubts = doubt_of(out_, seed_, static_cast<std::size_t>(space_.draws));
  ORRERY_TRY(around, look_around(space_, options_, out_, bounded_.requests(), runner_));
  out_.around = std::move(around);
  out_.saved.simulated = runner_.requests();
  out_.runs = runner_.runs() + (options_.crew != nullptr ? options_.crew->runs_elsewhere() : 0);
  out_.reused = store_.found();
  return std::move(out_);
}

std::string identity_of(const PlanSpace& space, const SearchOptions& options, const WorkloadRequests& all) {
  Digest digest;
  digest.add_text(options.version);
  digest.add_text(to_string(space.objective));
  for (const auto& [part, price] : space.prices) {
    digest.add_text(part);
    digest.add_text(format_number(price));
  }
  for (const SharedRequests& requests : all) {
    for (const TraceRequest& r : *requests) {
      digest.add(r.index);
      for (const std::int64_t value :
           {r.arrival.ns(), std::int64_t{r.prompt_tokens}, std::int64_t{r.output_tokens},
            std::int64_t{r.max_output_tokens}, std::int64_t{r.hash_block_size}, std::int64_t{r.priority},
            r.timeout.ns(), r.cancel_after.ns()})
        digest.add(value);
      digest.add(r.session);
      digest.add_text(r.tenant);
      digest.add(std::uint64_t{r.hash_ids.size()});
      for (const std::uint64_t id : r.hash_ids) digest.add(id);
      for (const ImageSize& image : r.images) {
        digest.add(image.id);
        for (const std::int32_t value : {image.width, image.height, image.position})
          digest.add(std::int64_t{value});
      }
    }
  }
  return digest_text(digest.value());
}

Result<PlanStore> open_store(const SearchOptions& options, const std::string& identity) {
  if (!options.store.empty()) return PlanStore::open(options.store, identity, options.start);
  if (options.crew != nullptr) return PlanStore::in_memory(identity);  // results have to go through one
  return PlanStore();
}

// A price is looked for before anything runs.
Status check_prices(const PlanSpace& space, const CandidateList& list) {
  if (space.objective != PlanObjective::cost) return ok_status();
  for (const Candidate& candidate : list.all) {
    if (candidate.scenario == nullptr) continue;
    if (usd_per_hour(space, *candidate.scenario) > 0) continue;
    for (const PoolSpec* pool : candidate.scenario->pools()) {
      const HardwareProfile& part = pool->instance.hardware;
      if (space.price_of(part.name) > 0 || part.price) continue;
      return invalid_input("the objective is cost, and " + part.name +
                               " has no price, which Orrery never assumes; add search.prices: {" + part.name +
                               ": USD per GPU and hour}",
                           {space.file, 0, 0}, "search.prices");
    }
  }
  return ok_status();
}

}  // namespace

Result<PlanSearch> search_plans(const PlanSpace& space, const SearchOptions& options) {
  BoundedSpace bounded(space, options);
  ORRERY_TRY_STATUS(bounded.make());
  ORRERY_TRY_STATUS(check_prices(space, bounded.list()));
  if (bounded.list().in_question() == 0) {
    PlanSearch nothing;
    nothing.candidates = std::move(bounded.list());
    return nothing;
  }
  const std::string identity = identity_of(space, options, bounded.requests());
  ORRERY_TRY(store, open_store(options, identity));
  for (const std::string& path : options.others) {
    ORRERY_TRY(results, PlanStore::read(path, identity));
    ORRERY_TRY_STATUS(store.add(results, true));
  }
  Search search(space, options, std::move(store), bounded);
  ORRERY_TRY_STATUS(search.join());
  return search.go(bounded.requests());
}

}  // namespace orrery

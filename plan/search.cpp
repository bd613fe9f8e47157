#include "plan/search.h"

#include <algorithm>
#include <mutex>

#include "base/digest.h"
#include "base/json.h"
#include "plan/rounds.h"

namespace orrery {

namespace {

// Shares of the workload on which candidates are compared before all of it: an eighth, a quarter, a half.
constexpr std::uint64_t first_part = 8;
constexpr std::uint64_t least_requests = 64;  // a part with fewer that count says too little of a queue

// Of the first `part` requests those that are measured; arrivals of a closed loop are not the trace's.
std::uint64_t measured(const std::vector<TraceRequest>& requests, const WorkloadSpec& workload,
                       std::uint64_t part) {
  if (workload.warmup_s <= 0) return part;
  if (workload.closed_loop_concurrency > 0) return 0;
  const SimTime from = requests.front().arrival + duration_from_seconds(workload.warmup_s);
  return static_cast<std::uint64_t>(std::count_if(requests.begin(),
                                                  requests.begin() + static_cast<std::ptrdiff_t>(part),
                                                  [&](const TraceRequest& r) { return r.arrival >= from; }));
}

bool before(const PlanEntry& a, const PlanEntry& b) {
  if (better(a.score, b.score)) return true;
  return !better(b.score, a.score) && a.candidate < b.candidate;
}

class Search {
 public:
  Search(const PlanSpace& space, const SearchOptions& options, PlanStore store)
      : space_(space), options_(options), store_(std::move(store)), runner_(space, options, store_) {}

  Status join() {
    if (options_.crew == nullptr) return ok_status();
    return options_.crew->join(store_, [this] { return runner_.runs(); });
  }
  Result<PlanSearch> go(CandidateList candidates, const std::vector<TraceRequest>& requests);

 private:
  Status round(std::uint64_t requests);
  Status estimate();
  void compare_draws();
  void drop_refused();
  void leave(std::size_t stay);  // the worst go, until so many are left
  // One more is done; counted under the lock, so that progress never runs backwards.
  void tell(std::uint64_t& done, std::uint64_t of, const char* what) {
    const std::scoped_lock lock(progress_);
    ++done;
    if (options_.progress) options_.progress(done, of, what);
  }

  const PlanSpace& space_;
  const SearchOptions& options_;
  PlanStore store_;
  PlanRunner runner_;
  PlanSearch out_;
  std::vector<PlanEntry> running_;
  std::mutex progress_;
};

Status Search::round(std::uint64_t requests) {
  std::uint64_t done = 0;
  ORRERY_TRY_STATUS(run_batch(options_.crew, running_.size(), options_.threads, [&](std::size_t i) -> Status {
    PlanEntry& entry = running_[i];
    ORRERY_TRY(score, runner_.fewest(out_.candidates.all[entry.candidate], entry.score.replicas, requests));
    entry.score = score;
    entry.requests = requests;
    tell(done, running_.size(), "candidates");
    return ok_status();
  }));
  drop_refused();
  std::sort(running_.begin(), running_.end(), before);
  return ok_status();
}

void Search::drop_refused() {
  for (const PlanEntry& entry : running_) {
    if (!entry.score.refused.empty())
      reject(out_.candidates.all[entry.candidate], RejectedBy::configuration, entry.score.refused);
  }
  std::erase_if(running_, [](const PlanEntry& entry) { return !entry.score.refused.empty(); });
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
    ORRERY_TRY_STATUS(runner_.estimate(out_.candidates.all[finalist.entry.candidate], finalist));
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

Result<PlanSearch> Search::go(CandidateList candidates, const std::vector<TraceRequest>& requests) {
  out_.candidates = std::move(candidates);
  out_.requests = requests.size();
  for (std::size_t i = 0; i < out_.candidates.all.size(); ++i) {
    if (out_.candidates.all[i].scenario != nullptr)
      running_.push_back({.candidate = i, .requests = 0, .score = {}});
  }
  out_.full_runs = running_.size();
  const auto keep = static_cast<std::size_t>(space_.finalists) * 2;
  for (std::uint64_t part = first_part; part > 1; part /= 2) {
    const std::uint64_t few = out_.requests / part;
    if (running_.size() <= keep) break;
    // All candidates have one workload.
    const Scenario& any = *out_.candidates.all[running_.front().candidate].scenario;
    if (measured(requests, any.workload, few) < least_requests) continue;
    ORRERY_TRY_STATUS(round(few));
    leave(std::max(keep, (running_.size() + 1) / 2));
  }
  ORRERY_TRY_STATUS(round(out_.requests));
  ORRERY_TRY_STATUS(estimate());
  compare_draws();
  out_.runs = runner_.runs() + (options_.crew != nullptr ? options_.crew->runs_elsewhere() : 0);
  out_.reused = store_.found();
  return std::move(out_);
}

std::string identity_of(const PlanSpace& space, const SearchOptions& options,
                        const std::vector<TraceRequest>& requests) {
  Digest digest;
  digest.add_text(options.version);
  digest.add_text(to_string(space.objective));
  for (const auto& [part, price] : space.prices) {
    digest.add_text(part);
    digest.add_text(format_number(price));
  }
  for (const TraceRequest& r : requests) {
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
  SharedRequests requests;
  ORRERY_TRY(candidates, list_candidates(space, options.threads, requests, options.keep_going));
  ORRERY_TRY_STATUS(check_prices(space, candidates));
  if (candidates.feasible() == 0) {
    PlanSearch nothing;
    nothing.candidates = std::move(candidates);
    return nothing;
  }
  const std::string identity = identity_of(space, options, *requests);
  ORRERY_TRY(store, open_store(options, identity));
  for (const std::string& path : options.others) {
    ORRERY_TRY(results, PlanStore::read(path, identity));
    ORRERY_TRY_STATUS(store.add(results, true));
  }
  Search search(space, options, std::move(store));
  ORRERY_TRY_STATUS(search.join());
  return search.go(std::move(candidates), *requests);
}

}  // namespace orrery

#include "plan/candidates.h"

#include <algorithm>
#include <numeric>
#include <optional>

#include "base/digest.h"
#include "base/json.h"
#include "base/text.h"
#include "base/yaml_reader.h"
#include "costmodel/kernel_set_cache.h"
#include "costmodel/profile_folder.h"
#include "costmodel/step_pricer.h"
#include "plan/axes.h"
#include "plan/bounds.h"
#include "plan/parallel.h"
#include "sim/costed/energy.h"

namespace orrery {

namespace {

constexpr std::size_t most_requests = 2'000'000;

// The values of combination `number` of a shape; its last key varies fastest.
std::vector<std::pair<std::string, std::string>> values_of(const PlanShape& shape, std::uint64_t number) {
  std::vector<std::pair<std::string, std::string>> values(shape.axes.size());
  for (std::size_t i = shape.axes.size(); i-- > 0;) {
    const PlanAxis& axis = shape.axes[i];
    values[i] = {axis.key, axis.values[number % axis.values.size()]};
    number /= axis.values.size();
  }
  return values;
}

// Lines and columns of the document are those of a text that nobody has seen; the key says where, or the name
// of another file.
std::string reason_of(const PlanSpace& space, const Errors& errors) {
  const Error& first = errors.front();
  const std::string& file = first.where.file;
  std::string reason = first.message;
  if (!first.key.empty())
    reason = first.key + ": " + reason;
  else if (!file.empty() && file != space.file)
    reason = file + ": " + reason;
  if (errors.size() > 1) reason += " (and " + std::to_string(errors.size() - 1) + " more)";
  return reason;
}

// Under workload number `workload`.
Result<std::string> document_of(const PlanSpace& space, const PlanShape& shape, const Candidate& candidate,
                                std::size_t workload) {
  ORRERY_TRY(document, YamlDocument::parse(space.document, space.file));
  if (!shape.deployment.empty()) ORRERY_TRY_STATUS(document.set("deployment=" + shape.deployment));
  for (const auto& [key, value] : candidate.values)
    ORRERY_TRY_STATUS(document.set("deployment." + key + "=" + value));
  if (!space.workloads.empty()) {
    const PlanWorkload& own = space.workloads[workload];
    ORRERY_TRY_STATUS(document.set("workload=" + own.workload));
    if (!own.slo.empty()) ORRERY_TRY_STATUS(document.set("slo=" + own.slo));
  }
  return document.dump();
}

// More GPUs of a part than there are; "" when there are enough.
std::string beyond_owned(const PlanSpace& space, const Scenario& scenario) {
  if (space.owned.empty()) return "";
  std::vector<std::pair<std::string, std::int64_t>> used;
  for (const PoolSpec* pool : scenario.pools()) {
    const std::string& part = pool->instance.hardware.name;
    const auto at = std::find_if(used.begin(), used.end(), [&](const auto& u) { return u.first == part; });
    if (at == used.end())
      used.emplace_back(part, pool->gpus());
    else
      at->second += pool->gpus();
  }
  for (const auto& [part, gpus] : used) {
    std::int64_t have = 0;
    for (const auto& [name, count] : space.owned) have += name == part ? count : 0;
    if (gpus > have)
      return "takes " + std::to_string(gpus) + " " + part + "; `search.owned` has " + std::to_string(have);
  }
  return "";
}

// A plan whose instances are counted by the search.
std::string uncountable(const Scenario& scenario) {
  const std::string fixed = instances_fixed(scenario);
  return fixed.empty() ? "" : "`search.replicas` counts instances, but " + fixed + "; vary replicas";
}

// What is wrong outside `deployment`: a mistake of the file where every candidate has it. Of one of several
// workloads the key is that of the list.
Errors outside_deployment(const PlanSpace& space, const Errors& errors, std::size_t workload) {
  Errors outside;
  for (const Error& error : errors) {
    if (error.key.empty() || error.key.starts_with("deployment") || error.kind != ErrorKind::invalid_input)
      continue;
    outside.push_back(error);
    outside.back().where = {space.file, 0, 0};
    const bool own_slo = !space.workloads.empty() && !space.workloads[workload].slo.empty();
    if (!space.workloads.empty() &&
        (error.key.starts_with("workload") || (own_slo && error.key.starts_with("slo"))))
      outside.back().key = "search.workloads[" + std::to_string(workload) + "]." + error.key;
  }
  return outside;
}

// Of those that were read: what all of them have.
Errors mistakes_of_file(const std::vector<std::optional<Errors>>& outside) {
  const auto first =
      std::find_if(outside.begin(), outside.end(), [](const auto& e) { return e.has_value(); });
  if (first == outside.end()) return {};
  Errors common = **first;
  for (const std::optional<Errors>& other : outside) {
    if (!other) continue;
    std::erase_if(common, [&](const Error& error) {
      return std::none_of(other->begin(), other->end(),
                          [&](const Error& e) { return e.key == error.key && e.message == error.message; });
    });
  }
  return common;
}

// "" where there is one only.
std::string under_which(const PlanSpace& space, std::size_t workload) {
  return space.workloads.empty() ? "" : "under " + space.workloads[workload].name + ": ";
}

// The scenario under a workload; null, and rejected, where it is none.
std::shared_ptr<Scenario> load_under(const PlanSpace& space, Candidate& candidate,
                                     const std::string& document, std::size_t workload, Errors& outside) {
  ScenarioOptions options;
  options.document = document;
  auto loaded = load_scenario(space.file, options);
  if (loaded.ok()) return std::make_shared<Scenario>(std::move(loaded).value());
  const Errors own = outside_deployment(space, loaded.errors(), workload);
  outside.insert(outside.end(), own.begin(), own.end());
  const bool memory = loaded.errors().front().kind == ErrorKind::infeasible;
  const std::string which = workload == 0 ? "" : under_which(space, workload);  // mostly the deployment's
  reject(candidate, memory ? RejectedBy::memory : RejectedBy::configuration,
         which + reason_of(space, loaded.errors()));
  return nullptr;
}

void judge(const PlanSpace& space, Candidate& candidate, Errors& outside) {
  auto scenario = load_under(space, candidate, candidate.document, 0, outside);
  if (scenario == nullptr) return;
  for (const PoolSpec* pool : scenario->pools()) candidate.parts.push_back(pool->instance.hardware.name);
  if (space.most_replicas > 0) {
    if (std::string reason = uncountable(*scenario); !reason.empty())
      return reject(candidate, RejectedBy::configuration, std::move(reason));
    scenario->pool.replicas = 1;
  }
  if (std::string reason = beyond_owned(space, *scenario); !reason.empty())
    return reject(candidate, RejectedBy::owned, std::move(reason));
  for (std::size_t w = 1; w < space.workload_count(); ++w) {
    auto document = document_of(space, space.shapes[candidate.shape_number], candidate, w);
    if (!document.ok())
      return reject(candidate, RejectedBy::configuration, reason_of(space, document.errors()));
    auto other = load_under(space, candidate, *document, w, outside);
    if (other == nullptr) return;
    if (space.most_replicas > 0) other->pool.replicas = 1;
    candidate.further.push_back(std::move(other));
  }
  candidate.scenario = std::move(scenario);
}

// Played `faster` times as fast.
Result<SharedRequests> read_requests(const Scenario& scenario, double faster) {
  ORRERY_TRY(source, open_workload(scenario.workload, scenario.seed));
  auto all = std::make_shared<std::vector<TraceRequest>>();
  TraceRequest request;
  while (source->next(request)) {
    if (all->size() == most_requests) {
      return invalid_input(
          "a plan keeps its workload in memory, and this one has more than two million requests; "
          "set workload.limit",
          {scenario.file, 0, 0}, "workload");
    }
    if (faster != 1)
      request.arrival = SimTime(round_half_even(static_cast<double>(request.arrival.ns()) / faster));
    all->push_back(request);
  }
  if (source->error() != nullptr) return *source->error();
  return SharedRequests(std::move(all));
}

// As read: scaled, cut to the limit, with the clients' patience in each request.
void give_requests(Scenario& scenario, const SharedRequests& requests) {
  WorkloadSpec& workload = scenario.workload;
  workload.requests = requests;
  workload.trace.clear();
  workload.generator.reset();
  workload.time_scale = 1;
  workload.limit_requests = 0;
  workload.limit_duration_s = 0;
  workload.client = {};
}

// A name that is no part's, shipped or a candidate's own: nothing would come of it.
Errors unknown_parts(const PlanSpace& space, const CandidateList& list) {
  std::vector<std::string> known = profile_names("hardware_profiles");
  for (const Candidate& candidate : list.all)
    known.insert(known.end(), candidate.parts.begin(), candidate.parts.end());
  std::sort(known.begin(), known.end());
  known.erase(std::unique(known.begin(), known.end()), known.end());
  Errors errors;
  const auto check = [&](const std::string& part, const char* key) {
    if (std::binary_search(known.begin(), known.end(), part)) return;
    // A profile of one's own whose candidates could not be read.
    const bool named = std::any_of(list.all.begin(), list.all.end(), [&](const Candidate& c) {
      return c.parts.empty() && c.document.find(part) != std::string::npos;
    });
    if (named) return;
    errors.push_back(invalid_input("no candidate has a part of this name, and no profile" +
                                       did_you_mean(part, known) + "; expected names as in `orrery list`",
                                   {space.file, 0, 0}, key + part));
  };
  for (const auto& [part, count] : space.owned) check(part, "search.owned.");
  for (const auto& [part, price] : space.prices) check(part, "search.prices.");
  return errors;
}

// A digest of all that its results come from: the document with its figures, what it costs, and what a few
// steps take, for tables may change under the same document.
std::string results_key(const PlanSpace& space, const Scenario& scenario,
                        const std::vector<StepPricer>& pricers) {
  Digest digest;
  digest.add_text(scenario.resolved_yaml());
  digest.add_text(format_number(usd_per_hour(space, scenario)));
  const PrefillChunk chunk{.new_tokens = 700, .context = 300};
  for (const StepPricer& pricer : pricers) {
    for (const std::int32_t decodes : {0, 1, 48}) {
      StepShape shape{.prefill = {}, .decode_sequences = decodes, .decode_context_tokens = decodes * 1500};
      if (decodes != 1) shape.prefill = std::span(&chunk, 1);
      digest.add(pricer.summarize(shape).timing.busy);
    }
  }
  return digest_text(digest.value());
}

// With its key; or why it is none after all.
void give_key(const PlanSpace& space, const WorkloadRequests& requests, bool bounds, Candidate& candidate) {
  std::vector<StepPricer> pricers;  // the same under every workload
  for (const PoolSpec* pool : candidate.scenario->pools()) {
    auto pricer = StepPricer::create(pool->instance, candidate.scenario->what_if);
    if (!pricer.ok()) return reject(candidate, RejectedBy::configuration, reason_of(space, pricer.errors()));
    pricers.push_back(std::move(pricer).value());
  }
  if (space.objective == PlanObjective::energy) {
    const auto meter = EnergyMeter::create(*candidate.scenario);
    if (!meter.ok()) return reject(candidate, RejectedBy::configuration, reason_of(space, meter.errors()));
  }
  std::string beyond;
  candidate.further_keys.resize(candidate.further.size());
  for (std::size_t w = 0; w < requests.size(); ++w) {
    auto scenario = std::make_shared<Scenario>(candidate.under(w));
    give_requests(*scenario, requests[w]);
    (w == 0 ? candidate.key : candidate.further_keys[w - 1]) = results_key(space, *scenario, pricers);
    if (bounds && beyond.empty()) {
      beyond = beyond_slo(*scenario, *requests[w], pricers.front());
      if (!beyond.empty()) beyond = under_which(space, w) + beyond;
    }
    (w == 0 ? candidate.scenario : candidate.further[w - 1]) = std::move(scenario);
  }
  if (!beyond.empty()) reject(candidate, RejectedBy::bound, std::move(beyond));
}

// Where everything is refused for one and the same reason, the reason lies in what all share.
std::optional<Error> common_error(const PlanSpace& space, const CandidateList& list) {
  const Candidate& first = list.all.front();
  for (const Candidate& candidate : list.all) {
    if (!candidate.read) return std::nullopt;
    if (candidate.rejected != first.rejected || candidate.reason != first.reason) return std::nullopt;
  }
  const bool feasible = first.rejected == RejectedBy::nothing;
  if (feasible || first.rejected == RejectedBy::bound) return std::nullopt;
  const bool memory = first.rejected == RejectedBy::memory || first.rejected == RejectedBy::owned;
  const std::string all =
      list.all.size() == 1 ? "the only candidate" : "all " + std::to_string(list.all.size()) + " candidates";
  return make_error(memory ? ErrorKind::infeasible : ErrorKind::invalid_input, all + ": " + first.reason,
                    {space.file, 0, 0}, "");
}

}  // namespace

void reject(Candidate& candidate, RejectedBy stage, std::string reason) {
  candidate.rejected = stage;
  candidate.reason = std::move(reason);
  candidate.scenario.reset();
  candidate.further.clear();
}

const char* to_string(RejectedBy stage) {
  static constexpr const char* names[] = {"", "configuration", "memory", "owned", "bound"};
  return names[static_cast<std::size_t>(stage)];
}

std::string Candidate::label() const {
  std::string out = shape;
  for (std::size_t i = 0; i < values.size(); ++i)
    out += (i > 0 ? ", " : shape.empty() ? "" : ": ") + values[i].first + " " + values[i].second;
  return out.empty() ? "the scenario" : out;
}

std::size_t CandidateList::feasible() const {
  return static_cast<std::size_t>(
      std::count_if(all.begin(), all.end(), [](const Candidate& c) { return c.scenario != nullptr; }));
}

std::size_t CandidateList::in_question() const {
  return static_cast<std::size_t>(std::count_if(
      all.begin(), all.end(), [](const Candidate& c) { return c.rejected == RejectedBy::nothing; }));
}

CandidateList combinations(const PlanSpace& space) {
  CandidateList list;
  list.all.reserve(space.candidates());
  for (std::size_t i = 0; i < space.shapes.size(); ++i) {
    const PlanShape& shape = space.shapes[i];
    for (std::uint64_t n = 0; n < shape.combinations(); ++n) {
      Candidate candidate;
      candidate.index = list.all.size();
      candidate.shape = shape.name;
      candidate.shape_number = i;
      candidate.values = values_of(shape, n);
      list.all.push_back(std::move(candidate));
    }
  }
  return list;
}

CandidateReader::CandidateReader(const PlanSpace& space, CandidateList& list, int threads,
                                 std::function<bool()> keep_going, bool bounds)
    : space_(space), list_(list), threads_(threads), keep_going_(std::move(keep_going)), bounds_(bounds),
      outside_(list.all.size()) {
  profiles_.expect(space.file, space.document);
}
CandidateReader::~CandidateReader() = default;

Status CandidateReader::read(const std::vector<std::size_t>& which) {
  return in_parallel(which.size(), threads_, [&](std::size_t i) -> Status {
    Candidate& candidate = list_.all[which[i]];
    if (candidate.read) return ok_status();
    if (keep_going_ && !keep_going_()) return make_error(ErrorKind::interrupted, "interrupted");
    candidate.read = true;
    auto document = document_of(space_, space_.shapes[candidate.shape_number], candidate, 0);
    if (!document.ok()) {
      reject(candidate, RejectedBy::configuration, reason_of(space_, document.errors()));
      return ok_status();
    }
    candidate.document = std::move(document).value();
    judge(space_, candidate, outside_[which[i]].emplace());
    return ok_status();
  });
}

Status CandidateReader::check() const {
  if (Errors mistakes = mistakes_of_file(outside_); !mistakes.empty()) return mistakes;
  if (Errors errors = unknown_parts(space_, list_); !errors.empty()) return errors;
  if (std::optional<Error> error = common_error(space_, list_)) return *error;
  return ok_status();
}

Result<WorkloadRequests> CandidateReader::requests() {
  if (!requests_.empty()) return requests_;
  const auto some = std::find_if(list_.all.begin(), list_.all.end(),
                                 [](const Candidate& c) { return c.scenario != nullptr; });
  if (some == list_.all.end()) return WorkloadRequests();
  WorkloadRequests all;
  for (std::size_t w = 0; w < space_.workload_count(); ++w) {
    ORRERY_TRY(read, read_requests(some->under(w), space_.growth * space_.peak));
    all.push_back(std::move(read));
  }
  requests_ = std::move(all);
  return requests_;
}

Status CandidateReader::look_closer(const std::vector<std::size_t>& which) {
  return in_parallel(which.size(), threads_, [&](std::size_t i) -> Status {
    Candidate& candidate = list_.all[which[i]];
    if (candidate.scenario == nullptr || !candidate.key.empty()) return ok_status();
    if (keep_going_ && !keep_going_()) return make_error(ErrorKind::interrupted, "interrupted");
    if (space_.objective == PlanObjective::energy) {  // as a price that is missing: an error of the space
      for (const PoolSpec* pool : candidate.scenario->pools()) {
        const auto figures = load_energy(pool->instance.hardware);
        if (!figures.ok()) return figures.errors();
      }
    }
    const PriceTableScope scope(tables_, graph_name(candidate));
    give_key(space_, requests_, bounds_, candidate);
    return ok_status();
  });
}

Result<CandidateList> list_candidates(const PlanSpace& space, int threads, SharedRequests& requests,
                                      const std::function<bool()>& keep_going) {
  CandidateList list = combinations(space);
  CandidateReader reader(space, list, threads, keep_going);
  std::vector<std::size_t> all(list.all.size());
  std::iota(all.begin(), all.end(), std::size_t{0});
  ORRERY_TRY_STATUS(reader.read(all));
  ORRERY_TRY_STATUS(reader.check());
  ORRERY_TRY(found, reader.requests());
  requests = found.empty() ? nullptr : found.front();
  if (requests != nullptr) ORRERY_TRY_STATUS(reader.look_closer(all));
  return list;
}

std::string instances_fixed(const Scenario& scenario, bool fewer) {
  if (!scenario.other_pools.empty()) return "there are several pools";
  if (scenario.topology != nullptr && !fewer) return "they stand on a topology";
  if (!scenario.faults.empty()) return "`faults` name them";
  if (scenario.pool.autoscale) return "`autoscale` says how many there are";
  return "";
}

Scenario with_replicas(const Scenario& scenario, std::int64_t replicas) {
  Scenario out = scenario;
  out.pool.replicas = static_cast<std::int32_t>(replicas);
  return out;
}

double usd_per_hour(const PlanSpace& space, const Scenario& scenario) {
  double sum = 0;
  for (const PoolSpec* pool : scenario.pools()) {
    const HardwareProfile& part = pool->instance.hardware;
    double price = space.price_of(part.name);
    if (price == 0 && part.price) price = part.price->value.value();
    if (price == 0) return 0;
    sum += price * static_cast<double>(pool->gpus());
  }
  return sum;
}

}  // namespace orrery

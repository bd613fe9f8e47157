#include "reports/casebook/schedule_replay.h"

#include <algorithm>
#include <deque>
#include <map>
#include <memory>
#include <numeric>

#include "base/text.h"
#include "sim/policies.h"

namespace orrery {

namespace {

// What the core thread did, in the order in which it did it.
struct Action {
  enum Kind { schedule, update, leave } kind = schedule;
  std::int64_t at_ns = 0;
  std::int64_t step = 0;                                   // leave: the request whose client is gone
  const MeasuredStep* logged = nullptr;                    // none: the logger lost the row
  const std::vector<MeasuredStep::Count>* said = nullptr;  // what came of the step, where that is logged
};

// With two steps in flight, schedule(k) stands between update(k−2) and update(k−1). That places the two
// actions of a step whose row is missing: right before the update of the step ahead of it, and right after
// the next schedule.
std::vector<Action> actions_of(const MeasuredExperiment& experiment) {
  std::vector<Action> actions;
  const MeasuredStep* previous = nullptr;
  for (const MeasuredStep& s : experiment.steps) {
    if (previous != nullptr && s.step == previous->step + 2) {
      actions.push_back(
          {Action::schedule, previous->update_start_ns - 1, s.step - 1, nullptr, &s.said_before});
      actions.push_back({Action::update, s.schedule_start_ns + 1, s.step - 1, nullptr, &s.said_before});
    }
    actions.push_back({Action::schedule, s.schedule_start_ns, s.step, &s});
    actions.push_back({Action::update, s.update_start_ns, s.step, &s, &s.said});
    previous = &s;
  }
  for (std::size_t i = 0; i < experiment.requests.size(); ++i) {
    const std::int64_t gone = experiment.requests[i].gone_ns;
    if (gone >= 0) actions.push_back({Action::leave, gone, static_cast<std::int64_t>(i)});
  }
  std::stable_sort(actions.begin(), actions.end(),
                   [](const Action& a, const Action& b) { return a.at_ns < b.at_ns; });
  return actions;
}

// What SGLang's own scheduler reads; a name without a value in the log keeps the engine's default.
NamedOptions sglang_options(const MeasuredEngine& e) {
  NamedOptions options;
  options.set("rules_of_0_5_17", e.version == "0.5.17");
  for (const auto& [name, value] : e.arguments.items()) {
    if (value.is_boolean()) options.set(name, value.get<bool>());
    if (value.is_number_integer()) options.set(name, value.get<std::int64_t>());
    if (value.is_number_float()) options.set(name, value.get<double>());
    if (value.is_string()) options.set(name, value.get<std::string>());
  }
  return options;
}

SchedulerConfig config_of(const MeasuredEngine& e) {
  SchedulerConfig c;
  c.max_num_batched_tokens = e.max_num_batched_tokens;
  c.max_num_seqs = e.max_num_seqs;
  c.max_model_len = e.max_model_len;
  c.num_gpu_blocks = e.num_gpu_blocks;
  c.block_size = e.block_size;
  c.enable_prefix_caching = e.enable_prefix_caching;
  c.long_prefill_token_threshold = e.long_prefill_token_threshold;
  c.steps_in_flight = e.async_scheduling ? 2 : 1;
  c.stretches = false;
  c.kv_groups = e.kv_groups;
  c.speculation = e.speculation;
  c.encoder = {.compute_budget = e.encoder_budget, .cache_size = e.encoder_budget};
  if (e.sglang) c.options = sglang_options(e);
  return c;
}

std::string text_of(std::int64_t value) { return std::to_string(value); }
std::string text_of(const std::vector<std::int64_t>& ids) {
  std::vector<std::string> parts;
  for (const std::int64_t id : ids) parts.push_back(std::to_string(id));
  return join(parts, " ");
}
std::string text_of(const std::vector<MeasuredStep::Chunk>& chunks) {
  std::vector<std::string> parts;
  for (const auto& c : chunks) parts.push_back(std::to_string(c.tokens) + "@" + std::to_string(c.context));
  return join(parts, " ");
}
std::string text_of(const std::vector<MeasuredStep::Count>& counts) {
  std::vector<std::string> parts;
  for (const auto& c : counts) parts.push_back(std::to_string(c.request) + ":" + std::to_string(c.tokens));
  return join(parts, " ");
}
std::string text_of(const std::vector<MeasuredStep::Admission>& admissions) {
  std::vector<std::string> parts;
  for (const auto& a : admissions)
    parts.push_back(std::to_string(a.request) + ":" + std::to_string(a.cached_tokens));
  return join(parts, " ");
}

class ExperimentReplayer {
 public:
  // `first`: number of the experiment's first request among those that the scheduler has seen.
  ExperimentReplayer(const MeasuredRun& run, const MeasuredExperiment& experiment, Scheduler& scheduler,
                     std::size_t first)
      : engine_(run.engine), experiment_(experiment), scheduler_(scheduler), first_(first) {
    const std::vector<MeasuredRequest>& requests = experiment.requests;
    arrival_order_.resize(requests.size());
    std::iota(arrival_order_.begin(), arrival_order_.end(), 0);
    known_ = !requests.empty() && std::all_of(requests.begin(), requests.end(),
                                              [](const MeasuredRequest& r) { return r.known_ns >= 0; });
    if (experiment.serial) return;
    std::stable_sort(arrival_order_.begin(), arrival_order_.end(), [&](std::size_t a, std::size_t b) {
      return known_ ? requests[a].known_ns < requests[b].known_ns
                    : requests[a].submit_ns < requests[b].submit_ns;
    });
  }

  ExperimentReplay play(std::vector<StepDifference>& differences) {
    ExperimentReplay result{.name = experiment_.name, .known_at_ns = {}};
    known_at_.assign(experiment_.requests.size(), -1);
    sequence_of_.assign(experiment_.requests.size(), SequenceId::none());
    for (std::size_t i = 0; i < experiment_.requests.size(); ++i) {
      if (experiment_.requests[i].stop_step >= 0) stops_.emplace(experiment_.requests[i].stop_step, i);
    }
    for (const Action& action : actions_of(experiment_)) {
      if (action.kind == Action::update) {
        update(action);
      } else if (action.kind == Action::leave) {
        leave(static_cast<std::size_t>(action.step), action.at_ns);
      } else if (action.logged == nullptr) {
        add_speakers(action);
        schedule(action.step);
      } else {
        ++result.steps;
        add_arrivals(*action.logged);
        const std::size_t before = differences.size();
        compare(*action.logged, schedule(action.step), differences);
        result.identical += differences.size() == before;
      }
    }
    result.known_at_ns = std::move(known_at_);
    return result;
  }

 private:
  // Those that the core process knew; where the log does not say, as many as make the logged length of the
  // queue come out.
  void add_arrivals(const MeasuredStep& s) {
    if (known_) {
      add_known(s.schedule_start_ns);
      return;
    }
    std::int64_t admitted = 0;
    for (const MeasuredStep::Admission& a : s.admitted) {
      admitted += engine_.v2_runner || !was_admitted(static_cast<std::size_t>(a.request));
    }
    const std::int64_t preempted = static_cast<std::int64_t>(s.preempted.size());
    std::int64_t missing = s.waiting + admitted - preempted - scheduler_.view().waiting;
    for (; missing > 0 && arrived_ < arrival_order_.size(); --missing) {
      known_at_[arrival_order_[arrived_]] = s.schedule_start_ns;
      add(arrival_order_[arrived_++]);
    }
  }

  // A lost row's arrivals: whoever said something in it had come.
  void add_speakers(const Action& action) {
    if (known_ || action.said == nullptr) return;
    for (const MeasuredStep::Count& c : *action.said) {
      while (known_at_[static_cast<std::size_t>(c.request)] < 0 && arrived_ < arrival_order_.size()) {
        known_at_[arrival_order_[arrived_]] = action.at_ns;
        add(arrival_order_[arrived_++]);
      }
    }
  }

  void add_known(std::int64_t until) {
    for (; arrived_ < arrival_order_.size(); ++arrived_) {
      const std::size_t index = arrival_order_[arrived_];
      if (experiment_.requests[index].known_ns > until) return;
      known_at_[index] = until;
      add(index);
    }
  }

  void leave(std::size_t index, std::int64_t at) {
    if (known_) add_known(at);
    const SequenceId sequence = sequence_of_[index];
    if (sequence == SequenceId::none()) return;  // ended for us already
    sequence_of_[index] = SequenceId::none();
    scheduler_.drop_departed(sequence);
  }

  void add(std::size_t index) {
    const MeasuredRequest& r = experiment_.requests[index];
    Request request;
    request.id = RequestId(first_ + index);
    request.prompt_tokens = r.prompt_tokens;
    request.max_output_tokens = r.max_output_tokens > 0 ? r.max_output_tokens : r.output_tokens;
    request.ignore_eos = engine_.sglang;  // so the client asked
    request.hash_ids = r.hash_ids;
    request.hash_block_size = experiment_.hash_block_size;
    request.images = r.images;
    const SequenceId sequence = scheduler_.add(request);
    if (sequence == SequenceId::none()) return;
    sequence_of_[index] = sequence;
    if (sequence.value() >= request_of_.size()) request_of_.resize(sequence.value() + 1);
    request_of_[sequence.value()] = index;
  }

  bool was_admitted(std::size_t request) const { return request < admitted_.size() && admitted_[request]; }

  const StepPlan& schedule(std::int64_t step) {
    const StepId ours = scheduler_.next_step();
    const StepPlan& plan = scheduler_.schedule();
    if (plan.tokens() > 0) open_.push_back({step, ours, rows_of(plan)});
    return plan;
  }

  // Speculation: who says something after this step, and how many drafts of it are looked at.
  std::vector<SpokenTokens> rows_of(const StepPlan& plan) const {
    std::vector<SpokenTokens> rows;
    if (engine_.speculation.tokens == 0) return rows;
    for (const PrefillWork& w : plan.prefill) {
      if (w.samples)
        rows.push_back({.sequence = w.sequence, .request = w.request, .tokens = 1, .first = true});
    }
    for (const VerifyWork& w : plan.verify)
      rows.push_back({.sequence = w.sequence, .request = w.request, .drafts = w.drafts, .tokens = 1});
    return rows;
  }

  // As the log has it: tokens that came of step `step`, and the drafts with which the next one begins.
  void teach(std::int64_t step, const std::vector<MeasuredStep::Count>& log,
             std::vector<SpokenTokens>& rows) const {
    std::map<std::int64_t, std::int64_t> said, next;
    for (const MeasuredStep::Count& c : log) said[c.request] = c.tokens;
    const auto follows = std::find_if(experiment_.steps.begin(), experiment_.steps.end(),
                                      [&](const MeasuredStep& s) { return s.step == step + 1; });
    if (follows != experiment_.steps.end()) {
      for (const MeasuredStep::Count& c : follows->drafts) next[c.request] = c.tokens;
    }
    for (SpokenTokens& row : rows) {
      const auto request = static_cast<std::int64_t>(index_of(row.request));
      if (said.contains(request)) row.tokens = static_cast<std::int32_t>(said[request]);
      row.accepted = row.first ? 0 : std::max(0, row.tokens - 1);
      if (next.contains(request)) row.next_drafts = static_cast<std::int32_t>(next[request]);
    }
  }

  void update(const Action& action) {
    const std::int64_t step = action.step;
    if (open_.empty() || open_.front().logged != step)
      return;  // we composed an empty step where the engine did not
    const SimTime now = SimTime();
    StepOutcome outcome;
    outcome.first = open_.front().ours;
    outcome.scheduled = 1;
    outcome.updates = {&now, 1};
    std::vector<SpokenTokens> spoken = std::move(open_.front().rows);
    open_.pop_front();
    if (action.said != nullptr) teach(step, *action.said, spoken);
    outcome.spoken = spoken;
    std::vector<SequenceId> stopped;
    const auto [begin, end] = stops_.equal_range(step);
    for (auto at = begin; at != end; ++at) {
      if (sequence_of_[at->second] == SequenceId::none() || !was_admitted(at->second)) continue;
      stopped.push_back(sequence_of_[at->second]);
      for (SpokenTokens& row : spoken) row.eos |= row.sequence == stopped.back();
    }
    outcome.eos = stopped;
    for (const auto& ended : scheduler_.on_outcome(outcome).finished)
      sequence_of_[index_of(ended.request)] = SequenceId::none();
    // The engine's loop turns without work until somebody comes.
    if (!scheduler_.has_work() && scheduler_.open_steps() == 0) scheduler_.on_idle();
  }

  std::size_t index_of(RequestId request) const { return request.value() - first_; }

  void compare(const MeasuredStep& s, const StepPlan& plan, std::vector<StepDifference>& differences) {
    const auto check = [&](const char* field, const auto& expected, const auto& got) {
      if (expected == got) return;
      differences.push_back({.experiment = experiment_.name,
                             .step = s.step,
                             .field = field,
                             .expected = text_of(expected),
                             .got = text_of(got)});
    };
    std::vector<MeasuredStep::Chunk> chunks;
    std::vector<std::int64_t> owners, preempted;
    for (const PrefillWork& w : plan.prefill) {
      if (w.new_tokens == 1 && !lists(s, w)) continue;
      chunks.push_back({w.new_tokens, w.context});
      owners.push_back(static_cast<std::int64_t>(index_of(w.request)));
    }
    for (const SequenceId id : plan.preempted)
      preempted.push_back(static_cast<std::int64_t>(request_of_[id.value()]));
    std::vector<std::int64_t> logged_preempted = s.preempted;  // the engine keeps a set: without order
    std::sort(preempted.begin(), preempted.end());
    std::sort(logged_preempted.begin(), logged_preempted.end());
    // The V2 runner sends a resumed request as a new one, listed after the really new; V1 does not list it.
    std::vector<MeasuredStep::Admission> admitted, resumed;
    for (const Admission& a : scheduler_.admissions()) {
      (a.resumed ? resumed : admitted)
          .push_back({static_cast<std::int64_t>(index_of(a.request)), a.cached_tokens});
      admitted_.resize(std::max<std::size_t>(admitted_.size(), index_of(a.request) + 1));
      admitted_[index_of(a.request)] = true;
    }
    if (engine_.v2_runner) admitted.insert(admitted.end(), resumed.begin(), resumed.end());

    check("tokens", s.tokens, plan.tokens());
    check("sequences", s.sequences,
          static_cast<std::int64_t>(plan.decode_sequences) + static_cast<std::int64_t>(plan.prefill.size()));
    check("prefill_chunks", s.chunks, chunks);
    check("prefill_request_ids", s.chunk_requests, owners);
    check("drafts", s.drafts, drafts_of(plan));
    check("encoded", s.encoded, encoded_of(plan));
    check("new_request_ids", s.admitted, admitted);
    if (s.running >= 0) check("running", s.running, static_cast<std::int64_t>(plan.running));
    if (engine_.sglang && s.chunks.empty())
      check("decode_context_tokens", s.decode_context, plan.decode_context_tokens);
    check("waiting", s.waiting, static_cast<std::int64_t>(plan.waiting));
    check("free_blocks", s.free_blocks, plan.free_blocks);
    check("preempted_request_ids", logged_preempted, preempted);
  }

  std::vector<MeasuredStep::Count> drafts_of(const StepPlan& plan) const {
    std::vector<MeasuredStep::Count> counts;
    for (const VerifyWork& w : plan.verify) {
      if (w.drafts > 0) counts.push_back({static_cast<std::int64_t>(index_of(w.request)), w.drafts});
    }
    return counts;
  }
  std::vector<MeasuredStep::Count> encoded_of(const StepPlan& plan) const {
    std::vector<MeasuredStep::Count> counts;
    for (const EncodeWork& w : plan.encode)
      counts.push_back({static_cast<std::int64_t>(index_of(w.request)), w.embeddings});
    return counts;
  }

  // Some loggers count a chunk of one token among the decodes, some list it.
  bool lists(const MeasuredStep& s, const PrefillWork& w) const {
    for (std::size_t i = 0; i < s.chunks.size() && i < s.chunk_requests.size(); ++i) {
      if (s.chunks[i].tokens == 1 && s.chunks[i].context == w.context &&
          s.chunk_requests[i] == static_cast<std::int64_t>(index_of(w.request)))
        return true;
    }
    return false;
  }

  struct Open {
    std::int64_t logged;
    StepId ours;
    std::vector<SpokenTokens> rows = {};  // speculation
  };
  const MeasuredEngine& engine_;
  const MeasuredExperiment& experiment_;
  Scheduler& scheduler_;
  const std::size_t first_;
  bool known_ = false;  // the log says when the core process learned of each request
  std::vector<std::size_t> arrival_order_;
  std::size_t arrived_ = 0;
  std::vector<std::int64_t> known_at_;
  std::vector<std::size_t> request_of_;             // by sequence
  std::vector<SequenceId> sequence_of_;             // by request, while the scheduler has it
  std::multimap<std::int64_t, std::size_t> stops_;  // step whose output ended a request → the request
  std::vector<bool> admitted_;                      // by request
  std::deque<Open> open_;
};

}  // namespace

ScheduleReplay replay_schedule(const MeasuredRun& run) {
  ScheduleReplay replay;
  replay.run = run.folder;
  std::unique_ptr<Scheduler> scheduler;
  std::size_t seen = 0;
  for (const MeasuredExperiment& experiment : run.experiments) {
    // One that the replay before left in disorder is of no use to the next.
    if (scheduler == nullptr || !experiment.keeps_cache || scheduler->has_work() ||
        scheduler->open_steps() > 0)
      scheduler =
          run.engine.sglang ? make_sglang(config_of(run.engine)) : make_vllm_v1(config_of(run.engine));
    ExperimentReplayer replayer(run, experiment, *scheduler, seen);
    seen += experiment.requests.size();
    replay.experiments.push_back(replayer.play(replay.differences));
    replay.steps += replay.experiments.back().steps;
    replay.identical += replay.experiments.back().identical;
  }
  return replay;
}

Json schedule_replay_json(const ScheduleReplay& replay) {
  Json experiments = Json::array(), differences = Json::array();
  for (const ExperimentReplay& e : replay.experiments) {
    experiments.push_back({{"name", e.name}, {"steps", e.steps}, {"identical", e.identical}});
  }
  for (const StepDifference& d : replay.differences) {
    differences.push_back({{"experiment", d.experiment},
                           {"step", d.step},
                           {"field", d.field},
                           {"expected", d.expected},
                           {"got", d.got}});
  }
  return {{"run", replay.run},
          {"steps", replay.steps},
          {"identical", replay.identical},
          {"experiments", experiments},
          {"differences", differences}};
}

std::string schedule_replay_text(const ScheduleReplay& replay) {
  constexpr std::size_t shown = 20;
  TextTable table({"experiment", "steps", "identical"});
  for (const ExperimentReplay& e : replay.experiments)
    table.add({e.name, std::to_string(e.steps), std::to_string(e.identical)});
  std::string text = table.to_string();
  for (std::size_t i = 0; i < std::min(shown, replay.differences.size()); ++i) {
    const StepDifference& d = replay.differences[i];
    text += d.experiment + " step " + std::to_string(d.step) + ": " + d.field + " is " + quote(d.expected) +
            " in the log, " + quote(d.got) + " here\n";
  }
  if (replay.differences.size() > shown) {
    text += "… and " + std::to_string(replay.differences.size() - shown) +
            " more differences (--out writes all of them)\n";
  }
  return text + "identical " + std::to_string(replay.identical) + " of " + std::to_string(replay.steps) +
         " steps\n";
}

}  // namespace orrery

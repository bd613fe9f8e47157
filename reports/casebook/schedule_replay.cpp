#include "reports/casebook/schedule_replay.h"

#include <algorithm>
#include <deque>
#include <numeric>

#include "base/text.h"
#include "sim/schedulers/vllm_v1.h"

namespace orrery {

namespace {

// What the core thread did, in the order in which it did it.
struct Action {
  enum Kind { schedule, update } kind = schedule;
  std::int64_t at_ns = 0;
  std::int64_t step = 0;
  const MeasuredStep* logged = nullptr;  // none: the logger lost the row
};

// With two steps in flight, schedule(k) stands between update(k−2) and update(k−1). That places the two
// actions of a step whose row is missing: right before the update of the step ahead of it, and right after
// the next schedule.
std::vector<Action> actions_of(const MeasuredExperiment& experiment) {
  std::vector<Action> actions;
  const MeasuredStep* previous = nullptr;
  for (const MeasuredStep& s : experiment.steps) {
    if (previous != nullptr && s.step == previous->step + 2) {
      actions.push_back({Action::schedule, previous->update_start_ns - 1, s.step - 1, nullptr});
      actions.push_back({Action::update, s.schedule_start_ns + 1, s.step - 1, nullptr});
    }
    actions.push_back({Action::schedule, s.schedule_start_ns, s.step, &s});
    actions.push_back({Action::update, s.update_start_ns, s.step, &s});
    previous = &s;
  }
  std::stable_sort(actions.begin(), actions.end(),
                   [](const Action& a, const Action& b) { return a.at_ns < b.at_ns; });
  return actions;
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
std::string text_of(const std::vector<MeasuredStep::Admission>& admissions) {
  std::vector<std::string> parts;
  for (const auto& a : admissions)
    parts.push_back(std::to_string(a.request) + ":" + std::to_string(a.cached_tokens));
  return join(parts, " ");
}

class ExperimentReplayer {
 public:
  ExperimentReplayer(const MeasuredRun& run, const MeasuredExperiment& experiment)
      : engine_(run.engine), experiment_(experiment), scheduler_(config_of(run.engine)) {
    arrival_order_.resize(experiment.requests.size());
    std::iota(arrival_order_.begin(), arrival_order_.end(), 0);
    if (experiment.serial) return;
    std::stable_sort(arrival_order_.begin(), arrival_order_.end(), [&](std::size_t a, std::size_t b) {
      return experiment.requests[a].submit_ns < experiment.requests[b].submit_ns;
    });
  }

  ExperimentReplay play(std::vector<StepDifference>& differences) {
    ExperimentReplay result{.name = experiment_.name, .known_at_ns = {}};
    known_at_.assign(experiment_.requests.size(), -1);
    for (const Action& action : actions_of(experiment_)) {
      if (action.kind == Action::update) {
        update(action.step);
      } else if (action.logged == nullptr) {
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
  // As many as make the logged length of the queue come out.
  void add_arrivals(const MeasuredStep& s) {
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

  void add(std::size_t index) {
    const MeasuredRequest& r = experiment_.requests[index];
    Request request;
    request.id = RequestId(index);
    request.prompt_tokens = r.prompt_tokens;
    request.max_output_tokens = r.output_tokens;
    request.hash_ids = r.hash_ids;
    const SequenceId sequence = scheduler_.add(request);
    if (sequence == SequenceId::none()) return;
    if (sequence.value() >= request_of_.size()) request_of_.resize(sequence.value() + 1);
    request_of_[sequence.value()] = index;
  }

  bool was_admitted(std::size_t request) const { return request < admitted_.size() && admitted_[request]; }

  const StepPlan& schedule(std::int64_t step) {
    const StepId ours = scheduler_.next_step();
    const StepPlan& plan = scheduler_.schedule();
    if (plan.tokens() > 0) open_.push_back({step, ours});
    return plan;
  }

  void update(std::int64_t step) {
    if (open_.empty() || open_.front().logged != step)
      return;  // we composed an empty step where the engine did not
    const SimTime now = SimTime();
    StepOutcome outcome;
    outcome.first = open_.front().ours;
    outcome.scheduled = 1;
    outcome.updates = {&now, 1};
    open_.pop_front();
    scheduler_.on_outcome(outcome);
  }

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
      owners.push_back(static_cast<std::int64_t>(w.request.value()));
    }
    for (const SequenceId id : plan.preempted)
      preempted.push_back(static_cast<std::int64_t>(request_of_[id.value()]));
    // The V2 runner sends a resumed request as a new one, listed after the really new; V1 does not list it.
    std::vector<MeasuredStep::Admission> admitted, resumed;
    for (const Admission& a : scheduler_.admissions()) {
      (a.resumed ? resumed : admitted)
          .push_back({static_cast<std::int64_t>(a.request.value()), a.cached_tokens});
      admitted_.resize(std::max<std::size_t>(admitted_.size(), a.request.value() + 1));
      admitted_[a.request.value()] = true;
    }
    if (engine_.v2_runner) admitted.insert(admitted.end(), resumed.begin(), resumed.end());

    check("tokens", s.tokens, plan.tokens());
    check("sequences", s.sequences,
          static_cast<std::int64_t>(plan.decode_sequences) + static_cast<std::int64_t>(plan.prefill.size()));
    check("prefill_chunks", s.chunks, chunks);
    check("prefill_request_ids", s.chunk_requests, owners);
    check("new_request_ids", s.admitted, admitted);
    check("running", s.running, static_cast<std::int64_t>(plan.running));
    check("waiting", s.waiting, static_cast<std::int64_t>(plan.waiting));
    check("free_blocks", s.free_blocks, plan.free_blocks);
    check("preempted_request_ids", s.preempted, preempted);
  }

  // Some loggers count a chunk of one token among the decodes, some list it.
  static bool lists(const MeasuredStep& s, const PrefillWork& w) {
    for (std::size_t i = 0; i < s.chunks.size() && i < s.chunk_requests.size(); ++i) {
      if (s.chunks[i].tokens == 1 && s.chunks[i].context == w.context &&
          s.chunk_requests[i] == static_cast<std::int64_t>(w.request.value()))
        return true;
    }
    return false;
  }

  struct Open {
    std::int64_t logged;
    StepId ours;
  };
  const MeasuredEngine& engine_;
  const MeasuredExperiment& experiment_;
  VllmV1Scheduler scheduler_;
  std::vector<std::size_t> arrival_order_;
  std::size_t arrived_ = 0;
  std::vector<std::int64_t> known_at_;
  std::vector<std::size_t> request_of_;  // by sequence
  std::vector<bool> admitted_;           // by request
  std::deque<Open> open_;
};

}  // namespace

ScheduleReplay replay_schedule(const MeasuredRun& run) {
  ScheduleReplay replay;
  replay.run = run.folder;
  for (const MeasuredExperiment& experiment : run.experiments) {
    replay.experiments.push_back(ExperimentReplayer(run, experiment).play(replay.differences));
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

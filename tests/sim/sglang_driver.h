// Drives SGLang's scheduler pass by pass, without time: schedule and launch i, then the result of i − 1 (or
// of i, without overlap). Each pass becomes a row of text that can be checked by hand:
//   extend 0:5000@0 1:3192@0     prefill chunks, request:tokens@prefix
//   decode 3 ctx 300             decodes and the sum of their contexts
//   mixed 4:100@0 + 2 ctx 210    both
//   verify 2+3 ctx 300           with speculation: decodes and drafts of each
//   none                         a pass without a launch
// followed by "retract 2,1" and "abort 0" where it happened. What the results said is in `ended`.
#pragma once

#include <string>
#include <vector>

#include "sim/schedulers/sglang.h"
#include "sim/speculation.h"

namespace orrery::sglang_test {

// Proposes and accepts as many drafts as it was told, the same for everybody.
class FixedAcceptance final : public AcceptanceOracle {
 public:
  std::int32_t accepts = 0, proposes = 16;
  std::int32_t accepted(RequestId, std::int32_t, std::int32_t drafts) const override {
    return std::min(accepts, drafts);
  }
  std::int32_t proposed(RequestId, std::int32_t) const override { return proposes; }
};

inline SglangConfig config(std::int64_t tokens = 100000) {
  SglangConfig c;
  c.cache.tokens = tokens;
  c.stretches = false;
  return c;
}

// One prompt a pass, so that a queue's order shows.
inline SglangConfig one_at_a_time(QueuePolicy policy) {
  SglangConfig c = config();
  c.schedule_policy = policy;
  c.prefill_max_requests = 1;
  return c;
}

// 500 tokens of a prompt of its own.
inline TokenRuns prompt(std::uint64_t id) {
  return name_tokens(std::vector<std::uint64_t>{id}, 500, 0, 500, 1000 + id);
}

// Its first `tokens`, of which `begin` stand in the tree.
inline void insert(RadixCache& c, std::uint64_t id, std::int64_t tokens, std::int64_t begin = 0) {
  REQUIRE(c.make_room(tokens - begin));
  c.take(tokens - begin);
  c.insert(prompt(id), tokens, {.begin = begin, .counted = 0});
  c.check_invariants();
}

class Driver {
 public:
  explicit Driver(const SglangConfig& c) : overlap_(c.overlap), speaks_(c.speculating()), scheduler(c) {}
  Driver(const Driver&) = delete;
  Driver& operator=(const Driver&) = delete;

  // What is on its way between the device and host memory has arrived.
  void finish_copies() {
    for (const TransferWork& w : scheduler.take_transfers()) scheduler.on_transfer(w.id);
  }

  struct Ask {
    std::int32_t prompt = 0, max_output = 0;
    std::vector<std::uint64_t> ids = {};
    std::int32_t id_size = 16;
    bool ignore_eos = false;
    std::uint64_t stream = 0;
    std::int32_t eos = 0;  // speculation: after so many outputs
    std::int32_t priority = 0;
  };
  // False when refused.
  bool add(const Ask& ask) {
    Request r;
    r.id = RequestId(next_++);
    r.prompt_tokens = ask.prompt;
    r.max_output_tokens = ask.max_output;
    r.hash_ids = ask.ids;
    r.hash_block_size = ask.id_size;
    r.ignore_eos = ask.ignore_eos;
    r.stream = ask.stream;
    r.priority = ask.priority;
    r.arrival = SimTime(static_cast<std::int64_t>(r.id.value()));
    if (ask.eos > 0) lengths_.set(r.id, ask.eos);
    const SequenceId id = scheduler.add(r);
    if (id.is_none()) return false;
    if (id.value() >= request_of_.size()) request_of_.resize(id.value() + 1);
    request_of_[id.value()] = r.id.value();
    slot_of_.resize(next_);
    slot_of_[r.id.value()] = id;
    return true;
  }

  // The request says EOS with the result of the step that is launched next but `later` ones.
  void say_eos(std::uint64_t request, std::int64_t later = 0) {
    eos_.push_back({static_cast<std::int64_t>(scheduler.next_step().value()) + later, request});
  }

  std::string pass() {
    const bool pending = scheduler.open_steps() > 0;
    const StepPlan& plan = scheduler.schedule();
    std::string row = describe(plan);
    last_loads = plan.load_blocks;
    if (speaks_ && plan.tokens() > 0) speech_.begin(plan);
    if (pending || (!overlap_ && plan.tokens() > 0)) result();
    scheduler.cache().check_invariants();
    return row;
  }
  std::vector<std::string> passes(int n) {
    std::vector<std::string> rows;
    for (int i = 0; i < n; ++i) rows.push_back(pass());
    return rows;
  }
  // Up to and with the first row that has the word in it.
  std::vector<std::string> until(const std::string& word, int at_most = 2000) {
    std::vector<std::string> rows;
    while (at_most-- > 0) {
      rows.push_back(pass());
      if (rows.back().find(word) != std::string::npos) break;
    }
    return rows;
  }
  // Until nothing is left; the number of passes.
  int drain(int at_most = 100000) {
    int n = 0;
    for (; scheduler.has_work() && n < at_most; ++n) pass();
    return n;
  }

  struct Ended {
    std::uint64_t request;
    std::int32_t outputs;
    std::int64_t step;
    friend bool operator==(const Ended&, const Ended&) = default;
  };
  std::vector<Ended> ended;
  std::vector<std::uint64_t> aborted;
  std::size_t turned_away = 0;  // of them, by a full queue
  std::int64_t tokens = 0;      // delivered: first ones, regular and irregular ones
  std::int32_t hit_tokens = 0;  // of the last admission
  std::int64_t last_loads = 0;  // pages that the last pass brought back from host memory
  FixedAcceptance acceptance;

 private:
  void result() {
    const auto step = static_cast<std::int64_t>(updated_++);
    StepOutcome out;
    out.first = StepId(static_cast<std::uint64_t>(step));
    out.scheduled = 1;
    const SimTime now(step);
    out.updates = std::span(&now, 1);
    std::vector<SequenceId> eos;
    for (const auto& [at, request] : eos_) {
      if (at == step) eos.push_back(slot_of_[request]);
    }
    out.eos = eos;
    if (speaks_) out.spoken = speech_.end();
    const UpdateEffects& effects = scheduler.on_outcome(out);
    tokens += static_cast<std::int64_t>(effects.first_tokens.size() + effects.irregular.size());
    tokens += effects.regular_decodes[0] + effects.further_tokens;
    for (const Finished& f : effects.finished) ended.push_back({f.request.value(), f.output_tokens, step});
  }

  std::string describe(const StepPlan& plan) {
    std::string row;
    for (const PrefillWork& w : plan.prefill) {
      row += ' ' + std::to_string(w.request.value()) + ':' + std::to_string(w.new_tokens) + '@' +
             std::to_string(w.context);
    }
    for (const Admission& a : scheduler.admissions()) hit_tokens = a.cached_tokens;
    const std::string drafts = '+' + std::to_string(plan.verify.empty() ? 0 : plan.verify[0].drafts);
    const std::string decodes =
        ' ' + std::to_string(plan.decode_sequences) + " ctx " + std::to_string(plan.decode_context_tokens);
    if (plan.tokens() == 0) {
      row = "none";
    } else if (plan.prefill.empty() && !plan.verify.empty()) {
      row = "verify " + std::to_string(plan.decode_sequences) + drafts + " ctx " +
            std::to_string(plan.decode_context_tokens);
    } else if (plan.prefill.empty()) {
      row = "decode" + decodes;
    } else if (plan.decode_sequences == 0) {
      row = "extend" + row;
    } else {
      row = "mixed" + row + " +" + decodes;
    }
    const auto list = [&](const char* word, std::span<const SequenceId> ids) {
      for (std::size_t i = 0; i < ids.size(); ++i)
        row += (i == 0 ? std::string(" ") + word + ' ' : ",") + std::to_string(request_of_[ids[i].value()]);
    };
    list("retract", plan.preempted);
    list("abort", plan.aborted);
    turned_away += plan.turned_away;
    for (const SequenceId id : plan.aborted) aborted.push_back(request_of_[id.value()]);
    return row;
  }

  bool overlap_, speaks_;
  std::uint64_t next_ = 0, updated_ = 0;
  std::vector<std::uint64_t> request_of_;  // by slot
  std::vector<SequenceId> slot_of_;        // by request
  std::vector<std::pair<std::int64_t, std::uint64_t>> eos_;
  OutputLengths lengths_;
  SpokenSteps speech_{acceptance, lengths_};

 public:
  SglangScheduler scheduler;
};

}  // namespace orrery::sglang_test

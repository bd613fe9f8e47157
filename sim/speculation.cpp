#include "sim/speculation.h"

#include <algorithm>
#include <charconv>

#include "base/check.h"
#include "base/files.h"
#include "base/random.h"
#include "base/text.h"

namespace orrery {

namespace {
// One stream a place: a request has fewer than 2^31 outputs.
std::uint64_t place(RequestId request, std::int32_t outputs) {
  return (request.value() << 31) | static_cast<std::uint64_t>(outputs);
}
}  // namespace

namespace {
// Down the tree while what the model says is one of a node's candidates.
std::int32_t walk(const DraftPaths& tree, RandomStream& draws) {
  std::size_t at = 0;
  for (std::int32_t n = 0;; ++n) {
    const std::vector<std::int32_t>& candidates = tree.candidates[at];
    if (candidates.empty()) return n;
    const std::vector<double>& chances = tree.chances[static_cast<std::size_t>(n)];
    const double draw = draws.uniform();
    double below = 0;
    std::size_t next = 0;
    for (std::size_t r = 0; r < candidates.size() && next == 0; ++r) {
      below += chances[r];
      if (draw < below) next = static_cast<std::size_t>(candidates[r]);
    }
    if (next == 0) return n;
    at = next;
  }
}
}  // namespace

std::int32_t SampledAcceptance::accepted(RequestId request, std::int32_t outputs, std::int32_t drafts) const {
  RandomStream draws(seed_, RandomPurpose::draft_acceptance, place(request, outputs));
  if (tree_ != nullptr) return std::min(drafts, walk(*tree_, draws));
  std::int32_t n = 0;
  while (n < drafts && draws.uniform() < acceptance_[static_cast<std::size_t>(n)]) ++n;
  return n;
}

std::int32_t SampledAcceptance::proposed(RequestId request, std::int32_t outputs) const {
  if (match_rate_ >= 1) return drafts_;
  RandomStream draws(seed_, RandomPurpose::draft_match, place(request, outputs));
  return draws.uniform() < match_rate_ ? drafts_ : 0;
}

// ------------------------------------------------------------------------------------------------------
// logged

Result<LoggedAcceptance> LoggedAcceptance::load(const std::string& path, std::int32_t most_drafts,
                                                std::int32_t depth) {
  ORRERY_TRY(text, read_text_file(path, std::uint64_t{1} << 32));
  return parse(text, path, most_drafts, depth);
}

Result<LoggedAcceptance> LoggedAcceptance::parse(const std::string& text, const std::string& file,
                                                 std::int32_t most_drafts, std::int32_t depth) {
  static constexpr const char* header = "request,outputs,proposed,accepted";
  LoggedAcceptance log;
  Errors errors;
  int line = 0;
  for (std::size_t at = 0; at < text.size() && errors.size() < 100;) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    std::string_view row(text.data() + at, end - at);
    if (!row.empty() && row.back() == '\r') row.remove_suffix(1);
    at = end + 1;
    ++line;
    if (line == 1) {
      if (row != header) return invalid_input(std::string("the first line must be ") + header, {file, 1, 1});
      continue;
    }
    if (row.empty()) continue;
    std::int64_t field[4] = {};
    const char* p = row.data();
    bool good = true;
    for (int i = 0; i < 4 && good; ++i) {
      const auto [next, error] = std::from_chars(p, row.data() + row.size(), field[i]);
      const bool last = i == 3;
      good = error == std::errc{} && field[i] >= 0 &&
             (last ? next == row.data() + row.size() : next != row.data() + row.size() && *next == ',');
      p = next + 1;
    }
    if (!good || field[1] < 1 || field[1] > INT32_MAX || field[2] > most_drafts || field[3] > field[2] ||
        (depth > 0 && field[3] > depth)) {
      errors.push_back(
          invalid_input("expected four whole numbers: request, outputs (at least 1), proposed (at most "
                        "the " +
                            std::to_string(most_drafts) + " of deployment.speculation), accepted (at most " +
                            (depth > 0 ? std::to_string(depth) + ", the tree's depth)" : "proposed)"),
                        {file, line, 1}));
      continue;
    }
    log.rows_.push_back({static_cast<std::uint64_t>(field[0]), static_cast<std::int32_t>(field[1]),
                         static_cast<std::int32_t>(field[2]), static_cast<std::int32_t>(field[3])});
  }
  if (line == 0)
    return invalid_input(std::string("the file is empty; the first line must be ") + header, {file, 1, 1});
  if (!errors.empty()) return errors;
  const auto before = [](const Row& a, const Row& b) {
    return a.request != b.request ? a.request < b.request : a.outputs < b.outputs;
  };
  std::sort(log.rows_.begin(), log.rows_.end(), before);
  const auto same = [](const Row& a, const Row& b) {
    return a.request == b.request && a.outputs == b.outputs;
  };
  if (const auto twice = std::adjacent_find(log.rows_.begin(), log.rows_.end(), same);
      twice != log.rows_.end()) {
    return invalid_input("request " + std::to_string(twice->request) + " has two rows after " +
                             std::to_string(twice->outputs) + " outputs",
                         {file, 0, 0});
  }
  return log;
}

const LoggedAcceptance::Row* LoggedAcceptance::find(RequestId request, std::int32_t outputs) const {
  const auto row =
      std::lower_bound(rows_.begin(), rows_.end(), std::pair(request.value(), outputs),
                       [](const Row& r, const auto& key) { return std::pair(r.request, r.outputs) < key; });
  if (row != rows_.end() && row->request == request.value() && row->outputs == outputs) return &*row;
  return nullptr;
}

std::int32_t LoggedAcceptance::accepted(RequestId request, std::int32_t outputs, std::int32_t drafts) const {
  const Row* row = find(request, outputs);
  if (row != nullptr) return std::min(row->accepted, drafts);
  if (missing_++ == 0) {
    missing_request_ = request.value();
    missing_outputs_ = outputs;
  }
  return 0;
}

// A request's last proposal is never verified, so that no row is no mistake here.
std::int32_t LoggedAcceptance::proposed(RequestId request, std::int32_t outputs) const {
  const Row* row = find(request, outputs);
  return row == nullptr ? 0 : row->proposed;
}

std::string LoggedAcceptance::first_missing() const {
  return "request " + std::to_string(missing_request_) + " after " + std::to_string(missing_outputs_) +
         " output tokens";
}

// ------------------------------------------------------------------------------------------------------
// spoken

std::int64_t SpokenSteps::begin(const StepPlan& plan, std::vector<DecodingToken>* tokens) {
  std::vector<SpokenTokens> step;
  step.reserve(plan.verify.size());
  std::int64_t context = 0;
  for (const PrefillWork& work : plan.joined) join(work);
  for (const VerifyWork& work : plan.verify) {
    const std::int64_t place = voices_[work.sequence.value()].context;
    if (tokens != nullptr)
      tokens->push_back({.request = work.request, .place = place, .tokens = 1 + work.drafts});
    context += place;
    step.push_back(speak(work));
  }
  for (const PrefillWork& work : plan.prefill) {
    if (work.samples) step.push_back(first_word(work));
  }
  open_.push_back(std::move(step));
  return context;
}

// Its context came from elsewhere, with so many outputs.
SpokenSteps::Voice& SpokenSteps::join(const PrefillWork& work) {
  if (work.sequence.value() >= voices_.size()) voices_.resize(work.sequence.value() + 1);
  Voice& v = voices_[work.sequence.value()];
  v = {work.request, work.context, work.outputs_before, lengths_->eos_after(work.request)};
  return v;
}

SpokenTokens SpokenSteps::speak(const VerifyWork& work) {
  Voice& v = voices_[work.sequence.value()];
  ORRERY_CHECK(v.request == work.request, "a sequence that decodes has said its first token");
  SpokenTokens said{.sequence = work.sequence, .request = work.request, .drafts = work.drafts};
  if (work.padded) said.drafts = std::min(work.drafts, acceptance_->proposed(work.request, v.outputs));
  // Behind an EOS that the scheduler has not seen yet, what the step computes reaches nobody.
  const bool over = v.eos > 0 && v.outputs >= v.eos;
  if (said.drafts > 0 && !over) said.accepted = acceptance_->accepted(work.request, v.outputs, said.drafts);
  said.tokens = said.accepted + 1;
  if (v.eos > 0 && v.outputs < v.eos && v.outputs + said.tokens >= v.eos) {
    said.tokens = v.eos - v.outputs;  // no bonus, and no accepted draft, behind an EOS
    said.eos = true;
  }
  v.outputs += said.tokens;
  v.context += said.tokens;
  said.next_drafts = over || said.eos ? 0 : acceptance_->proposed(work.request, v.outputs);
  return said;
}

SpokenTokens SpokenSteps::first_word(const PrefillWork& work) {
  Voice& v = join(work);
  v.context += work.new_tokens;
  ++v.outputs;
  const bool eos = v.eos > 0 && v.outputs >= v.eos;
  return {.sequence = work.sequence,
          .request = work.request,
          .tokens = 1,
          .next_drafts = eos ? 0 : acceptance_->proposed(work.request, v.outputs),
          .eos = eos,
          .first = true};
}

const std::vector<SpokenTokens>& SpokenSteps::end() {
  ORRERY_CHECK(!open_.empty(), "a step that ends was begun");
  ended_ = std::move(open_.front());
  open_.pop_front();
  return ended_;
}

}  // namespace orrery

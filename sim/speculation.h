// Speculative decoding as far as the simulator decides it: how many drafts are accepted, and what every
// sequence of a step therefore says. The executor's side of the seam; a scheduler sees outcomes only.
//
// Draft i of a step is accepted when all before it were and a draw for (seed, request, output position) falls
// below acceptance[i]. A draw belongs to a place in a request's output, not to a step: how requests are
// batched, preempted or stretched over steps changes no accepted length at a place where a verification
// begins.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "sim/request.h"
#include "sim/step_plan.h"

namespace orrery {

// A tree of drafts as far as acceptance goes. Node 0 is the token before the drafts.
struct DraftPaths {
  std::vector<std::vector<double>> chances;  // by depth of an accepted node and rank of its candidates
  std::vector<std::vector<std::int32_t>> candidates;  // nodes by rank, of each node
  std::int32_t drafts() const { return static_cast<std::int32_t>(candidates.size()) - 1; }
};

// How a request's drafts fare; outputs are counted from 1, `outputs` of them are there.
class AcceptanceOracle {
 public:
  virtual ~AcceptanceOracle() = default;
  // Of `drafts` tokens that are to follow, so many are accepted: 0 … drafts.
  virtual std::int32_t accepted(RequestId request, std::int32_t outputs, std::int32_t drafts) const = 0;
  // Drafts that the proposer makes to follow.
  virtual std::int32_t proposed(RequestId request, std::int32_t outputs) const = 0;
};

// For sequences that say one token a step.
class NoDrafts final : public AcceptanceOracle {
 public:
  std::int32_t accepted(RequestId, std::int32_t, std::int32_t) const override { return 0; }
  std::int32_t proposed(RequestId, std::int32_t) const override { return 0; }
};

class SampledAcceptance final : public AcceptanceOracle {
 public:
  // `match_rate`: how often a proposal is made at all (n-gram; networks always propose).
  SampledAcceptance(std::uint64_t seed, std::vector<double> acceptance, double match_rate)
      : seed_(seed), acceptance_(std::move(acceptance)), match_rate_(match_rate),
        drafts_(static_cast<std::int32_t>(acceptance_.size())) {}
  // A tree: from an accepted node the draw that accepts a chain's draft also says which candidate it is.
  SampledAcceptance(std::shared_ptr<const DraftPaths> tree, std::uint64_t seed, double match_rate)
      : seed_(seed), tree_(std::move(tree)), match_rate_(match_rate), drafts_(tree_->drafts()) {}
  std::int32_t accepted(RequestId request, std::int32_t outputs, std::int32_t drafts) const override;
  std::int32_t proposed(RequestId request, std::int32_t outputs) const override;

 private:
  std::uint64_t seed_;
  std::vector<double> acceptance_;          // of a chain
  std::shared_ptr<const DraftPaths> tree_;  // null = a chain
  double match_rate_;
  std::int32_t drafts_;
};

// What a real run accepted (teacher forcing): CSV `request,outputs,proposed,accepted`, a row per
// verification, in any order; `request` = index in the trace, `outputs` = output tokens before it. A run that
// comes to a place that the log does not have used other steps than the log's: `missing()` says so, and the
// run is an error.
class LoggedAcceptance final : public AcceptanceOracle {
 public:
  // `depth`: of a tree, which no path is longer than; 0 = a chain.
  static Result<LoggedAcceptance> load(const std::string& path, std::int32_t most_drafts,
                                       std::int32_t depth = 0);
  static Result<LoggedAcceptance> parse(const std::string& text, const std::string& file,
                                        std::int32_t most_drafts, std::int32_t depth = 0);
  std::int32_t accepted(RequestId request, std::int32_t outputs, std::int32_t drafts) const override;
  std::int32_t proposed(RequestId request, std::int32_t outputs) const override;
  std::uint64_t missing() const { return missing_; }
  std::string first_missing() const;  // "request 3 after 17 output tokens"

 private:
  struct Row {
    std::uint64_t request;
    std::int32_t outputs, proposed, accepted;
  };
  const Row* find(RequestId request, std::int32_t outputs) const;

  std::vector<Row> rows_;  // by request, outputs
  mutable std::uint64_t missing_ = 0, missing_request_ = 0;
  mutable std::int32_t missing_outputs_ = 0;
};

// What the sequences of an instance's open steps say. It knows true lengths, also while the scheduler, with
// two steps in flight, only knows upper bounds.
class SpokenSteps {
 public:
  SpokenSteps(const AcceptanceOracle& acceptance, const OutputLengths& lengths)
      : acceptance_(&acceptance), lengths_(&lengths) {}

  // Decides a new step's tokens. Returns the sum of the decodes' true contexts before it. `tokens`: where it
  // matters which tokens they are.
  std::int64_t begin(const StepPlan& plan, std::vector<DecodingToken>* tokens = nullptr);
  // The oldest open step is over. Valid until the next call.
  const std::vector<SpokenTokens>& end();

 private:
  struct Voice {
    RequestId request;
    std::int64_t context = 0;  // tokens in the KV cache before its next step
    std::int32_t outputs = 0;  // said, steps in flight included
    std::int32_t eos = 0;      // after so many outputs; 0 = not by itself
  };
  Voice& join(const PrefillWork& work);
  SpokenTokens speak(const VerifyWork& work);
  SpokenTokens first_word(const PrefillWork& work);

  const AcceptanceOracle* acceptance_;
  const OutputLengths* lengths_;
  std::vector<Voice> voices_;  // by sequence slot
  std::deque<std::vector<SpokenTokens>> open_;
  std::vector<SpokenTokens> ended_;
};

}  // namespace orrery

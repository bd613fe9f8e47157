// A device for tests of the executor: it keeps no keys and values, but a chain of what they depend on. The
// content of a token's place is the content of the place before it in its sequence, and the token; whoever
// reads a sequence's blocks finds a chain, or somebody wrote where he should not.
#pragma once

#include <algorithm>
#include <set>
#include <string>
#include <unordered_set>
#include <vector>

#include "base/digest.h"
#include "live/forward/step_runner.h"

namespace orrery {

class PaperDevice final : public StepRunner {
 public:
  PaperDevice(std::int64_t blocks, std::int64_t vocabulary)
      : kept_(static_cast<std::size_t>(blocks * 16)), vocabulary_(static_cast<std::uint64_t>(vocabulary)) {}

  bool run(const StepBatch& b, StepResult& result, std::string& why) override {
    ++steps;
    if (fails_at == steps) {
      why = "the paper burns";
      return false;
    }
    const std::size_t rows = b.tokens.size();
    if (b.positions.size() != rows || b.slots.size() != rows) faults.push_back("rows that differ");
    if (b.padded_rows != 0) ++graphs;
    if (b.padded_rows != 0 && b.padded_rows < static_cast<std::int32_t>(rows))
      faults.push_back("a small graph");
    write(b);
    for (std::size_t i = 0; i < b.sequences.size(); ++i) read(b, i);
    result.sampled.clear();
    for (const std::int32_t row : b.sampled_rows) {
      const Place& place = kept_[static_cast<std::size_t>(b.slots[static_cast<std::size_t>(row)])];
      result.sampled.push_back(static_cast<std::int32_t>(place.chain % vocabulary_));
    }
    result.device_ns = 100'000 + 1'000 * static_cast<std::int64_t>(rows);
    result.launch_ns = 500;
    return true;
  }

  void copy_block(const PaperDevice& from, std::int32_t there, std::int32_t here) {
    for (std::int64_t i = 0; i < 16; ++i)
      kept_[static_cast<std::size_t>(here * 16 + i)] = from.kept_[static_cast<std::size_t>(there * 16 + i)];
  }

  std::unordered_set<std::uint64_t> contents;  // of all places ever written
  std::vector<std::string> faults;
  std::int64_t steps = 0, graphs = 0, fails_at = -1;

 private:
  struct Place {
    std::uint64_t chain = 0;
    std::int32_t token = -1;
  };
  static std::uint64_t longer(std::uint64_t chain, std::int32_t token) {
    Digest d;
    d.add(chain);
    d.add(static_cast<std::int64_t>(token));
    return d.value();
  }
  std::size_t slot(const StepBatch& b, std::size_t sequence, std::int64_t place) const {
    const std::size_t entry =
        sequence * static_cast<std::size_t>(b.max_blocks) + static_cast<std::size_t>(place / 16);
    return static_cast<std::size_t>(std::int64_t{b.block_tables[entry]} * 16 + place % 16);
  }
  // As a step does: what it computes of a prompt may be read by another of its prompts.
  void write(const StepBatch& b) {
    std::set<std::int64_t> written;
    for (const std::int64_t s : b.slots) {
      if (s < 16) faults.push_back("the null block is written");
      if (!written.insert(s).second) faults.push_back("a place is written twice");
    }
    // All keys of a step are written before any is read; a chain is written from its beginning.
    std::vector<std::pair<std::int32_t, std::size_t>> rows;  // place, and whose
    for (std::size_t i = 0; i < b.sequences.size(); ++i)
      for (std::int32_t k = 0; k < b.sequences[i].rows; ++k)
        rows.emplace_back(b.positions[static_cast<std::size_t>(b.sequences[i].first_row + k)], i);
    std::sort(rows.begin(), rows.end());
    for (const auto& [at, i] : rows) {
      const StepBatch::Sequence& s = b.sequences[i];
      const auto row = static_cast<std::size_t>(s.first_row + at - (s.context - s.rows));
      if (static_cast<std::size_t>(b.slots[row]) != slot(b, i, at))
        faults.push_back("a slot beside the table");
      const std::uint64_t before = at == 0 ? 0 : kept_[slot(b, i, at - 1)].chain;
      Place& place = kept_[static_cast<std::size_t>(b.slots[row])];
      place = {longer(before, b.tokens[row]), b.tokens[row]};
      contents.insert(place.chain);
    }
  }
  void read(const StepBatch& b, std::size_t sequence) {
    std::uint64_t chain = 0;
    for (std::int32_t at = 0; at < b.sequences[sequence].context; ++at) {
      const Place& place = kept_[slot(b, sequence, at)];
      chain = longer(chain, place.token);
      if (place.chain == chain) continue;
      faults.push_back("at step " + std::to_string(steps) + " sequence " + std::to_string(sequence) +
                       " reads another's block at " + std::to_string(at) + " of " +
                       std::to_string(b.sequences[sequence].context));
      return;
    }
  }

  std::vector<Place> kept_;
  std::uint64_t vocabulary_;
};

// A run owns its device; what the device saw outlives it.
class Borrowed final : public StepRunner {
 public:
  explicit Borrowed(PaperDevice& paper) : paper_(paper) {}
  bool run(const StepBatch& b, StepResult& r, std::string& why) override { return paper_.run(b, r, why); }

 private:
  PaperDevice& paper_;
};

}  // namespace orrery

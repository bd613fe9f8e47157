// Runs of published rows that were priced already, a line of JSON each, so that an interrupted board goes on
// where it stood. A line is found again by what its figures follow from: the scenario, what is asked of it,
// and the digest of this program and of all data that it prices from.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/result.h"
#include "reports/casebook/published/published_board.h"

namespace orrery {

// Of every file of hardware, engine and model profiles.
Result<std::uint64_t> profiles_digest();
// Of those and of this program's own file.
Result<std::uint64_t> cost_digest();

// `runs`: those behind the intervals.
std::string price_key(std::uint64_t cost_digest, const PublishedSetup& setup, int runs);

class PriceJournal {
 public:
  // Makes the folder where it lacks. A line that was torn, that this version cannot read, or of another
  // program or other data (`cost_digest`) counts as absent.
  static Result<PriceJournal> open(const std::string& folder, std::uint64_t cost_digest);
  const PricedSetup* find(const std::string& key) const;
  // On the disk when it returns, as far as the death of this process goes. Not for several threads at once.
  Status add(const std::string& key, const PricedSetup& priced);
  // Rewritten: these in this order, then what else this program priced from this data, by key (other figures
  // or rules, another number of runs): the same bytes whoever priced them, and when.
  Status settle(const std::vector<std::string>& keys) const;

 private:
  std::string path_, cost_;
  std::map<std::string, PricedSetup> priced_;
};

}  // namespace orrery

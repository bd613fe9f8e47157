#include "sim/speculation_counters.h"

#include <algorithm>

namespace orrery {

void SpeculationCounters::count(std::int32_t delivered, std::int32_t offered, std::int32_t taken) {
  ++decodes;
  tokens += static_cast<std::uint64_t>(delivered);
  if (offered == 0) return;
  ++verifications;
  drafts += static_cast<std::uint64_t>(offered);
  accepted += static_cast<std::uint64_t>(taken);
  const auto positions = static_cast<std::size_t>(depth > 0 ? std::min(offered, depth) : offered);
  if (offered_at.size() < positions) {
    offered_at.resize(positions, 0);
    accepted_at.resize(positions, 0);
  }
  for (std::size_t i = 0; i < positions; ++i) ++offered_at[i];
  for (std::size_t i = 0; i < static_cast<std::size_t>(taken); ++i) ++accepted_at[i];
}

void SpeculationCounters::add(const SpeculationCounters& other) {
  verifications += other.verifications;
  drafts += other.drafts;
  accepted += other.accepted;
  tokens += other.tokens;
  decodes += other.decodes;
  if (offered_at.size() < other.offered_at.size()) {
    offered_at.resize(other.offered_at.size(), 0);
    accepted_at.resize(other.accepted_at.size(), 0);
  }
  for (std::size_t i = 0; i < other.offered_at.size(); ++i) {
    offered_at[i] += other.offered_at[i];
    accepted_at[i] += other.accepted_at[i];
  }
}

}  // namespace orrery

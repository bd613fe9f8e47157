// Strong dense ids. They index vectors; an id of one kind cannot be used where another is meant.
// Ids are given by the owner of the thing, never by a process-wide counter.
#pragma once

#include <compare>
#include <cstdint>

namespace orrery {

template <class Tag, class Rep = std::uint32_t>
class StrongId {
 public:
  constexpr StrongId() = default;
  constexpr explicit StrongId(Rep value) : value_(value) {}
  static constexpr StrongId none() { return StrongId(static_cast<Rep>(-1)); }
  constexpr bool is_none() const { return value_ == static_cast<Rep>(-1); }
  constexpr Rep value() const { return value_; }
  friend constexpr auto operator<=>(StrongId, StrongId) = default;

 private:
  Rep value_ = static_cast<Rep>(-1);
};

using RequestId = StrongId<struct RequestTag, std::uint64_t>;  // index in the trace, from 0
using SequenceId = StrongId<struct SequenceTag>;               // slot in an instance, reused after the end
using InstanceId = StrongId<struct InstanceTag>;               // engine instance in the deployment
using StepId = StrongId<struct StepTag, std::uint64_t>;        // engine step of one instance, from 0
using TransferId = StrongId<struct TransferTag, std::uint64_t>;
using DeviceId = StrongId<struct DeviceTag>;
using ExpertId = StrongId<struct ExpertTag>;

}  // namespace orrery

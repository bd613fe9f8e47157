// What a search has computed, in SQLite (WAL): each result is there as soon as it exists, so that a search
// that was killed goes on where it was.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "base/result.h"

namespace orrery {

class PlanStore {
 public:
  // Nothing is kept: for searches without --out.
  PlanStore();
  // `identity`: what results depend on beside their keys (version, workload). With `resume` a store of
  // another identity is an error; without, whatever stands at `path` is begun anew.
  static Result<PlanStore> open(const std::string& path, const std::string& identity, bool resume);
  PlanStore(PlanStore&&) noexcept;
  PlanStore& operator=(PlanStore&&) noexcept;
  ~PlanStore();

  // Both may be called from several threads.
  std::optional<std::string> find(const std::string& key);
  Status put(const std::string& key, const std::string& value);
  std::uint64_t found() const;  // look-ups that an earlier run had answered

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace orrery

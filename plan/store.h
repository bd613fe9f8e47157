// What a search has computed, in SQLite (WAL): each result is there as soon as it exists, so that a search
// that was killed goes on where it was.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"

namespace orrery {

enum class StoreStart {
  anew,    // whatever stands there is removed
  resume,  // it must be there
  either,  // goes on with what is there, or begins
};

using PlanResults = std::vector<std::pair<std::string, std::string>>;  // key, value

class PlanStore {
 public:
  // Nothing is kept: for searches without --out.
  PlanStore();
  // `identity`: what results depend on beside their keys (version, workload). A store of another identity is
  // an error.
  static Result<PlanStore> open(const std::string& path, const std::string& identity, StoreStart start);
  static Result<PlanStore> in_memory(const std::string& identity);
  // All that another store has, which must be of the same identity and in nobody's use.
  static Result<PlanResults> read(const std::string& path, const std::string& identity);
  PlanStore(PlanStore&&) noexcept;
  PlanStore& operator=(PlanStore&&) noexcept;
  ~PlanStore();

  // Both may be called from several threads.
  std::optional<std::string> find(const std::string& key);
  Status put(const std::string& key, const std::string& value);
  std::uint64_t found() const;  // look-ups that an earlier run had answered

  // For crews (plan/crew.h): results that others made, and what was put here since the last call.
  Status add(const PlanResults& results, bool by_an_earlier_run);
  Result<PlanResults> all() const;
  PlanResults take_new();
  void keep_new();  // from now on; before, nothing is remembered twice

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace orrery

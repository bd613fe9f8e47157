// Sums of a step that depend on one count of tokens or rows, remembered from when they are first asked for.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

namespace orrery {

// Pure and thread-safe: whoever reckons a place puts the same figure there.
class PriceTable {
 public:
  static constexpr std::int64_t most = 8192;  // counts above are reckoned each time

  PriceTable() = default;
  static PriceTable create() {
    PriceTable table;
    table.values_.reset(new std::atomic<double>[static_cast<std::size_t>(most) + 1]());
    return table;
  }
  bool empty() const { return values_ == nullptr; }

  // `sum(count)`; nothing of nothing. A sum of 0 is reckoned again, which takes no time.
  template <class Sum>
  double at(std::int64_t count, const Sum& sum) const {
    if (values_ == nullptr || count > most) return sum(count);
    if (count <= 0) return 0;
    std::atomic<double>& place = values_[static_cast<std::size_t>(count)];
    double value = place.load(std::memory_order_relaxed);
    if (value == 0) {
      value = sum(count);
      place.store(value, std::memory_order_relaxed);
    }
    return value;
  }

 private:
  std::shared_ptr<std::atomic<double>[]> values_;
};

struct PricerState;
struct InstanceSpec;

// A search over deployments prices the same few step graphs thousands of times, under other budgets,
// instances and routers. Pricers of one graph that are made under a PriceTableScope share their tables, so
// that a sum is reckoned once for all of them; what they say does not depend on it. At most `most` graphs are
// kept, the oldest go first, some 200 kB each. From several threads at once.
class PriceTableShelf {
 public:
  explicit PriceTableShelf(std::size_t most = 256) : most_(most) {}
  std::uint64_t shared() const;  // pricers that found the tables of their graph

 private:
  friend class PriceTableScope;
  friend void share_price_tables(const InstanceSpec& spec, PricerState& state);
  struct Tables {
    PriceTable tokens, rows, last;
    std::uint64_t number = 0;
  };
  Tables find(const std::string& key);
  std::size_t most_;
  mutable std::mutex mutex_;
  std::map<std::string, Tables> tables_;
  std::uint64_t made_ = 0, shared_ = 0;
};

// While it lives, pricers that this thread makes look for tables on the shelf. `graph`: what the caller knows
// to make one graph, everything but a step's budgets; operators, their shapes and what a few sums come to are
// looked at beside it, so that a name too wide costs time and no more.
class PriceTableScope {
 public:
  PriceTableScope(PriceTableShelf& shelf, std::string graph);
  ~PriceTableScope();
  PriceTableScope(const PriceTableScope&) = delete;
  PriceTableScope& operator=(const PriceTableScope&) = delete;

 private:
  std::pair<PriceTableShelf*, std::string> before_;
};

// Last of what makes a pricer. Not where sums depend on more than the graph: stages, ranks, experts that are
// followed, a side stream, drafts.
void share_price_tables(const InstanceSpec& spec, PricerState& state);

}  // namespace orrery

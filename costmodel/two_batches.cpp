#include "costmodel/two_batches.h"

#include <algorithm>
#include <vector>

namespace orrery {

namespace {

// One compute stream, which runs operations in the order given, and one link, which carries one exchange at a
// time.
class Schedule {
 public:
  // One layer for all of them, or each its own.
  Schedule(std::span<const std::array<HalfLayer, 2>> layers, std::int64_t count)
      : layers_(layers), count_(count) {}

  void at_exchanges(bool shared_later) {
    for (std::int64_t l = 0; l < count_; ++l) {
      for (const std::size_t half : {0u, 1u}) {
        if (shared_later && l > 0) run(of(l - 1, half).shared);
        wait(half);
        run(of(l, half).inputs + of(l, half).attention);
        issue(half, of(l, half).dispatch);
      }
      for (const std::size_t half : {0u, 1u}) {
        wait(half);
        run(of(l, half).experts);
        issue(half, of(l, half).combine);
        if (!shared_later) run(of(l, half).shared);
      }
    }
    for (const std::size_t half : {0u, 1u}) {
      if (shared_later) run(of(count_ - 1, half).shared);
      wait(half);
    }
  }

  // `execute_overlapped_operations`: half b runs `delta` stages behind half a, one stage of each in turn.
  void in_stages(bool pause) {
    constexpr std::int64_t delta = 2;
    const std::int64_t of_layer = pause ? 6 : 5, stages = of_layer * count_;
    for (std::int64_t s = 0; s < stages + delta; ++s) {
      if (s < stages) stage(0, s, of_layer);
      if (s >= delta) stage(1, s - delta, of_layer);
    }
  }

  double end() const { return std::max(now_, link_free_); }

 private:
  const HalfLayer& of(std::int64_t layer, std::size_t half) const {
    return layers_[layers_.size() == 1 ? 0 : static_cast<std::size_t>(layer)][half];
  }

  void stage(std::size_t half, std::int64_t index, std::int64_t of_layer) {
    const HalfLayer& h = of(index / of_layer, half);
    switch (index % of_layer) {
      case 0: return run(h.inputs);
      case 1: return run(h.attention);
      case 2: issue(half, h.dispatch); return run(h.shared);
      case 3:
        wait(half);
        run(h.experts);
        return issue(half, h.combine);
      case 4: return wait(half);
      default: return;
    }
  }

  void run(double ns) { now_ += ns; }
  void issue(std::size_t half, const HalfExchange& exchange) {
    now_ += exchange.occupied;
    link_free_ = std::max(now_, link_free_) + exchange.behind;
    arrived_[half] = link_free_;
  }
  void wait(std::size_t half) { now_ = std::max(now_, arrived_[half]); }

  std::span<const std::array<HalfLayer, 2>> layers_;
  std::int64_t count_;
  double now_ = 0, link_free_ = 0;
  std::array<double, 2> arrived_{};
};

double run_all(Schedule schedule, BatchOrder order) {
  if (order == BatchOrder::in_stages || order == BatchOrder::in_stages_with_pause)
    schedule.in_stages(order == BatchOrder::in_stages_with_pause);
  else
    schedule.at_exchanges(order == BatchOrder::at_exchanges_shared_later);
  return schedule.end();
}

}  // namespace

double two_batches_ns(const std::array<HalfLayer, 2>& halves, std::int64_t layers, BatchOrder order) {
  return run_all(Schedule(std::span(&halves, 1), layers), order);
}

double two_batches_ns(std::span<const std::array<HalfLayer, 2>> layers, BatchOrder order) {
  return run_all(Schedule(layers, static_cast<std::int64_t>(layers.size())), order);
}

}  // namespace orrery

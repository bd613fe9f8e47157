#include "costmodel/two_batches.h"

#include <algorithm>
#include <vector>

namespace orrery {

namespace {

// One compute stream, which runs operations in the order given, and one link, which carries one exchange at a
// time.
class Schedule {
 public:
  explicit Schedule(const std::array<HalfLayer, 2>& halves) : halves_(halves) {}

  void at_exchanges(std::int64_t layers, bool shared_later) {
    for (std::int64_t l = 0; l < layers; ++l) {
      for (const std::size_t half : {0u, 1u}) {
        if (shared_later && l > 0) run(halves_[half].shared);
        wait(half);
        run(halves_[half].inputs + halves_[half].attention);
        issue(half, halves_[half].dispatch);
      }
      for (const std::size_t half : {0u, 1u}) {
        wait(half);
        run(halves_[half].experts);
        issue(half, halves_[half].combine);
        if (!shared_later) run(halves_[half].shared);
      }
    }
    for (const std::size_t half : {0u, 1u}) {
      if (shared_later) run(halves_[half].shared);
      wait(half);
    }
  }

  // `execute_overlapped_operations`: half b runs `delta` stages behind half a, one stage of each in turn.
  void in_stages(std::int64_t layers, bool pause) {
    constexpr std::int64_t delta = 2;
    const std::int64_t of_layer = pause ? 6 : 5, stages = of_layer * layers;
    for (std::int64_t s = 0; s < stages + delta; ++s) {
      if (s < stages) stage(0, s % of_layer);
      if (s >= delta) stage(1, s - delta < stages ? (s - delta) % of_layer : of_layer);
    }
  }

  double end() const { return std::max(now_, link_free_); }

 private:
  void stage(std::size_t half, std::int64_t index) {
    const HalfLayer& h = halves_[half];
    switch (index) {
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

  const std::array<HalfLayer, 2>& halves_;
  double now_ = 0, link_free_ = 0;
  std::array<double, 2> arrived_{};
};

}  // namespace

double two_batches_ns(const std::array<HalfLayer, 2>& halves, std::int64_t layers, BatchOrder order) {
  Schedule schedule(halves);
  if (order == BatchOrder::in_stages || order == BatchOrder::in_stages_with_pause)
    schedule.in_stages(layers, order == BatchOrder::in_stages_with_pause);
  else
    schedule.at_exchanges(layers, order == BatchOrder::at_exchanges_shared_later);
  return schedule.end();
}

}  // namespace orrery

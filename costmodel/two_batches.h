// A step in two halves on one compute stream, so that the exchange of experts' rows of one half hides behind
// the work of the other: vLLM's dual-batch overlap (v1/worker/ubatching.py of 0.24.0), SGLang's two-batch
// overlap (batch_overlap/operations_strategy.py of 0.5.23). A schedule, not a factor: operations go to the
// stream in the engine's order; what an exchange leaves of a wait, the stream waits.
#pragma once

#include <array>
#include <cstdint>
#include <span>

namespace orrery {

// One exchange of one half. `occupied` is spent on the compute stream itself (low-latency kernels store to
// their peers over scale-up links and start up there), `behind` passes after that, beside other work.
struct HalfExchange {
  double occupied = 0, behind = 0;
};

// One layer of one half, nanoseconds: what stands before the attention kernels, from there to the dispatch,
// shared experts, and what stands between dispatch and combine.
struct HalfLayer {
  double inputs = 0, attention = 0, shared = 0, experts = 0;
  HalfExchange dispatch, combine;
  double work() const { return inputs + attention + shared + experts + dispatch.occupied + combine.occupied; }
  double traffic() const { return dispatch.behind + combine.behind; }
};

enum class BatchOrder : std::uint8_t {
  // vLLM: a half gives way at its dispatch and at its combine, after the shared experts.
  at_exchanges,
  // SGLang, prompts: the same, with the shared experts after giving way.
  at_exchanges_shared_later,
  // SGLang, decodes: five stages a layer, the second half two stages behind.
  in_stages,
  // The same with an empty stage between layers (Qwen3).
  in_stages_with_pause,
};

// Nanoseconds of all layers. At least the larger of both halves' work and both halves' traffic, at most their
// sum.
double two_batches_ns(const std::array<HalfLayer, 2>& halves, std::int64_t layers, BatchOrder order);
// Of layers that differ.
double two_batches_ns(std::span<const std::array<HalfLayer, 2>> layers, BatchOrder order);

// A step taken apart: one layer of its halves, as all are but for what their experts' loads decide, and what
// runs once.
struct HalvedStep {
  std::array<HalfLayer, 2> halves;
  double whole = 0;
  double slower = 1;  // work beside exchanges that take multiprocessors
  BatchOrder order = BatchOrder::at_exchanges;
};

}  // namespace orrery

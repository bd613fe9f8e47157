// An instance, and another that KV comes from, on a fabric: what crosses their links, by hand.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "catch.h"
#include "costmodel/collective.h"
#include "costmodel/hand_spec.h"
#include "costmodel/roofline.h"
#include "costmodel/stages.h"
#include "sim/costed/cost_model_executor.h"
#include "sim/costed/fabric_transport.h"
#include "sim/costed/shared_links.h"
#include "sim/fabric/presets.h"

namespace links {

using namespace orrery;

constexpr double nvlink = 450e9, pcie = 63e9;  // bytes a second
constexpr std::int32_t prompt = 4096;          // tokens of a step

inline fabric::Topology board(std::int32_t nodes = 1) {
  return fabric::build_preset(
      {.preset = "hopper-8", .nodes = nodes, .nics_per_node = nodes > 1 ? 8 : 0, .nic_gbps = 200});
}

// Eight GPUs and a host on one switch without limits: no fabric at all.
inline fabric::Topology boundless() {
  fabric::Topology t;
  const DeviceId hub = t.add_device({.name = "hub", .kind = fabric::DeviceKind::nvswitch, .node = 0});
  const auto join = [&](DeviceId device) {
    t.add_link(device, hub, fabric::LinkClass::nvlink, INT64_C(1) << 60, INT64_C(1) << 60, SimDuration(0));
  };
  for (std::int32_t i = 0; i < 8; ++i)
    join(t.add_device(
        {.name = "gpu" + std::to_string(i), .kind = fabric::DeviceKind::gpu, .node = 0, .index = i}));
  join(t.add_device({.name = "host", .kind = fabric::DeviceKind::host, .node = 0}));
  return t;
}

inline std::vector<DeviceId> gpus(const fabric::Topology& t, std::size_t from, std::size_t count) {
  const auto first = t.gpus().begin() + static_cast<std::ptrdiff_t>(from);
  return {first, first + static_cast<std::ptrdiff_t>(count)};
}

inline ParallelPlan plan_of(std::int32_t tp, std::int32_t pp = 1, std::int32_t ep = 1) {
  ParallelPlan plan;
  plan.tp = tp, plan.pp = pp, plan.ep = ep;
  return plan;
}

// One instance from the first GPU on, and behind it another, of `senders` GPUs, that KV comes from.
struct Desk {
  explicit Desk(fabric::Topology fabric, ParallelPlan plan, std::size_t senders = 4, bool host = false)
      : topology(std::move(fabric)), width(static_cast<std::size_t>(plan.gpus())),
        transport(topology,
                  {{.gpus = gpus(topology, 0, width), .bytes_per_block = 1'000'000},
                   {.gpus = gpus(topology, width, senders), .bytes_per_block = 1'000'000}},
                  {.kv_heads = 8}, SimDuration(0)) {
    spec = hand::instance(plan.ep > 1 ? hand::mixture() : hand::dense());
    spec.plan = plan;
    if (plan.pp > 1) {
      spec.engine.runner = "v2";
      spec.engine.pipeline = PipelineCosts{hand::plain(0.5), hand::us(200), hand::us(1000)};
      spec.engine.steps_in_flight = batches_in_flight(spec.engine, plan.pp);
      spec.engine.settings.max_model_len = 40960;
    }
    pricer = std::make_unique<StepPricer>(StepPricer::create(spec).value());
    executor = std::make_unique<CostModelExecutor>(std::vector<const StepPricer*>{pricer.get()}, oracle);
    fabric::Routes routes(topology);
    shared =
        &transport.share({link_sides(routes, topology, gpus(topology, 0, width), plan, host).value(), {}},
                         [&](InstanceId i, SimTime at) { executor->cut(i, at); });
    executor->share_links(&transport, 0);
  }

  // A prompt's chunk; its device time.
  std::int64_t step(SimTime now) {
    submit(now);
    for (;;) {
      Outcomes outcomes;
      const SimTime at = executor->next_event();
      executor->collect(at, outcomes);
      if (outcomes.steps.empty()) continue;
      const StepStamp& stamp = outcomes.steps.front().last_stamp;
      last_end = at;
      return (stamp.device_end - stamp.device_begin).ns();
    }
  }
  void submit(SimTime now) {
    PrefillWork work{.sequence = SequenceId(0), .request = RequestId(next), .new_tokens = prompt};
    StepPlan plan;
    plan.prefill = std::span(&work, 1);
    plan.prefill_tokens = prompt;
    plan.running = 1;
    executor->submit(StepId(next++), InstanceId(0), plan, now);
  }
  void pull(std::int64_t blocks, SimTime now) {
    transport.begin({.request = RequestId(100 + requests++),
                     .from = InstanceId(1),
                     .to = InstanceId(0),
                     .blocks = blocks},
                    now);
  }
  SimTime arrival() {
    for (;;) {
      std::vector<KvPullDone> done;
      transport.collect(transport.next_event(), done);
      if (!done.empty()) return done.front().at;
    }
  }
  std::vector<OpLine> collectives() const {
    const std::vector<PrefillChunk> chunks{{prompt, 0}};
    std::vector<OpLine> lines = pricer->explain(hand::prefill(chunks)).ops;
    std::erase_if(lines, [](const OpLine& line) { return line.op_class != OpClass::collective; });
    return lines;
  }
  // Of a step's collectives: each takes its bytes at the links' rate, `slowdown` times, where that is longer.
  double longer(double slowdown) const {
    const Roofline roofline = Roofline::create(spec.hardware).value();
    double sum = 0;
    for (const OpLine& line : collectives()) {
      const double bytes = std::stod(line.shape.substr(line.shape.find('=') + 1));
      const auto what =
          line.name.find("gather") != std::string::npos ? Collective::all_gather : Collective::all_reduce;
      const OpCost cost = collective_cost(roofline, what, bytes, spec.plan.tp);
      CHECK(static_cast<double>(line.time_ns) ==
            Approx(static_cast<double>(line.count) * cost.ns()).margin(static_cast<double>(line.count)));
      const double raw = cost.link_bytes / nvlink * 1e9;
      sum += static_cast<double>(line.count) *
             (std::max(cost.ns(), cost.latency_ns + slowdown * raw) - cost.ns());
    }
    return sum;
  }
  double sent_bytes() const {  // by a GPU in a step
    double sum = 0;
    for (const OpLine& line : collectives()) sum += line.link_bytes;
    return sum;
  }

  fabric::Topology topology;
  std::size_t width;
  FabricTransport transport;
  InstanceSpec spec;
  std::unique_ptr<StepPricer> pricer;
  OutputLengths oracle;
  std::unique_ptr<CostModelExecutor> executor;
  SharedLinks* shared = nullptr;
  std::uint64_t next = 0, requests = 0;
  SimTime last_end;
};

}  // namespace links

// Everything that crosses the links of a node at the same time: what each costs the others, by hand.
#include "sim/costed/shared_links.h"

#include <filesystem>
#include <fstream>
#include <memory>

#include "catch.h"
#include "costmodel/collective.h"
#include "costmodel/hand_spec.h"
#include "costmodel/roofline.h"
#include "costmodel/stages.h"
#include "sim/costed/cost_model_executor.h"
#include "sim/costed/fabric_transport.h"
#include "sim/costed/run.h"
#include "sim/fabric/presets.h"

using namespace orrery;

namespace {

constexpr double nvlink = 450e9, pcie = 63e9;  // bytes a second
constexpr std::int32_t prompt = 4096;          // tokens of a step

fabric::Topology board(std::int32_t nodes = 1) {
  return fabric::build_preset(
      {.preset = "hopper-8", .nodes = nodes, .nics_per_node = nodes > 1 ? 8 : 0, .nic_gbps = 200});
}

// Eight GPUs and a host on one switch without limits: no fabric at all.
fabric::Topology boundless() {
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

std::vector<DeviceId> gpus(const fabric::Topology& t, std::size_t from, std::size_t count) {
  const auto first = t.gpus().begin() + static_cast<std::ptrdiff_t>(from);
  return {first, first + static_cast<std::ptrdiff_t>(count)};
}

ParallelPlan plan_of(std::int32_t tp, std::int32_t pp = 1, std::int32_t ep = 1) {
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

}  // namespace

TEST_CASE("KV into a node slows its all-reduces by their max-min share [shared_links]") {
  for (const std::int32_t ep : {1, 4}) {  // experts split, or shared out: the same all-reduces
    Desk desk(board(), plan_of(4, 1, ep));
    const std::int64_t alone = desk.step(SimTime(0));
    CHECK(desk.step(desk.last_end) == alone);
    for (const double flows : {1, 2, 3}) {
      desk.pull(1'000'000, desk.last_end);  // a terabyte a rank
      CHECK(desk.longer(flows + 1) > 0);
      CHECK(std::abs(static_cast<double>(desk.step(desk.last_end) - alone) - desk.longer(flows + 1)) < 2);
    }
  }
}

TEST_CASE("a step takes no more longer than the flows need for what they have left [shared_links]") {
  Desk desk(board(), plan_of(4));
  const std::int64_t alone = desk.step(SimTime(0));
  desk.pull(1'000'000, desk.last_end);
  const std::int64_t beside_many = desk.step(desk.last_end) - alone;
  Desk other(board(), plan_of(4));
  other.step(SimTime(0));
  other.pull(10, other.last_end);  // ten megabytes a rank
  const std::int64_t beside_few = other.step(other.last_end) - alone;
  CHECK(beside_few > 0);
  CHECK(beside_few < beside_many);
  CHECK(static_cast<double>(beside_few) <= 10e6 / nvlink * 1e9 + 1);
}

TEST_CASE("what flows cannot take a collective has: no more than its share is lost [shared_links]") {
  // One GPU sends to four: a quarter of a link each. Three quarters is what a collective reaches alone.
  Desk desk(board(), plan_of(4), 1);
  const std::int64_t alone = desk.step(SimTime(0));
  desk.pull(1'000'000, desk.last_end);
  CHECK(desk.shared->flows_on(0, inside_side()) == 1);
  CHECK(desk.shared->pace(0, inside_side(), desk.last_end).slowdown == Approx(4.0 / 3));
  CHECK(std::abs(desk.step(desk.last_end) - alone) <= 2);
  desk.pull(1'000'000, desk.last_end);  // eight flows of an eighth: the same
  CHECK(std::abs(desk.step(desk.last_end) - alone) <= 2);
}

TEST_CASE("a step's bytes slow the KV by what they put on its link [shared_links]") {
  Desk desk(board(), plan_of(4));
  const double busy = static_cast<double>(desk.step(SimTime(0)));
  const SimTime now = desk.last_end;
  desk.submit(now);
  desk.pull(1000, now);  // 1 GB a rank
  const double demand = desk.sent_bytes() / busy * 1e9;
  REQUIRE(demand > 0.05 * nvlink);
  REQUIRE(demand < nvlink / 2);
  const double ns = static_cast<double>((desk.arrival() - now).ns());
  CHECK(ns == Approx(1e9 / (nvlink - demand) * 1e9 + 600).epsilon(1e-6));
  Desk idle(board(), plan_of(4));
  idle.pull(1000, SimTime(0));
  CHECK(static_cast<double>(idle.arrival().ns()) == Approx(1e9 / nvlink * 1e9 + 600).epsilon(1e-6));
  // It is over: the next step is as if it had never been.
  CHECK(idle.step(later(idle.last_end, SimTime(0) + seconds(1))) == static_cast<std::int64_t>(busy));
}

TEST_CASE("a hand-off between stages shares the link into its stage [shared_links]") {
  Desk desk(board(), plan_of(1, 2), 2);
  desk.step(SimTime(0));
  const std::int64_t alone = desk.executor->usage().handoff_ns;
  desk.pull(1'000'000, desk.last_end);
  desk.step(desk.last_end);
  const std::int64_t beside = desk.executor->usage().handoff_ns - alone;
  // Hidden values and the residual, of two bytes each: at three quarters of a link alone, at half beside one.
  const double bytes = 2.0 * prompt * 4096 * 2;
  CHECK(static_cast<double>(beside - alone) == Approx(bytes / nvlink * (2 - 1 / 0.75) * 1e9).epsilon(1e-3));
}

TEST_CASE("weights of experts on their way: slowed by KV, and they slow steps [shared_links]") {
  const LinkUse use{.more_ns = 0, .inside_ns = 1e6, .network_bytes = 0};  // 450 MB over every link
  Desk desk(board(), plan_of(4, 1, 4));
  desk.transport.begin_move(0, use, SimTime(0));
  CHECK(desk.transport.moved(0).is_never());
  desk.transport.pump(SimTime(0) + seconds(1));
  CHECK(desk.transport.moved(0) == SimTime(0) + SimDuration(1'000'300));  // and the way
  const SimTime now = SimTime(0) + seconds(1);
  const std::int64_t alone = desk.step(now);
  const SimTime then = desk.last_end;
  desk.pull(1'000'000, then);
  desk.transport.begin_move(0, use, then);
  CHECK(std::abs(static_cast<double>(desk.step(then) - alone) - desk.longer(3)) < 2);
  Desk other(board(), plan_of(4, 1, 4));
  other.pull(1'000'000, SimTime(0));
  other.transport.begin_move(0, use, SimTime(0));
  other.transport.pump(SimTime(0) + seconds(1));
  CHECK(other.transport.moved(0) == SimTime(0) + SimDuration(2'000'300));
}

// The desk's first instance copies over the fabric.
void copies(Desk& desk, std::size_t width, double block, double rate) {
  std::vector<HostCopies::Seat> seats(2);
  fabric::Routes routes(desk.topology);
  seats[0] = {.gpus = gpus(desk.topology, 0, width),
              .hosts = hosts_of(routes, desk.topology, gpus(desk.topology, 0, width)),
              .bytes_per_block = block,
              .bytes_per_second = rate};
  desk.transport.share_copies(std::move(seats));
  desk.executor->copy_over_fabric();
  desk.executor->add_host_links(HostLink(block, rate));
}

TEST_CASE("a copy to host memory: as long as the host link alone, or as the links make it [shared_links]") {
  constexpr double block = 1e6, rate = 55.4e9;
  const auto ends = [](Desk& desk) {
    std::vector<TransferDone> done;
    while (done.size() < 3) {
      Outcomes outcomes;
      desk.executor->collect(desk.executor->next_event(), outcomes);
      done.insert(done.end(), outcomes.transfers.begin(), outcomes.transfers.end());
    }
    return done;
  };
  using Direction = TransferWork::Direction;
  const std::vector<TransferWork> work{{.direction = Direction::to_device, .id = 0, .blocks = 997},
                                       {.direction = Direction::to_device, .id = 1, .blocks = 1000},
                                       {.direction = Direction::to_host, .id = 2, .blocks = 5000}};
  // Without limits, and on a board whose PCIe is wider than what was measured: to the nanosecond.
  for (const bool limits : {false, true}) {
    Desk desk(limits ? board() : boundless(), plan_of(1), 4, true);
    copies(desk, 1, block, rate);
    desk.executor->transfer(InstanceId(0), work, SimTime(0));
    HostLink alone(block, rate);
    for (const TransferDone& done : ends(desk)) CHECK(done.at == alone.end_of(work[done.id], SimTime(0)));
  }
  // Two GPUs of one PCIe switch share its way up and down.
  Desk two(board(), plan_of(2), 2, true);
  copies(two, 2, block, rate);
  two.executor->transfer(InstanceId(0), work, SimTime(0));
  const auto done = ends(two);
  CHECK(static_cast<double>(done[0].at.ns()) == Approx(997e6 / (pcie / 2) * 1e9).epsilon(1e-4));
  CHECK(static_cast<double>(done[1].at.ns()) == Approx(1997e6 / (pcie / 2) * 1e9).epsilon(1e-4));
  CHECK(done[2].id == 2);
  CHECK(static_cast<double>(done[2].at.ns()) == Approx(5000e6 / (pcie / 2) * 1e9).epsilon(1e-4));
  // What a step waits for.
  CHECK(two.transport.copy_slowdown(0, true, done[2].at) == Approx(rate / (pcie / 2)));
}

TEST_CASE("a copy that a step waits for and queued ones are one queue on one link [shared_links]") {
  constexpr double block = 1e6, rate = 55.4e9;
  using Direction = TransferWork::Direction;
  const auto work = [](std::uint64_t id, std::int64_t blocks) {
    return TransferWork{.direction = Direction::to_host, .id = id, .blocks = blocks};
  };
  for (const bool on_fabric : {false, true}) {
    for (const std::size_t width : {1u, 2u}) {  // two share their PCIe switch's way up
      CAPTURE(on_fabric, width);
      Desk desk(board(), plan_of(static_cast<std::int32_t>(width)), 2, true);
      desk.executor->add_host_links(HostLink(block, rate));
      if (on_fabric) copies(desk, width, block, rate);
      const double per_block = block / (on_fabric && width == 2 ? pcie / 2 : rate) * 1e9;
      const auto near = [&](SimTime at, std::int64_t blocks) {
        CHECK(static_cast<double>(at.ns()) == Approx(static_cast<double>(blocks) * per_block).epsilon(1e-4));
      };
      desk.executor->transfer(InstanceId(0), std::vector{work(0, 2000), work(1, 1000)}, SimTime(0));
      StepPlan plan;  // the core thread stores 500 blocks before it launches (SGLang's write_back)
      PrefillWork prefill{.sequence = SequenceId(0), .request = RequestId(0), .new_tokens = 16};
      plan.prefill = std::span(&prefill, 1);
      plan.prefill_tokens = 16;
      plan.running = 1;
      plan.blocking_store_blocks = 500;
      desk.executor->submit(StepId(0), InstanceId(0), plan, SimTime(0));
      desk.executor->transfer(InstanceId(0), std::vector{work(2, 300)}, SimTime(0));
      std::vector<TransferDone> done;
      SimTime scheduled = SimTime::never();
      while (done.size() < 3 || scheduled.is_never()) {
        Outcomes outcomes;
        desk.executor->collect(desk.executor->next_event(), outcomes);
        done.insert(done.end(), outcomes.transfers.begin(), outcomes.transfers.end());
        for (const StepOutcome& step : outcomes.steps) scheduled = step.last_stamp.schedule_begin;
      }
      REQUIRE(done.size() == 3);
      near(done[0].at, 2000);
      near(done[1].at, 3000);
      near(scheduled, 3500);
      CHECK(done[2].id == 2);
      near(done[2].at, 3800);
    }
  }
}

TEST_CASE("links that faults have hit slow collectives, and mended ones do not [shared_links]") {
  Desk desk(board(), plan_of(4));
  const std::int64_t alone = desk.step(SimTime(0));
  std::uint32_t up = 0;  // GPU 1 to the NVSwitch
  while (desk.topology.link(fabric::LinkId(up)).from != desk.topology.gpus()[1] ||
         desk.topology.link(fabric::LinkId(up)).link_class != fabric::LinkClass::nvlink)
    ++up;
  const Roofline roofline = Roofline::create(desk.spec.hardware).value();
  const auto weaker = [&](double left) {  // the links' part of every collective ÷ left
    double sum = 0;
    for (const OpLine& line : desk.collectives()) {
      const double bytes = std::stod(line.shape.substr(line.shape.find('=') + 1));
      const auto what =
          line.name.find("gather") != std::string::npos ? Collective::all_gather : Collective::all_reduce;
      const OpCost cost = collective_cost(roofline, what, bytes, 4);
      sum += static_cast<double>(line.count) *
             (std::max(cost.ns(), cost.latency_ns + cost.link_ns / left) - cost.ns());
    }
    return sum;
  };
  desk.transport.set_link(up, 0.5, desk.last_end);
  CHECK(std::abs(static_cast<double>(desk.step(desk.last_end) - alone) - weaker(0.5)) < 2);
  desk.transport.set_link(up, 1, desk.last_end);
  CHECK(desk.step(desk.last_end) == alone);
  // Cut: the ring goes on over PCIe.
  desk.transport.set_link(up, 0, desk.last_end);
  CHECK(std::abs(static_cast<double>(desk.step(desk.last_end) - alone) - weaker(pcie / nvlink)) < 2);
  desk.transport.set_link(up, 1, desk.last_end);
  CHECK(desk.step(desk.last_end) == alone);
}

TEST_CASE("a detour is as good as its own links, in whatever order faults come and go [shared_links]") {
  Desk desk(board(), plan_of(4));
  const auto from = [&](fabric::LinkClass of) {
    std::uint32_t link = 0;
    while (desk.topology.link(fabric::LinkId(link)).from != desk.topology.gpus()[1] ||
           desk.topology.link(fabric::LinkId(link)).link_class != of)
      ++link;
    return link;
  };
  const std::uint32_t fast = from(fabric::LinkClass::nvlink), slow = from(fabric::LinkClass::pcie);
  const auto left = [&] { return desk.shared->pace(0, inside_side(), SimTime(1)).left; };
  const auto set = [&](std::uint32_t link, double factor) {
    desk.transport.set_link(link, factor, SimTime(1));
  };
  set(fast, 0);
  const double by_pcie = left();
  CHECK(by_pcie < 1);
  set(slow, 0.1);
  CHECK(left() == Approx(by_pcie / 10));
  set(slow, 0);
  const double cut_off = left();
  CHECK(cut_off < by_pcie / 10);
  set(slow, 1);
  CHECK(left() == by_pcie);
  set(fast, 1);
  CHECK(left() == 1);
  set(slow, 0);
  CHECK(left() == 1);
  set(fast, 0);
  CHECK(left() == cut_off);
}

TEST_CASE("a NIC that fails leaves its rail's bytes to another [shared_links]") {
  Desk desk(board(3), plan_of(16), 4);
  const DeviceId nic = desk.topology.find("node0.nic3");
  CHECK(desk.shared->pace(0, network_side(), SimTime(0)).left == 1);
  for (std::uint32_t l = 0; l < desk.topology.link_count(); ++l) {
    const fabric::Link& link = desk.topology.link(fabric::LinkId(l));
    if (link.from == nic || link.to == nic) desk.transport.set_link(l, 0, SimTime(1));
  }
  CHECK(desk.shared->pace(0, network_side(), SimTime(1)).left == Approx(0.5));
}

// ------------------------------------------------------------------------------------------------ scenarios

namespace {

Result<Scenario> load(const std::string& deployment, std::vector<std::string> more = {}) {
  ScenarioOptions options;
  options.overrides = {"deployment=" + deployment, "workload.limit={requests: 30}"};
  options.overrides.insert(options.overrides.end(), more.begin(), more.end());
  return load_scenario(std::string(ORRERY_SOURCE_DIR) + "/examples/qwen3-8b-h200.yaml", options);
}
RunResult run(const std::string& deployment, bool stretches = true, std::vector<std::string> more = {}) {
  RunOptions options;
  options.stretches = stretches;
  return run_scenario(load(deployment, std::move(more)).value(), options).value();
}

const std::string one_board = "topology: {preset: hopper-8}, ";
const std::string qwen = "hardware: h200, model: qwen3-8b, engine: vllm-0.24";
const std::string offload =
    ", engine_args: {kv_offloading_size: 64, num_gpu_blocks_override: 700, max_model_len: 8192}";

std::string boundless_file() {
  const std::string path = std::filesystem::temp_directory_path() / "orrery-shared_links_test.yaml";
  std::ofstream out(path);
  out << "name: boundless\ndevices:\n  - {name: hub, kind: nvswitch, node: 0, index: 0}\n"
         "  - {name: host, kind: host, node: 0, index: 0}\n";
  for (int i = 0; i < 8; ++i) out << "  - {name: g" << i << ", kind: gpu, node: 0, index: " << i << "}\n";
  out << "links:\n";
  for (int i = -1; i < 8; ++i)
    out << "  - between: [" << (i < 0 ? "host" : "g" + std::to_string(i)) << ", hub]\n    class: nvlink\n"
        << "    bandwidth: {value: 1000000, unit: GB/s, kind: assumed, source: test}\n"
           "    latency: {value: 0, unit: us, kind: assumed, source: test}\n";
  return path;
}

}  // namespace

TEST_CASE("one network under everything: single steps give the digest of stretches [shared_links]") {
  const std::string two = "pools: [{name: p, role: prefill, parallel: {tp: 4}, " + qwen +
                          "}, {name: d, role: decode, parallel: {tp: 4}, " + qwen + "}]}";
  const std::string experts =
      "hardware: h200, model: qwen3-30b-a3b, engine: vllm-0.24, parallel: {tp: 8, ep: 8}, experts: "
      "{popularity: {zipf: 1}, eplb: {policy: periodic, redundant: 16, every_steps: 60, window_steps: 40";
  for (const std::string& deployment :
       {"{" + one_board + two, "{" + one_board + qwen + offload + "}",
        "{" + one_board + qwen + ", parallel: {tp: 2}" + offload + "}", "{" + one_board + experts + "}}}",
        "{" + one_board + experts + ", overlapped: false}}}"}) {
    CAPTURE(deployment);
    const RunResult r = run(deployment);
    CHECK(r.completed == 30);
    CHECK(run(deployment, false).digest == r.digest);
  }
}

TEST_CASE("a topology without limits is no topology, to the bit [shared_links]") {
  const std::string file = "topology: " + boundless_file() + ", ";
  const RunResult tier = run("{" + qwen + offload + "}");
  CHECK(tier.offload.stored > 0);
  CHECK(run("{" + file + qwen + offload + "}").digest == tier.digest);
  const std::string experts =
      "hardware: h200, model: qwen3-30b-a3b, engine: vllm-0.24, parallel: {tp: 8, ep: 8}, experts: "
      "{popularity: {zipf: 1}, eplb: {policy: periodic, redundant: 16, every_steps: 60, window_steps: 40}}}";
  CHECK(run("{" + file + experts).digest == run("{" + experts).digest);
  // On a real board the weights that move slow the steps beside them.
  const RunResult none = run("{" + experts), real = run("{" + one_board + experts);
  CHECK(real.experts.rebalances > 0);
  CHECK(real.digest != none.digest);
}

TEST_CASE("a tier that copies for two GPUs of a PCIe switch is slower than for two of two [shared_links]") {
  const auto loaded = [](const std::string& topology) {
    return run("{" + topology + qwen + ", parallel: {tp: 2}" + offload + "}").ttft.mean;
  };
  CHECK(loaded(one_board) >= loaded(""));
}

TEST_CASE("a fault of a link slows an instance, and one that leaves no way is refused [shared_links]") {
  const std::string four = "{" + one_board + qwen + ", parallel: {tp: 4}}";
  const auto with = [&](const std::string& factor) {
    return run(
        four, true,
        {"faults=[{at_s: 0, kind: link, target: [node0.gpu1, node0.nvswitch0], factor: " + factor + "}]"});
  };
  const RunResult whole = run(four), half = with("0.5"), tenth = with("0.1");
  CHECK(whole.tpot.mean < half.tpot.mean);
  CHECK(half.tpot.mean < tenth.tpot.mean);
  const Scenario s = load("{topology: {preset: hopper-8, nodes: 2, nics_per_node: 1, nic_gbps: 400}, " +
                              qwen + ", parallel: {tp: 16}}",
                          {"faults=[{at_s: 0, kind: nic, target: node0.nic0}]"})
                         .value();
  const auto refused = run_scenario(s, {});
  REQUIRE_FALSE(refused.ok());
  CHECK(refused.errors().front().key == "faults");
  CHECK_THAT(refused.errors().front().message, Catch::Matchers::Contains("leaves no way between the ranks"));
}

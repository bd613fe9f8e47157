// Everything that crosses the links of a node at the same time: what each costs the others, by hand.
#include "sim/costed/shared_links.h"

#include <filesystem>
#include <fstream>

#include "catch.h"
#include "links_desk.h"
#include "sim/costed/run.h"

using namespace orrery;
using namespace links;

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

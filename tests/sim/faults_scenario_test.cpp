// Faults, updates and autoscaling of whole scenarios: keys, and what they do to prefill and decode apart,
// data parallelism and stages.
#include <thread>

#include "catch.h"
#include "example_scenario.h"
#include "sanitized.h"
#include "sim/costed/faults.h"
#include "sim/costed/run.h"

using namespace orrery;

namespace {

const char* const steady =
    "workload={generator: {requests: 200, arrivals: {process: poisson, rate: 10}, input: {distribution: "
    "uniform, "
    "low: 200, high: 3000}, output: {distribution: uniform, low: 2, high: 200}}}";
const char* const one_request =
    "workload={generator: {requests: 1, arrivals: {process: fixed, rate: 1}, input: {distribution: fixed, "
    "value: 4000}, output: {distribution: fixed, value: 3}}}";
const char* const quick = "start: {engine_s: 1, load_gb_per_s: 1000}";

Result<Scenario> load(const std::string& deployment, std::vector<std::string> more) {
  ScenarioOptions options;
  options.overrides = {"deployment=" + deployment, steady, "slo={ttft_ms: 1000}"};
  options.overrides.insert(options.overrides.end(), more.begin(), more.end());
  return load_scenario(std::string(ORRERY_SOURCE_DIR) + "/examples/qwen3-8b-h200.yaml", options);
}

std::string vllm(const std::string& keys) {
  return "{hardware: h200, model: qwen3-8b, engine: vllm-0.24, " + keys + "}";
}

std::string apart(const std::string& keys = "", const std::string& of_pools = "",
                  const std::string& engine = "vllm-0.24") {
  const auto pool = [&](const char* name_and_role) {
    return std::string("{hardware: h200, model: qwen3-8b, engine: ") + engine + ", replicas: 2, " +
           name_and_role + ", " + of_pools + quick + "}";
  };
  return "{topology: {preset: hopper-8}, " + keys + "pools: [" +
         pool(engine == "tensorrt-llm-1.2"
                  ? "name: p, role: prefill, engine_args: {disable_overlap_scheduler: true}"
                  : "name: p, role: prefill") +
         ", " + pool("name: d, role: decode") + "]}";
}

std::string error_of(const Result<Scenario>& loaded) {
  REQUIRE(!loaded.ok());
  std::string all;
  for (const Error& e : loaded.errors()) all += e.key + ": " + e.message + "\n";
  return all;
}

std::uint64_t ended(const RunResult& r) {
  return r.completed + r.failed + r.cancelled + r.timed_out + r.rejected;
}

// The same by single steps.
RunResult run_both(const Scenario& s) {
  const RunResult r = run_scenario(s).value();  // an error where KV or requests are left
  RunOptions single;
  single.stretches = false;
  const RunResult slow = run_scenario(s, single).value();
  CHECK(slow.digest == r.digest);
  CHECK(slow.fleet.lost_output_tokens == r.fleet.lost_output_tokens);
  return r;
}

}  // namespace

TEST_CASE("what a fault names must be there, and every mistake is said at its key [faults]") {
  const auto refused = [](const std::string& faults, const std::string& deployment = vllm("replicas: 2")) {
    return error_of(load(deployment, {"faults=" + faults}));
  };
  const auto has = [](const std::string& text, const char* part) {
    CAPTURE(text);
    return text.find(part) != std::string::npos;
  };
  CHECK(has(refused("[{at_s: 1, kind: gpu, target: {instance: 2}}]"),
            "faults[0].target.instance: there is no instance 2"));
  CHECK(has(refused("[{at_s: 1, kind: gpu, target: {replica: 0, gpu: 1}}]"), "there is no GPU 1"));
  CHECK(has(refused("[{at_s: 1, kind: gpu, target: {instance: 0, replica: 0}}]"), "says it twice"));
  CHECK(has(refused("[{at_s: 1, kind: gpu, target: 1}]"), "name a GPU as"));
  CHECK(has(refused("[{at_s: 1, kind: gpu, target: {replica: 0}}]", apart()), "name a GPU as"));
  CHECK(has(refused("[{kind: gpu, target: {instance: 0}}]"), "one of them was expected"));
  CHECK(has(refused("[{at_s: 1, mtbf_h: 1, repair_s: 1, kind: gpu, target: {instance: 0}}]"),
            "one of them was expected"));
  CHECK(has(refused("[{mtbf_h: 1, kind: gpu, target: all}]"), "repair_s"));
  CHECK(has(refused("[{at_s: 1, kind: gpu, factor: 1, target: all}]"), "leaves everything as it is"));
  CHECK(has(refused("[{at_s: 1, kind: node, target: 0}]"),
            "faults[0].kind: nodes, NICs and links are those of deployment.topology"));
  CHECK(has(refused("[{at_s: 1, kind: link, factor: 0.5, target: a–b}]"), "deployment.topology"));
  CHECK(has(refused("[{at_s: 1, kind: disk, target: 0}]"), "gpu, node, nic, link"));
  CHECK(has(refused("[{at_s: 1, kind: node, target: 1}]", apart()), "there is no node 1"));
  CHECK(has(refused("[{at_s: 1, kind: link, target: node0.gpu0–node0.gpu1}]", apart()), "no link"));
  CHECK(has(refused("[{at_s: 1, kind: link, target: node0.gpu9–node0.nvswitch0}]", apart()), "no device"));
  CHECK(has(refused("[{at_s: 1, kind: link, target: node0.gpu0}]", apart()), "by its two devices"));
  CHECK(has(error_of(load(vllm("replicas: 2"), {"deployment.on_failure=fail"})), "deployment.on_failure"));
  CHECK(has(error_of(load(vllm(quick), {})), "no instance starts in this run"));
  CHECK(has(error_of(load(vllm("replicas: 5, autoscale: {target: 8, max: 4}"), {})),
            "autoscale allows 1 to 4"));
  CHECK(has(error_of(load(vllm("autoscale: {target: 8, max: 4}, rolling_update: {at_s: 1}"), {})),
            "rolling update"));
  CHECK(has(error_of(load(vllm("parallel: {dp: 2}, rolling_update: {at_s: 1}"), {})), "use replicas"));
}

TEST_CASE("starting takes the weights' way and the engine's own time [faults]") {
  const auto plain = load(vllm("rolling_update: {at_s: 1}"), {}).value();
  const double weights = plain.pool.memory.weights.value();
  CHECK(start_time(plain.pool).seconds() == Approx(82.5 + weights / 2e9));
  const auto block =
      load(vllm("rolling_update: {at_s: 1}, quantization: fp8-block, parallel: {tp: 2}"), {}).value();
  CHECK(start_time(block.pool).seconds() == Approx(285 + 2 * block.pool.memory.weights.value() / 2e9));
  const auto own =
      load(vllm("rolling_update: {at_s: 1}, start: {engine_s: 5, load_gb_per_s: 4}"), {}).value();
  CHECK(start_time(own.pool).seconds() == Approx(5 + weights / 4e9));
  const RunResult r = run_both(own);
  CHECK(r.completed == 200);
  REQUIRE(r.fleet.stays.size() >= 1);
  CHECK(r.fleet.stays.back().end - r.fleet.stays.back().begin == start_time(own.pool));
  // What it wrote means the same when it is read again.
  const auto again = read_again(own);
  REQUIRE(again.ok());
  CHECK(run_scenario(*again).value().digest == r.digest);
}

TEST_CASE("a GPU of a TP group takes its instance, a dense dp engine dies alone [faults]") {
  const std::string fault = "faults=[{at_s: 5, kind: gpu, target: {replica: 1, gpu: 1}, for_s: 2}]";
  const RunResult tp =
      run_both(load(vllm(std::string("parallel: {tp: 2}, replicas: 2, ") + quick), {fault}).value());
  CHECK(tp.completed == 200);
  CHECK(tp.fleet.instances_lost == 1);
  CHECK(tp.fleet.stays.front().instance == InstanceId(1));
  const RunResult dp =
      run_both(load(vllm(std::string("parallel: {dp: 2}, replicas: 2, ") + quick), {fault}).value());
  CHECK(dp.completed == 200);
  CHECK(dp.fleet.instances_lost == 1);
  CHECK(dp.fleet.stays.front().instance == InstanceId(3));  // engine 1 of replica 1
}

TEST_CASE("with stages a slow GPU slows its own stage [faults]") {
  const auto busy = [](const std::string& faults) {
    std::vector<std::string> more;
    if (!faults.empty())
      more = {"faults=[{at_s: 0, kind: gpu, factor: 0.5, target: {instance: 0, gpu: " + faults + "}}]"};
    return run_scenario(load(vllm("parallel: {pp: 2}"), more).value()).value().pipeline.busy;
  };
  const auto healthy = busy(""), first = busy("0"), second = busy("1");
  CHECK(first[0] / first[1] == Approx(2 * healthy[0] / healthy[1]).epsilon(0.05));
  CHECK(second[1] / second[0] == Approx(2 * healthy[1] / healthy[0]).epsilon(0.05));
}

TEST_CASE("a link at half its bandwidth takes a KV transfer twice as long [faults]") {
  const auto transfer = [](const std::string& faults) {
    const RunResult r =
        run_scenario(load(apart("pd: {connector: moriio}, "), {one_request, "faults=" + faults}).value())
            .value();
    REQUIRE(r.completed == 1);
    return r.transfers;
  };
  const KvTransferResult healthy = transfer("[{at_s: 900, kind: gpu, target: {pool: d}}]");  // long after
  const std::string link = "target: node0.gpu0–node0.nvswitch0}]";
  const double bytes_ns = static_cast<double>(healthy.bytes) / 450e9 * 1e9;
  CHECK(std::abs(static_cast<double>(transfer("[{at_s: 0, kind: link, factor: 0.5, " + link).transfer.max -
                                     healthy.transfer.max) -
                 bytes_ns) <= 2);
  CHECK(transfer("[{at_s: 0, kind: link, factor: 0.5, for_s: 0.001, " + link).transfer.max ==
        healthy.transfer.max);
  // Cut: KV goes by PCIe.
  const KvTransferResult cut = transfer("[{at_s: 0, kind: link, " + link);
  CHECK(cut.transfer.max > 4 * healthy.transfer.max);
  CHECK(cut.bytes == healthy.bytes);
}

TEST_CASE(
    "a NIC at half its bandwidth holds up the transfers of its GPU, a dead one is gone around [faults]") {
  const auto transfer = [](const std::string& fault) {
    const std::string side = "parallel: {tp: 8}, start: {engine_s: 1, load_gb_per_s: 1000}";
    const RunResult r = run_scenario(load("{topology: {preset: hopper-8, nodes: 2, nics_per_node: 8, "
                                          "nic_gbps: 400}, pd: {connector: moriio}, pools: [" +
                                              vllm("name: p, role: prefill, " + side) + ", " +
                                              vllm("name: d, role: decode, " + side) + "]}",
                                          {one_request, "faults=[{at_s: " + fault + "}]"})
                                         .value())
                            .value();
    REQUIRE(r.completed == 1);
    return r.transfers;
  };
  const KvTransferResult healthy = transfer("900, kind: node, target: 1");
  // Eight flows, each through a NIC of its own at 50 GB/s; the last one to arrive counts.
  const double flow_ns = static_cast<double>(healthy.bytes) / 8 / 50e9 * 1e9;
  const auto longer = [&](const char* fault) {
    return static_cast<double>(transfer(fault).transfer.max - healthy.transfer.max);
  };
  CHECK(std::abs(longer("0, kind: nic, factor: 0.5, target: node0.nic3") - flow_ns) <= 2);
  // Two flows on one NIC.
  CHECK(std::abs(longer("0, kind: nic, target: node1.nic3") - flow_ns) < 0.05 * flow_ns);
}

TEST_CASE("runs beside one another decide as one alone does [faults]") {
  const auto s = load(vllm(std::string("replicas: 3, ") + quick),
                      {"faults=[{kind: gpu, target: all, mtbf_h: 0.003, repair_s: 1}]"})
                     .value();
  const std::uint64_t alone = run_scenario(s).value().digest;
  std::vector<std::uint64_t> digests(4);
  std::vector<std::thread> threads;
  for (std::uint64_t& digest : digests)
    threads.emplace_back([&s, &digest] { digest = run_scenario(s).value().digest; });
  for (std::thread& thread : threads) thread.join();
  for (const std::uint64_t digest : digests) CHECK(digest == alone);
}

TEST_CASE("prefill and decode apart: whoever is lost, the other side gives its blocks back [faults]") {
  // Decode side lost; prefill side lost; both, and a GPU without any way for a while.
  for (const char* faults : {"[{at_s: 6, kind: gpu, target: {pool: d, replica: 0}, for_s: 3}]",
                             "[{at_s: 6, kind: gpu, target: {pool: p, replica: 0}, for_s: 3}]",
                             "[{at_s: 6, kind: node, target: 0, for_s: 2}]",
                             "[{at_s: 4, kind: link, target: node0.gpu0–node0.nvswitch0, for_s: 5}, "
                             "{at_s: 4, kind: link, target: node0.gpu0–node0.pcie_switch0, for_s: 5}]"}) {
    CAPTURE(faults);
    for (const char* policy : {"retry", "fail"}) {
      const RunResult r =
          run_both(load(apart(std::string("on_failure: {policy: ") + policy + ", detection_s: 0.5}, "),
                        {std::string("faults=") + faults})
                       .value());
      CHECK(ended(r) == 200);
      if (std::string(faults).find("link") != std::string::npos) {  // what becomes of it says deployment.pd
        CHECK(r.fleet.requests_lost == 0);
        CHECK(r.fleet.transfers_lost > 0);
        CHECK(r.transfers.failed == r.fleet.transfers_lost);
        CHECK(r.transfers.retried > 0);
        continue;
      }
      CHECK(r.fleet.requests_lost > 0);
      if (std::string(policy) == "retry") CHECK(r.completed + r.failed == 200);
      if (std::string(policy) == "fail") CHECK(r.failed >= r.fleet.requests_lost);
    }
  }
}

TEST_CASE("prefill and decode pools are updated and scaled, and nothing is lost [faults]") {
  const auto pool = [](const char* role, const char* change) {
    return vllm(std::string("name: ") + role + ", role: " + role + ", " + change + ", " + quick);
  };
  const auto of = [](const std::string& pools) {
    return run_both(load("{topology: {preset: hopper-8}, pools: [" + pools + "]}", {}).value());
  };
  const RunResult updated = of(pool("prefill", "replicas: 2, rolling_update: {at_s: 3}") + ", " +
                               pool("decode", "replicas: 3, rolling_update: {at_s: 5}"));
  CHECK(updated.completed == 200);
  CHECK(updated.fleet.updated == 5);
  CHECK(updated.fleet.requests_lost == 0);
  const RunResult scaled =
      of(pool("prefill", "autoscale: {target: 2, metric: waiting, max: 2, interval_s: 1, cooldown_s: 4}") +
         ", " + pool("decode", "autoscale: {target: 4, min: 1, max: 4, interval_s: 1, cooldown_s: 4}"));
  CHECK(scaled.completed == 200);
  CHECK(scaled.fleet.scalings.size() > 1);
  CHECK(scaled.fleet.requests_lost == 0);
}

TEST_CASE("drawn faults of everything: conservation, prefill and decode apart [faults]") {
  std::uint64_t lost = 0, transfers = 0;
  for (int seed = 1; seed <= (sanitized ? 2 : 8); ++seed) {
    const RunResult r = run_both(
        load(apart("on_failure: {retries: 5, detection_s: 0.2}, "),
             {"faults=[{kind: gpu, target: all, mtbf_h: 0.003, repair_s: 0.5}, {kind: link, target: "
              "node0.gpu0–node0.nvswitch0, mtbf_h: 0.001, repair_s: 1}, {kind: link, target: "
              "node0.gpu0–node0.pcie_switch0, mtbf_h: 0.0005, repair_s: 2}, {kind: gpu, factor: 0.5, target: "
              "{pool: d, replica: 1}, mtbf_h: 0.001, repair_s: 1}]",
              "workload.client={timeout_s: 20}", "seed=" + std::to_string(seed)})
            .value());
    CHECK(ended(r) == 200);
    lost += r.fleet.requests_lost;
    transfers += r.fleet.transfers_lost;
  }
  CHECK(lost > (sanitized ? 20 : 200));
  CHECK(transfers > (sanitized ? 0 : 10));
}

TEST_CASE("policies of failed transfers, short prompts, routers with books, TensorRT-LLM [faults]") {
  const std::vector<std::string> deployments = {
      apart("pd: {kv_load_failure_policy: recompute}, on_failure: {retries: 5, detection_s: 0.2}, "),
      apart("pd: {retry: 3, local_below: 1000}, on_failure: {retries: 5, detection_s: 0.2}, "),
      apart("pd: {retry: 0}, on_failure: {policy: fail, detection_s: 0.2}, ", "router: kv-aware, "),
      apart("on_failure: {retries: 5, detection_s: 0.2}, ", "router: slots, "),
      apart("on_failure: {retries: 5, detection_s: 0.2}, ",
            "router: {policy: least-loaded, period_ms: 50}, "),
      apart("on_failure: {retries: 5, detection_s: 0.2}, ", "", "tensorrt-llm-1.2")};
  std::uint64_t lost = 0, transfers = 0;
  for (const std::string& deployment : deployments) {
    for (int seed = 1; seed <= (sanitized ? 1 : 3); ++seed) {
      CAPTURE(deployment, seed);
      const auto loaded = load(
          deployment, {"faults=[{kind: gpu, target: all, mtbf_h: 0.003, repair_s: 0.5}, {kind: link, target: "
                       "node0.gpu0–node0.nvswitch0, mtbf_h: 0.001, repair_s: 1}, {kind: link, target: "
                       "node0.gpu0–node0.pcie_switch0, mtbf_h: 0.0005, repair_s: 2}]",
                       "workload.client={timeout_s: 20}", "seed=" + std::to_string(seed)});
      if (!loaded.ok()) FAIL(error_of(loaded));
      const RunResult r = run_both(*loaded);
      CHECK(ended(r) == 200);
      lost += r.fleet.requests_lost;
      transfers += r.fleet.transfers_lost;
    }
  }
  CHECK(lost > (sanitized ? 20 : 200));
  CHECK(transfers > (sanitized ? 0 : 10));
}

TEST_CASE("routers that listen hear the end of every lost request once [faults]") {
  for (const char* router : {"kv-aware", "{policy: kv-aware, period_ms: 100, delay_ms: 20}", "slots",
                             "{policy: shortest-prompt-first, batch_ms: 50}"}) {
    CAPTURE(router);
    const auto loaded = load(
        vllm(std::string("replicas: 3, ") + quick + ", on_failure: {detection_s: 0.3}, router: " + router),
        {"workload={generator: {requests: 200, arrivals: {process: poisson, rate: 10}, input: {distribution: "
         "uniform, low: 200, high: 3000}, output: {distribution: uniform, low: 2, high: 200}, sessions: "
         "{turns_mean: 4, think_s: 0.5}}}",
         "faults=[{kind: gpu, target: all, mtbf_h: 0.003, repair_s: 1}]"});
    if (!loaded.ok()) FAIL(error_of(loaded));
    const RunResult r = run_both(*loaded);
    CHECK(ended(r) == 200);
    CHECK(r.fleet.requests_lost > 10);
    CHECK(r.fleet.restarts > 3);
  }
}

TEST_CASE("where both legs are sent at once instances go, links fail, GPUs are slow [faults]") {
  std::uint64_t lost = 0;
  for (const std::string& deployment : {apart("", "", "sglang-0.5"), apart("pd: {transfer: layerwise}, ")}) {
    CAPTURE(deployment);
    const auto cut =
        load(deployment, {"faults=[{at_s: 4, kind: link, target: node0.gpu0–node0.nvswitch0, for_s: 5}, "
                          "{at_s: 4, kind: link, target: node0.gpu0–node0.pcie_switch0, for_s: 5}, "
                          "{at_s: 6, kind: gpu, factor: 0.5, target: {pool: d}, for_s: 3}]"});
    if (!cut.ok()) FAIL(error_of(cut));
    const RunResult r = run_both(*cut);
    CHECK(ended(r) == 200);
    CHECK(r.fleet.transfers_lost > 0);
    CHECK(r.transfers.retried > 0);
    const auto gone =
        load(deployment, {"faults=[{at_s: 3, kind: gpu, target: {pool: d, replica: 0}, for_s: 3}, "
                          "{at_s: 8, kind: gpu, target: {pool: p, replica: 0}, for_s: 3}]"});
    if (!gone.ok()) FAIL(error_of(gone));
    const RunResult g = run_both(*gone);
    CHECK(ended(g) == 200);
    CHECK(g.fleet.instances_lost == 2);
    lost += g.fleet.requests_lost;
  }
  CHECK(lost > 4);
}

TEST_CASE("engines, ranks and tiers come back from losses [faults]") {
  const std::string fault = "faults=[{kind: gpu, target: all, mtbf_h: 0.004, repair_s: 0.5}]";
  for (const std::string& deployment :
       {std::string("{hardware: h200, model: qwen3-8b, engine: sglang-0.5, replicas: 2, ") + quick + "}",
        std::string("{hardware: h200, model: qwen3-8b, engine: tensorrt-llm-1.2, replicas: 2, ") + quick +
            "}",
        std::string("{hardware: h200, model: qwen3-8b, engine: sglang-0.5, replicas: 2, engine_args: "
                    "{enable_hierarchical_cache: true}, ") +
            quick + "}",
        std::string("{hardware: h200, model: qwen3-30b-a3b, engine: vllm-0.24, replicas: 2, parallel: {dp: "
                    "2, ep: 2}, ") +
            quick + "}",
        std::string("{hardware: h200, model: qwen3-8b, engine: vllm-0.24, replicas: 2, engine_args: "
                    "{kv_offloading_size: "
                    "20}, router: prefix-aware, ") +
            quick + "}",
        std::string(
            "{hardware: h200, model: qwen3-8b, engine: vllm-0.24, replicas: 2, speculation: {method: ngram, "
            "tokens: 3, acceptance: 0.6, match_rate: 0.5}, router: round-robin, ") +
            quick + "}"}) {
    CAPTURE(deployment);
    for (const char* frontend : {"none", "openai"}) {
      const RunResult r =
          run_both(load(deployment, {fault, std::string("workload.frontend=") + frontend}).value());
      CHECK(r.completed + r.failed == 200);
      CHECK(r.fleet.instances_lost > 0);
    }
  }
}

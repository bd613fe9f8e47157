// What the summary says is what the definitions say (interfaces: Definitions, §5).
#include "reports/summary.h"

#include "catch.h"
#include "sim/metrics.h"

using namespace orrery;

TEST_CASE("throughput divides by first arrival to last finish; goodput counts whole requests") {
  RunResult run;
  run.completed = 40;
  run.failed = 10;
  run.first_arrival = SimTime(2'000'000'000);
  run.measured_from = run.first_arrival;
  run.last_finish = SimTime(12'000'000'000);
  run.input_tokens = 1000;
  run.output_tokens = 500;
  run.has_slo = true;
  run.slo_met = 25;
  run.slo_output_tokens = 300;
  run.pools.push_back({.name = "main",
                       .instances = 2,
                       .gpus_per_instance = 2,
                       .kv_blocks = 100,
                       .kv_block_size = 16,
                       .peak_utilization = 0.5});
  SummaryInput input;
  input.run = &run;
  input.gpus = 4;
  input.usd_per_gpu_hour = 3.6;
  const Json j = summary_json(input);
  CHECK(j["duration_s"] == 10.0);
  CHECK(j["throughput"]["requests_per_s"] == 4.0);
  CHECK(j["throughput"]["output_tokens_per_s"] == 50.0);
  CHECK(j["throughput"]["output_tokens_per_s_per_gpu"] == 12.5);
  CHECK(j["goodput"]["requests_per_s"] == 2.5);
  CHECK(j["goodput"]["attainment"] == 0.5);  // requests that failed did not meet it
  CHECK(j["kv_cache"]["tokens"] == 1600);
  CHECK(j["cost"]["usd"].get<double>() == Approx(0.04));
  CHECK(j["ttft_ms"].is_null());  // nothing was measured: not zero
  CHECK(j["interval_90"].is_null());
  CHECK(j["experts"].is_null());
  CHECK(j["fleet"].is_null());
  // Where instances come and go, what is not off is paid: 0.02 GPU-hours at 3.6.
  run.fleet.on = true;
  run.fleet.gpu_hours = 0.02;
  run.fleet.requests_lost = 7;
  run.fleet.stays.push_back(
      {InstanceId(1), InstanceState::failed, SimTime(3'000'000'000), SimTime(5'000'000'000)});
  const Json moving = summary_json(input);
  CHECK(moving["cost"]["usd"].get<double>() == Approx(0.072));
  CHECK(moving["fleet"]["requests_lost"] == 7);
  CHECK(moving["fleet"]["not_up"][0]["state"] == "failed");
  CHECK(moving["fleet"]["not_up"][0]["to_s"] == 5.0);
  CHECK(summary_text(input, "").find("7 requests") != std::string::npos);
  run.fleet = {};
  run.experts = {.on = true,
                 .balancedness = 0.7,
                 .least_balancedness = 0.5,
                 .series = {{SimTime(0), 0, 0.5}, {SimTime(1'500'000'000), 12, 0.9}},
                 .rebalances = 1,
                 .stall_ns = 2'000'000};
  const Json experts = summary_json(input)["experts"];
  CHECK(experts["balancedness"]["least"] == 0.5);
  CHECK(experts["series"][1]["at_s"] == 1.5);
  CHECK(experts["series"][1]["step"] == 12);
  CHECK(experts["stall_s"].get<double>() == Approx(0.002));
  run.has_slo = false;
  input.usd_per_gpu_hour = 0;
  CHECK(summary_json(input)["goodput"].is_null());
  CHECK(summary_json(input)["cost"].is_null());
}

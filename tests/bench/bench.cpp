// How fast the simulator is: engine steps, a million requests, step prices. Prints one JSON object a line;
// each says how many steps, stretches and prices it took, so that a figure cannot hide in an idle fleet, and
// how often the KV pool wrapped. A hand-written part, so that a better profile does not change the work.
#include <sys/resource.h>

#include <chrono>
#include <cstdio>
#include <cstring>

#include "../sim/world.h"
#include "base/digest.h"
#include "base/files.h"
#include "base/json.h"
#include "workloads/workload.h"

using namespace orrery;

namespace {

double now_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double peak_rss_mb() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) * 1024e-6;
}

void print(Json json) {
  std::printf("%s\n", json.dump().c_str());
  std::fflush(stdout);
}

struct Setup {
  InstanceSpec spec = hand::instance(hand::dense());
  SchedulerConfig config;
  std::size_t replicas = 1;
  std::int64_t concurrency = 0;
};

struct Timed {
  RunResult run;
  double wall_s = 0;
};

Timed simulate(const Setup& s, std::unique_ptr<RequestSource> source) {
  auto pricer = StepPricer::create(s.spec).value();
  OutputLengths oracle;
  TraceInbox inbox(std::move(source), pricer.input_delay(), s.concurrency, oracle);
  CostModelExecutor executor(std::vector<const StepPricer*>(s.replicas, &pricer), oracle);
  VirtualClock clock;
  const auto router = find_router("least-loaded")->make();
  SimulationSetup setup;
  setup.clock = &clock;
  setup.executor = &executor;
  setup.inbox = &inbox;
  setup.router = router.get();
  for (std::size_t i = 0; i < s.replicas; ++i)
    setup.schedulers.push_back(find_scheduler("vllm-v1")->make(s.config));
  const double begin = now_s();
  Timed timed{.run = run_simulation(std::move(setup)).value(), .wall_s = 0};
  timed.wall_s = now_s() - begin;
  timed.run.prices = executor.usage().prices;
  return timed;
}

Json describe(const Timed& t) {
  const RunResult& r = t.run;
  return {{"wall_s", t.wall_s},
          {"requests", r.completed},
          {"steps", r.steps},
          {"stretches", r.stretches},
          {"events", r.events},
          {"prices", r.prices},
          {"output_tokens", r.output_tokens},
          {"ns_per_step", t.wall_s * 1e9 / static_cast<double>(r.steps)},
          {"steps_per_s", static_cast<double>(r.steps) / t.wall_s},
          {"requests_per_s", static_cast<double>(r.completed) / t.wall_s},
          {"pool_wraps", r.kv_wraps},
          {"peak_pool_use", r.pools.front().peak_utilization},
          {"preemptions", r.preemptions},
          {"peak_rss_mb", peak_rss_mb()},
          {"digest", digest_text(r.digest)}};
}

// A full batch in a closed loop. `outputs` is the mean number of output tokens: proportional to the batch
// gives the same number of changes per step at every size (the cost of a step itself); constant gives as many
// ends per step as a real engine.
double steps_at_batch(std::int64_t batch, double outputs, const char* kind) {
  Setup s;
  s.concurrency = batch;
  s.config = {
      .max_num_batched_tokens = 16384, .max_num_seqs = batch, .max_model_len = 1 << 22, .block_size = 16};
  // Half as much again as the batch holds on average, so that the pool runs full of cached blocks.
  s.config.num_gpu_blocks =
      1 + static_cast<std::int64_t>(static_cast<double>(batch) * (256 + 1.1 * outputs) / 16 * 1.5);
  GeneratorSpec g;
  g.requests = static_cast<std::uint64_t>(batch * 24 + 20000);
  g.arrivals = {.kind = ArrivalSpec::Kind::fixed, .rate = 1e6};
  g.input.value = 128;
  g.output.kind = LengthSpec::Kind::uniform;
  g.output.low = 1;
  g.output.high = 2 * outputs;
  const Timed t = simulate(s, make_generator(g, 1));
  Json json{{"bench", "steps"},
            {"kind", kind},
            {"batch", batch},
            {"mean_output_tokens", outputs},
            {"prefix_caching", true}};
  json.update(describe(t));
  print(json);
  return t.wall_s * 1e9 / static_cast<double>(t.run.steps);
}

void million_requests(std::uint64_t requests, double rate) {
  Setup s;
  s.replicas = 16;
  s.config = {.max_num_batched_tokens = 8192,
              .max_num_seqs = 1024,
              .max_model_len = 40960,
              .num_gpu_blocks = 50898,
              .block_size = 16};
  GeneratorSpec g;
  g.requests = requests;
  g.arrivals = {.kind = ArrivalSpec::Kind::poisson, .rate = rate};
  g.resample = data_directory() + "/workloads/excerpts/azure_2023_conversation_10min.jsonl";
  const Timed t = simulate(s, make_generator(g, 1));
  Json json{{"bench", "million"}, {"instances", 16},        {"router", "least-loaded"},
            {"rate_per_s", rate}, {"prefix_caching", true}, {"mean_running", 0.0}};
  double running = 0;
  for (const double v : t.run.series.running) running += v;
  json["mean_running"] = running / static_cast<double>(t.run.series.running.size()) / 16;
  json["saturated"] = t.run.saturated ? "yes" : "no";
  json.update(describe(t));
  json["limit"] = "10 s, 300 MB, pool wrapped 10 times";
  json["ok"] = t.wall_s <= 10 && json["peak_rss_mb"].get<double>() <= 300 && t.run.kv_wraps >= 10;
  print(json);
}

void step_prices(const char* name, const InstanceSpec& spec) {
  const auto pricer = StepPricer::create(spec).value();
  RandomStream random(1, RandomPurpose::property_test);
  constexpr std::size_t shapes = 1 << 16;
  struct Shape {
    PrefillChunk chunks[2];
    StepShape shape;
  };
  std::vector<Shape> all(shapes);
  for (Shape& x : all) {
    const std::size_t chunks = random.below(3);
    for (std::size_t i = 0; i < chunks; ++i) {
      x.chunks[i] = {static_cast<std::int32_t>(2 + random.below(4000)),
                     static_cast<std::int64_t>(random.below(8000))};
    }
    x.shape.prefill = std::span(x.chunks, chunks);
    x.shape.decode_sequences = static_cast<std::int32_t>(random.below(512) + (chunks == 0 ? 1 : 0));
    x.shape.decode_context_tokens =
        x.shape.decode_sequences * static_cast<std::int64_t>(1 + random.below(8000));
  }
  std::int64_t sum = 0;
  double best = 1e9;
  for (int pass = 0; pass < 5; ++pass) {
    const double begin = now_s();
    for (const Shape& x : all) sum += pricer.price(x.shape).busy;
    best = std::min(best, (now_s() - begin) * 1e9 / shapes);
  }
  print({{"bench", "price"},
         {"model", name},
         {"ns_per_price", best},
         {"shapes", shapes},
         {"checksum", sum},
         {"limit", "1000 ns"},
         {"ok", best <= 1000}});
}

}  // namespace

int main(int argc, char** argv) {
  const char* only = argc > 1 ? argv[1] : "";
  const auto wanted = [&](const char* name) { return *only == 0 || std::strcmp(only, name) == 0; };
  if (wanted("price")) {
    step_prices("dense bf16", hand::instance(hand::dense()));
    step_prices("dense bf16 tp2", hand::instance(hand::dense(), 2));
    step_prices("moe fp8-block", hand::instance(hand::mixture(DType::fp8)));
  }
  if (wanted("steps")) {
    double first = 0, last = 0;
    for (const std::int64_t batch : {8, 64, 512, 4096}) {
      last = steps_at_batch(batch, 32.0 * static_cast<double>(batch), "equal changes per step");
      if (batch == 8) first = last;
    }
    print({{"bench", "growth"},
           {"what", "ns per step, batch 4096 over batch 8"},
           {"ratio", last / first},
           {"limit", "1.5"},
           {"ok", last / first <= 1.5}});
    for (const std::int64_t batch : {8, 64, 512, 4096}) steps_at_batch(batch, 256, "256 output tokens");
  }
  if (wanted("million")) {
    for (const double rate : {160.0, 320.0, 480.0}) million_requests(1'000'000, rate);
  }
  return 0;
}

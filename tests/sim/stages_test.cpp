// Pipeline stages under vLLM's rules: which sequences are free, what the stages do meanwhile, and that
// nothing is lost.
#include <string>

#include "catch.h"
#include "conservation.h"
#include "costmodel/stages.h"
#include "sanitized.h"
#include "sim/costed/run.h"
#include "world.h"

using namespace orrery;
using namespace orrery::world;

namespace {

void set_stages(World& w, std::int32_t pp, bool async = true, const char* runner = "v2") {
  w.spec.plan.pp = pp;
  w.spec.engine.runner = runner;
  w.spec.engine.settings.async_scheduling = async;
  w.spec.engine.pipeline = PipelineCosts{hand::plain(0.5), hand::us(200), hand::us(1000)};
  w.spec.engine.steps_in_flight = batches_in_flight(w.spec.engine, pp);
  w.config.pipeline = {.stages = pp, .cadence = token_cadence(w.spec), .asynchronous = async};
}

// A world whose host takes no time: what remains is the device.
World weightless(std::int32_t pp) {
  World w;
  HostCosts& h = w.spec.engine.host;
  for (Figure<Seconds>* f :
       {&h.schedule_base, &h.schedule_per_sequence, &h.schedule_per_new_request, &h.prepare_base,
        &h.prepare_per_sequence, &h.prepare_per_sequence_v1, &h.prepare_rpc, &h.launch_graph, &h.launch_piece,
        &h.launch_kernel, &h.copy, &h.update_base, &h.update_per_sequence, &h.loop_gap, &h.input_delay,
        &h.output_delay, &h.stream_gap})
    *f = hand::us(0);
  h.update_base = hand::us(0.01);  // two updates are never at one instant
  set_stages(w, pp);
  w.spec.engine.pipeline = PipelineCosts{hand::plain(0.5), hand::us(0), hand::us(0)};
  return w;
}

// From a request's first token to its last the gaps leave nothing out and count nothing twice.
void check_gap_sum(World w, const std::vector<TraceRequest>& requests) {
  Records records;
  w.sink = &records;
  const RunResult r = run(w, requests);
  double spans = 0;
  for (const RequestRecord& q : records.all) {
    if (q.output_tokens > 1) spans += static_cast<double>((q.e2e - q.ttft).ns());
  }
  REQUIRE(r.itl.mean * static_cast<double>(r.itl.count) == Approx(spans).epsilon(1e-6));
}

// The engine's passes as lines, without prices: "0:100@0 | 1 2 | 4 free" and "-" for the batch of nobody.
class Desk {
 public:
  explicit Desk(const SchedulerConfig& config)
      : depth_(config.steps_in_flight), scheduler_(make_vllm_v1(config)), speech_(none_, lengths_) {}
  void add(std::int32_t prompt, std::int32_t output, std::int32_t eos = 0) {
    Request r;
    r.id = RequestId(requests_++);
    r.prompt_tokens = prompt;
    r.max_output_tokens = output;
    if (eos > 0) lengths_.set(r.id, eos);
    scheduler_->add(r);
  }
  std::string pass() {
    const StepPlan& plan = scheduler_->schedule();
    std::string line;
    for (const PrefillWork& w : plan.prefill)
      line += std::to_string(w.request.value()) + ":" + std::to_string(w.new_tokens) + "@" +
              std::to_string(w.context) + " ";
    for (const VerifyWork& w : plan.verify) line += std::to_string(w.request.value()) + " ";
    if (plan.empty_batch) line = "- ";
    if (plan.tokens() > 0 || plan.empty_batch) speech_.begin(plan);
    if (scheduler_->open_steps() == depth_) line += update();
    return line;
  }
  std::string update() {
    const SimTime at = SimTime(1);
    StepOutcome outcome;
    outcome.first = StepId(updated_++);
    outcome.scheduled = 1;
    outcome.updates = {&at, 1};
    outcome.spoken = speech_.end();
    std::string line;
    for (const Finished& f : scheduler_->on_outcome(outcome).finished)
      line += "; end " + std::to_string(f.request.value()) + " after " + std::to_string(f.output_tokens);
    return line;
  }

 private:
  std::int32_t depth_;
  NoDrafts none_;
  OutputLengths lengths_;
  std::unique_ptr<Scheduler> scheduler_;
  SpokenSteps speech_;
  std::uint64_t requests_ = 0, updated_ = 0;
};

SchedulerConfig desk_config(std::int32_t pp, std::int32_t depth, std::int32_t cadence, bool async) {
  SchedulerConfig c{.max_num_batched_tokens = 100,
                    .max_num_seqs = 64,
                    .max_model_len = 1600,
                    .num_gpu_blocks = 1001,
                    .block_size = 16};
  c.steps_in_flight = depth;
  c.pipeline = {.stages = pp, .cadence = cadence, .asynchronous = async};
  return c;
}

}  // namespace

TEST_CASE("§1.2.2 V2 runner: a sequence runs every pp-th step, and nobody's batch fills the places between") {
  Desk desk(desk_config(2, 3, 2, true));
  desk.add(60, 3);
  CHECK(desk.pass() == "0:60@0 ");
  CHECK(desk.pass() == "- ");
  CHECK(desk.pass() == "0 ");  // its token is in flight: the first stage will have it by then
  desk.add(50, 9);
  CHECK(desk.pass() == "1:50@0 ");
  CHECK(desk.pass() == "0 ");
  CHECK(desk.pass() == "1 ");
  CHECK(desk.pass() == "- ; end 0 after 3");  // the step with its last token is updated now
  CHECK(desk.pass() == "1 ");
}

TEST_CASE("chunks of a prompt follow one another without waiting, decodes beside them") {
  Desk desk(desk_config(3, 4, 3, true));
  desk.add(250, 5);
  CHECK(desk.pass() == "0:100@0 ");
  CHECK(desk.pass() == "0:100@100 ");
  CHECK(desk.pass() == "0:50@200 ");
  CHECK(desk.pass() == "- ");
  CHECK(desk.pass() == "- ");
  CHECK(desk.pass() == "0 ");
}

TEST_CASE(
    "V1 runner: every sequence in every step; without asynchronous scheduling: when its token is back") {
  Desk v1(desk_config(2, 2, 1, true));
  v1.add(60, 4);
  CHECK(v1.pass() == "0:60@0 ");
  CHECK(v1.pass() == "0 ");
  CHECK(v1.pass() == "0 ");
  Desk sync(desk_config(2, 2, 0, false));
  sync.add(60, 3);
  CHECK(sync.pass() == "0:60@0 ");
  CHECK(sync.pass() == "- ");  // and the prompt's step is updated
  CHECK(sync.pass() == "0 ");
  CHECK(sync.pass() == "- ");
  CHECK(sync.pass() == "0 ");
}

TEST_CASE("equal prompts, each a step: the bubble of (pp − 1) / (m + pp − 1)") {
  for (const std::int32_t pp : {2, 4}) {
    World w = weightless(pp);
    w.config.max_num_batched_tokens = w.spec.engine.settings.max_num_batched_tokens = 2048;
    w.spec.model.vocabulary = 64;  // no head to speak of: equal stages
    w.spec.model.global_weights = {hand::tensor("embed_tokens", 64, 4096), hand::tensor("lm_head", 64, 4096)};
    const auto span = [&](std::uint64_t m) {
      std::vector<TraceRequest> requests;
      for (std::uint64_t i = 0; i < m; ++i) requests.push_back(request(i, 0, 2048, 1));
      const RunResult r = run(w, requests);
      return static_cast<double>((r.last_finish - r.first_arrival).ns());
    };
    const double one = span(1);  // pp stages of a step
    for (const std::uint64_t m : {2, 8, 32}) {
      const double stages = static_cast<double>(m) + pp - 1;
      CHECK(span(m) / one == Approx(stages / pp).epsilon(0.03));
    }
  }
}

TEST_CASE("decodes of as many groups as stages take hardly longer than those of one") {
  World w = weightless(4);
  const auto span = [&](std::uint64_t groups) {
    std::vector<TraceRequest> requests;
    // Far enough apart that each group's prompts are a step of their own, near enough that all decode
    // together.
    for (std::uint64_t i = 0; i < groups; ++i) requests.push_back(request(i, 0.0005 * double(i), 16, 400));
    const RunResult r = run(w, requests);
    return static_cast<double>((r.last_finish - r.first_arrival).ns());
  };
  const double one = span(1), four = span(4), eight = span(8);
  CAPTURE(one, four, eight);
  CHECK(four < 1.15 * one);  // three quarters of the stages were idle
  CHECK(eight > one);        // full: groups share steps, which costs a batch's growth only
  CHECK(eight < 1.3 * four);
}

TEST_CASE("more stages make no token of a lone sequence faster, and prompts do overlap") {
  const auto tpot = [](std::int32_t pp) {
    World w = weightless(pp);
    Records records;
    w.sink = &records;
    run(w, {request(0, 0, 16, 100)});
    return static_cast<double>((records.all[0].e2e - records.all[0].ttft).ns()) / 99;
  };
  const double two = tpot(2), four = tpot(4);
  CHECK(four > two);  // more hand-offs
  CHECK(four < 1.1 * two);
}

TEST_CASE("nothing is lost in random worlds of stages, whatever is preempted, cut short or found again") {
  Visited visited;
  const std::uint64_t worlds = sanitized ? 12 : 120;
  for (std::uint64_t seed = 1; seed <= worlds; ++seed) {
    RandomWorld world = random_world(seed);
    RandomStream r(seed, RandomPurpose::property_test, 21);
    const std::int32_t stages[] = {2, 3, 4, 6};
    const std::uint64_t mode = r.below(4);
    set_stages(world.world, stages[r.below(4)], mode != 0, mode == 1 ? "v1" : "v2");
    CAPTURE(seed, world.world.spec.plan.pp, mode);
    check_conservation(
        world.world, world.requests,
        [&](const TraceRequest& q) { return q.prompt_tokens >= world.world.config.max_model_len; }, visited);
    if (seed % 4 == 1) check_gap_sum(world.world, world.requests);
    if (seed % 4 == 0) check_gaps(world.world, world.requests, 0);
  }
  const std::int64_t some = sanitized ? 5 : 20;
  CHECK(visited.preemptions > some);
  CHECK(visited.cached > some);
  CHECK(visited.eos > some);
  CHECK(visited.stretches == 0);
}

// Groups of layers with a window, and states that are found again: their managers know nothing of stages.
TEST_CASE("nothing is lost in random worlds of stages with windows or cached states") {
  Visited windows, states;
  const std::uint64_t worlds = sanitized ? 9 : 60;
  for (std::uint64_t seed = 1; seed <= worlds; ++seed) {
    RandomWorld world = random_world(seed);
    RandomStream r(seed, RandomPurpose::property_test, 22);
    const std::int32_t stages[] = {2, 3, 4}, widths[] = {16, 33, 128, 512};
    set_stages(world.world, stages[r.below(3)], true, seed % 3 == 0 ? "v2" : "v1");
    SchedulerConfig& c = world.world.config;
    c.enable_prefix_caching = true;
    const auto groups = static_cast<std::int32_t>(1 + r.below(3));
    if (seed % 3 == 0) {
      c.kv_groups = {.full = 1, .windowed = groups, .window = widths[r.below(4)]};
    } else {
      c.kv_groups = {.full = 1, .states = groups, .cached_states = true, .chunk_ends = seed % 3 == 1};
    }
    c.num_gpu_blocks += 80;  // a state for every block takes as many in each group
    if (!c.kv_groups.chunk_ends || r.below(2) == 0) c.num_gpu_blocks *= 1 + groups;
    CAPTURE(seed);
    check_conservation(
        world.world, world.requests,
        [&](const TraceRequest& q) { return q.prompt_tokens >= world.world.config.max_model_len; },
        seed % 3 == 0 ? windows : states);
    if (seed % 5 == 0)
      REQUIRE(run(world.world, world.requests, seed).digest == run(world.world, world.requests).digest);
  }
  CHECK(windows.cached > (sanitized ? 1 : 20));
  CHECK(states.cached > (sanitized ? 1 : 20));
}

TEST_CASE("what inbox and executor deliver in another order makes no difference") {
  for (std::uint64_t seed = 1; seed <= 8; ++seed) {
    RandomWorld world = random_world(seed);
    set_stages(world.world, 2 + static_cast<std::int32_t>(seed % 3));
    const std::uint64_t plain = run(world.world, world.requests).digest;
    CHECK(run(world.world, world.requests, seed).digest == plain);
    world.world.config.stretches = false;  // there are none to do without
    CHECK(run(world.world, world.requests).digest == plain);
  }
}

TEST_CASE("the example: stages' time is work, hand-offs and bubble, and clients that leave are counted out") {
  const auto result = [](std::vector<std::string> more) {
    ScenarioOptions options;
    options.overrides = std::move(more);
    options.overrides.emplace_back("workload.limit={requests: 150}");
    auto scenario =
        load_scenario(std::string(ORRERY_SOURCE_DIR) + "/examples/qwen3-32b-h200-pp2.yaml", options);
    if (!scenario.ok()) FAIL(to_string(scenario.errors()));
    auto run = run_scenario(*scenario, {});
    if (!run.ok()) FAIL(to_string(run.errors()));
    return std::move(run).value();
  };
  const RunResult r = result({});
  CHECK(r.completed == 150);
  CHECK(r.stretches == 0);
  REQUIRE(r.pipeline.busy.size() == 2);
  CHECK(r.pipeline.busy[0] > 0.3);
  CHECK(r.pipeline.busy[1] < 1);
  CHECK(r.pipeline.empty_batches > 0);
  const double sum = (r.pipeline.busy[0] + r.pipeline.busy[1]) / 2 + r.pipeline.handoff + r.pipeline.bubble;
  CHECK(sum == Approx(1));
  CHECK(r.pools[0].gpus_per_instance == 2);
  CHECK(result({"deployment.parallel={pp: 1}"}).pipeline.stages == 1);
  const RunResult hasty = result({"workload.client={timeout_s: 8, disconnect: {share: 0.2, after_s: 3}}"});
  CHECK(hasty.completed + hasty.timed_out + hasty.cancelled == 150);
  CHECK(hasty.cancelled > 5);
}

TEST_CASE("with stages too an interval moves events and nothing else") {
  const auto run_with = [](const std::string& interval) {
    ScenarioOptions options;
    options.overrides = {"workload.limit={requests: 40}",
                         "deployment.engine_args.stream_interval=" + interval};
    const auto scenario =
        load_scenario(std::string(ORRERY_SOURCE_DIR) + "/examples/qwen3-32b-h200-pp2.yaml", options);
    if (!scenario.ok()) FAIL(to_string(scenario.errors()));
    auto run = run_scenario(*scenario, {});
    if (!run.ok()) FAIL(to_string(run.errors()));
    return std::move(run).value();
  };
  const RunResult one = run_with("1"), four = run_with("4");
  CHECK(one.digest == four.digest);
  CHECK(one.e2e.mean == four.e2e.mean);
  CHECK(one.ttft.mean == four.ttft.mean);
  CHECK(four.itl.mean > 3.5 * one.itl.mean);
  CHECK(four.itl.mean < 4.5 * one.itl.mean);
}

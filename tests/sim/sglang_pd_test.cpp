// SGLang's disaggregation: who waits for whom, when pages leave, and how the decode side takes them in.
#include <array>

#include "apart_world.h"
#include "catch.h"
#include "sim/costed/run.h"

using namespace orrery;
using namespace apart;
using world::request;

namespace {

Apart sglang(SimDuration transfer, std::int32_t page = 1) {
  Apart a;
  a.scheduler = "sglang";
  a.transfer = transfer;
  a.rules.at_once = true;
  a.rules.retries = 0;
  a.world.config.block_size = page;
  a.world.config.max_model_len = 20000;
  a.world.config.options.set("chunked_prefill_size", std::int64_t{2048});
  a.prefill_blocks = a.decode_blocks = 200000 / page;
  return a;
}

// The result of a step has been processed, and the core thread goes on.
bool processed(SimTime at, const StepRecord& step) {
  return at >= step.update_end && at < step.update_end + microseconds(300);
}

}  // namespace

TEST_CASE("§7 the decode side computes no prompt, and passes the first token on at once [sglang][pd]") {
  Apart a = sglang(milliseconds(7));
  Steps steps;
  const RequestRecord r = records_of(a, {request(0, 1.0, 1500, 50)}, &steps).at(0);
  CHECK(r.output_tokens == 50);
  CHECK(r.instance == InstanceId(1));
  CHECK(sum(r.handoff) == r.ttft);
  CHECK(r.handoff.transfer == milliseconds(7));  // one chunk: all of it after the prompt
  CHECK(r.handoff.wait == SimDuration(0));       // room came first
  CHECK(r.handoff.decode_queue == SimDuration(0));
  const auto pricer = StepPricer::create(a.world.spec).value();
  CHECK(r.handoff.first_step == pricer.output_delay());
  std::int64_t prompts = 0, decodes = 0;
  for (const StepRecord& s : steps.all) {
    prompts += s.prefill_tokens;
    decodes += s.decode_sequences * s.steps;
    CHECK((s.instance == InstanceId(0)) == (s.prefill_tokens > 0));
  }
  CHECK(prompts == 1500);
  CHECK(decodes == 49);  // the first token came with the KV
}

TEST_CASE("§7 pages leave with the result of their chunk, whole ones, the rest at the end [sglang][pd]") {
  Apart a = sglang(milliseconds(1), 64);
  Steps steps;
  records_of(a, {request(0, 0, 5000, 4)}, &steps);
  REQUIRE(a.sends.size() == 3);  // 2048, 2048, 904 tokens
  const std::array<std::int64_t, 4> ends{0, 32, 64, 79};
  for (std::size_t i = 0; i < 3; ++i) {
    const KvSend& part = a.sends[i].part;
    CHECK(part.blocks == 79);
    CHECK(part.of == 79);
    CHECK(part.first == ends[i]);
    CHECK(part.last == ends[i + 1]);
    CHECK(processed(a.sends[i].at, steps.all[i]));
  }
}

TEST_CASE("§7 cached pages leave when the first chunk is launched [sglang][pd]") {
  std::vector<TraceRequest> requests = {request(0, 0, 2048, 3), request(1, 2.0, 3072, 3)};
  for (TraceRequest& r : requests) {
    r.hash_block_size = 512;
    for (std::uint64_t i = 0; i < static_cast<std::uint64_t>(r.prompt_tokens / 512); ++i)
      r.hash_ids.push_back(1 + i);
  }
  Apart a = sglang(milliseconds(1), 64);
  Steps steps;
  const auto records = records_of(a, requests, &steps);
  CHECK(records[1].cached_tokens == 2048);
  REQUIRE(a.sends.size() == 3);
  const auto step = std::find_if(steps.all.begin(), steps.all.end(), [](const StepRecord& s) {
    return s.instance == InstanceId(0) && s.prefill_tokens == 1024;
  });
  REQUIRE(step != steps.all.end());
  CHECK(a.sends[1].part.last == 32);
  CHECK(a.sends[1].at == step->schedule_begin);
  CHECK(processed(a.sends[2].at, *step));
}

TEST_CASE("§7 the prefill side does not begin before the decode side has room [sglang][pd]") {
  // 2,000 tokens: a prompt of 900 and 512 kept for it; not two of them. The second prompt is not computed
  // before the first answer is complete, although the prefill side is idle.
  Apart a = sglang(milliseconds(1));
  a.decode_blocks = 2000;
  Steps steps;
  const auto records = records_of(a, burst(2, 0.0, 900, 60), &steps);
  const RequestRecord &first = records[0], &second = records[1];
  CHECK(second.handoff.wait == SimDuration(0));
  const SimTime scheduled = second.arrival + second.handoff.queue, gone = first.arrival + first.e2e;
  CHECK(scheduled <= gone);
  CHECK(gone - scheduled < milliseconds(2));
}

TEST_CASE("§7 room is kept for what runs, is on its way and waits: 512 tokens each, by hand [sglang][pd]") {
  // Prompts of 100 at once: k of them are let in while 100·k + 512·k ≤ tokens; each 612.
  for (const std::int64_t tokens : {1223, 1224, 1835, 1836}) {
    CAPTURE(tokens);
    Apart a = sglang(milliseconds(400));
    a.decode_blocks = tokens;
    const auto records = records_of(a, burst(4, 0.0, 100, 300));
    const auto together = std::count_if(records.begin(), records.end(), [](const RequestRecord& r) {
      return r.handoff.queue < milliseconds(100);
    });
    CHECK(together == tokens / 612);
  }
}

TEST_CASE("§7 retracted requests come back from host memory; nothing is computed twice [sglang][pd]") {
  Apart a = sglang(milliseconds(1));
  a.world.config.options.set("num_reserved_decode_tokens", std::int64_t{0});
  a.decode_blocks = 1000;
  Steps steps;
  world::Records records;
  a.world.sink = &records;
  a.world.observer = &steps;
  const RunResult r = run(a, burst(3, 0.0, 200, 300));
  CHECK(r.completed == 3);
  CHECK(r.preemptions > 0);
  std::int64_t prompts = 0;
  for (const StepRecord& s : steps.all) prompts += s.prefill_tokens;
  CHECK(prompts == 600);
  for (const RequestRecord& q : records.all) CHECK(q.output_tokens == 300);
}

TEST_CASE("§7 answers of one token, by limit and by EOS, need no decode step [sglang][pd]") {
  std::vector<TraceRequest> requests = {request(0, 0, 300, 1), request(1, 1.0, 300, 1)};
  requests[1].max_output_tokens = 50;
  Apart a = sglang(milliseconds(1));
  Steps steps;
  const auto records = records_of(a, requests, &steps);
  for (const RequestRecord& r : records) {
    CHECK(r.status == RequestStatus::completed);
    CHECK(r.output_tokens == 1);
    CHECK(r.e2e == r.ttft);
  }
  for (const StepRecord& s : steps.all) CHECK(s.instance == InstanceId(0));
}

TEST_CASE("§7 a failed transfer is an error on both sides, and a retry begins anew [sglang][pd]") {
  for (const std::int32_t retries : {0, 1}) {
    Apart a = sglang(milliseconds(20));
    a.rules.retries = retries;
    a.failures[RequestId(0)] = 1;
    Steps steps;
    const RequestRecord r = records_of(a, {request(0, 0, 500, 10)}, &steps).at(0);
    CHECK(r.status == (retries == 0 ? RequestStatus::failed : RequestStatus::completed));
    std::int64_t prompts = 0;
    for (const StepRecord& s : steps.all) prompts += s.prefill_tokens;
    // Nobody else's content: the second time finds nothing of the first.
    CHECK(prompts == (retries == 0 ? 500 : 1000));
  }
}

TEST_CASE("random worlds of SGLang apart: conservation, and single steps are stretches [sglang][pd]") {
  std::uint64_t stretches = 0, preempted = 0, cancelled = 0, eos = 0, retried = 0;
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    CAPTURE(seed);
    auto [w, requests] = world::random_sglang_world(seed);
    RandomStream random(seed, RandomPurpose::property_test, 15);
    Apart a = sglang(SimDuration(static_cast<std::int64_t>(random.below(60'000'000))));
    a.world = w;
    a.world.config.options.set("enable_mixed_chunk", false);
    eos += draw_sglang_pools(a, requests, random);
    const Checked checked = check(a, requests);
    stretches += checked.run.stretches;
    preempted += checked.run.preemptions;
    cancelled += checked.run.cancelled;
    retried += checked.run.transfers.retried;
  }
  CHECK(stretches > 100);
  CHECK(preempted > 10);
  CHECK(cancelled > 50);
  CHECK(eos > 100);
  CHECK(retried > 20);
}

namespace {
Result<RunResult> run_apart(const std::string& decode_args, const std::string& generator) {
  const std::string keys = "hardware: h200, model: qwen3-8b, engine: sglang-0.5";
  ScenarioOptions options;
  options.overrides = {"deployment={topology: {preset: hopper-8}, pools: [{" + keys +
                           ", name: p, role: prefill}, {" + keys + ", name: d, role: decode, engine_args: {" +
                           decode_args + "}}]}",
                       "workload={generator: " + generator + "}"};
  return run_scenario(
      load_scenario(std::string(ORRERY_SOURCE_DIR) + "/examples/qwen3-8b-h200.yaml", options).value());
}
}  // namespace

TEST_CASE("§7 answers of one token make room for those that wait, without a step [sglang][pd]") {
  const auto run =
      run_apart("max_running_requests: 2",
                "{requests: 20, arrivals: {process: fixed, rate: 10000}, input: {distribution: fixed, value: "
                "16}, output: {distribution: fixed, value: 1}}");
  REQUIRE(run.ok());
  CHECK(run.value().completed == 20);
}

TEST_CASE("a request that the decode side turns away ends on the prefill side, too [sglang][pd]") {
  const auto run = run_apart(
      "context_length: 2048",
      "{requests: 30, arrivals: {process: fixed, rate: 5}, input: {distribution: uniform, low: 500, "
      "high: 3000}, output: {distribution: fixed, value: 300}}");
  REQUIRE(run.ok());
  CHECK(run.value().completed > 5);
  CHECK(run.value().completed < 25);
}

TEST_CASE("§7 priorities order who is let in, computed and merged; mixed chunks mix nothing [sglang][pd]") {
  // Room for one at a time: the second to come stands behind the third, which is more urgent.
  const auto ends = [](bool by_priority) {
    Apart a = sglang(milliseconds(1));
    a.decode_blocks = 2000;
    a.world.config.options.set("enable_priority_scheduling", by_priority);
    std::vector<TraceRequest> requests = burst(3, 0.01, 900, 60);
    requests[2].priority = 5;
    const auto records = records_of(a, requests);
    std::vector<SimDuration> at(3);
    for (const RequestRecord& r : records) at[r.request] = r.e2e;
    return at;
  };
  const auto plain = ends(false), ranked = ends(true);
  CHECK(plain[1] < plain[2]);
  CHECK(ranked[2] < ranked[1]);
  CHECK(ranked[0] == plain[0]);  // it was alone when it came
  CHECK(ranked[2] < plain[1]);   // it came 10 ms later, and is out when the other one was
  // Ten prompts before one prefill instance: the last is computed first, but for those under way.
  Apart a = sglang(milliseconds(1));
  a.world.config.options.set("enable_priority_scheduling", true);
  std::vector<TraceRequest> requests = burst(10, 0.001, 2048, 4);
  requests[9].priority = 1;
  std::vector<SimDuration> queue(10);
  for (const RequestRecord& r : records_of(a, requests)) queue[r.request] = r.handoff.queue;
  for (std::size_t i = 3; i < 9; ++i) CHECK(queue[9] < queue[i]);
  Apart mixed = sglang(milliseconds(1)), unmixed = sglang(milliseconds(1));
  mixed.world.config.options.set("enable_mixed_chunk", true);
  mixed.world.config.options.set("max_queued_requests", std::int64_t{1});
  CHECK(run(mixed, burst(20, 0.01, 3000, 40)).digest == run(unmixed, burst(20, 0.01, 3000, 40)).digest);
}

// `handle_pd_disaggregation` (pd_disaggregation_hook.py); pop_preallocated asks for a free row.
TEST_CASE(
    "§7 where few may run, twice as many have rows to receive in, or as many as are said [sglang][pd]") {
  for (const auto& [extra, rows] : {std::pair{-1, 6}, {0, 2}, {3, 5}}) {
    CAPTURE(extra);
    Apart a = sglang(milliseconds(5000));
    a.prefills = 10;  // each holds a prompt until it has arrived
    a.world.config.max_num_seqs = 2;
    a.world.config.options.set("max_running_requests", std::int64_t{2});
    if (extra >= 0)
      a.world.config.options.set("disaggregation_decode_extra_slots", static_cast<std::int64_t>(extra));
    run(a, burst(10, 0, 100, 3));
    const auto early = std::count_if(a.sends.begin(), a.sends.end(), [](const FixedTransport::Sent& s) {
      return s.at < SimTime(0) + milliseconds(4000);
    });
    CHECK(early == rows);
  }
}

// process_decode_queue: polling_count.
TEST_CASE("§7 transfers are looked at in every so-manieth pass, at once where nothing runs [sglang][pd]") {
  const auto ttft = [](std::int64_t interval, bool beside) {
    Apart a = sglang(milliseconds(7));
    a.world.config.options.set("disaggregation_decode_polling_interval", interval);
    std::vector<TraceRequest> requests;
    if (beside) requests.push_back(request(0, 0, 100, 2000));
    requests.push_back(request(beside ? 1 : 0, 2.0, 100, 5));
    SimDuration of_last;
    for (const RequestRecord& r : records_of(a, requests))
      if (r.request + 1 == requests.size()) of_last = r.ttft;
    return of_last;
  };
  CHECK(ttft(1, false) == ttft(1000, false));
  const SimDuration every = ttft(1, true), some = ttft(40, true);
  CHECK(some > every);
  CHECK(ttft(80, true) > every);
}

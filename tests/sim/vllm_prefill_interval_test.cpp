// vLLM's prefill_schedule_interval, by hand (`Scheduler.schedule`: defer_prefills, prefill_capacity_bound;
// `DPEngineCoreProc._should_throttle_prefills`, 0.24.0). Two ranks, two steps in flight; lines are those of
// tensorrt_llm_desk.h, pass k is step k.
#include "catch.h"
#include "tensorrt_llm_desk.h"

using namespace orrery;
using desk::Desk;
using desk::passes;
using desk::Rows;

namespace {

SchedulerConfig config(std::int64_t tokens = 8192, std::int64_t sequences = 256) {
  SchedulerConfig c = desk::config(1001, tokens);
  c.enable_chunked_prefill = true;
  c.max_num_seqs = sequences;
  c.options = {};
  c.options.set("prefill_schedule_interval", std::int64_t{4});
  return c;
}

std::unique_ptr<Desk> ranks(const SchedulerConfig& c) {
  auto d = std::make_unique<Desk>(make_instance_scheduler(*find_scheduler("vllm-v1"), c, 2), 2);
  d->add({.prompt = 32, .max_output = 50});  // one on each rank
  d->add({.prompt = 32, .max_output = 50});
  const std::string first = d->pass();
  CHECK(first.find("0:32@0") != std::string::npos);
  CHECK(first.find("1:32@0") != std::string::npos);
  return d;
}

// The first step from the second on in which the text stands.
std::size_t step_of(const Rows& rows, const std::string& text) {
  for (std::size_t i = 0; i < rows.size(); ++i)
    if (rows[i].find(text) != std::string::npos) return i + 1;
  return 0;
}

}  // namespace

TEST_CASE(
    "§1.2.2 §1.9 beside decodes prompts, and chunks under way, wait for every fourth step of the wave") {
  const auto d = ranks(config(64));
  d->add({.prompt = 100, .max_output = 5});
  const Rows rows = passes(*d, 9);
  CHECK(step_of(rows, "2:63@0...") == 4);  // a decode takes a token of the 64
  CHECK(step_of(rows, "2:37@63") == 8);
}

TEST_CASE("§1.9 a rank on which nobody decodes does not wait") {
  SchedulerConfig c = config();
  Desk d(make_instance_scheduler(*find_scheduler("vllm-v1"), c, 2), 2);
  d.add({.prompt = 32, .max_output = 50});
  d.pass();
  d.pass();
  d.add({.prompt = 32, .max_output = 50});  // to the other rank, which is in a dummy batch first
  CHECK(step_of(passes(d, 3), "1:32@0") == 2);
}

TEST_CASE("§1.9 whom the last release left waiting comes in as soon as there is room, not with the cadence") {
  const auto d = ranks(config(8192, 2));
  for (int i = 0; i < 4; ++i) d->add({.prompt = 20, .max_output = 1});
  const Rows rows = passes(*d, 8);
  // Step 4 fills both ranks; its prompts' only token is known after step 5.
  std::vector<std::size_t> steps;
  for (const char* prompt : {"2:20@0", "3:20@0", "4:20@0", "5:20@0"}) steps.push_back(step_of(rows, prompt));
  CHECK(steps == std::vector<std::size_t>{4, 4, 6, 6});
}

TEST_CASE("§1.9 a wave's first step is never throttled") {
  SchedulerConfig c = config();
  Desk d(make_instance_scheduler(*find_scheduler("vllm-v1"), c, 2), 2);
  d.add({.prompt = 32, .max_output = 2});
  passes(d, 4);
  d.scheduler().on_idle();
  d.add({.prompt = 32, .max_output = 9});
  d.add({.prompt = 32, .max_output = 9});
  const std::string first = d.pass();
  CHECK(first.find("1:32@0") != std::string::npos);
  for (int i = 0; i < 2; ++i) d.add({.prompt = 32, .max_output = 9});
  CHECK(step_of(passes(d, 6), "3:32@0") == 4);
}

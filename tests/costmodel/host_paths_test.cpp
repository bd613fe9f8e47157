// Host work of paths of their own: groups of KV layers, layers with a state, n-grams, encoders. The rules are
// vLLM 0.24's; figures are the profile's, which the tests read and do not repeat.
#include <string>
#include <vector>

#include "catch.h"
#include "costmodel/instance_spec.h"
#include "costmodel/kv_groups.h"
#include "costmodel/pipeline.h"
#include "costmodel/step_pricer.h"
#include "priced_steps.h"
#include "read_instance.h"

using namespace orrery;

namespace {

InstanceSpec instance(const std::string& model, const std::string& more = "",
                      const std::string& hardware = "h200") {
  Read r = read("hardware: " + hardware + "\nmodel: " + model + "\nengine: vllm-0.24\n" + more);
  if (!r.errors.empty()) FAIL(to_string(r.errors));
  return std::move(r.spec);
}

StepTiming timing(const InstanceSpec& spec, const StepShape& shape) {
  return StepPricer::create(spec).value().price(shape);
}

StepShape decode_steps(std::int32_t sequences, std::int64_t context = 1000) {
  StepShape shape;
  shape.decode_sequences = shape.running = sequences;
  shape.decode_context_tokens = sequences * context;
  return shape;
}

// A prompt of so many tokens, beside decodes.
struct Prompt {
  std::vector<PrefillChunk> chunks;
  StepShape shape;
  explicit Prompt(std::int32_t tokens, std::int32_t beside = 0) : chunks{{tokens, 0}} {
    shape = decode_steps(beside);
    shape.prefill = chunks;
    shape.running = beside + 1;
  }
};

std::int64_t ns(const Figure<Seconds>& figure, double times = 1) {
  return round_half_even(figure.value.value() * 1e9 * times);
}

InstanceSpec without(InstanceSpec spec, Figure<Seconds> HostCosts::*term) {
  spec.engine.host.*term = {};
  return spec;
}

}  // namespace

TEST_CASE("every group of KV layers beyond the first has inputs of its own, and a manager to ask") {
  // gemma-3-12b: 1 + 5 groups (get_kv_cache_groups); 64 sequences.
  const InstanceSpec gemma = instance("gemma-3-12b-it", "engine_args: {max_model_len: 32768}\n");
  REQUIRE(gemma.engine.runner == "v1");
  const StepTiming with = timing(gemma, decode_steps(64));
  const StepTiming plain =
      timing(without(without(gemma, &HostCosts::prepare_per_group), &HostCosts::schedule_per_group),
             decode_steps(64));
  CHECK(with.prepare - plain.prepare == ns(gemma.engine.host.prepare_per_group, 5));
  CHECK(with.schedule - plain.schedule == ns(gemma.engine.host.schedule_per_group, 5 * 64));
  CHECK(with.busy == plain.busy);
  CHECK(with.launch == plain.launch);
}

TEST_CASE("one group costs nothing more") {
  for (const char* model : {"qwen3-8b", "qwen3-30b-a3b", "deepseek-v2-lite"}) {
    INFO(model);
    const InstanceSpec spec = instance(model);
    InstanceSpec dear = spec;
    dear.engine.host.prepare_per_group.value = dear.engine.host.schedule_per_group.value = Seconds(1);
    CHECK(timing(spec, decode_steps(8)) == timing(dear, decode_steps(8)));
  }
}

TEST_CASE("the V2 runner prepares all groups in one kernel; the scheduler asks each all the same") {
  InstanceSpec spec = instance("gemma-2-9b");  // 1 + 1 groups
  REQUIRE(kv_cache_groups(spec.model, spec.engine).windowed == 1);
  const StepTiming v1 = timing(spec, decode_steps(4));
  spec.engine.runner = "v2";
  InstanceSpec dear = spec;
  dear.engine.host.prepare_per_group.value = Seconds(1);
  CHECK(timing(spec, decode_steps(4)).prepare == timing(dear, decode_steps(4)).prepare);
  CHECK(timing(spec, decode_steps(4)).schedule == v1.schedule);
}

// qwen_gdn_linear_attn.py, _forward_core, as profiles show it (reports/cases/h200_vllm_0_24_features):
// convolution, preparation, four kernels to gather states, the scan, three to put states and outputs away.
// FlashInfer: an exponential and one kernel; Triton: seven, of which one clears a buffer.
TEST_CASE("a layer with a state launches its kernels one by one between graph pieces") {
  const auto launches = [](InstanceSpec spec, const StepShape& shape, double kernel, double triton) {
    HostCosts& h = spec.engine.host;
    for (auto term :
         {&h.launch_graph, &h.launch_piece, &h.launch_experts, &h.launch_kernel, &h.launch_triton})
      term->value = Seconds(0);
    h.launch_kernel.value = Seconds(kernel * 1e-6);
    h.launch_triton.value = Seconds(triton * 1e-6);
    return timing(spec, shape).launch / 1000;
  };
  const InstanceSpec flashinfer = instance("qwen3.5-35b-a3b");
  const InstanceSpec triton = instance("qwen3.5-35b-a3b", "engine_args: {gdn_prefill_backend: triton}\n");
  const Prompt prompt(256), mixed(256, 4);
  // 30 layers with a state; KV write and attention of ten others.
  CHECK(launches(flashinfer, prompt.shape, 1, 0) == 30 * (1 + 1 + 4 + 2 + 3) + 2 * 10);
  CHECK(launches(triton, prompt.shape, 1, 0) == 30 * (1 + 1 + 4 + 7 + 3) + 2 * 10);
  CHECK(launches(flashinfer, prompt.shape, 0, 1) == 30 * 3);
  CHECK(launches(triton, prompt.shape, 0, 1) == 30 * 8);
  // Decodes beside it: their convolution and update.
  CHECK(launches(triton, mixed.shape, 0, 1) == 30 * (8 + 2));
  CHECK(launches(triton, decode_steps(4), 1, 1) == 0);  // all in one graph
  // Without a graph they are among all others, and Triton's take longer all the same.
  const Prompt eager(1024);
  CHECK(launches(triton, eager.shape, 1, 0) - launches(flashinfer, eager.shape, 1, 0) == 30 * 5);
  CHECK(launches(triton, eager.shape, 0, 1) == 30 * 8);
}

// mla_attention.py, forward_impl: one operator between graph pieces, which launches the KV write, both
// absorbing products and attention; an ordinary layer's are the write and attention.
TEST_CASE("latent attention launches four kernels between graph pieces, ordinary attention two") {
  const auto launches = [](InstanceSpec spec) {
    HostCosts& h = spec.engine.host;
    for (auto term : {&h.launch_graph, &h.launch_piece, &h.launch_experts}) term->value = Seconds(0);
    h.launch_kernel.value = Seconds(1e-6);
    return timing(spec, Prompt(256).shape).launch / 1000;
  };
  CHECK(launches(instance("deepseek-v2-lite")) == 4 * 27);
  CHECK(launches(instance("qwen3-8b")) == 2 * 36);
}

// `_resolve_gdn_prefill_backend`: FlashInfer's kernel on Hopper only.
TEST_CASE("Triton scans prompts where FlashInfer's kernel does not run or is not wanted") {
  const auto scan = [](const InstanceSpec& spec, const StepShape& shape) {
    const StepBreakdown b = StepPricer::create(spec).value().explain(shape);
    for (const OpLine& op : b.ops) {
      if (op.name == "state_scan") return static_cast<double>(op.time_ns) / static_cast<double>(op.count);
    }
    FAIL("no scan");
    return 0.0;
  };
  const InstanceSpec flashinfer =
      instance("qwen3.5-35b-a3b", "engine_args: {gdn_prefill_backend: flashinfer}\n");
  const InstanceSpec triton = instance("qwen3.5-35b-a3b", "engine_args: {gdn_prefill_backend: triton}\n");
  const Prompt one(1024), long_one(8192);
  CHECK(scan(instance("qwen3.5-35b-a3b"), one.shape) == scan(flashinfer, one.shape));
  // The profiles that the rule was read from: 113 µs of the scan's kernels and 21 of gathering and putting
  // away for one prompt of 1,024 tokens, 195 and 28 for two.
  CHECK(scan(triton, one.shape) == Approx(134'000).epsilon(0.15));
  std::vector<PrefillChunk> two(2, {1024, 0});
  StepShape both;
  both.prefill = two;
  CHECK(scan(triton, both) == Approx(223'000).epsilon(0.15));
  CHECK(scan(triton, long_one.shape) > 1.5 * scan(flashinfer, long_one.shape));
  // On another part Triton's kernels run, whatever was asked.
  const std::string small = "parallel: {tp: 4}\n";
  CHECK(scan(instance("qwen3.5-35b-a3b", small, "l40s"), one.shape) ==
        scan(instance("qwen3.5-35b-a3b", small + "engine_args: {gdn_prefill_backend: triton}\n", "l40s"),
             one.shape));
}

// config/model.py: the cache is not safe for several threads.
TEST_CASE("several threads prepare images only without the cache of prepared ones") {
  const auto errors = [](const std::string& arguments) {
    return to_string(
        read("hardware: h200\nmodel: qwen3-vl-8b\nengine: vllm-0.24\nengine_args: {" + arguments + "}\n")
            .errors);
  };
  CHECK(errors("renderer_num_workers: 2").find("mm_processor_cache_gb: 0") != std::string::npos);
  CHECK(errors("renderer_num_workers: 2, mm_processor_cache_gb: 0").empty());
  CHECK(errors("renderer_num_workers: 1").empty());
}

TEST_CASE("n-grams are proposed between a step's tokens and its update") {
  const InstanceSpec ngram =
      instance("qwen3-8b", "speculation: {method: ngram, tokens: 3, acceptance: 0.5, match_rate: 0.7}\n");
  const HostCosts& h = ngram.engine.host;
  const StepShape shape = decode_steps(16, 2000);
  const std::int64_t searched = ns(h.ngram_token, 16 * 2000 + 16);
  CHECK(timing(ngram, shape).copy ==
        Approx(ns(h.copy) + searched + ns(h.ngram_propose) + ns(h.ngram_propose_per_sequence, 16)).margin(3));
  const InstanceSpec plain = instance("qwen3-8b");
  CHECK(timing(plain, shape).copy == ns(h.copy));
}

TEST_CASE("work ahead of a step waits for its launches, unless the device is busy meanwhile") {
  StepTiming t;
  t.schedule = 100;
  t.launch = 800;
  t.ahead_launch = 500;  // of the 800
  t.ahead = 120;
  t.busy = 1000;
  t.last_kernel = 10;
  HostPipeline idle(true);
  CHECK(idle.begin(t, SimTime(0)).device_end.ns() == 100 + 500 + 1000);  // not 100 + 120 + 1000
  HostPipeline busy(true);
  busy.occupy_device(SimTime(5000));
  CHECK(busy.begin(t, SimTime(0)).device_end.ns() == 5000 + 120 + 1000);
  // Kernels that take longer than their launches set the pace, and then the step's own.
  t.ahead = 700;
  HostPipeline slow(true);
  CHECK(slow.begin(t, SimTime(0)).device_end.ns() == 100 + 700 + 1000);
  t.busy = 50;
  HostPipeline launched(true);
  CHECK(launched.begin(t, SimTime(0)).device_end.ns() == 100 + 800 + 10);
  // A launch that is held up moves all of it.
  HostPipeline held(true);
  t.busy = 1000;
  StepTimes times = held.begin(t, SimTime(0));
  held.hold_launch(t, times, SimDuration(250));
  CHECK(times.device_end.ns() == 100 + 250 + 700 + 1000);
}

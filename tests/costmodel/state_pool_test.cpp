// SGLang's pool of states beside its KV cache: sizes by `_handle_max_mamba_cache` and `resolve_max_num_reqs`
// of 0.5.23 (mem_cache/kv_cache_configurator.py), the strategy, what is refused.
#include <string>
#include <vector>

#include "catch.h"
#include "costmodel/instance_spec.h"
#include "costmodel/memory_plan.h"
#include "costmodel/step_pricer.h"
#include "priced_steps.h"
#include "read_instance.h"

using namespace orrery;

namespace {

std::string deployment(const std::string& more, const char* model, const char* engine) {
  return std::string("hardware: h200\nmodel: ") + model + "\nengine: " + engine + "\n" + more;
}

InstanceSpec instance(const std::string& more = "", const char* model = "qwen3.5-35b-a3b",
                      const char* engine = "sglang-0.5") {
  Read r = read(deployment(more, model, engine));
  if (!r.errors.empty()) FAIL(to_string(r.errors));
  return std::move(r.spec);
}

MemoryPlan plan_of(const std::string& arguments, const char* engine = "sglang-0.5") {
  return plan_memory(instance("engine_args: {" + arguments + "}\n", "qwen3.5-35b-a3b", engine)).value();
}

std::string errors_of(const std::string& more, const char* model = "qwen3.5-35b-a3b") {
  const Read r = read(deployment(more, model, "sglang-0.5"));
  REQUIRE_FALSE(r.errors.empty());
  return to_string(r.errors);
}

// A state in 30 layers: 3 taps of 8,192 channels in bf16, 32 heads of 128 x 128 in fp32.
constexpr double state = 30.0 * (49'152 + 2'097'152);

}  // namespace

TEST_CASE("0.9 of the KV cache's memory holds states, one slot of them for padding") {
  const MemoryPlan plan = plan_of("");
  CHECK(plan.state_bytes.value() == state);
  const double share = plan.kv_available.value() * 0.9 / 1.9;
  CHECK(plan.state_slots == static_cast<std::int64_t>((share - state) / state));
  const double left = plan.kv_available.value() - static_cast<double>(plan.state_slots + 1) * state;
  CHECK(plan.kv_blocks == static_cast<std::int64_t>(left / plan.kv_bytes_per_token.value()));
  CHECK(plan.kv_bytes_per_token.value() == 10 * 2 * 2 * 256 * 2);
  CHECK(plan.kv_tokens() == plan.kv_blocks);
  // Five slots a request: its own, two in turn, and two that the tree may hold of it.
  CHECK(plan.slots_of_sequence == 3);
  CHECK(plan.max_sequences == plan.state_slots / 5);
}

TEST_CASE("slots and running requests by strategy and arguments") {
  const MemoryPlan usual = plan_of("");
  CHECK(plan_of("max_mamba_cache_size: 100").state_slots == 100);
  CHECK(plan_of("max_mamba_cache_size: 100").max_sequences == 20);
  CHECK(plan_of("max_mamba_cache_size: 100").kv_blocks > usual.kv_blocks);
  CHECK(plan_of("mamba_full_memory_ratio: 0.1").state_slots < usual.state_slots / 4);
  const MemoryPlan half = plan_of("mamba_ssm_dtype: bfloat16, max_mamba_cache_size: 100");
  CHECK(half.state_bytes.value() == 30.0 * (49'152 + 1'048'576));
  // Without overlap one slot is filled in turn, or, if so asked, none (page of one token).
  CHECK(plan_of("disable_overlap_schedule: true, mamba_radix_cache_strategy: extra_buffer, "
                "max_mamba_cache_size: 100")
            .max_sequences == 25);
  const MemoryPlan end = plan_of("disable_overlap_schedule: true, max_mamba_cache_size: 100");
  CHECK(end.slots_of_sequence == 1);
  CHECK(end.max_sequences == 33);
  // No tree: a slot a request.
  const MemoryPlan none = plan_of("disable_radix_cache: true, max_running_requests: 64");
  CHECK(none.state_slots == 64);
  CHECK(none.max_sequences == 64);
  // 0.5.9 leaves states of ends only, and turns the overlap off for it.
  const InstanceSpec older = instance("", "qwen3.5-35b-a3b", "sglang-0.5.9");
  CHECK(older.engine.steps_in_flight == 1);
  CHECK(instance("engine_args: {disable_radix_cache: true}\n", "qwen3.5-35b-a3b", "sglang-0.5.9")
            .engine.steps_in_flight == 2);
  CHECK(plan_memory(older).value().slots_of_sequence == 1);
}

TEST_CASE("a pool that serves nobody is refused") {
  for (const char* arguments : {"max_mamba_cache_size: 4", "max_mamba_cache_size: 1000000"}) {
    const auto plan = plan_memory(instance(std::string("engine_args: {") + arguments + "}\n"));
    REQUIRE_FALSE(plan.ok());
    CHECK(to_string(plan.errors()).find("serves no request") != std::string::npos);
  }
}

TEST_CASE("what SGLang asserts, and what is not modelled beside states, is refused by name") {
  for (const auto& [more, piece] : std::initializer_list<std::pair<const char*, const char*>>{
           {"engine_args: {mamba_radix_cache_strategy: no_buffer}\n", "disable_overlap_schedule: true"},
           {"engine_args: {mamba_radix_cache_strategy: extra_buffer_lazy}\n", "extra_buffer"},
           {"engine_args: {page_size: 48}\n", "chunk of a scan"},
           {"engine_args: {page_size: 64, mamba_track_interval: 100}\n", "multiple of page_size"},
           {"speculation: {method: mtp, tokens: 3, acceptance: 0.5}\nengine_args: {mamba_track_interval: "
            "3}\n",
            "what a verification looks at, 4"},
           {"parallel: {cp: 2}\n", "cp"}}) {
    INFO(more);
    CHECK(errors_of(more).find(piece) != std::string::npos);
  }
  // Models without states take the arguments and change nothing.
  const InstanceSpec plain = instance("engine_args: {mamba_full_memory_ratio: 0.5}\n", "qwen3-8b");
  CHECK(plain.engine.ignored_args == std::vector<std::string>{"mamba_full_memory_ratio"});
  CHECK(plan_memory(plain).value().kv_blocks == plan_memory(instance("", "qwen3-8b")).value().kv_blocks);
}

// `_handle_max_mamba_cache` solved for the slots K: K + 1 states, and (min(running, K ÷ 5) + 1)·(drafts + 1).
TEST_CASE("with drafts the states in between are reckoned too, for 48 running requests unless said") {
  const auto plan = [](const std::string& more) {
    return plan_memory(instance("speculation: {method: mtp, tokens: 3, acceptance: 0.5}\n" + more)).value();
  };
  const MemoryPlan usual = plan_memory(instance("")).value();
  const MemoryPlan few = plan("engine_args: {max_mamba_cache_size: 100}\n");
  CHECK(few.state_bytes.value() == usual.state_bytes.value());  // of one state
  CHECK(few.max_sequences == 20);
  CHECK(few.slots_of_sequence == 3);
  const double before = static_cast<double>(plan("engine_args: {max_mamba_cache_size: 95}\n").kv_tokens()) *
                        few.kv_bytes_per_token.value(),
               after = static_cast<double>(few.kv_tokens()) * few.kv_bytes_per_token.value();
  // Five slots more are a request more, with four states of its own: nine.
  CHECK(before - after == Approx(9 * few.state_bytes.value()).epsilon(0.001));
  const MemoryPlan all = plan("");
  CHECK(all.max_sequences == std::min<std::int64_t>(48, all.state_slots / 5));
  const double budget = all.kv_available.value() * 0.9 / 1.9, each = all.state_bytes.value();
  CHECK(all.state_slots == static_cast<std::int64_t>((budget - 5 * each) / (each * 1.8)));
}

TEST_CASE("stages and ranks share states out: a stage's layers, a rank's part of the argument") {
  const MemoryPlan stages =
      plan_memory(
          instance("parallel: {pp: 2}\nengine_args: {max_mamba_cache_size: 100}\n", "qwen3-next-80b-a3b"))
          .value();
  const MemoryPlan whole =
      plan_memory(
          instance("parallel: {tp: 2}\nengine_args: {max_mamba_cache_size: 100}\n", "qwen3-next-80b-a3b"))
          .value();
  CHECK(stages.state_bytes.value() == Approx(whole.state_bytes.value()));  // half of the layers, half of the
                                                                           // heads
  // Overlap goes with stages, but the strategy was chosen before (extra_buffer, one slot in turn).
  CHECK(stages.slots_of_sequence == 2);
  CHECK(stages.max_sequences == 25);
  const MemoryPlan ranks =
      plan_memory(instance("parallel: {dp: 4, ep: 4}\nengine_args: {max_mamba_cache_size: 100}\n",
                           "qwen3-next-80b-a3b"))
          .value();
  CHECK(ranks.state_slots == 25);
  CHECK(ranks.max_sequences == 5);
}

// build_hybrid_mamba_stack, `_split_hicache_size`: the same ratio for states as for tokens.
TEST_CASE(
    "HiCache beside states: twice the device's tokens, or a part of gigabytes as of the device's bytes") {
  const std::string on = "engine_args: {enable_hierarchical_cache: true, max_mamba_cache_size: 100";
  const MemoryPlan ratio = plan_memory(instance(on + "}\n")).value();
  CHECK(ratio.host_blocks == 2 * ratio.kv_blocks);
  const MemoryPlan sized = plan_memory(instance(on + ", hicache_size: 20}\n")).value();
  const double device = sized.kv_bytes_per_token.value() * static_cast<double>(sized.kv_tokens()) +
                        100 * sized.state_bytes.value();
  CHECK(static_cast<double>(sized.host_blocks) ==
        Approx(static_cast<double>(sized.kv_blocks) * 20e9 / device).epsilon(1e-5));
}

TEST_CASE("arguments that another one leaves without effect are named") {
  using Names = std::vector<std::string>;
  const auto ignored = [](const std::string& arguments) {
    return instance("engine_args: {" + arguments + "}\n").engine.ignored_args;
  };
  CHECK(ignored("mamba_track_interval: 512, mamba_full_memory_ratio: 0.5").empty());
  CHECK(ignored("max_mamba_cache_size: 50, mamba_full_memory_ratio: 0.5") ==
        Names{"mamba_full_memory_ratio"});
  CHECK(ignored("disable_overlap_schedule: true, mamba_track_interval: 512") ==
        Names{"mamba_track_interval"});
  CHECK(ignored("disable_radix_cache: true, mamba_radix_cache_strategy: extra_buffer") ==
        Names{"mamba_radix_cache_strategy"});
  // Attention of an H200 is another backend's; an R9700's is Triton's.
  CHECK(ignored("triton_attention_num_kv_splits: 32") == Names{"triton_attention_num_kv_splits"});
  const Read r9700 = read(
      "hardware: r9700\nmodel: qwen3-8b\nengine: sglang-0.5\nengine_args: {triton_attention_num_kv_splits: "
      "32}\n");
  CHECK(r9700.errors.empty());
  CHECK(r9700.spec.engine.ignored_args.empty());
}

TEST_CASE("prompts run the kernels of flash-linear-attention on states in the pool") {
  const StepPricer sglang = pricer(instance());
  StepShape shape{};
  const std::vector<PrefillChunk> chunks{{.new_tokens = 2048, .context = 0}};
  shape.prefill = chunks;
  shape.new_requests = shape.running = 1;
  std::int64_t scans = 0;
  for (const OpLine& op : sglang.explain(shape).ops) {
    if (op.name == "state_scan") scans += op.count;
  }
  CHECK(scans == 30);
}

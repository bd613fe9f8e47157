// Launches of steps beside their prices: every launch has a price under its name, and corrections of the
// tables that follow from launches bring prices to them.
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <set>
#include <tuple>

#include "catch.h"
#include "kernels/guarded_memory.h"
#include "live/forward/forward_runner.h"
#include "live/kernel_profile.h"
#include "live/kernel_update.h"
#include "sim/example_scenario.h"

namespace {

using namespace orrery;
namespace fs = std::filesystem;

Scenario live_8b() {
  auto s =
      small_example("{hardware: h200, model: qwen3-8b, engine: orrery, engine_args: {max_model_len: 4096}}",
                    {"workload.limit={requests: 10}"});
  INFO((s.ok() ? "" : to_string(s.errors())));
  REQUIRE(s.ok());
  return std::move(*s);
}

KernelStep decodes(std::uint64_t number, std::int32_t sequences) {
  KernelStep s{};
  s.step = number;
  s.shape.decode_sequences = s.shape.running = sequences;
  s.shape.decode_context_tokens = sequences * 700;
  s.padded_rows = sequences;
  return s;
}

// What the step's launches would take were every product so many times as long as it is priced, and every
// decode attention so many times.
ProfiledStep timed(const KernelStep& step, const StepPricer& pricer, double product, double attention) {
  ProfiledStep out{step, {}};
  double whole = 0;
  StepShape shape = step.shape;
  shape.prefill = step.chunks;
  static std::set<std::string> names;  // a launch's use outlives it
  for (const OpLine& line : pricer.explain(shape).ops) {
    const double factor = line.op_class == OpClass::gemm               ? product
                          : line.op_class == OpClass::attention_decode ? attention
                                                                       : 1;
    const double ns = static_cast<double>(line.time_ns) * factor;
    if (ns <= 0) continue;
    out.profile.launches.push_back({names.insert(line.name).first->c_str(), line.op_class, line.count, ns});
    whole += ns;
  }
  out.profile.own_ns = out.profile.graph_ns = out.profile.timed_ns = whole;
  return out;
}

KernelRun run_of(const StepPricer& pricer, double product, double attention) {
  KernelRun run;
  std::uint64_t number = 0;
  for (int i = 0; i < 12; ++i)
    for (const std::int32_t sequences : {8, 16, 40}) {
      KernelStep step = decodes(number++, sequences);
      const ProfiledStep p = timed(step, pricer, product, attention);
      step.device_ns = static_cast<std::int64_t>(p.profile.own_ns);
      if (i < 3) run.profiled.push_back(p);
      run.steps.push_back(step);
    }
  for (std::size_t i = 0; i < run.profiled.size(); ++i) run.profiled[i].step.step = i;
  return run;
}

struct Folder {
  std::string path = fs::temp_directory_path() / ("orrery-profile-" + std::to_string(::getpid()));
  ~Folder() { fs::remove_all(path); }
};

const std::string common =
    R"("hidden_size": 128, "num_hidden_layers": 2, "intermediate_size": 256, "vocab_size": 256,
    "max_position_embeddings": 256, "tie_word_embeddings": false, "hidden_act": "silu",
    "torch_dtype": "bfloat16",)";
const std::string heads = R"("num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64})";
const std::string dense = R"({"architectures": ["Qwen3ForCausalLM"],)" + common + heads;
const std::string experts =
    R"({"architectures": ["Qwen3MoeForCausalLM"], "num_experts": 8, "num_experts_per_tok": 2,
    "moe_intermediate_size": 128,)" +
    common + heads;
const std::string latent = R"({"architectures": ["DeepseekV2ForCausalLM"], "num_attention_heads": 2,
    "num_key_value_heads": 2, "kv_lora_rank": 512, "q_lora_rank": null, "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64, "v_head_dim": 128, "n_routed_experts": 8, "n_shared_experts": 1,
    "num_experts_per_tok": 2, "moe_intermediate_size": 128, "first_k_dense_replace": 1,
    "moe_layer_freq": 1,)" +
                           common.substr(0, common.rfind(',')) + "}";

InstanceSpec tiny(const Folder& folder, const std::string& config, const std::string& quantization) {
  fs::create_directories(folder.path);
  std::ofstream(folder.path + "/config.json") << config;
  const std::string more = quantization == "bf16" ? "" : ", quantization: " + quantization;
  auto s =
      small_example("{hardware: h200, model: " + folder.path + "/config.json" + more +
                        ", engine: orrery, engine_args: {max_model_len: 80, num_gpu_blocks_override: 8}}",
                    {"workload.limit={requests: 3}"});
  INFO((s.ok() ? "" : to_string(s.errors())));
  REQUIRE(s.ok());
  return s->pool.instance;
}

}  // namespace

TEST_CASE("every launch of a step is priced under its name, and every price is launched") {
  const Folder folder;
  for (const auto& [name, config, quantization] :
       std::vector<std::tuple<const char*, std::string, std::string>>{{"dense", dense, "bf16"},
                                                                      {"dense, FP8", dense, "fp8-block"},
                                                                      {"experts, FP8", experts, "fp8-block"},
                                                                      {"latent", latent, "bf16"}}) {
    CAPTURE(name);
    const InstanceSpec spec = tiny(folder, config, quantization);
    const ModelSpec& model = spec.model;
    const auto pricer = StepPricer::create(spec);
    INFO((pricer.ok() ? "" : to_string(pricer.errors())));
    REQUIRE(pricer.ok());
    kernels::HostMemory memory;
    ForwardOptions options;
    options.kv_blocks = 8;
    options.max_rows = 16;
    options.max_sequences = 4;
    options.max_positions = 32;
    options.random_kv = true;
    auto runner = ForwardRunner::create(model, options, memory, false);
    REQUIRE(runner.ok());
    for (const bool prompt : {false, true}) {
      CAPTURE(prompt);
      StepBatch batch;
      KernelStep step{};
      const std::int32_t rows = prompt ? 3 : 1;
      batch.sequences = {{0, rows, 5}};
      batch.decodes = prompt ? 0 : 1;
      batch.padded_rows = prompt ? 0 : 1;
      batch.block_tables = {1};
      batch.max_blocks = 1;
      for (std::int32_t i = 0; i < rows; ++i) {
        batch.tokens.push_back(i + 1);
        batch.positions.push_back(5 - rows + i);
        batch.slots.push_back(16 + 5 - rows + i);
      }
      batch.sampled_rows = {rows - 1};
      if (prompt)
        step.chunks = {{3, 2}};
      else
        step.shape.decode_sequences = 1, step.shape.decode_context_tokens = 4;
      step.shape.running = 1;
      step.padded_rows = batch.padded_rows;
      StepResult result;
      std::string why;
      REQUIRE((*runner)->run(batch, result, why));
      ProfiledStep profiled{step, {}};
      REQUIRE((*runner)->profile(batch, profiled.profile, why));
      StepResult again;
      if (prompt) REQUIRE((*runner)->run(batch, again, why));
      if (prompt) CHECK(again.sampled == result.sampled);  // it wrote what was there
      for (const LaunchResidual& r : launch_residuals(profiled, *pricer)) {
        CAPTURE(r.use, r.launches, r.priced_ns, r.measured_ns);
        if (r.use == "stream_gaps" || r.use == "kv_b_proj" || r.use == "attention_prefill") continue;
        if (r.use.starts_with("absorb")) {  // two launches, one price
          CHECK(r.corrected_as.empty());
          continue;
        }
        CHECK(r.launches > 0);
        CHECK(r.priced_ns > 0);
        CHECK(r.measured_ns > 0);
      }
    }
    (*runner).reset();
  }
}

TEST_CASE("steps of every kind and size are profiled, ever more seldom, and no more than were asked for") {
  ProfileChoice choice(9);
  std::vector<std::uint64_t> taken;
  for (std::uint64_t i = 1; i <= 64; ++i)
    if (choice.takes(decodes(i, 8))) taken.push_back(i);
  CHECK(taken == std::vector<std::uint64_t>{1, 2, 4, 8, 16, 32, 64});
  KernelStep prompt = decodes(0, 3);
  prompt.padded_rows = 0;
  prompt.chunks = {{1000, 0}};
  CHECK(choice.takes(decodes(65, 16)));
  CHECK(choice.takes(prompt));
  CHECK_FALSE(choice.takes(decodes(66, 24)));
}

TEST_CASE("corrections fitted to launches bring prices to them, and stand in a folder of one's own") {
  const Scenario scenario = live_8b();
  const StepPricer pricer = StepPricer::create(scenario.pool.instance).value();
  const KernelRun run = run_of(pricer, 1.12, 1.3);
  const Folder folder;
  const auto update = update_tables(scenario, run, "a test", folder.path);
  INFO((update.ok() ? "" : to_string(update.errors())));
  REQUIRE(update.ok());
  CHECK(update->fitted_steps == 9);
  CHECK(update->held_out_steps == 12);
  for (const TableUpdate::HeldOut& h : update->held_out) {
    CHECK(h.before < -8);
    CHECK(std::abs(h.after) < 0.2);
    CHECK(h.after_median < 0.2);
  }
  InstanceSpec spec = scenario.pool.instance;
  auto set = KernelSet::load(spec.hardware, folder.path + "/" + update->name);
  INFO((set.ok() ? "" : to_string(set.errors())));
  REQUIRE(set.ok());
  const KernelSet& was = *spec.kernels;
  CHECK((*set)->correction("gemm", "bf16", 40) ==
        Approx(1.12 * was.correction("gemm", "bf16", 40)).epsilon(2e-3));
  const double tiles = 16 * 8;  // sequences · heads of keys
  CHECK((*set)->correction("attention_decode", "bf16", tiles) ==
        Approx(1.3 * was.correction("attention_decode", "bf16", tiles)).epsilon(2e-3));
  CHECK((*set)->correction("elementwise", "", 40) ==
        Approx(was.correction("elementwise", "", 40)).epsilon(2e-3));
  spec.kernels = *set;
  const StepPricer corrected = StepPricer::create(spec).value();
  for (const KernelStep& s : run.steps)
    CHECK(priced_device_ns(corrected, s) == Approx(static_cast<double>(s.device_ns)).epsilon(2e-3));
}

TEST_CASE("prefill and decode apart: the last third of each pool's steps is held out, both are fitted to") {
  const Scenario scenario = live_8b();
  const StepPricer pricer = StepPricer::create(scenario.pool.instance).value();
  KernelRun run = run_of(pricer, 1.12, 1.3);
  for (std::size_t i = 0; i < run.steps.size(); ++i) {  // 12 and 24, numbered by pool
    run.steps[i].pool = i < 12 ? 0 : 1;
    run.steps[i].step = i < 12 ? i : i - 12;
  }
  for (ProfiledStep& p : run.profiled) p.step.pool = static_cast<std::uint32_t>(p.step.step % 2);
  const Folder folder;
  const auto update = update_tables(scenario, run, "a test", folder.path);
  INFO((update.ok() ? "" : to_string(update.errors())));
  REQUIRE(update.ok());
  CHECK(update->fitted_steps == 8);  // not number 8 of the first, which is of its last four
  CHECK(update->held_out_steps == 4 + 8);
}

TEST_CASE("an update that does not help the held-out steps is not written") {
  const Scenario scenario = live_8b();
  const StepPricer pricer = StepPricer::create(scenario.pool.instance).value();
  KernelRun run = run_of(pricer, 1.2, 1);
  for (KernelStep& s : run.steps) s.device_ns = static_cast<std::int64_t>(priced_device_ns(pricer, s));
  const Folder folder;
  const auto update = update_tables(scenario, run, "a test", folder.path);
  REQUIRE_FALSE(update.ok());
  CHECK(update.errors().front().kind == ErrorKind::check_failed);
  CHECK_FALSE(fs::exists(folder.path + "/orrery-updated"));
  run.profiled.clear();
  CHECK_FALSE(update_tables(scenario, run, "a test", folder.path).ok());
}

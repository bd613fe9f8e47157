// Layers that keep a state: what the engine keeps of it, how its blocks follow, what a step runs and costs.
#include <string>
#include <vector>

#include "catch.h"
#include "costmodel/instance_spec.h"
#include "costmodel/kv_groups.h"
#include "costmodel/memory_plan.h"
#include "costmodel/step_pricer.h"
#include "priced_steps.h"
#include "read_instance.h"

using namespace orrery;

namespace {

std::string deployment(const std::string& model, const std::string& more = "",
                       const char* engine = "vllm-0.24") {
  return "hardware: h200\nmodel: " + model + "\nengine: " + engine + "\n" + more;
}

InstanceSpec instance(const std::string& model, const std::string& more = "") {
  Read r = read(deployment(model, more));
  if (!r.errors.empty()) FAIL(to_string(r.errors));
  return std::move(r.spec);
}

std::string errors_of(const std::string& model, const std::string& more, const char* engine = "vllm-0.24") {
  const Read r = read(deployment(model, more, engine));
  REQUIRE_FALSE(r.errors.empty());
  return to_string(r.errors);
}

OpLine line(const StepPricer& p, const StepShape& shape, const std::string& name) {
  for (const OpLine& op : p.explain(shape).ops) {
    if (op.name == name) return op;
  }
  FAIL("no line " << name);
  return {};
}

std::int64_t state_ns(const StepPricer& p, const StepShape& shape) {
  std::int64_t total = 0;
  for (const OpLine& op : p.explain(shape).ops)
    total += op.op_class == OpClass::linear_attention ? op.time_ns : 0;
  return total;
}

StepShape prompts(const std::vector<PrefillChunk>& chunks) {
  StepShape shape{};
  shape.prefill = chunks;
  shape.new_requests = shape.running = static_cast<std::int32_t>(chunks.size());
  return shape;
}

}  // namespace

// vLLM's log of Qwen3-Next names blocks of 544 tokens and a padding of 1.49 %.
TEST_CASE("bytes of a state, and the blocks that hold it") {
  struct Row {
    const char* model;
    int tp;
    double conv, state, token;  // bytes of one layer of a rank
    std::int64_t block;
  };
  for (const Row& row : {
           // 3 taps of 2·16·128 + 32·128 channels; 32 heads of 128 x 128, in the model's type
           Row{"qwen3-next-80b-a3b", 1, 3 * 8192 * 2, 32 * 128 * 128 * 2, 2 * 2 * 256 * 2, 544},
           // fp32, as the config says
           Row{"qwen3.5-35b-a3b", 1, 3 * 8192 * 2, 32 * 128 * 128 * 4, 2 * 2 * 256 * 2, 1056},
           Row{"qwen3.5-35b-a3b", 2, 3 * 4096 * 2, 16 * 128 * 128 * 4, 2 * 1 * 256 * 2, 1056},
           // two KV heads on four ranks: each keeps one, so half the state meets the same token
           Row{"qwen3.5-35b-a3b", 4, 3 * 2048 * 2, 8 * 128 * 128 * 4, 2 * 1 * 256 * 2, 528},
           // 64 heads of 64 x 128, 8 groups: 3 taps of 4096 + 2·8·128 channels
           Row{"nemotron-3-nano-30b-a3b", 1, 3 * 6144 * 2, 64 * 64 * 128 * 4, 2 * 2 * 128 * 2, 2096},
       }) {
    INFO(row.model << " tp " << row.tp);
    const InstanceSpec spec = instance(row.model, "parallel: {tp: " + std::to_string(row.tp) + "}\n");
    const double bytes = row.conv + row.state;
    CHECK(spec.model.state.bytes(row.tp, DType::bf16) == bytes);
    CHECK(spec.model.kv_layer_bytes(row.tp) == row.token);
    CHECK(spec.engine.settings.block_size == row.block);
    CHECK(static_cast<double>(row.block) * row.token >= bytes);
    CHECK(static_cast<double>(row.block - 16) * row.token < bytes);
    CHECK_FALSE(spec.engine.settings.enable_prefix_caching);
    CHECK(spec.engine.runner == "v1");
  }
  const InstanceSpec next = instance("qwen3-next-80b-a3b");
  CHECK(544 * 2048 / next.model.state.bytes(1, DType::bf16) == Approx(1.0149).epsilon(1e-4));
  // A state of half the width, on request.
  CHECK(instance("qwen3.5-35b-a3b", "engine_args: {mamba_ssm_cache_dtype: bfloat16}\n")
            .engine.settings.block_size == 544);
  // Blocks that are larger anyway stay.
  CHECK(instance("qwen3-next-80b-a3b", "engine_args: {block_size: 1024}\n").engine.settings.block_size ==
        1024);
}

TEST_CASE("groups of layers: as many as the rarer kind has") {
  struct Row {
    const char* model;
    std::int64_t layers, full, states;
  };
  for (const Row& row : {Row{"qwen3-next-80b-a3b", 12, 1, 3}, Row{"qwen3.5-27b", 16, 1, 3},
                         Row{"nemotron-3-nano-30b-a3b", 6, 1, 4},  // 23 of Mamba2: the last group padded by
                                                                   // one
                         Row{"nemotron-h-56b", 10, 1, 6}}) {
    INFO(row.model);
    const InstanceSpec spec = instance(row.model, "parallel: {tp: 4}\n");
    const KvCacheGroups groups = kv_cache_groups(spec.model, spec.engine);
    CHECK(groups.layers == row.layers);
    CHECK(groups.full == row.full);
    CHECK(groups.states == row.states);
    CHECK_FALSE(groups.simple());
  }
}

TEST_CASE("the memory plan gives every sequence its states") {
  const InstanceSpec spec = instance("qwen3.5-35b-a3b", "engine_args: {max_model_len: 10560}\n");
  const MemoryPlan plan = plan_memory(spec).value();
  const double page = 1056 * 2048.0;  // of one layer; ten layers share a block
  CHECK(plan.kv_blocks == static_cast<std::int64_t>(plan.kv_available.value() / page) / 10);
  CHECK(plan.state_bytes.value() == 30 * (49'152 + 2'097'152));
  // Ten blocks of tokens and three of states for a sequence of 10,560 tokens.
  CHECK(plan.kv_tokens() == static_cast<std::int64_t>(static_cast<double>(plan.kv_blocks) / 13 * 10560));
  // Graphs need a state for each sequence of the largest batch.
  const auto few = plan_memory(instance("qwen3.5-35b-a3b", "engine_args: {num_gpu_blocks_override: 700}\n"));
  REQUIRE_FALSE(few.ok());
  CHECK(to_string(few.errors()).find("max_num_seqs: 700") != std::string::npos);
  CHECK(plan_memory(
            instance("qwen3.5-35b-a3b", "engine_args: {num_gpu_blocks_override: 700, enforce_eager: true}\n"))
            .ok());
}

TEST_CASE("a decode's states cost what they hold, whatever the context") {
  const StepPricer p = pricer(instance("qwen3.5-35b-a3b"));
  const OpLine near = line(p, decodes(64, 100), "state_update"),
               far = line(p, decodes(64, 100'000), "state_update");
  CHECK(near.count == 30);
  CHECK(near.time_ns == far.time_ns);
  // Read and written: 2 MiB a sequence and layer, and the token's rows.
  CHECK(near.bytes == Approx(30 * 64 * (2.0 * 2'097'152 + (8192 + 4096) * 2)));
  CHECK(line(p, decodes(128, 100), "state_update").bytes == Approx(2 * near.bytes));
  // 268 MB in 71.6 µs, 1,074 MB in 267 µs (published, vLLM 0.24 on an H200).
  CHECK(static_cast<double>(near.time_ns) / 30 == Approx(71'631).epsilon(0.1));
  CHECK(static_cast<double>(line(p, decodes(256, 100), "state_update").time_ns) / 30 ==
        Approx(267'426).epsilon(0.1));
  const OpLine conv = line(p, decodes(256, 100), "state_conv");
  CHECK(static_cast<double>(conv.time_ns) / 30 == Approx(10'783).epsilon(0.12));
  // Half the state, half the bytes.
  const StepPricer half =
      pricer(instance("qwen3.5-35b-a3b", "engine_args: {mamba_ssm_cache_dtype: bfloat16}\n"));
  CHECK(line(half, decodes(64, 100), "state_update").bytes ==
        Approx(30 * 64 * (2'097'152 + (8192 + 4096) * 2.0)));
}

TEST_CASE("a prompt's states are scanned one chunk after another, prompts side by side") {
  const StepPricer p = pricer(instance("qwen3.5-35b-a3b"));
  const auto scan = [&](const std::vector<PrefillChunk>& chunks) {
    return static_cast<double>(line(p, prompts(chunks), "state_scan").time_ns) / 30;
  };
  // Published (chunk_gated_delta_rule_flashinfer, H200): 399 µs for 8,192 tokens of one sequence, 120.6 µs
  // for as many of eight; states are gathered and put back beside that.
  CHECK(scan({{8192, 0}}) == Approx(398'960).epsilon(0.08));
  const std::vector<PrefillChunk> eight(8, {1024, 0});
  CHECK(scan(eight) == Approx(120'576).epsilon(0.25));
  CHECK(scan(eight) < scan({{8192, 0}}) / 2.5);
  // Neither the context behind it nor a chunk's last tokens matter.
  CHECK(scan({{4096, 0}}) == scan({{4096, 100'000}}));
  CHECK(scan({{65, 0}}) - scan({{64, 0}}) > 5 * (scan({{64, 0}}) - scan({{33, 0}})));
  CHECK(scan({{4096, 0}, {64, 0}}) >= scan({{4096, 0}}));
  CHECK(static_cast<double>(line(p, prompts({{8192, 0}}), "state_conv").time_ns) / 30 ==
        Approx(113'087).epsilon(0.05));
}

TEST_CASE("what a layer launches") {
  const auto counts = [](const std::string& model, const std::string& name) {
    const StepPricer p = pricer(instance(model, "parallel: {tp: 2}\n"));
    std::int64_t count = 0;
    for (const OpLine& op : p.explain(decodes(4, 100)).ops) count += op.name == name ? op.count : 0;
    return count;
  };
  for (const auto& [name, uses] : {std::pair{"state_in_proj", 36},
                                   {"state_in_proj_ba", 36},
                                   {"state_unpack", 36},
                                   {"state_update", 36},
                                   {"state_norm", 36},
                                   {"attention_decode", 12},
                                   {"output_gate", 12},
                                   {"router", 48},
                                   {"shared_gate", 48},
                                   {"attention_all_reduce", 48},
                                   {"moe_all_reduce", 48}}) {
    INFO(name);
    CHECK(counts("qwen3-next-80b-a3b", name) == uses);
  }
  CHECK(counts("qwen3.5-35b-a3b", "state_unpack") == 0);  // its products are in order
  for (const auto& [name, uses] : {std::pair{"state_in_proj", 23},
                                   {"state_update", 23},
                                   {"attention_decode", 6},
                                   {"router", 23},
                                   {"rotary", 0},
                                   {"state_in_proj_ba", 0},
                                   {"moe_relu_squared", 23},
                                   {"shared_up_proj", 23},
                                   {"attention_all_reduce", 29},
                                   {"moe_all_reduce", 23},
                                   {"input_norm", 29},
                                   {"post_norm", 23}}) {
    INFO(name);
    CHECK(counts("nemotron-3-nano-30b-a3b", name) == uses);
  }
}

TEST_CASE("kernels that nobody timed have twice the error") {
  const auto sigma = [](const std::string& model, const std::string& hardware) {
    Read r = read("hardware: " + hardware + "\nmodel: " + model + "\nengine: vllm-0.24\nparallel: {tp: 4}\n");
    if (!r.errors.empty()) FAIL(to_string(r.errors));
    return line(pricer(r.spec), decodes(64, 1000), "state_update").error;
  };
  const double own = sigma("qwen3.5-35b-a3b", "h200");
  CHECK(own > 0);
  CHECK(sigma("nemotron-3-nano-30b-a3b", "h200") > 1.8 * own);
  CHECK(sigma("qwen3.5-35b-a3b", "l40s") > 1.8 * own);
}

TEST_CASE("the graph splits where a state is touched") {
  const StepPricer p = pricer(instance("qwen3.5-35b-a3b"));
  CHECK(state_ns(p, decodes(8, 100)) > 0);
  const StepTiming full = p.price(decodes(8, 100));
  const StepTiming mixed = [&] {
    StepShape shape = decodes(8, 100);
    const std::vector<PrefillChunk> one{{100, 0}};
    shape.prefill = one;
    return p.price(shape);
  }();
  CHECK(mixed.launch > 3 * full.launch);  // 41 pieces and what stands between them, one graph
}

TEST_CASE("what is not modelled beside a state is refused where it is said") {
  const char* model = "qwen3-next-80b-a3b";
  for (const auto& [more, piece] :
       {std::pair{"engine_args: {mamba_block_size: 64}\n", "mamba_block_size"},
        {"engine_args: {enable_prefix_caching: true, max_num_batched_tokens: 512, max_num_seqs: 64}\n",
         "max_num_batched_tokens: must be at least the block size, 544"},
        {"engine_args: {enable_prefix_caching: true, long_prefill_token_threshold: 512}\n",
         "long_prefill_token_threshold"},
        {"engine_args: {enable_prefix_caching: true, kv_offloading_size: 8}\n"
         "speculation: {method: mtp, acceptance: 0.5}\n",
         "beside speculation"},
        {"engine_args: {disable_hybrid_kv_cache_manager: true}\n", "groups of their own"},
        {"engine_args: {kv_offloading_size: 8}\n", "needs enable_prefix_caching: true"},
        {"parallel: {tp: 32}\n", "key heads"},
        {"speculation: {method: eagle, acceptance: 0.5}\n", "layers that keep a state"}}) {
    INFO(more);
    CHECK(errors_of(model, more).find(piece) != std::string::npos);
  }
  CHECK(errors_of("nemotron-3-nano-30b-a3b", "speculation: {method: mtp, acceptance: 0.5}\n")
            .find("mtp_hybrid_override_pattern") != std::string::npos);
  // A block of the tier is one group's: 12 layers' pages, of both ranks.
  const MemoryPlan tier =
      plan_memory(
          instance(model,
                   "parallel: {tp: 2}\nengine_args: {kv_offloading_size: 8, enable_prefix_caching: true}\n"))
          .value();
  const double page = tier.kv_bytes_per_token.value() / 12 * static_cast<double>(tier.block_size);
  CHECK(tier.host_blocks ==
        static_cast<std::int64_t>(8.0 * (1 << 30) / (2 * page * static_cast<double>(tier.groups.layers))));
  // Models without a state take the arguments and change nothing.
  const InstanceSpec plain = instance("qwen3-8b", "engine_args: {mamba_ssm_cache_dtype: float32}\n");
  CHECK(plain.engine.settings.block_size == 16);
  CHECK(plain.engine.ignored_args.size() == 1);
}

// platforms/interface.py, `_align_hybrid_block_size`; MambaSpec.max_memory_usage_bytes.
TEST_CASE(
    "prefix caching: blocks as without it, or of whole chunks of the scan where every block has a state") {
  const std::string on = "engine_args: {enable_prefix_caching: true, max_model_len: 10560}\n";
  const InstanceSpec delta = instance("qwen3.5-35b-a3b", on);
  CHECK(delta.engine.settings.block_size == 1056);
  KvCacheGroups groups = plan_memory(delta).value().groups;
  CHECK(groups.cached_states);
  CHECK(groups.chunk_ends);
  CHECK(groups.blocks_of_sequence(10560, delta.engine.settings) == 10 + 3 * 2);
  // `all` is Mamba2's; a gated delta net falls back to align.
  const InstanceSpec fallen =
      instance("qwen3.5-35b-a3b", "engine_args: {enable_prefix_caching: true, mamba_cache_mode: all}\n");
  CHECK(kv_cache_groups(fallen.model, fallen.engine).chunk_ends);
  // Mamba2 of Nemotron 3 Nano: 2,095 tokens hold a state, in chunks of 128: 17 of them.
  const InstanceSpec mamba =
      instance("nemotron-3-nano-30b-a3b", "engine_args: {enable_prefix_caching: true}\n");
  CHECK(mamba.engine.settings.block_size == 17 * 128);
  groups = kv_cache_groups(mamba.model, mamba.engine);
  CHECK(groups.cached_states);
  CHECK_FALSE(groups.chunk_ends);
  CHECK(groups.blocks_of_sequence(21760, mamba.engine.settings) == 10 + 4 * 10);
  CHECK(instance("nemotron-3-nano-30b-a3b",
                 "engine_args: {enable_prefix_caching: true, mamba_block_size: 1000}\n")
            .engine.settings.block_size == 4000);  // lcm(1000, 16) twice
  CHECK(instance("nemotron-3-nano-30b-a3b",
                 "engine_args: {enable_prefix_caching: true, mamba_cache_mode: align}\n")
            .engine.settings.block_size == 2096);
}

// vllm 0.24: qwen3_next_mtp.py; MambaSpec.num_speculative_blocks; gated_delta_net_state_shape(num_spec).
TEST_CASE("a layer that predicts further tokens attends, and every draft has a state") {
  const std::string mtp = "speculation: {method: mtp, tokens: 2, acceptance: 0.8}\n";
  const InstanceSpec spec = instance("qwen3-next-80b-a3b", "parallel: {tp: 2}\n" + mtp);
  CHECK(spec.model.mtp_layers == 1);
  const LayerKind layer = draft_layer(spec.speculation, spec.model);
  CHECK(layer.mixer == Mixer::attention);
  CHECK(layer.moe);
  // The checkpoint's index has 81,324,862,720 parameters: the layer, and a projection of two widths.
  std::int64_t more = 0;
  for (const WeightTensor& t : layer.weights) more += t.rows * t.columns * t.copies;
  for (const WeightTensor& t : draft_globals(spec.speculation, spec.model)) more += t.rows * t.columns;
  CHECK(static_cast<double>(more) == Approx(81'324'862'720.0 - 79'674'391'296.0).epsilon(1e-4));
  // Half of 3 + 2 taps of 8,192 channels, and half of the states; a page of one KV head a rank.
  CHECK(spec.model.state.bytes(2, DType::bf16, 2) == 5 * 4096 * 2 + 16 * 128 * 128 * 2);
  CHECK(spec.engine.settings.block_size == 560);  // 565,248 / 1,024 = 552
  const MemoryPlan plan = plan_memory(spec).value();
  CHECK(plan.groups.layers == 13);
  CHECK(plan.groups.full == 1);
  CHECK(plan.groups.states == 3);
  CHECK(plan.kv_blocks == static_cast<std::int64_t>(plan.kv_available.value() / (560 * 1024.0)) / 13);
  CHECK(plan.groups.blocks_of_sequence(5600, spec.engine.settings) == 10 + 3 * 3);

  // A state is read once and written after every token; the time of a plain decode grows by the writes.
  const StepPricer p = pricer(spec);
  StepShape plain = decodes(64, 1000), three = plain;
  three.draft_tokens = 128;
  const double state = 16 * 128 * 128 * 2.0 * 64 * 36;
  const OpLine one = line(p, plain, "state_update"), all = line(p, three, "state_update");
  CHECK(all.time_ns > one.time_ns);
  CHECK(static_cast<double>(all.time_ns - one.time_ns) * 1e-9 * 4.8e12 >= 2 * state);
  CHECK(static_cast<double>(all.time_ns - one.time_ns) * 1e-9 * 2.4e12 <= 2.5 * state);
}

TEST_CASE("stages have the mixture of the whole model, or are refused") {
  const InstanceSpec two = instance("qwen3-next-80b-a3b", "parallel: {tp: 2, pp: 2}\n");
  const MemoryPlan plan = plan_memory(two).value();
  CHECK(plan.groups.layers == 6);
  CHECK(plan.groups.states == 3);
  CHECK(plan.stage_blocks.size() == 2);
  const MemoryPlan whole = plan_memory(instance("qwen3-next-80b-a3b", "parallel: {tp: 2}\n")).value();
  CHECK(plan.kv_blocks > 2 * whole.kv_blocks);
  const auto five = plan_memory(instance("qwen3-next-80b-a3b", "parallel: {tp: 1, pp: 5}\n"));
  REQUIRE_FALSE(five.ok());
  CHECK(to_string(five.errors()).find("another mixture") != std::string::npos);
}

// Context parallelism: vLLM's KV cache split over GPUs of tp, SGLang's prompts dealt to copies of attention
// (docs/context_parallel.md).
#include <algorithm>
#include <string>
#include <vector>

#include "catch.h"
#include "costmodel/memory_plan.h"
#include "priced_steps.h"
#include "read_instance.h"

using namespace orrery;

namespace {

InstanceSpec made(const std::string& text) {
  Read r = read("hardware: h200\n" + text);
  if (!r.errors.empty()) FAIL(to_string(r.errors));
  return std::move(r.spec);
}

// 48 layers, 32 query heads and 4 KV heads of 128, hidden 2,048, 128 experts.
InstanceSpec sglang(std::int32_t cp, std::int32_t tp = 1, const std::string& args = "",
                    const std::string& model = "qwen3-30b-a3b") {
  return made("model: " + model + "\nengine: sglang-0.5\nparallel: {tp: " + std::to_string(tp) +
              ", cp: " + std::to_string(cp) +
              "}\nengine_args: {enable_prefill_cp: true, cp_strategy: zigzag" + args + "}\n");
}

InstanceSpec vllm(const std::string& model, std::int32_t ranks, const std::string& args = "") {
  return made("model: " + model + "\nengine: vllm-0.24\nparallel: {tp: 8}\nengine_args: {" +
              "decode_context_parallel_size: " + std::to_string(ranks) + args + "}\n");
}

StepShape prompts(const std::vector<PrefillChunk>& chunks) {  // looks at them
  StepShape shape{};
  shape.prefill = chunks;
  shape.new_requests = shape.running = static_cast<std::int32_t>(chunks.size());
  return shape;
}

OpLine line(const StepBreakdown& step, const std::string& name) {
  for (const OpLine& op : step.ops) {
    if (op.name == name) return op;
  }
  FAIL("no line " << name);
  return {};
}

bool has_line(const StepBreakdown& step, const std::string& name) {
  return std::any_of(step.ops.begin(), step.ops.end(), [&](const OpLine& op) { return op.name == name; });
}

double collectives_ns(const StepBreakdown& step) {
  double ns = 0;
  for (const OpLine& op : step.ops)
    ns += op.op_class == OpClass::collective ? static_cast<double>(op.time_ns) : 0;
  return ns;
}

double pairs(const std::vector<PrefillChunk>& chunks) {
  double sum = 0;
  for (const PrefillChunk& c : chunks) {
    const double n = c.new_tokens;
    sum += n * static_cast<double>(c.context) + n * (n + 1) / 2;
  }
  return sum;
}

bool refused(const std::string& text, const std::string& words) {
  const Read r = read("hardware: h200\n" + text);
  return to_string(r.errors).find(words) != std::string::npos;
}

}  // namespace

TEST_CASE("zigzag: every rank has an early and a late block, and as much to look at as any other") {
  // 22 new tokens after 100, two ranks: blocks of 6, 6, 5, 5; rank 0 has the first and the last, rank 1 the
  // middle ones.
  const std::vector<PrefillChunk> one{{22, 100}};
  const StepShape shape = prompts(one);
  const auto blocks = [&](std::int32_t rank, int half) {
    std::vector<PrefillChunk> out;
    add_blocks(shape, 2, rank, half, out);
    return out;
  };
  CHECK(blocks(0, 0) == std::vector<PrefillChunk>{{6, 100}});
  CHECK(blocks(0, 1) == std::vector<PrefillChunk>{{5, 117}});
  CHECK(blocks(1, 0) == std::vector<PrefillChunk>{{6, 106}});
  CHECK(blocks(1, 1) == std::vector<PrefillChunk>{{5, 112}});
  CHECK(split_rows(shape, 2) == 12);  // 11 rows, padded to a multiple of four
  CHECK(can_split(shape, 2));
  CHECK_FALSE(can_split(prompts({{22, 0}, {3, 0}}), 2));  // three tokens are not four blocks
  StepShape mixed = shape;
  mixed.decode_sequences = 1;
  CHECK_FALSE(can_split(mixed, 2));
  // Equal blocks: equal pairs, all of them together.
  const std::vector<PrefillChunk> two{{4096, 512}, {1024, 0}};
  const StepShape even = prompts(two);
  double all = 0;
  for (std::int32_t rank = 0; rank < 8; ++rank) {
    std::vector<PrefillChunk> mine;
    add_blocks(even, 8, rank, 0, mine);
    add_blocks(even, 8, rank, 1, mine);
    CHECK(pairs(mine) == pairs(two) / 8);
    all += pairs(mine);
  }
  CHECK(all == pairs(two));
}

TEST_CASE("one rank is none: the same prices and the same memory") {
  const InstanceSpec with = sglang(1, 2),
                     none = made("model: qwen3-30b-a3b\nengine: sglang-0.5\nparallel: {tp: 2}\n");
  CHECK(plan_memory(with).value().kv_blocks == plan_memory(none).value().kv_blocks);
  const StepPricer a = pricer(with), b = pricer(none);
  CHECK(a.price(prompts({{5000, 300}})).busy == b.price(prompts({{5000, 300}})).busy);
  CHECK(a.price(decodes(17, 1000)).busy == b.price(decodes(17, 1000)).busy);
  const InstanceSpec split = vllm("deepseek-r1", 1, ", cp_kv_cache_interleave_size: 16"),
                     whole = made("model: deepseek-r1\nengine: vllm-0.24\nparallel: {tp: 8}\n");
  CHECK(plan_memory(split).value().kv_tokens() == plan_memory(whole).value().kv_tokens());
  CHECK(pricer(split).price(decodes(17, 1000)).busy == pricer(whole).price(decodes(17, 1000)).busy);
}

TEST_CASE("SGLang: a long prompt's attention is shared out evenly, its collectives carry these bytes") {
  const std::vector<PrefillChunk> one{{8192, 0}};
  const StepBreakdown alone = pricer(sglang(1)).explain(prompts(one));
  for (const std::int32_t cp : {2, 4, 8}) {
    const StepBreakdown step = pricer(sglang(cp)).explain(prompts(one));
    CAPTURE(cp);
    const double part = static_cast<double>(cp - 1) / cp;
    CHECK(line(step, "attention_prefill").flops == Approx(line(alone, "attention_prefill").flops / cp));
    CHECK(line(step, "qkv_proj").flops == Approx(line(alone, "qkv_proj").flops / cp));
    // Keys and values of 8,192 tokens, 4 heads, in 16 bits; hidden states around the experts of every layer.
    CHECK(line(step, "cp_gather_kv").link_bytes == Approx(48 * part * 8192 * 2 * 4 * 128 * 2));
    CHECK(line(step, "cp_gather").link_bytes == Approx(48 * part * 8192 * 2048 * 2));
    CHECK(line(step, "moe_all_reduce").link_bytes == Approx(48 * 2 * part * 8192 * 2048 * 2));
    CHECK(line(step, "cp_gather_last").link_bytes == Approx(part * 8192 * 2048 * 2));
    // Never below its share of attention and what the ranks say to one another.
    CHECK(static_cast<double>(step.timing.busy) >=
          static_cast<double>(line(alone, "attention_prefill").time_ns) / cp + collectives_ns(step));
  }
}

TEST_CASE("SGLang: the longer the prompt the more is gained, short ones and decodes gain no attention") {
  const StepPricer one = pricer(sglang(1)), four = pricer(sglang(4));
  const auto gain = [&](std::int32_t tokens, std::int64_t context) {
    const std::vector<PrefillChunk> chunks{{tokens, context}};
    return static_cast<double>(one.price(prompts(chunks)).busy) /
           static_cast<double>(four.price(prompts(chunks)).busy);
  };
  CHECK(gain(8192, 122'880) > gain(8192, 30'000));
  CHECK(gain(8192, 30'000) > gain(8192, 0));
  CHECK(gain(8192, 122'880) > 2.5);
  CHECK(gain(8192, 122'880) < 4);
  CHECK(gain(8192, 0) > gain(512, 0));
  CHECK(gain(16, 0) < gain(512, 0));
  // Launched kernel by kernel, with more of them: there it does not pay.
  const std::vector<PrefillChunk> short_one{{512, 0}}, long_one{{8192, 30'000}};
  CHECK(four.summarize(prompts(short_one)).device_ns > one.summarize(prompts(short_one)).device_ns);
  CHECK(four.summarize(prompts(long_one)).device_ns < one.summarize(prompts(long_one)).device_ns);
  // A prompt of seven tokens has not a token for each of eight blocks: everybody computes all of it.
  const StepBreakdown tiny = four.explain(prompts({{7, 0}})), split = four.explain(prompts({{8, 0}}));
  CHECK_FALSE(has_line(tiny, "cp_gather_kv"));
  CHECK(has_line(split, "cp_gather_kv"));
  // Without enable_prefill_cp it is so for all.
  const StepPricer idle = pricer(made("model: qwen3-30b-a3b\nengine: sglang-0.5\nparallel: {cp: 4}\n"));
  CHECK_FALSE(has_line(idle.explain(prompts({{8192, 0}})), "cp_gather_kv"));
  CHECK(idle.price(prompts({{8192, 0}})).busy > four.price(prompts({{8192, 0}})).busy);
  // Decodes: attention is that of one GPU, whoever computes it; only graphs of multiples of four are
  // captured.
  CHECK(line(four.explain(decodes(64, 1000)), "attention_decode").flops ==
        line(one.explain(decodes(64, 1000)), "attention_decode").flops);
  CHECK(four.explain(decodes(1, 1000)).padded_tokens == 4);
}

TEST_CASE("SGLang: attention's weights and the cache stand whole on every rank, the rest is split") {
  const MemoryPlan tensor = plan_memory(sglang(1, 4)).value(), context = plan_memory(sglang(4)).value();
  CHECK(context.kv_bytes_per_token.value() == 4 * tensor.kv_bytes_per_token.value());
  // Three quarters of q, k, v and o more: 48 · 2,048 · (32 + 4 + 4 + 32) · 128 elements of 16 bits.
  CHECK(context.weights.value() - tensor.weights.value() == Approx(0.75 * 48 * 2048 * 72 * 128 * 2));
  // moe_dp_size: experts too, 48 · 128 · 3 · 2,048 · 768.
  const MemoryPlan whole = plan_memory(sglang(4, 1, ", moe_dp_size: 4")).value();
  CHECK(whole.weights.value() - context.weights.value() == Approx(0.75 * 48 * 128 * 3 * 2048 * 768 * 2));
  const StepBreakdown own = pricer(sglang(4, 1, ", moe_dp_size: 4")).explain(prompts({{8192, 0}}));
  CHECK_FALSE(has_line(own, "cp_gather"));
  CHECK_FALSE(has_line(own, "moe_all_reduce"));
  CHECK(has_line(own, "cp_gather_kv"));
}

TEST_CASE("SGLang: latent attention is absorbed where prompts are dealt out, and sums end on a rank's rows") {
  const InstanceSpec spec = sglang(8, 1, "", "deepseek-v2-lite");
  const StepBreakdown step = pricer(spec).explain(prompts({{8192, 0}}));
  // 27 layers, 16 heads; pairs of 8,192 tokens over eight ranks, 2 · (512 + 64 + 512) operations each.
  CHECK(line(step, "attention_absorbed").flops == Approx(27 * pairs({{8192, 0}}) / 8 * 16 * 2 * 1088));
  CHECK(line(step, "cp_gather_kv").link_bytes == Approx(27 * 7.0 / 8 * 8192 * 576 * 2));
  CHECK(line(step, "cp_reduce_scatter").link_bytes == Approx(27 * 7.0 / 8 * 8192 * 2048 * 2));
  CHECK(line(step, "attention_prefill").flops == 0);
  const StepBreakdown whole = pricer(spec).explain(prompts({{15, 0}}));
  CHECK(line(whole, "attention_absorbed").flops == 0);
  CHECK(line(whole, "attention_prefill").flops > 0);
  CHECK_FALSE(has_line(whole, "cp_reduce_scatter"));
}

TEST_CASE("vLLM: N ranks hold N times the tokens, in blocks of N times as many") {
  for (const std::int32_t ranks : {2, 4, 8}) {
    const MemoryPlan split = plan_memory(vllm("deepseek-r1", ranks)).value(),
                     whole = plan_memory(vllm("deepseek-r1", 1)).value();
    // Graphs hold sums of split keys for the heads of all ranks that share the cache (num_heads ·
    // dcp_world_size of flashattn_mla.py): 32 splits of 512 rows, 512 + 1 wide, in fp32, twice; 16 heads a
    // rank.
    const double sums = 2.0 * 32 * 512 * 16 * 513 * 4;
    CHECK(split.graphs.value() - whole.graphs.value() == Approx((ranks - 1) * sums));
    CHECK(split.kv_available.value() - whole.kv_available.value() == Approx(-(ranks - 1) * sums));
    CHECK(split.block_size == ranks * whole.block_size);
    CHECK(split.kv_tokens() == split.kv_blocks * ranks * whole.block_size);
    const double page = whole.kv_bytes_per_token.value() * static_cast<double>(whole.block_size);
    CHECK(static_cast<double>(whole.kv_blocks - split.kv_blocks) ==
          Approx((ranks - 1) * sums / page).margin(1));
    CHECK(split.weights == whole.weights);
  }
  // Four KV heads on eight GPUs: two copies of each, so two parts.
  CHECK(plan_memory(vllm("qwen3-30b-a3b", 2)).value().kv_tokens() ==
        2 * plan_memory(vllm("qwen3-30b-a3b", 1)).value().kv_tokens());
}

TEST_CASE("vLLM: decodes read a rank's part for all its group's heads, and pay three collectives a layer") {
  const StepShape batch = decodes(64, 16384);
  const StepBreakdown split = pricer(vllm("deepseek-r1", 8)).explain(batch);
  // 61 layers, 16 heads a rank. 64 · 16,385 / 8 tokens, and 7/16 of one ahead a sequence.
  const double keys = 64 * (16385.0 / 8 + 7.0 / 16);
  CHECK(line(split, "attention_decode").flops == Approx(61 * 2.0 * 1088 * 128 * keys).epsilon(1e-4));
  CHECK(line(split, "dcp_gather_queries").link_bytes == Approx(61 * 7.0 / 8 * 64 * 128 * 576 * 2));
  CHECK(line(split, "dcp_gather_sums").link_bytes == Approx(61 * 7.0 / 8 * 64 * 128 * 8 * 4));
  CHECK(line(split, "dcp_scatter_outputs").link_bytes == Approx(61 * 7.0 / 8 * 64 * 128 * 512 * 2));
  const StepBreakdown exchanged = pricer(vllm("deepseek-r1", 8, ", dcp_comm_backend: a2a")).explain(batch);
  CHECK(line(exchanged, "dcp_exchange_outputs").link_bytes == Approx(61 * 7.0 / 8 * 64 * 128 * 514 * 2));
  CHECK_FALSE(has_line(exchanged, "dcp_gather_sums"));
  // The first rank is ahead by half an interleave of 64, times 7/8.
  const StepBreakdown wide =
      pricer(vllm("deepseek-r1", 8, ", block_size: 64, cp_kv_cache_interleave_size: 64")).explain(batch);
  CHECK(line(wide, "attention_decode").flops ==
        Approx(61 * 2.0 * 1088 * 128 * 64 * (16385.0 / 8 + 64 * 7.0 / 16)).epsilon(1e-4));
}

TEST_CASE(
    "vLLM: what prompts have in the cache is gathered whole for latents, looked at in parts for heads") {
  const std::vector<PrefillChunk> first{{2048, 0}}, later{{2048, 30'720}};
  const StepPricer latent = pricer(vllm("deepseek-r1", 8));
  CHECK(line(latent.explain(prompts(first)), "dcp_gather_cache").link_bytes == 0);
  CHECK(line(latent.explain(prompts(later)), "dcp_gather_cache").link_bytes ==
        Approx(61 * 7.0 / 8 * 30720 * 576 * 2));
  CHECK(latent.price(prompts(later)).busy > pricer(vllm("deepseek-r1", 1)).price(prompts(later)).busy);
  const StepPricer heads = pricer(vllm("qwen3-30b-a3b", 2)), whole = pricer(vllm("qwen3-30b-a3b", 1));
  // 48 layers, 4 heads a rank, 128 wide: past and new tokens apart, together what they were.
  const double per_pair = 48 * 4 * 4 * 128.0;
  const StepBreakdown step = heads.explain(prompts(later));
  CHECK(line(step, "attention_new_tokens").flops == Approx(per_pair * pairs({{2048, 0}})));
  CHECK(line(step, "attention_prefill").flops == Approx(per_pair * 2 * 2048 * (30'720 / 2.0)).epsilon(0.001));
  CHECK(line(whole.explain(prompts(later)), "attention_prefill").flops == Approx(per_pair * pairs(later)));
  CHECK(line(heads.explain(prompts(first)), "attention_prefill").flops == 0);
}

TEST_CASE("context parallelism that the engines do not run, or that is not modelled, is refused by name") {
  const std::string v = "engine: vllm-0.24\n", s = "engine: sglang-0.5\n";
  CHECK(refused(v + "model: qwen3-8b\nparallel: {cp: 2}\n", "no attention backend of vLLM 0.24"));
  CHECK(refused("engine: tensorrt-llm-1.2\nmodel: qwen3-8b\nparallel: {cp: 2}\n", "Helix"));
  const std::string two = "engine_args: {decode_context_parallel_size: 2}\n";
  CHECK(refused(v + "model: qwen3-8b\nparallel: {tp: 8}\n" + two, "at most tp / KV heads = 8 / 8"));
  CHECK(refused(v + "model: deepseek-r1\nparallel: {tp: 8}\nengine_args: {decode_context_parallel_size: 3}\n",
                "must divide tp = 8"));
  CHECK(refused(v + "model: deepseek-r1\nparallel: {tp: 8}\nkv_cache_dtype: fp8\n" + two, "8-bit latents"));
  CHECK(refused(v + "model: deepseek-v3.2\nparallel: {tp: 8}\n" + two, "can_return_lse_for_decode"));
  CHECK(refused(v + "model: gpt-oss-20b\nparallel: {tp: 16}\n" + two, "a sliding window"));
  CHECK(refused(v + "model: qwen3-30b-a3b\nparallel: {tp: 8}\nengine_args: {dcp_comm_backend: a2a}\n",
                "requires decode_context_parallel_size"));
  CHECK(refused(s + "model: llama-3.1-8b\nparallel: {cp: 2}\n", "not for LlamaForCausalLM"));
  CHECK(refused(s + "model: qwen3-30b-a3b\nparallel: {cp: 2, dp: 2}\n", "attention data parallelism"));
  CHECK(refused(s + "model: qwen3-30b-a3b\nparallel: {cp: 2}\nengine_args: {enable_prefill_cp: true}\n",
                "needs cp_strategy"));
  CHECK(refused(s + "model: qwen3-30b-a3b\nparallel: {cp: 4}\nengine_args: {moe_dp_size: 2}\n",
                "must be 1 or cp"));
  CHECK(refused(s + "model: qwen3-30b-a3b\nparallel: {cp: 2}\nengine_args: {dcp_size: 2}\n",
                "decode context parallelism"));
}

// Laws of kernels that leave most of a part idle: by hand, and where they take a price's place.
#include "costmodel/kernel_laws.h"

#include <string>

#include "catch.h"
#include "costmodel/hand_spec.h"
#include "costmodel/op_table.h"
#include "costmodel/ops/common.h"
#include "costmodel/step_pricer.h"
#include "priced_steps.h"
#include "read_instance.h"

using namespace orrery;
using Catch::Matchers::Contains;
using Catch::Matchers::WithinAbs;

namespace {

KernelLaws laws() {
  KernelLaws laws;
  laws.architecture = "sm_90a";
  laws.timed_on = "testpart";
  laws.product = TileLaw{.format = "fp8-block",
                         .rows = 128,
                         .columns = 128,
                         .depth = 128,
                         .start = hand::us(2),
                         .step = hand::us(1),
                         .gap = {},
                         .read = {},
                         .error = 0.1};
  laws.decode = BlockAttentionLaw{.above_blocks = 512,
                                  .longest = 8192,
                                  .unit_shared = hand::figure<Bytes>(65536),
                                  .start = hand::us(40),
                                  .key = hand::figure<Seconds>(100e-9),
                                  .further = hand::plain(0.5),
                                  .error = 0.2,
                                  .resident = 1};
  return laws;
}

OpCost price(const OpSpec& spec, const Roofline& roofline, bool decode, const StepInput& input) {
  const auto op = decode ? make_attention_decode(spec, roofline) : make_gemm(spec, roofline);
  return op->cost(input);
}

}  // namespace

TEST_CASE("tiles that do not split k take as long for one as for all units") {
  const TileLaw law = *laws().product;
  // 17 tiles on 132 units, 56 steps: 2 + 56 µs; the same for one row.
  CHECK_THAT(law.ns(132, 128, 2112, 7168), WithinAbs(58000, 1e-3));
  CHECK_THAT(law.ns(132, 1, 2112, 7168), WithinAbs(58000, 1e-3));
  CHECK_THAT(law.ns(132, 1, 128, 100), WithinAbs(3000, 1e-3));         // a step that is not full
  CHECK_THAT(law.ns(132, 129, 7168, 128), WithinAbs(3000, 1e-3));      // 112 tiles
  CHECK_THAT(law.ns(132, 257, 7168, 128), WithinAbs(2 * 3000, 1e-3));  // 168 tiles: two waves
}

TEST_CASE("a step of tiles takes no less than the weights of all of them") {
  TileLaw law = *laws().product;
  law.rows = 64;
  law.up_to = 1024;
  law.gap = hand::us(0.5);
  law.read = hand::figure<BytesPerSecond>(1e12);  // a tile's 16,384 bytes: 16.384 ns
  // One tile: its own walk. 100 tiles: 0.5 + 1.6384 µs a step, beyond its 1 µs.
  CHECK_THAT(law.ns(132, 1, 128, 1280, 1), WithinAbs(2000 + 10 * 1000, 1e-3));
  CHECK_THAT(law.ns(132, 1, 12800, 1280, 1), WithinAbs(2000 + 10 * 2138.4, 1e-3));
  CHECK_THAT(law.ns(132, 1, 12800, 1280, 2), WithinAbs(2000 + 10 * 3776.8, 1e-3));
  // Rows are read against the same weights: 400 tiles, four waves.
  CHECK_THAT(law.ns(132, 256, 12800, 1280, 1), WithinAbs(4 * 12000, 1e-3));
  double before = 0;
  for (std::int64_t n = 128; n <= 65536; n *= 2) {
    const double now = law.ns(132, 1, n, 4096, 1);
    CHECK(now >= before);
    before = now;
  }
  CHECK(law.holds("fp8-block", 1024));
  CHECK_FALSE(law.holds("fp8-block", 1025));
  CHECK_FALSE(law.holds("bf16", 1));
}

TEST_CASE("query heads are padded to the tile that decode attention runs on") {
  Roofline roofline = Roofline::create(hand::hardware()).value();
  OpSpec decode;
  decode.heads = 32;
  decode.kv_heads = 8;
  decode.head_dim = 128;
  StepShape shape;
  shape.decode_sequences = 1;
  shape.decode_context_tokens = 99999;
  StepInput input;
  input.tokens = 1;
  input.shape = &shape;
  const OpCost narrow = price(decode, roofline, true, input);
  KernelLaws wide;
  wide.architecture = "sm_90a";
  wide.timed_on = "testpart";
  wide.decode_rows = 128;
  roofline.set_laws(wide);
  const OpCost padded = price(decode, roofline, true, input);
  // 4 · 128 · 128 rows · 8 KV heads · 100,000 keys at 0.6 of 1,000 TFLOP/s; bytes and FLOPs stay.
  CHECK_THAT(padded.compute_ns, WithinAbs(4.0 * 128 * 128 * 8 * 1e5 / 600e12 * 1e9, 1e-3));
  CHECK_THAT(narrow.compute_ns * 8, WithinAbs(padded.compute_ns, 1e-3));
  CHECK(padded.bytes == narrow.bytes);
  CHECK(padded.flops == narrow.flops);
}

TEST_CASE("blocks that a unit holds follow from the scores that they keep") {
  BlockAttentionLaw law = *laws().decode;
  law.resolve(4096);  // 16,896 bytes of 65,536: three
  CHECK_THAT(law.resident, WithinAbs(2.0, 1e-12));
  law.resolve(8192);  // 33,280: one
  CHECK_THAT(law.resident, WithinAbs(1.0, 1e-12));
  law.resolve(1 << 20);  // no more than `longest` are kept
  CHECK_THAT(law.resident, WithinAbs(1.0, 1e-12));
  CHECK_FALSE(law.holds(16, 32));
  CHECK(law.holds(17, 32));
  // 64 sequences of 1,000 keys, 32 heads, on 100 units: 2048 · (40 + 100) µs ÷ 100.
  CHECK_THAT(law.ns(100, 64, 32, 64000), WithinAbs(2048 * 140e3 / 100, 1e-3));
}

TEST_CASE("a law comes before the roofline, for its format and its many blocks only") {
  Roofline roofline = Roofline::create(hand::hardware()).value();
  OpSpec product;
  product.n = 2112;
  product.k = 7168;
  product.format = {DType::fp8, DType::fp8, 1, 1, "fp8-block"};
  OpSpec decode;
  decode.heads = 32;
  decode.kv_heads = 8;
  decode.head_dim = 128;
  StepShape shape;
  shape.decode_sequences = 64;
  shape.decode_context_tokens = 64 * 999;
  StepInput input;
  input.tokens = 64;
  input.shape = &shape;
  const OpCost plain_product = price(product, roofline, false, input);
  const OpCost plain_decode = price(decode, roofline, true, input);
  roofline.set_laws(laws());
  const OpCost slow = price(product, roofline, false, input);
  CHECK_THAT(slow.ns(), WithinAbs(58000, 1e-3));
  CHECK(slow.rung == Rung::published);
  CHECK(slow.ns() > plain_product.ns());
  CHECK(slow.bytes == plain_product.bytes);
  const OpCost walked = price(decode, roofline, true, input);
  CHECK_THAT(walked.ns(), WithinAbs(laws().decode->ns(132, 64, 32, 64000) + plain_decode.memory_ns, 1e-3));
  // Another format, few blocks, another part.
  product.format.label = "fp8-tensor";
  CHECK(price(product, roofline, false, input).rung == Rung::roofline);
  shape.decode_sequences = 16;
  shape.decode_context_tokens = 16 * 999;
  CHECK(price(decode, roofline, true, input).table_ns == 0);
  KernelLaws carried = laws();
  carried.timed_on = "another";
  roofline.set_laws(carried);
  product.format.label = "fp8-block";
  const OpCost transported = price(product, roofline, false, input);
  CHECK(transported.rung == Rung::transported);
  CHECK(transported.error > slow.error);
}

// Profiles of one layer's decode attention over 255,000 tokens on a card with 64 units, 16 query and 2 KV
// heads (mattbucci/2x-R9700-RDNA4-GFX1201-sglang-inference, coder-reap-25b-256k-kvsplit-ab.json): 46.4
// to 19.3 ms in 48 layers. The law was read off them; heads of 256 and other tiles were not there.
TEST_CASE("shares of a sequence's keys: a walk of one block each, until blocks share units") {
  const Read r = read("hardware: r9700\nmodel: qwen3-30b-a3b\nengine: sglang-0.5\nparallel: {tp: 2}\n");
  REQUIRE(r.spec.engine.kernel_laws.size() == 1);
  REQUIRE(r.spec.engine.kernel_laws[0].split_decode);
  SplitAttentionLaw law = *r.spec.engine.kernel_laws[0].split_decode;
  CHECK(law.splits == 16);
  CHECK(law.of(64) == nullptr);
  for (const auto& [splits, ms] : {std::pair{16, 46.4}, {32, 26.1}, {48, 21.2}, {64, 19.3}}) {
    law.splits = splits;
    CAPTURE(splits);
    CHECK(law.ns(64, 1, 16, 2, 128, 255'000) * 48e-6 == Approx(ms).epsilon(0.07));
  }
  law.splits = 16;
  const double one = law.ns(64, 1, 16, 2, 128, 64'000);
  CHECK_THAT(one, WithinAbs(64'000 / 16 * 64.0, 1e-6));                  // 32 blocks on 64 units
  CHECK_THAT(law.ns(64, 2, 16, 2, 128, 128'000), WithinAbs(one, 1e-6));  // a block each
  CHECK_THAT(law.ns(64, 4, 16, 2, 128, 256'000), WithinAbs(1.58 * one, 1e-3));
  CHECK_THAT(law.ns(64, 1, 16, 2, 128, 4), WithinAbs(64.0, 1e-9));  // no share is less than a key
  const Read more = read(
      "hardware: r9700\nmodel: qwen3-8b\nengine: sglang-0.5\nengine_args: {triton_attention_num_kv_splits: "
      "64}\n");
  REQUIRE(more.spec.engine.kernel_laws.size() == 1);
  CHECK(more.spec.engine.kernel_laws[0].split_decode->splits == 64);
}

// 8 query heads on each of two KV heads leave half of the units idle; 4 on each of four do not.
TEST_CASE("where keys take longer from memory than the walk, a price is the roofline's and is called so") {
  const auto attention = [](const std::string& model, std::int64_t splits, std::int32_t sequences = 1,
                            std::int64_t context = 16384) {
    const Read r = read("hardware: r9700\nmodel: " + model +
                        "\nengine: sglang-0.5\nparallel: {tp: 2}\nengine_args: "
                        "{triton_attention_num_kv_splits: " +
                        std::to_string(splits) + "}\n");
    if (!r.errors.empty()) FAIL(to_string(r.errors));
    const StepBreakdown step = pricer(r.spec).explain(decodes(sequences, context));
    for (const OpLine& op : step.ops) {
      if (op.name == "attention_decode") return op;
    }
    FAIL("no attention");
    return OpLine{};
  };
  CHECK(attention("qwen3-30b-a3b", 16).rung == "published");
  const OpLine bytes = attention("qwen3-8b", 16);
  CHECK(bytes.rung == "roofline");
  CHECK(bytes.bound == "memory");
  CHECK(bytes.time_ns == attention("qwen3-8b", 64).time_ns);
  // Short ones of many: no waves of tiles, which are another kernel's.
  const OpLine many = attention("qwen3-8b", 16, 128, 20);
  CHECK(many.rung == "roofline");
  CHECK(many.time_ns < 3 * attention("qwen3-8b", 16, 1, 20).time_ns);
}

TEST_CASE("a law's kernel floor is every kernel's") {
  Roofline roofline = Roofline::create(hand::hardware()).value();
  KernelLaws floor;
  floor.architecture = "sm_90a";
  floor.timed_on = "testpart";
  roofline.set_laws(floor);
  CHECK_THAT(roofline.kernel_floor_ns(), WithinAbs(1300, 1e-6));  // none given: the part's
  floor.kernel_floor = hand::us(5);
  roofline.set_laws(floor);
  CHECK_THAT(roofline.kernel_floor_ns(), WithinAbs(5000, 1e-6));
}

TEST_CASE("laws of a profile hold on parts of their architecture, for sequences as long as it serves") {
  const auto laws_of = [](const std::string& part, const std::string& engine, const std::string& more = "") {
    const Read r = read("hardware: " + part + "\nmodel: llama-3.1-8b\nengine: " + engine + "\n" + more);
    if (!r.errors.empty()) FAIL(to_string(r.errors));
    const std::vector<KernelLaws>& all = r.spec.engine.kernel_laws;
    CHECK(all.size() <= 1);
    return all.empty() ? std::optional<KernelLaws>() : std::optional<KernelLaws>(all.front());
  };
  for (const std::string part : {"mi300x", "mi325x"}) {
    for (const auto& [length, resident] : {std::pair{"4096", 2.0}, std::pair{"8192", 1.0}}) {
      CAPTURE(part, length);
      const auto laws =
          laws_of(part, "vllm-0.5-rocm", "engine_args: {max_model_len: " + std::string(length) + "}\n");
      REQUIRE(laws);
      REQUIRE(laws->decode);
      CHECK_THAT(laws->decode->resident, WithinAbs(resident, 1e-12));
    }
    const auto products = laws_of(part, "sglang-0.5.9");
    REQUIRE(products);
    CHECK(products->product);
  }
  for (const std::string part : {"h100", "r9700"}) {  // another vendor, and another architecture of the same
    CHECK_FALSE(laws_of(part, "vllm-0.5-rocm"));
    const auto others = laws_of(part, "sglang-0.5.9");  // its base's of another architecture stay
    CHECK_FALSE((others && others->product));
  }
  // One profile, laws of several architectures.
  const auto ada = laws_of("l40s", "sglang-0.5"), hopper = laws_of("h20", "sglang-0.4");
  REQUIRE(ada);
  REQUIRE(hopper);
  CHECK(ada->product->format == "fp8-block");
  CHECK(hopper->product->format == "bf16");
  CHECK(hopper->decode_rows == 128);
  const auto today = laws_of("h20", "sglang-0.5");
  CHECK((today && today->shared_among_routed && !today->product && today->decode_rows == 0));
  CHECK_FALSE(laws_of("h100", "vllm-0.5"));
}

TEST_CASE("a law without its figures is a located error") {
  const auto document = YamlDocument::parse(
      "kernel_laws: {architecture: gfx942, timed_on: mi300x, product: {format: fp8-block, rows: 128, "
      "columns: 0}}",
      "e.yaml");
  YamlDocument& d = const_cast<YamlDocument&>(document.value());
  read_kernel_laws(d.root().optional("kernel_laws"));
  const std::string errors = to_string(d.errors());
  CHECK_THAT(errors, Contains("kernel_laws.product.columns"));
  CHECK_THAT(errors, Contains("kernel_laws.product.step"));
}

TEST_CASE("two laws of one architecture in a profile are refused: only one could hold") {
  const std::string law = "  - {architecture: sm_89, timed_on: l40s, decode_rows: 64}\n";
  const auto document = YamlDocument::parse("kernel_laws:\n" + law + law, "e.yaml");
  YamlDocument& d = const_cast<YamlDocument&>(document.value());
  read_kernel_laws(d.root().optional("kernel_laws"));
  CHECK_THAT(to_string(d.errors()), Contains("kernel_laws[1]"));
}

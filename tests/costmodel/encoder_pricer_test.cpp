// The encoder's price: work that follows from its shapes, and laws that any price keeps.
#include "costmodel/encoder_pricer.h"

#include <memory>

#include "../catch.h"
#include "costmodel/memory_plan.h"
#include "hand_spec.h"
#include "read_instance.h"

using namespace orrery;

namespace {

// Shape of Qwen2.5-VL's encoder.
VisionSpec vision() {
  VisionSpec v;
  v.layers = 32;
  v.hidden = 1280;
  v.heads = 16;
  v.head_dim = 80;
  v.intermediate = 3420;
  v.gated = true;
  v.patch = 14;
  v.frames = 2;
  v.merge = 2;
  v.out_hidden = 4096;
  v.merger_hidden = 5120;
  v.window = 112;
  v.full_layers = 4;
  v.min_pixels = 3136;
  v.max_pixels = 12845056;
  return v;
}

InstanceSpec spec(const VisionSpec& v, std::int32_t tp = 1) {
  InstanceSpec s = hand::instance(hand::dense(), tp);
  s.model.vision = std::make_shared<const VisionSpec>(v);
  s.hardware.pcie_bandwidth = hand::figure<BytesPerSecond>(50e9);
  return s;
}

double flops(const std::vector<OpLine>& lines, const char* name) {
  for (const OpLine& line : lines) {
    if (line.name == name) return line.flops;
  }
  return -1;
}

}  // namespace

TEST_CASE("Products and attention do the work that the shapes say") {
  const EncoderPricer pricer = EncoderPricer::create(spec(vision())).value();
  const EncoderImage image{64, 48, 1};
  const auto lines = pricer.explain({&image, 1});
  const double p = 64 * 48;
  CHECK(flops(lines, "qkv") == Approx(32 * 2 * p * 3 * 1280 * 1280));
  CHECK(flops(lines, "gate_up") == Approx(32 * 2 * p * 2 * 3420 * 1280));
  CHECK(flops(lines, "merger_fc1") == Approx(2 * p / 4 * 5120 * 5120));
  CHECK(flops(lines, "attention_image") == Approx(4 * 4.0 * 1280 * p * p));
  CHECK(flops(lines, "attention_windows") == Approx(28 * 4.0 * 1280 * 48 * 64.0 * 64.0));  // 48 windows of 64
}

TEST_CASE("Windows at the border are as small as what is left") {
  const EncoderPricer pricer = EncoderPricer::create(spec(vision())).value();
  const EncoderImage image{12, 20, 1};  // 8 + 4 rows, 8 + 8 + 4 columns
  const auto lines = pricer.explain({&image, 1});
  const double pairs = 2 * 64.0 * 64 + 32.0 * 32 + 2 * 32.0 * 32 + 16.0 * 16;
  CHECK(flops(lines, "attention_windows") == Approx(28 * 4.0 * 1280 * pairs));
}

TEST_CASE("Lines sum exactly to the device time; more patches never take less") {
  const EncoderPricer pricer = EncoderPricer::create(spec(vision())).value();
  std::int64_t before = 0;
  for (std::int32_t side = 4; side <= 256; side += 4) {
    const EncoderImage image{side, side, 1};
    std::int64_t sum = 0;
    for (const OpLine& line : pricer.explain({&image, 1})) sum += line.time_ns;
    const EncoderTiming timing = pricer.price({&image, 1});
    CHECK(sum == timing.busy);
    CHECK(timing.busy >= before);
    CHECK(timing.launch > 0);
    before = timing.busy;
  }
}

TEST_CASE("Two images together take less than one after the other, and no less than the larger one") {
  const EncoderPricer pricer = EncoderPricer::create(spec(vision())).value();
  const EncoderImage both[] = {{32, 32, 1}, {64, 32, 1}};
  const std::int64_t together = pricer.price(both).busy;
  CHECK(together < pricer.price({both, 1}).busy + pricer.price({both + 1, 1}).busy);
  CHECK(together > pricer.price({both + 1, 1}).busy);
}

TEST_CASE("Tensor parallelism shares out an image, data parallelism the images") {
  InstanceSpec weights = spec(vision(), 2), data = spec(vision(), 2);
  data.engine.settings.encoder.data_parallel = true;
  const EncoderPricer one = EncoderPricer::create(spec(vision())).value();
  const EncoderPricer split = EncoderPricer::create(weights).value();
  const EncoderPricer dealt = EncoderPricer::create(data).value();
  const EncoderImage images[] = {{96, 96, 1}, {96, 96, 1}};
  CHECK(flops(split.explain(images), "qkv") == Approx(flops(one.explain(images), "qkv") / 2));
  CHECK(flops(split.explain(images), "attention_image") ==
        Approx(flops(one.explain(images), "attention_image") / 2));
  // Each rank takes one of two equal images; then their outputs are gathered.
  const std::int64_t alone = one.price({images, 1}).busy, shared = dealt.price(images).busy;
  CHECK(shared > alone);
  CHECK(static_cast<double>(shared) < 1.1 * static_cast<double>(alone));
  // A single image occupies one rank only.
  CHECK(dealt.price({images, 1}).busy >= alone);
  CHECK(encoder_memory(weights).weights.value() < 0.55 * encoder_memory(data).weights.value());
}

TEST_CASE("The memory plan holds the encoder, and what profiling it takes unless that is skipped") {
  InstanceSpec text = hand::instance(hand::dense()), images = spec(vision());
  for (InstanceSpec* s : {&text, &images}) {
    s->engine.settings.max_model_len = 32768;
    s->engine.settings.gpu_memory_utilization = 0.9;
  }
  EncoderSettings& settings = images.engine.settings.encoder;
  settings.compute_budget = settings.cache_size = 16384;
  settings.videos = false;
  const MemoryPlan without = plan_memory(text).value(), with = plan_memory(images).value();
  CHECK(with.encoder.value() == Approx(2.0 * static_cast<double>(vision().parameters())));
  CHECK((with.weights - without.weights).value() == Approx(with.encoder.value()));
  CHECK(with.activation_peak > without.activation_peak);
  CHECK(with.kv_blocks < without.kv_blocks);
  settings.skip_profiling = true;
  CHECK(plan_memory(images).value().activation_peak == without.activation_peak);
}

TEST_CASE("A part without a host link cannot be given images") {
  InstanceSpec s = spec(vision());
  s.hardware.pcie_bandwidth = {};
  const auto made = EncoderPricer::create(s);
  REQUIRE_FALSE(made.ok());
  CHECK(made.errors().front().message.find("pcie_bandwidth") != std::string::npos);
}

// reports/cases/h200_vllm_0_24_features (profsmall_b1.prompt): 426 kernels and copies before the language
// model's first norm, of which some fifty are the pass's own copies and indices; 16 ms of launches, in which
// the Python of 27 rotary embeddings and attentions takes as long as 1.5 and 2.4 kernels each.
TEST_CASE("Qwen3-VL's encoder launches the kernels of its profile, whatever the image") {
  Read r = read("hardware: h200\nmodel: qwen3-vl-8b\nengine: vllm-0.24\n");
  REQUIRE(r.errors.empty());
  const EncoderPricer pricer = EncoderPricer::create(r.spec).value();
  const EncoderImage small{30, 40, 1}, large{68, 120, 1};
  const double kernels = static_cast<double>(pricer.price({&small, 1}).launch) / 37'000 - 27 * 3.9;
  CHECK(kernels > 0.85 * 426);
  CHECK(kernels < 426);
  CHECK(pricer.price({&large, 1}).launch == pricer.price({&small, 1}).launch);
}

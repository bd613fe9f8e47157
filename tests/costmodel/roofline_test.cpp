// Physics: no step beats the roofline, faster parts are never slower, flops and bytes are those of the model.
#include "costmodel/roofline.h"

#include <algorithm>

#include "catch.h"
#include "costmodel/collective.h"
#include "costmodel/hand_spec.h"
#include "costmodel/step_pricer.h"

using namespace orrery;

namespace {

StepBreakdown explain(const InstanceSpec& spec, const StepShape& shape) {
  const auto pricer = StepPricer::create(spec);
  REQUIRE(pricer.ok());
  return pricer.value().explain(shape);
}

double total_flops(const StepBreakdown& b) {
  double sum = 0;
  for (const OpLine& line : b.ops) sum += line.flops;
  return sum;
}

const OpLine& line_of(const StepBreakdown& b, const std::string& name) {
  const auto found =
      std::find_if(b.ops.begin(), b.ops.end(), [&](const OpLine& l) { return l.name == name; });
  REQUIRE(found != b.ops.end());
  return *found;
}

StepShape mixed(const std::vector<PrefillChunk>& chunks, std::int32_t decodes, std::int64_t context) {
  StepShape shape = hand::decode(decodes, context);
  shape.prefill = chunks;
  return shape;
}

const std::vector<PrefillChunk> two_chunks{{2048, 0}, {512, 4096}};

}  // namespace

TEST_CASE("no operator beats the roofline of the data sheet") {
  for (ModelSpec model :
       {hand::dense(), hand::dense(DType::fp8), hand::mixture(), hand::mixture(DType::fp8)}) {
    InstanceSpec spec = hand::instance(model, 2);
    for (auto& [name, efficiency] : spec.hardware.efficiency) efficiency.value.value = 1;
    const double fastest = spec.hardware.matrix_rate[DType::fp8].value.value();
    const double bandwidth = spec.hardware.memory_bandwidth.value.value();
    for (const std::int32_t decodes : {1, 17, 300, 900}) {
      for (const OpLine& line : explain(spec, mixed(two_chunks, decodes, decodes * 2000)).ops) {
        INFO(line.name << " " << line.shape);
        const double seconds = static_cast<double>(line.time_ns + 1) * 1e-9;
        CHECK(seconds >= line.flops / fastest);
        CHECK(seconds >= line.bytes / bandwidth);
        CHECK(seconds >= line.link_bytes / 450e9);
        // A kernel is never shorter than the floor; decodes beside prompt chunks ride in the chunks' launch.
        if (line.name != "attention_decode") CHECK(line.time_ns >= line.count * 1290);
      }
    }
  }
}

TEST_CASE("a faster part is never slower") {
  const InstanceSpec base = hand::instance(hand::mixture(DType::fp8), 2);
  const auto faster = [&](auto change) {
    InstanceSpec spec = base;
    change(spec.hardware);
    for (const std::int32_t decodes : {1, 64, 500}) {
      for (const auto& chunks : {std::vector<PrefillChunk>{}, two_chunks}) {
        const StepShape shape = mixed(chunks, decodes, decodes * 3000);
        CHECK(explain(spec, shape).timing.busy <= explain(base, shape).timing.busy);
      }
    }
  };
  faster([](HardwareProfile& h) { h.memory_bandwidth.value = BytesPerSecond(8e12); });
  faster([](HardwareProfile& h) {
    h.matrix_rate[DType::bf16].value = h.matrix_rate[DType::fp8].value = FlopsPerSecond(3e15);
  });
  faster([](HardwareProfile& h) {
    h.link_bandwidth.value = h.link_pair_bandwidth.value = BytesPerSecond(900e9);
  });
  faster([](HardwareProfile& h) { h.kernel_floor.value = Seconds(0.5e-6); });
  faster([](HardwareProfile& h) { h.l2.value = h.last_level_cache.value = Bytes(256e6); });
}

TEST_CASE("a dense forward does two operations per parameter and token") {
  const ModelSpec model = hand::dense();
  double parameters = 0;  // of the layers; the embedding is a look-up, lm_head sees one row per sequence
  for (const WeightTensor& t : model.layer_kinds[0].weights)
    parameters += static_cast<double>(t.parameters());
  parameters *= static_cast<double>(model.layers);
  const PrefillChunk chunk{4096, 0};
  const StepBreakdown b = explain(hand::instance(model), hand::prefill({&chunk, 1}));
  const double attention = line_of(b, "attention_prefill").flops;
  CHECK(attention == Approx(36.0 * 4 * 32 * 128 * (4096.0 * 4097 / 2)));
  CHECK(total_flops(b) - attention == Approx(2 * parameters * 4096).epsilon(0.02));
}

TEST_CASE("an MoE forward does two operations per active parameter and token") {
  const ModelSpec model = hand::mixture();
  const double layer = 2048.0 * 4096 * 2 + 2 * 512.0 * 2048 + 128.0 * 2048 + 8 * 3 * 768.0 * 2048;
  const PrefillChunk chunk{4096, 0};
  const StepBreakdown b = explain(hand::instance(model), hand::prefill({&chunk, 1}));
  CHECK(total_flops(b) - line_of(b, "attention_prefill").flops ==
        Approx(2 * 48 * layer * 4096).epsilon(0.02));
}

TEST_CASE("a shared expert serves every token") {
  ModelSpec model = hand::mixture();
  const PrefillChunk chunk{4096, 0};
  const double without = total_flops(explain(hand::instance(model), hand::prefill({&chunk, 1})));
  model.shared_expert_intermediate = 1024;
  model.layer_kinds[0].weights.push_back(hand::tensor("shared_expert.gate_proj", 1024, 2048));
  model.layer_kinds[0].weights.push_back(hand::tensor("shared_expert.down_proj", 2048, 1024));
  const double with = total_flops(explain(hand::instance(model), hand::prefill({&chunk, 1})));
  CHECK(with - without == Approx(48 * 2.0 * 4096 * 3 * 1024 * 2048));
}

TEST_CASE("decode attention reads the KV cache once") {
  for (const std::int32_t tp : {1, 2, 8}) {
    const StepBreakdown b = explain(hand::instance(hand::dense(), tp), hand::decode(64, 64 * 4096));
    // Contexts and the new tokens themselves; 8 KV heads over tp ranks, K and V, bf16, 36 layers.
    const double heads = 8.0 / tp;
    CHECK(line_of(b, "attention_decode").bytes == Approx(36.0 * (64 * 4096 + 64) * heads * 128 * 2 * 2));
    CHECK(line_of(b, "kv_write").bytes == Approx(36.0 * 64 * heads * 128 * 2 * 2));
  }
  InstanceSpec fp8_cache = hand::instance(hand::dense());
  fp8_cache.model.kv_dtype = DType::fp8;
  const StepBreakdown b = explain(fp8_cache, hand::decode(64, 64 * 4096));
  CHECK(line_of(b, "attention_decode").bytes == Approx(36.0 * (64 * 4096 + 64) * 8 * 128 * 2));
}

TEST_CASE("tensor parallelism splits the work, and never does less of it") {
  const StepBreakdown one = explain(hand::instance(hand::dense()), mixed(two_chunks, 64, 64'000));
  for (const std::int32_t tp : {2, 4, 8, 16}) {
    const StepBreakdown b = explain(hand::instance(hand::dense(), tp), mixed(two_chunks, 64, 64'000));
    CHECK(tp * total_flops(b) >= total_flops(one) * (1 - 1e-12));
    // 8 KV heads: above tp = 8 they are replicated, so the fused qkv of all ranks together grows.
    if (tp <= 8) CHECK(tp * line_of(b, "qkv_proj").flops == Approx(line_of(one, "qkv_proj").flops));
    if (tp > 8) CHECK(tp * line_of(b, "qkv_proj").flops > line_of(one, "qkv_proj").flops);
    CHECK(tp * line_of(b, "down_proj").flops == Approx(line_of(one, "down_proj").flops));
    CHECK(line_of(b, "attention_all_reduce").count == 36);
  }
}

TEST_CASE("sliding-window layers stop reading at the window") {
  ModelSpec model = hand::dense();
  model.layer_kinds[0].sliding_window = 128;
  const StepBreakdown shorter = explain(hand::instance(model), hand::decode(16, 16 * 1000));
  const StepBreakdown longer = explain(hand::instance(model), hand::decode(16, 16 * 100'000));
  CHECK(line_of(shorter, "attention_decode").bytes == Approx(36.0 * 16 * 128 * 8 * 128 * 2 * 2));
  CHECK(longer.timing.busy == shorter.timing.busy);
  const PrefillChunk inside{128, 0};
  const PrefillChunk outside{128, 5000};
  const double first =
      line_of(explain(hand::instance(model), hand::prefill({&inside, 1})), "attention_prefill").flops;
  const double later =
      line_of(explain(hand::instance(model), hand::prefill({&outside, 1})), "attention_prefill").flops;
  CHECK(first == Approx(36.0 * 4 * 32 * 128 * (128 * 129 / 2)));
  CHECK(later == Approx(36.0 * 4 * 32 * 128 * (128.0 * 128)));
}

TEST_CASE("custom all-reduce below its limit, library above") {
  const auto roofline = Roofline::create(hand::hardware());
  REQUIRE(roofline.ok());
  const auto cost = [&](double bytes, std::int32_t ranks) {
    return collective_cost(roofline.value(), Collective::all_reduce, bytes, ranks);
  };
  const double mib = 1024 * 1024;
  CHECK(cost(1024, 2).ns() >= 3500);
  CHECK(cost(8 * mib - 1, 2).latency_ns == Approx(3500));
  CHECK(cost(8 * mib, 2).latency_ns > 3500);
  CHECK(cost(256 * 1024, 8).latency_ns > cost(256 * 1024 - 1, 8).latency_ns);
  // Large: 2(n−1)/n of the buffer over the achieved link rate.
  CHECK(cost(1e9, 4).link_ns == Approx(1.5 * 1e9 / (450 * 0.75)));
  // A full mesh gives two ranks one link.
  HardwareProfile mesh = hand::hardware();
  mesh.link_pair_bandwidth = hand::figure<BytesPerSecond>(64e9);
  const auto meshed = Roofline::create(mesh);
  REQUIRE(meshed.ok());
  CHECK(meshed.value().link_rate(2) == Approx(64 * 0.75));
  CHECK(meshed.value().link_rate(8) == Approx(448 * 0.75));
}

#include "calibrate/median.h"

#include <cmath>

#include "base/random.h"
#include "calibrate/measure.h"
#include "catch.h"
#include "fake_device.h"

using namespace orrery;
using namespace orrery::calibrate;

TEST_CASE("ranks of the median's interval are those of the published tables") {
  // David and Nagaraja, Order Statistics, 3rd ed., table for the median: 95 %.
  CHECK(interval_rank(5, 0.95) == 0);
  CHECK(interval_rank(6, 0.95) == 1);
  CHECK(interval_rank(10, 0.95) == 2);
  CHECK(interval_rank(20, 0.95) == 6);
  CHECK(interval_rank(100, 0.95) == 40);
  CHECK(interval_rank(6, 0.98) == 0);
  CHECK(interval_rank(7, 0.98) == 1);
}

TEST_CASE("too few samples have no interval, and say so") {
  CHECK(std::isinf(median_interval({1, 1, 1, 1, 1}).spread));
  CHECK(median_interval({3, 1, 2}).median == 2);
  CHECK(median_interval({4, 1, 2, 3}).median == 2.5);
}

namespace {

// Noise of timings as they are seen: a normal core, a long right tail, and two modes.
double draw(RandomStream& random, int kind) {
  if (kind == 0) return 100 * (1 + 0.01 * random.normal());
  if (kind == 1) return 100 * (1 + random.exponential(0.02));
  return (random.uniform() < 0.6 ? 100 : 104) * (1 + 0.002 * random.normal());
}

double true_median(int kind) {
  if (kind == 0) return 100;
  if (kind == 1) return 100 * (1 + 0.02 * std::log(2.0));
  return -1;
}

}  // namespace

TEST_CASE("intervals that stop when they are narrow still hold the median in 95 of 100 cases") {
  for (const int kind : {0, 1}) {
    int covered = 0, stopped = 0;
    constexpr int trials = 4000;
    for (int trial = 0; trial < trials; ++trial) {
      RandomStream random(17, RandomPurpose::property_test, static_cast<std::uint64_t>(trial * 2 + kind));
      std::vector<double> samples;
      for (std::size_t wanted = 20; wanted <= 640; wanted *= 2) {
        while (samples.size() < wanted) samples.push_back(draw(random, kind));
        const MedianInterval i = median_interval(samples);
        if (i.spread > 0.01) continue;
        ++stopped;
        covered += i.low <= true_median(kind) && true_median(kind) <= i.high ? 1 : 0;
        break;
      }
    }
    INFO("kind " << kind << ": " << covered << " of " << stopped);
    CHECK(stopped > trials * 0.9);
    CHECK(covered >= stopped * 0.95);
  }
}

TEST_CASE("two modes never look converged while the median lies between them") {
  int lying = 0;
  for (std::uint64_t trial = 0; trial < 500; ++trial) {
    RandomStream random(18, RandomPurpose::property_test, trial);
    std::vector<double> samples;
    while (samples.size() < 40) samples.push_back(draw(random, 2));
    const MedianInterval i = median_interval(samples);
    // The true median is in the lower mode's upper flank (below 100.6).
    if (i.spread <= 0.01 && i.low > 101) ++lying;
  }
  CHECK(lying <= 5);
}

TEST_CASE("a quiet device stops after the first look, a noisy one is said to be unconverged") {
  FakeWorld world;
  FakeDevice device(world);
  Arena arena(device, 0.5);
  const MakeCase make = fake_cases(world);
  const Measurement quiet = measure(gemm_point(64, 4096, 4096), device, arena, world.timer, make, {});
  CHECK(quiet.state == PointState::ok);
  CHECK(quiet.samples == 20);
  CHECK(quiet.us == Approx(law_ns(gemm_point(64, 4096, 4096).spec) / 1e3).epsilon(0.005));
  CHECK(quiet.spread <= 0.01);
  world.noise = 0.5;
  MeasureOptions options;
  const double before = world.timer.now;
  const Measurement noisy = measure(gemm_point(64, 4096, 4096), device, arena, world.timer, make, options);
  CHECK(noisy.state == PointState::unconverged);
  CHECK(noisy.spread > 0.01);
  CHECK(noisy.samples <= options.max_samples);
  CHECK(world.timer.now - before < options.cap_s + 0.2);
}

TEST_CASE("weights rotate over more than twice the last cache; activations stay warm") {
  FakeWorld world;
  FakeDevice device(world);
  Arena arena(device, 0.5);
  const MakeCase make = fake_cases(world);
  for (const std::int64_t n : {128, 1024, 4096, 151936}) {
    const Point p = gemm_point(8, n, 4096);
    measure(p, device, arena, world.timer, make, {});
    CHECK((world.sets_prepared - 1) * cold_bytes(p.spec) >= 2.0 * static_cast<double>(device.info_.l2_bytes));
  }
  Point norm;
  norm.spec.op = "rms_norm";
  norm.spec.m = 64;
  norm.spec.n = 4096;
  measure(norm, device, arena, world.timer, make, {});
  CHECK(world.sets_prepared == 1);
}

namespace {

Point prompts(std::int64_t tokens, std::int64_t context) {
  Point p;
  p.spec.op = "attention_prefill";
  p.spec.heads = 32;
  p.spec.kv_heads = 8;
  p.spec.head_dim = 128;
  p.spec.sequences = {{tokens, context}};
  p.table = table_of(p.spec);
  p.shape = shape_of(p.spec);
  return p;
}

}  // namespace

TEST_CASE("of several kernels for an operator the fastest that the device has is the figure") {
  FakeWorld world;
  world.noise = 0;
  world.takes = {{"attention_prefill", 3}, {"attention_prefill_wgmma", 1.5}, {"attention_prefill_cudnn", 1}};
  FakeDevice device(world);
  Arena arena(device, 0.5);
  const MakeCase make = fake_cases(world);
  const Measurement prompt = measure(prompts(2048, 0), device, arena, world.timer, make, {});
  CHECK(prompt.kernel == "fake.attention_prefill_cudnn");
  REQUIRE(prompt.slower.size() == 2);
  CHECK(prompt.slower[0].first == "fake.attention_prefill_wgmma");
  CHECK(prompt.slower[0].second == Approx(1.5 * prompt.us));
  CHECK(prompt.slower[1].second == Approx(3 * prompt.us));
  // A context lies in blocks, which cuDNN's kernel does not read.
  CHECK(measure(prompts(64, 4096), device, arena, world.timer, make, {}).kernel ==
        "fake.attention_prefill_wgmma");
  world.without = {"attention_prefill_wgmma"};
  const Measurement plain = measure(prompts(64, 4096), device, arena, world.timer, make, {});
  CHECK(plain.kernel == "fake.attention_prefill");
  CHECK(plain.state == PointState::ok);
  CHECK(plain.slower.empty());
  world.without = {"attention_prefill", "attention_prefill_wgmma", "attention_prefill_cudnn"};
  CHECK(measure(prompts(64, 0), device, arena, world.timer, make, {}).state == PointState::unsupported);
}

TEST_CASE(
    "scaled products are timed by library and by our own kernels, the plain form only where it is needed") {
  FakeWorld world;
  world.noise = 0;
  world.takes = {{"gemm", 2}, {"block_gemm_wgmma", 1.5}, {"block_gemm", 1}};
  FakeDevice device(world);
  Arena arena(device, 0.5);
  const MakeCase make = fake_cases(world);
  Point product;
  product.spec.op = "gemm";
  product.spec.dtype = "fp8-block";
  product.spec.m = 64;
  product.spec.n = product.spec.k = 4096;
  product.table = table_of(product.spec);
  product.shape = shape_of(product.spec);
  const Measurement hopper = measure(product, device, arena, world.timer, make, {});
  CHECK(hopper.kernel == "fake.block_gemm_wgmma");
  REQUIRE(hopper.slower.size() == 1);
  CHECK(hopper.slower[0].first == "fake.gemm");
  world.without = {"block_gemm_wgmma"};  // an L40S
  CHECK(measure(product, device, arena, world.timer, make, {}).kernel == "fake.block_gemm");
  product.spec.dtype = "bf16";
  CHECK(measure(product, device, arena, world.timer, make, {}).kernel == "fake.gemm");
}

TEST_CASE("a block product is a row of the table of what it does") {
  kernels::CaseSpec s;
  s.op = "block_gemm_wgmma";
  s.dtype = "fp8-block";
  s.m = 64;
  s.n = 256;
  s.k = 512;
  CHECK(table_of(s) == "gemm");
  CHECK(shape_of(s) == "fp8-block,64,256,512");
  CHECK(cold_bytes(s) == 256 * 512);
  s.rows = {3, 0, 5};
  CHECK(table_of(s) == "grouped_gemm");
  CHECK(shape_of(s) == "fp8-block,256,512,3 0 5");
  CHECK(cold_bytes(s) == 2 * 256 * 512);
}

TEST_CASE("what a prompt finds in the cache is cold, its own keys are not") {
  kernels::CaseSpec s;
  s.op = "mla_prefill_wgmma";
  s.heads = 16;
  s.sequences = {{512, 0}, {1024, 4096}};
  CHECK(cold_bytes(s) == 4096.0 * 16 * (192 + 128) * 2);
  s.op = "attention_prefill";
  s.kv_heads = 4;
  s.head_dim = 128;
  CHECK(cold_bytes(s) == 4096.0 * 2 * 4 * 128 * 2);
}

TEST_CASE("a launch that its library refused is a failure, not a very fast kernel") {
  FakeWorld world;
  world.refusal = "not for this shape";
  FakeDevice device(world);
  Arena arena(device, 0.5);
  const Measurement m = measure(gemm_point(1, 512, 512), device, arena, world.timer, fake_cases(world), {});
  CHECK(m.state == PointState::failed);
  CHECK(m.why == "not for this shape");
}

TEST_CASE("slower kernels of a point stay in the journal") {
  Measurement m;
  m.table = "grouped_gemm";
  m.shape = "bf16,64,64,4 0";
  m.kernel = "a";
  m.state = PointState::ok;
  m.us = 2;
  m.samples = 20;
  m.slower = {{"b", 2.5}, {"c", 3}};
  FakeWorld world;
  FakeDevice device(world);
  const std::string text = header_json(fake_header(device)).dump() + "\n";
  const auto back = parse_journal(text + measurement_json(m).dump() + "\n", "j");
  REQUIRE(back.ok());
  CHECK(back->points.at(0).slower == m.slower);
  Json broken = measurement_json(m);
  broken["slower"]["b"] = "fast";
  CHECK(parse_journal(text + broken.dump() + "\n", "j").errors().at(0).key == "slower");
}

TEST_CASE("throttled samples are retried once after a pause, then rejected") {
  FakeWorld world;
  FakeDevice device(world);
  Arena arena(device, 0.5);
  const MakeCase make = fake_cases(world);
  world.throttled_readings = 1;
  const Measurement retried = measure(gemm_point(1, 512, 512), device, arena, world.timer, make, {});
  CHECK(retried.state == PointState::ok);
  CHECK(world.timer.paused == Approx(0.5));
  world.throttled_readings = 100;
  const Measurement rejected = measure(gemm_point(1, 512, 512), device, arena, world.timer, make, {});
  CHECK(rejected.state == PointState::rejected);
  CHECK(rejected.why.find("64") != std::string::npos);
}

TEST_CASE("the arena takes what there is, hands out slices and takes them back") {
  FakeWorld world;
  FakeDevice device(world);
  device.memory_.largest = std::size_t{20} << 30;  // somebody else has the rest
  {
    Arena arena(device, 0.6);
    CHECK(arena.size() < device.memory_.largest);
    CHECK(arena.size() > device.memory_.largest / 2);
    auto* a = static_cast<unsigned char*>(arena.allocate(1000));
    auto* b = static_cast<unsigned char*>(arena.allocate(1));
    CHECK(b - a == 1280);
    CHECK(arena.allocate(arena.size()) == nullptr);
    arena.release_all();
    CHECK(arena.allocate(1) == a);
  }
  CHECK(device.memory_.releases == 1);
}

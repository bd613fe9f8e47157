// What a price costs: nanoseconds per shape, one JSON object a line (tools/bench_report.py reads them).
// Shapes vary from call to call, so that no answer can be remembered.
#include <chrono>
#include <cstdint>
#include <cstdio>

#include "costmodel/hand_spec.h"

namespace orrery {
namespace {

// Nanoseconds per call of work(i), over at least a fifth of a second. `work` returns a number that is summed
// and printed, so that nothing is optimised away.
template <class Work>
void measure(const char* model, const char* shape, std::int64_t limit_ns, Work work) {
  std::int64_t checksum = 0;
  std::int64_t calls = 1;
  double seconds = 0;
  while (seconds < 0.2) {
    calls *= 4;
    const auto start = std::chrono::steady_clock::now();
    for (std::int64_t i = 0; i < calls; ++i) checksum += work(i);
    seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  std::printf(
      "{\"bench\": \"price\", \"model\": \"%s\", \"shape\": \"%s\", \"ns\": %.1f, \"limit_ns\": %lld, "
      "\"calls\": "
      "%lld, \"checksum\": %lld}\n",
      model, shape, seconds / static_cast<double>(calls) * 1e9, static_cast<long long>(limit_ns),
      static_cast<long long>(calls), static_cast<long long>(checksum % 1'000'000'007));
}

void measure_model(const char* name, const ModelSpec& model) {
  const auto created = StepPricer::create(hand::instance(model, 2));
  if (!created.ok()) {
    std::fprintf(stderr, "%s\n", to_string(created.errors()).c_str());
    return;
  }
  const StepPricer& pricer = created.value();
  const auto count = [](std::int64_t i, std::int64_t modulus) {
    return static_cast<std::int32_t>(1 + i % modulus);
  };
  measure(name, "decode", 1000, [&](std::int64_t i) {
    return pricer.price(hand::decode(count(i, 900), i * 7919 % 4'000'000)).busy;
  });
  measure(name, "decode line", 1000,
          [&](std::int64_t i) { return pricer.decode_line(count(i, 900), i * 7919 % 4'000'000, 0).base; });
  measure(name, "two chunks and decodes", 1000, [&](std::int64_t i) {
    const PrefillChunk chunks[] = {{count(i * 131, 4000), 0}, {count(i, 512), i % 30'000}};
    StepShape shape = hand::decode(count(i, 256), 300'000);
    shape.prefill = chunks;
    return pricer.price(shape).busy;
  });
  measure(name, "prefill of 8193 to 16384", 1000, [&](std::int64_t i) {  // beyond the tables
    const PrefillChunk chunk{8192 + count(i * 131, 8192), 0};
    return pricer.price(hand::prefill({&chunk, 1})).busy;
  });
  measure(name, "summary of two chunks and decodes", 10'000, [&](std::int64_t i) {
    const PrefillChunk chunks[] = {{count(i * 131, 4000), 0}, {count(i, 512), i % 30'000}};
    StepShape shape = hand::decode(count(i, 256), 300'000);
    shape.prefill = chunks;
    return pricer.summarize(shape).step_ns;
  });
}

}  // namespace
}  // namespace orrery

int main() {
  orrery::measure_model("dense", orrery::hand::dense());
  orrery::measure_model("mixture", orrery::hand::mixture(orrery::DType::fp8));
}

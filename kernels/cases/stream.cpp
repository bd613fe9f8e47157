#include "kernels/stream.h"

#include <algorithm>

#include "kernels/case_table.h"
#include "kernels/cases/case_support.h"

namespace orrery::kernels {

namespace {

constexpr std::uint32_t pattern = 0x3F803F80;  // 1.0 twice in bf16

class StreamCase : public CaseOf<StreamLaunch> {
 public:
  StreamCase(const CaseSpec& spec, StreamKind kind)
      : CaseOf(spec, "orrery.stream_" + spec.op + ".v1", launch_stream), kind_(kind) {}

  CheckResult check(DeviceMemory& memory) override {
    Comparison comparison(kernel());
    if (kind_ == StreamKind::read) {
      std::uint32_t sum = 0;
      for (const std::uint32_t word : fetch(memory, first().sums, stream_most_blocks)) sum ^= word;
      comparison.exact("exclusive or", 0, 0, sum, sum_of_source(memory));
      return comparison.result();
    }
    constexpr std::int64_t row = 1024;  // words; the last row may be shorter
    const auto* in = static_cast<const std::uint32_t*>(first().source);
    const auto* out = static_cast<const std::uint32_t*>(first().destination);
    const std::int64_t words = spec_.bytes / 4;
    for (const std::int64_t r : sampled_rows((words + row - 1) / row, row, spec_.seed)) {
      const std::int64_t count = std::min(row, words - r * row);
      const auto actual = fetch(memory, out + r * row, count);
      std::vector<std::uint32_t> expected(actual.size(), pattern);
      if (kind_ == StreamKind::copy) expected = fetch(memory, in + r * row, count);
      for (std::size_t i = 0; i < actual.size(); ++i) {
        comparison.exact("word", r, static_cast<std::int64_t>(i), actual[i], expected[i]);
      }
    }
    return comparison.result();
  }
  double flops() const override { return 0; }
  double bytes() const override {
    return (kind_ == StreamKind::copy ? 2 : 1) * static_cast<double>(spec_.bytes);
  }

 protected:
  StreamLaunch operands(Operands& make) const override {
    StreamLaunch a;
    a.kind = kind_;
    if (kind_ != StreamKind::write) a.source = make.fp32(1, spec_.bytes / 4);
    if (kind_ != StreamKind::read) a.destination = make.output<std::uint8_t>(spec_.bytes);
    if (kind_ == StreamKind::read) a.sums = make.zeroed<std::uint32_t>(stream_most_blocks);
    a.bytes = spec_.bytes;
    a.pattern = pattern;
    return a;
  }

 private:
  std::uint32_t sum_of_source(DeviceMemory& memory) const {
    constexpr std::int64_t chunk = 1 << 24;  // words: sources may be larger than this machine's memory likes
    std::uint32_t sum = 0;
    const auto* source = static_cast<const std::uint32_t*>(first().source);
    for (std::int64_t at = 0; at < spec_.bytes / 4; at += chunk) {
      for (const std::uint32_t word : fetch(memory, source + at, std::min(chunk, spec_.bytes / 4 - at)))
        sum ^= word;
    }
    return sum;
  }

  StreamKind kind_;
};

std::unique_ptr<KernelCase> make_stream(const CaseSpec& spec, StreamKind kind, std::string& why) {
  if (!needs(spec.bytes >= 16 && spec.bytes % 16 == 0, spec, "bytes, a multiple of 16", why)) return nullptr;
  return std::make_unique<StreamCase>(spec, kind);
}

}  // namespace

std::unique_ptr<KernelCase> make_copy_case(const CaseSpec& spec, std::string& why) {
  return make_stream(spec, StreamKind::copy, why);
}
std::unique_ptr<KernelCase> make_read_case(const CaseSpec& spec, std::string& why) {
  return make_stream(spec, StreamKind::read, why);
}
std::unique_ptr<KernelCase> make_write_case(const CaseSpec& spec, std::string& why) {
  return make_stream(spec, StreamKind::write, why);
}

}  // namespace orrery::kernels

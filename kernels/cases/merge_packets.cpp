#include "kernels/merge_packets.h"

#include <algorithm>

#include "base/random.h"
#include "kernels/case_table.h"
#include "kernels/cases/case_support.h"

namespace orrery::kernels {

namespace {

constexpr std::int64_t alignment = 16;
std::int64_t aligned(std::int64_t bytes) { return (bytes + alignment - 1) / alignment * alignment; }

// spec.m packets of about spec.bytes, from a pool where they lie in any order into one message.
class MergePacketsCase : public CaseOf<MergePacketsLaunch> {
 public:
  explicit MergePacketsCase(const CaseSpec& spec)
      : CaseOf(spec, "orrery.merge_packets.v1", launch_merge_packets) {
    // Neighbours differ: whole vectors, a few bytes more, and an empty one now and then.
    std::int64_t at = 0;
    for (std::int64_t i = 0; i < spec.m; ++i) {
      lengths_.push_back(i % 11 == 10 ? 0 : std::max<std::int64_t>(spec.bytes - i % 3 * 7, 1));
      starts_.push_back(at);
      at += aligned(lengths_.back());
    }
    message_ = at;
  }

  CheckResult check(DeviceMemory& memory) override {
    Comparison comparison(kernel());
    const auto packets = fetch(memory, first().packets, spec_.m);
    for (const std::int64_t i : sampled_rows(spec_.m, spec_.bytes, spec_.seed)) {
      const Packet& packet = packets[static_cast<std::size_t>(i)];
      const auto from = fetch(memory, static_cast<const std::uint8_t*>(packet.from), packet.bytes);
      // What lies between packets is nobody's.
      const auto to = fetch(memory, static_cast<const std::uint8_t*>(packet.to), aligned(packet.bytes));
      for (std::size_t b = 0; b < to.size(); ++b) {
        comparison.exact("byte", i, static_cast<std::int64_t>(b), to[b], b < from.size() ? from[b] : 0xFF);
      }
    }
    return comparison.result();
  }
  double flops() const override { return 0; }
  double bytes() const override {
    double all = 0;
    for (const std::int64_t length : lengths_) all += 2 * static_cast<double>(length);
    return all;
  }

 protected:
  MergePacketsLaunch operands(Operands& make) const override {
    MergePacketsLaunch a;
    const auto* pool = reinterpret_cast<const std::uint8_t*>(make.bf16(spec_.m, pitch() / 2));
    auto* message = make.output<std::uint8_t>(message_);
    std::vector<std::int64_t> order(static_cast<std::size_t>(spec_.m));
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<std::int64_t>(i);
    RandomStream random(make.next_seed(), RandomPurpose::kernel_operands);
    for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.below(i)]);
    std::vector<Packet> packets;
    for (std::size_t i = 0; pool != nullptr && message != nullptr && i < order.size(); ++i) {
      packets.push_back({pool + order[i] * pitch(), message + starts_[i], lengths_[i]});
    }
    packets.resize(order.size());
    a.packets = make.given(packets);
    a.count = static_cast<std::int32_t>(spec_.m);
    return a;
  }

 private:
  std::int64_t pitch() const { return aligned(spec_.bytes) + alignment; }  // of the pool

  std::vector<std::int64_t> lengths_, starts_;
  std::int64_t message_ = 0;
};

}  // namespace

std::unique_ptr<KernelCase> make_merge_packets_case(const CaseSpec& spec, std::string& why) {
  const bool good = spec.m >= 1 && spec.m < (std::int64_t{1} << 31) && spec.bytes >= 1;
  if (!needs(good, spec, "m packets and their bytes, both >= 1", why)) return nullptr;
  return std::make_unique<MergePacketsCase>(spec);
}

}  // namespace orrery::kernels

#include "kernels/kv_transfer.h"

#include <algorithm>

#include "base/random.h"
#include "kernels/case_table.h"
#include "kernels/cases/peer_case.h"

namespace orrery::kernels {

namespace {

enum class Way : std::uint8_t { whole, layers, copies, batch };
struct Operation {
  const char* op;
  Way way;
};
constexpr Operation operations[] = {{"kv_transfer", Way::whole},
                                    {"kv_transfer_layers", Way::layers},
                                    {"kv_transfer_copies", Way::copies},
                                    {"kv_transfer_batch", Way::batch}};

struct TransferLaunch {
  std::int32_t rank = 0;
  std::vector<unsigned char*> pools;   // of this rank, a layer each
  std::vector<std::int32_t> from, to;  // blocks, in order
  const std::int32_t* from_device = nullptr;
  const std::int32_t* to_device = nullptr;
  KvPools* pairs = nullptr;          // rank 0's, filled when both sides are known
  std::uint32_t* arrived = nullptr;  // rank 1's
  std::uint32_t* words = nullptr;
  std::vector<KvTransferLaunch> launches;  // rank 0's; one, or one a layer
  KvWaitLaunch wait;                       // rank 1's
};

// spec.m blocks of n bytes in k layers go from rank 0 to rank 1, pools twice as large. variant: blocks of
// threads.
class KvTransferCase : public PeerCaseOf<TransferLaunch> {
 public:
  KvTransferCase(const CaseSpec& spec, Way way)
      : PeerCaseOf(spec, way == Way::copies  ? "cuda.memcpy_peer"
                         : way == Way::batch ? "cuda.memcpy_batch"
                                             : "orrery." + spec.op + ".v1"),
        way_(way) {}

  CheckResult check(DeviceMemory&) override {
    Comparison comparison(kernel());
    const TransferLaunch &here = of_rank(0), &there = of_rank(1);
    const std::int64_t each = std::max<std::int64_t>(1, spec_.n / 8);
    for (std::size_t layer = 0; layer < here.pools.size(); ++layer) {
      for (const std::int64_t i : sampled_rows(spec_.m, each, spec_.seed + layer)) {
        const auto b = static_cast<std::size_t>(i);
        const auto sent = fetch(memory(0), here.pools[layer] + here.from[b] * spec_.n, spec_.n);
        const auto got = fetch(memory(1), there.pools[layer] + here.to[b] * spec_.n, spec_.n);
        for (std::size_t n = 0; n < sent.size(); ++n)
          comparison.exact("byte", i, static_cast<std::int64_t>(n), got[n], sent[n]);
      }
      // A block that nobody sent to is as it was.
      std::int32_t idle = 0;
      while (std::find(here.to.begin(), here.to.end(), idle) != here.to.end()) ++idle;
      for (const std::uint8_t byte : fetch(memory(1), there.pools[layer] + idle * spec_.n, spec_.n))
        comparison.exact("idle block", static_cast<std::int64_t>(layer), idle, byte, 0xFF);
    }
    if (talks()) check_words(comparison);
    return finish(comparison);
  }
  std::vector<unsigned char> received(std::int32_t rank) override {
    std::vector<unsigned char> all;
    if (rank == 0 || !talks()) return all;
    for (const unsigned char* pool : of_rank(1).pools) {
      const auto bytes = fetch(memory(1), pool, 2 * spec_.m * spec_.n);
      all.insert(all.end(), bytes.begin(), bytes.end());
    }
    return all;
  }
  double flops() const override { return 0; }
  double bytes() const override { return static_cast<double>(spec_.m * spec_.n * spec_.k); }

 protected:
  TransferLaunch operands(Operands& make, std::int32_t rank) const override {
    TransferLaunch a;
    a.rank = rank;
    for (std::int64_t layer = 0; layer < spec_.k; ++layer) {
      a.pools.push_back(rank == 0 ? reinterpret_cast<unsigned char*>(make.bf16(2 * spec_.m, spec_.n / 2))
                                  : make.output<unsigned char>(2 * spec_.m * spec_.n));
    }
    a.arrived = make.zeroed<std::uint32_t>(1);
    a.words = make.zeroed<std::uint32_t>(2);
    if (rank != 0) return a;
    RandomStream random(spec_.seed, RandomPurpose::kernel_operands, 3);
    for (std::vector<std::int32_t>* blocks : {&a.from, &a.to}) {
      for (std::int32_t b = 0; b < 2 * spec_.m; ++b) blocks->push_back(b);
      for (std::size_t i = blocks->size(); i > 1; --i)
        std::swap((*blocks)[i - 1], (*blocks)[random.below(i)]);
      blocks->resize(static_cast<std::size_t>(spec_.m));
    }
    a.from_device = make.given(a.from);
    a.to_device = make.given(a.to);
    a.pairs = make.output<KvPools>(spec_.k);
    return a;
  }
  void connect(std::vector<TransferLaunch>& of_ranks) const override {
    TransferLaunch &here = of_ranks[0], &there = of_ranks[1];
    std::vector<KvPools> pairs;
    for (std::size_t i = 0; i < here.pools.size(); ++i) pairs.push_back({here.pools[i], there.pools[i]});
    pairs_to(here, pairs);
    const bool layers = way_ == Way::layers;
    for (std::size_t i = 0; i < (layers ? pairs.size() : 1); ++i) {
      KvTransferLaunch t;
      t.pools = here.pairs + i;
      t.from_blocks = here.from_device;
      t.to_blocks = here.to_device;
      t.layers = layers ? 1 : static_cast<std::int32_t>(spec_.k);
      t.blocks = static_cast<std::int32_t>(spec_.m);
      t.block_bytes = spec_.n;
      t.arrived = there.arrived;
      t.words = here.words;
      t.thread_blocks = std::max(spec_.variant, 0);
      here.launches.push_back(t);
    }
    there.launches = here.launches;  // as many waits
    there.wait = {there.arrived, there.words};
  }
  void take_exchange(TransferLaunch& to, const TransferLaunch& from) const override {
    for (KvTransferLaunch& t : to.launches) {
      t.arrived = from.launches.front().arrived;
      t.words = from.launches.front().words;
    }
    to.wait = from.wait;
  }
  void start(std::int32_t rank, const TransferLaunch& a, Stream stream) override {
    if (!talks()) {
      if (rank == 0) copy(a, stream);
      return;
    }
    for (const KvTransferLaunch& t : a.launches) {
      if (rank == 0)
        launch_kv_transfer(t, stream);
      else
        launch_kv_wait(a.wait, stream);
    }
  }

 private:
  bool talks() const { return way_ == Way::whole || way_ == Way::layers; }
  // Every launch was told once, and waited for once.
  void check_words(Comparison& comparison) {
    const KvTransferLaunch& t = of_rank(0).launches.front();
    const std::uint32_t told = fetch(memory(0), t.words + 1, 1).front();
    if (told == 0 || told % of_rank(0).launches.size() != 0) comparison.fail("transfers that nobody told of");
    comparison.exact("arrived", 1, 0, fetch(memory(1), t.arrived, 1).front(), told);
    comparison.exact("seen", 1, 0, fetch(memory(1), of_rank(1).wait.seen, 1).front(), told);
  }
  void pairs_to(const TransferLaunch& here, const std::vector<KvPools>& pairs) const {
    group().memory(0).upload(here.pairs, pairs.data(), pairs.size() * sizeof(KvPools));
  }
  void copy(const TransferLaunch& a, Stream stream) {
    std::vector<PeerCopy> copies;
    for (std::size_t layer = 0; layer < a.pools.size(); ++layer) {
      for (std::size_t b = 0; b < a.from.size(); ++b) {
        copies.push_back({a.pools[layer] + a.from[b] * spec_.n, of_rank(1).pools[layer] + a.to[b] * spec_.n});
      }
    }
    std::string why;
    const CopyCalls calls = way_ == Way::batch ? CopyCalls::batch : CopyCalls::one_each;
    if (!group().copy(0, 1, copies, static_cast<std::size_t>(spec_.n), calls, stream, why)) refuse(why);
  }

  Way way_;
};

}  // namespace

std::unique_ptr<KernelCase> make_kv_transfer_case(const CaseSpec& spec, std::string& why) {
  const bool good = spec.ranks == 2 && spec.m >= 1 && spec.n >= 16 && spec.n % 16 == 0 && spec.k >= 1 &&
                    spec.m * spec.n * spec.k < (std::int64_t{1} << 38);
  if (!needs(good, spec, "2 ranks, m blocks of n bytes, a multiple of 16, in k layers", why)) return nullptr;
  for (const Operation& operation : operations) {
    if (spec.op == operation.op) return std::make_unique<KvTransferCase>(spec, operation.way);
  }
  why = "no transfer '" + spec.op + "'";
  return nullptr;
}

}  // namespace orrery::kernels

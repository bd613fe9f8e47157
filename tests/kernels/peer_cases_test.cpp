// Kernels of several ranks, which are threads here: every case against its reference at 2, 4 and 8 ranks,
// calls that follow each other, and a rank that is late.
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "base/random.h"
#include "catch.h"
#include "kernels/case_table.h"
#include "kernels/cases/peer_case.h"
#include "kernels/cpu_simulator.h"
#include "kernels/guarded_memory.h"
#include "kernels/peer_all_reduce.h"
#include "kernels/reference.h"
#include "kernels/small_floats.h"

using namespace orrery;
using namespace orrery::kernels;

namespace {

constexpr Fill fills[] = {Fill::random, Fill::zeros, Fill::saturating, Fill::with_nan};
constexpr const char* all_reduces[] = {"peer_all_reduce_lines", "peer_all_reduce_one_shot",
                                       "peer_all_reduce_two_shot"};

// As often as asked without waiting between the ranks' launches; what went wrong.
std::string run_chain(const CaseSpec& spec, int times) {
  std::string why;
  const auto made = make_case(spec, why);
  if (made == nullptr) return "refused: " + why;
  auto* kernel = dynamic_cast<ChainedCase*>(made.get());
  if (kernel == nullptr) return "no case of several ranks";
  HostMemory memory;
  if (!kernel->prepare(memory, 1, why)) return "prepare: " + why;
  static_cast<void>(simulator::take_error());
  kernel->launch_chain(0, times, nullptr);
  if (const std::string error = simulator::take_error(); !error.empty()) return "simulator: " + error;
  if (!kernel->refusal().empty()) return "refused: " + kernel->refusal();
  if (!memory.guards_intact(why)) return "guards: " + why;
  const CheckResult result = kernel->check(memory);
  if (result.compared == 0) return "nothing was compared";
  return result.passed ? "" : "check: " + result.detail;
}

CaseSpec all_reduce(const char* op, std::int32_t ranks, std::int64_t elements) {
  CaseSpec spec;
  spec.variant = 4;  // blocks
  spec.op = op;
  spec.ranks = ranks;
  spec.bytes = 2 * elements;
  spec.seed = static_cast<std::uint64_t>(ranks + elements);
  return spec;
}

CaseSpec exchange(const char* op, std::int32_t ranks, std::int64_t tokens, std::int64_t columns,
                  std::int64_t experts, std::int64_t top_k) {
  CaseSpec spec;
  spec.op = op;
  spec.ranks = ranks;
  spec.m = tokens;
  spec.n = columns;
  spec.experts = experts;
  spec.top_k = top_k;
  spec.seed = static_cast<std::uint64_t>(tokens);
  return spec;
}

}  // namespace

TEST_CASE("all-reduces of any size agree with the sum, bit by bit on all ranks", "[kernels]") {
  for (const char* op : all_reduces) {
    for (const auto& [ranks, elements, slot] :
         {std::tuple{2, 1, 0}, {2, 4099, 0}, {3, 520, 0}, {4, 9000, 512}, {8, 1030, 0}, {8, 7, 0}}) {
      for (const Fill fill : fills) {
        CaseSpec spec = all_reduce(op, ranks, elements);
        spec.slots = slot;  // small: many steps
        spec.fill = fill;
        CAPTURE(op, ranks, elements, static_cast<int>(fill));
        CHECK(run_chain(spec, fill == Fill::random ? 4 : 1) == "");
      }
    }
  }
}

TEST_CASE("all-reduces refuse what they cannot do", "[kernels]") {
  std::string why;
  CHECK(make_case(all_reduce("peer_all_reduce_one_shot", 1, 8), why) == nullptr);
  CHECK(why.find("operator peer_all_reduce_one_shot needs 2 to 8 ranks") == 0);
  CHECK(make_case(all_reduce("peer_all_reduce_two_shot", 9, 8), why) == nullptr);
  CHECK(make_case(all_reduce("peer_all_reduce_lines", 2, 0), why) == nullptr);
}

TEST_CASE("a fused all-reduce and norm agrees with its parts' reference", "[kernels]") {
  for (const std::int32_t ranks : {2, 4, 8}) {
    for (const std::int32_t lines : {0, 1}) {
      for (const auto& [rows, columns] : {std::pair{1, 128}, {5, 1152}, {130, 256}}) {
        if (rows > 100 && ranks > 2) continue;  // blocks that take a second row: once is enough
        CaseSpec spec;
        spec.op = "peer_reduce_norm";
        spec.ranks = ranks;
        spec.variant = lines;
        spec.m = rows;
        spec.n = columns;
        for (const Fill fill : fills) {
          if (ranks > 2 && fill != Fill::random && fill != Fill::with_nan) continue;
          spec.fill = fill;
          CAPTURE(ranks, lines, rows, columns, static_cast<int>(fill));
          CHECK(run_chain(spec, 2) == "");
        }
        spec.op = "peer_reduce_norm_quantize";
        for (const char* dtype : {"fp8-tensor", "fp8-channel", "fp8-block"}) {
          spec.dtype = dtype;
          spec.fill = Fill::random;
          CAPTURE(dtype);
          CHECK(run_chain(spec, 2) == "");
        }
      }
    }
  }
}

TEST_CASE("experts' rows arrive in order and come back weighted, in both forms", "[kernels]") {
  for (const char* op :
       {"expert_dispatch_slots", "expert_combine_slots", "expert_dispatch_rows", "expert_combine_rows"}) {
    for (const auto& [ranks, tokens, columns, experts, top_k] :
         {std::tuple{2, 1, 128, 2, 1}, {2, 37, 640, 16, 6}, {4, 13, 256, 64, 8}, {8, 5, 128, 8, 3}}) {
      for (const Fill fill : fills) {
        if (ranks > 2 && (fill == Fill::zeros || fill == Fill::with_nan)) continue;
        CaseSpec spec = exchange(op, ranks, tokens, columns, experts, top_k);
        spec.fill = fill;
        CAPTURE(op, ranks, tokens, experts, static_cast<int>(fill));
        CHECK(run_chain(spec, 3) == "");
      }
    }
  }
}

TEST_CASE("KV blocks go where they are told and nowhere else", "[kernels]") {
  for (const char* op : {"kv_transfer", "kv_transfer_layers", "kv_transfer_copies", "kv_transfer_batch"}) {
    for (const auto& [blocks, bytes, layers] : {std::tuple{1, 16, 1}, {9, 2064, 3}, {3, 33024, 2}}) {
      CaseSpec spec;
      spec.op = op;
      spec.ranks = 2;
      spec.m = blocks;
      spec.n = bytes;
      spec.k = layers;
      CAPTURE(op, blocks, bytes, layers);
      CHECK(run_chain(spec, 2) == "");
    }
  }
}

// What is sent changes from call to call, so a peer that reads one call's bytes in another's is seen; the
// last rank sleeps, and with odd calls another.
TEST_CASE("calls of changing size follow each other, whoever is late", "[kernels]") {
  RandomStream random(11, RandomPurpose::kernel_operands);
  for (const std::int32_t ranks : {2, 4, 8}) {
    HostMemory first;
    std::string why;
    const auto group = make_peer_group(ranks, first, why);
    REQUIRE(group != nullptr);
    constexpr int calls = 8;
    constexpr std::int64_t most = 3000;
    std::vector<std::vector<PeerAllReduceLaunch>> launches(static_cast<std::size_t>(ranks));  // [rank][call]
    std::vector<PeerAllReduceLaunch> memories;
    const CaseSpec spec;
    for (std::int32_t r = 0; r < ranks; ++r) {
      Operands make(&group->memory(r), spec, r);
      memories.emplace_back();
      PeerMemory& shape = memories.back().peers;
      shape.ranks = ranks;
      shape.rank = r;
      shape.blocks = 3;
      shape.slot_bytes = 512;
      shape.line_bytes = 1024;
      shape = own_peer_memory(make, shape);
    }
    connect_peer_memory(memories);
    for (int call = 0; call < calls; ++call) {
      const auto count = 1 + static_cast<std::int64_t>(random.below(most));
      const auto form = static_cast<PeerForm>(random.below(3));
      const auto blocks = static_cast<std::int32_t>(1 + random.below(3));
      for (std::int32_t r = 0; r < ranks; ++r) {
        const auto at = static_cast<std::size_t>(r);
        PeerAllReduceLaunch a = memories[at];
        Operands make(&group->memory(r), spec, 100 * (call + 1) + r);
        const float value = static_cast<float>(call * 10 + r);
        a.in = make.given(std::vector<std::uint16_t>(static_cast<std::size_t>(count), float_to_bf16(value)));
        a.out = make.output<std::uint16_t>(count);
        a.count = count;
        a.form = form;
        a.blocks = blocks;
        launches[at].push_back(a);
      }
    }
    const auto body = [&](std::int32_t rank, Stream stream) {
      for (int call = 0; call < calls; ++call) {
        if ((rank + call) % ranks == 1) std::this_thread::sleep_for(std::chrono::milliseconds(3));
        launch_peer_all_reduce(launches[static_cast<std::size_t>(rank)][static_cast<std::size_t>(call)],
                               stream);
      }
    };
    static_cast<void>(simulator::take_error());
    REQUIRE(group->launch(body, nullptr, why));
    CHECK(simulator::take_error().empty());
    for (std::int32_t r = 0; r < ranks; ++r) {
      for (int call = 0; call < calls; ++call) {
        const PeerAllReduceLaunch& a = launches[static_cast<std::size_t>(r)][static_cast<std::size_t>(call)];
        const auto out = fetch(group->memory(r), a.out, a.count);
        const auto sum = static_cast<float>(ranks * call * 10 + ranks * (ranks - 1) / 2);
        CAPTURE(ranks, r, call, static_cast<int>(a.form), a.count);
        CHECK(out == std::vector<std::uint16_t>(out.size(), float_to_bf16(sum)));
      }
      std::string what;
      CHECK(group->memory(r).guards_intact(what));
    }
  }
}

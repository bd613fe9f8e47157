// Kernels of several ranks must wait for each other: calls of two cases with other operands alternate over
// the same words and slots, a rank comes late to every call, and bytes of an earlier call are wrong ones.
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "catch.h"
#include "kernels/case_table.h"
#include "kernels/cases/peer_case.h"
#include "kernels/cpu_simulator.h"
#include "kernels/guarded_memory.h"

using namespace orrery::kernels;

namespace {

using Received = std::vector<std::vector<unsigned char>>;  // by rank

struct Both {
  HostMemory memory;
  std::unique_ptr<KernelCase> made[2];
  ChainedCase* kernel[2] = {};
  Received received[2];  // by the first call of each
};

std::string prepare(CaseSpec spec, Both& both) {
  std::string why;
  for (int i = 0; i < 2; ++i) {
    spec.seed = static_cast<std::uint64_t>(i + 1);
    both.made[i] = make_case(spec, why);
    both.kernel[i] = dynamic_cast<ChainedCase*>(both.made[i].get());
    if (both.kernel[i] == nullptr || !both.kernel[i]->prepare(both.memory, 1, why)) return "prepare: " + why;
    both.received[i].resize(static_cast<std::size_t>(spec.ranks));
  }
  return both.kernel[1]->share_exchange(*both.kernel[0]) ? "" : "nothing to share";
}

// The rank that is late changes from call to call; the others have long been at their wait.
std::string run(Both& both, std::int32_t ranks) {
  const auto body = [&](std::int32_t rank, Stream stream) {
    for (int call = 0; call < alternated_calls; ++call) {
      if (call % ranks == rank) std::this_thread::sleep_for(std::chrono::milliseconds(2));
      const int which = alternates(call) ? 1 : 0;
      both.kernel[which]->start_on(rank, stream);
      if (call == 0 || call == 2)
        both.received[which][static_cast<std::size_t>(rank)] = both.kernel[which]->received(rank);
    }
  };
  std::string why;
  static_cast<void>(simulator::take_error());
  if (!both.kernel[0]->group().launch(body, nullptr, why)) return "launch: " + why;
  if (const std::string error = simulator::take_error(); !error.empty()) return "simulator: " + error;
  for (int i = 0; i < 2; ++i) {
    const CheckResult result = both.kernel[i]->check(both.memory);
    if (!result.passed || result.compared == 0) return "check: " + result.detail;
    for (std::int32_t r = 0; r < ranks; ++r) {
      if (both.received[i][static_cast<std::size_t>(r)] != both.kernel[i]->received(r))
        return "rank " + std::to_string(r) + " went on before everything had come";
    }
  }
  return "";
}

std::string alternate(const CaseSpec& spec) {
  Both both;
  const std::string why = prepare(spec, both);
  return why.empty() ? run(both, spec.ranks) : why;
}

CaseSpec shape(const char* op, std::int32_t ranks, std::int64_t m, std::int64_t n) {
  CaseSpec spec;
  spec.op = op;
  spec.ranks = ranks;
  spec.m = m;
  spec.n = n;
  return spec;
}

}  // namespace

TEST_CASE("no rank goes on with what an earlier call left: all-reduces and the fused norm", "[kernels]") {
  for (const std::int32_t ranks : {2, 4}) {
    for (const char* op : {"peer_all_reduce_lines", "peer_all_reduce_one_shot", "peer_all_reduce_two_shot"}) {
      CaseSpec spec = shape(op, ranks, 0, 0);
      spec.bytes = 2 * 1030;
      spec.variant = 4;
      CAPTURE(op, ranks);
      CHECK(alternate(spec) == "");
    }
    for (const std::int32_t lines : {0, 1}) {
      CaseSpec spec = shape("peer_reduce_norm", ranks, 3, 256);
      spec.variant = lines;
      CAPTURE(ranks, lines);
      CHECK(alternate(spec) == "");
      spec.op = "peer_reduce_norm_quantize";
      spec.dtype = "fp8-channel";
      CHECK(alternate(spec) == "");
    }
  }
}

TEST_CASE("no rank goes on with what an earlier call left: experts' rows", "[kernels]") {
  for (const std::int32_t ranks : {2, 4}) {
    for (const char* op :
         {"expert_dispatch_slots", "expert_combine_slots", "expert_dispatch_rows", "expert_combine_rows"}) {
      CaseSpec spec = shape(op, ranks, 5, 128);
      spec.experts = 8;
      spec.top_k = 3;
      CAPTURE(op, ranks);
      CHECK(alternate(spec) == "");
    }
  }
}

TEST_CASE("no rank goes on with what an earlier call left: KV blocks", "[kernels]") {
  for (const char* op : {"kv_transfer", "kv_transfer_layers"}) {
    CaseSpec spec = shape(op, 2, 5, 2064);
    spec.k = 3;
    CAPTURE(op);
    CHECK(alternate(spec) == "");
  }
}

// The second step is shorter than a block is wide. What the barrier between the two is for (peer_memory.h)
// does not happen here, where a block's threads take turns at barriers only: this sees to the bytes.
TEST_CASE("all-reduces by lines whose last step is short follow each other", "[kernels]") {
  for (const std::int64_t elements : {8 * 600 + 8, 8 * 1024 + 24}) {
    CaseSpec spec = shape("peer_all_reduce_lines", 2, 0, 0);
    spec.bytes = 2 * elements;
    spec.slots = 32 * 512;  // a step of 512 vectors, one a thread
    spec.variant = 1;
    CAPTURE(elements);
    CHECK(alternate(spec) == "");
  }
}

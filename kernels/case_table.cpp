#include "kernels/case_table.h"

namespace orrery::kernels {

namespace {

constexpr bool simulated = true;

// Emulated matrix instructions are NVIDIA's: the 64-lane simulator stands for another vendor.
#if defined(ORRERY_SIMULATED_WARP) && ORRERY_SIMULATED_WARP != 32
#define ORRERY_MATRIX_CASES 0
#else
#define ORRERY_MATRIX_CASES 1
#endif

constexpr CaseEntry table[] = {
    {"rms_norm", "RMSNorm of rows, bf16", simulated, make_rms_norm_case},
#if ORRERY_MATRIX_CASES
    {"gemm", "dense GEMM, bf16 and scaled fp8, cuBLASLt", !simulated, make_gemm_case},
    {"grouped_gemm", "GEMMs of experts, bf16 and block-scaled fp8", simulated, make_grouped_gemm_case},
    {"grouped_gemm_wgmma", "the same with Hopper\'s wgmma", !simulated, make_grouped_gemm_case},
    {"attention_decode", "paged decode attention, split over the context", simulated,
     make_attention_decode_case},
    {"attention_prefill", "causal attention of new tokens, paged context, ours", simulated,
     make_attention_prefill_case},
    {"all_reduce", "NCCL, bf16 sum; bytes is what a rank holds", !simulated, make_collective_case},
    {"all_gather", "NCCL; bytes is the gathered result", !simulated, make_collective_case},
    {"reduce_scatter", "NCCL, bf16 sum; bytes is a rank's input", !simulated, make_collective_case},
    {"all_to_all", "NCCL send and receive among all ranks", !simulated, make_collective_case},
    {"send_recv", "NCCL, even ranks to the next", !simulated, make_collective_case},
#endif
};

}  // namespace

std::span<const CaseEntry> case_table() { return table; }

const CaseEntry* find_case(std::string_view op) {
  for (const CaseEntry& entry : table) {
    if (entry.op == op) return &entry;
  }
  return nullptr;
}

std::unique_ptr<KernelCase> make_case(const CaseSpec& spec, std::string& why) {
  const CaseEntry* entry = find_case(spec.op);
  if (entry != nullptr) return entry->make(spec, why);
  why = "no kernel for operator '" + spec.op + "'";
  return nullptr;
}

}  // namespace orrery::kernels

#include "kernels/case_table.h"

namespace orrery::kernels {

namespace {

constexpr bool simulated = true;

// Not where the simulator stands for another vendor: at 64 lanes, or asked to.
#if defined(ORRERY_SIMULATED_GFX1201) || (defined(ORRERY_SIMULATED_WARP) && ORRERY_SIMULATED_WARP != 32)
#define ORRERY_NVIDIA_CASES 0
#else
#define ORRERY_NVIDIA_CASES 1
#endif

constexpr CaseEntry table[] = {
    {"rms_norm", "RMSNorm of rows, bf16", simulated, make_rms_norm_case},
    {"add_rms_norm", "residual add and RMSNorm, bf16", simulated, make_add_rms_norm_case},
    {"add_rms_norm_quantize",
     "residual add, RMSNorm and quantisation to fp8, per tensor, row or group of 128", simulated,
     make_add_rms_norm_quantize_case},
    {"reduce_add_rms_norm", "the parts of all ranks added, then residual and RMSNorm, bf16", simulated,
     make_reduce_add_rms_norm_case},
    {"reduce_add_rms_norm_quantize", "the same to fp8, per tensor, row or group of 128", simulated,
     make_reduce_add_rms_norm_quantize_case},
    {"rotary", "rotary embedding of q and k (NeoX)", simulated, make_rotary_case},
    {"qk_norm_rotary", "RMSNorm of each head of q and k, then rotary", simulated, make_qk_norm_rotary_case},
    {"qk_norm_rotary_kv", "the same, then k and v into the paged cache, bf16 or fp8, in one launch",
     simulated, make_qk_norm_rotary_kv_case},
    {"silu_mul", "SiLU of the gate times up, bf16", simulated, make_silu_mul_case},
    {"silu_mul_quantize", "SiLU of the gate times up, to fp8", simulated, make_silu_mul_quantize_case},
    {"quantize", "bf16 to fp8, per tensor, row or group of 128", simulated, make_quantize_case},
    {"kv_write", "new keys and values into the paged cache, bf16 or fp8", simulated, make_kv_write_case},
    {"kv_write_vectorised", "the same in AITER's vectorised layout", simulated, make_kv_write_case},
    {"embedding", "token embedding rows", simulated, make_embedding_case},
    {"gather_rows", "rows by index", simulated, make_gather_rows_case},
    {"router_topk", "softmax and top-k of the router", simulated, make_router_topk_case},
    {"router_grouped_topk", "sigmoid, bias and top-k of the best groups of experts", simulated,
     make_router_grouped_topk_case},
    {"router_grouped_topk_softmax", "softmax and top-k of the best groups of experts", simulated,
     make_router_grouped_topk_softmax_case},
    {"moe_align", "rows sorted by expert, each expert padded to blocks", simulated, make_moe_align_case},
    {"moe_permute", "rows gathered in the order of moe_align", simulated, make_moe_permute_case},
    {"permute_quantize", "rows of tokens to their experts' rows, to fp8 per row or group of 128", simulated,
     make_permute_quantize_case},
    {"moe_combine", "weighted sum of a token's expert outputs", simulated, make_moe_combine_case},
    {"logits_copy", "logits from bf16 to fp32", simulated, make_logits_copy_case},
    {"argmax", "greedy token choice", simulated, make_argmax_case},
    {"sample", "token choice by temperature, with counter-based Gumbel noise", simulated, make_sample_case},
    {"merge_packets", "many small copies in one launch", simulated, make_merge_packets_case},
    {"copy", "device memory copied", simulated, make_copy_case},
    {"read", "device memory read", simulated, make_read_case},
    {"write", "device memory written", simulated, make_write_case},
    {"grouped_gemm", "GEMMs of experts, bf16, block-scaled fp8 and int4 weights", simulated,
     make_grouped_gemm_case},
    {"block_gemm", "GEMM of fp8 scaled per block or channel, dense or of experts", simulated,
     make_block_gemm_case},
    {"attention_decode", "paged decode attention, split over the context", simulated,
     make_attention_decode_case},
    {"attention_decode_vectorised", "the same over a cache in AITER's vectorised layout", simulated,
     make_attention_decode_case},
    {"attention_prefill", "causal attention of new tokens, paged context, ours", simulated,
     make_attention_prefill_case},
    {"peer_all_reduce", "sum over ranks by the fastest of the next three", simulated,
     make_peer_all_reduce_case},
    {"peer_all_reduce_lines", "sum over ranks, pushed once, the epoch in every eight bytes", simulated,
     make_peer_all_reduce_case},
    {"peer_all_reduce_one_shot", "sum over ranks, pushed once, then a flag", simulated,
     make_peer_all_reduce_case},
    {"peer_all_reduce_two_shot", "sum over ranks, each adds its part and pushes it", simulated,
     make_peer_all_reduce_case},
    {"peer_reduce_norm", "all-reduce, residual and RMSNorm in one launch, bf16", simulated,
     make_peer_reduce_norm_case},
    {"peer_reduce_norm_quantize", "the same to fp8, per tensor, row or group of 128", simulated,
     make_peer_reduce_norm_quantize_case},
    {"expert_dispatch_slots", "tokens quantised into fixed slots of their experts' ranks", simulated,
     make_expert_dispatch_slots_case},
    {"expert_combine_slots", "experts' rows back, weighted and added in order of choice", simulated,
     make_expert_combine_slots_case},
    {"expert_dispatch_rows", "tokens to the ranks of their experts, one contiguous row a rank", simulated,
     make_expert_dispatch_rows_case},
    {"expert_combine_rows", "a row of each rank back, added in order of ranks", simulated,
     make_expert_combine_rows_case},
    {"kv_transfer", "scattered KV blocks of all layers to a peer's, one launch", simulated,
     make_kv_transfer_case},
    {"kv_transfer_layers", "the same, a launch a layer", simulated, make_kv_transfer_case},
    {"kv_transfer_copies", "the same by the copy engines, a call a block", !simulated, make_kv_transfer_case},
    {"kv_transfer_batch", "the same by the copy engines, one call", !simulated, make_kv_transfer_case},
    {"mla_decode", "absorbed latent attention of a paged context, bf16, fp8 or packed", simulated,
     make_mla_decode_case},
    {"mla_sparse_decode", "the same over picked tokens", simulated, make_mla_decode_case},
    {"mla_prefill", "causal attention of new tokens with expanded latents, heads of 192 and 128", simulated,
     make_attention_prefill_case},
    {"index_scores", "scores of the sparse attention's indexer, fp8", simulated, make_index_scores_case},
    {"index_topk", "the best tokens of a row of scores", simulated, make_index_topk_case},
#if ORRERY_NVIDIA_CASES
    {"gemm", "dense GEMM, bf16 and scaled fp8, cuBLASLt", !simulated, make_gemm_case},
    {"grouped_gemm_wgmma", "the same with Hopper's wgmma", !simulated, make_grouped_gemm_case},
    {"block_gemm_wgmma", "the same with Hopper's wgmma", !simulated, make_block_gemm_case},
    {"attention_prefill_wgmma", "the same with Hopper's wgmma", !simulated, make_attention_prefill_case},
    {"mla_decode_wgmma", "absorbed latent attention with Hopper's wgmma", !simulated, make_mla_decode_case},
    {"mla_sparse_decode_wgmma", "the same over picked tokens", !simulated, make_mla_decode_case},
    {"mla_prefill_wgmma", "causal attention with expanded latents, Hopper's wgmma", !simulated,
     make_attention_prefill_case},
    {"attention_prefill_cudnn", "the same through cuDNN, sequences alike, no blocks", !simulated,
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

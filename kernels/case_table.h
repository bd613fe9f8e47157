// Every operator that has a kernel: one line each in case_table.cpp, nothing registers itself.
#pragma once

#include <span>
#include <string_view>

#include "kernels/kernel_case.h"

namespace orrery::kernels {

std::span<const CaseEntry> case_table();
const CaseEntry* find_case(std::string_view op);  // null when there is none

// Null with a reason when the spec is not one that its operator has a kernel for.
std::unique_ptr<KernelCase> make_case(const CaseSpec& spec, std::string& why);

std::unique_ptr<KernelCase> make_rms_norm_case(const CaseSpec&, std::string& why);
std::unique_ptr<KernelCase> make_add_rms_norm_case(const CaseSpec&, std::string& why);
std::unique_ptr<KernelCase> make_add_rms_norm_quantize_case(const CaseSpec&, std::string& why);
std::unique_ptr<KernelCase> make_rotary_case(const CaseSpec&, std::string& why);
std::unique_ptr<KernelCase> make_qk_norm_rotary_case(const CaseSpec&, std::string& why);
std::unique_ptr<KernelCase> make_qk_norm_rotary_kv_case(const CaseSpec&, std::string& why);
std::unique_ptr<KernelCase> make_reduce_add_rms_norm_case(const CaseSpec&, std::string& why);
std::unique_ptr<KernelCase> make_reduce_add_rms_norm_quantize_case(const CaseSpec&, std::string& why);
std::unique_ptr<KernelCase> make_merge_packets_case(const CaseSpec&, std::string& why);
std::unique_ptr<KernelCase> make_silu_mul_case(const CaseSpec&, std::string& why);
std::unique_ptr<KernelCase> make_silu_mul_quantize_case(const CaseSpec&, std::string& why);
std::unique_ptr<KernelCase> make_quantize_case(const CaseSpec&, std::string& why);
std::unique_ptr<KernelCase> make_kv_write_case(const CaseSpec&, std::string& why);
std::unique_ptr<KernelCase> make_embedding_case(const CaseSpec&, std::string& why);
std::unique_ptr<KernelCase> make_gather_rows_case(const CaseSpec&, std::string& why);
std::unique_ptr<KernelCase> make_router_topk_case(const CaseSpec&, std::string& why);
std::unique_ptr<KernelCase> make_router_grouped_topk_case(const CaseSpec&, std::string& why);
std::unique_ptr<KernelCase> make_router_grouped_topk_softmax_case(const CaseSpec&, std::string& why);
std::unique_ptr<KernelCase> make_moe_align_case(const CaseSpec&, std::string& why);
std::unique_ptr<KernelCase> make_moe_permute_case(const CaseSpec&, std::string& why);
std::unique_ptr<KernelCase> make_permute_quantize_case(const CaseSpec&, std::string& why);
std::unique_ptr<KernelCase> make_moe_combine_case(const CaseSpec&, std::string& why);
std::unique_ptr<KernelCase> make_logits_copy_case(const CaseSpec&, std::string& why);
std::unique_ptr<KernelCase> make_argmax_case(const CaseSpec&, std::string& why);
std::unique_ptr<KernelCase> make_sample_case(const CaseSpec&, std::string& why);
std::unique_ptr<KernelCase> make_copy_case(const CaseSpec&, std::string& why);
std::unique_ptr<KernelCase> make_read_case(const CaseSpec&, std::string& why);
std::unique_ptr<KernelCase> make_write_case(const CaseSpec&, std::string& why);
std::unique_ptr<KernelCase> make_grouped_gemm_case(const CaseSpec&, std::string& why);
std::unique_ptr<KernelCase> make_w4_gemm_case(const CaseSpec&, std::string& why);
std::unique_ptr<KernelCase> make_block_gemm_case(const CaseSpec&, std::string& why);
std::unique_ptr<KernelCase> make_attention_decode_case(const CaseSpec&, std::string& why);
std::unique_ptr<KernelCase> make_attention_prefill_case(const CaseSpec&, std::string& why);
std::unique_ptr<KernelCase> make_mla_decode_case(const CaseSpec&, std::string& why);
std::unique_ptr<KernelCase> make_index_scores_case(const CaseSpec&, std::string& why);
std::unique_ptr<KernelCase> make_index_topk_case(const CaseSpec&, std::string& why);

// Of several ranks that write into each other's memory.
std::unique_ptr<KernelCase> make_peer_all_reduce_case(const CaseSpec&, std::string& why);
std::unique_ptr<KernelCase> make_peer_reduce_norm_case(const CaseSpec&, std::string& why);
std::unique_ptr<KernelCase> make_peer_reduce_norm_quantize_case(const CaseSpec&, std::string& why);
std::unique_ptr<KernelCase> make_expert_dispatch_slots_case(const CaseSpec&, std::string& why);
std::unique_ptr<KernelCase> make_expert_combine_slots_case(const CaseSpec&, std::string& why);
std::unique_ptr<KernelCase> make_expert_dispatch_rows_case(const CaseSpec&, std::string& why);
std::unique_ptr<KernelCase> make_expert_combine_rows_case(const CaseSpec&, std::string& why);
std::unique_ptr<KernelCase> make_kv_transfer_case(const CaseSpec&, std::string& why);

// NVIDIA's libraries.
std::unique_ptr<KernelCase> make_gemm_case(const CaseSpec&, std::string& why);
std::unique_ptr<KernelCase> make_collective_case(const CaseSpec&, std::string& why);

}  // namespace orrery::kernels

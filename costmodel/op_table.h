// Every operator that a step can contain: one line each in op_table.cpp, nothing registers itself.
#pragma once

#include <memory>
#include <span>
#include <string_view>

#include "costmodel/operator.h"
#include "costmodel/roofline.h"

namespace orrery {

struct OperatorEntry {
  const char* name;
  const char* description;
  OpClass op_class;
  std::int32_t launches;                                              // kernels per use
  std::unique_ptr<Operator> (*make)(const OpSpec&, const Roofline&);  // keeps a reference to the roofline
  std::int32_t triton = 0;  // of the launches, Triton kernels called from Python, outside compiled code
};

std::span<const OperatorEntry> operator_table();
const OperatorEntry* find_operator(std::string_view name);  // null when there is none

std::unique_ptr<Operator> make_gemm(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_grouped_gemm(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_attention_prefill(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_attention_decode(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_add_rms_norm(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_rms_norm(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_sum_add_rms_norm(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_attention_schedule(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_norm_add_rms_norm(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_rotary(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_kv_write(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_mla_decode(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_mla_absorb(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_mla_expand(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_mla_prefill(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_mla_absorbed(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_absorbed_prompts(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_mla_cache_write(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_latent_pool_cast(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_grouped_topk(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_query_rotary(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_silu_mul_blocks(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_add_rows(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_silu_mul(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_gelu_mul(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_quantize(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_embedding(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_gather_rows(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_topk(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_moe_align(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_fused_experts(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_moe_copy(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_step_inputs(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_stream_gaps(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_moe_combine(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_softcap_logits(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_logits_copy(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_argmax(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_sigmoid_mul(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_relu_squared(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_topk_compiled(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_grouped_topk_compiled(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_residual_add(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_head_norms(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_head_norms_eager(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_rotary_compiled(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_rotary_tables(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_gelu_then_mul(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_latent_rotary_steps(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_latent_concatenations(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_absorb_casts(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_absorb_copies(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_state_unpack(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_state_conv(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_state_prepare(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_state_scan(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_state_scan_kernels(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_state_update(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_gated_norm(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_mixer_norm(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_index_scores(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_sparse_attention(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_verify_drafts(const OpSpec&, const Roofline&);
inline constexpr std::int32_t tree_candidate_kernels = 1 + 4 * 3 + 4;
std::unique_ptr<Operator> make_tree_attention(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_tree_candidates(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_tree_choice(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_tree_build(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_tree_commit(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_all_reduce(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_all_gather(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_send_recv(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_hidden(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_fused_norm(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_masked_experts(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_exchange(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_reduce_scatter(const OpSpec&, const Roofline&);
std::unique_ptr<Operator> make_all_to_all(const OpSpec&, const Roofline&);

// The same operator as a rank of context parallelism runs it; `whole` itself without (ops/context.cpp).
std::unique_ptr<Operator> on_one_rank(std::unique_ptr<Operator> whole, const OpSpec& spec);

}  // namespace orrery

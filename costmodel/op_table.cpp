#include "costmodel/op_table.h"

#include <array>

namespace orrery {

namespace {

constexpr std::array<OperatorEntry, 83> table{{
    {"gemm", "dense matrix product, tiles dealt to compute units in waves", OpClass::gemm, 1, make_gemm},
    {"grouped_gemm", "experts' matrix product, rows grouped and padded per expert", OpClass::grouped_gemm, 1,
     make_grouped_gemm},
    {"attention_prefill", "causal attention of prompt chunks over their cached prefix",
     OpClass::attention_prefill, 1, make_attention_prefill},
    {"attention_decode",
     "attention of one token per sequence over its KV cache, with the combine of its splits",
     OpClass::attention_decode, 2, make_attention_decode},
    {"mla_prefill", "latent attention of prompts: causal, keys and values expanded",
     OpClass::attention_prefill, 2, make_mla_prefill},
    {"mla_decode",
     "latent attention of one token per sequence, absorbed: the cached latent is all heads' key and value",
     OpClass::attention_decode, 2, make_mla_decode},
    {"mla_expand", "latents of prompts and of their cached prefix to keys and values (kv_b_proj)",
     OpClass::gemm, 1, make_mla_expand},
    {"mla_absorb", "decodes' queries into the latent's space and outputs out of it, a product per head",
     OpClass::gemm, 2, make_mla_absorb},
    {"mla_prefill_absorbed", "latent attention of prompts that the engine serves absorbed, as decodes",
     OpClass::attention_prefill, 2, make_mla_absorbed},
    {"absorbed_prompts", "latent attention of short prompts, absorbed, as vLLM's FLASH_ATTN_MLA runs them",
     OpClass::attention_prefill, 2, make_absorbed_prompts},
    {"mla_absorb_prompts", "the products of mla_absorb for such prompts", OpClass::attention_prefill, 0,
     make_mla_absorb},
    {"mla_cache_write", "new latents and rotary keys into the paged cache", OpClass::elementwise, 1,
     make_mla_cache_write},
    {"latent_pool_cast",
     "a layer's pool of 8-bit latents written again in 16 bits before attention (SGLang's FlashAttention)",
     OpClass::elementwise, 1, make_latent_pool_cast},
    {"add_rms_norm",
     "residual add and RMSNorm, with the quantisation of its output where the engine fuses it",
     OpClass::elementwise, 1, make_add_rms_norm},
    {"rms_norm", "RMSNorm of what attention or an MLP gives, before it joins the residual (Gemma)",
     OpClass::elementwise, 1, make_rms_norm},
    {"norm_add_rms_norm", "that norm, residual add and the norm that follows in one kernel",
     OpClass::elementwise, 1, make_norm_add_rms_norm},
    {"sum_add_rms_norm", "the sum of shared and routed experts, residual add and the norm that follows",
     OpClass::elementwise, 1, make_sum_add_rms_norm},
    {"attention_schedule",
     "FlashAttention's schedule of a launch, prepared in front of each where layers differ in their windows",
     OpClass::elementwise, 0, make_attention_schedule},
    {"rotary", "rotary embedding of q and k, with their per-head norm", OpClass::elementwise, 1, make_rotary},
    {"residual_add",
     "an output that was normed joins the residual, by a kernel of its own (TensorRT-LLM's Gemma)",
     OpClass::elementwise, 1, make_residual_add},
    {"head_norms",
     "q and k copied out of their product, normed by head and put back (TensorRT-LLM's Gemma 3)",
     OpClass::elementwise, 5, make_head_norms},
    {"head_norms_eager", "norms of q and k by head as single tensor operations (SGLang's Gemma 3)",
     OpClass::elementwise, 20, make_head_norms_eager},
    {"rotary_compiled", "rotary embedding of q, then of k, by the compiler's kernels (SGLang's Gemma 3)",
     OpClass::elementwise, 2, make_rotary_compiled},
    {"rotary_tables",
     "cosines and sines of a step's positions, for full and for sliding layers (SGLang's Gemma 3)",
     OpClass::elementwise, 18, make_rotary_tables},
    {"latent_rotary_steps", "rotary embedding beside a latent as single tensor operations (SGLang on ROCm)",
     OpClass::elementwise, 1, make_latent_rotary_steps},
    {"latent_concatenations",
     "absorbed queries and keys put together with their rotary parts (SGLang on ROCm)", OpClass::elementwise,
     1, make_latent_concatenations},
    {"absorb_casts", "both absorbing matrices to 16 bits and times their scale (SGLang on ROCm)",
     OpClass::elementwise, 1, make_absorb_casts},
    {"absorb_copies", "heads' outputs copied into rows (SGLang on ROCm)", OpClass::elementwise, 1,
     make_absorb_copies},
    {"gelu_then_mul", "GELU of the gate, then its product with up (TensorRT-LLM's Gemma 3)",
     OpClass::elementwise, 2, make_gelu_then_mul},
    {"kv_write", "new keys and values into the paged cache", OpClass::elementwise, 1, make_kv_write},
    {"query_rotary", "rotary embedding of latent attention, which writes the queries anew (vLLM)",
     OpClass::elementwise, 1, make_query_rotary},
    {"silu_mul_blocks", "SiLU of the gate times up, quantised in blocks, one kernel (vLLM on Hopper)",
     OpClass::elementwise, 1, make_silu_mul_blocks},
    {"add_rows", "the sum of two activations", OpClass::elementwise, 1, make_add_rows},
    {"silu_mul", "SiLU of the gate times up, with the quantisation of its output where the engine fuses it",
     OpClass::elementwise, 1, make_silu_mul},
    {"gelu_mul", "GELU (tanh approximation) of the gate times up, else as silu_mul", OpClass::elementwise, 1,
     make_gelu_mul},
    {"quantize", "activations to 8 bits before a quantised matrix product", OpClass::elementwise, 1,
     make_quantize},
    {"embedding", "token embedding rows", OpClass::elementwise, 1, make_embedding},
    {"scale_embedding", "embeddings times the root of their width, where no compiler fuses it",
     OpClass::elementwise, 1, make_gather_rows},
    {"gather_rows", "hidden states of the sampled rows", OpClass::sampling, 1, make_gather_rows},
    {"topk", "softmax and top-k of the router", OpClass::routing, 1, make_topk},
    {"grouped_topk", "top groups of experts, then top-k inside them", OpClass::routing, 1, make_grouped_topk},
    // One call of the compiler's wrapper launches them, so the host counts one.
    {"topk_compiled", "softmax and top-k of the router by the compiler's kernels (DeepSeek-V2-Lite on vLLM)",
     OpClass::routing, 1, make_topk_compiled},
    {"grouped_topk_compiled", "top groups of experts, then top-k inside them, likewise (DeepSeek-V2 on vLLM)",
     OpClass::routing, 1, make_grouped_topk_compiled},
    {"moe_align", "row indices sorted by expert and padded to blocks", OpClass::routing, 2, make_moe_align},
    {"fused_experts", "a whole expert layer as the engine fuses it: sort, products, activation, sum",
     OpClass::grouped_gemm, 6, make_fused_experts},
    {"masked_experts", "experts' products of rows that low-latency kernels deliver, in whole tiles an expert",
     OpClass::grouped_gemm, 3, make_masked_experts},
    {"moe_copy", "copy of the experts' sum out of the engine's custom operator", OpClass::routing, 1,
     make_moe_copy},
    {"moe_combine", "weighted sum of a token's expert outputs", OpClass::routing, 1, make_moe_combine},
    {"softcap_logits", "cap · tanh(logits / cap), three passes in 16 bits", OpClass::sampling, 3,
     make_softcap_logits},
    {"logits_copy", "logits to fp32", OpClass::sampling, 1, make_logits_copy},
    {"argmax", "greedy sampling", OpClass::sampling, 1, make_argmax},
    {"verify_drafts", "drafts against sampled tokens: which are accepted", OpClass::sampling, 2,
     make_verify_drafts},
    {"step_inputs", "small kernels before and after the layers: positions, block tables, token bookkeeping",
     OpClass::sampling, 24, make_step_inputs},
    {"stream_gaps", "idle time between the kernels of a step that no graph holds, beyond that inside a graph",
     OpClass::elementwise, 0, make_stream_gaps},
    {"all_reduce", "sum over tensor-parallel ranks: custom kernel below 8 MiB, ring above",
     OpClass::collective, 1, make_all_reduce},
    {"all_gather", "rows or logits of all ranks", OpClass::collective, 1, make_all_gather},
    {"reduce_scatter", "sum over ranks, of which each keeps its own tokens", OpClass::collective, 1,
     make_reduce_scatter},
    {"all_to_all", "a part of every rank's rows to every other rank", OpClass::collective, 1,
     make_all_to_all},
    {"send_recv", "rows from one GPU to another", OpClass::collective, 1, make_send_recv},
    {"sigmoid_mul", "an output times the sigmoid of a gate (Qwen3-Next: attention, shared expert)",
     OpClass::elementwise, 1, make_sigmoid_mul},
    {"relu_squared", "squared ReLU of an MLP without a gate (Nemotron-H)", OpClass::elementwise, 1,
     make_relu_squared},
    {"state_unpack",
     "q, k, v and gate of all heads apart, where the product leaves them by group (Qwen3-Next)",
     OpClass::elementwise, 1, make_state_unpack},
    {"state_conv_prefill", "causal convolution over a few tokens of prompts, with the state it leaves",
     OpClass::linear_attention, 1, make_state_conv, 1},
    {"state_conv_decode", "the same for one token a sequence: shifts the state", OpClass::linear_attention, 1,
     make_state_conv, 1},
    {"state_prepare", "norms, decay and strength of a gated delta net's prompts from what was convolved",
     OpClass::linear_attention, 1, make_state_prepare, 1},
    // Kernels: docs/state_layers.md, "What the host launches".
    {"state_scan", "recurrent layers over prompts in chunks: states gathered, scanned, written back",
     OpClass::linear_attention, 10, make_state_scan, 5},
    {"delta_scan", "the same of a gated delta net by FlashInfer's kernel", OpClass::linear_attention, 9,
     make_state_scan, 1},
    {"delta_scan_triton",
     "the same by a kernel for each part of the chunks' algebra (flash-linear-attention, Triton)",
     OpClass::linear_attention, 14, make_state_scan_kernels, 6},
    {"delta_scan_in_place", "the same with norms of q and k, on states where they lie in the pool (SGLang)",
     OpClass::linear_attention, 8, make_state_scan_kernels, 8},
    {"state_update", "recurrent layers for one token a sequence: the state is read and written",
     OpClass::linear_attention, 1, make_state_update, 1},
    {"gated_norm", "RMSNorm of a recurrent layer's output, times its gate; its buffer's clearing",
     OpClass::elementwise, 3, make_gated_norm},
    {"mixer_norm", "RMSNorm of a Mamba2 layer's output, times its gate; its buffer's clearing",
     OpClass::elementwise, 2, make_mixer_norm},
    {"index_scores_prefill", "an indexer's scores of all tokens that prompts see, and the choice of the best",
     OpClass::attention_prefill, 3, make_index_scores},
    {"index_scores_decode", "the same for one token a sequence", OpClass::attention_decode, 2,
     make_index_scores},
    {"mla_sparse_prefill", "latent attention of prompts over the tokens that the indexer chose, absorbed",
     OpClass::attention_prefill, 2, make_sparse_attention},
    {"mla_sparse_decode", "the same for one token a sequence", OpClass::attention_decode, 2,
     make_sparse_attention},
    {"ep_dispatch", "tokens' rows to the ranks that hold their experts, by point-to-point kernels",
     OpClass::collective, 2, make_exchange},
    {"ep_combine", "experts' outputs back to the tokens' ranks, weighted and summed there",
     OpClass::collective, 2, make_exchange},
    {"two_batches", "what two halves of a step hide of one another: below zero", OpClass::collective, 0,
     make_hidden},
    {"fused_all_reduce", "what all-reduces in one kernel with the norm behind them save: below zero",
     OpClass::elementwise, 0, make_fused_norm},
    {"shared_expert_stream", "what shared experts beside the routed ones hide: below zero",
     OpClass::grouped_gemm, 0, make_hidden},
    {"early_start", "what kernels save that start while the one before them ends: below zero",
     OpClass::elementwise, 0, make_hidden},
    {"rank_copy", "a rank's rows into or out of the buffer of all ranks, or that buffer's clearing",
     OpClass::elementwise, 1, make_gather_rows},
}};

}  // namespace

std::span<const OperatorEntry> operator_table() { return table; }

const OperatorEntry* find_operator(std::string_view name) {
  for (const OperatorEntry& entry : table) {
    if (entry.name == name) return &entry;
  }
  return nullptr;
}

const char* to_string(OpClass op_class) {
  switch (op_class) {
    case OpClass::gemm: return "gemm";
    case OpClass::grouped_gemm: return "grouped_gemm";
    case OpClass::attention_prefill: return "attention_prefill";
    case OpClass::attention_decode: return "attention_decode";
    case OpClass::elementwise: return "elementwise";
    case OpClass::routing: return "routing";
    case OpClass::collective: return "collective";
    case OpClass::sampling: return "sampling";
    case OpClass::linear_attention: return "linear_attention";
    case OpClass::count: break;
  }
  return "?";
}

}  // namespace orrery

// Fields of a Hugging Face config.json that a reader of shapes may pass over.
#pragma once

#include <array>

namespace orrery {

// Fields that change neither a shape nor a price: token ids, training, numerics, bookkeeping.
inline constexpr std::array harmless_fields{
    "_name_or_path",        "attention_dropout",    "bos_token_id",
    "eos_token_id",         "pad_token_id",         "initializer_range",
    "rms_norm_eps",         "rope_theta",           "rope_interleaved",
    "model_type",           "transformers_version", "use_cache",
    "output_router_logits", "router_aux_loss_coef", "router_jitter_noise",
    "norm_topk_prob",       "pretraining_tp",       "initial_context_length",
    "swiglu_limit",         "max_window_layers",    "unsloth_fixed",
    "unsloth_version",      "embd_pdrop",           "resid_pdrop",
    "hidden_dropout",       "output_attentions",    "output_hidden_states",
    "return_dict",          "is_encoder_decoder",   "chunk_size_feed_forward",
    "torchscript",          "use_bfloat16",
};

// Of DeepSeek's configs: how scores become weights, training, and layers that only speculation loads.
inline constexpr std::array harmless_in_deepseek{
    "auto_map",     "aux_loss_alpha", "ep_size", "num_nextn_predict_layers", "routed_scaling_factor",
    "scoring_func", "seq_aux",
};

// Of Gemma's: scales of scores (numbers, not kernels), rotary bases, and how transformers keeps its own
// cache.
inline constexpr std::array harmless_in_gemma{
    "query_pre_attn_scalar",
    "rope_local_base_freq",
    "cache_implementation",
    "sliding_window_size",
};

// Of Phi-3's: their own code's names, and switches of it that vLLM does not read.
inline constexpr std::array harmless_in_phi{"auto_map", "full_attn_mod", "interpolate_factor"};

// Defaults that Hugging Face's writer leaves in a nested decoder: of generation, of classifiers, of the file.
inline constexpr std::array generation_defaults{
    "add_cross_attention",
    "architectures",
    "bad_words_ids",
    "begin_suppress_tokens",
    "cross_attention_hidden_size",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "id2label",
    "is_decoder",
    "label2id",
    "length_penalty",
    "max_length",
    "min_length",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_scores",
    "prefix",
    "problem_type",
    "pruned_heads",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tokenizer_class",
    "top_k",
    "top_p",
    "typical_p",
};

// The same in a decoder that stands beside the encoder's map, and the encoder's map.
inline constexpr std::array beside_vision{
    "vision_config",     "vision_token_id",       "image_token_id",       "video_token_id",
    "image_token_index", "vision_start_token_id", "vision_end_token_id",  "text_config",
    "is_composition",    "ignore_index",          "projector_hidden_act",
};

// Read for one family of architectures only.
inline constexpr std::array of_experts{"num_experts",         "moe_intermediate_size", "num_experts_per_tok",
                                       "decoder_sparse_step", "mlp_only_layers",       "num_local_experts",
                                       "experts_per_token"};
inline constexpr std::array of_deepseek{
    "kv_lora_rank",     "q_lora_rank",      "qk_nope_head_dim",      "qk_rope_head_dim",     "v_head_dim",
    "n_routed_experts", "n_shared_experts", "moe_intermediate_size", "num_experts_per_tok",  "n_group",
    "topk_group",       "topk_method",      "moe_layer_freq",        "first_k_dense_replace"};
// Its rotary part and drafting layers change no price here (docs/cost_model.md).
inline constexpr std::array of_minimax{"use_routing_bias", "qk_norm_type", "shared_intermediate_size",
                                       "rotary_dim",       "use_mtp",      "mtp_transformer_layers",
                                       "num_mtp_modules"};
inline constexpr std::array of_sparse{"index_n_heads", "index_head_dim",          "index_topk",
                                      "qk_head_dim",   "indexer_rope_interleave", "rope_interleave"};
inline constexpr std::array of_gemma{"attn_logit_softcapping", "final_logit_softcapping",
                                     "use_bidirectional_attention", "sliding_window_pattern",
                                     "_sliding_window_pattern"};
inline constexpr std::array of_glm{"n_routed_experts",     "n_shared_experts", "moe_intermediate_size",
                                   "num_experts_per_tok",  "n_group",          "topk_group",
                                   "first_k_dense_replace"};

}  // namespace orrery

// What fits: weights, activation peak, graphs, framework residue, and the KV blocks that remain, by the
// engine's own accounting (vLLM 0.24: ../shared/reference/vllm_0_24.md §4,
// `gpu_worker.determine_available_memory`).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "costmodel/kv_groups.h"
#include "costmodel/step_pricer.h"

namespace orrery {

struct MemoryPlan {
  // bytes of one GPU (the fullest rank)
  Bytes total;            // what the framework sees
  Bytes requested;        // total × gpu_memory_utilization, rounded up (TensorRT-LLM: all of it)
  Bytes weights;          // the encoder's included
  Bytes encoder;          // of them, the vision encoder's; 0 for a text-only model
  Bytes activation_peak;  // torch peak of one dummy step of max_num_batched_tokens
  Bytes graphs;           // what the engine subtracts for captured graphs (V2 runner: 0)
  Bytes residue;          // framework, workspaces
  Bytes kv_available;     // requested − the above; may be negative, then nothing fits (TensorRT-LLM: × its
                          // free_gpu_memory_fraction)
  Bytes kv_deviation;     // one standard deviation of it (costmodel/memory_doubt.h)
  Bytes kv_bytes_per_token;  // all layers of this rank
  Bytes state_bytes;  // of one sequence, in all layers of this rank that keep a state; 0 = there is none
  Bytes states;       // TensorRT-LLM: of max_batch_size sequences
  // Pipeline stages: everything here is of the one with the fewest blocks, which decides for all.
  StageIndex stage = {};
  std::int64_t stage_layers = 0;           // of that stage; 0 = one stage
  std::vector<std::int64_t> stage_blocks;  // that each stage would have room for
  std::int64_t block_size = 0;
  std::int64_t kv_blocks = 0;  // num_gpu_blocks as the engine logs it (vLLM: with the null block)
  bool blocks_overridden = false;
  std::int64_t windowed_blocks = 0;  // TensorRT-LLM: of the pool of layers with a window; 0 = there is none
  std::int64_t windowed_host_blocks = 0;  // and of its tier in host memory
  std::int64_t host_blocks = 0;           // blocks of the tier in host memory; 0 = none
  std::int64_t max_sequences = 0;  // running requests that follow from the pool (SGLang); 0 = the settings'
  KvCacheGroups groups;
  // Tokens that the cache holds as the engine logs it; with windowed layers in sequences of max_model_len.
  std::int64_t kv_tokens() const { return groups.simple() ? kv_blocks * block_size : window_tokens; }
  std::int64_t window_tokens = 0;
  // SGLang: tokens of the windowed layers' own pool (groups.window wide); 0 = one pool for all layers
  std::int64_t windowed_pool_tokens = 0;
  // SGLang: slots of the pool of states, and how many of them a running sequence holds
  // (costmodel/state_pool.h)
  std::int64_t state_slots = 0, slots_of_sequence = 0;
  // For people. With `deviations` (how many of kv_deviation to either side) also the blocks' interval.
  std::string to_table(double deviations = 0) const;
};

// Layers with a sliding window: vLLM's groups of layers share the pool (costmodel/kv_groups.h); SGLang gives
// them a pool of their own, swa_full_tokens_ratio times the tokens of the other (pool_configurator.py). On
// TensorRT-LLM they are counted as if they kept every token, and the table says so: its max_attention_window
// is not modelled, so its capacity for gpt-oss is underestimated, up to twofold at long contexts.
//
// Infeasible (exit code 4) when the weights do not fit, or when the KV cache cannot hold one sequence of
// max_model_len: says by how much and what would fit (smaller max_model_len, larger tp, quantisation).
Result<MemoryPlan> plan_memory(const InstanceSpec& spec);

// Of the activation peak, what sparse attention keeps for itself on vLLM; 0 for other models.
Bytes sparse_workspace(const InstanceSpec& spec);

}  // namespace orrery

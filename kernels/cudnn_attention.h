// Attention of whole prompts through cuDNN's graph API (its C form, loaded at run time): scaled dot products,
// causal mask, softmax, product with values, written as the graph that cuDNN's fused attention engines
// recognise.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

namespace orrery::kernels {

// All sequences alike. Memory is [sequence][token][head][head_dim], bf16.
struct CudnnAttentionShape {
  std::int64_t sequences = 0, tokens = 0;
  std::int64_t heads = 0, kv_heads = 0, head_dim = 0;
  std::int64_t kv_sequence_stride = 0;  // elements from one sequence's keys (or values) to the next one's
  float softmax_scale = 1;
};

class CudnnAttention {
 public:
  virtual ~CudnnAttention() = default;
  virtual std::size_t workspace_bytes() const = 0;
  // Launches only; may be captured. False with the library's words when it refuses.
  virtual bool launch(const void* queries, const void* keys, const void* values, void* out, void* workspace,
                      void* stream, std::string& why) = 0;
};

// The first engine of the heuristic that takes the graph. Null with a reason when the library is missing or
// none does.
std::unique_ptr<CudnnAttention> plan_cudnn_attention(const CudnnAttentionShape& shape, std::string& why);

}  // namespace orrery::kernels

#include "costmodel/model_spec.h"

namespace orrery {

const char* to_string(Quantization q) {
  switch (q) {
    case Quantization::none: return "bf16";
    case Quantization::fp8_block: return "fp8-block";
    case Quantization::fp8_tensor: return "fp8-tensor";
    case Quantization::fp8_channel: return "fp8-channel";
    case Quantization::w4a8: return "w4a8";
    case Quantization::w4a16: return "w4a16";
    case Quantization::int4: return "int4";
    case Quantization::mxfp4: return "mxfp4";
  }
  return "bf16";
}

Bytes WeightTensor::bytes() const {
  const double one = static_cast<double>(rows) * static_cast<double>(columns) * bytes_per_element(dtype) + scales.value();
  return Bytes(one * static_cast<double>(copies));
}

std::int64_t ModelSpec::parameters() const {
  std::int64_t sum = 0;
  for (const LayerKind& kind : layer_kinds) {
    for (const WeightTensor& w : kind.weights) sum += kind.count * w.parameters();
  }
  for (const WeightTensor& w : global_weights) sum += w.parameters();
  return sum;
}

// Parameters that one token touches: of the experts those it is routed to; of the embedding one row, counted as none
// (the usual convention: lm_head in, embedding out; a tied table is the lm_head).
std::int64_t ModelSpec::active_parameters() const {
  std::int64_t sum = 0;
  for (const LayerKind& kind : layer_kinds) {
    for (const WeightTensor& w : kind.weights) {
      const std::int64_t copies = w.copies > 1 ? experts_per_token : w.copies;
      sum += kind.count * w.rows * w.columns * copies;
    }
  }
  for (const WeightTensor& w : global_weights) {
    if (w.name != "embed_tokens" || tied_embeddings) sum += w.parameters();
  }
  return sum;
}

Bytes ModelSpec::weight_bytes() const {
  Bytes sum;
  for (const LayerKind& kind : layer_kinds) {
    for (const WeightTensor& w : kind.weights) sum += w.bytes() * static_cast<double>(kind.count);
  }
  for (const WeightTensor& w : global_weights) sum += w.bytes();
  return sum;
}

Bytes ModelSpec::kv_bytes_per_token() const {
  return Bytes(2.0 * static_cast<double>(layers * kv_heads * head_dim) * bytes_per_element(kv_dtype));
}

}  // namespace orrery

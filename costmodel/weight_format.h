// How a weight tensor is multiplied on a part: which matrix instruction, how many bytes per parameter.
#pragma once

#include <string>

#include "base/result.h"
#include "costmodel/model_spec.h"
#include "costmodel/operator.h"
#include "costmodel/roofline.h"

namespace orrery {

// The format of a GEMM whose weights are `tensor`, in a model quantised as `quantization`. Parts without the
// 8-bit instruction multiply in the activation type (weight-only kernels).
WeightFormat weight_format(const WeightTensor& tensor, Quantization quantization, DType activation,
                           const Roofline& roofline);
// The format named in interfaces §7 ("bf16", "fp8-tensor", "fp8-channel", "fp8-block", "w4a8", "w4a16",
// "int4", "mxfp4", "fp16"); an error lists the names.
Result<WeightFormat> named_weight_format(const std::string& name, const Roofline& roofline);

}  // namespace orrery

#include "costmodel/weight_format.h"

#include <array>

#include "base/text.h"

namespace orrery {

namespace {

// Types whose matrix instruction takes 8-bit operands, so that activations are quantised first.
bool eight_bit(DType dtype) { return dtype == DType::fp8 || dtype == DType::int8; }

DType math_type(DType stored, Quantization quantization, DType activation, const Roofline& roofline) {
  if (stored == DType::fp32) return DType::fp32;
  if (stored == DType::fp8 && roofline.has_math(DType::fp8)) return DType::fp8;
  if (stored == DType::int8 && roofline.has_math(DType::int8)) return DType::int8;
  if (quantization == Quantization::w4a8 && (stored == DType::int4 || stored == DType::int8)) {
    if (roofline.has_math(DType::fp8)) return DType::fp8;
    if (roofline.has_math(DType::int8)) return DType::int8;
  }
  return activation == DType::fp16 && roofline.has_math(DType::fp16) ? DType::fp16 : DType::bf16;
}

struct NamedFormat {
  const char* name;
  DType stored;
  Quantization quantization;
  double bytes_per_parameter;  // with scales: engine_semantics.md §6.6
};
constexpr std::array<NamedFormat, 9> named_formats{{
    {"bf16", DType::bf16, Quantization::none, 2},
    {"fp16", DType::fp16, Quantization::none, 2},
    {"fp8-tensor", DType::fp8, Quantization::fp8_tensor, 1},
    {"fp8-channel", DType::fp8, Quantization::fp8_channel, 1},
    {"fp8-block", DType::fp8, Quantization::fp8_block, 1.0 + 4.0 / (128 * 128)},
    {"w4a8", DType::int4, Quantization::w4a8, 0.5 + 2.0 / 128},
    {"w4a16", DType::int4, Quantization::w4a16, 0.5 + 2.0 / 128},
    {"int4", DType::int4, Quantization::int4, 0.5 + 2.0 / 128},
    {"mxfp4", DType::mxfp4, Quantization::mxfp4, 0.5 + 1.0 / 32},
}};

}  // namespace

WeightFormat weight_format(const WeightTensor& tensor, Quantization quantization, DType activation,
                           const Roofline& roofline) {
  WeightFormat format;
  format.stored = tensor.dtype;
  format.math = math_type(tensor.dtype, quantization, activation, roofline);
  format.bytes_per_parameter = tensor.bytes().value() / static_cast<double>(tensor.parameters());
  format.activation_bytes = eight_bit(format.math) ? 1 : format.math == DType::fp32 ? 4 : 2;
  const bool plain =
      tensor.dtype == DType::bf16 || tensor.dtype == DType::fp16 || tensor.dtype == DType::fp32;
  format.label = plain ? to_string(tensor.dtype) : to_string(quantization);
  return format;
}

Result<WeightFormat> named_weight_format(const std::string& name, const Roofline& roofline) {
  std::vector<std::string> names;
  for (const NamedFormat& f : named_formats) {
    names.emplace_back(f.name);
    if (name != f.name) continue;
    const DType activation = f.stored == DType::fp16 ? DType::fp16 : DType::bf16;
    WeightFormat format;
    format.stored = f.stored;
    format.math = math_type(f.stored, f.quantization, activation, roofline);
    format.bytes_per_parameter = f.bytes_per_parameter;
    format.activation_bytes = eight_bit(format.math) ? 1 : 2;
    format.label = f.name;
    return format;
  }
  return invalid_input("unknown type " + quote(name) + did_you_mean(name, names) + "; use one of " +
                       join(names, ", "));
}

}  // namespace orrery

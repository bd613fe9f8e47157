// What the cases share: operands drawn as a spec's `fill` asks, and the part of KernelCase that is the same
// for every kernel with a POD launch struct.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "kernels/fp8_output.h"
#include "kernels/kernel_case.h"
#include "kernels/reference.h"

namespace orrery::kernels {

// Allocates the buffers of one set of operands. Without memory it only counts, so that a case states its size
// through the code that allocates.
class Operands {
 public:
  Operands(DeviceMemory* memory, const CaseSpec& spec, int set) : memory_(memory), spec_(spec), set_(set) {}

  // Inputs, rows × columns, drawn as the spec's fill asks: normal deviates · scale; zeros; rows between 2⁻³⁰
  // and 2⁵⁰ times as large, of both signs; a NaN in every third row.
  std::uint16_t* bf16(std::int64_t rows, std::int64_t columns, float scale = 1);
  float* fp32(std::int64_t rows, std::int64_t columns, float scale = 1);
  std::uint8_t* fp8(std::int64_t rows, std::int64_t columns, float scale = 1);  // device's format; no
                                                                                // extremes
  // Weights: always random, around 1 when `around_one`.
  std::uint16_t* weight_bf16(std::int64_t count, bool around_one);

  template <class T>
  T* given(const std::vector<T>& values) {  // uploaded as it is
    return static_cast<T*>(uploaded(values.data(), values.size() * sizeof(T)));
  }
  template <class T>
  T* output(std::int64_t count) {  // NaN bytes until a kernel writes it
    return static_cast<T*>(allocate(static_cast<std::size_t>(count) * sizeof(T)));
  }
  template <class T>
  T* zeroed(std::int64_t count) {
    return static_cast<T*>(zeroed_bytes(static_cast<std::size_t>(count) * sizeof(T)));
  }

  bool complete() const { return complete_; }  // false when an allocation found no room
  std::size_t bytes() const { return bytes_; }
  std::uint64_t next_seed();  // differs from operand to operand and from set to set

 private:
  void* allocate(std::size_t bytes);
  void* uploaded(const void* data, std::size_t bytes);
  void* zeroed_bytes(std::size_t bytes);
  std::vector<float> extremes(std::int64_t rows, std::int64_t columns, float scale);

  DeviceMemory* memory_;
  const CaseSpec& spec_;
  int set_;
  std::uint64_t operands_ = 0;
  std::size_t bytes_ = 0;
  bool complete_ = true;
};

// A case whose launch takes one POD struct. What remains to write: operands() allocates and fills a set,
// check() compares, flops() and bytes() count.
template <class Launch>
class CaseOf : public KernelCase {
 public:
  CaseOf(const CaseSpec& spec, std::string kernel, void (*start)(const Launch&, void*))
      : spec_(spec), kernel_(std::move(kernel)), start_(start) {}

  std::string kernel() const override { return kernel_; }
  std::size_t bytes_per_set() const override {
    Operands counting(nullptr, spec_, 0);
    static_cast<void>(operands(counting));
    return counting.bytes();
  }
  bool prepare(DeviceMemory& memory, int sets, std::string& why) override {
    sets_.clear();
    for (int set = 0; set < sets; ++set) {
      Operands made(&memory, spec_, set);
      sets_.push_back(operands(made));
      if (made.complete()) continue;
      why = "no room for set " + std::to_string(set + 1) + " of " + std::to_string(sets) + ", " +
            std::to_string(bytes_per_set()) + " bytes each";
      return false;
    }
    return true;
  }
  void launch(int set, Stream stream) override { start_(sets_[static_cast<std::size_t>(set)], stream); }

 protected:
  virtual Launch operands(Operands& make) const = 0;
  const Launch& first() const { return sets_.front(); }
  const Launch& launch_of(int set) const { return sets_[static_cast<std::size_t>(set)]; }

  CaseSpec spec_;

 private:
  std::string kernel_;
  void (*start_)(const Launch&, void*);
  std::vector<Launch> sets_;
};

// What a spec's dtype asks of an operator that quantises: "fp8-tensor" | "fp8-channel" (a scale per row) |
// "fp8-block" (per 128 columns); false for anything else.
bool scaling_of(const CaseSpec& spec, Fp8Scaling& scaling);
// Buffers for it, rows × columns, row-major scales.
Fp8Output fp8_output(Operands& make, Fp8Scaling scaling, std::int64_t rows, std::int64_t columns);
// What a launch over rows × columns says of its result, bf16 or quantised.
template <class Launch>
void set_rows(Launch& launch, Operands& make, Fp8Scaling scaling, const CaseSpec& spec) {
  if (scaling == Fp8Scaling::none)
    launch.out = make.output<std::uint16_t>(spec.m * spec.n);
  else
    launch.quantized = fp8_output(make, scaling, spec.m, spec.n);
  launch.rows = static_cast<std::int32_t>(spec.m);
  launch.columns = static_cast<std::int32_t>(spec.n);
}
double fp8_output_bytes(Fp8Scaling scaling, std::int64_t rows, std::int64_t columns);

// A row of quantised output against what should have been quantised: first its scales, then what values ·
// scales are worth. `slack` is added to the tolerance of a value: an error of the computation before.
void compare_fp8_row(Comparison& comparison, DeviceMemory& memory, const Fp8Output& out, std::int64_t row,
                     const std::vector<double>& expected, const std::vector<double>& slack);

// The experts of m tokens, top_k different ones each. spec.rows (rows per expert) is obeyed where it is
// given; otherwise the choice is uniform, except that with Fill::saturating all tokens choose the same
// experts. It reads m, experts, top_k, block_size (rows of an expert block) and, where given, rows.
bool good_routing(const CaseSpec& spec);
inline constexpr const char* routing_need =
    "m, block_size >= 1, experts up to 512, top_k up to experts; rows, where given, one an expert, m * top_k "
    "in all";
std::vector<std::int32_t> draw_chosen(const CaseSpec& spec, std::uint64_t seed);

// Refusals: true when the condition holds, else `why` names operator and need.
bool needs(bool condition, const CaseSpec& spec, const char* need, std::string& why);
// The same for the dtype of an operator that quantises.
bool quantises(const CaseSpec& spec, Fp8Scaling& scaling, std::string& why);

}  // namespace orrery::kernels

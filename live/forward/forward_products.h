// Dense products of the forward pass: through cuBLASLt where the build has it, by our grouped kernel with one
// group elsewhere (the CPU simulator).
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <tuple>

#include "kernels/cublaslt.h"
#include "kernels/kernel_case.h"
#include "live/forward/forward_weights.h"

namespace orrery {

class ForwardProducts {
 public:
  explicit ForwardProducts(kernels::DeviceMemory& memory);
  bool ready() const { return ready_; }  // false: no room

  // Rows that a product of so many is launched with. cuBLASLt's plans are for one number of rows and are
  // timed when first met, so they are made for steps of it; what is beyond the rows asked for is scratch.
  // Buffers must hold as many.
  static std::int64_t launched_rows(std::int64_t rows);

  // out[rows][n] = in[rows][k] · weightᵀ. `range` on the device: 0, rows.
  void multiply(const Weight& weight, const std::uint16_t* in, std::uint16_t* out, std::int32_t rows,
                const std::int32_t* range, kernels::Stream stream);
  std::string take_refusal();  // what the library said since the last call; empty: it took everything

 private:
  kernels::LibraryGemm* plan(const Weight& weight, std::int64_t rows, const kernels::GemmOperands& trial);

  bool ready_ = true;
  void* workspace_ = nullptr;
  std::string refusal_;
  std::map<std::tuple<std::int64_t, std::int64_t, std::int64_t>, std::unique_ptr<kernels::LibraryGemm>>
      plans_;
};

}  // namespace orrery

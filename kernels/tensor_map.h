// Maps for Hopper's tensor copy engine; their encoder comes from the driver at run time. Host code of .cu
// files.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace orrery::kernels {

using TensorMapEncoder = decltype(&cuTensorMapEncodeTiled);

inline TensorMapEncoder find_tensor_map_encoder() {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result{};
  const cudaError_t error =
      cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result);
  if (error != cudaSuccess || result != cudaDriverEntryPointSuccess) {
    static_cast<void>(cudaGetLastError());
    return nullptr;
  }
  return reinterpret_cast<TensorMapEncoder>(found);
}

inline TensorMapEncoder tensor_map_encoder() {
  static const TensorMapEncoder found = find_tensor_map_encoder();
  return found;
}

// Why the current device has neither wgmma nor tensor copies; null when it has both.
inline const char* wgmma_refusal() {
  int device = 0, major = 0;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess ||
      major != 9) {
    return "wgmma needs compute capability 9.0";
  }
  return tensor_map_encoder() == nullptr ? "the driver has no cuTensorMapEncodeTiled" : nullptr;
}

// A tensor of `rank` dimensions, the innermost first and contiguous; `stride[i]` are the bytes of dimension i
// + 1. Boxes are 128 bytes wide and land with the 128-byte swizzle; what lies outside reads as zero. A map
// that the driver refuses is all zeros: the kernel fails at its first copy, and the launch reports it.
struct TensorMapShape {
  bool fp8 = false;
  std::uint32_t rank = 2;
  cuuint64_t extent[3] = {1, 1, 1}, stride[2] = {0, 0};
  cuuint32_t box[3] = {1, 1, 1};
};
inline CUtensorMap tensor_map(const void* data, const TensorMapShape& shape) {
  CUtensorMap map{};
  const cuuint32_t step[3] = {1, 1, 1};
  const CUresult result = tensor_map_encoder()(
      &map, shape.fp8 ? CU_TENSOR_MAP_DATA_TYPE_UINT8 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, shape.rank,
      const_cast<void*>(data), shape.extent, shape.stride, shape.box, step, CU_TENSOR_MAP_INTERLEAVE_NONE,
      CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? map : CUtensorMap{};
}

}  // namespace orrery::kernels

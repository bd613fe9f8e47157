// The simulator's half of tensor_core.h. A warp instruction is: every lane lays down what it holds, the warp
// meets, every lane takes what the fragment tables give it, the warp meets again. cp.async is delayed until
// the wait that covers it, so that a pipeline which waits for too little reads poison here too.
#pragma once

#include <array>
#include <cstring>
#include <vector>

#include "kernels/gpu_runtime.h"
#include "kernels/shared_memory_simulated.h"
#include "kernels/small_floats.h"

namespace orrery::kernels {

static_assert(GPU_WARP == 32, "these are NVIDIA's instructions");

using SharedAddress = std::uintptr_t;

namespace simulated {

struct Copy {
  void* to;
  const void* from;  // null: zeros
};

// Operands that a lane shows to its warp. Two halves: nobody reuses one before the exchange after next.
struct Lane {
  std::array<std::array<std::uint32_t, 6>, 2> words{};
  unsigned parity = 0;
  std::vector<std::vector<Copy>> groups{{}};  // the last one is open
};

inline Lane& mine() {
  static thread_local std::array<Lane, 1024> lanes;
  return lanes[threadIdx.x];
}

inline float decode_bf16(std::uint32_t bits) { return bf16_to_float(static_cast<std::uint16_t>(bits)); }
inline float decode_e4m3(std::uint32_t bits) {
  return fp8_to_float(static_cast<std::uint8_t>(bits), Fp8Format::ocp);
}
inline float decode_f16(std::uint32_t bits) {
  const std::uint32_t sign = (bits & 0x8000u) << 16, exponent = (bits >> 10) & 31, mantissa = bits & 0x3ff;
  if (exponent == 31) return gpu_bit_cast<float>(sign | 0x7f800000u | mantissa << 13);
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return sign ? -magnitude : magnitude;
  }
  return gpu_bit_cast<float>(sign | (exponent + 112) << 23 | mantissa << 13);
}
inline std::uint32_t encode_f16(float value) {
  const std::uint32_t bits = gpu_bit_cast<std::uint32_t>(value), sign = (bits >> 16) & 0x8000u,
                      magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return 0x7fff;
  if (magnitude >= 0x477ff000u) return sign | 0x7c00u;  // from 65520 on: infinity
  if (magnitude < 0x38800000u) {                        // below 2^-14: adding 1/2 rounds at 2^-24
    return sign | (gpu_bit_cast<std::uint32_t>(gpu_bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u);
  }
  return sign | ((magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1)) >> 13);
}

// Element `index` of pair `pair` (4 bytes) of an A row or a B column.
template <int Bits, float (*Decode)(std::uint32_t)>
float element(std::uint32_t word, unsigned index) {
  return Decode((word >> (index * Bits)) & ((1u << Bits) - 1));
}

template <int Bits, float (*Decode)(std::uint32_t)>
void mma(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  Lane& lane = mine();
  auto& words = lane.words[lane.parity ^= 1];
  words = {a[0], a[1], a[2], a[3], b0, b1};
  const std::uint64_t* all = simulator::exchange(reinterpret_cast<std::uintptr_t>(&words));
  const auto of = [all](unsigned from) {
    return *reinterpret_cast<const std::array<std::uint32_t, 6>*>(static_cast<std::uintptr_t>(all[from]));
  };
  const unsigned g = (threadIdx.x % 32) / 4, t = threadIdx.x % 4;
  for (unsigned i = 0; i < 4; i++) {
    const unsigned column = 2 * t + i % 2;
    float sum = d[i];
    for (unsigned pair = 0; pair < 8; pair++) {
      const std::uint32_t x = of(4 * g + pair % 4)[(pair / 4) * 2 + i / 2];
      const std::uint32_t y = of(4 * column + pair % 4)[4 + pair / 4];
      for (unsigned e = 0; e < 32 / Bits; e++)
        sum += element<Bits, Decode>(x, e) * element<Bits, Decode>(y, e);
    }
    d[i] = sum;
  }
}

inline void load_matrices(std::uint32_t (&r)[4], SharedAddress row, bool transposed) {
  const std::uint64_t* all = simulator::exchange(row);
  const unsigned g = (threadIdx.x % 32) / 4, t = threadIdx.x % 4;
  for (unsigned matrix = 0; matrix < 4; matrix++) {
    std::uint16_t pair[2];
    for (unsigned i = 0; i < 2; i++) {
      const unsigned from_row = transposed ? 2 * t + i : g, column = transposed ? g : 2 * t + i;
      std::memcpy(&pair[i], reinterpret_cast<const unsigned char*>(all[8 * matrix + from_row]) + 2 * column,
                  2);
    }
    r[matrix] = pair[0] | static_cast<std::uint32_t>(pair[1]) << 16;
  }
}

}  // namespace simulated

inline SharedAddress shared_address(const void* pointer) { return reinterpret_cast<SharedAddress>(pointer); }
inline void load_matrix_x4(std::uint32_t (&r)[4], SharedAddress row) {
  simulated::load_matrices(r, row, false);
}
inline void load_matrix_x4_transposed(std::uint32_t (&r)[4], SharedAddress row) {
  simulated::load_matrices(r, row, true);
}
inline void mma_bf16(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  simulated::mma<16, simulated::decode_bf16>(d, a, b0, b1);
}
inline void mma_f16(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  simulated::mma<16, simulated::decode_f16>(d, a, b0, b1);
}
inline void mma_e4m3(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  simulated::mma<8, simulated::decode_e4m3>(d, a, b0, b1);
}

inline void copy_async(SharedAddress to, const void* from, bool valid) {
  simulated::mine().groups.back().push_back({reinterpret_cast<void*>(to), valid ? from : nullptr});
}
inline void copy_async_commit() { simulated::mine().groups.emplace_back(); }
template <int Pending>
void copy_async_wait() {
  auto& groups = simulated::mine().groups;
  while (groups.size() > Pending + 1) {
    for (const simulated::Copy& copy : groups.front()) {
      if (copy.from == nullptr) {
        std::memset(copy.to, 0, 16);
      } else {
        std::memcpy(copy.to, copy.from, 16);
      }
    }
    groups.erase(groups.begin());
  }
}

inline void warp_sync() { simulator::exchange(0); }
inline std::uint32_t pack_f16(float low, float high) {
  return simulated::encode_f16(low) | simulated::encode_f16(high) << 16;
}
inline std::uint32_t f16_of_e4m3(std::uint32_t two) {
  return pack_f16(simulated::decode_e4m3(two & 0xff), simulated::decode_e4m3((two >> 8) & 0xff));
}
inline void f16_of_e4m3(std::uint32_t four, std::uint32_t& low, std::uint32_t& high) {
  low = f16_of_e4m3(four & 0xffff);
  high = f16_of_e4m3(four >> 16);
}
inline std::uint32_t permute_bytes(std::uint32_t x, std::uint32_t y, std::uint32_t selector) {
  const std::uint64_t bytes = x | static_cast<std::uint64_t>(y) << 32;
  std::uint32_t r = 0;
  for (unsigned i = 0; i < 4; i++) {
    r |= static_cast<std::uint32_t>((bytes >> (8 * ((selector >> (4 * i)) & 7))) & 0xff) << (8 * i);
  }
  return r;
}
inline float exp2_fast(float x) { return gpu_exp2(x); }
inline void keep_order() {}
inline std::uint32_t fresh(std::uint32_t number) { return number; }
inline GpuBytes16 load_or_zeros(const void* from, bool valid) {
  return valid ? gpu_load<GpuBytes16>(from, 0) : GpuBytes16{};
}

}  // namespace orrery::kernels

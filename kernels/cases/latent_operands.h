// A latent cache (kernels/mla_decode.h) for cases, and its rows in double precision.
#pragma once

#include <vector>

#include "kernels/cases/paged_operands.h"
#include "kernels/mla_decode.h"

namespace orrery::kernels {

// "bf16", "fp8" (one scale) or "fp8_ds_mla" (packed); false for anything else.
bool latent_format(const std::string& kv_dtype, LatentFormat& format);

struct LatentOperands {
  LatentFormat format = LatentFormat::bf16;
  void* rows = nullptr;
  float scale = 1;

  static std::size_t bytes(const PagedLayout& layout, LatentFormat format);
  bool allocate(DeviceMemory& memory, const PagedLayout& layout, LatentFormat stored);
  // What lies behind a sequence's end is NaN where `spoil_tails`.
  void fill(DeviceMemory& memory, const PagedLayout& layout, Fill how, std::uint64_t seed,
            bool spoil_tails) const;
};

// The rows of the tokens `places`, which a query attends to in this order.
class LatentTokens final : public AttendedTokens {
 public:
  LatentTokens(const std::vector<unsigned char>& cache, LatentFormat format, double scale,
               std::vector<std::int64_t> places);
  const std::vector<double>& key(std::size_t token) override;
  const std::vector<double>& value(std::size_t token) override;

 private:
  void read(std::size_t token);
  const std::vector<unsigned char>& cache_;
  LatentFormat format_;
  double scale_;
  std::vector<std::int64_t> places_;
  std::size_t at_ = ~std::size_t{0};
  std::vector<double> key_, value_;
};

}  // namespace orrery::kernels

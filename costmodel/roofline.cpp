#include "costmodel/roofline.h"

#include <algorithm>

namespace orrery {

namespace {

constexpr std::size_t index_of(KernelClass c) { return static_cast<std::size_t>(c); }

struct KernelClassEntry {
  KernelClass kernel_class;
  const char* name;
  KernelClass fallback;  // itself = required, or left out when `optional`
  bool optional;
};

// In an order in which every fallback stands before its users.
constexpr std::array<KernelClassEntry, index_of(KernelClass::count)> kernel_classes{{
    {KernelClass::gemm_bf16, "gemm_bf16", KernelClass::gemm_bf16, false},
    {KernelClass::gemm_fp16, "gemm_fp16", KernelClass::gemm_bf16, false},
    {KernelClass::gemm_fp8, "gemm_fp8", KernelClass::gemm_fp8, true},
    {KernelClass::gemm_fp8_block, "gemm_fp8_block", KernelClass::gemm_fp8, true},
    {KernelClass::gemm_int8, "gemm_int8", KernelClass::gemm_fp8, true},
    {KernelClass::grouped_gemm_bf16, "grouped_gemm_bf16", KernelClass::grouped_gemm_bf16, false},
    {KernelClass::grouped_gemm_fp8, "grouped_gemm_fp8", KernelClass::grouped_gemm_bf16, false},
    {KernelClass::attention_prefill, "attention_prefill", KernelClass::attention_prefill, false},
    {KernelClass::attention_decode, "attention_decode", KernelClass::attention_decode, false},
    {KernelClass::memory, "memory", KernelClass::memory, false},
    {KernelClass::elementwise, "elementwise", KernelClass::memory, false},
    {KernelClass::collective, "collective", KernelClass::memory, false},
}};

// Output tiles that GEMM libraries choose from (rows, columns). Factor: how far a tile falls below the
// largest because each operand byte in shared memory feeds fewer operations. A tile does bm·bn/(bm+bn)
// operations per byte of bf16 operand read from L2; the largest tile's rate needs about 70 (0.72 · 989e12
// / 10.2e12 on an H200, hardware.md §3, §5), so factor = min(1, bm·bn/(bm+bn)/70). Taken for other parts and
// types as well.
struct Tile {
  std::int64_t rows, columns;
  double factor;
};
constexpr Tile make_tile(std::int64_t rows, std::int64_t columns) {
  const double per_byte = static_cast<double>(rows * columns) / static_cast<double>(rows + columns);
  return {rows, columns, per_byte < 70 ? per_byte / 70 : 1};
}
// cuBLAS's Hopper kernels come in these sizes among others (nvjet_*_128x256, _192x192, _320x128, …).
constexpr std::array<Tile, 10> gemm_tiles{
    make_tile(128, 256), make_tile(256, 128), make_tile(192, 192), make_tile(320, 128), make_tile(128, 192),
    make_tile(128, 128), make_tile(64, 256),  make_tile(64, 192),  make_tile(64, 128),  make_tile(64, 64)};
constexpr std::int64_t least_split_k = 512;  // a shorter k does not hide the start of a tile's pipeline

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

}  // namespace

const char* to_string(KernelClass kernel_class) {
  for (const KernelClassEntry& e : kernel_classes) {
    if (e.kernel_class == kernel_class) return e.name;
  }
  return "?";
}

const char* to_string(Bound bound) {
  switch (bound) {
    case Bound::compute: return "compute";
    case Bound::memory: return "memory";
    case Bound::link: return "link";
    case Bound::latency: break;
  }
  return "latency";
}

Bound OpCost::bound() const {
  const double most = std::max({compute_ns, memory_ns, link_ns, latency_ns});
  if (latency_ns >= most) return Bound::latency;
  if (link_ns >= most) return Bound::link;
  return memory_ns >= compute_ns ? Bound::memory : Bound::compute;
}

Result<Roofline> Roofline::create(const HardwareProfile& hardware, std::shared_ptr<const KernelSet> kernels) {
  Roofline r;
  r.rates_ = PartRates::of(hardware);
  r.part_ = hardware.name;
  r.has_marlin_ = hardware.vendor == "nvidia";
  r.kernels_ = std::move(kernels);
  Errors errors;
  const std::string file = "hardware_profiles/" + hardware.name + ".yaml";
  const auto need = [&](bool good, const std::string& key, const std::string& why) {
    if (!good) errors.push_back(invalid_input("missing or not positive; " + why, {file, 0, 0}, key));
  };
  for (const auto& [dtype, figure] : hardware.matrix_rate) {
    need(figure.value.value() > 0, std::string("matrix_rate.") + to_string(dtype),
         "the rate of matrix instructions");
    r.matrix_[static_cast<std::size_t>(dtype)] = figure.value.value() * 1e-9;
  }
  // Products in fp32 run on the vector units.
  if (hardware.vector_rate && !r.has_math(DType::fp32))
    r.matrix_[static_cast<std::size_t>(DType::fp32)] = hardware.vector_rate->value.value() * 1e-9;
  for (const KernelClassEntry& e : kernel_classes) {
    const auto found = hardware.efficiency.find(e.name);
    if (found != hardware.efficiency.end()) {
      const double value = found->second.value.value;
      need(value > 0 && value <= 1, std::string("efficiency.") + e.name, "an efficiency is in (0, 1]");
      r.efficiency_[index_of(e.kernel_class)] = value;
      r.error_[index_of(e.kernel_class)] = found->second.error;
    } else {
      r.efficiency_[index_of(e.kernel_class)] = r.efficiency_[index_of(e.fallback)];
      r.error_[index_of(e.kernel_class)] = r.error_[index_of(e.fallback)];
      need(e.optional || r.efficiency_[index_of(e.kernel_class)] > 0, std::string("efficiency.") + e.name,
           "every step has kernels of this class");
    }
  }
  r.bandwidth_ = hardware.memory_bandwidth.value.value() * 1e-9;
  r.cache_bytes_ = std::max(hardware.l2.value.value(), hardware.last_level_cache.value.value()) / 2;
  r.floor_ns_ = hardware.kernel_floor.value.value() * 1e9;
  r.units_ = static_cast<std::int64_t>(hardware.compute_units.value);
  r.link_rate_ = hardware.link_bandwidth.value.value() * 1e-9;
  r.pair_rate_ = hardware.link_pair_bandwidth.value.value() * 1e-9;
  r.link_efficiency_ = hardware.link_efficiency.value;
  r.collective_latency_ns_ = hardware.collective_latency.value.value() * 1e9;
  if (hardware.eight_ranks_latency) r.eight_ranks_latency_ = hardware.eight_ranks_latency->value;
  if (hardware.library_latency) r.library_latency_ = hardware.library_latency->value;
  need(r.bandwidth_ > 0, "memory_bandwidth", "every operator moves bytes");
  need(r.cache_bytes_ > 0, "l2", "decides which activations reach memory");
  need(r.floor_ns_ > 0, "kernel_floor", "no kernel is shorter");
  need(r.units_ > 0, "compute_units", "tiles are dealt to them in waves");
  if (!errors.empty()) return errors;
  return r;
}

void Roofline::set_laws(const KernelLaws& laws) {
  laws_ = laws;
  if (laws.kernel_floor.present()) floor_ns_ = laws.kernel_floor.value.value() * 1e9;
}

double Roofline::small_all_reduce_ns(std::int32_t ranks) const {
  const double further = (eight_ranks_latency_ - 1) * static_cast<double>(ranks - 2) / 6;
  return collective_latency_ns_ * (1 + further);
}

// Start of an NCCL ring: measured 6.2, 9.6, 15.6 µs at 2, 4, 8 GPUs where the custom kernel takes 3.5
// ([AIC] H100, hardware.md §6), which is 0.9 + 0.45·ranks of the small all-reduce inside a graph.
double Roofline::library_latency_ns(std::int32_t ranks) const {
  return collective_latency_ns_ * (library_latency_ > 0 ? library_latency_ : 0.9 + 0.45 * ranks);
}

double Roofline::matrix_rate(DType dtype) const {
  ORRERY_CHECK(has_math(dtype), "no matrix rate for this type on this part");
  return matrix_[static_cast<std::size_t>(dtype)];
}

KernelClass Roofline::gemm_class(const WeightFormat& format) const {
  switch (format.math) {
    case DType::fp16: return KernelClass::gemm_fp16;
    case DType::fp8: return format.label == "fp8-block" ? KernelClass::gemm_fp8_block : KernelClass::gemm_fp8;
    case DType::int8: return KernelClass::gemm_int8;
    default: return KernelClass::gemm_bf16;
  }
}

KernelClass Roofline::grouped_class(const WeightFormat& format) const {
  return format.math == DType::fp8 ? KernelClass::grouped_gemm_fp8 : KernelClass::grouped_gemm_bf16;
}

double Roofline::link_rate(std::int32_t ranks) const {
  // Through a switch a GPU can give all its links to one peer (pair = total); in a full mesh it has one link
  // to each, so two ranks use one link: MI300X TP2 gets 48 of 448 GB/s (hardware.md §6, §11.7).
  return std::min(link_rate_, pair_rate_ * (ranks - 1)) * link_efficiency_;
}

double Roofline::stream_ns(double activation_bytes, bool cached, double hbm_bytes,
                           KernelClass kernel_class) const {
  const double rate = bandwidth_ * efficiency(kernel_class);
  return (cached ? activation_bytes / cache_speedup : activation_bytes) / rate + hbm_bytes / rate;
}

double Roofline::tiled_ns(std::int64_t m, std::int64_t n, std::int64_t k, DType math,
                          double efficiency) const {
  const double unit_rate = matrix_rate(math) * efficiency / static_cast<double>(units_);
  double least = 0;
  for (const Tile& tile : gemm_tiles) {
    const std::int64_t tiles = ceil_div(m, tile.rows) * ceil_div(n, tile.columns);
    std::int64_t waves = 1;
    std::int64_t split = 1;
    if (tiles > units_) {
      waves = ceil_div(tiles, units_);
    } else {
      split = std::max<std::int64_t>(1, std::min(units_ / tiles, k / least_split_k));
    }
    const double tile_work = 2.0 * static_cast<double>(tile.rows * tile.columns) * static_cast<double>(k);
    const double ns =
        static_cast<double>(waves) * tile_work / (static_cast<double>(split) * unit_rate * tile.factor);
    if (least == 0 || ns < least) least = ns;
  }
  return least;
}

double Roofline::grouped_ns(double row_tiles, std::int64_t block_m, std::int64_t n, std::int64_t k,
                            DType math, double efficiency, std::int64_t block_n) const {
  const double tiles = row_tiles * static_cast<double>(ceil_div(n, block_n));
  const double units = static_cast<double>(units_);
  const double unit_rate = matrix_rate(math) * efficiency / units;
  // The expected number of tiles is not whole, so waves are counted in half-open steps of the mean: a last
  // wave that is partly full takes as long as a full one, on average half a wave more than tiles ÷ units.
  const double waves = tiles <= units ? 1.0 : tiles / units + 0.5;
  return waves * 2.0 * static_cast<double>(block_m * block_n) * static_cast<double>(k) / unit_rate;
}

}  // namespace orrery

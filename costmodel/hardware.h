// A GPU as data (hardware_profiles/<name>.yaml): what the part can do, each figure with kind and source.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "base/result.h"
#include "costmodel/figure.h"

namespace orrery {

enum class DType : std::uint8_t { fp32, bf16, fp16, fp8, int8, int4, mxfp4, count };
const char* to_string(DType dtype);
double bytes_per_element(DType dtype);  // mxfp4: 4 bits + 8 bits per 32 elements

// How far below the data sheet a class of kernels stays, with the error of saying so.
struct Efficiency {
  Figure<double> value{};  // achieved ÷ peak, in (0, 1]
  double error = 0;        // one standard deviation of log(time) around the roofline with this efficiency
  FigureKind error_kind = FigureKind::assumed;
  std::string error_source{};
};

struct HardwareProfile {
  std::string name, description, vendor, architecture;  // "h200", "NVIDIA H200 SXM 141 GB", "nvidia",
                                                        // "sm_90a"
  std::map<DType, Figure<FlopsPerSecond>> matrix_rate;  // dense peak per dtype; absent = the part has no such
                                                        // instruction
  std::optional<Figure<FlopsPerSecond>> vector_rate;    // fp32
  Figure<Bytes> memory_total;                           // as the framework reports it (torch total memory)
  Figure<BytesPerSecond> memory_bandwidth;              // data sheet
  Figure<Bytes> l2, last_level_cache;     // last_level_cache: Infinity Cache; equals l2 where there is none
  Figure<double> compute_units;           // SMs or CUs
  Figure<Hertz> clock_peak;               // the clock that reproduces the matrix rate
  Figure<Seconds> kernel_floor;           // least duration of a dependent kernel in a graph
  Figure<BytesPerSecond> link_bandwidth;  // scale-up, one direction, one GPU to its peers together
  Figure<BytesPerSecond> link_pair_bandwidth;  // scale-up, one direction, to one peer
  Figure<double> link_efficiency;              // achieved ÷ raw for large collectives
  Figure<Seconds> collective_latency;          // small all-reduce, inside a graph, two GPUs
  // Of that, where it was measured: a small all-reduce of eight GPUs, the start of the vendor's library of
  // any number of them. Absent: as on NVIDIA's parts (costmodel/collective.h).
  std::optional<Figure<double>> eight_ranks_latency, library_latency;
  Figure<BytesPerSecond> pcie_bandwidth, nic_bandwidth;
  Figure<Watts> power;
  std::optional<Figure<UsdPerHour>> price;       // set by the user; never a default
  std::map<std::string, Efficiency> efficiency;  // gemm_bf16, gemm_fp8, grouped_gemm, attention_prefill,
                                                 // attention_decode, memory, …
  std::string fp8_format;                        // "fnuz" | "ocp" | "none"
};

// By name from hardware_profiles/, or a path (with a slash, or ending in .yaml; relative to `folder`) to a
// profile of one's own: a figure changed, a price set. Every error is located: unknown name (with
// did-you-mean), missing figure, kind, source or unit, a unit of another dimension, unknown or repeated keys.
// Figures whose key is optional in the file (vector_rate, l2, links, pcie_bandwidth, nic_bandwidth, power,
// price) are absent when it is missing: Figure::present() is then false.
Result<HardwareProfile> load_hardware(const std::string& name_or_path, const std::string& folder = ".");
bool is_hardware_path(const std::string& name_or_path);
Result<HardwareProfile> parse_hardware(const std::string& text, const std::string& file_name);

}  // namespace orrery

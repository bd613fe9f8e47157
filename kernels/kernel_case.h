// One operator at one shape as something that can be filled, launched, timed and checked: what `calibrate`
// and the kernel tests work with. The same cases run on a GPU and, but for
// wgmma and libraries, in the CPU fibre simulator; they see memory only through DeviceMemory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace orrery::kernels {

using Stream = void*;  // a cudaStream_t or hipStream_t; null in the simulator

// How inputs are drawn. Everything but `random` is for checks, never for timing.
enum class Fill : std::uint8_t {
  random,  // normal deviates of a plausible scale
  zeros,
  saturating,  // values beyond what fp8 holds, huge dynamic range between rows
  with_nan,    // some inputs are NaN: exactly the outputs that depend on them must be NaN
};

// Shapes as in interfaces §7; an operator reads the fields that it names.
struct CaseSpec {
  std::string op;                    // "gemm", "rms_norm", …
  std::string dtype = "bf16";        // bf16 | fp8-tensor | fp8-channel | fp8-block
  std::string kv_dtype = "bf16";     // bf16 | fp8
  std::int64_t m = 0, n = 0, k = 0;  // rows, features out, features in
  std::vector<std::int64_t> rows;    // grouped: rows per expert, zeros allowed
  std::int64_t slots = 0;     // grouped: rows set aside for each expert; 0: rows lie one after the other
  std::int32_t variant = -1;  // of a kernel whose tiles can be searched; −1: its own choice
  std::int64_t experts = 0, top_k = 0;                           // routing
  std::int64_t groups = 0, top_groups = 0;                       // routing by groups of experts
  std::int64_t heads = 0, kv_heads = 0, head_dim = 0;            // attention, rotary
  std::vector<std::pair<std::int64_t, std::int64_t>> sequences;  // prefill: (new tokens, context before)
  std::vector<std::int64_t> contexts;  // decode: tokens in the cache, one per sequence
  std::int64_t block_size = 16;        // paged KV
  std::int64_t bytes = 0;              // copies, collectives
  std::int32_t ranks = 1;
  bool early = false;  // a kernel that may begin before the launch in front of it is through does
  Fill fill = Fill::random;
  std::uint64_t seed = 1;
};

// Where a case keeps its buffers. Every allocation stands between guard zones of 256 bytes filled with a
// pattern and is itself filled with NaN bytes (0xFF) at first, so that reads of what nobody wrote and writes
// beyond an end show.
class DeviceMemory {
 public:
  virtual ~DeviceMemory() = default;
  virtual void* allocate(std::size_t bytes) = 0;  // null when there is no room; 256-byte aligned
  virtual void upload(void* device, const void* host, std::size_t bytes) = 0;
  virtual void download(void* host, const void* device, std::size_t bytes) = 0;  // waits for launches
  virtual void fill(void* device, int byte, std::size_t bytes) = 0;
  // Normal deviates · scale as "bf16", "fp32" or "fp8" (e4m3 in the device's own format), generated where the
  // memory is: large inputs for timing.
  virtual void fill_random(void* device, std::size_t elements, const char* type, float scale,
                           std::uint64_t seed) = 0;
  virtual bool guards_intact(std::string& what) = 0;  // of all allocations
  virtual void release_all() = 0;
  virtual int device_index() const { return 0; }  // in the driver's order
};

struct CheckResult {
  bool passed = false;
  double worst = 0;           // largest error over its tolerance: ≤ 1 when passed
  std::int64_t compared = 0;  // outputs compared with the double-precision reference
  std::string detail;         // where and what, when it failed
};

class KernelCase {
 public:
  virtual ~KernelCase() = default;
  virtual std::string kernel() const = 0;  // kernel id for tables: "orrery.rms_norm.v1", "cublaslt.gemm"
  virtual std::size_t bytes_per_set() const = 0;  // buffers of one set, workspaces included
  // Allocates and fills `sets` independent sets of operands (weights that must come from memory cold are
  // rotated over more than the last cache). False with a reason when there is no room or the device cannot
  // run it.
  virtual bool prepare(DeviceMemory& memory, int sets, std::string& why) = 0;
  virtual void launch(int set, Stream stream) = 0;  // only kernel launches: no allocation, no synchronisation
  // What a library said when it refused a launch, which then did nothing; empty: none was.
  virtual std::string refusal() const { return {}; }
  // After a launch on set 0: compares at least min(all, 4096) outputs with a double-precision reference.
  virtual CheckResult check(DeviceMemory& memory) = 0;
  // Work of one launch, for the roofline: as the cost model counts it.
  virtual double flops() const = 0;
  virtual double bytes() const = 0;
};

// One line per operator; null when the spec lacks a field or asks for what there is no kernel for (then why
// says so).
struct CaseEntry {
  const char* op;
  const char* description;
  bool simulated;  // also runs in the CPU fibre simulator
  std::unique_ptr<KernelCase> (*make)(const CaseSpec&, std::string& why);
};

}  // namespace orrery::kernels

// Tiles of vLLM's Triton expert kernel (docs/tiles.md): which one a batch gets, from a tuned file, from the
// engine's default, or from a search over the tile law.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/yaml_reader.h"
#include "costmodel/operator.h"
#include "costmodel/roofline.h"

namespace orrery {

struct InstanceSpec;

// One entry of a file: BLOCK_SIZE_M, _N and _K, GROUP_SIZE_M, num_warps, num_stages.
struct MoeTile {
  std::int64_t rows = 16, columns = 128, depth = 128, group = 1, warps = 4, stages = 3;
  friend bool operator==(const MoeTile&, const MoeTile&) = default;
  std::string text() const;  // "64x128x128"
};

// Experts of one rank, as the engine's kernel sees them.
struct MoeShape {
  std::int64_t experts = 0, inner = 0, hidden = 0;      // held; width of one; features
  std::int64_t of_model = 0, per_token = 0, ranks = 1;  // all experts; choices of a token; ranks that share
  bool gated = true;
  WeightFormat format;
};

// vLLM 0.24 fused_moe.py, get_default_config.
MoeTile default_moe_tile(std::int64_t tokens, const MoeShape& shape, bool rocm);

// fused_moe.py, get_config_file_name; `device` as vLLM names the part ("AMD_Radeon_R9700").
std::string moe_tile_file_name(const MoeShape& shape, const std::string& device);
std::string vllm_device_name(const std::string& hardware);  // empty: not known here

// Batch sizes for which files have an entry (benchmark_moe.py).
const std::vector<std::int64_t>& moe_tile_keys();

// The space of a search and what of it a part can hold: tiles of the two operands, all stages, in shared
// memory, and at most 64 sums a lane.
std::vector<MoeTile> moe_tile_space(const HardwareProfile& part, const WeightFormat& format);
std::int64_t shared_memory_bytes(const HardwareProfile& part);  // of one block of threads

// Nanoseconds of both products of a layer at `tokens` tokens with this tile: the tile law (docs/tiles.md).
double moe_tile_ns(const Roofline& roofline, const MoeShape& shape, const MoeTile& tile, std::int64_t tokens);

// What a deployment's experts run with.
class MoeTiles {
 public:
  MoeTiles(MoeShape shape, bool rocm) : shape_(std::move(shape)), rocm_(rocm) {}
  // The entry whose key is nearest (the smaller of two as near); without entries the default.
  MoeTile at(std::int64_t tokens) const;
  const std::string& source() const { return source_; }
  const std::map<std::int64_t, MoeTile>& entries() const { return entries_; }

  void search(const Roofline& roofline, const HardwareProfile& part);
  Status read(const std::string& path);  // a file in vLLM's layout
  void fall_back(const std::string& why) { source_ = "default: " + why; }

 private:
  MoeShape shape_;
  bool rocm_;
  std::map<std::int64_t, MoeTile> entries_;
  std::string source_ = "default";
};

// `deployment.tiles`: default | tuned | a folder of vLLM's files. Null when the key is absent, or when our
// own measured tables stand for the experts (then it says which of their rows: `asks_tuned_rows`). Errors go
// to the key.
std::shared_ptr<const MoeTiles> read_moe_tiles(const Yaml& key, const InstanceSpec& spec,
                                               const std::string& folder);
bool asks_tuned_rows(const Yaml& key);

}  // namespace orrery

#include "costmodel/moe_tiles.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <utility>

#include "base/json.h"
#include "base/text.h"
#include "costmodel/moe.h"
#include "costmodel/step_pricer.h"
#include "costmodel/weight_format.h"

namespace orrery {

namespace {

bool fp8(const MoeShape& shape) { return shape.format.math == DType::fp8; }
bool in_blocks(const MoeShape& shape) { return shape.format.label == "fp8-block"; }

// vLLM 0.24 platforms/rocm.py, _ROCM_DEVICE_ID_NAME_MAP; on NVIDIA the driver's name with underscores.
constexpr std::array<std::pair<const char*, const char*>, 7> device_names{{
    {"h100", "NVIDIA_H100_80GB_HBM3"},
    {"h200", "NVIDIA_H200"},
    {"h20", "NVIDIA_H20"},
    {"l40s", "NVIDIA_L40S"},
    {"mi300x", "AMD_Instinct_MI300X"},
    {"mi325x", "AMD_Instinct_MI325X"},
    {"r9700", "AMD_Radeon_R9700"},
}};

}  // namespace

std::string MoeTile::text() const {
  return std::to_string(rows) + "x" + std::to_string(columns) + "x" + std::to_string(depth);
}

MoeTile default_moe_tile(std::int64_t tokens, const MoeShape& shape, bool rocm) {
  MoeTile tile;
  tile.stages = rocm ? 2 : 3;
  if (in_blocks(shape)) {
    tile.rows = tokens <= 64 ? 16 : 64;
    tile.group = tokens <= 16 ? 1 : 32;
    return tile;
  }
  tile.rows = tokens <= 32 ? 16 : tokens <= 96 ? 32 : tokens <= 512 ? 64 : 128;
  tile.columns = tokens <= 64 ? 64 : 128;
  tile.depth = fp8(shape) || tokens <= 64 ? 128 : 64;
  tile.group = tokens / std::max<std::int64_t>(shape.experts, 1) > 128 ? 16 : 1;
  tile.warps = tokens <= 128 ? 4 : 8;
  if (!rocm && tokens <= 32) tile.stages = 4;
  return tile;
}

std::string vllm_device_name(const std::string& hardware) {
  for (const auto& [ours, theirs] : device_names) {
    if (hardware == ours) return theirs;
  }
  return "";
}

std::string moe_tile_file_name(const MoeShape& shape, const std::string& device) {
  return "E=" + std::to_string(shape.experts) + ",N=" + std::to_string(shape.inner) +
         ",device_name=" + device + (fp8(shape) ? ",dtype=fp8_w8a8" : "") +
         (in_blocks(shape) ? ",block_shape=[128,128]" : "") + ".json";
}

const std::vector<std::int64_t>& moe_tile_keys() {
  static const std::vector<std::int64_t> keys{1,  2,   4,   8,   16,   24,   32,   48,   64,
                                              96, 128, 256, 512, 1024, 1536, 2048, 3072, 4096};
  return keys;
}

// Of one block of threads: CUDA's limit by compute capability (CUDA C++ programming guide, technical
// specifications), 64 KiB of LDS on CDNA 3 and RDNA 4 (AMD's instruction set guides).
std::int64_t shared_memory_bytes(const HardwareProfile& part) {
  if (part.architecture == "sm_90a") return 227 << 10;
  return part.architecture == "sm_89" ? 99 << 10 : 64 << 10;
}

// Extents as benchmark_moe.py searches them. Depth and the order of tiles (group) move nothing in the law and
// stay the default's.
std::vector<MoeTile> moe_tile_space(const HardwareProfile& part, const WeightFormat& format) {
  const bool rocm = part.vendor == "amd";
  const std::int64_t bytes = format.math == DType::fp8 ? 1 : 2,
                     lanes = part.architecture == "gfx942" ? 64 : 32;
  std::vector<MoeTile> space;
  // Of equal times the first wins: few columns and few rows buy nothing by themselves.
  for (const std::int64_t rows : {256, 128, 64, 32, 16}) {
    for (const std::int64_t columns : {128, 256, 64, 32}) {
      MoeTile tile{rows, columns, 128, 1, 4, rocm ? 2 : 3};
      // On AMD the last stage waits in registers: files for the R9700 have tiles of 32 × 256 × 128 in 2
      // stages.
      const std::int64_t held = rocm ? tile.stages - 1 : tile.stages;
      if (held * (rows + columns) * tile.depth * bytes > shared_memory_bytes(part)) continue;
      while (tile.warps < 8 && rows * columns / (tile.warps * lanes) > 64) tile.warps *= 2;
      if (rows * columns / (tile.warps * lanes) > 64) continue;
      space.push_back(tile);
    }
  }
  return space;
}

double moe_tile_ns(const Roofline& roofline, const MoeShape& shape, const MoeTile& tile,
                   std::int64_t tokens) {
  const ExpertShare share =
      expected_slowest_rank(static_cast<double>(shape.of_model), static_cast<double>(shape.per_token),
                            static_cast<double>(tokens), static_cast<double>(shape.ranks));
  GroupedRows rows{share.rows, share.distinct, expected_row_tiles(share.distinct, share.rows, tile.rows),
                   tile.rows, &tile};
  OpSpec spec;
  spec.format = shape.format;
  spec.n = (shape.gated ? 2 : 1) * shape.inner;
  spec.k = shape.hidden;
  const double up = grouped_gemm_cost(roofline, spec, rows).ns();
  spec.n = shape.hidden;
  spec.k = shape.inner;
  return up + grouped_gemm_cost(roofline, spec, rows).ns();
}

MoeTile MoeTiles::at(std::int64_t tokens) const {
  const MoeTile* nearest = nullptr;
  std::int64_t distance = 0;
  for (const auto& [key, tile] : entries_) {
    const std::int64_t d = std::abs(key - tokens);
    if (nearest != nullptr && d >= distance) continue;
    nearest = &tile;
    distance = d;
  }
  return nearest != nullptr ? *nearest : default_moe_tile(tokens, shape_, rocm_);
}

void MoeTiles::search(const Roofline& roofline, const HardwareProfile& part) {
  source_ = "searched by the tile law";
  for (const std::int64_t tokens : moe_tile_keys()) {
    MoeTile best = default_moe_tile(tokens, shape_, rocm_);
    double least = moe_tile_ns(roofline, shape_, best, tokens);
    for (const MoeTile& tile : moe_tile_space(part, shape_.format)) {
      const double ns = moe_tile_ns(roofline, shape_, tile, tokens);
      if (ns >= least) continue;
      best = tile;
      least = ns;
    }
    entries_[tokens] = best;
  }
}

namespace {

// One entry; a missing extent takes the default's. Triton takes extents that are powers of two, of a product
// (tl.dot) 16 at least, and as many warps.
Result<MoeTile> read_entry(const Json& entry, MoeTile tile, const std::string& path, const std::string& key) {
  const std::pair<const char*, std::int64_t*> fields[] = {
      {"BLOCK_SIZE_M", &tile.rows},  {"BLOCK_SIZE_N", &tile.columns}, {"BLOCK_SIZE_K", &tile.depth},
      {"GROUP_SIZE_M", &tile.group}, {"num_warps", &tile.warps},      {"num_stages", &tile.stages},
  };
  for (const auto& [name, value] : fields) {
    if (!entry.is_object() || !entry.contains(name)) continue;
    const Json& given = entry[name];
    if (!given.is_number_unsigned() || given.get<std::uint64_t>() < 1 || given.get<std::uint64_t>() > 4096)
      return invalid_input("must be a whole number from 1 to 4096", {path, 0, 0}, key + "." + name);
    *value = given.get<std::int64_t>();
    const bool extent = std::string(name).starts_with("BLOCK_SIZE_"), warps = value == &tile.warps;
    const bool power = (*value & (*value - 1)) == 0;
    if (extent && (!power || *value < 16))
      return invalid_input("must be a power of two, 16 at least", {path, 0, 0}, key + "." + name);
    if (warps && !power) return invalid_input("must be a power of two", {path, 0, 0}, key + "." + name);
  }
  if (!entry.is_object() || !entry.contains("BLOCK_SIZE_M"))
    return invalid_input("an entry names its tile: {\"BLOCK_SIZE_M\": 16, …}", {path, 0, 0}, key);
  return tile;
}

}  // namespace

Status MoeTiles::read(const std::string& path) {
  ORRERY_TRY(file, load_json(path));
  if (!file.is_object()) return invalid_input("must be a map of batch sizes to tiles", {path, 0, 0});
  for (const auto& item : file.items()) {
    if (item.key() == "triton_version") continue;
    const std::int64_t tokens = std::atoll(item.key().c_str());
    if (tokens < 1 || std::to_string(tokens) != item.key())
      return invalid_input("keys are batch sizes", {path, 0, 0}, item.key());
    ORRERY_TRY(tile, read_entry(item.value(), default_moe_tile(tokens, shape_, rocm_), path, item.key()));
    entries_[tokens] = tile;
  }
  if (entries_.empty()) return invalid_input("has no batch size", {path, 0, 0});
  source_ = std::filesystem::path(path).filename().string();
  return ok_status();
}

bool asks_tuned_rows(const Yaml& key) { return key.present() && key.scalar_text() == "tuned"; }

namespace {

// Of the experts of one rank; their weights all have one format.
MoeShape shape_of(const InstanceSpec& spec, const Roofline& roofline) {
  const ModelSpec& model = spec.model;
  MoeShape shape;
  shape.ranks = spec.plan.ep;
  shape.of_model = model.experts;
  shape.per_token = model.experts_per_token;
  shape.experts = model.experts / spec.plan.ep;
  shape.inner = model.expert_intermediate * spec.plan.ep / spec.expert_ranks();
  shape.hidden = model.hidden;
  shape.gated = model.gated_mlp;
  for (const LayerKind& kind : model.layer_kinds) {
    for (const WeightTensor& tensor : kind.weights) {
      if (tensor.name == "experts.gate_up")
        shape.format = weight_format(tensor, model.quantization, model.activation_dtype, roofline);
    }
  }
  return shape;
}

// Why this deployment's experts have no such tiles; empty when they do.
std::string refusal(const InstanceSpec& spec, const MoeShape& shape) {
  const std::string alone = "tiles are those of vLLM's Triton expert kernel: ";
  if (spec.model.experts == 0) return alone + "model " + quote(spec.model.name) + " has no experts";
  if (spec.engine.engine != "vllm")
    return alone + spec.engine.name + " chooses by rules of its own, which are not modelled";
  if (spec.engine.settings.joint.exchanges())
    return alone + "behind an exchange of rows other kernels multiply; leave out `tiles`";
  if (shape.format.bytes_per_parameter < 0.9)
    return alone + "weights of " + shape.format.label + " have kernels of their own";
  const ExpertShape timed{shape.hidden, shape.inner, shape.of_model, shape.per_token};
  if (spec.kernels != nullptr && spec.kernels->experts(shape.format.label, timed))
    return "the set " + quote(spec.kernels->name()) +
           " has this layer as a whole, timed with the tiles that the engine took; use kernels: roofline, or "
           "leave "
           "out `tiles`";
  return "";
}

}  // namespace

std::shared_ptr<const MoeTiles> read_moe_tiles(const Yaml& key, const InstanceSpec& spec,
                                               const std::string& folder) {
  if (!key.present()) return nullptr;
  const std::string wanted = key.text();
  auto roofline = Roofline::create(spec.hardware);
  if (!roofline.ok()) return nullptr;  // said where the pricer is made
  const MoeShape shape = shape_of(spec, *roofline);
  auto tiles = std::make_shared<MoeTiles>(shape, spec.hardware.vendor == "amd");
  // Our own set: rows of its table. What it has not timed goes by the law, if vLLM would run it.
  if (spec.model.experts > 0 && spec.kernels != nullptr && spec.kernels->has_grouped(shape.format.label)) {
    if (wanted != "default" && wanted != "tuned")
      key.fail("beside the set " + quote(spec.kernels->name()) + " use default or tuned: whose rows it has");
    else if (wanted == "tuned" && !spec.kernels->tuned())
      key.fail("the set " + quote(spec.kernels->name()) + " of " + spec.hardware.name +
               " has no tuned rows; `orrery calibrate --tune` makes them on the part");
    return tiles;
  }
  if (const std::string why = refusal(spec, shape); !why.empty()) {
    key.fail(why);
    return nullptr;
  }
  if (wanted == "default") return tiles;
  if (wanted == "tuned") {
    tiles->search(*roofline, spec.hardware);
    return tiles;
  }
  const std::filesystem::path directory = std::filesystem::path(folder) / wanted;
  std::error_code ec;
  if (!std::filesystem::is_directory(directory, ec)) {
    key.fail("must be default, tuned, or a folder of vLLM's tile files; " + quote(directory.string()) +
             " is none");
    return nullptr;
  }
  // As the engine does: no file of that name, no word about it but a line in its log.
  const std::string name = moe_tile_file_name(shape, vllm_device_name(spec.hardware.name));
  if (!std::filesystem::exists(directory / name, ec)) {
    tiles->fall_back("no " + name);
    return tiles;
  }
  if (const Status read = tiles->read((directory / name).string()); !read.ok()) {
    const Error& error = read.errors().front();
    key.fail(error.message + " (" + (error.key.empty() ? "" : error.key + " of ") + name + ")");
  }
  return tiles;
}

}  // namespace orrery

// Tiles that were found, in the layout of vLLM's fused-MoE files.
#include <algorithm>
#include <tuple>

#include "calibrate/tune.h"

namespace orrery::calibrate {

namespace {

bool power_of_two(std::int64_t value) { return value > 0 && (value & (value - 1)) == 0; }

// tl.arange and tl.dot: extents are powers of two, of at least 16. Which operand our instruction has in its
// rows is nothing to it; its fused-MoE kernel splits no features in.
bool triton_takes(const SearchTile& tile) {
  return tile.splits == 1 && tile.rows >= 16 && power_of_two(tile.rows) && power_of_two(tile.columns) &&
         power_of_two(tile.depth);
}

using Extents = std::tuple<std::int64_t, std::int64_t, std::int64_t>;
Extents extents(const SearchTile& t) { return {t.rows, t.columns, t.depth}; }

struct Sum {
  SearchTile tile;
  double us = 0;
  std::size_t products = 0;
};

// Both products of a layer at one batch size.
struct Layer {
  std::map<Extents, Sum> sums;
  Extents own;

  // What the kernel takes by itself stays where nothing is faster by a thousandth.
  const Sum* best() const {
    const Sum* found = nullptr;
    for (const auto& [key, sum] : sums) {
      if (sum.products == 2 && (found == nullptr || sum.us < found->us)) found = &sum;
    }
    const auto at = sums.find(own);
    if (found == nullptr || at == sums.end() || at->second.products < 2) return found;
    return at->second.us <= 1.001 * found->us ? &at->second : found;
  }
};

// The fastest time of each extent in one search, added to the layer's.
void add_search(const TileSearch& search, std::map<Extents, Sum>& sums) {
  std::map<Extents, TimedTile> best;
  for (const TimedTile& timed : search.timed) {
    if (!triton_takes(timed.tile)) continue;
    const auto [at, fresh] = best.try_emplace(extents(timed.tile), timed);
    if (!fresh && timed.us < at->second.us) at->second = timed;
  }
  for (const auto& [key, timed] : best) {
    Sum& sum = sums[key];
    if (sum.products++ == 0) sum.tile = timed.tile;
    sum.us += timed.us;
  }
}

Json entry_of(const SearchTile& tile) {
  return {{"BLOCK_SIZE_M", tile.rows},  {"BLOCK_SIZE_N", tile.columns}, {"BLOCK_SIZE_K", tile.depth},
          {"GROUP_SIZE_M", tile.group}, {"num_warps", tile.warps},      {"num_stages", tile.stages}};
}

}  // namespace

std::string vllm_device_of(const JournalHeader& header) {
  std::string known = vllm_device_name(header.hardware);
  if (!known.empty()) return known;
  known = header.device.name;
  std::replace(known.begin(), known.end(), ' ', '_');
  return known;
}

Result<std::map<std::string, std::string>> vllm_files(const TuneJournal& journal, const std::string& device) {
  std::map<std::string, std::map<std::int64_t, Layer>> layers;  // by name, by batch size
  for (const TuneRecord& record : journal.records) {
    if (record.layer.empty()) continue;
    Layer& layer = layers[record.layer][record.tokens];
    layer.own = extents(record.search.own.tile);
    add_search(record.search, layer.sums);
  }
  std::map<std::string, std::string> files, layer_of;
  for (const auto& [layer, by_tokens] : layers) {
    Json entries = Json::object();
    for (const auto& [tokens, searched] : by_tokens) {
      if (const Sum* best = searched.best()) entries[std::to_string(tokens)] = entry_of(best->tile);
    }
    if (entries.empty()) continue;
    MoeShape shape;
    shape.format.math = DType::fp8;
    shape.format.label = "fp8-block";
    std::sscanf(layer.c_str(), "E=%ld,N=%ld", &shape.experts, &shape.inner);
    const std::string name = moe_tile_file_name(shape, device);
    if (const auto [other, fresh] = layer_of.try_emplace(name, layer); !fresh) {
      return invalid_input("the layers " + other->second + " and " + layer +
                           " have one file in vLLM's layout, " + name +
                           ": search the models of one of them only (--models)");
    }
    files[name] = canonical_json(entries);
  }
  return files;
}

}  // namespace orrery::calibrate

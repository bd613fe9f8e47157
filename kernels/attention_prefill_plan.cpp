#include <algorithm>

#include "kernels/attention_prefill.h"

namespace orrery::kernels {

std::vector<PrefillTile> plan_attention_prefill(
    const std::vector<std::pair<std::int64_t, std::int64_t>>& sequences, std::int64_t group) {
  std::vector<PrefillTile> tiles;
  std::int64_t first_token = 0;
  for (std::size_t s = 0; s < sequences.size(); ++s) {
    const auto [added, context] = sequences[s];
    for (std::int64_t row = 0; row < added * group; row += prefill_tile_rows) {
      tiles.push_back({static_cast<std::int32_t>(s), static_cast<std::int32_t>(row),
                       static_cast<std::int32_t>(added), static_cast<std::int32_t>(context),
                       static_cast<std::int32_t>(first_token)});
    }
    first_token += added;
  }
  const auto tokens = [group](const PrefillTile& tile) {
    const std::int64_t last =
        std::min<std::int64_t>(tile.new_tokens, (tile.first_row + prefill_tile_rows - 1) / group + 1);
    return tile.context + last;
  };
  std::stable_sort(tiles.begin(), tiles.end(),
                   [&](const PrefillTile& a, const PrefillTile& b) { return tokens(a) > tokens(b); });
  return tiles;
}

}  // namespace orrery::kernels

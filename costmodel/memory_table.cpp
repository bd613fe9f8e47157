// The memory plan as people read it.
#include "base/json.h"
#include "base/text.h"
#include "costmodel/memory_doubt.h"
#include "costmodel/memory_plan.h"

namespace orrery {

std::string MemoryPlan::to_table(double deviations) const {
  const std::string of = stage.of > 1 ? " of pipeline stage " + std::to_string(stage.index) +
                                            ", the fullest (" + std::to_string(stage_layers) + " layers)"
                                      : "";
  TextTable table({"memory of one GPU" + of, "GiB"});
  const auto row = [&](const char* what, Bytes bytes) {
    table.add({what, format_fixed(bytes.value() / (1024.0 * 1024 * 1024), 2)});
  };
  row("total, as the framework reports it", total);
  row("requested by the engine", requested);
  row("  weights", weights);
  if (encoder.value() > 0) row("    of them the vision encoder", encoder);
  row("  activation peak", activation_peak);
  row("  graphs", graphs);
  row("  framework and workspaces", residue);
  if (states.value() > 0) row("  states of max_batch_size sequences", states);
  row("  left for the KV cache", kv_available);
  std::string text = table.to_string();
  text += "KV cache: " + std::to_string(kv_blocks) + " blocks of " + std::to_string(block_size) +
          " tokens, " + std::to_string(kv_tokens()) + " tokens, " +
          format_fixed(kv_bytes_per_token.value() / 1024, 1) + " KiB a token";
  text += blocks_overridden ? " (blocks overridden by num_gpu_blocks_override)\n" : "\n";
  if (deviations > 0 && kv_deviation.value() > 0) {
    const KvInterval interval = kv_interval(*this, deviations);
    text += "90 % interval: " + std::to_string(interval.low) + " to " + std::to_string(interval.high) +
            " blocks; one standard deviation of what is left is " +
            format_fixed(kv_deviation.value() / (1024.0 * 1024), 0) + " MiB\n";
  }
  if (stage.of > 1) {
    text += "Blocks that the pipeline stages would have room for:";
    for (const std::int64_t each : stage_blocks) text += " " + std::to_string(each);
    text += "; all have the least\n";
  }
  if (groups.states > 0) {
    text += "Groups of layers in one pool: " + std::to_string(groups.full) + " that keep every token, " +
            std::to_string(groups.states) + " that keep a state (" +
            format_fixed(state_bytes.value() / (1024.0 * 1024), 2) + " MiB a sequence in all its layers, " +
            (!groups.cached_states ? "a block a group"
             : groups.chunk_ends   ? "up to two blocks a group; others stay in the prefix cache at chunk ends"
                                   : "a block a group; one for each block of tokens while they stay cached") +
            "); tokens are those of sequences of max_model_len\n";
  } else if (!groups.simple()) {
    text += "Groups of layers in one pool: " + std::to_string(groups.full) + " that keep every token, " +
            std::to_string(groups.windowed) + " with a window of " + std::to_string(groups.window) +
            "; tokens are those of sequences of max_model_len\n";
  }
  if (state_slots > 0) {
    text += "Layers that keep a state have a pool of their own: " + std::to_string(state_slots) +
            " states of " + format_fixed(state_bytes.value() / (1024.0 * 1024), 2) + " MiB, " +
            std::to_string(slots_of_sequence) +
            " for each running sequence; the others stay in the prefix cache\n";
  }
  if (windowed_pool_tokens > 0) {
    text += "Layers with a window of " + std::to_string(groups.window) +
            " have a pool of their own: " + std::to_string(windowed_pool_tokens) + " tokens\n";
  }
  if (windowed_blocks > 0)
    text += "and a pool of " + std::to_string(windowed_blocks) + " blocks for the layers with a window\n";
  if (groups.window_layers > 0) {
    text += "Note: " + std::to_string(groups.window_layers) +
            " layers have a sliding window and are counted as if they kept every token\n";
  }
  return text;
}

}  // namespace orrery

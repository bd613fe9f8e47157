#include "live/forward/forward_inputs.h"

#include <algorithm>
#include <bit>

#include "kernels/mla_decode.h"

namespace orrery {

namespace {

constexpr std::int64_t block = kernels::kv_block_tokens;

Error wrong(const std::string& what) {
  return make_error(ErrorKind::internal, "a step for the device is wrong: " + what);
}

std::int32_t blocks_for(std::int32_t tokens) {
  return static_cast<std::int32_t>((tokens + block - 1) / block);
}

// And none below 0. Without a branch in the loop: tables have thousands of entries.
template <class T>
bool all_below(const std::vector<T>& values, std::int64_t end) {
  const T last = static_cast<T>(end - 1);
  T signs = 0;
  for (const T value : values) signs |= value | (last - value);
  return signs >= 0;
}

// Sizes that a graph is captured for: an eighth of an octave apart, so that few are, and an eighth at most is
// padding.
std::int32_t stepped(std::int32_t count) {
  if (count == 0) return 0;
  const auto octave = static_cast<std::int32_t>(std::bit_floor(static_cast<std::uint32_t>(count)));
  const std::int32_t step = std::max(1, octave / 8);
  return (count + step - 1) / step * step;
}

}  // namespace

bool ForwardInputs::prepare(const InputLimits& limits, const AttentionHeads& heads,
                            kernels::StepStream& stream, kernels::DeviceMemory& memory) {
  limits_ = limits;
  heads_ = heads;
  units_ = kernels::attention_compute_units();
  stream_ = &stream;
  // Tables dominate; pieces have at least 64 tokens, of which tables have four entries.
  const auto stride =
      static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(limits.blocks_of_sequence)));
  const std::int64_t tables = ((heads.latent ? limits.rows : limits.sequences) + 1) * stride;
  const std::int64_t tiles =
      limits.rows * (heads.heads / heads.kv_heads) / kernels::prefill_tile_rows + limits.sequences;
  bytes_ = static_cast<std::size_t>(72 * limits.rows + 64 * limits.sequences + 4 * tables + 8 * tables +
                                    32 * tiles + 4 * heads.heads + 64 * 256);
  host_ = static_cast<unsigned char*>(stream.host_memory(bytes_));
  device_ = static_cast<unsigned char*>(memory.allocate(bytes_));
  return host_ != nullptr && device_ != nullptr;
}

template <class T>
T* ForwardInputs::place(std::int64_t count, const T*& device) {
  T* host = reinterpret_cast<T*>(host_ + used_);
  device = reinterpret_cast<const T*>(device_ + used_);
  used_ += (static_cast<std::size_t>(count) * sizeof(T) + 15) / 16 * 16;
  ORRERY_CHECK(used_ <= bytes_, "a step's inputs outgrew their room");
  return host;
}

Result<Unit> ForwardInputs::check(const StepBatch& batch) const {
  const auto rows = static_cast<std::int64_t>(batch.tokens.size()),
             sequences = static_cast<std::int64_t>(batch.sequences.size());
  const std::int64_t padded = std::max<std::int64_t>(rows, batch.padded_rows);
  if (rows == 0 || padded > limits_.rows) return wrong(std::to_string(padded) + " rows");
  if (sequences > limits_.sequences || (batch.padded_rows > 0 && padded > limits_.sequences))
    return wrong(std::to_string(std::max(sequences, padded)) + " sequences");
  if (batch.padded_rows > 0 && (batch.padded_rows < rows || batch.decodes != rows))
    return wrong("a graph runs decodes, not more than its rows");
  if (batch.positions.size() != batch.tokens.size() || batch.slots.size() != batch.tokens.size())
    return wrong("rows without a position or slot");
  if (!batch.expert_keys.empty() && batch.expert_keys.size() != batch.tokens.size())
    return wrong("experts drawn for some of its rows");
  if (batch.block_tables.size() != static_cast<std::size_t>(sequences * batch.max_blocks))
    return wrong("block tables of another size than sequences · max_blocks");
  if (static_cast<std::int64_t>(batch.sampled_rows.size()) > limits_.sequences)
    return wrong("more sampled rows than sequences fit");
  std::int32_t next = 0;
  for (std::size_t s = 0; s < batch.sequences.size(); ++s) {
    const StepBatch::Sequence& each = batch.sequences[s];
    const bool decode = static_cast<std::int32_t>(s) < batch.decodes;
    if (each.first_row != next || each.rows < 1 || (decode && each.rows != 1) || each.context < each.rows)
      return wrong("rows of sequence " + std::to_string(s));
    if (blocks_for(each.context) > batch.max_blocks || blocks_for(each.context) > limits_.blocks_of_sequence)
      return wrong("context of sequence " + std::to_string(s) + " beyond its block table");
    next += each.rows;
  }
  if (next != rows || batch.decodes > static_cast<std::int32_t>(sequences))
    return wrong("sequences do not cover the rows");
  if (!all_below(batch.slots, limits_.pool_blocks * block)) return wrong("a slot outside the pool");
  if (!all_below(batch.positions, limits_.blocks_of_sequence * block))
    return wrong("a position beyond the longest sequence");
  if (!all_below(batch.block_tables, limits_.pool_blocks)) return wrong("a block outside the pool");
  if (!all_below(batch.sampled_rows, rows)) return wrong("a sampled row that is none of the step's");
  return Unit{};
}

void ForwardInputs::place_all(const StepBatch& batch, DeviceStep& step) {
  used_ = 0;
  const std::int64_t chunks =
      heads_.latent ? 0 : static_cast<std::int64_t>(batch.sequences.size()) - batch.decodes;
  host_step_.tokens = place(step.rows, step.tokens);
  host_step_.positions = place(step.rows, step.positions);
  host_step_.slots = place(step.rows, step.slots);
  host_step_.table_of_row = place(step.rows, step.table_of_row);
  if (!batch.expert_keys.empty()) host_step_.expert_keys = place(step.rows, step.expert_keys);
  host_step_.row_range = place(2, step.row_range);
  if (heads_.latent) host_step_.head_offsets = place(heads_.heads + 1, step.head_offsets);
  host_step_.pieces = place(step.piece_count, step.pieces);
  host_step_.merges = place(step.merge_count, step.merges);
  host_step_.tables = place((step.decodes + 1 + chunks) * step.table_stride, step.tables);
  // From here on nothing that a graph reads.
  host_step_.tiles = place(step.tile_count, step.tiles);
  host_step_.sampled_rows = place(step.sampled, step.sampled_rows);
  host_step_.sampled_range = place(2, step.sampled_range);
}

void ForwardInputs::fill_rows(const StepBatch& batch, const DeviceStep& step) {
  const std::size_t rows = batch.tokens.size();
  for (std::size_t i = 0; i < static_cast<std::size_t>(step.rows); ++i) {
    const bool real = i < rows;
    host_step_.tokens[i] = real ? batch.tokens[i] : 0;
    host_step_.positions[i] = real ? batch.positions[i] : 0;
    host_step_.slots[i] = real ? batch.slots[i] : -1;
  }
  // Padding has names of its own, as in the simulation.
  for (std::size_t i = 0; step.expert_keys != nullptr && i < static_cast<std::size_t>(step.rows); ++i)
    host_step_.expert_keys[i] = i < rows ? batch.expert_keys[i] : ~static_cast<std::uint64_t>(i);
  for (std::int64_t h = 0; heads_.latent && h <= heads_.heads; ++h)
    host_step_.head_offsets[h] = static_cast<std::int32_t>(h) * step.rows;
  host_step_.row_range[0] = host_step_.sampled_range[0] = 0;
  host_step_.row_range[1] = step.rows;
  host_step_.sampled_range[1] = step.sampled;
  std::copy(batch.sampled_rows.begin(), batch.sampled_rows.end(), host_step_.sampled_rows);
}

void ForwardInputs::fill_tables(const StepBatch& batch, const DeviceStep& step) {
  const std::int32_t padding = static_cast<std::int32_t>(limits_.pool_blocks);  // the block behind the pool
  const auto row = [&](std::int64_t index) { return host_step_.tables + index * step.table_stride; };
  const std::int32_t real = heads_.latent ? static_cast<std::int32_t>(batch.tokens.size()) : batch.decodes;
  for (std::int32_t i = real; i <= step.decodes; ++i) {
    row(i)[0] = padding;
    if (i < step.decodes) host_step_.table_of_row[i] = i;
  }
  for (std::size_t s = 0; s < batch.sequences.size(); ++s) {
    const StepBatch::Sequence& each = batch.sequences[s];
    const std::int32_t* from = batch.block_tables.data() + static_cast<std::int64_t>(s) * batch.max_blocks;
    if (heads_.latent) {  // a table a row
      for (std::int32_t i = each.first_row; i < each.first_row + each.rows; ++i)
        std::copy_n(from, blocks_for(each.context), row(i));
      continue;
    }
    const bool decode = static_cast<std::int32_t>(s) < batch.decodes;
    const std::int64_t to = decode ? static_cast<std::int64_t>(s)
                                   : step.decodes + 1 + static_cast<std::int64_t>(s) - batch.decodes;
    std::fill_n(host_step_.table_of_row + each.first_row, each.rows, static_cast<std::int32_t>(to));
    std::copy_n(from, blocks_for(each.context), row(to));
  }
}

// Pieces beyond the plan attend to the padding block and write where nobody reads.
void ForwardInputs::fill_plan(const DeviceStep& step) {
  std::fill_n(std::copy(plan_.pieces.begin(), plan_.pieces.end(), host_step_.pieces),
              step.piece_count - static_cast<std::int32_t>(plan_.pieces.size()),
              kernels::DecodePiece{step.decodes, 0, 1, plan_.slots});
  std::fill_n(std::copy(plan_.merges.begin(), plan_.merges.end(), host_step_.merges),
              step.merge_count - static_cast<std::int32_t>(plan_.merges.size()),
              kernels::DecodeMerge{step.decodes, plan_.slots, 1});
  std::copy(tiles_.begin(), tiles_.end(), host_step_.tiles);
}

// The search for the best pieces is most of a step's work on the host, and its answer that of the steps
// before: it is made again when the batch has changed by an eighth. Between, the longest context keeps its
// number of pieces: all grow by a token a step, and pieces of the size found would split what was whole.
void ForwardInputs::plan_decodes(const std::vector<std::int64_t>& contexts) {
  std::int64_t longest = 1;
  for (const std::int64_t context : contexts) longest = std::max(longest, context);
  const std::pair<std::int32_t, std::int64_t> about{stepped(static_cast<std::int32_t>(contexts.size())),
                                                    stepped(static_cast<std::int32_t>(longest))};
  const bool known = about == planned_for_;
  const std::int64_t tokens =
      known ? std::max(found_piece_, (longest + pieces_of_longest_ - 1) / pieces_of_longest_) : 0;
  plan_ = heads_.latent
              ? kernels::plan_mla_decode(contexts, heads_.heads, heads_.heads_of_block, units_, tokens)
              : kernels::plan_attention_decode(contexts, heads_.heads, heads_.kv_heads, units_, tokens);
  if (known) return;
  planned_for_ = about;
  found_piece_ = std::max(1, plan_.tokens_per_piece);
  pieces_of_longest_ = (longest + found_piece_ - 1) / found_piece_;
}

Result<DeviceStep> ForwardInputs::put(const StepBatch& batch) {
  if (Result<Unit> fine = check(batch); !fine) return fine.errors();
  const bool graph = batch.padded_rows > 0;
  DeviceStep step;
  step.rows = graph ? batch.padded_rows : static_cast<std::int32_t>(batch.tokens.size());
  step.decodes = graph || heads_.latent ? step.rows : batch.decodes;
  step.real_decodes = batch.decodes;
  step.first_chunk_row = batch.decodes;
  step.chunk_rows = heads_.latent ? 0 : step.rows - step.decodes;
  step.sampled = static_cast<std::int32_t>(batch.sampled_rows.size());
  std::vector<std::int64_t> contexts;
  std::vector<std::pair<std::int64_t, std::int64_t>> chunks;
  std::int32_t blocks = 1;
  for (std::size_t s = 0; s < batch.sequences.size(); ++s) {
    const StepBatch::Sequence& each = batch.sequences[s];
    blocks = std::max(blocks, blocks_for(each.context));
    const double added = each.rows, before = each.context - each.rows;
    if (static_cast<std::int32_t>(s) < batch.decodes) {
      contexts.push_back(each.context);
      step.decode_keys += each.context;
      continue;
    }
    step.chunk_pairs += added * before + added * (added + 1) / 2;
    step.chunk_context += before;
    if (!heads_.latent) chunks.emplace_back(each.rows, each.context - each.rows);
    for (std::int32_t i = 1; heads_.latent && i <= each.rows; ++i)
      contexts.push_back(each.context - each.rows + i);
  }
  contexts.resize(static_cast<std::size_t>(step.decodes), 1);  // padding sees one token
  plan_decodes(contexts);
  tiles_ = kernels::plan_attention_prefill(chunks, heads_.heads / heads_.kv_heads);
  step.piece_count = static_cast<std::int32_t>(plan_.pieces.size());
  step.merge_count = static_cast<std::int32_t>(plan_.merges.size());
  step.slots_used = plan_.slots;
  if (graph) {
    step.piece_count = stepped(step.piece_count);
    step.merge_count = step.merge_count > 0 ? step.decodes : 0;
    ++step.slots_used;
  }
  step.tile_count = static_cast<std::int32_t>(tiles_.size());
  step.table_stride = static_cast<std::int32_t>(std::bit_ceil(static_cast<std::uint32_t>(blocks)));
  place_all(batch, step);
  fill_rows(batch, step);
  fill_tables(batch, step);
  fill_plan(step);
  stream_->upload(device_, host_, used_);
  return step;
}

}  // namespace orrery

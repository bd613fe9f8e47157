#include "sim/schedulers/vllm_offload.h"

#include <algorithm>

#include "base/check.h"
#include "base/digest.h"

namespace orrery {

namespace {
constexpr std::uint64_t of_hash_ids = 1, of_stream = 2, of_one_request = 3;
}  // namespace

void VllmOffload::open(Slot slot, const Request& request) {
  if (slot >= sequences_.size()) sequences_.resize(slot + 1);
  Sequence& s = sequences_[slot];
  const std::uint32_t epoch = s.epoch + 1;
  s = Sequence{};
  s.epoch = epoch;
  s.serial = ++next_serial_;
  s.stream = request.hash_ids.empty() ? request.stream : 0;
  s.hash_block = request.hash_block_size;
  s.named_tokens = request.prompt_tokens;
  std::uint64_t before = static_cast<std::uint64_t>(request.hash_block_size);
  s.chain.reserve(request.hash_ids.size());
  for (const std::uint64_t id : request.hash_ids)
    s.chain.push_back(before = digest_of(before, id, of_hash_ids));
}

void VllmOffload::close(Slot slot) {
  ++sequences_[slot].epoch;
  sequences_[slot].chain.clear();
}

// A block is equal when all names up to the one of its last token are (sim/kv_content_tree.h).
HostTier::Key VllmOffload::key(const Sequence& s, std::int64_t block, std::int32_t group) const {
  const std::int64_t end = (block + 1) * block_size_;
  const auto index = static_cast<std::uint64_t>(block) | static_cast<std::uint64_t>(group) << 40;
  if (!s.chain.empty() && end <= s.named_tokens)
    return digest_of(s.chain[static_cast<std::size_t>((end - 1) / s.hash_block)], index, of_hash_ids);
  if (s.stream != 0) return digest_of(s.stream, index, of_stream);
  return digest_of(s.serial, index, of_one_request);
}

// `_touch`: all of a group that keeps every token; of a window's what the request will be looked up by.
void VllmOffload::touch(const Look& look) {
  const std::int64_t hit = (look.computed + look.hit) / block_size_;
  for (std::int32_t g = 0; g < count(); ++g) {
    keys_.clear();
    const std::int64_t from = windowed(g) ? std::max<std::int64_t>(0, hit - window_blocks()) : 0;
    for (std::int64_t i = from; i < look.keys; ++i) keys_.push_back(key(look.s, i, g));
    tier_.touch(keys_);
  }
}

std::optional<std::int64_t> VllmOffload::match(Slot slot, std::int64_t local, std::int64_t tokens) {
  const Sequence& s = sequences_[slot];
  if (s.loads + s.stores > 0) return std::nullopt;
  // Beside windows the last token is left out first (`_lookup`), elsewhere by the scheduler.
  Look look{.s = s,
            .computed = local * block_size_,
            .keys = tokens / block_size_,
            .most = tokens - (groups_.windowed > 0 ? 1 : 0)};
  // `_mamba_align_size`: a state serves at the end of its block.
  if (groups_.chunk_ends) look.most = look.most / block_size_ * block_size_;
  if (!find(look)) look.hit = 0;
  const bool wait = look.wait || is_loading(look);
  if (wait) look.hit = 0;
  touch(look);
  if (wait) {
    ++counters_.deferrals;
    return std::nullopt;
  }
  return (look.computed + look.hit + block_size_ - 1) / block_size_ - local;
}

void VllmOffload::issue(Slot slot, bool is_load, bool behind_step, std::vector<HostTier::Key> keys) {
  using Direction = TransferWork::Direction;
  issued_.push_back({.direction = is_load ? Direction::to_device : Direction::to_host,
                     .id = next_id_,
                     .blocks = static_cast<std::int64_t>(keys.size()),
                     .behind_step = behind_step});
  (is_load ? counters_.loaded : counters_.stored) += keys.size();
  open_.push_back({.id = next_id_,
                   .slot = slot,
                   .epoch = sequences_[slot].epoch,
                   .is_load = is_load,
                   .keys = std::move(keys)});
  ++next_id_;
}

std::int64_t VllmOffload::load(Slot slot, std::int64_t local, std::int64_t blocks,
                               std::int64_t window_begin) {
  Sequence& s = sequences_[slot];
  std::vector<HostTier::Key> keys;
  for (std::int32_t g = 0; g < count(); ++g) {
    const std::int64_t from = windowed(g) ? std::max(local, window_begin) : local;
    for (std::int64_t i = from; i < local + blocks; ++i) keys.push_back(key(s, i, g));
  }
  tier_.begin_load(keys);
  s.stored = std::max(s.stored, local + blocks);
  ++s.loads;
  ++counters_.loads;
  const auto travel = static_cast<std::int64_t>(keys.size());
  issue(slot, true, false, std::move(keys));
  return travel;
}

// `_build_store_jobs`. A drafter's last block is not stored, and is passed over for good: what comes next
// begins behind it (`next_stored_block_idx`), so outputs, a block at a time, are stored after a refusal only.
void VllmOffload::store(Slot slot, std::int64_t blocks, std::int64_t prompt, bool behind_step,
                        std::int64_t window_begin) {
  Sequence& s = sequences_[slot];
  if (rules_.prompt_only) blocks = std::min(blocks, prompt / block_size_);
  if (blocks <= s.stored) return;
  const bool as_they_fill = !behind_step && !s.refused;
  const std::int64_t end = groups_.drafts ? (as_they_fill ? s.stored : blocks - 1) : blocks;
  keys_.clear();
  for (std::int32_t g = 0; g < count(); ++g) {
    std::int64_t from = windowed(g) && !as_they_fill ? std::max(s.stored, window_begin) : s.stored;
    // The others are null blocks, which `_build_store_jobs` skips.
    if (windowed(g) && groups_.chunk_ends && !as_they_fill) from = std::max(from, end - 1);
    for (std::int64_t i = from; i < end; ++i) keys_.push_back(key(s, i, g));
  }
  s.refused = !tier_.begin_store(keys_, to_store_);
  if (s.refused) {  // tried again with the sequence's next blocks
    ++counters_.refused;
    return;
  }
  s.stored = blocks;
  if (to_store_.empty()) return;
  ++s.stores;
  issue(slot, false, behind_step, to_store_);
}

void VllmOffload::ended(std::uint64_t transfer) {
  const auto t =
      std::find_if(open_.begin(), open_.end(), [&](const Transfer& x) { return x.id == transfer; });
  ORRERY_CHECK(t != open_.end(), "a transfer that ends was issued");
  if (t->is_load)
    tier_.end_load(t->keys);
  else
    tier_.end_store(t->keys);
  Sequence& s = sequences_[t->slot];
  if (s.epoch == t->epoch) --(t->is_load ? s.loads : s.stores);
  open_.erase(t);
}

OffloadCounters VllmOffload::counters() const {
  OffloadCounters c = counters_;
  c.capacity = tier_.capacity();
  c.used = tier_.used();
  c.dropped = static_cast<std::uint64_t>(tier_.dropped_in_total());
  return c;
}

}  // namespace orrery

#include "sim/schedulers/vllm_offload.h"

#include <algorithm>

#include "base/check.h"
#include "base/digest.h"

namespace orrery {

namespace {
std::uint64_t digest_of(std::uint64_t a, std::uint64_t b, std::uint64_t c) {
  Digest d;
  d.add(a);
  d.add(b);
  d.add(c);
  return d.value();
}
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
HostTier::Key VllmOffload::key(const Sequence& s, std::int64_t block) const {
  const std::int64_t end = (block + 1) * block_size_;
  const auto index = static_cast<std::uint64_t>(block);
  if (!s.chain.empty() && end <= s.named_tokens)
    return digest_of(s.chain[static_cast<std::size_t>((end - 1) / s.hash_block)], index, of_hash_ids);
  if (s.stream != 0) return digest_of(s.stream, index, of_stream);
  return digest_of(s.serial, index, of_one_request);
}

std::optional<std::int64_t> VllmOffload::match(Slot slot, std::int64_t local, std::int64_t tokens) {
  Sequence& s = sequences_[slot];
  if (s.loads + s.stores > 0) return std::nullopt;
  keys_.clear();
  const std::int64_t full = tokens / block_size_;
  for (std::int64_t i = 0; i < full; ++i) keys_.push_back(key(s, i));
  std::int64_t hit = 0;
  bool wait = false;
  for (std::int64_t i = local; i < full; ++i, ++hit) {
    const HostTier::Found found = tier_.lookup(keys_[static_cast<std::size_t>(i)]);
    if (found == HostTier::Found::missing) break;
    wait |= found == HostTier::Found::being_written;
  }
  for (const Transfer& t : open_) {
    if (wait || !t.is_load) continue;
    for (std::int64_t i = local; i < local + hit && !wait; ++i)
      wait = std::find(t.keys.begin(), t.keys.end(), keys_[static_cast<std::size_t>(i)]) != t.keys.end();
  }
  tier_.touch(keys_);
  if (wait) {
    ++counters_.deferrals;
    return std::nullopt;
  }
  return hit;
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

void VllmOffload::load(Slot slot, std::int64_t local, std::int64_t blocks) {
  Sequence& s = sequences_[slot];
  std::vector<HostTier::Key> keys;
  for (std::int64_t i = local; i < local + blocks; ++i) keys.push_back(key(s, i));
  tier_.begin_load(keys);
  s.stored = std::max(s.stored, local + blocks);
  ++s.loads;
  ++counters_.loads;
  issue(slot, true, false, std::move(keys));
}

void VllmOffload::store(Slot slot, std::int64_t blocks, std::int64_t prompt, bool behind_step) {
  Sequence& s = sequences_[slot];
  if (rules_.prompt_only) blocks = std::min(blocks, prompt / block_size_);
  if (blocks <= s.stored) return;
  keys_.clear();
  for (std::int64_t i = s.stored; i < blocks; ++i) keys_.push_back(key(s, i));
  if (!tier_.begin_store(keys_, to_store_)) {  // tried again with the sequence's next blocks
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

// What the KV pool costs: look-ups with 10 M blocks resident, and whole lives of sequences in a pool that has
// wrapped. Prints nanoseconds; compare between commits on one machine only.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <iterator>
#include <vector>

#include "sim/kv_block_manager.h"

namespace orrery {
namespace {

constexpr std::int64_t kBlocks = 10'000'000;
constexpr std::int32_t kBlockSize = 16;

class Choices {  // SplitMix64
 public:
  std::int64_t below(std::int64_t n) {
    std::uint64_t z = state_ += 0x9E3779B97F4A7C15ull;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return static_cast<std::int64_t>((z ^ (z >> 31)) % static_cast<std::uint64_t>(n));
  }

 private:
  std::uint64_t state_ = 1;
};

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

struct Life {
  KvBlockManager::Handle handle = 0;
  std::int64_t blocks = 0;
  std::int64_t full = 0;
};

// Prompt and outputs nobody else can name; `width` sequences at a time.
void private_sequences(std::int64_t blocks, std::int64_t sequences) {
  KvBlockManager kv(KvBlockManager::Config{blocks, kBlockSize, true});
  Choices choose;
  std::vector<Life> running(256);
  for (Life& life : running) life.handle = kv.open({});
  const auto start = std::chrono::steady_clock::now();
  for (std::int64_t i = 0; i < sequences; ++i) {
    Life& life = running[static_cast<std::size_t>(i % 256)];
    kv.release(life.handle, life.blocks, life.full);
    kv.close(life.handle);
    const std::int64_t prompt = 1 + choose.below(2300);
    life.handle = kv.open({});
    const KvBlockManager::Hit hit = kv.lookup(life.handle, prompt);
    life.blocks = (prompt + kBlockSize - 1) / kBlockSize - hit.blocks;
    kv.grow(life.handle, life.blocks);
    kv.publish(life.handle, prompt / kBlockSize);
    const std::int64_t decode = 1 + choose.below(25);
    kv.grow_unattributed(decode);
    life.blocks += decode;
    life.full = life.blocks - 1;
  }
  const double seconds = seconds_since(start);
  std::printf("private sequence, open to close, pool of %8lld: %6.1f ns (%.1f M/s); wrapped %.1f times\n",
              static_cast<long long>(blocks), 1e9 * seconds / static_cast<double>(sequences),
              1e-6 * static_cast<double>(sequences) / seconds,
              static_cast<double>(kv.allocated_in_total()) / static_cast<double>(kv.usable_blocks()));
}

void grow_one(std::int64_t calls) {
  KvBlockManager kv(KvBlockManager::Config{kBlocks, kBlockSize, true});
  const auto start = std::chrono::steady_clock::now();
  for (std::int64_t i = 0; i < calls; ++i) kv.grow_unattributed(1);
  std::printf("grow_unattributed(1), blank blocks left: %26.2f ns\n",
              1e9 * seconds_since(start) / static_cast<double>(calls));
}

// Prompts of 24 hash blocks of 512 tokens: the first 8 from one of 64 shared prefixes, the rest their own.
std::vector<std::uint64_t> prompt_ids(std::int64_t number) {
  std::vector<std::uint64_t> ids(24);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const std::int64_t owner = i < 8 ? number % 64 : 64 + number;
    ids[i] = static_cast<std::uint64_t>(owner) << 8 | i;
  }
  return ids;
}

void named_sequences(std::int64_t lookups) {
  constexpr std::int64_t kTokens = 24 * 512 + 100;
  constexpr std::int64_t kExtents = 24;
  KvBlockManager kv(KvBlockManager::Config{kBlocks, kBlockSize, true});
  const auto live = [&kv](std::int64_t number) {
    const std::vector<std::uint64_t> ids = prompt_ids(number);
    KvContent content;
    content.hash_ids = ids;
    content.named_tokens = 24 * 512;
    const KvBlockManager::Handle handle = kv.open(content);
    const KvBlockManager::Hit hit = kv.lookup(handle, kTokens);
    kv.take_prefix(handle, kTokens, hit);
    const std::int64_t total = (kTokens + kBlockSize - 1) / kBlockSize;
    kv.grow(handle, total - hit.blocks);
    kv.publish(handle, kTokens / kBlockSize);
    kv.release(handle, total, kTokens / kBlockSize);
    kv.close(handle);
  };
  std::int64_t number = 0;
  for (; kv.evicted_in_total() == 0; ++number) live(number);
  const std::int64_t resident = number - 2;

  Choices choose;
  std::vector<KvBlockManager::Handle> waiting;
  for (int i = 0; i < 4096; ++i) {
    const std::vector<std::uint64_t> ids = prompt_ids(1 + choose.below(resident));
    KvContent content;
    content.hash_ids = ids;
    content.named_tokens = 24 * 512;
    waiting.push_back(kv.open(content));
  }
  std::int64_t found = 0;
  auto start = std::chrono::steady_clock::now();
  for (std::int64_t i = 0; i < lookups; ++i) {
    const auto at = static_cast<std::size_t>(choose.below(std::ssize(waiting)));
    found += kv.lookup(waiting[at], 24 * 512 + 1).blocks;
  }
  double seconds = seconds_since(start);
  const double extents = static_cast<double>(lookups * kExtents);
  std::printf("look-up of 24 hash blocks, %lld blocks cached: %6.1f ns = %.1f M extents/s (%.1f %% found)\n",
              static_cast<long long>(kv.free_blocks()), 1e9 * seconds / static_cast<double>(lookups),
              1e-6 * extents / seconds,
              100.0 * static_cast<double>(found) / static_cast<double>(lookups * 24 * 32));

  const std::int64_t lives = lookups / 10;
  start = std::chrono::steady_clock::now();
  for (std::int64_t i = 0; i < lives; ++i) live(number++);
  seconds = seconds_since(start);
  std::printf("named sequence, open to close, 24 hash blocks, 8 found:   %6.0f ns = %.1f ns per extent\n",
              1e9 * seconds / static_cast<double>(lives),
              1e9 * seconds / static_cast<double>(lives * kExtents));
}

}  // namespace
}  // namespace orrery

int main() {
  orrery::private_sequences(50'000, 5'000'000);
  orrery::private_sequences(orrery::kBlocks, 5'000'000);
  orrery::grow_one(9'000'000);
  orrery::named_sequences(1'000'000);
  return 0;
}

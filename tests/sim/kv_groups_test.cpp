// Groups of layers with and without a window (sim/kv_windows.cpp) against the engine's rules block by block
// (kv_groups_model.h), over random operations: hits, the idle among them, and free blocks after each.
#include <algorithm>

#include "base/random.h"
#include "catch.h"
#include "kv_groups_model.h"
#include "sim/kv_block_manager.h"

using namespace orrery;
using kv_test::GroupsModel;
using kv_test::ModelSequence;

namespace {

struct Actor {
  ModelSequence content;
  GroupsModel::Holding held;
  KvBlockManager::Handle handle = 0;
  std::int64_t prompt = 0, computed = 0, begin = 0;
  bool open = false, running = false, counted = false;
  bool named() const { return !content.hash_ids.empty() || content.stream != 0; }
};

struct Coverage {
  std::int64_t hits = 0, partly = 0, evicted = 0, counted = 0, refused = 0;
};

enum class Kind { windows, drafts, states, states_at_chunk_ends };

class Comparison {
 public:
  Comparison(std::uint64_t seed, bool decode_as_engine, Kind kind = Kind::windows)
      : random_(seed, RandomPurpose::property_test, 21), as_engine_(decode_as_engine), shape_(shape(kind)),
        kv_({.num_blocks = shape_.num_blocks,
             .block_size = static_cast<std::int32_t>(shape_.block_size),
             .full_groups = shape_.full,
             .window_groups = shape_.windowed,
             .window = static_cast<std::int32_t>(shape_.window),
             .cached_states = kind != Kind::windows && kind != Kind::drafts,
             .chunk_ends = shape_.chunk_ends,
             .drops_last = shape_.drops}),
        model_(shape_), actors_(2 + random_.below(6)) {}

  void run(int operations, Coverage& coverage) {
    for (int i = 0; i < operations; ++i) {
      CAPTURE(i);
      step(actors_[random_.below(actors_.size())], coverage);
      REQUIRE(kv_.free_blocks() == model_.free_blocks());
      REQUIRE(kv_.evicted_in_total() == model_.evicted);
      if (i % 8 == 0) kv_.check_invariants();
    }
    coverage.evicted += model_.evicted;
  }

 private:
  std::int64_t pick(std::int64_t low, std::int64_t high) {
    return low + static_cast<std::int64_t>(random_.below(static_cast<std::uint64_t>(high - low + 1)));
  }
  GroupsModel::Shape shape(Kind kind) {
    const std::int64_t size = pick(0, 2) == 0 ? 16 : pick(2, 6);
    GroupsModel::Shape shape{.num_blocks = pick(40, 300),
                             .block_size = size,
                             .full = static_cast<int>(pick(0, 2)),
                             .windowed = static_cast<int>(pick(1, 3)),
                             .window = pick(2, 9 * size)};
    shape.drops = kind == Kind::drafts;
    if (kind == Kind::windows || kind == Kind::drafts) return shape;
    shape.full = std::max(shape.full, 1);
    shape.window = 2;
    shape.chunk_ends = kind == Kind::states_at_chunk_ends;
    return shape;
  }
  // `_mamba_block_aligned_split`: chunks end at block ends, but for the rest of a prompt.
  std::int64_t aligned(std::int64_t computed, std::int64_t tokens, std::int64_t prompt) const {
    if (!shape_.chunk_ends) return tokens;
    const std::int64_t last = prompt / shape_.block_size * shape_.block_size;
    if (computed + tokens < last)
      return std::min(last - computed,
                      std::max<std::int64_t>(1, tokens / shape_.block_size) * shape_.block_size);
    return computed < last ? last - computed : tokens;
  }

  void step(Actor& a, Coverage& coverage) {
    if (!a.open) return open(a);
    if (!a.running) {
      if (pick(0, 5) == 0) return close(a);
      return admit(a, coverage);
    }
    if (pick(0, 7) == 0) return release(a);
    if (a.computed < a.prompt)
      return chunk(a, aligned(a.computed, pick(1, a.prompt - a.computed), a.prompt), coverage);
    for (std::int64_t n = pick(1, 2 * shape_.block_size); n > 0 && a.running; --n) decode(a, coverage);
  }

  void open(Actor& a) {
    a = Actor{};
    a.open = true;
    a.prompt = pick(1, 20 * shape_.block_size);
    a.content.serial = ++opened_;
    a.content.hash_block_size = 8;
    a.content.named_tokens = a.prompt;
    const std::int64_t kind = pick(0, 5);
    // Outputs of a stream are published at its end (schedulers/vllm_v1.cpp), which is not the engine's rule.
    if (kind == 0 && !as_engine_) a.content.stream = static_cast<std::uint64_t>(pick(1, 2));
    if (kind > 1) {
      for (std::int64_t i = 0; i < (a.prompt + 7) / 8; ++i)
        a.content.hash_ids.push_back(pick(0, 9) == 0 ? static_cast<std::uint64_t>(pick(0, 2)) : 5);
    }
    a.handle = kv_.open({.hash_ids = a.content.hash_ids,
                         .hash_block_size = 8,
                         .stream = a.content.stream,
                         .named_tokens = a.prompt});
  }

  void close(Actor& a) {
    kv_.close(a.handle);
    a.open = false;
  }

  void admit(Actor& a, Coverage& coverage) {
    const auto hit = kv_.lookup(a.handle, a.prompt);
    const auto expected = model_.lookup(a.held, a.content, a.prompt);
    REQUIRE(hit.blocks == expected.first);
    REQUIRE(hit.idle == expected.second);
    const std::int64_t computed = hit.blocks * shape_.block_size;
    const std::int64_t wanted = std::min(a.prompt - computed, pick(1, 40));
    const std::int64_t first = computed + aligned(computed, wanted, a.prompt);
    const std::int64_t blocks = (first + shape_.block_size - 1) / shape_.block_size - hit.blocks;
    if (model_.needed(blocks) + hit.idle > kv_.free_blocks()) {
      ++coverage.refused;
      return;
    }
    coverage.hits += hit.blocks > 0;
    a.running = true;
    a.computed = computed;
    a.begin = model_.left_behind(computed);
    coverage.partly += a.begin > 0;
    if (hit.blocks > 0) kv_.take_prefix(a.handle, a.prompt, hit);
    model_.take(a.held, a.content, hit.blocks);
    chunk(a, first - computed, coverage);
  }

  std::int64_t growth(const Actor& a, std::int64_t tokens) const {
    const std::int64_t size = shape_.block_size;
    return (a.computed + tokens + size - 1) / size - (a.computed + size - 1) / size;
  }

  void slide(Actor& a) {
    const std::int64_t begin = model_.left_behind(a.computed);
    if (begin == a.begin) return;
    if (a.counted) {
      kv_.slide_counted(begin - a.begin);
    } else {
      kv_.slide_window(a.handle, begin);
    }
    a.begin = begin;
  }

  void chunk(Actor& a, std::int64_t tokens, Coverage& coverage) {
    slide(a);
    if (!model_.allocate(a.held, a.content, a.computed, a.computed + tokens)) {
      ++coverage.refused;
      return release(a);
    }
    kv_.grow(a.handle, growth(a, tokens));
    a.computed += tokens;
    if (a.named()) kv_.publish(a.handle, a.computed / shape_.block_size);
  }

  void decode(Actor& a, Coverage& coverage) {
    if (!as_engine_) {
      a.prompt += 1;
      return chunk(a, 1, coverage);
    }
    const std::int64_t before = a.begin;
    slide(a);
    if (a.begin > before && !a.counted) a.counted = kv_.count_window(a.handle);
    coverage.counted += a.counted;
    if (!model_.allocate(a.held, a.content, a.computed, a.computed + 1)) return release(a);
    kv_.grow_unattributed(growth(a, 1));
    a.computed += 1;
    a.prompt = a.computed;
  }

  void release(Actor& a) {
    const std::int64_t size = shape_.block_size;
    kv_.release(a.handle, (a.computed + size - 1) / size, a.computed / size, a.begin);
    model_.release(a.held);
    a.running = a.counted = false;
    a.begin = 0;
    if (as_engine_) close(a);  // content of counted windows is not remembered for its owner
  }

  RandomStream random_;
  bool as_engine_;
  GroupsModel::Shape shape_;
  KvBlockManager kv_;
  GroupsModel model_;
  std::vector<Actor> actors_;
  std::uint64_t opened_ = 0;
};

}  // namespace

TEST_CASE("§2.7 groups with and without windows hold, find and free the blocks that the engine's do") {
  Coverage c;
  for (std::uint64_t seed = 1; seed <= 400; ++seed) {
    CAPTURE(seed);
    Comparison(seed, false).run(150, c);
  }
  CHECK(c.hits > 1000);
  CHECK(c.partly > 300);
  CHECK(c.evicted > 10'000);
  CHECK(c.refused > 100);
}

TEST_CASE("windows of decoding sequences kept as counts change nothing that others see") {
  Coverage c;
  for (std::uint64_t seed = 1; seed <= 400; ++seed) {
    CAPTURE(seed);
    Comparison(seed, true).run(150, c);
  }
  CHECK(c.hits > 1000);
  CHECK(c.counted > 10'000);
  CHECK(c.evicted > 10'000);
}

TEST_CASE("with a drafter a hit is a block shorter, and a window longer has to be resident") {
  Coverage c;
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    CAPTURE(seed);
    Comparison(seed, seed % 2 == 0, Kind::drafts).run(150, c);
  }
  CHECK(c.hits > 400);
  CHECK(c.partly > 100);
  CHECK(c.evicted > 5'000);
}

TEST_CASE("§2.7 states that can be found again: blocks as the engine's, at chunk ends and everywhere") {
  for (const Kind kind : {Kind::states, Kind::states_at_chunk_ends}) {
    for (const bool as_engine : {false, true}) {
      Coverage c;
      for (std::uint64_t seed = 1; seed <= 250; ++seed) {
        CAPTURE(seed, as_engine);
        Comparison(seed, as_engine, kind).run(150, c);
      }
      CHECK(c.hits > 500);
      CHECK(c.partly > 300);
      CHECK(c.evicted > 5'000);
      if (as_engine) CHECK(c.counted > 5'000);
    }
  }
}

// vLLM's host tier beside groups of layers with a window and beside drafts (`OffloadingConnectorScheduler`,
// distributed/kv_transfer/kv_connector/v1/offloading/scheduler.py of 0.24.0): the rules by hand, then whole
// runs.
#include "../catch.h"
#include "../sanitized.h"
#include "conservation.h"
#include "sglang_features_world.h"
#include "sim/schedulers/vllm_offload.h"
#include "world.h"

using namespace orrery;

namespace {

constexpr std::uint64_t fewer = sanitized ? 4 : 1;  // under a sanitizer: a part of the worlds

using Groups = VllmOffload::Groups;

// Requests of one content, whose blocks of 16 tokens have names.
class Tier {
 public:
  explicit Tier(const Groups& groups, std::int64_t blocks = 1000)
      : offload_({.blocks = blocks}, 16, groups) {}

  void open(VllmOffload::Slot slot, std::int32_t tokens, std::uint64_t family = 1) {
    Request r;
    r.id = RequestId(slot);
    r.prompt_tokens = tokens;
    r.hash_block_size = 16;
    for (std::int32_t i = 0; i * 16 < tokens; ++i)
      r.hash_ids.push_back(family * 1000 + static_cast<std::uint64_t>(i));
    offload_.open(slot, r);
  }
  // Blocks that travelled, of all groups; the copies are over at once.
  std::int64_t store(VllmOffload::Slot slot, std::int64_t blocks, std::int64_t window_begin = 0) {
    offload_.store(slot, blocks, 100000, true, window_begin);
    return finish();
  }
  std::optional<std::int64_t> match(VllmOffload::Slot slot, std::int64_t local, std::int64_t tokens) {
    return offload_.match(slot, local, tokens);
  }
  std::int64_t load(VllmOffload::Slot slot, std::int64_t local, std::int64_t blocks, std::int64_t begin) {
    return offload_.load(slot, local, blocks, begin);
  }
  std::int64_t finish() {
    std::int64_t blocks = 0;
    for (const TransferWork& w : std::vector<TransferWork>(offload_.issued())) {
      blocks += w.blocks;
      offload_.ended(w.id);
    }
    offload_.clear_issued();
    offload_.tier().check_invariants();
    return blocks;
  }
  VllmOffload& offload() { return offload_; }

 private:
  VllmOffload offload_;
};

constexpr Groups windowed{.full = 1, .windowed = 2, .window = 48};  // three blocks of 16

}  // namespace

TEST_CASE("offload: a chunk's blocks are stored of every group, and a prompt loads its window of each") {
  Tier t(windowed);
  t.open(0, 160);
  CHECK(t.store(0, 10) == 30);
  t.open(1, 200);
  CHECK(t.match(1, 0, 200) == 10);
  // (160 − 48 + 1) / 16 = 7 blocks are behind the window of the next token: of two groups three travel.
  CHECK(t.load(1, 0, 10, 7) == 10 + 2 * 3);
  // Another one of the same content waits until they have come (`_blocks_being_loaded`).
  t.open(2, 200);
  CHECK_FALSE(t.match(2, 0, 200).has_value());
  CHECK(t.finish() == 16);
  CHECK(t.match(2, 0, 200) == 10);
  CHECK(t.match(2, 4, 200) == 6);  // behind what the device has
}

// `_lookup`: beside windows the last token is taken off first, so a prompt of whole blocks is still found,
// but not where it would bring less than a block.
TEST_CASE("offload: a prompt of whole blocks is found whole, and its last block alone is not") {
  Tier t(windowed);
  t.open(0, 160);
  t.store(0, 10);
  t.open(1, 160);
  CHECK(t.match(1, 0, 160) == 10);
  CHECK(t.match(1, 9, 160) == 0);
  Tier full(Groups{});
  full.open(0, 160);
  full.store(0, 10);
  full.open(1, 160);
  CHECK(full.match(1, 9, 160) == 1);
}

// `_sliding_window_lookup`: the last run of as many blocks as a window has, or one that reaches back to what
// the device has.
TEST_CASE("offload: a hit ends where every windowed group has its window") {
  Tier t(windowed);
  t.open(0, 160);
  t.store(0, 6);  // all of six blocks
  t.open(1, 160);
  CHECK(t.match(1, 0, 160) == 6);
  // A sequence that found ten blocks on the device has those from the seventh on of its windows.
  t.open(2, 160);
  CHECK(t.store(2, 10, 7) == 4 + 2 * 3);
  t.open(3, 200);
  CHECK(t.match(3, 0, 200) == 10);  // blocks 7, 8 and 9 are a window
  CHECK(t.match(3, 0, 145) == 6);   // of nine blocks 7 and 8 are two: the next run ends with block 5
  CHECK(t.match(3, 7, 145) == 2);   // the device has what lies before them
}

TEST_CASE("offload: what is being written makes the answer wait, in a window too") {
  Tier t(windowed);
  t.open(0, 160);
  t.store(0, 6);
  t.open(1, 160);
  t.offload().store(1, 10, 100000, true, 0);
  t.open(2, 200);
  CHECK_FALSE(t.match(2, 0, 200).has_value());
  CHECK(t.finish() == 12);
  CHECK(t.match(2, 0, 200) == 10);
}

// `is_eagle_group`: of every store the last block is left out, and the next one begins behind it
// (`next_stored_block_idx`), so the tier has a gap at each chunk's end; a hit is a block shorter.
TEST_CASE("offload: a drafter's last block is neither stored nor loaded, and outputs are not stored") {
  Tier t({.drafts = true});
  t.open(0, 500);
  CHECK(t.store(0, 10) == 9);
  CHECK(t.store(0, 20) == 9);
  t.open(1, 500);
  CHECK(t.match(1, 0, 400) == 8);  // blocks 0 to 8, less one
  t.offload().store(0, 21, 320, false, 0);
  CHECK(t.finish() == 0);
  // Whoever brings the whole prompt in one chunk fills the gap.
  t.open(2, 500);
  CHECK(t.store(2, 20) == 1);
  CHECK(t.match(1, 0, 400) == 18);
  Tier both({.full = 1, .windowed = 1, .window = 48, .drafts = true});
  both.open(0, 500);
  CHECK(both.store(0, 10) == 18);
  both.open(1, 500);
  // A window of four blocks is looked for, from block 9 on, and its last one is left out.
  CHECK(both.match(1, 0, 400) == 8);
}

namespace {

// Three prompts of 8,202 tokens one after another, the third as the first up to its last ten, in a pool that
// holds one of them: what comes back from the host tier.
RunResult with_a_prompt_again(world::World& w) {
  w.config.offload = {.blocks = 20000};
  w.host_blocks_per_s = 1e5;
  std::vector<TraceRequest> requests;
  for (std::uint64_t i = 0; i < 3; ++i) {
    TraceRequest r = world::request(i, 5.0 * static_cast<double>(i), 8202, 4);
    for (std::uint64_t b = 0; b <= 16; ++b) r.hash_ids.push_back(b < 16 ? (i % 2) * 1000 + b : 1000000 + i);
    requests.push_back(r);
  }
  world::Records records;
  w.sink = &records;
  RunResult r = world::run(w, requests);
  REQUIRE(r.offload.loads == 1);
  CHECK(records.all[2].cached_tokens == 8192);
  return r;
}

}  // namespace

TEST_CASE("offload: a long prompt brings back all of its full layers and a window of the others") {
  world::World w;
  w.config.kv_groups = {.full = 1, .windowed = 1, .window = 128};
  w.config.num_gpu_blocks = 1400;
  w.config.max_model_len = 10000;
  // The device's own first blocks are no hit without a window behind them; of the window the last
  // ⌈127 / 16⌉ travel.
  CHECK(with_a_prompt_again(w).offload.loaded == 512 + 8);
}

// MambaSpec: one block of a state group is a hit (`get_sliding_window_size_in_blocks`), at a chunk's end.
TEST_CASE("beside layers with a state a prefix comes back with one state of each group") {
  world::World w;
  w.config.kv_groups = {.full = 1, .states = 2, .cached_states = true, .chunk_ends = true};
  w.config.enable_prefix_caching = true;
  w.config.num_gpu_blocks = 600;
  w.config.max_model_len = 8300;
  CHECK(with_a_prompt_again(w).offload.loaded == 512 + 2);
}

namespace {

// 0: windows, 1: drafts, 2: both, 3: states; each beside a tier.
world::RandomWorld combined(std::uint64_t seed, std::uint64_t kind) {
  world::RandomWorld out = world::random_world(seed);
  world::World& w = out.world;
  RandomStream draw(seed, RandomPurpose::property_test, 61);
  if (kind == 3) {
    w.config.enable_prefix_caching = true;
    w.config.kv_groups = {.full = 1,
                          .states = 1 + static_cast<std::int32_t>(draw.below(5)),
                          .cached_states = true,
                          .chunk_ends = draw.below(3) != 0};
    w.config.max_num_batched_tokens =
        std::max<std::int64_t>(w.config.max_num_batched_tokens, w.config.block_size);
    w.config.num_gpu_blocks = (w.config.num_gpu_blocks + 80) * (1 + w.config.kv_groups.states);
  } else if (kind != 1) {
    const std::int32_t windows[] = {16, 33, 128, 512, 1000};
    const KvGroups kinds[] = {
        {.full = 1, .windowed = 1}, {.full = 1, .windowed = 5}, {.full = 0, .windowed = 1}};
    w.config.kv_groups = kinds[draw.below(3)];
    w.config.kv_groups.window = windows[draw.below(5)];
    w.config.num_gpu_blocks = (w.config.num_gpu_blocks + 80) * w.config.kv_groups.count();
  }
  if (kind == 1 || kind == 2) {
    world::speculate(w, draw);
    w.config.num_gpu_blocks += 64 * w.config.kv_groups.count();
  }
  w.config.offload.blocks = (50 + static_cast<std::int64_t>(draw.below(2000))) * w.config.kv_groups.count();
  w.config.offload.prompt_only = draw.below(3) == 0;
  w.host_blocks_per_s = 1000.0 * (1 + static_cast<double>(draw.below(100)));
  return out;
}

}  // namespace

TEST_CASE("offload beside windows and drafts: every request ends once, tokens add up, no block leaks") {
  for (std::uint64_t kind = 0; kind < 4; ++kind) {
    world::Visited visited;
    std::uint64_t loads = 0, dropped = 0;
    for (std::uint64_t seed = 1; seed <= 50 / fewer; ++seed) {
      CAPTURE(kind, seed);
      auto [w, requests] = combined(seed, kind);
      world::check_conservation(
          w, requests, [](const TraceRequest&) { return false; }, visited);
      const RunResult r = world::run(w, requests);
      loads += r.offload.loads;
      dropped += r.offload.dropped;
      if (seed % 4 != 0) continue;
      REQUIRE(world::run(w, requests, seed).digest == r.digest);
      w.config.stretches = false;
      REQUIRE(world::run(w, requests).digest == r.digest);
    }
    CAPTURE(kind);
    CHECK(loads > 5 / fewer);  // few beside states (kind 3)
    CHECK(dropped > 15 / fewer);
    if (kind == 1 || kind == 2) CHECK(visited.accepted > 1000 / fewer);
  }
}

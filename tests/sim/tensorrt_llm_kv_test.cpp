// The KV pool of TensorRT-LLM (§4 of ../shared/reference/tensorrt_llm_1_2.md): its rules by example, and
// against a plain model of every block under random use.
#include "sim/schedulers/tensorrt_llm_kv.h"
#include "base/random.h"
#include "catch.h"
#include "tensorrt_llm_desk.h"
#include "tensorrt_llm_kv_model.h"

using namespace orrery;
using desk::Desk;
using desk::names;

namespace {

KvContent named(const std::vector<std::uint64_t>& ids, std::int64_t prompt) {
  return {.hash_ids = ids, .hash_block_size = 32, .stream = 0, .named_tokens = prompt};
}

// Runs a request through an otherwise empty pool: `outputs` tokens, then it ends.
void run_through(TensorRtLlmKvPool& pool, const std::vector<std::uint64_t>& ids, std::int64_t prompt,
                 std::int64_t outputs) {
  const auto h = pool.open(named(ids, prompt));
  pool.add_sequence(h, prompt);
  const std::int64_t blocks = (prompt + outputs - 1 + 31) / 32, first = (prompt + 31) / 32;
  pool.grow_unattributed(blocks - first);
  pool.release(h, blocks, prompt + outputs - 1, false);
  pool.close(h);
  pool.check_invariants();
}

}  // namespace

TEST_CASE("§4.2 a hit ends at any token: 96 repeated after the end finds 95") {
  TensorRtLlmKvPool pool({.num_blocks = 20});
  const auto ids = names(1, 96);
  run_through(pool, ids, 96, 10);
  const auto h = pool.open(named(ids, 96));
  CHECK(pool.add_sequence(h, 96) == 95);
  CHECK(pool.free_blocks() == 17);  // two shared, a copy of the third: it has a child, so it stays
  pool.check_invariants();
}

TEST_CASE("§4.2 a free leaf is taken over, and is gone for others; anything else is copied") {
  TensorRtLlmKvPool pool({.num_blocks = 20});
  const auto ids = names(1, 96);
  run_through(pool, ids, 80, 1);  // stores 80 tokens: two full blocks, a leaf of 16
  const auto a = pool.open(named(ids, 90)), b = pool.open(named(ids, 90));
  CHECK(pool.add_sequence(a, 90) == 80);
  CHECK(pool.add_sequence(b, 90) == 64);  // the leaf belongs to a now
  pool.release(a, 3, 90, false);
  pool.release(b, 3, 90, false);  // the same content: stays out of the tree
  pool.check_invariants();
  const auto c = pool.open(named(ids, 96));
  CHECK(pool.add_sequence(c, 96) == 90);
}

TEST_CASE("§4.2 without copies only a free leaf may be matched in part; without partial reuse nothing") {
  const auto ids = names(1, 96);
  TensorRtLlmKvPool no_copies({.num_blocks = 20, .copy_on_partial_reuse = false});
  run_through(no_copies, ids, 96, 10);
  const auto h = no_copies.open(named(ids, 96));
  CHECK(no_copies.add_sequence(h, 96) == 64);
  TensorRtLlmKvPool whole({.num_blocks = 20, .partial_reuse = false});
  run_through(whole, ids, 96, 1);
  const auto g = whole.open(named(ids, 97));
  CHECK(whole.add_sequence(g, 97) == 96);
  TensorRtLlmKvPool off({.num_blocks = 20, .block_reuse = false});
  run_through(off, ids, 96, 1);
  const auto k = off.open(named(ids, 97));
  CHECK(off.add_sequence(k, 97) == 0);
}

TEST_CASE("§4.3 with overlap a prompt is found two passes after it was computed") {
  // A finished context knows its first output when its blocks are stored, so all full blocks of the prompt
  // are (known tokens − 1 of storeContextBlocks).
  for (const int passes : {1, 2}) {
    Desk d(desk::config(100));
    d.add({.prompt = 96, .max_output = 90, .hash_ids = names(1, 96)});
    for (int i = 0; i < passes; ++i) d.pass();
    d.add({.prompt = 97, .max_output = 9, .hash_ids = names(1, 97)});
    d.pass();
    CHECK(d.cached(1) == (passes == 1 ? 0 : 96));
  }
}

TEST_CASE("§4.3 outputs are stored when the request ends, all known tokens but the last") {
  for (const bool ended : {false, true}) {
    Desk d(desk::config(100));
    d.add({.prompt = 64, .max_output = 40, .stream = 7});  // a session: its next prompt holds the outputs
    for (int i = 0; i < (ended ? 41 : 40); ++i) d.pass();
    d.add({.prompt = 200, .max_output = 9, .stream = 7});
    d.pass();
    CHECK(d.cached(1) == (ended ? 103 : 64));
  }
}

TEST_CASE("§4.3 a chunked prompt is found whole after its first chunk, or only after its last") {
  for (const bool first : {true, false}) {
    auto c = desk::config(100, 64);
    c.enable_chunked_prefill = true;
    c.tensorrt_llm.store_at_first_chunk = first;
    TensorRtLlmRules& rules = c.tensorrt_llm;
    rules.max_utilization = true;
    Desk d(c);
    d.add({.prompt = 250, .max_output = 9, .hash_ids = names(1, 250)});
    d.add({.prompt = 200, .max_output = 9, .hash_ids = names(1, 200)});  // §2.4: waits for a block of 0's
    CHECK(d.pass() == "0:64@0... +0 free 92");
    CHECK(d.pass() == "0:64@64... +0 free 92");  // its first chunk is stored at the end of this pass
    CHECK(d.pass() == "0:64@128... +0 free 92");
    CHECK(d.pass() == (first ? "0:58@192 +0 free 92" : "0:58@192 +0 free 92"));
    CHECK(d.pass() == (first ? "1:1@199 +1 free 91" : "1:32@0... +1 free 85"));
  }
}

TEST_CASE(
    "§4.4 the longest idle block goes first, tails before heads; taking a parent forgets its children") {
  TensorRtLlmKvPool pool({.num_blocks = 8});
  const auto a = names(1, 96), b = names(1000, 96);
  run_through(pool, a, 96, 1);
  run_through(pool, b, 96, 1);
  // Free: two never used, then a2 a1 a0 b2 b1 b0. Five blocks take the blanks and all of a but nothing of b.
  const auto h = pool.open({});
  pool.add_sequence(h, 4 * 32);  // blanks, a2, a1
  const auto x = pool.open(named(a, 97));
  CHECK(pool.add_sequence(x, 40) == 32);  // a0 is still there; a block for the rest: b2
  pool.release(x, 2, 39, false);
  const auto y = pool.open(named(b, 97));
  CHECK(pool.add_sequence(y, 97) == 64);
  pool.check_invariants();
}

TEST_CASE("§4.4 blocks without content queue up behind cached ones, unlike vLLM's") {
  TensorRtLlmKvPool pool({.num_blocks = 6});
  const auto ids = names(1, 96);
  run_through(pool, ids, 96, 1);
  const auto h = pool.open({});
  pool.add_sequence(h, 3 * 32);  // the three blanks
  pool.release(h, 3, 0, false);  // garbage, behind the cached ones
  const auto g = pool.open({});
  pool.add_sequence(g, 2 * 32);  // drops two cached blocks although three hold nothing
  const auto k = pool.open(named(ids, 97));
  CHECK(pool.add_sequence(k, 97) == 32);
}

// ------------------------------------------------------------------------------------- against the plain
// model

namespace {

constexpr int block_size = 8;

struct Both {  // one sequence in both pools
  TensorRtLlmKvPool::Handle handle = 0;
  std::vector<int> held, gone;
  plain::Tokens tokens;                              // prompt and outputs known
  std::int64_t prompt = 0, in_cache = 0, least = 0;  // least: stored already
  std::uint64_t own = 0, stream = 0;
  bool running = false, stored = false;
};

plain::Tokens prompt_tokens(const std::vector<std::uint64_t>& ids, std::int32_t name_size,
                            std::uint64_t stream, std::uint64_t own, std::int64_t count, std::int64_t from) {
  plain::Tokens tokens;
  for (std::int64_t i = from; i < count; ++i) {
    Digest d;
    if (!ids.empty() && i / name_size < static_cast<std::int64_t>(ids.size()) && from == 0) {
      d.add(std::int64_t{name_size});
      d.add(ids[static_cast<std::size_t>(i / name_size)]);
      d.add(i % name_size);
    } else if (stream != 0) {
      d.add(stream + 1'000'000);
      d.add(i);
    } else {
      d.add(own + 2'000'000);
      d.add(i);
    }
    tokens.push_back(d.value());
  }
  return tokens;
}

// One random history of sequences in the pool and in the model, compared after every event.
class History {
 public:
  explicit History(std::uint64_t seed, bool tier = false, std::int64_t window = 0)
      : window_(window), random_(seed, RandomPurpose::property_test, 9), partial_(random_.below(4) != 0),
        copies_(random_.below(3) != 0), blocks_(static_cast<int>(pick(20, 60))),
        host_blocks_(tier ? static_cast<int>(pick(1, 80)) : 0), pool_({.num_blocks = blocks_,
                                                                       .block_size = block_size,
                                                                       .block_reuse = true,
                                                                       .partial_reuse = partial_,
                                                                       .copy_on_partial_reuse = copies_,
                                                                       .host_blocks = host_blocks_}),
        model_(blocks_, block_size, partial_, copies_, host_blocks_) {}

  void step() {
    const auto action = random_.below(10);
    if (action < 3 && all_.size() < 8) {
      open();
    } else if (!all_.empty()) {
      const std::size_t at = random_.below(all_.size());
      Both& s = all_[at];
      if (!s.running)
        start(s);
      else if (action < 5 && !s.stored && window_ == 0)
        store(s);
      else if (action < 8)
        grow(s);
      else
        release(at);
    }
    pool_.check_invariants();
    REQUIRE(pool_.free_blocks() == static_cast<std::int64_t>(model_.free_blocks()));
    REQUIRE(pool_.host().offloaded == model_.offloaded);
    REQUIRE(pool_.host().onboarded == model_.onboarded);
    compare_missing();
  }
  TensorRtLlmKvPool::HostUse host() const { return pool_.host(); }

  std::uint64_t hits = 0, partial_hits = 0, pauses = 0, duplicates = 0, kept = 0, lost = 0;

 private:
  std::int64_t pick(std::int64_t low, std::int64_t high) {
    return low + static_cast<std::int64_t>(random_.below(static_cast<std::uint64_t>(high - low + 1)));
  }
  static std::int64_t blocks_of(std::int64_t tokens) { return (tokens + block_size - 1) / block_size; }
  static std::int64_t count_of(const Both& s) { return static_cast<std::int64_t>(s.tokens.size()); }

  void open() {
    Both s;
    const auto name_size = static_cast<std::int32_t>(4 * pick(1, 3));
    s.prompt = pick(1, 60);
    s.own = ++opened_;
    std::vector<std::uint64_t> ids;
    const auto kind = random_.below(5);
    if (kind == 0) s.stream = 1 + random_.below(2);
    if (kind > 1) {
      const auto shared = static_cast<std::int64_t>(random_.below(20));
      const std::int64_t family = pick(0, 1);
      for (std::int64_t i = 0; i * name_size < s.prompt; ++i)
        ids.push_back(static_cast<std::uint64_t>(i < shared ? family * 100 + i : 1000 * pick(1, 3) + i));
    }
    s.tokens = prompt_tokens(ids, name_size, s.stream, s.own, s.prompt, 0);
    s.handle = pool_.open(
        {.hash_ids = ids, .hash_block_size = name_size, .stream = s.stream, .named_tokens = s.prompt});
    all_.push_back(s);
  }

  void know_one_more(Both& s) {
    s.tokens.push_back(prompt_tokens({}, 1, s.stream, s.own, count_of(s) + 1, count_of(s)).front());
  }

  void start(Both& s) {
    if (blocks_of(count_of(s)) > pool_.free_blocks()) return;
    const std::int64_t found = pool_.add_sequence(s.handle, count_of(s));
    REQUIRE(found == model_.add(s.held, s.tokens));
    hits += found > 0 ? 1 : 0;
    partial_hits += found % block_size != 0 ? 1 : 0;
    s.running = true;
    s.stored = false;
    s.in_cache = count_of(s);
    s.least = 0;
    know_one_more(s);
  }

  void store(Both& s) {
    s.least = count_of(s) - 1;
    pool_.store(s.handle, s.least);
    model_.store(s.held, s.tokens, static_cast<std::size_t>(s.least), false);
    s.stored = true;
  }

  void grow(Both& s) {
    if (window_ > 0) {
      const std::int64_t left = std::max<std::int64_t>(0, s.in_cache + 1 - window_) / block_size;
      pool_.detach_front(s.handle, left);
      model_.detach_front(s.held, s.gone, static_cast<std::size_t>(left));
      REQUIRE(pool_.blocks_left_behind(s.handle) == static_cast<std::int64_t>(s.gone.size()));
    }
    if (s.in_cache % block_size == 0) {
      if (pool_.free_blocks() == 0) return;
      pool_.grow_unattributed(1);
      model_.grow(s.held);
    }
    ++s.in_cache;
    know_one_more(s);
  }

  void release(std::size_t at) {
    Both& s = all_[at];
    const bool comes_back = random_.below(2) == 0;
    const std::int64_t stored = std::max(s.least, s.in_cache - pick(0, 1));
    pool_.release(s.handle, blocks_of(s.in_cache), stored, comes_back);
    const bool whole = model_.keeps_its_front(s.held, s.gone);
    if (whole) model_.store(s.held, s.tokens, static_cast<std::size_t>(stored), true);
    if (!s.gone.empty()) ++(whole ? kept : lost);
    model_.release(s.held, s.gone.size());
    s.gone.clear();
    pauses += comes_back ? 1 : 0;
    s.running = false;
    if (comes_back && s.tokens.size() <= 150) return;
    pool_.close(s.handle);
    all_.erase(all_.begin() + static_cast<std::ptrdiff_t>(at));
  }

  void compare_missing() {
    for (std::size_t i = 0; i + 1 < all_.size(); ++i) {
      const Both &a = all_[i], &b = all_[i + 1];
      if (a.running || b.running) continue;
      const auto ours_a = pool_.first_missing(a.handle, count_of(a));
      const auto ours_b = pool_.first_missing(b.handle, count_of(b));
      const auto theirs_a = model_.first_missing(a.tokens), theirs_b = model_.first_missing(b.tokens);
      REQUIRE(ours_a.has_value() == theirs_a.has_value());
      REQUIRE((ours_a == ours_b) == (theirs_a == theirs_b));
      duplicates += ours_a.has_value() && ours_a == ours_b ? 1 : 0;
    }
  }

  std::int64_t window_;
  RandomStream random_;
  bool partial_, copies_;
  int blocks_, host_blocks_;
  TensorRtLlmKvPool pool_;
  plain::Pool model_;
  std::vector<Both> all_;
  std::uint64_t opened_ = 0;
};

}  // namespace

TEST_CASE("§4 random use: hits, free blocks and missing blocks are those of a plain model") {
  std::uint64_t hits = 0, partial = 0, pauses = 0, duplicates = 0;
  for (std::uint64_t seed = 1; seed <= 300; ++seed) {
    CAPTURE(seed);
    History history(seed);
    for (int i = 0; i < 300; ++i) history.step();
    hits += history.hits;
    partial += history.partial_hits;
    pauses += history.pauses;
    duplicates += history.duplicates;
  }
  CHECK(hits > 1000);
  CHECK(partial > 500);
  CHECK(pauses > 500);
  CHECK(duplicates > 100);
}

TEST_CASE("§4.5 random use with blocks in host memory: hits and copies are those of a plain model") {
  std::int64_t onboarded = 0, dropped = 0;
  std::uint64_t hits = 0, pauses = 0;
  for (std::uint64_t seed = 1; seed <= 300; ++seed) {
    CAPTURE(seed);
    History history(seed, true);
    for (int i = 0; i < 300; ++i) history.step();
    hits += history.hits;
    pauses += history.pauses;
    onboarded += history.host().onboarded;
    dropped += history.host().dropped;
  }
  CHECK(hits > 1000);
  CHECK(pauses > 500);
  CHECK(onboarded > 1000);
  CHECK(dropped > 1000);
}

TEST_CASE(
    "§4.3 random use of a window's pool: hits, and what is stored at the end, are those of a plain model") {
  std::uint64_t hits = 0, pauses = 0, kept = 0, lost = 0;
  for (std::uint64_t seed = 1; seed <= 300; ++seed) {
    CAPTURE(seed);
    History history(seed, false, static_cast<std::int64_t>(1 + seed % 40));
    for (int i = 0; i < 300; ++i) history.step();
    hits += history.hits;
    pauses += history.pauses;
    kept += history.kept;
    lost += history.lost;
  }
  CHECK(hits > 1000);
  CHECK(pauses > 500);
  CHECK(kept > 500);
  CHECK(lost > 100);
}

TEST_CASE("§4.3 §4.5 random use of a window's pool with a tier in host memory: as the plain model") {
  std::int64_t onboarded = 0, dropped = 0;
  std::uint64_t kept = 0, lost = 0;
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    CAPTURE(seed);
    History history(seed, true, static_cast<std::int64_t>(1 + seed % 40));
    for (int i = 0; i < 300; ++i) history.step();
    kept += history.kept;
    lost += history.lost;
    onboarded += history.host().onboarded;
    dropped += history.host().dropped;
  }
  CHECK(kept > 500);
  CHECK(lost > 20);  // whose front went from host memory too
  CHECK(onboarded > 500);
  CHECK(dropped > 500);
}

TEST_CASE("§4.5 what a window left behind and another is given goes to host memory, and counts as kept") {
  const auto ids = names(1, 128);
  for (const std::int64_t tier : {0, 1, 4}) {
    TensorRtLlmKvPool pool({.num_blocks = 20, .host_blocks = tier});
    const auto h = pool.open(named(ids, 128));
    pool.add_sequence(h, 128);
    pool.detach_front(h, 2);
    pool.grow_unattributed(16);  // the 15 that were never used, but for one that the sequence grows by
    const auto next = pool.open(named(names(7, 64), 64));
    pool.add_sequence(next, 64);  // its two blocks: the sequence's front
    CHECK(pool.host().offloaded == (tier == 0 ? 0 : 2));
    pool.release(next, 2, 64, false);
    pool.release(h, 5, 140, false);
    const auto again = pool.open(named(ids, 128));
    // A tier of one block has dropped the first for the second.
    CHECK(pool.add_sequence(again, 128) == (tier == 4 ? 127 : 0));
    CHECK(pool.host().onboarded == (tier == 4 ? 2 : 0));
    pool.check_invariants();
  }
}

// Windows of 64 tokens, blocks of 32.
TEST_CASE(
    "§4.3 a window's sequence is stored at its end, the front that it left behind too, unless it was given "
    "away") {
  const auto ids = names(1, 128);
  for (const std::int64_t others : {0, 14, 15}) {  // 20 blocks: 4 + 1, and 15 left
    CAPTURE(others);
    TensorRtLlmKvPool pool({.num_blocks = 20});
    const auto h = pool.open(named(ids, 128));
    CHECK(pool.add_sequence(h, 128) == 0);
    pool.detach_front(h, 2);  // 129 tokens: 65 out of the window, two blocks whole
    pool.grow_unattributed(1);
    CHECK(pool.free_blocks() == 17);
    pool.check_invariants();
    pool.grow_unattributed(others);  // 15 never used ones come first, then its front
    const auto next = pool.open(named(names(7, 32), 32));
    pool.add_sequence(next, 32);
    pool.release(next, 1, 32, false);
    pool.release(h, 5, 140, false);
    pool.check_invariants();
    const auto again = pool.open(named(ids, 128));
    CHECK(pool.add_sequence(again, 128) == (others == 15 ? 0 : 127));
    pool.check_invariants();
  }
}

TEST_CASE("§4.5 a block is copied to host memory when it is handed out again, and back when it is found") {
  TensorRtLlmKvPool pool({.num_blocks = 4, .host_blocks = 3});
  const auto a = names(1, 96);
  run_through(pool, a, 96, 1);  // free: one never used, then a2 a1 a0
  CHECK(pool.free_without_offload() == 1);
  const auto h = pool.open({});
  pool.add_sequence(h, 3 * 32);  // the blank one; a2 and a1 go to host memory
  CHECK(pool.host().offloaded == 2);
  CHECK(pool.host().used == 2);
  pool.release(h, 3, 0, false);
  const auto x = pool.open(named(a, 97));
  CHECK(pool.add_sequence(x, 97) == 96);  // a0 on the device, a1 and a2 brought back
  CHECK(pool.host().onboarded == 2);
  // The places of the device blocks that made room: h's, whose content went to host memory in turn.
  CHECK(pool.host().offloaded == 5);
  CHECK(pool.free_blocks() == 0);
  pool.release(x, 4, 96, false);
  pool.close(h);
  pool.close(x);
  pool.check_invariants();
}

TEST_CASE("§4.5 host memory drops what came first, with all that hangs below it") {
  TensorRtLlmKvPool pool({.num_blocks = 4, .host_blocks = 3});
  const auto a = names(1, 128);
  run_through(pool, a, 128, 1);  // free: a3 a2 a1 a0
  const auto h = pool.open({});
  pool.add_sequence(h, 3 * 32);  // host: a3 a2 a1
  pool.release(h, 3, 0, false);  // free: a0 h h h
  const auto g = pool.open({});
  pool.add_sequence(g, 2 * 32);  // a0 goes, which costs a3, then one of h's, which costs a2
  pool.release(g, 2, 0, false);
  CHECK(pool.host().dropped == 2);
  const auto x = pool.open(named(a, 129));
  // a0 comes back; the block that makes room for it is copied to host memory and costs a1, three more cost
  // what nobody could find.
  CHECK(pool.add_sequence(x, 128) == 32);
  CHECK(pool.host().dropped == 6);
  pool.check_invariants();
}

TEST_CASE("§4.5 without reuse nothing is offloaded: no block has tokens that one could look for") {
  TensorRtLlmKvPool pool({.num_blocks = 4, .block_reuse = false, .host_blocks = 9});
  for (int i = 0; i < 3; ++i) {
    const auto h = pool.open({});
    pool.add_sequence(h, 128);
    pool.release(h, 4, 0, false);
    pool.close(h);
  }
  CHECK(pool.host().offloaded == 0);
  pool.check_invariants();
}

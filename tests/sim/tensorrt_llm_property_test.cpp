// Random worlds under TensorRT-LLM's scheduler: conservation, and the same decisions by sums and by walking.
#include <cstdio>

#include "../sanitized.h"
#include "base/digest.h"
#include "catch.h"
#include "conservation.h"
#include "tensorrt_llm_world.h"

using namespace orrery;

namespace {
// Of the worlds with further features; under a sanitizer fewer, which then only have to be there.
constexpr std::uint64_t worlds(std::uint64_t usual) { return sanitized ? usual / 5 : usual; }
constexpr std::uint64_t at_least(std::uint64_t usual) { return sanitized ? 0 : usual; }
}  // namespace

TEST_CASE("random worlds: every request ends once, tokens add up, gaps are complete [trtllm]") {
  world::Visited visited, never_evicting;
  for (std::uint64_t seed = 1; seed <= worlds(200); ++seed) {
    const auto [w, requests] = world::tensorrt_llm_world(seed);
    CAPTURE(seed);
    const auto refused = [&config = w.config](const TraceRequest& q) {
      return !config.enable_chunked_prefill && q.prompt_tokens > config.max_num_batched_tokens;
    };
    world::check_conservation(w, requests, refused,
                              w.config.tensorrt_llm.max_utilization ? visited : never_evicting);
  }
  CHECK(never_evicting.preemptions == 0);
  CHECK(visited.preemptions > at_least(100));
  CHECK(visited.cached + never_evicting.cached > at_least(1000));
  CHECK(visited.eos + never_evicting.eos > at_least(1000));
  CHECK(visited.stretches + never_evicting.stretches > at_least(1000));
  CHECK(visited.rejected + never_evicting.rejected > at_least(10));
}

TEST_CASE(
    "§8 random worlds that speculate: every request ends once, every token once, every block back [trtllm]") {
  world::Visited visited, never_evicting;
  for (std::uint64_t seed = 1; seed <= worlds(150); ++seed) {
    const world::FeaturedWorld f = world::tensorrt_llm_featured_world(seed);
    const auto& [w, requests] = f.random;
    CAPTURE(seed);
    const auto refused = [&config = w.config](const TraceRequest& q) {
      return !config.enable_chunked_prefill && q.prompt_tokens > config.max_num_batched_tokens;
    };
    world::check_conservation(w, requests, refused,
                              w.config.tensorrt_llm.max_utilization ? visited : never_evicting);
    if (seed % 5 == 0) {
      const std::uint64_t digest = world::run(w, requests).digest;
      REQUIRE(world::run(w, requests, seed).digest == digest);
    }
  }
  CHECK(never_evicting.preemptions == 0);
  CHECK(visited.preemptions > at_least(50));
  CHECK(visited.cached + never_evicting.cached > at_least(500));
  CHECK(visited.accepted + never_evicting.accepted > at_least(10000));
  CHECK(visited.rejected_drafts + never_evicting.rejected_drafts > at_least(10000));
}

TEST_CASE("sums and stretches decide what walking every pass decides, at the same nanosecond [trtllm]") {
  std::uint64_t stretches = 0;
  for (std::uint64_t seed = 1; seed <= worlds(200); ++seed) {
    auto [w, requests] = world::tensorrt_llm_world(seed);
    const RunResult a = world::run(w, requests);
    w.config.stretches = false;
    const RunResult b = world::run(w, requests);
    CAPTURE(seed);
    REQUIRE(b.stretches == 0);
    stretches += a.stretches;
    REQUIRE(a.digest == b.digest);
    REQUIRE(a.steps == b.steps);
    REQUIRE(a.itl.mean == b.itl.mean);
  }
  CHECK(stretches > at_least(1000));
}

TEST_CASE("§1.4 random worlds whose prompts wait for fuller batches: conservation, by sums and by walking") {
  world::Visited visited;
  std::uint64_t others = 0;
  for (std::uint64_t seed = 1; seed <= worlds(40); ++seed) {
    auto [w, requests] = world::tensorrt_llm_world(seed);
    RandomStream r(seed, RandomPurpose::property_test, 13);
    const std::uint64_t at_once = world::run(w, requests).digest;
    w.config.options.set("batch_wait_timeout_iters", static_cast<std::int64_t>(1 + r.below(30)));
    w.config.options.set("batch_wait_max_tokens_ratio", 0.1 + 0.9 * r.uniform());
    if (r.below(2) == 0) w.config.options.set("batch_wait_timeout_ms", 1.0);
    CAPTURE(seed);
    const auto refused = [&config = w.config](const TraceRequest& q) {
      return !config.enable_chunked_prefill && q.prompt_tokens > config.max_num_batched_tokens;
    };
    world::check_conservation(w, requests, refused, visited);
    const std::uint64_t digest = world::run(w, requests).digest;
    others += digest != at_once ? 1 : 0;
    w.config.stretches = false;
    REQUIRE(world::run(w, requests).digest == digest);
  }
  CHECK(others > at_least(30));
}

TEST_CASE("the order in which simultaneous events are handed over changes nothing [trtllm]") {
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    auto [w, requests] = world::tensorrt_llm_world(seed);
    const std::uint64_t digest = world::run(w, requests).digest;
    CAPTURE(seed);
    REQUIRE(world::run(w, requests).digest == digest);
    REQUIRE(world::run(w, requests, 1).digest == digest);
  }
}

TEST_CASE(
    "§4.5 random worlds with blocks in host memory: conservation, and stretches decide the same [trtllm]") {
  world::Visited visited;
  std::uint64_t stored = 0, loaded = 0, stretches = 0;
  for (std::uint64_t seed = 1; seed <= worlds(100); ++seed) {
    auto [w, requests] = world::tensorrt_llm_tier_world(seed);
    CAPTURE(seed);
    const auto refused = [&config = w.config](const TraceRequest& q) {
      return !config.enable_chunked_prefill && q.prompt_tokens > config.max_num_batched_tokens;
    };
    world::check_conservation(w, requests, refused, visited);
    const RunResult a = world::run(w, requests);
    w.config.stretches = false;
    const RunResult b = world::run(w, requests);
    REQUIRE(a.digest == b.digest);
    REQUIRE(a.itl.mean == b.itl.mean);
    REQUIRE(a.offload.stored == b.offload.stored);
    stored += a.offload.stored;
    loaded += a.offload.loaded;
    stretches += a.stretches;
  }
  CHECK(stored > at_least(1000));
  CHECK(loaded > at_least(500));
  CHECK(stretches > at_least(300));
  CHECK(visited.preemptions > at_least(50));
}

TEST_CASE(
    "§4.1 random worlds with a pool for windows: every request ends once, every block goes back [trtllm]") {
  world::Visited visited, never_evicting;
  for (std::uint64_t seed = 1; seed <= worlds(150); ++seed) {
    auto [w, requests] = world::tensorrt_llm_windows_world(seed);
    CAPTURE(seed);
    const auto refused = [&config = w.config](const TraceRequest& q) {
      return !config.enable_chunked_prefill && q.prompt_tokens > config.max_num_batched_tokens;
    };
    world::check_conservation(w, requests, refused,
                              w.config.tensorrt_llm.max_utilization ? visited : never_evicting);
    const std::uint64_t digest = world::run(w, requests).digest;
    w.config.tensorrt_llm.window = 0;  // the same without: other decisions at least where the pool is smaller
    w.config.tensorrt_llm.window_blocks = 0;
    visited.stretches += world::run(w, requests).digest != digest ? 1 : 0;
  }
  CHECK(visited.preemptions > at_least(50));
  CHECK(never_evicting.preemptions == 0);
  CHECK(visited.stretches > at_least(100));
}

TEST_CASE("§4.1 §8 random worlds with drafts beside a pool for windows: conservation [trtllm]") {
  world::Visited visited, never_evicting;
  for (std::uint64_t seed = 1; seed <= worlds(60); ++seed) {
    auto featured = world::tensorrt_llm_featured_world(seed);
    auto& [w, requests] = featured.random;
    const SchedulerConfig windows = world::tensorrt_llm_windows_world(seed).world.config;
    w.config.enable_prefix_caching = seed % 2 == 0;
    w.config.offload.blocks = 0;
    w.config.max_num_batched_tokens =
        std::max(w.config.max_num_batched_tokens, windows.max_num_batched_tokens);
    w.config.tensorrt_llm.window = windows.tensorrt_llm.window;
    w.config.tensorrt_llm.window_blocks = windows.tensorrt_llm.window_blocks;
    CAPTURE(seed);
    const auto refused = [&config = w.config](const TraceRequest& q) {
      return !config.enable_chunked_prefill && q.prompt_tokens > config.max_num_batched_tokens;
    };
    world::check_conservation(w, requests, refused,
                              w.config.tensorrt_llm.max_utilization ? visited : never_evicting);
    if (seed % 10 == 0) REQUIRE(world::run(w, requests, seed).digest == world::run(w, requests).digest);
  }
  CHECK(visited.preemptions > at_least(30));
  CHECK(never_evicting.preemptions == 0);
  CHECK(visited.accepted + never_evicting.accepted > at_least(1000));
  CHECK(visited.rejected_drafts + never_evicting.rejected_drafts > at_least(1000));
}

TEST_CASE(
    "§4.2 §4.3 random worlds with reuse beside a pool for windows: conservation, hits in both [trtllm]") {
  world::Visited visited, never_evicting;
  std::uint64_t fewer = 0;
  for (std::uint64_t seed = 1; seed <= worlds(50); ++seed) {
    auto [w, requests] = world::tensorrt_llm_reused_windows_world(seed);
    CAPTURE(seed);
    const auto refused = [&config = w.config](const TraceRequest& q) {
      return !config.enable_chunked_prefill && q.prompt_tokens > config.max_num_batched_tokens;
    };
    world::check_conservation(w, requests, refused,
                              w.config.tensorrt_llm.max_utilization ? visited : never_evicting);
    const RunResult windows = world::run(w, requests);
    if (seed % 10 == 0) REQUIRE(world::run(w, requests, seed).digest == windows.digest);
    w.config.tensorrt_llm.window = 0;
    w.config.tensorrt_llm.window_blocks = 0;
    // What must be found in two pools is found less often than in one.
    fewer += world::run(w, requests).cached_tokens > windows.cached_tokens ? 1 : 0;
  }
  CHECK(visited.preemptions > at_least(20));
  CHECK(never_evicting.preemptions == 0);
  CHECK(visited.cached + never_evicting.cached > at_least(200));
  CHECK(fewer > at_least(20));
}

TEST_CASE("§4.5 random worlds with reuse, windows and a tier for either pool: conservation [trtllm]") {
  world::Visited visited, never_evicting;
  std::uint64_t stored = 0, loaded = 0, more = 0;
  for (std::uint64_t seed = 1; seed <= worlds(40); ++seed) {
    auto [w, requests] = world::tensorrt_llm_reused_windows_world(seed);
    RandomStream r(seed, RandomPurpose::property_test, 12);
    const RunResult without = world::run(w, requests);
    world::keep_in_host_memory(w, r);
    w.config.tensorrt_llm.window_host_blocks = 1 + static_cast<std::int64_t>(r.below(400));
    w.config.tensorrt_llm.full_parts = 1 + static_cast<std::int64_t>(r.below(2));
    w.config.tensorrt_llm.window_parts = 1 + static_cast<std::int64_t>(r.below(5));
    CAPTURE(seed);
    const auto refused = [&config = w.config](const TraceRequest& q) {
      return !config.enable_chunked_prefill && q.prompt_tokens > config.max_num_batched_tokens;
    };
    world::check_conservation(w, requests, refused,
                              w.config.tensorrt_llm.max_utilization ? visited : never_evicting);
    const RunResult a = world::run(w, requests);
    if (seed % 10 == 0) REQUIRE(world::run(w, requests, seed).digest == a.digest);
    stored += a.offload.stored;
    loaded += a.offload.loaded;
    more += a.cached_tokens > without.cached_tokens ? 1 : 0;
  }
  CHECK(never_evicting.preemptions == 0);
  CHECK(stored > at_least(1000));
  CHECK(loaded > at_least(300));
  CHECK(more > at_least(8));  // what would have been gone was found
}

// The gate runs this in gcc Release and in clang Debug; both must find this very value.
TEST_CASE("digests equal the golden one on every compiler and build type [trtllm][golden]") {
  Digest all;
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    auto [w, requests] = world::tensorrt_llm_world(seed);
    all.add(world::run(w, requests).digest);
  }
  std::printf("digest of 60 TensorRT-LLM worlds: %s\n", digest_text(all.value()).c_str());
  // Recorded from gcc 12 Release; changes only with a change of behaviour, which the changelog names.
  CHECK(digest_text(all.value()) == "2ac2ba9e158a2bc9");
}

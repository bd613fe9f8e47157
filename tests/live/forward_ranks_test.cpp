// The forward pass on two simulated devices: shares of the weights, own all-reduce and gather, against the
// double-precision reference of the whole model.
#include <chrono>

#include "catch.h"
#include "forward_agrees.h"
#include "kernels/guarded_memory.h"
#include "live/forward/forward_check.h"
#include "live/forward/forward_mover.h"

namespace orrery {
namespace {

TEST_CASE("two ranks give the reference's logits, and both the same tokens") {
  ForwardCheckOptions options;
  options.ranks.ranks = 2;
  const std::vector<ModelSpec> models = checked_models_of_two();
  for (std::size_t i = 0; i < 3; ++i) check_agrees(models[i], options);  // the others below
}

TEST_CASE(
    "two ranks with half of the experts each give the reference's logits: FP8, and bf16 beside a latent") {
  ForwardCheckOptions options;
  options.ranks.ranks = 2;
  options.ranks.shares_experts = true;
  const std::size_t which = GENERATE(3, 4);
  options.zipf = which == 3 ? 1.5 : 0;  // a hotspot: one of eight experts has as much as the last six
  check_agrees(checked_models_of_two()[which], options);
}

TEST_CASE("experts drawn by popularity are the simulation's, and their products the reference's") {
  ForwardCheckOptions options;
  options.zipf = 6;  // most draws repeat, so that what is left over is drawn from, too
  check_agrees(tiny_model(true), options);
}

TEST_CASE("what two ranks cannot share out is refused by name") {
  kernels::HostMemory memory;
  ForwardCheckOptions options;
  options.ranks.ranks = 2;
  const Result<ForwardCheck> check = check_forward(tiny_model(), options, memory);  // one head of keys
  REQUIRE_FALSE(check);
  CHECK(to_string(check.errors()).find("heads or a vocabulary that do not divide over 2 ranks") !=
        std::string::npos);
}

TEST_CASE("a rank without room for a step ends it on all ranks: none waits for it") {
  class Filling final : public kernels::HostMemory {
   public:
    bool full = false;

   protected:
    void* raw_allocate(std::size_t bytes) override {
      return full ? nullptr : kernels::HostMemory::raw_allocate(bytes);
    }
  };
  Filling memory;
  ForwardOptions options;
  options.kv_blocks = 17;
  options.max_rows = options.max_sequences = 1;
  options.max_positions = 257;
  options.random_kv = true;
  const auto group = RankedForward::create(checked_models_of_two().front(), options, {2}, memory);
  INFO((group ? "" : to_string(group.errors())));
  REQUIRE(group);
  StepBatch batch;  // a context in several pieces, for which there is no room yet
  batch.tokens = {1};
  batch.positions = {255};
  batch.slots = {16 * 16 + 15};
  batch.sequences = {{0, 1, 256}};
  batch.decodes = 1;
  for (std::int32_t i = 1; i <= 16; ++i) batch.block_tables.push_back(i);
  batch.max_blocks = 16;
  batch.sampled_rows = {0};
  memory.full = true;
  const auto first = (*group)->launch(batch);
  REQUIRE_FALSE(first);
  CHECK(to_string(first.errors()).find("no room for attention's partial results") != std::string::npos);
  memory.full = false;
  const auto second = (*group)->launch(batch);  // it stays so
  REQUIRE_FALSE(second);
  CHECK(to_string(second.errors()).find("another rank has failed") != std::string::npos);
}

TEST_CASE("a rank whose sum fails, or never comes, ends the step on all ranks, and is named") {
  kernels::HostMemory memory;
  ForwardOptions options;
  options.kv_blocks = options.max_rows = options.max_sequences = 1;
  options.max_positions = 16;
  options.random_kv = true;
  RankedForward::Options ranks;
  ranks.ranks = 2;
  const bool silent = GENERATE(false, true);
  const std::int32_t rank = GENERATE(0, 1);
  ranks.fault = {rank, 2, silent};
  ranks.patience_s = silent ? 0.4 : 60;
  const auto group = RankedForward::create(checked_models_of_two().front(), options, ranks, memory);
  INFO((group ? "" : to_string(group.errors())));
  REQUIRE(group);
  const StepBatch batch = least_step();
  const auto begin = std::chrono::steady_clock::now();
  Errors errors;
  if (const auto launched = (*group)->launch(batch); !launched)
    errors = launched.errors();
  else if (const auto sampled = (*group)->sampled(); !sampled)
    errors = sampled.errors();
  REQUIRE_FALSE(errors.empty());
  CHECK(errors.front().kind == ErrorKind::unavailable);
  CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(30));
  const std::string expected =
      silent ? "a step was not over after 0.4 s" : "rank " + std::to_string(rank) + ": a sum";
  CHECK(to_string(errors).find(expected) != std::string::npos);
  const auto again = (*group)->launch(batch);  // for good
  REQUIRE_FALSE(again);
  CHECK(to_string(again.errors()).find("another rank has failed before: " + to_string(errors)) !=
        std::string::npos);
}

std::vector<std::uint16_t> pool_of(const StepForward& forward, std::size_t index,
                                   kernels::DeviceMemory& memory) {
  const auto block = static_cast<std::size_t>(forward.kv_block_bytes() / 2);
  std::vector<std::uint16_t> values(block * static_cast<std::size_t>(forward.kv_blocks()));
  memory.download(values.data(), forward.kv_pools()[index], values.size() * 2);
  return values;
}

TEST_CASE("KV blocks are moved where they are sent, of the layers asked for, and nothing else changes") {
  kernels::HostMemory here, there;
  ForwardOptions options;
  options.kv_blocks = 6;
  options.max_rows = options.max_sequences = 4;
  options.max_positions = 32;
  options.random_kv = true;
  const auto from = StepForward::create(tiny_model(), options, here);
  options.seed = 2;
  const auto to = StepForward::create(tiny_model(), options, there);
  REQUIRE(from);
  REQUIRE(to);
  const auto mover = ForwardMover::create({from->get(), &here}, {to->get(), &there});
  REQUIRE(mover);
  std::vector<std::vector<std::uint16_t>> expected;
  for (std::size_t i = 0; i < 4; ++i) expected.push_back(pool_of(**to, i, there));
  KvMove move{{5, 1, 3}, {0, 4, 2}, 0, 1, 1};
  const bool second_only = GENERATE(false, true);
  if (second_only) move = {{5, 1, 3}, {0, 4, 2}, 1, 2, 2};
  const auto block = static_cast<std::ptrdiff_t>((*from)->kv_block_bytes() / 2);
  for (std::size_t i = second_only ? 2 : 0; i < 4; ++i) {
    const auto source = pool_of(**from, i, here);
    for (std::size_t b = 0; b < 3; ++b)
      std::copy_n(source.begin() + move.from[b] * block, block, expected[i].begin() + move.to[b] * block);
  }
  std::int64_t ns = 0;
  std::string why;
  const bool moved = (*mover)->move(move, ns, why);
  INFO(why);
  REQUIRE(moved);
  CHECK(ns > 0);
  for (std::size_t i = 0; i < 4; ++i) CHECK(pool_of(**to, i, there) == expected[i]);
  const bool refused = !(*mover)->move({{1}, {1, 2}, 0, 1, 1}, ns, why);
  CHECK(refused);
}

}  // namespace
}  // namespace orrery

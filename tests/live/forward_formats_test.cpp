// Every format of the forward pass on the CPU simulator, in few steps, and which models it takes.
#include "catch.h"
#include "forward_agrees.h"
#include "kernels/guarded_memory.h"
#include "live/forward/forward_check.h"
#include "live/forward/forward_inputs.h"
#include "live/forward/forward_weights.h"

namespace orrery {
namespace {

TEST_CASE("8-bit products, experts and latents give the reference's logits") {
  const auto models = checked_models();
  for (std::size_t i = 1; i < models.size(); ++i)
    check_agrees(models[i], {});  // the first: forward_check_test's
}

// 24 sequences fill the simulator's three units as they are: splitting one would only add work.
TEST_CASE("contexts that grow are not split by the pieces found for shorter ones") {
  kernels::HostMemory memory;
  std::string why;
  const auto stream = kernels::make_step_stream(0, why);
  ForwardInputs inputs;
  constexpr std::int32_t sequences = 24, blocks = 64;
  const bool ready =
      inputs.prepare({sequences, sequences, blocks, sequences * blocks}, {16, 8, false, 16}, *stream, memory);
  REQUIRE(ready);
  for (std::int32_t longest = 500; longest < 700; longest += 9) {
    StepBatch batch;
    batch.decodes = sequences;
    batch.max_blocks = blocks;
    for (std::int32_t s = 0; s < sequences; ++s) {
      batch.tokens.push_back(s);
      batch.positions.push_back(longest - 1);
      batch.slots.push_back(std::int64_t{s} * blocks * 16);
      batch.sequences.push_back({s, 1, longest - s % 3 * 60});
      for (std::int32_t b = 0; b < blocks; ++b) batch.block_tables.push_back(s * blocks + b);
    }
    const Result<DeviceStep> step = inputs.put(batch);
    REQUIRE(step);
    CAPTURE(longest);
    CHECK(step->piece_count == sequences);
    CHECK(step->merge_count == 0);
  }
}

TEST_CASE("models that are taken, and shapes as they are") {
  for (const char* name :
       {"qwen3-0.6b", "qwen3-1.7b", "qwen3-4b", "qwen3-8b", "qwen3-14b", "qwen3-32b", "qwen3-32b-fp8",
        "qwen3-30b-a3b", "qwen3-30b-a3b-fp8", "llama-3.1-8b", "deepseek-v2-lite"}) {
    CAPTURE(name);
    const Result<ModelSpec> model = load_model(name, "", "", "");
    REQUIRE(model);
    const Result<ForwardShape> shape = forward_shape(*model);
    INFO((shape ? "" : to_string(shape.errors())));
    REQUIRE(shape);
    CHECK(shape->experts_of_layer.size() == static_cast<std::size_t>(model->layers));
    CHECK(shape->kv_width() * (shape->latent() ? 1 : 2) * 2 * shape->layers ==
          static_cast<std::int64_t>(model->kv_bytes_per_token().value()));
  }
}

TEST_CASE("models with what there is no code for are refused by name") {
  for (const auto& [name, what] : {std::pair{"gemma-3-4b-it", "norms of outputs"},
                                   {"gpt-oss-20b", "attention sinks"},
                                   {"qwen2.5-7b", "biases of q, k and v"},
                                   {"deepseek-v3", "queries of low rank"},
                                   {"qwen3-next-80b-a3b", "layers with a state"}}) {
    CAPTURE(name, what);
    const Result<ModelSpec> model = load_model(name, "", "", "");
    REQUIRE(model);
    const Result<ForwardShape> shape = forward_shape(*model);
    REQUIRE_FALSE(shape);
    CHECK(to_string(shape.errors()).find(what) != std::string::npos);
  }
}

}  // namespace
}  // namespace orrery

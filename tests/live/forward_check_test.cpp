// The forward pass on the CPU simulator against its double-precision reference (reference_forward.h has the
// bound and how it is derived).
#include "live/forward/forward_check.h"
#include "catch.h"
#include "kernels/guarded_memory.h"

namespace orrery {
namespace {

ForwardCheck run(const ForwardCheckOptions& options, const ModelSpec& model = tiny_model()) {
  kernels::HostMemory memory;
  const Result<ForwardCheck> check = check_forward(model, options, memory);
  INFO((check ? "" : to_string(check.errors())));
  REQUIRE(check);
  std::string broken;
  const bool intact = memory.guards_intact(broken);
  CAPTURE(broken);
  CHECK(intact);
  return *check;
}

TEST_CASE("a forward pass in chunks, over shared and recomputed blocks, gives the reference's logits") {
  const bool graphs = GENERATE(false, true);
  CAPTURE(graphs);
  ForwardCheckOptions options;
  options.graphs = graphs;
  const ForwardCheck check = run(options);
  CAPTURE(check.detail, check.worst_deviations, check.same_tokens, check.tokens);
  CHECK(check.passed());
  CHECK(check.rows > 130);
  CHECK(100 * check.same_tokens >= 99 * check.tokens);
  // The bound is no wider than errors need: the largest of so many is some four deviations.
  CHECK(check.worst_deviations > 2);
  // Far below what logits are apart.
  CHECK(check.median_deviation < 0.01);
  CHECK((check.graph_steps > 0) == graphs);
  CHECK(check.graphs <= check.graph_steps);
}

TEST_CASE("in fp32 every token is the reference's") {
  ForwardCheckOptions options;
  options.fp32 = true;
  options.graphs = GENERATE(false, true);
  options.seed = GENERATE(1U, 2U);
  CAPTURE(options.graphs, options.seed);
  const ForwardCheck check = run(options);
  CAPTURE(check.detail);
  CHECK(check.passed());
  CHECK(check.rows > 130);
  CHECK(check.same_tokens == check.tokens);
  CHECK(check.median_deviation < 1e-5);
}

TEST_CASE("a wrong slot, position, block, context or prefix does not pass") {
  ForwardCheckOptions options;
  options.fault = GENERATE(ForwardFault::slot, ForwardFault::position, ForwardFault::block_table,
                           ForwardFault::context, ForwardFault::stale_prefix);
  CAPTURE(static_cast<int>(options.fault));
  const ForwardCheck check = run(options);
  CHECK_FALSE(check.passed());
  CHECK(check.beyond_bound > 50);
}

TEST_CASE("a model that the forward pass has no code for is refused by name") {
  kernels::HostMemory memory;
  ModelSpec model = tiny_model();
  model.attention_sinks = true;
  model.head_dim = 256;
  const Result<ForwardCheck> check = check_forward(model, {}, memory);
  REQUIRE_FALSE(check);
  CHECK(to_string(check.errors()).find("attention sinks, heads of other than 64 or 128") !=
        std::string::npos);
}

}  // namespace
}  // namespace orrery

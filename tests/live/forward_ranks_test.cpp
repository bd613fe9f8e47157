// The forward pass on two simulated devices: shares of the weights, own all-reduce and gather, against the
// double-precision reference of the whole model.
#include "catch.h"
#include "kernels/guarded_memory.h"
#include "live/forward/forward_check.h"

namespace orrery {
namespace {

TEST_CASE("two ranks give the reference's logits, and both the same tokens") {
  for (const ModelSpec& model : checked_models_of_two()) {
    CAPTURE(model.name);
    ForwardCheckOptions options;
    options.brief = options.graphs = true;
    options.ranks.ranks = 2;
    kernels::HostMemory memory;
    const Result<ForwardCheck> check = check_forward(model, options, memory);
    INFO((check ? "" : to_string(check.errors())));
    REQUIRE(check);
    CAPTURE(check->detail, check->worst_deviations, check->wrong_choices);
    CHECK(check->passed());
    CHECK(check->graph_steps > 0);
    CHECK(check->rows > 25);
    CHECK(check->worst_deviations > 1.5);  // the bound is no wider than errors need
    std::string broken;
    const bool intact = memory.guards_intact(broken);
    CAPTURE(broken);
    CHECK(intact);
  }
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

}  // namespace
}  // namespace orrery

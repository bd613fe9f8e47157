// The forward pass on the CPU simulator against its double-precision reference.
#include <iostream>

#include "catch.h"
#include "kernels/guarded_memory.h"
#include "live/forward/forward_check.h"

namespace orrery {
namespace {

ForwardCheck run(ForwardCheckOptions options) {
  kernels::HostMemory memory;
  Result<ForwardCheck> check = check_forward(tiny_model(), options, memory);
  INFO((check ? "" : to_string(check.errors())));
  REQUIRE(check);
  std::string broken;
  CHECK(memory.guards_intact(broken));
  CAPTURE(broken);
  return *check;
}

TEST_CASE("a forward pass in chunks, over shared and recomputed blocks, gives the reference's logits") {
  for (const bool graphs : {false, true}) {
    ForwardCheckOptions options;
    options.graphs = graphs;
    const ForwardCheck check = run(options);
    std::cerr << check.steps << " steps " << check.graph_steps << " graph, rows " << check.rows << " same " << check.same_tokens << " of " << check.tokens << " wrong " << check.wrong_tokens << " worst dev " << check.worst_deviations << " median dev " << check.median_deviation << " beyond " << check.beyond_bound << " " << check.detail << "\n";
    CHECK(check.passed());
  }
}

}  // namespace
}  // namespace orrery

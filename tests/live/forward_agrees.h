// A forward pass beside its reference: what every model, format and number of ranks has to show.
#pragma once

#include "catch.h"
#include "kernels/guarded_memory.h"
#include "live/forward/forward_check.h"

namespace orrery {

inline void check_agrees(const ModelSpec& model, ForwardCheckOptions options) {
  CAPTURE(model.name);
  options.brief = options.graphs = true;
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

}  // namespace orrery

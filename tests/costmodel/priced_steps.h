// A pricer that a test takes for granted, and plain decode steps for it.
#pragma once

#include <utility>

#include "catch.h"
#include "costmodel/step_pricer.h"

inline orrery::StepPricer pricer(const orrery::InstanceSpec& spec) {
  auto made = orrery::StepPricer::create(spec);
  if (!made.ok()) FAIL(to_string(made.errors()));
  return std::move(made).value();
}

// That many sequences of one context, nothing else.
inline orrery::StepShape decodes(std::int32_t sequences, std::int64_t context) {
  orrery::StepShape shape{};
  shape.decode_sequences = sequences;
  shape.decode_context_tokens = sequences * context;
  shape.running = sequences;
  return shape;
}

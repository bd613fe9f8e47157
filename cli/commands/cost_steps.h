// Steps as people and files write them (interfaces §6).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "costmodel/step_shape.h"

namespace orrery {

// A shape with its chunks.
struct StepRequest {
  std::vector<PrefillChunk> chunks;
  StepShape shape;            // look at it through view(), which points it at the chunks
  bool drafts_given = false;  // by the row; else every decode verifies as many as the deployment drafts
  StepShape view(std::int32_t drafts_each = 0) const {
    StepShape v = shape;
    v.prefill = chunks;
    if (!drafts_given) v.draft_tokens = drafts_each * v.decode_sequences;
    return v;
  }
};

// "prefill 2048@0 + prefill 512@4096 + decode 64@1024": new tokens at context; so many decodes at a mean
// context. A mistake is an error of kind `usage`.
Result<StepRequest> parse_step(const std::string& text);

// {"prefill": [[2048, 0], [512, 4096]], "decode": {"sequences": 64, "context_tokens": 65536}}; optional
// "new_requests" and "running" (host cost), and in "decode" "drafts" (that all of them verify, speculation).
// `line` is from 1; errors name file and line.
Result<StepRequest> parse_step_row(std::string_view row, const std::string& file, std::int64_t line);

std::string to_text(const StepRequest& step);  // the form that parse_step reads

}  // namespace orrery

// One operator priced by itself, as `orrery cost --ops` asks for it (interfaces §7): no model, no step.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "costmodel/roofline.h"
#include "costmodel/step_shape.h"

namespace orrery {

// Fields as in interfaces §7; an operator reads those that it names there.
struct OpQuery {
  std::string op;
  std::int64_t m = 0, n = 0, k = 0;
  std::string dtype = "bf16";
  std::vector<std::int64_t> rows;  // grouped_gemm: rows per expert, zeros allowed
  std::int64_t heads = 0, kv_heads = 0, head_dim = 0;
  std::string kv_dtype = "auto";        // auto (= dtype) | bf16 | fp16 | fp8
  std::vector<PrefillChunk> sequences;  // attention_prefill
  std::int32_t batch = 0;               // attention_decode
  std::int64_t context_sum = 0;
  double bytes = 0;  // collectives: full buffer of one rank; copy: bytes read
  std::int32_t ranks = 0;
};

struct OpPrice {
  OpCost cost;
  std::int64_t ns = 0, low_ns = 0, high_ns = 0;  // the last two: 90 % interval
  std::string rung = "roofline";                 // measured | published | transported | roofline
  std::string hit = "extrapolated";              // exact | interpolated | extrapolated
};

const std::vector<std::string>& operator_queries();  // the names that `op` may have

// Errors (without a place, the caller knows the line): unknown operator, a type that the part cannot
// multiply, a missing or impossible field.
Result<OpPrice> price_operator(const OpQuery& query, const Roofline& roofline);

}  // namespace orrery

#include "costmodel/op_query_rows.h"

#include <algorithm>
#include <array>

#include "costmodel/ops/common.h"

namespace orrery {

namespace {

// Bytes of a row: per element of its width, per choice and element, per choice.
struct RowWise {
  const char* name;
  const char* table;  // as the cost model calls it
  double per_element, per_choice_element, per_choice;
  double from_memory;  // per element, what must reach memory
};
// bf16 or fp16 activations of two bytes, quantised outputs of one; fp32 logits and router scores.
constexpr std::array<RowWise, 18> row_wise{{
    {"add_rms_norm", "add_rms_norm", 8, 0, 0, 0},
    {"add_rms_norm_quantize", "add_rms_norm_quantize", 7, 0, 0, 0},
    {"argmax", "argmax", 4, 0, 0, 0},
    {"embedding", "embedding", 2, 0, 0, 2},
    {"gather_rows", "gather_rows", 4, 0, 0, 0},
    {"kv_write", "kv_write", 4, 0, 0, 4},
    {"logits_copy", "logits_copy", 6, 0, 0, 0},
    {"moe_align", "moe_align", 0, 0, 12, 0},
    {"moe_combine", "moe_combine", 2, 2, 0, 0},
    {"moe_permute", "moe_permute", 4, 0, 0, 0},
    {"qk_norm_rotary", "qk_norm_rotary", 4, 0, 0, 0},
    {"quantize", "quantize", 3, 0, 0, 0},
    {"rms_norm", "rms_norm", 4, 0, 0, 0},
    {"rotary", "rotary", 4, 0, 0, 0},
    {"router_topk", "topk", 4, 0, 8, 0},
    {"sample", "sample", 4, 0, 0, 0},
    {"silu_mul", "silu_mul", 6, 0, 0, 0},
    {"silu_mul_quantize", "silu_mul_quantize", 5, 0, 0, 0},
}};

}  // namespace

const std::vector<std::string>& row_wise_queries() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> out;
    for (const RowWise& entry : row_wise) out.emplace_back(entry.name);
    return out;
  }();
  return names;
}

Result<OpCost> row_wise_cost(const OpQuery& query, const Roofline& roofline) {
  const auto* entry = std::find_if(row_wise.begin(), row_wise.end(),
                                   [&](const RowWise& each) { return query.op == each.name; });
  ORRERY_CHECK(entry != row_wise.end(), "a row-wise operator without an entry");
  Errors errors;
  for (const auto& [value, field] : {std::pair{query.m, "m"}, std::pair{query.n, "n"}}) {
    if (value < 1) errors.push_back(invalid_input("must be a whole number of at least 1", {}, field));
  }
  if (!errors.empty()) return errors;
  const auto choices = static_cast<double>(std::max<std::int64_t>(1, query.k));
  const auto width = static_cast<double>(query.n);
  const double per_row =
      width * (entry->per_element + choices * entry->per_choice_element) + choices * entry->per_choice;
  const StreamOperator op(OpSpec{}, roofline, per_row, width * entry->from_memory, 1,
                          RowTable{entry->table, query.n, query.k, query.dtype});
  return op.cost(StepInput{query.m, query.m, nullptr});
}

}  // namespace orrery

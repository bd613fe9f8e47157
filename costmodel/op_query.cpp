#include "costmodel/op_query.h"

#include <algorithm>
#include <array>
#include <span>

#include "base/text.h"
#include "costmodel/breakdown.h"
#include "costmodel/collective.h"
#include "costmodel/moe.h"
#include "costmodel/op_query_rows.h"
#include "costmodel/op_table.h"
#include "costmodel/ops/common.h"
#include "costmodel/weight_format.h"

namespace orrery {

namespace {

constexpr Collective collectives[] = {Collective::all_reduce, Collective::all_gather,
                                      Collective::reduce_scatter, Collective::all_to_all,
                                      Collective::send_recv};

Status require_positive(std::int64_t value, const char* field) {
  if (value > 0) return ok_status();
  return invalid_input("must be a whole number of at least 1", {}, field);
}

Result<WeightFormat> usable_format(const OpQuery& query, const Roofline& roofline) {
  ORRERY_TRY(format, named_weight_format(query.dtype, roofline));
  if (!roofline.has_math(format.math) || !roofline.has(roofline.gemm_class(format))) {
    return invalid_input("this part has no matrix rate or efficiency for " + query.dtype, {}, "dtype");
  }
  return format;
}

OpPrice finish(const OpCost& cost, double class_error) {
  OpPrice price;
  const double error = cost.error > 0 ? cost.error : class_error;
  price.rung = to_string(cost.rung);
  price.hit = to_string(cost.hit);
  price.cost = cost;
  price.ns = round_half_even(cost.ns());
  price.low_ns = round_half_even(cost.ns() / interval_factor(error));
  price.high_ns = round_half_even(cost.ns() * interval_factor(error));
  return price;
}

OpPrice run(const OperatorEntry& entry, const OpSpec& spec, const StepInput& input,
            const Roofline& roofline) {
  const auto op = entry.make(spec, roofline);
  return finish(op->cost(input), roofline.error(op->kernel_class()));
}

// Of a product: its width, its depth and its format.
Result<OpSpec> product_of(const OpQuery& query, const Roofline& roofline) {
  ORRERY_TRY_STATUS(require_positive(query.n, "n"));
  ORRERY_TRY_STATUS(require_positive(query.k, "k"));
  ORRERY_TRY(format, usable_format(query, roofline));
  OpSpec spec;
  spec.n = query.n;
  spec.k = query.k;
  spec.format = format;
  return spec;
}

Result<OpPrice> price_gemm(const OpQuery& query, const Roofline& roofline) {
  ORRERY_TRY_STATUS(require_positive(query.m, "m"));
  ORRERY_TRY(spec, product_of(query, roofline));
  return run(*find_operator("gemm"), spec, {query.m, 0, nullptr, 0}, roofline);
}

Result<OpPrice> price_grouped_gemm(const OpQuery& query, const Roofline& roofline) {
  ORRERY_TRY(spec, product_of(query, roofline));
  OpCost best;
  double rows = 0, distinct = 0;
  for (const std::int64_t count : query.rows) {
    rows += static_cast<double>(std::max<std::int64_t>(0, count));
    distinct += count > 0 ? 1 : 0;
  }
  // The number of tokens, by which engines choose the row block, is not given: take the faster block.
  static constexpr std::array<std::int64_t, 2> by_tokens{16, 64};
  const std::span<const std::int64_t> blocks = spec.format.label == "w4a8"
                                                   ? std::span<const std::int64_t>(swapped_blocks)
                                                   : std::span<const std::int64_t>(by_tokens);
  for (const std::int64_t block : blocks) {
    GroupedRows grouped;
    grouped.block_rows = block;
    for (const std::int64_t in_group : query.rows) {
      if (in_group < 0) return invalid_input("rows per expert cannot be negative", {}, "rows");
      if (in_group == 0) continue;
      grouped.rows += static_cast<double>(in_group);
      grouped.distinct += 1;
      grouped.row_tiles += static_cast<double>((in_group + block - 1) / block);
    }
    if (grouped.rows == 0) return invalid_input("needs at least one row", {}, "rows");
    const OpCost cost = grouped_gemm_cost(roofline, spec, grouped);
    if (best.ns() == 0 || cost.ns() < best.ns()) best = cost;
  }
  if (const KernelSet* kernels = roofline.kernels()) {
    if (const auto fitted = kernels->grouped_gemm(query.dtype, query.n, query.k, distinct)) {
      const double bound = gemm_bound_ns(roofline.rates(), query.dtype, rows / distinct,
                                         static_cast<double>(query.n), static_cast<double>(query.k));
      price_from_table(best, *kernels, "grouped_gemm", query.dtype, *fitted, rows / distinct,
                       bound * distinct);
    }
  }
  return finish(best, roofline.error(roofline.grouped_class(spec.format)));
}

Result<OpPrice> price_attention(const OpQuery& query, const Roofline& roofline) {
  ORRERY_TRY_STATUS(require_positive(query.heads, "heads"));
  ORRERY_TRY_STATUS(require_positive(query.kv_heads, "kv_heads"));
  ORRERY_TRY_STATUS(require_positive(query.head_dim, "head_dim"));
  if (query.heads % query.kv_heads != 0) return invalid_input("must divide heads", {}, "kv_heads");
  const std::vector<std::string> types{"bf16", "fp16", "fp8"};
  const std::string stored = query.kv_dtype == "auto" ? query.dtype : query.kv_dtype;
  for (const std::string& type : {query.dtype, stored}) {
    if (std::find(types.begin(), types.end(), type) != types.end()) continue;
    return invalid_input(
        "unknown type " + quote(type) + did_you_mean(type, types) + "; use bf16, fp16 or fp8", {}, "dtype");
  }
  OpSpec spec;
  spec.heads = query.heads;
  spec.kv_heads = query.kv_heads;
  spec.head_dim = query.head_dim;
  spec.kv_bytes = stored == "fp8" ? 1 : 2;
  spec.format.math = query.dtype == "fp8" ? DType::fp8 : query.dtype == "fp16" ? DType::fp16 : DType::bf16;
  if (!roofline.has_math(spec.format.math)) {
    return invalid_input("this part has no matrix rate for " + query.dtype, {}, "dtype");
  }
  StepShape shape;
  if (query.op == "attention_prefill") {
    if (query.sequences.empty()) return invalid_input("needs at least one sequence", {}, "sequences");
    for (const PrefillChunk& chunk : query.sequences) {
      if (chunk.new_tokens < 1 || chunk.context < 0) {
        return invalid_input("each is [new tokens ≥ 1, context ≥ 0]", {}, "sequences");
      }
    }
    shape.prefill = query.sequences;
  } else {
    ORRERY_TRY_STATUS(require_positive(query.batch, "batch"));
    if (query.context_sum < query.batch)
      return invalid_input("each sequence has a context of at least 1", {}, "context");
    shape.decode_sequences = query.batch;
    // In a step the new token sees its own key too; here `context` counts all keys.
    shape.decode_context_tokens = query.context_sum - query.batch;
  }
  return run(*find_operator(query.op), spec, {0, 0, &shape, 0}, roofline);
}

Result<OpPrice> price_collective(Collective collective, const OpQuery& query, const Roofline& roofline) {
  if (query.ranks < 2) return invalid_input("must be at least 2", {}, "ranks");
  if (!(query.bytes > 0)) return invalid_input("must be positive", {}, "bytes");
  if (!roofline.has_link()) return invalid_input("this part has no link figures", {}, "op");
  OpCost cost = collective_cost(roofline, collective, query.bytes, query.ranks);
  if (const KernelSet* kernels = roofline.kernels()) {
    if (const auto fitted = kernels->collective(query.op, query.ranks)) {
      price_from_table(cost, *kernels, "collectives", "", *fitted, query.bytes,
                       query.bytes / roofline.rates().link);
    }
  }
  return finish(cost, roofline.error(KernelClass::collective));
}

Result<OpPrice> price_copy(const OpQuery& query, const Roofline& roofline) {
  if (!(query.bytes > 0)) return invalid_input("must be positive", {}, "bytes");
  OpCost cost;  // as many bytes are written as are read; nothing stays in a cache
  cost.bytes = 2 * query.bytes;
  cost.memory_ns = roofline.stream_ns(0, false, cost.bytes, KernelClass::memory);
  cost.latency_ns = roofline.kernel_floor_ns();
  if (const KernelSet* kernels = roofline.kernels()) {
    if (const auto fitted = kernels->copy())
      price_from_table(cost, *kernels, "copy", "", *fitted, query.bytes, cost.bytes / roofline.bandwidth());
  }
  return finish(cost, roofline.error(KernelClass::memory));
}

}  // namespace

const std::vector<std::string>& operator_queries() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> all{"gemm",       "grouped_gemm", "attention_prefill", "attention_decode",
                                 "all_reduce", "all_gather",   "reduce_scatter",    "all_to_all",
                                 "send_recv",  "copy"};
    all.insert(all.end(), row_wise_queries().begin(), row_wise_queries().end());
    return all;
  }();
  return names;
}

Result<OpPrice> price_operator(const OpQuery& query, const Roofline& roofline) {
  if (query.op == "gemm") return price_gemm(query, roofline);
  if (query.op == "grouped_gemm") return price_grouped_gemm(query, roofline);
  if (query.op == "attention_prefill" || query.op == "attention_decode")
    return price_attention(query, roofline);
  if (query.op == "copy") return price_copy(query, roofline);
  for (const Collective collective : collectives) {
    if (query.op == to_string(collective)) return price_collective(collective, query, roofline);
  }
  if (std::find(row_wise_queries().begin(), row_wise_queries().end(), query.op) != row_wise_queries().end()) {
    ORRERY_TRY(cost, row_wise_cost(query, roofline));
    return finish(cost, roofline.error(KernelClass::elementwise));
  }
  return invalid_input("unknown operator " + quote(query.op) + did_you_mean(query.op, operator_queries()) +
                           "; use one of " + join(operator_queries(), ", "),
                       {}, "op");
}

}  // namespace orrery

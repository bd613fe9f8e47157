// Shared by the operators: the pieces of a cost that most of them have.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <string>

#include "costmodel/operator.h"
#include "costmodel/roofline.h"

namespace orrery {

// The tokens of an operator over tokens: those of the step, or of a further pass of the drafting network,
// which runs over one of each sequence.
inline std::int64_t tokens_of(const OpSpec& spec, const StepInput& input) {
  return spec.depends_on == DependsOn::drafting ? input.drafting * spec.branches : input.tokens;
}

// What a step calls the rows of an operator.
inline std::int64_t rows_of(const OpSpec& spec, const StepInput& input) {
  const std::int64_t rows = spec.depends_on == DependsOn::rows       ? input.rows
                            : spec.depends_on == DependsOn::drafting ? input.drafting * spec.branches
                            : spec.own_rows                          ? input.own
                                                                     : input.tokens;
  if (!spec.expert_rows) return rows;
  if (input.load != nullptr) return round_half_even(input.load->rows);
  return (rows * spec.experts_per_token + spec.expert_ranks - 1) / spec.expert_ranks;  // its share, on
                                                                                       // average
}

// What carrying a timing to a relative adds to its deviation: the H200's published products, made from the
// H100's as tables are carried, are off by 3.3 to 6.1 % (median, by format and region of m).
constexpr double transport_error = 0.07;

// A correction comes from the steps of one run, and why it is needed is known in part only: half of it is
// taken as one standard deviation.
constexpr double correction_doubt = 0.5;

// Puts a table's time in place of the roofline's. `op` and `format` name the table's error, and what engines'
// steps say of it where `corrected_as` names nothing else.
inline void price_from_table(OpCost& cost, const KernelSet& set, const std::string& op,
                             const std::string& format, double utilisation, Hit hit, bool shape_known,
                             double x, double bound_ns, const std::string& corrected_as = {}) {
  if (bound_ns <= 0 || utilisation <= 0) return;
  const double correction = set.correction(corrected_as.empty() ? op : corrected_as, format, x);
  cost.table_ns = bound_ns / utilisation * correction;
  cost.rung = set.rung(op);
  const TableError error = set.error(op, format, x);
  cost.hit = shape_known || hit == Hit::extrapolated ? hit : Hit::interpolated;
  cost.error = shape_known ? error.points : error.shapes;
  if (hit == Hit::extrapolated) cost.error *= 2;  // nothing was measured there
  if (cost.rung == Rung::transported) cost.error += transport_error;
  const double doubt = correction_doubt * (correction - 1);
  if (cost.error > 0) cost.error = std::sqrt(cost.error * cost.error + doubt * doubt);
}

inline void price_from_table(OpCost& cost, const KernelSet& set, const std::string& op,
                             const std::string& format, const FittedCurve& fitted, double x,
                             double bound_ns) {
  price_from_table(cost, set, op, format, fitted.curve.at(x), fitted.curve.hit(x), fitted.shape_known, x,
                   bound_ns);
}

// Puts the time that a law of the engine's kernels gives in place of the roofline's.
inline void price_from_law(OpCost& cost, const KernelLaws& laws, const std::string& part, double ns,
                           double error) {
  cost.table_ns = ns;
  cost.hit = Hit::interpolated;
  cost.rung = part == laws.timed_on ? Rung::published : Rung::transported;
  cost.error = cost.rung == Rung::transported ? error + transport_error : error;
}

// Of a price that rests on another kernel's or shape's timings: the error of an extrapolation.
inline void not_its_own(OpCost& cost) {
  if (cost.hit == Hit::extrapolated) return;
  cost.hit = Hit::extrapolated;
  cost.error *= 2;
}

// Attention that no timing stands behind. The classes' efficiencies come from heads of 64 and 128 and from
// kernels of tables: other widths and other kernels have twice the class's error.
inline void widen_attention(OpCost& cost, const OpSpec& spec, double class_error) {
  if (cost.table_ns == 0 && (spec.other_kernel || (spec.head_dim != 64 && spec.head_dim != 128)))
    cost.error = 2 * class_error;
}

// Prompts with capped scores: a tanh beside every exp. An SM of Hopper takes head_dim / 1024 cycles for a
// score's products and 1/16 for each such function: from nothing, where the products hide it, to a fifth
// (head_dim 256) or a third (128). Nobody timed it; the middle is one standard deviation, and the price
// stays.
constexpr double softcap_doubt = 0.12;
inline void doubt_softcap(OpCost& cost, const OpSpec& spec, double class_error) {
  if (!spec.softcap) return;
  if (cost.table_ns > 0) not_its_own(cost);
  const double error = cost.error > 0 ? cost.error : class_error;
  cost.error = std::sqrt(error * error + softcap_doubt * softcap_doubt);
}

inline AttentionShape attention_shape(const OpSpec& spec) {
  return {spec.heads, spec.kv_heads, spec.head_dim, spec.window, spec.kv_bytes < 2 ? "fp8" : "bf16"};
}

// A window that no table has, if it is this wide, is priced from the full kernel's table at the keys that it
// leaves (the same kernel walks fewer tiles of keys), with the error of an extrapolation.
constexpr std::int64_t least_borrowing_window = 1024;

// A kernel that streams `per_row` bytes of activations and `hbm_per_row` bytes that must reach memory.
class StreamOperator : public Operator {
 public:
  StreamOperator(const OpSpec& spec, const Roofline& roofline, double per_row, double hbm_per_row = 0,
                 double launches = 1, const RowTable& table = {})
      : spec_(spec), roofline_(roofline), per_row_(per_row), hbm_per_row_(hbm_per_row), launches_(launches),
        width_(static_cast<double>(table.width)) {
    if (roofline.kernels() != nullptr && !table.name.empty() && table.width > 0)
      fitted_ = roofline.kernels()->row_wise(table);
  }

  OpCost cost(const StepInput& input) const override {
    const double rows = static_cast<double>(rows_of(spec_, input));
    const double activations = rows * per_row_;
    const bool cached = roofline_.stays_in_cache(activations);
    OpCost cost;
    cost.bytes = rows * hbm_per_row_ + (cached ? 0 : activations);
    cost.memory_ns = roofline_.stream_ns(activations, cached, rows * hbm_per_row_, KernelClass::elementwise);
    cost.latency_ns = roofline_.kernel_floor_ns() * launches_;
    if (fitted_) {
      price_from_table(cost, *roofline_.kernels(), "elementwise", "", *fitted_, rows,
                       rows * width_ / roofline_.rates().bandwidth);
      // Of a width that was timed with many rows only, few would take next to nothing.
      if (cost.hit == Hit::extrapolated) cost.table_ns = std::max(cost.table_ns, roofline_.kernel_floor_ns());
      if (spec_.relative) not_its_own(cost);
    }
    return cost;
  }

  KernelClass kernel_class() const override { return KernelClass::elementwise; }

  std::string shape_text(const StepInput& input) const override {
    return "rows=" + std::to_string(rows_of(spec_, input)) +
           " bytes/row=" + std::to_string(static_cast<std::int64_t>(per_row_ + hbm_per_row_));
  }

 private:
  OpSpec spec_;
  const Roofline& roofline_;
  double per_row_, hbm_per_row_, launches_, width_;
  std::optional<FittedCurve> fitted_;
};

}  // namespace orrery

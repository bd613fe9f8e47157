// Rows of a product, dense or of experts, as its cases know them, and the comparison of such a product.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/block_gemm.h"
#include "kernels/cases/matrix_operands.h"
#include "kernels/cases/parallel.h"

namespace orrery::kernels {

// Dense (m rows), rows of experts one after the other (rows), or in slots set aside for them (rows and
// slots).
class ExpertRowsOfCase {
 public:
  struct Used {
    std::int64_t row, expert;
  };

  explicit ExpertRowsOfCase(const CaseSpec& spec) : dense_(spec.rows.empty()), slots_(spec.slots) {
    const std::vector<std::int64_t> each = dense_ ? std::vector<std::int64_t>{spec.m} : spec.rows;
    offsets_.push_back(0);
    for (std::size_t e = 0; e < each.size(); ++e) {
      const std::int64_t first = slots_ > 0 ? static_cast<std::int64_t>(e) * slots_ : offsets_.back();
      for (std::int64_t r = 0; r < each[e]; ++r) used_.push_back({first + r, static_cast<std::int64_t>(e)});
      offsets_.push_back(static_cast<std::int32_t>(first + each[e]));
      counts_.push_back(static_cast<std::int32_t>(each[e]));
      busy_ += each[e] > 0;
    }
  }

  std::int64_t experts() const { return static_cast<std::int64_t>(counts_.size()); }
  std::int64_t rows() const { return slots_ > 0 ? experts() * slots_ : offsets_.back(); }  // that there are
  const std::vector<Used>& used() const { return used_; }
  std::int64_t busy() const { return busy_; }  // experts that have rows

  bool upload(DeviceMemory& memory) {  // false when there is no room
    offsets_there_ = upload_new(memory, offsets_.data(), offsets_.size() * 4);
    counts_there_ = upload_new(memory, counts_.data(), counts_.size() * 4);
    return offsets_there_ != nullptr && counts_there_ != nullptr;
  }
  void describe(BlockGemm& p) const {
    p.rows = static_cast<std::int32_t>(rows());
    if (!dense_) p.layout = slots_ > 0 ? BlockGemmExperts::masked : BlockGemmExperts::contiguous;
    p.experts = static_cast<std::int32_t>(experts());
    p.row_offsets = static_cast<const std::int32_t*>(offsets_there_);
    p.expert_rows = static_cast<const std::int32_t*>(counts_there_);
    p.slots = static_cast<std::int32_t>(slots_);
    const auto used = static_cast<std::int64_t>(used_.size());
    p.rows_each = static_cast<std::int32_t>(busy_ > 0 ? (used + busy_ - 1) / busy_ : 0);
  }

  // Slots that nobody uses keep the bytes that memory came with.
  void check_unused(DeviceMemory& memory, const Matrix& out, MatrixComparison& comparison) const {
    std::vector<std::uint16_t> row(static_cast<std::size_t>(out.columns));
    for (std::int64_t e = 0; slots_ > 0 && e < experts(); ++e) {
      const std::int64_t after = counts_[static_cast<std::size_t>(e)];
      if (after >= slots_) continue;
      const std::int64_t index = e * slots_ + after;
      memory.download(row.data(), static_cast<const std::uint16_t*>(out.data) + index * out.columns,
                      row.size() * 2);
      const bool untouched =
          std::all_of(row.begin(), row.end(), [](std::uint16_t bits) { return bits == 0xFFFF; });
      if (!untouched) comparison.fail("row " + std::to_string(index) + " is nobody's and was written");
    }
  }

 private:
  bool dense_;
  std::int64_t slots_, busy_ = 0;
  std::vector<std::int32_t> offsets_, counts_;
  std::vector<Used> used_;
  void *offsets_there_ = nullptr, *counts_there_ = nullptr;
};

// A sample of out against activations · weightsᵀ. `weights(places)` are rows of all experts' weights, read
// back and decoded; both scale(values, row or place) say what values are worth. `error`: of a sum, over
// Σ |a · b|.
template <class Weights, class ScaleRow, class ScaleWeights>
CheckResult compare_product(DeviceMemory& memory, const ExpertRowsOfCase& rows, const Matrix& activations,
                            const Matrix& out, std::uint64_t seed, double error, const Weights& weights,
                            const ScaleRow& scale_row, const ScaleWeights& scale_weights) {
  MatrixComparison comparison;
  const std::int64_t n = out.columns;
  const auto sampled = sample(static_cast<std::int64_t>(rows.used().size()), 128, seed);
  const std::int64_t count = std::max<std::int64_t>(1, static_cast<std::int64_t>(sampled.size()));
  const std::vector<std::int64_t> columns =
      sample(n, std::max<std::int64_t>((4095 + count) / count, 2), seed + 1);
  std::vector<std::int64_t> rows_read, places;  // places: rows of weights, one for each output compared
  for (const std::int64_t i : sampled) {
    const ExpertRowsOfCase::Used& used = rows.used()[static_cast<std::size_t>(i)];
    rows_read.push_back(used.row);
    for (const std::int64_t column : columns) places.push_back(used.expert * n + column);
  }
  const auto left = activations.some_rows(memory, rows_read);
  const auto actual = out.some_rows(memory, rows_read);
  const std::vector<std::vector<double>> right = weights(places);
  std::vector<DotProduct> expected(places.size());
  in_parallel(places.size(), [&](std::size_t i) {
    expected[i] = dot(scale_row(left[i / columns.size()], rows_read[i / columns.size()]),
                      scale_weights(right[i], places[i]));
  });
  for (std::size_t i = 0; i < places.size(); ++i) {
    const std::size_t row = i / columns.size();
    const std::int64_t column = columns[i % columns.size()];
    const double tolerance = bf16_rounding * std::abs(expected[i].value) + error * expected[i].magnitude;
    comparison.add(actual[row][static_cast<std::size_t>(column)], expected[i].value, tolerance,
                   "row " + std::to_string(rows_read[row]) + " (expert " + std::to_string(places[i] / n) +
                       "), column " + std::to_string(column));
  }
  rows.check_unused(memory, out, comparison);
  comparison.guards(memory);
  return comparison.result();
}

}  // namespace orrery::kernels

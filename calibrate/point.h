// One thing to measure: a kernel case, the row that its figure becomes, and where it stands in the order of
// worth. The columns of the tables are fixed here and nowhere else; costmodel reads the same columns.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "kernels/kernel_case.h"

namespace orrery::calibrate {

// A table of a hardware part: <name>.csv, its columns before the figures, and what follows them.
struct TableEntry {
  const char* name;     // "gemm"
  const char* columns;  // "dtype,m,n,k": what names a row
  const char* figures;  // "us,spread,kernel"
};
std::span<const TableEntry> table_entries();
const TableEntry* find_table(std::string_view name);  // null when there is none

struct Point {
  kernels::CaseSpec spec;
  std::string table;  // "gemm"
  std::string shape;  // the row's first columns: "bf16,64,6144,4096"
  double share = 0;   // of its step's roofline time, summed over models and weighted by their importance
  int round = 0;      // coarse first: see plan.h
  std::string key() const { return table + ":" + shape; }
};

// Table and row name of a case: collectives by bytes and ranks, copies by bytes, everything that is neither a
// matrix product nor attention as `elementwise`.
std::string table_of(const kernels::CaseSpec& spec);
std::string shape_of(const kernels::CaseSpec& spec);

// The reverse, for imports: a row's columns as text → case. Errors have no place (the caller knows the line).
Result<kernels::CaseSpec> spec_of(const std::string& table, const std::vector<std::string>& columns);

// Kernels that can do the case, as operators of kernels/case_table.h, the plain one first: an engine would
// take the fastest, so a table holds the fastest that the device has. cuDNN's counts for prompts without a
// context only, since it knows no block table here.
std::vector<std::string> forms_of(const kernels::CaseSpec& spec);

// "3 0 64x8": counts in order, a run of equal ones as length × value.
std::string rows_text(const std::vector<std::int64_t>& rows);
// "2048@0 4x512@4096": new tokens @ context before.
std::string sequences_text(const std::vector<std::pair<std::int64_t, std::int64_t>>& sequences);
Result<std::vector<std::int64_t>> parse_rows(const std::string& text);
Result<std::vector<std::pair<std::int64_t, std::int64_t>>> parse_sequences(const std::string& text);

bool is_collective(const std::string& op);
bool is_probe(const std::string& op);  // measured against bytes alone

// Bytes of operands that a model streams from memory in a launch: weights, or keys and values. Zero for
// operators whose operands were just written by the kernel before, and so are met warm.
double cold_bytes(const kernels::CaseSpec& spec);
double weight_bytes_per_parameter(const std::string& dtype);

}  // namespace orrery::calibrate

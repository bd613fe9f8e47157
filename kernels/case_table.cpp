#include "kernels/case_table.h"

#include <array>

namespace orrery::kernels {

namespace {

constexpr bool simulated = true;

constexpr std::array<CaseEntry, 1> table{{
    {"rms_norm", "RMSNorm of rows, bf16", simulated, make_rms_norm_case},
}};

}  // namespace

std::span<const CaseEntry> case_table() { return table; }

const CaseEntry* find_case(std::string_view op) {
  for (const CaseEntry& entry : table) {
    if (entry.op == op) return &entry;
  }
  return nullptr;
}

std::unique_ptr<KernelCase> make_case(const CaseSpec& spec, std::string& why) {
  const CaseEntry* entry = find_case(spec.op);
  if (entry != nullptr) return entry->make(spec, why);
  why = "no kernel for operator '" + spec.op + "'";
  return nullptr;
}

}  // namespace orrery::kernels

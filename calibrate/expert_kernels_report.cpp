// orrery-expert-kernels FILE.md: experts with weights of four bits beside those of eight and sixteen, and the
// fused forms around them beside their parts, on one card in one run.
//   --check   all of them against their references instead
#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "base/json.h"
#include "calibrate/kernel_bench.h"
#include "kernels/case_table.h"
#include "kernels/device.h"

namespace orrery::calibrate {

namespace {

using kernels::CaseSpec;

struct Layer {
  const char* name;
  std::int64_t experts, n, k;
};
constexpr Layer layers[] = {
    {"Qwen3-30B-A3B, gate and up", 128, 1536, 2048},
    {"Qwen3-30B-A3B, down", 128, 2048, 768},
    {"DeepSeek-V3, gate and up, 32 of 256", 32, 4096, 7168},
    {"DeepSeek-V3, down, 32 of 256", 32, 7168, 2048},
};
constexpr std::int64_t rows_each[] = {1, 8, 16, 32, 64, 128, 256};

struct Model {
  const char* name;
  std::int64_t experts, hidden, intermediate;
};
constexpr Model models[] = {{"Qwen3-30B-A3B", 128, 2048, 768}, {"DeepSeek-V3", 256, 7168, 2048}};
constexpr std::int64_t token_counts[] = {1, 16, 64, 256, 1024, 4096}, top_k = 8;

CaseSpec product(const char* op, const char* dtype, const Layer& l, std::int64_t each,
                 std::int64_t slots = 0) {
  CaseSpec s;
  s.op = op;
  s.dtype = dtype;
  s.n = l.n;
  s.k = l.k;
  s.rows.assign(static_cast<std::size_t>(l.experts), each);
  s.slots = slots;
  return s;
}
CaseSpec row_wise(const char* op, const char* dtype, std::int64_t m, std::int64_t n) {
  CaseSpec s;
  s.op = op;
  s.dtype = dtype;
  s.m = m;
  s.n = n;
  return s;
}
CaseSpec routed(const char* op, const char* dtype, std::int64_t m, const Model& model) {
  CaseSpec s = row_wise(op, dtype, m, model.hidden);
  s.experts = model.experts;
  s.top_k = top_k;
  s.block_size = 1;
  return s;
}

// --- check

std::vector<CaseSpec> check_specs() {
  std::vector<CaseSpec> specs;
  for (const char* op : {"grouped_gemm", "grouped_gemm_wgmma"}) {
    for (const char* dtype : {"w4a8", "w4a16"}) {
      for (const std::int64_t each : {3, 11, 27, 60, 150}) {
        for (const kernels::Fill fill : {kernels::Fill::random, kernels::Fill::saturating}) {
          CaseSpec s = product(op, dtype, {"", 5, 424, 640}, each, each == 27 ? 40 : 0);
          s.rows[1] = 0;
          s.rows[3] = 1;
          s.fill = fill;
          specs.push_back(s);
        }
      }
      specs.push_back(product(op, dtype, layers[1], 16));
    }
  }
  for (const char* dtype : {"fp8-block", "fp8-channel"}) {
    for (const std::int64_t m : {1, 77, 1000}) {
      specs.push_back(routed("permute_quantize", dtype, m, models[0]));
      specs.push_back(routed("permute_quantize", dtype, m, models[1]));
      specs.push_back(row_wise("silu_mul_quantize", dtype, m, 768));
      CaseSpec slotted = row_wise("silu_mul_quantize", dtype, 4 * m, 2048);
      slotted.rows = {m, 0, (m + 1) / 2, 1};
      slotted.slots = m;
      specs.push_back(slotted);
    }
  }
  return specs;
}

int check(kernels::Device& device) {
  CheckCount count;
  for (const CaseSpec& spec : check_specs())
    count.add(device, spec, spec.op + (spec.slots > 0 ? " in slots" : ""));
  return count.finish();
}

// --- report

void report_products(KernelBench& bench, std::FILE* out) {
  constexpr double reference_bytes = 1 << 30;
  const double rate = reference_bytes / std::max(bench.read_us(reference_bytes), 1e-9);  // bytes a µs
  std::fprintf(out,
               "## Products\n\nµs; all experts have the same number of rows. Streaming: int4 weights and "
               "their bf16 scales at the %s GB/s of a read of 1 GiB. Read: the `read` probe over just these "
               "bytes, with its launch and its tail. fp8 is `block_gemm_wgmma`, bf16 `grouped_gemm_wgmma`; a "
               "ratio above 1 says that four bits are faster. Plain: mma.sync on this card.\n\n",
               format_fixed(rate / 1e3, 0).c_str());
  table_row(out, {"layer", "experts × rows", "W4A8", "of streaming", "of read", "masked", "fp8", "fp8 ÷ W4A8",
                  "W4A16", "of streaming", "bf16", "bf16 ÷ W4A16", "W4A8, plain", "W4A16, plain"});
  table_row(out, {"---", "---",
                  "--:", "--:", "--:", "--:", "--:", "--:", "--:", "--:", "--:", "--:", "--:", "--:"});
  for (const Layer& l : layers) {
    const double bytes = static_cast<double>(l.experts * l.n * l.k) * (0.5 + 2.0 / 128),
                 streamed = bytes / rate;
    const double read = bench.read_us(bytes);
    for (const std::int64_t each : rows_each) {
      std::string why;
      const auto time = [&](const char* op, const char* dtype, std::int64_t slots) {
        return bench.time(product(op, dtype, l, each, slots), why);
      };
      const double w4a8 = time("grouped_gemm_wgmma", "w4a8", 0),
                   w4a16 = time("grouped_gemm_wgmma", "w4a16", 0);
      const double masked = time("grouped_gemm_wgmma", "w4a8", std::max<std::int64_t>(128, 2 * each));
      const double fp8 = time("block_gemm_wgmma", "fp8-block", 0),
                   bf16 = time("grouped_gemm_wgmma", "bf16", 0);
      const double plain8 = time("grouped_gemm", "w4a8", 0), plain16 = time("grouped_gemm", "w4a16", 0);
      table_row(out, {l.name, std::to_string(l.experts) + " × " + std::to_string(each), us_text(w4a8),
                      ratio_text(w4a8, streamed), ratio_text(w4a8, read), us_text(masked), us_text(fp8),
                      ratio_text(fp8, w4a8), us_text(w4a16), ratio_text(w4a16, streamed), us_text(bf16),
                      ratio_text(bf16, w4a16), us_text(plain8), us_text(plain16)});
    }
  }
}

// One kernel against the two that it stands for.
void fused_row(KernelBench& bench, std::FILE* out, const Model& model, std::int64_t tokens, const char* dtype,
               const CaseSpec& fused, const CaseSpec& first, const CaseSpec& second) {
  std::string why;
  const double ours = bench.time(fused, why), a = bench.time(first, why), b = bench.time(second, why);
  table_row(out, {model.name, fused.op + (fused.slots > 0 ? ", slots" : ""), dtype, std::to_string(tokens),
                  us_text(ours), us_text(a), us_text(b), a > 0 && b > 0 ? ratio_text(a + b, ours) : "–"});
}

void report_fused(KernelBench& bench, std::FILE* out) {
  std::fprintf(
      out,
      "\n## Fused forms\n\nµs, top 8 of all experts, operands warm. Permute and quantise: a token read "
      "once and written to its eight rows, against `moe_permute` (bf16 rows gathered) and `quantize`. "
      "SwiGLU and quantise: against `silu_mul` and `quantize` over the same rows; in slots: rows of 32 "
      "experts with 128 slots or as many as they need, against the parts over the rows in use.\n\n");
  table_row(out, {"model", "kernel", "scales", "tokens", "fused", "first part", "quantise", "parts ÷ fused"});
  table_row(out, {"---", "---", "---", "--:", "--:", "--:", "--:", "--:"});
  for (const Model& m : models) {
    for (const char* dtype : {"fp8-block", "fp8-channel"}) {
      for (const std::int64_t tokens : token_counts) {
        const std::int64_t rows = tokens * top_k;
        fused_row(bench, out, m, tokens, dtype, routed("permute_quantize", dtype, tokens, m),
                  routed("moe_permute", "bf16", tokens, m), row_wise("quantize", dtype, rows, m.hidden));
        const CaseSpec gate = row_wise("silu_mul", "bf16", rows, m.intermediate);
        const CaseSpec quantise = row_wise("quantize", dtype, rows, m.intermediate);
        fused_row(bench, out, m, tokens, dtype, row_wise("silu_mul_quantize", dtype, rows, m.intermediate),
                  gate, quantise);
        if (rows % 32 != 0) continue;
        CaseSpec slotted = row_wise("silu_mul_quantize", dtype, 0, m.intermediate);
        slotted.rows.assign(32, rows / 32);
        slotted.slots = std::max<std::int64_t>(128, rows / 32);
        slotted.m = 32 * slotted.slots;
        fused_row(bench, out, m, tokens, dtype, slotted, gate, quantise);
      }
    }
  }
}

int report(kernels::Device& device, const std::string& path) {
  std::FILE* out = std::fopen(path.c_str(), "w");
  if (out == nullptr) return 1;
  KernelBench bench(device, 0.05, 0.3, 1);
  const kernels::DeviceInfo& d = device.info();
  std::fprintf(
      out,
      "# Kernels of experts on the %s\n\nMade by `orrery-expert-kernels FILE.md` on %s: driver %s, %s. "
      "Medians of replayed graphs on random data, weights rotated over twice the last cache, "
      "activations warm.\n\n",
      d.name.c_str(), bench.timer().date().c_str(), d.driver.c_str(), d.runtime.c_str());
  report_products(bench, out);
  report_fused(bench, out);
  std::fprintf(out, "\nSM clock: %s MHz at rest, %s at the lowest after a point.\n",
               format_fixed(bench.highest_mhz(), 0).c_str(), format_fixed(bench.lowest_mhz(), 0).c_str());
  std::fclose(out);
  return 0;
}

int run(const std::vector<std::string>& words) {
  std::string why;
  auto devices = kernels::devices(why);
  if (devices.empty() || words.empty()) {
    std::fprintf(stderr, "orrery-expert-kernels FILE.md | --check: %s\n", why.c_str());
    return devices.empty() ? 6 : 2;
  }
  return words.front() == "--check" ? check(*devices.front()) : report(*devices.front(), words.front());
}

}  // namespace

}  // namespace orrery::calibrate

int main(int count, char** words) { return orrery::calibrate::run({words + 1, words + count}); }

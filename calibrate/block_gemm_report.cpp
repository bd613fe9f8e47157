// orrery-block-gemm FILE.md: our block-scaled products beside cuBLASLt's on one card, in one run.
//   --check          every tile of block_gemm_wgmma against the reference instead, and the plain form
//   --tune FILE.csv [SECONDS [ROWS ...]]  every tile that suits, timed, over shapes of models; a line each
// The report says what the chosen tiles do; what they were chosen from is what --tune writes.
#include <algorithm>
#include <array>
#include <cstdio>
#include <string>
#include <vector>

#include "base/json.h"
#include "calibrate/kernel_bench.h"
#include "kernels/block_gemm.h"
#include "kernels/case_table.h"

namespace orrery::calibrate {

namespace {

using kernels::BlockGemmTile;
using kernels::CaseSpec;

struct Layer {
  const char* name;
  std::int64_t n, k;
};
constexpr Layer layers[] = {
    {"Qwen3-8B, qkv", 6144, 4096},
    {"Qwen3-8B, o", 4096, 4096},
    {"Qwen3-8B, gate and up", 24576, 4096},
    {"Qwen3-8B, down", 4096, 12288},
    {"Qwen3-32B, qkv", 10240, 5120},
    {"Qwen3-32B, gate and up", 51200, 5120},
    {"Qwen3-32B, down", 5120, 25600},
    {"DeepSeek-V3, q_a and kv_a", 2112, 7168},
    {"DeepSeek-V3, q_b", 24576, 1536},
    {"DeepSeek-V3, o", 7168, 16384},
    {"DeepSeek-V3, shared gate and up", 4096, 7168},
    {"DeepSeek-V3, shared down", 7168, 2048},
};
constexpr std::int64_t row_counts[] = {1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192};

struct Experts {
  const char* name;
  std::int64_t experts, n, k;
};
constexpr Experts expert_layers[] = {
    {"Qwen3-30B-A3B, gate and up", 128, 1536, 2048},
    {"Qwen3-30B-A3B, down", 128, 2048, 768},
    {"DeepSeek-V3, gate and up, 32 of 256", 32, 4096, 7168},
    {"DeepSeek-V3, down, 32 of 256", 32, 7168, 2048},
};
constexpr std::int64_t expert_rows_each[] = {1, 4, 8, 16, 32, 64, 128, 256, 512};

CaseSpec dense(const char* op, const char* dtype, std::int64_t m, std::int64_t n, std::int64_t k) {
  CaseSpec s;
  s.op = op;
  s.dtype = dtype;
  s.m = m;
  s.n = n;
  s.k = k;
  return s;
}
CaseSpec grouped(const char* op, const Experts& e, std::int64_t each, std::int64_t slots = 0) {
  CaseSpec s = dense(op, "fp8-block", 0, e.n, e.k);
  s.rows.assign(static_cast<std::size_t>(e.experts), each);
  s.slots = slots;
  return s;
}

std::string tile_text(const BlockGemmTile& t) {
  const char* shared[] = {"", ", weights shared", ", activations shared"};
  return std::to_string(t.rows) + "×" + std::to_string(t.columns) + (t.swapped ? " swapped" : "") + ", " +
         std::to_string(t.stages) + " stages" + shared[static_cast<int>(t.shared)] +
         (t.splits > 1 ? ", k in " + std::to_string(t.splits) : "") +
         (t.blocks > 1 ? ", " + std::to_string(t.blocks) + " blocks each" : "");
}

// --- check

std::vector<CaseSpec> check_specs(const char* op) {
  std::vector<CaseSpec> specs;
  for (const char* dtype : {"fp8-block", "fp8-channel"}) {
    for (const auto& [m, n, k] :
         std::vector<std::array<std::int64_t, 3>>{{1, 4096, 512}, {70, 392, 656}, {515, 1160, 1024}}) {
      specs.push_back(dense(op, dtype, m, n, k));
    }
    CaseSpec experts = dense(op, dtype, 0, 424, 400);
    experts.rows = {3, 0, 130, 64, 1, 0, 257};
    specs.push_back(experts);
    experts.slots = 300;
    specs.push_back(experts);
  }
  return specs;
}

int check(kernels::Device& device) {
  CheckCount count;
  const auto tiles = kernels::block_gemm_tiles();
  for (std::size_t i = 0; i < tiles.size(); ++i) {
    const bool few = i > 0 && tiles[i - 1].rows == tiles[i].rows && tiles[i].stages > 3 &&
                     i + 3 < tiles.size() && tiles[i + 3].stages > tiles[i].stages;  // fewest and most
                                                                                     // stages of an extent
    if (few) continue;
    for (CaseSpec spec : check_specs("block_gemm_wgmma")) {
      spec.variant = static_cast<std::int32_t>(i);
      count.add(device, spec, tile_text(tiles[i]));
      if (count.failed() > 12) return count.finish();
    }
  }
  for (const char* op : {"block_gemm", "block_gemm_wgmma"}) {
    for (const CaseSpec& spec : check_specs(op)) count.add(device, spec, op);
  }
  return count.finish();
}

// --- tune

bool suits(const BlockGemmTile& t, std::int64_t rows, std::int64_t most_stages) {
  if (t.swapped)
    return t.rows < 2 * std::max<std::int64_t>(rows, 9) && rows <= 2 * t.rows &&
           (t.stages == 4 || t.stages == 8 || t.stages == most_stages || t.splits > 1 || t.blocks > 1);
  return rows > 32 && t.rows < 2 * rows && (t.stages + 1 >= most_stages || t.splits > 1);
}

void tune_one(KernelBench& bench, CaseSpec spec, std::int64_t each, std::FILE* out) {
  const auto tiles = kernels::block_gemm_tiles();
  std::vector<std::pair<double, std::string>> found;
  for (std::size_t i = 0; i < tiles.size(); ++i) {
    std::int32_t most = 0;
    for (const BlockGemmTile& t : tiles) {
      if (t.rows == tiles[i].rows && t.columns == tiles[i].columns && t.swapped == tiles[i].swapped)
        most = std::max(most, t.stages);
    }
    if (!suits(tiles[i], each, most)) continue;
    spec.variant = static_cast<std::int32_t>(i);
    std::string why;
    const double us = bench.time(spec, why);
    if (us > 0) found.push_back({us, tile_text(tiles[i])});
  }
  spec.variant = -1;
  std::string why;
  const double own = bench.time(spec, why);
  std::sort(found.begin(), found.end());
  for (const auto& [us, text] : found)
    std::fprintf(out, "%s;%s;%.3f\n", shape_of(spec).c_str(), text.c_str(), us);
  std::printf("%s: own choice %.2f", shape_of(spec).c_str(), own);
  if (spec.rows.empty()) {
    CaseSpec theirs = spec;
    theirs.op = "gemm";
    const double block = bench.time(theirs, why);
    theirs.dtype = "fp8-tensor";
    std::printf(", cuBLASLt tensor %.2f, block %.2f", bench.time(theirs, why), block);
  }
  for (std::size_t i = 0; i < std::min<std::size_t>(found.size(), 4); ++i)
    std::printf(" | %s %.2f", found[i].second.c_str(), found[i].first);
  std::printf("\n");
  std::fflush(stdout);
}

int tune(KernelBench& bench, const std::string& path, double budget_s, std::vector<std::int64_t> rows) {
  std::FILE* out = std::fopen(path.c_str(), "w");
  if (out == nullptr) return 1;
  const double end = bench.timer().seconds() + budget_s;
  if (rows.empty()) rows = {4096, 8192, 1024, 1, 64, 256, 16, 2048, 128, 512, 32};
  for (const std::int64_t m : rows) {
    for (const Layer& layer : {layers[2], layers[3], layers[1], layers[9], layers[7], layers[6]}) {
      if (bench.timer().seconds() < end)
        tune_one(bench, dense("block_gemm_wgmma", "fp8-block", m, layer.n, layer.k), m, out);
    }
    for (const Experts& e : {expert_layers[0], expert_layers[2]}) {
      if (m <= 512 && bench.timer().seconds() < end)
        tune_one(bench, grouped("block_gemm_wgmma", e, m), m, out);
    }
  }
  std::fclose(out);
  return 0;
}

// --- report

double product(std::int64_t m, std::int64_t n, std::int64_t k) {
  return 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
}

void report_dense(KernelBench& bench, std::FILE* out) {
  std::fprintf(out, "## Dense\n\nµs. A ratio is the library's time over ours: above 1, ours is faster.\n\n");
  table_row(out, {"layer", "n × k", "m", "ours, block", "TFLOP/s", "cuBLASLt, tensor", "cuBLASLt, block",
                  "tensor ÷ ours", "block ÷ ours", "ours, channel", "cuBLASLt, channel"});
  table_row(out, {"---", "---", "--:", "--:", "--:", "--:", "--:", "--:", "--:", "--:", "--:"});
  for (const Layer& layer : layers) {
    for (const std::int64_t m : row_counts) {
      std::string why;
      const auto time = [&](const char* op, const char* dtype) {
        return bench.time(dense(op, dtype, m, layer.n, layer.k), why);
      };
      const double ours = time("block_gemm_wgmma", "fp8-block"), tensor = time("gemm", "fp8-tensor");
      const double block = time("gemm", "fp8-block");
      const double channel = time("block_gemm_wgmma", "fp8-channel"), theirs = time("gemm", "fp8-channel");
      table_row(
          out, {layer.name, std::to_string(layer.n) + " × " + std::to_string(layer.k), std::to_string(m),
                us_text(ours), rate_text(product(m, layer.n, layer.k), ours), us_text(tensor), us_text(block),
                ratio_text(tensor, ours), ratio_text(block, ours), us_text(channel), us_text(theirs)});
    }
  }
}

void report_experts(KernelBench& bench, std::FILE* out) {
  constexpr double reference_bytes = 1 << 30;
  const double rate = reference_bytes / std::max(bench.read_us(reference_bytes), 1e-9);  // bytes a µs
  std::fprintf(
      out,
      "\n## Experts\n\nAll experts have the same number of rows. Streaming: the experts' weights at "
      "the %s GB/s that the `read` probe reached over 1 GiB in this run; read: that probe over just as "
      "many bytes, with its launch and its tail. Dense: our own product of as many rows.\n\n",
      format_fixed(rate / 1e3, 0).c_str());
  table_row(out, {"layer", "experts × rows", "contiguous", "TFLOP/s", "of dense", "of streaming", "of read",
                  "masked", "grouped_gemm_wgmma"});
  table_row(out, {"---", "---", "--:", "--:", "--:", "--:", "--:", "--:", "--:"});
  for (const Experts& e : expert_layers) {
    const double bytes = static_cast<double>(e.experts * e.n * e.k), read = bench.read_us(bytes);
    for (const std::int64_t each : expert_rows_each) {
      std::string why;
      const std::int64_t rows = e.experts * each;
      const double flops = product(rows, e.n, e.k);
      const double ours = bench.time(grouped("block_gemm_wgmma", e, each), why);
      const double masked =
          bench.time(grouped("block_gemm_wgmma", e, each, std::max<std::int64_t>(128, 2 * each)), why);
      const double before = bench.time(grouped("grouped_gemm_wgmma", e, each), why);
      const double one = bench.time(dense("block_gemm_wgmma", "fp8-block", rows, e.n, e.k), why);
      table_row(out,
                {e.name, std::to_string(e.experts) + " × " + std::to_string(each), us_text(ours),
                 rate_text(flops, ours), one > 0 && ours > 0 ? format_fixed(100 * one / ours, 0) + " %" : "–",
                 ratio_text(ours, bytes / rate), ratio_text(ours, read), us_text(masked), us_text(before)});
    }
  }
}

int report(kernels::Device& device, KernelBench& bench, const std::string& path) {
  std::FILE* out = std::fopen(path.c_str(), "w");
  if (out == nullptr) return 1;
  report_head(device, bench.timer(), out, "FP8 products with block scales", "orrery-block-gemm",
              "weights rotated over twice the last cache, activations warm, each point after a rest of the "
              "clock, the better of two visits. cuBLASLt: the fastest of its four first candidates; block "
              "scales as it takes them (rows padded where it asks for that).");
  report_dense(bench, out);
  report_experts(bench, out);
  std::fprintf(out, "\nSM clock: %s MHz at rest, %s at the lowest after a point.\n",
               format_fixed(bench.highest_mhz(), 0).c_str(), format_fixed(bench.lowest_mhz(), 0).c_str());
  std::fclose(out);
  return 0;
}

int run(const std::vector<std::string>& words) {
  std::string why;
  auto devices = kernels::devices(why);
  if (devices.empty() || words.empty()) {
    std::fprintf(stderr, "orrery-block-gemm FILE.md | --check | --tune FILE.csv [SECONDS [ROWS ...]]: %s\n",
                 why.c_str());
    return devices.empty() ? 6 : 2;
  }
  kernels::Device& device = *devices.front();
  if (words.front() == "--check") return check(device);
  const bool tunes = words.front() == "--tune" && words.size() > 1;
  KernelBench bench(device, tunes ? 0.02 : 0.05, tunes ? 0.08 : 0.6, tunes ? 1 : 2);
  if (!tunes) return report(device, bench, words.front());
  std::vector<std::int64_t> rows;
  for (std::size_t i = 3; i < words.size(); ++i) rows.push_back(std::stoll(words[i]));
  return tune(bench, words[1], words.size() > 2 ? std::stod(words[2]) : 1e9, rows);
}

}  // namespace

}  // namespace orrery::calibrate

int main(int count, char** words) { return orrery::calibrate::run({words + 1, words + count}); }

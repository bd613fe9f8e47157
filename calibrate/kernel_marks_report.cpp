// orrery-kernel-marks FILE.md: how fast kernels are to be and are, on one card in one run: ours beside
// cuBLASLt and cuDNN, beside what the card reads and multiplies. More of each kind: orrery-block-gemm,
// orrery-expert-kernels, orrery-latent-attention, orrery-peer-kernels (two GPUs).
#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "base/json.h"
#include "calibrate/kernel_bench.h"
#include "kernels/case_table.h"

namespace orrery::calibrate {

namespace {

using kernels::CaseSpec;
using Rows = std::vector<std::vector<std::string>>;

struct Layer {
  const char* name;
  std::int64_t experts, n, k;
};
constexpr Layer dense_layers[] = {
    {"Qwen3-8B, qkv", 1, 6144, 4096},
    {"Qwen3-8B, o", 1, 4096, 4096},
    {"Qwen3-8B, gate and up", 1, 24576, 4096},
    {"Qwen3-8B, down", 1, 4096, 12288},
    {"Qwen3-32B, qkv", 1, 10240, 5120},
    {"Qwen3-32B, down", 1, 5120, 25600},
    {"DeepSeek-V3, q_a and kv_a", 1, 2112, 7168},
    {"DeepSeek-V3, q_b", 1, 24576, 1536},
    {"DeepSeek-V3, o", 1, 7168, 16384},
    {"DeepSeek-V3, shared gate and up", 1, 4096, 7168},
    {"DeepSeek-V3, shared down", 1, 7168, 2048},
};
constexpr Layer expert_layers[] = {
    {"Qwen3-30B-A3B, gate and up", 128, 1536, 2048},
    {"Qwen3-30B-A3B, down", 128, 2048, 768},
    {"DeepSeek-V3, gate and up, 32 of 256", 32, 4096, 7168},
    {"DeepSeek-V3, down, 32 of 256", 32, 7168, 2048},
};

CaseSpec product(const char* op, const char* dtype, const Layer& layer, std::int64_t m) {
  CaseSpec s;
  s.op = op;
  s.dtype = dtype;
  s.n = layer.n;
  s.k = layer.k;
  if (layer.experts > 1) {
    s.rows.assign(static_cast<std::size_t>(layer.experts), m);
  } else {
    s.m = m;
  }
  return s;
}

// One run: what it timed and what of it answers to a mark.
struct Run {
  KernelBench& bench;
  double read_rate = 0, product_rate = 0;  // bytes and bf16 operations a µs
  Rows marks;

  double time(const CaseSpec& spec) {
    std::string why;
    return bench.time(spec, why);
  }
  // Least and median of what was reached beside what is asked ("–": nothing is); `most`: asked is a limit, so
  // the largest.
  void mark(const std::string& what, const std::string& asked, std::vector<double> reached, double limit,
            bool most = false) {
    if (reached.empty()) {
      marks.push_back({what, asked, "not timed", "–", "–"});
      return;
    }
    std::sort(reached.begin(), reached.end());
    const auto met = std::count_if(reached.begin(), reached.end(),
                                   [&](double r) { return most ? r <= limit : r >= limit; });
    marks.push_back({what, asked, format_fixed(most ? reached.back() : reached.front(), 2),
                     format_fixed(reached[reached.size() / 2], 2),
                     asked == "–" ? asked : std::to_string(met) + " of " + std::to_string(reached.size())});
  }
};

void table(std::FILE* out, const char* title, const char* text, const std::vector<std::string>& header,
           const Rows& rows) {
  std::fprintf(out, "\n## %s\n\n%s\n\n", title, text);
  table_row(out, header);
  std::vector<std::string> rule(header.size(), "--:");
  rule.front() = "---";
  table_row(out, rule);
  for (const auto& row : rows) table_row(out, row);
}

double flops_of(const CaseSpec& spec) {
  std::string why;
  const auto kernel = kernels::make_case(spec, why);
  return kernel == nullptr ? 0 : kernel->flops();
}
double bytes_of(const CaseSpec& spec) {
  std::string why;
  const auto kernel = kernels::make_case(spec, why);
  return kernel == nullptr ? 0 : kernel->bytes();
}

Rows dense(Run& run) {
  Rows rows;
  std::vector<double> of_tensor, of_block;
  for (const Layer& layer : dense_layers) {
    for (const std::int64_t m : {1024, 2048, 4096, 8192}) {
      const CaseSpec spec = product("block_gemm_wgmma", "fp8-block", layer, m);
      const double ours = run.time(spec), flops = flops_of(spec);
      const double block = run.time(product("gemm", "fp8-block", layer, m));
      const double tensor = run.time(product("gemm", "fp8-tensor", layer, m));
      if (ours > 0 && tensor > 0 && m >= 2048) of_tensor.push_back(tensor / ours);
      if (ours > 0 && block > 0 && m >= 2048) of_block.push_back(block / ours);
      rows.push_back(
          {std::string(layer.name) + ", " + std::to_string(layer.n) + " × " + std::to_string(layer.k),
           std::to_string(m), us_text(ours), rate_text(flops, ours), us_text(block), us_text(tensor),
           ratio_text(block, ours), ratio_text(tensor, ours)});
    }
  }
  run.mark("FP8 block product from 2,048 rows on, of cuBLASLt's per-tensor FP8", "at least 0.85", of_tensor,
           0.85);
  run.mark("the same, of cuBLASLt's own block form", "above 1", of_block, 1);
  return rows;
}

Rows experts(Run& run) {
  Rows rows;
  std::vector<double> of_dense, of_streaming, early_of_streaming;
  for (const Layer& layer : expert_layers) {
    for (const std::int64_t each : {1, 4, 8, 16, 256}) {
      const CaseSpec spec = product("block_gemm_wgmma", "fp8-block", layer, each);
      const double ours = run.time(spec), flops = flops_of(spec);
      CaseSpec started_early = spec;
      started_early.early = true;
      const double early = each < 256 ? run.time(started_early) : 0;
      const double streaming = static_cast<double>(layer.experts * layer.n * layer.k) / run.read_rate;
      Layer one = layer;
      one.experts = 1;
      const double whole =
          each < 256 ? 0 : run.time(product("block_gemm_wgmma", "fp8-block", one, layer.experts * each));
      if (ours > 0 && each < 256) of_streaming.push_back(ours / streaming);
      if (early > 0) early_of_streaming.push_back(early / streaming);
      if (ours > 0 && whole > 0) of_dense.push_back(whole / ours);
      rows.push_back({layer.name, std::to_string(layer.experts) + " × " + std::to_string(each), us_text(ours),
                      rate_text(flops, ours), ratio_text(ours, streaming), us_text(early),
                      ratio_text(early, early > 0 ? streaming : 0), ratio_text(whole, ours)});
    }
  }
  run.mark("grouped product at 256 rows an expert, of the dense rate", "at least 0.80", of_dense, 0.8);
  run.mark("grouped product at 1 to 16 rows an expert, of streaming the weights", "at most 1.15",
           of_streaming, 1.15, true);
  run.mark("the same, started early behind one like it", "at most 1.15", early_of_streaming, 1.15, true);
  return rows;
}

std::vector<std::string> reading_row(Run& run, const CaseSpec& spec, std::vector<double>& of_read,
                                     std::vector<double>& of_bound) {
  const double us = run.time(spec), bytes = bytes_of(spec), flops = flops_of(spec);
  const double reading = bytes / run.read_rate, multiplying = flops / run.product_rate;
  if (us > 0) of_read.push_back(reading / us);
  if (us > 0) of_bound.push_back(std::max(reading, multiplying) / us);
  return {spec.kv_dtype,
          std::to_string(spec.heads),
          std::to_string(spec.contexts.size()),
          std::to_string(spec.contexts.front()),
          us_text(us),
          us > 0 ? format_fixed(bytes / us / 1e3, 0) : "–",
          ratio_text(reading, us),
          rate_text(flops, us),
          ratio_text(std::max(reading, multiplying), us),
          multiplying > reading ? "products" : "reading"};
}

Rows paged_decode(Run& run) {
  Rows rows;
  std::vector<double> plain, eight, unused, probe_plain, probe_eight;
  for (const char* kv : {"bf16", "fp8"}) {
    for (const auto& [batch, context] : std::vector<std::pair<std::int64_t, std::int64_t>>{
             {16, 2048}, {16, 8192}, {64, 2048}, {64, 8192}, {128, 2048}, {128, 8192}}) {
      CaseSpec s = decode_case("attention_decode", kv, 32, batch, context);
      s.kv_heads = 8;
      s.head_dim = 128;
      s.block_size = 16;
      const bool wide = std::string(kv) == "bf16";
      rows.push_back(reading_row(run, s, wide ? plain : eight, unused));
      const double probe = run.bench.read_us(bytes_of(s)), reading = bytes_of(s) / run.read_rate;
      if (probe > 0) (wide ? probe_plain : probe_eight).push_back(reading / probe);
      rows.back().push_back(us_text(probe));
      rows.back().push_back(ratio_text(reading, probe));
    }
  }
  run.mark("paged decode attention, bf16, of reading", "at least 0.85", plain, 0.85);
  run.mark("the `read` probe itself on as many bytes", "–", probe_plain, 0);
  run.mark("paged decode attention, FP8 cache", "at least 0.85", eight, 0.85);
  run.mark("the `read` probe itself on as many bytes", "–", probe_eight, 0);
  return rows;
}

Rows latent_decode(Run& run) {
  Rows rows;
  for (const char* kv : {"bf16", "fp8_ds_mla", "fp8"}) {
    for (const std::int64_t heads : {16, 64, 128}) {
      std::vector<double> of_read, of_bound;
      for (const auto& [batch, context] : std::vector<std::pair<std::int64_t, std::int64_t>>{
               {64, 8192}, {128, 2048}, {128, 8192}, {256, 8192}}) {
        rows.push_back(
            reading_row(run, decode_case("mla_decode_wgmma", kv, heads, batch, context), of_read, of_bound));
      }
      run.mark("MLA decode, " + std::string(kv) + ", " + std::to_string(heads) + " heads, of reading",
               "at least 0.75", of_read, 0.75);
      run.mark("the same, of the nearer bound", "–", of_bound, 0);
    }
  }
  return rows;
}

Rows prompts(Run& run) {
  Rows rows;
  for (const std::int64_t tokens : {1024, 4096, 8192}) {
    const auto of = [&](const char* op) {
      CaseSpec s;
      s.op = op;
      s.heads = 32;
      s.kv_heads = 8;
      s.head_dim = 128;
      s.block_size = 16;
      s.sequences = {{tokens, 0}};
      return s;
    };
    const double ours = run.time(of("attention_prefill_wgmma"));
    const double theirs = run.time(of("attention_prefill_cudnn"));
    rows.push_back({std::to_string(tokens), us_text(ours),
                    rate_text(flops_of(of("attention_prefill_wgmma")), ours), us_text(theirs),
                    ratio_text(theirs, ours)});
  }
  return rows;
}

int report(kernels::Device& device, const std::string& path) {
  std::FILE* out = std::fopen(path.c_str(), "w");
  if (out == nullptr) return 1;
  KernelBench bench(device, 0.05, 0.6, 2);
  Run run{bench, 0, 0, {}};
  const double bytes = 1 << 30;
  run.read_rate = bytes / std::max(bench.read_us(bytes), 1e-9);
  const Layer square{"", 1, 8192, 8192};
  run.product_rate =
      2.0 * 8192 * 8192 * 8192 / std::max(run.time(product("gemm", "bf16", square, 8192)), 1e-9);
  const Rows products = dense(run), grouped = experts(run), paged = paged_decode(run),
             latent = latent_decode(run), prefill = prompts(run);
  report_head(
      device, bench.timer(), out, "Kernels", "orrery-kernel-marks",
      "weights, KV and latents rotated over twice the last cache, activations and queries warm, each point "
      "after a rest of the clock, the better of two visits. cuBLASLt: the fastest of its four first "
      "candidates.");
  std::fprintf(
      out,
      "In this run the `read` probe reached %s GB/s over 1 GiB and cuBLASLt's bf16 product of 8192 × 8192 × "
      "8192 %s TFLOP/s.\n",
      format_fixed(run.read_rate / 1e3, 0).c_str(), format_fixed(run.product_rate / 1e6, 0).c_str());
  table(out, "What is asked, and what is reached",
        "Worst and median over the shapes below; how many meet the mark.",
        {"of", "asked", "worst", "median", "met"}, run.marks);
  table(out, "FP8 products with block scales, dense", "µs; a ratio is the library's time over ours.",
        {"layer", "m", "ours", "TFLOP/s", "cuBLASLt, block", "cuBLASLt, tensor", "block ÷ ours",
         "tensor ÷ ours"},
        products);
  table(
      out, "FP8 products with block scales, experts",
      "µs. Streaming: the experts' weights at the rate of the `read` probe. Dense: our own product of as "
      "many rows. Early: launched so that each may begin, and bring weights, while the launch in front, one "
      "like it, ends.",
      {"layer", "experts × rows", "ours", "TFLOP/s", "of streaming", "early", "of streaming", "of dense"},
      grouped);
  const std::vector<std::string> reading = {"cache", "heads",   "sequences", "context",      "µs",
                                            "GB/s",  "of read", "TFLOP/s",   "of the bound", "bound by"};
  std::vector<std::string> beside_probe = reading;
  beside_probe.insert(beside_probe.end(), {"probe, µs", "probe, of read"});
  table(out, "Paged decode attention, 8 KV heads of 128",
        "Blocks of 16 tokens. Probe: `read` over as many bytes, with its launch.", beside_probe, paged);
  table(out, "Latent decode", "Blocks of 64 tokens.", reading, latent);
  table(out, "Prompt attention, 32 and 8 heads of 128", "µs, one prompt.",
        {"tokens", "ours", "TFLOP/s", "cuDNN", "cuDNN ÷ ours"}, prefill);
  std::fclose(out);
  return 0;
}

}  // namespace

}  // namespace orrery::calibrate

int main(int count, char** words) {
  std::string why;
  auto devices = orrery::kernels::devices(why);
  if (devices.empty() || count != 2) {
    std::fprintf(stderr, "orrery-kernel-marks FILE.md: %s\n", why.c_str());
    return devices.empty() ? 6 : 2;
  }
  return orrery::calibrate::report(*devices.front(), words[1]);
}

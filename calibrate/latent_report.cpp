// orrery-latent-attention FILE.md: our latent and sparse attention on one card, beside what the card reads
// and multiplies in the same run.
//   --check [SECONDS]  every operator of it over the adversarial shapes, against the references, instead
#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "base/json.h"
#include "calibrate/check.h"
#include "calibrate/kernel_bench.h"
#include "kernels/case_table.h"

namespace orrery::calibrate {

namespace {

using kernels::CaseSpec;

constexpr const char* operators[] = {"mla_decode_wgmma",
                                     "mla_sparse_decode_wgmma",
                                     "mla_prefill_wgmma",
                                     "mla_decode",
                                     "mla_sparse_decode",
                                     "mla_prefill",
                                     "index_scores",
                                     "index_topk",
                                     "attention_decode_vectorised",
                                     "kv_write_vectorised"};

int check(kernels::Device& device, double seconds) {
  std::vector<kernels::CaseEntry> entries;
  for (const char* op : operators) {
    if (const kernels::CaseEntry* entry = kernels::find_case(op)) entries.push_back(*entry);
  }
  CheckTarget target{device.memory(), [&](const std::function<void(kernels::Stream)>& body,
                                          std::string& why) { return device.run(body, why); }};
  WallTimer timer;
  CheckOptions options;
  options.seconds = [&] { return timer.seconds(); };
  options.deadline = timer.seconds() + seconds;
  int told = 0;
  options.report = [&](const CheckOutcome& o) {
    if (o.state == CheckState::failed && told++ < 40) std::printf("%s\n", outcome_text(o).c_str());
  };
  options.operator_done = [](const OperatorSummary& o) {
    std::printf("%s\n", operator_text(o).c_str());
    std::fflush(stdout);
  };
  const CheckSummary summary = run_checks(entries, target, options);
  std::printf("%s\n", summary_text(summary).c_str());
  return summary.good() ? 0 : 1;
}

// Work of a launch, as its case counts it.
struct Work {
  double flops = 0, bytes = 0;
};
Work work_of(const CaseSpec& spec) {
  std::string why;
  const auto kernel = kernels::make_case(spec, why);
  return kernel == nullptr ? Work{} : Work{kernel->flops(), kernel->bytes()};
}

// What the card does in this run: reading, and a large product in bf16.
struct Rates {
  double bytes = 0, flops = 0;
};
Rates measure_rates(KernelBench& bench) {
  CaseSpec s;
  s.op = "gemm";
  s.m = s.n = s.k = 8192;
  std::string why;
  const double us = bench.time(s, why);
  const double read = bench.read_us(1 << 30);
  return {read > 0 ? (1 << 30) / read * 1e6 : 0, us > 0 ? 2.0 * 8192 * 8192 * 8192 / us * 1e6 : 0};
}

std::string percent(double part, double whole) {
  return part > 0 && whole > 0 ? format_fixed(100 * part / whole, 0) + " %" : "–";
}

// Time, rates, and the share of the nearer bound: reading once, or as many products as the card does in bf16.
std::vector<std::string> figures(const Work& work, double us, const Rates& rates) {
  const double reading = work.bytes / rates.bytes * 1e6, multiplying = work.flops / rates.flops * 1e6;
  const bool compute = multiplying > reading;
  return {us_text(us),
          us > 0 ? format_fixed(work.bytes / us / 1e3, 0) : "–",
          percent(reading, us),
          rate_text(work.flops, us),
          percent(std::max(reading, multiplying), us),
          compute ? "products" : "reading"};
}

void line(std::FILE* out, std::vector<std::string> cells, const std::vector<std::string>& rest) {
  cells.insert(cells.end(), rest.begin(), rest.end());
  table_row(out, cells);
}

void heading(std::FILE* out, const char* title, const std::vector<std::string>& of_shape) {
  std::fprintf(out, "\n## %s\n\n", title);
  line(out, of_shape, {"µs", "GB/s", "of read", "TFLOP/s", "of the bound", "bound by"});
  std::vector<std::string> rule(of_shape.size() + 5, "--:");
  rule.emplace_back("---");
  table_row(out, rule);
}

void report_decode(KernelBench& bench, const Rates& rates, std::FILE* out) {
  heading(out, "Decode, absorbed", {"cache", "heads", "sequences", "context"});
  for (const char* kv : {"bf16", "fp8_ds_mla", "fp8"}) {
    for (const std::int64_t heads : {16, 128}) {
      for (const std::int64_t batch : {1, 4, 16, 64, 128, 256}) {
        for (const std::int64_t context : {2048, 8192, 32768}) {
          const CaseSpec s = decode_case("mla_decode_wgmma", kv, heads, batch, context);
          std::string why;
          line(out, {kv, std::to_string(heads), std::to_string(batch), std::to_string(context)},
               figures(work_of(s), bench.time(s, why), rates));
        }
      }
    }
  }
}

void report_forms(KernelBench& bench, const Rates& rates, std::FILE* out) {
  heading(out, "Decode in other forms (128 sequences, context 8192)", {"form", "cache", "heads"});
  const auto at = [&](const char* text, CaseSpec s) {
    std::string why;
    line(out, {text, s.kv_dtype, std::to_string(s.heads)}, figures(work_of(s), bench.time(s, why), rates));
  };
  for (const std::int64_t heads : {16, 64, 128}) {
    at("wgmma, blocks of 64", decode_case("mla_decode_wgmma", "bf16", heads, 128, 8192));
    for (const std::int64_t block : {16, 1}) {
      CaseSpec s = decode_case("mla_decode_wgmma", "bf16", heads, 128, 8192);
      s.block_size = block;
      at(block == 16 ? "wgmma, blocks of 16" : "wgmma, blocks of 1 (row by row)", s);
    }
    for (const char* kv : {"bf16", "fp8_ds_mla"})
      at("mma.sync", decode_case("mla_decode", kv, heads, 128, 8192));
  }
}

void report_sparse(KernelBench& bench, const Rates& rates, std::FILE* out) {
  heading(out, "Sparse: 2,048 picks out of a context of 32,768", {"operator", "cache", "heads", "sequences"});
  for (const std::int64_t batch : {16, 64, 128}) {
    const auto at = [&](CaseSpec s, std::int64_t top_k) {
      s.top_k = top_k;
      std::string why;
      line(out, {s.op, s.kv_dtype, std::to_string(s.heads), std::to_string(batch)},
           figures(work_of(s), bench.time(s, why), rates));
    };
    for (const char* kv : {"bf16", "fp8_ds_mla"}) {
      for (const std::int64_t heads : {64, 128})
        at(decode_case("mla_sparse_decode_wgmma", kv, heads, batch, 32768), 2048);
    }
    at(decode_case("index_scores", "fp8", 64, batch, 32768), 0);
    at(decode_case("index_topk", "fp8", 64, batch, 32768), 2048);
  }
}

void report_prompts(KernelBench& bench, const Rates& rates, std::FILE* out) {
  heading(out, "Prompts, expanded: heads of 192 and 128", {"form", "heads", "new tokens", "after"});
  for (const auto& [added, context] :
       std::vector<std::pair<std::int64_t, std::int64_t>>{{512, 0}, {2048, 0}, {8192, 0}, {1024, 16384}}) {
    for (const std::int64_t heads : {16, 128}) {
      for (const char* op : {"mla_prefill_wgmma", "mla_prefill"}) {
        CaseSpec s;
        s.op = op;
        s.heads = heads;
        s.sequences = {{added, context}};
        std::string why;
        line(out,
             {s.op.ends_with("wgmma") ? "wgmma" : "mma.sync", std::to_string(heads), std::to_string(added),
              std::to_string(context)},
             figures(work_of(s), bench.time(s, why), rates));
      }
    }
  }
}

void report_layouts(KernelBench& bench, const Rates& rates, std::FILE* out) {
  heading(out, "The cache's layouts: 64 heads, 4 KV heads of 128, context 8192",
          {"layout", "cache", "sequences"});
  for (const char* kv : {"bf16", "fp8"}) {
    for (const std::int64_t batch : {1, 16, 128}) {
      for (const char* op : {"attention_decode", "attention_decode_vectorised"}) {
        CaseSpec s = decode_case(op, kv, 64, batch, 8192);
        s.kv_heads = 4;
        s.head_dim = 128;
        s.block_size = 16;
        std::string why;
        line(out, {s.op.ends_with("vectorised") ? "vectorised" : "plain", kv, std::to_string(batch)},
             figures(work_of(s), bench.time(s, why), rates));
      }
    }
  }
}

int report(kernels::Device& device, const std::string& path) {
  std::FILE* out = std::fopen(path.c_str(), "w");
  if (out == nullptr) return 1;
  KernelBench bench(device, 0.03, 0.2, 1);
  report_head(
      device, bench.timer(), out, "Latent and sparse attention", "orrery-latent-attention",
      "latents rotated over twice the last cache, queries warm, each point after a rest of the clock.");
  const Rates rates = measure_rates(bench);
  std::fprintf(
      out,
      "In the same run the `read` probe reached %s GB/s and cuBLASLt's bf16 product of 8192 × 8192 × "
      "8192 %s TFLOP/s. *Of read*: bytes that must be read once, at that rate, over the time. *Of the "
      "bound*: the longer of that and of the operations at the product's rate (e4m3 operands of the "
      "indexer multiply twice as fast). Fewer than 64 heads still multiply tiles of 64.\n",
      format_fixed(rates.bytes / 1e9, 0).c_str(), format_fixed(rates.flops / 1e12, 0).c_str());
  report_decode(bench, rates, out);
  report_forms(bench, rates, out);
  report_sparse(bench, rates, out);
  report_prompts(bench, rates, out);
  report_layouts(bench, rates, out);
  std::fprintf(out, "\nSM clock: %s MHz at rest, %s at the lowest after a point.\n",
               format_fixed(bench.highest_mhz(), 0).c_str(), format_fixed(bench.lowest_mhz(), 0).c_str());
  std::fclose(out);
  return 0;
}

int run(const std::vector<std::string>& words) {
  std::string why;
  auto devices = kernels::devices(why);
  if (devices.empty() || words.empty()) {
    std::fprintf(stderr, "orrery-latent-attention FILE.md | --check [SECONDS]: %s\n", why.c_str());
    return devices.empty() ? 6 : 2;
  }
  if (words.front() != "--check") return report(*devices.front(), words.front());
  return check(*devices.front(), words.size() > 1 ? std::stod(words[1]) : 1e9);
}

}  // namespace

}  // namespace orrery::calibrate

int main(int count, char** words) { return orrery::calibrate::run({words + 1, words + count}); }

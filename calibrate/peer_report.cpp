// orrery-peer-kernels FILE.md: our kernels between the GPUs of one node beside NCCL and the copy engines, in
// one run.
//   --check [OP …]   every case of several ranks against its reference instead
//   --sweep          all-reduces with other numbers of blocks
// Ranks: as many as the machine has GPUs, at most eight (2, 4, 8). A time is that of one call in a chain: the
// same call several times on every rank without waiting between, in a replayed graph or launched one by one.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "base/json.h"
#include "calibrate/check_shapes.h"
#include "calibrate/median.h"
#include "calibrate/point.h"
#include "calibrate/timer.h"
#include "kernels/case_table.h"
#include "kernels/cases/expert_routes.h"
#include "kernels/cases/peer_case.h"
#include "kernels/device.h"
#include "kernels/rank_group.h"

namespace orrery::calibrate {

namespace {

using kernels::CaseSpec;
using kernels::Collective;
using kernels::Stream;

struct Times {
  double graph_us = 0, eager_us = 0;  // 0: could not be timed
};

// Something that can be launched `times` in a row on every rank.
using Chain = std::function<void(int times, Stream)>;

class Bench {
 public:
  explicit Bench(kernels::Device& device) : device_(device) {}

  // Replays of a chain until 40 ms or 60 replays have gone by, and as many eager calls.
  Times time(const Chain& chain, double guess_us, std::string& why, bool graphs = true) {
    Times t;
    const int length = static_cast<int>(std::clamp(2000 / std::max(guess_us, 1.0), 1.0, 40.0));
    if (!device_.run([&](Stream s) { chain(2, s); }, why)) return t;
    if (graphs) {
      std::vector<double> ns;
      const int replays = static_cast<int>(std::clamp(40000 / (std::max(guess_us, 1.0) * length), 9.0, 60.0));
      if (!device_.time([&](int, Stream s) { chain(length, s); }, 1, replays, ns, why)) return t;
      t.graph_us = median_interval(ns).median / length / 1e3;
    }
    const int calls = static_cast<int>(std::clamp(20000 / std::max(guess_us, 10.0), 5.0, 400.0));
    const double begin = timer_.seconds();
    if (!device_.run([&](Stream s) { chain(calls, s); }, why)) return t;
    t.eager_us = (timer_.seconds() - begin) * 1e6 / calls;
    const kernels::Telemetry now = device_.telemetry();
    if (now.valid) mhz_.push_back(now.sm_clock_mhz);
    return t;
  }

  // A case of several ranks, checked once after it was timed.
  Times time(const CaseSpec& spec, std::string& why, bool graphs = true) {
    const auto made = kernels::make_case(spec, why);
    auto* kernel = dynamic_cast<kernels::ChainedCase*>(made.get());
    if (kernel == nullptr || !kernel->prepare(device_.memory(), 1, why)) {
      device_.memory().release_all();
      return {};
    }
    Times t = time([&](int times, Stream s) { kernel->launch_chain(0, times, s); }, guess(spec), why, graphs);
    if (!kernel->refusal().empty()) why = kernel->refusal(), t = {};
    if (t.eager_us > 0 && spec.bytes <= std::int64_t{1} << 22) check(*kernel, spec);
    device_.memory().release_all();
    return t;
  }

  // NCCL, `bytes` a rank in full.
  Times time_nccl(Collective what, std::int32_t ranks, std::int64_t bytes, std::string& why) {
    Times t;
    const auto group = kernels::make_rank_group(ranks, device_.info().index, why);
    if (group == nullptr) return t;
    std::vector<kernels::RankBuffers> buffers;
    for (std::int32_t r = 0; r < ranks; ++r) {
      kernels::DeviceMemory& memory = r == 0 ? device_.memory() : group->memory(r);
      void* send = memory.allocate(static_cast<std::size_t>(bytes));
      void* receive = memory.allocate(static_cast<std::size_t>(bytes));
      if (send == nullptr || receive == nullptr) return t;
      memory.fill(send, 0, static_cast<std::size_t>(bytes));
      buffers.push_back({send, receive});
    }
    if (group->synchronize(why)) {
      std::string refused;
      const auto chain = [&](int times, Stream s) {
        if (!group->launch(what, bytes / 2, buffers, s, refused, times)) why = refused;
      };
      t = time(chain, 10 + static_cast<double>(bytes) / 3e5, why);
      if (!refused.empty()) t = {};
    }
    static_cast<void>(group->synchronize(why));
    device_.memory().release_all();
    return t;
  }

  int failed() const { return failed_; }
  int checked() const { return checked_; }
  const std::vector<double>& mhz() const { return mhz_; }
  kernels::Device& device() { return device_; }
  WallTimer& timer() { return timer_; }

 private:
  static double guess(const CaseSpec& spec) {
    const double bytes = spec.bytes > 0
                             ? static_cast<double>(spec.bytes)
                             : static_cast<double>(spec.m * spec.n * std::max<std::int64_t>(spec.k, 1));
    return 8 + bytes / 3e5;
  }
  void check(kernels::KernelCase& kernel, const CaseSpec& spec) {
    const kernels::CheckResult result = kernel.check(device_.memory());
    ++checked_;
    if (result.passed) return;
    ++failed_;
    std::printf("FAILED %s %s: %s\n", spec.op.c_str(), shape_of(spec).c_str(), result.detail.c_str());
    std::fflush(stdout);
  }

  kernels::Device& device_;
  WallTimer timer_;
  int failed_ = 0, checked_ = 0;
  std::vector<double> mhz_;
};

std::string us_text(double us) { return us > 0 ? format_fixed(us, us < 100 ? 2 : 1) : "–"; }
std::string ratio_text(double a, double b) { return a > 0 && b > 0 ? format_fixed(a / b, 2) : "–"; }
// Bytes over microseconds as GB/s.
std::string rate_text(double bytes, double us) { return us > 0 ? format_fixed(bytes / us / 1e3, 0) : "–"; }

void row(std::FILE* out, const std::vector<std::string>& cells) {
  std::string line = "|";
  for (const std::string& cell : cells) line += " " + cell + " |";
  std::fprintf(out, "%s\n", line.c_str());
  std::fflush(out);
}
void head(std::FILE* out, const std::vector<std::string>& cells) {
  row(out, cells);
  std::vector<std::string> rule;
  for (std::size_t i = 0; i < cells.size(); ++i) rule.emplace_back(i == 0 ? "---" : "--:");
  row(out, rule);
}

std::string size_text(std::int64_t bytes) {
  if (bytes >= 1 << 20) return std::to_string(bytes >> 20) + " MiB";
  return std::to_string(bytes >> 10) + " KiB";
}

CaseSpec all_reduce(const char* op, std::int32_t ranks, std::int64_t bytes) {
  CaseSpec s;
  s.op = op;
  s.ranks = ranks;
  s.bytes = bytes;
  return s;
}
CaseSpec rows_of(const char* op, std::int32_t ranks, std::int64_t m, std::int64_t n,
                 const char* dtype = "bf16") {
  CaseSpec s;
  s.op = op;
  s.ranks = ranks;
  s.m = m;
  s.n = n;
  s.dtype = dtype;
  return s;
}

void report_all_reduce(Bench& bench, std::int32_t ranks, std::FILE* out) {
  std::fprintf(out,
               "## All-reduce\n\nbf16; µs in a graph, and launched one by one in brackets. Bus bandwidth is "
               "2 (n − 1) ÷ n "
               "of the bytes over the time in a graph, of the best of ours.\n\n");
  head(out, {"a rank", "one shot, lines", "one shot, flags", "two shots", "NCCL", "NCCL ÷ best", "GB/s, ours",
             "GB/s, NCCL"});
  const double share = 2.0 * (ranks - 1) / ranks;
  for (std::int64_t bytes = 1024; bytes <= std::int64_t{256} << 20; bytes *= 2) {
    if (bytes > 1 << 20 && (bytes & (std::int64_t{0x55555} << 20)) == 0) continue;  // every second one
    std::string why;
    const auto both = [](const Times& t) { return us_text(t.graph_us) + " (" + us_text(t.eager_us) + ")"; };
    const bool small = bytes <= 4 << 20;
    const Times lines = small ? bench.time(all_reduce("peer_all_reduce_lines", ranks, bytes), why) : Times{};
    const Times one = bench.time(all_reduce("peer_all_reduce_one_shot", ranks, bytes), why);
    const Times two = bench.time(all_reduce("peer_all_reduce_two_shot", ranks, bytes), why);
    const Times nccl = bench.time_nccl(Collective::all_reduce, ranks, bytes, why);
    double best = 0;
    for (const Times& t : {lines, one, two}) {
      if (t.graph_us > 0 && (best == 0 || t.graph_us < best)) best = t.graph_us;
    }
    const double moved = share * static_cast<double>(bytes);
    row(out, {size_text(bytes), both(lines), both(one), both(two), both(nccl),
              ratio_text(nccl.graph_us, best), rate_text(moved, best), rate_text(moved, nccl.graph_us)});
    if (!why.empty()) std::printf("%s: %s\n", size_text(bytes).c_str(), why.c_str());
  }
}

// The kernel that follows an all-reduce where nothing is fused, on one rank.
double alone_us(Bench& bench, const CaseSpec& spec, std::string& why) {
  const auto kernel = kernels::make_case(spec, why);
  double us = 0;
  std::vector<double> ns;
  if (kernel != nullptr && kernel->prepare(bench.device().memory(), 1, why) &&
      bench.device().time([&](int, Stream s) { kernel->launch(0, s); }, 20, 20, ns, why)) {
    us = median_interval(ns).median / 1e3;
  }
  bench.device().memory().release_all();
  return us;
}

void report_fused(Bench& bench, std::int32_t ranks, std::FILE* out) {
  std::fprintf(out,
               "\n## All-reduce, residual, norm and quantisation\n\nµs in a graph. Parts: NCCL's or our best "
               "all-reduce, "
               "then `add_rms_norm` or `add_rms_norm_quantize` on its own. Case C1 reports 35 → 21 µs for "
               "the fused form "
               "on eight MI300X.\n\n");
  head(out, {"rows × columns, output", "fused, lines", "fused, flags", "our all-reduce", "NCCL", "norm",
             "parts, ours ÷ fused", "parts, NCCL ÷ fused"});
  for (const std::int64_t n : {std::int64_t{4096}, std::int64_t{7168}}) {
    for (const std::int64_t m : {1, 8, 32, 64, 128, 512, 2048}) {
      for (const char* dtype : {"bf16", "fp8-channel", "fp8-block"}) {
        const bool quantised = std::string(dtype) != "bf16";
        if (quantised && m != 8 && m != 64 && m != 512) continue;
        std::string why;
        CaseSpec spec =
            rows_of(quantised ? "peer_reduce_norm_quantize" : "peer_reduce_norm", ranks, m, n, dtype);
        spec.variant = 1;
        const double lines = bench.time(spec, why).graph_us;
        spec.variant = 0;
        const double flags = bench.time(spec, why).graph_us;
        double ours = 0;
        for (const char* op :
             {"peer_all_reduce_lines", "peer_all_reduce_one_shot", "peer_all_reduce_two_shot"}) {
          const double us = bench.time(all_reduce(op, ranks, 2 * m * n), why).graph_us;
          if (us > 0 && (ours == 0 || us < ours)) ours = us;
        }
        const double nccl = bench.time_nccl(Collective::all_reduce, ranks, 2 * m * n, why).graph_us;
        const double norm = alone_us(
            bench, rows_of(quantised ? "add_rms_norm_quantize" : "add_rms_norm", 1, m, n, dtype), why);
        const double best = lines > 0 && lines < flags ? lines : flags;
        row(out, {std::to_string(m) + " × " + std::to_string(n) + ", " + dtype, us_text(lines),
                  us_text(flags), us_text(ours), us_text(nccl), us_text(norm), ratio_text(ours + norm, best),
                  ratio_text(nccl + norm, best)});
      }
    }
  }
}

// Rows that a rank sends to others, in the mean: one for every other rank that holds an expert of a token's.
double rows_away(const CaseSpec& spec) {
  const kernels::ExpertRoutes routes(spec);
  std::int64_t away = 0;
  for (std::int32_t owner = 0; owner < spec.ranks; ++owner) {
    for (const kernels::ExpertRoute& route : routes.of_owner(owner)) away += route.rank != owner ? 1 : 0;
  }
  return static_cast<double>(away) / spec.ranks;
}

void report_experts(Bench& bench, std::int32_t ranks, std::FILE* out) {
  std::fprintf(out,
               "\n## Experts' rows\n\nµs in a graph, every rank with as many tokens, experts chosen at "
               "random. Slots: e4m3 rows with "
               "scales there, bf16 back. Rows: bf16 both ways, a row a rank. NCCL: an all-to-all of bf16 "
               "rows that a rank's "
               "tokens make, a row for every choice (what its peers take is as much as in the slots' "
               "combine) and a row for every rank; "
               "it moves rows only, without quantising, order, counts or sums. GB/s: what goes to other "
               "ranks, of dispatch and "
               "combine.\n\n");
  head(out, {"tokens, columns, experts, top k", "slots, dispatch", "slots, combine", "rows, dispatch",
             "rows, combine", "NCCL, a row a choice", "NCCL, a row a rank", "GB/s slots", "GB/s rows"});
  struct Layer {
    std::int64_t columns, experts, top_k;
  };
  for (const Layer& layer : {Layer{7168, 256, 8}, Layer{2048, 128, 8}}) {
    for (const std::int64_t m : {1, 8, 32, 128, 512, 2048, 4096}) {
      std::string why;
      const auto time = [&](const char* op) {
        CaseSpec s = rows_of(op, ranks, m, layer.columns);
        s.experts = layer.experts;
        s.top_k = layer.top_k;
        return bench.time(s, why);
      };
      const bool slots = m <= 128;
      const double send = slots ? time("expert_dispatch_slots").graph_us : 0;
      const double back = slots ? time("expert_combine_slots").graph_us : 0;
      const double send_rows = time("expert_dispatch_rows").graph_us,
                   back_rows = time("expert_combine_rows").graph_us;
      const auto nccl = [&](std::int64_t rows) {
        const std::int64_t bytes = (2 * m * rows * layer.columns + 2 * ranks - 1) / (2 * ranks) * (2 * ranks);
        return bench.time_nccl(Collective::all_to_all, ranks, bytes, why).graph_us;
      };
      const double away = static_cast<double>(m * layer.top_k) * (ranks - 1) / ranks;
      const double slot_bytes = away * (3.03 * static_cast<double>(layer.columns));
      CaseSpec routed = rows_of("expert_dispatch_rows", ranks, m, layer.columns);
      routed.experts = layer.experts;
      routed.top_k = layer.top_k;
      const double row_bytes = rows_away(routed) * static_cast<double>(4 * layer.columns);
      row(out, {std::to_string(m) + ", " + std::to_string(layer.columns) + ", " +
                    std::to_string(layer.experts) + ", " + std::to_string(layer.top_k),
                us_text(send), us_text(back), us_text(send_rows), us_text(back_rows),
                us_text(nccl(layer.top_k)), us_text(nccl(ranks)), rate_text(slot_bytes, send + back),
                rate_text(row_bytes, send_rows + back_rows)});
      if (!why.empty()) std::printf("experts %lld: %s\n", static_cast<long long>(m), why.c_str());
    }
  }
}

void report_transfer(Bench& bench, std::FILE* out) {
  std::fprintf(out,
               "\n## KV blocks to a peer\n\nGB/s of a transfer of scattered blocks (µs in brackets): kernels "
               "in a graph and "
               "launched one by one, copies one by one only. NCCL: `send_recv` of as many bytes in one "
               "piece, in a graph.\n\n");
  head(out, {"blocks × bytes × layers", "kernel, in a graph", "kernel", "a kernel a layer, in a graph",
             "a kernel a layer", "a copy a block", "one batch of copies", "NCCL, one piece"});
  struct Shape {
    std::int64_t blocks, bytes, layers;
  };
  // Blocks of 16 tokens of 1, 4 and 8 KV heads of 128 (bf16); 64 tokens of MLA's 576; long ones.
  for (const Shape& shape :
       {Shape{64, 4096, 1}, Shape{64, 4096, 64}, Shape{128, 16384, 64}, Shape{512, 16384, 64},
        Shape{128, 32768, 1}, Shape{128, 32768, 64}, Shape{64, 73728, 61}, Shape{32, 1048576, 8}}) {
    std::string why;
    const auto time = [&](const char* op, bool graphs) {
      CaseSpec s = rows_of(op, 2, shape.blocks, shape.bytes);
      s.k = shape.layers;
      return bench.time(s, why, graphs);
    };
    const std::int64_t all = shape.blocks * shape.bytes * shape.layers;
    const auto cell = [&](double us) {
      return us > 0 ? rate_text(static_cast<double>(all), us) + " (" + us_text(us) + ")" : std::string("–");
    };
    const Times whole = time("kv_transfer", true);
    const Times layers = time("kv_transfer_layers", true);
    const Times copies = shape.blocks * shape.layers <= 8192 ? time("kv_transfer_copies", false) : Times{};
    const Times batch = shape.blocks * shape.layers <= 8192 ? time("kv_transfer_batch", false) : Times{};
    const Times piece = bench.time_nccl(Collective::send_recv, 2, all, why);
    row(out, {std::to_string(shape.blocks) + " × " + std::to_string(shape.bytes) + " × " +
                  std::to_string(shape.layers),
              cell(whole.graph_us), cell(whole.eager_us), cell(layers.graph_us), cell(layers.eager_us),
              cell(copies.eager_us), cell(batch.eager_us), cell(piece.graph_us)});
    if (!why.empty()) std::printf("transfer: %s\n", why.c_str());
  }
}

void report_head(Bench& bench, std::int32_t ranks, std::FILE* out) {
  const kernels::DeviceInfo& d = bench.device().info();
  std::fprintf(out, "# Kernels between %d GPUs of one node: %s\n\n", ranks, d.name.c_str());
  std::fprintf(out, "Made by `orrery-peer-kernels FILE.md` on %s: driver %s, %s",
               bench.timer().date().c_str(), d.driver.c_str(), d.runtime.c_str());
  for (const auto& [name, version] : bench.device().libraries())
    std::fprintf(out, ", %s %s", name.c_str(), version.c_str());
  std::fprintf(out,
               "; NVLink multicast off. One process, one thread that launches; peer access. A figure is the "
               "time of one call in a "
               "chain of up to 40 on every rank, forked once and joined once: the median of replays of a "
               "graph, or calls "
               "launched one by one by the clock of the host, which launches for all ranks in turn.\n\n");
}

int report(Bench& bench, std::int32_t ranks, const std::string& path) {
  std::FILE* out = std::fopen(path.c_str(), "w");
  if (out == nullptr) return 1;
  report_head(bench, ranks, out);
  report_all_reduce(bench, ranks, out);
  report_fused(bench, ranks, out);
  report_experts(bench, ranks, out);
  report_transfer(bench, out);
  double least = 0, most = 0;
  for (const double mhz : bench.mhz()) {
    least = least == 0 ? mhz : std::min(least, mhz);
    most = std::max(most, mhz);
  }
  std::fprintf(out,
               "\nSM clock after points: %s to %s MHz. Checked against their references after timing: %d of "
               "%d cases.\n",
               format_fixed(least, 0).c_str(), format_fixed(most, 0).c_str(),
               bench.checked() - bench.failed(), bench.checked());
  std::fclose(out);
  return bench.failed() > 0 ? 1 : 0;
}

// --- check

// Calls of the case and of another with other operands in turn, over the same words and slots: what a call
// before left is wrong. Empty when all is right.
std::string check_alternated(kernels::Device& device, CaseSpec spec) {
  std::string why, refused;
  std::unique_ptr<kernels::KernelCase> made[2];
  kernels::ChainedCase* each[2] = {};
  for (std::size_t i = 0; i < 2; ++i, ++spec.seed) {
    made[i] = kernels::make_case(spec, why);
    each[i] = dynamic_cast<kernels::ChainedCase*>(made[i].get());
    if (each[i] == nullptr || !each[i]->prepare(device.memory(), 1, why)) return why;
  }
  if (!each[1]->share_exchange(*each[0])) return "";
  if (!device.run([&](Stream s) { kernels::launch_alternated(*each[0], *each[1], s, refused); }, why))
    return why;
  for (kernels::ChainedCase* kernel : each) {
    const kernels::CheckResult result = kernel->check(device.memory());
    if (!result.passed && why.empty()) why = "alternated: " + result.detail;
  }
  return why + refused;
}

int check(Bench& bench, std::int32_t ranks, const std::vector<std::string>& ops) {
  int failed = 0, done = 0;
  kernels::Device& device = bench.device();
  for (const kernels::CaseEntry& entry : kernels::case_table()) {
    const std::string op = entry.op;
    if (!op.starts_with("peer_") && !op.starts_with("expert_") && !op.starts_with("kv_transfer")) continue;
    if (!ops.empty() && std::find(ops.begin(), ops.end(), op) == ops.end()) continue;
    const int before = done;
    for (CaseSpec spec : check_shapes(op)) {
      spec.ranks = ranks;
      for (const kernels::Fill fill : check_fills()) {
        spec.fill = fill;
        std::string why;
        const auto made = entry.make(spec, why);
        auto* kernel = dynamic_cast<kernels::ChainedCase*>(made.get());
        if (kernel == nullptr || (fill != kernels::Fill::random && kernel->bytes() > 4e6)) continue;
        ++done;
        bool good = kernel->prepare(device.memory(), 1, why) &&
                    device.run([&](Stream s) { kernel->launch_chain(0, 5, s); }, why);
        if (good) {
          const kernels::CheckResult result = kernel->check(device.memory());
          good = result.passed && kernel->refusal().empty();
          why = result.detail + kernel->refusal();
        }
        device.memory().release_all();
        if (good && fill == kernels::Fill::random) {
          why = check_alternated(device, spec);
          good = why.empty();
          device.memory().release_all();
        }
        if (good) continue;
        ++failed;
        std::printf("FAILED %s %s %s: %s\n", op.c_str(), shape_of(spec).c_str(), to_string(fill),
                    why.c_str());
      }
    }
    std::printf("%s: %d cases\n", op.c_str(), done - before);
    std::fflush(stdout);
  }
  std::printf("%d of %d checks failed\n", failed, done);
  return failed > 0 ? 1 : 0;
}

// --- sweep

int sweep(Bench& bench, std::int32_t ranks) {
  for (const std::int64_t bytes : {std::int64_t{16} << 10, std::int64_t{64} << 10, std::int64_t{256} << 10,
                                   std::int64_t{1} << 20, std::int64_t{8} << 20, std::int64_t{64} << 20}) {
    for (const char* op : {"peer_all_reduce_lines", "peer_all_reduce_one_shot", "peer_all_reduce_two_shot"}) {
      std::printf("%s %s:", size_text(bytes).c_str(), op);
      for (const std::int32_t blocks : {4, 8, 16, 32, 64, 96, 128}) {
        CaseSpec spec = all_reduce(op, ranks, bytes);
        spec.variant = blocks;
        std::string why;
        std::printf(" %d: %s", blocks, us_text(bench.time(spec, why).graph_us).c_str());
      }
      std::printf("\n");
      std::fflush(stdout);
    }
  }
  return 0;
}

int run(std::vector<std::string> words) {
  std::string why;
  auto devices = kernels::devices(why);
  const auto count = static_cast<std::int32_t>(devices.size());
  const std::int32_t ranks = count >= 8 ? 8 : count >= 4 ? 4 : 2;
  if (count < 2 || words.empty()) {
    std::fprintf(stderr, "orrery-peer-kernels FILE.md | --check [OP …] | --sweep: %s\n",
                 count < 2 ? ("two GPUs are needed; " + (why.empty() ? "there is one" : why)).c_str() : "");
    return count < 2 ? 6 : 2;
  }
  Bench bench(*devices.front());
  if (words.front() == "--check") return check(bench, ranks, {words.begin() + 1, words.end()});
  if (words.front() == "--sweep") return sweep(bench, ranks);
  return report(bench, ranks, words.front());
}

}  // namespace

}  // namespace orrery::calibrate

int main(int argc, char** argv) {
  // A kernel that waits for a peer must not keep the driver from loading the peer's.
  setenv("CUDA_MODULE_LOADING", "EAGER", 0);
  return orrery::calibrate::run({argv + 1, argv + argc});
}

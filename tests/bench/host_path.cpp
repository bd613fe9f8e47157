// orrery_host_path [SEQUENCES [wall]]: how long the live engine's host path takes a decode step: from the
// loop's turn until the step is handed over (updates of the step before, scheduling, KV blocks, rows and
// tables), over a device that does nothing. Prints one JSON object; docs/live.md has the target.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "base/statistics.h"
#include "live/kernel_run.h"

namespace {

using namespace orrery;

class IdleDevice final : public StepRunner {
 public:
  explicit IdleDevice(bool waits) : waits_(waits) {}
  bool run(const StepBatch& b, StepResult& result, std::string&) override {
    const auto from = std::chrono::steady_clock::now();
    std::int64_t sum = 0;  // reads what a device's inputs are made of
    for (const std::int32_t block : b.block_tables) sum += block;
    for (const std::int64_t slot : b.slots) sum += slot;
    result.work.flops[0] = static_cast<double>(sum);
    while (waits_ && std::chrono::steady_clock::now() - from < std::chrono::milliseconds(1)) {}
    result.sampled.assign(b.sampled_rows.size(), 1);
    result.device_ns = 1'000'000;
    return true;
  }

 private:
  bool waits_;
};

Result<Scenario> scenario_of(int sequences) {
  const std::string file =
      std::filesystem::temp_directory_path() / ("orrery-host-path-" + std::to_string(::getpid()) + ".yaml");
  std::ofstream(file) << "deployment:\n  hardware: h200\n  model: qwen3-0.6b\n  engine: orrery\n"
                         "  engine_args: {max_model_len: 8192, num_gpu_blocks_override: 20000, max_num_seqs: "
                      << std::max(256, sequences)
                      << "}\nworkload:\n  generator:\n    requests: " << 4 * sequences
                      << "\n    arrivals: {process: fixed, rate: 100000}\n    input: {distribution: fixed, "
                         "value: 256}\n    output: {distribution: fixed, value: 128}\n  closed_loop: "
                         "{concurrency: "
                      << sequences << "}\nseed: 1\n";
  auto scenario = load_scenario(file, {});
  std::filesystem::remove(file);
  return scenario;
}

}  // namespace

int main(int count, char** arguments) {
  const int sequences = count > 1 ? std::atoi(arguments[1]) : 256;
  if (sequences < 1 || sequences > 1024) {
    std::fprintf(stderr, "usage: orrery_host_path [SEQUENCES, 1 to 1024, [wall]]\n");
    return 2;
  }
  KernelRunOptions options;
  options.waits = count > 2 && std::string(arguments[2]) == "wall";
  options.make_device = [](const KernelDemand& d) -> Result<KernelDevice> {
    return KernelDevice{std::make_unique<IdleDevice>(d.waits), true, "idle"};
  };
  const auto scenario = scenario_of(sequences);
  const auto run = scenario.ok() ? run_on_kernels(*scenario, options) : Result<KernelRun>(scenario.errors());
  if (!run.ok()) {
    std::fprintf(stderr, "%s\n", to_string(run.errors()).c_str());
    return 1;
  }
  std::vector<double> us;
  for (const KernelStep& s : run->steps)
    if (s.chunks.empty() && s.shape.decode_sequences == sequences)
      us.push_back(static_cast<double>(s.host_ns) * 1e-3);
  if (us.empty()) return 1;
  std::sort(us.begin(), us.end());
  std::printf(
      "{\"sequences\": %d, \"steps\": %zu, \"host_us\": {\"p10\": %.2f, \"p50\": %.2f, \"p90\": %.2f}}\n",
      sequences, us.size(), linear_percentile(us, 10), linear_percentile(us, 50), linear_percentile(us, 90));
  return 0;
}

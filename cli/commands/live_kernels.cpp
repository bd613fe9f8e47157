#include "cli/commands/live_kernels.h"

#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <vector>

#include "base/digest.h"
#include "base/files.h"
#include "base/json.h"
#include "base/text.h"
#include "cli/console.h"
#include "cli/interrupt.h"
#include "cli/interval_runs.h"
#include "cli/version.h"
#include "costmodel/memory_plan.h"
#include "kernels/device.h"
#include "kernels/guarded_memory.h"
#include "kernels/peer_group.h"
#include "live/endpoint_comparison.h"
#include "live/forward/forward_mover.h"
#include "live/forward/forward_runner.h"
#include "live/kernel_profile.h"
#include "live/kernel_run.h"
#include "live/kernel_update.h"

namespace orrery {

namespace {

// Beside weights and KV: activations, libraries' workspaces, graphs.
constexpr double spare_bytes = 8.0 * (1 << 30);

Result<KernelDevice> device_with(const KernelDemand& d, const RankedForward::Options& ranks,
                                 kernels::DeviceMemory& memory, double bytes, std::string name) {
  const InstanceSpec& i = *d.instance;
  ORRERY_TRY(plan, plan_memory(i));
  const double pool = plan.kv_bytes_per_token.value() * static_cast<double>(d.blocks * plan.block_size);
  const double all = plan.weights.value() + pool * static_cast<double>(d.instances) + spare_bytes;
  KernelDevice device;
  device.own_pools = d.instances == 1 || bytes <= 0 || all <= bytes;
  device.name = std::move(name);
  ForwardOptions options;
  options.seed = d.seed;
  options.kv_blocks = device.own_pools ? d.blocks * d.instances : d.blocks;
  options.max_rows = d.max_rows;
  options.max_sequences = d.max_sequences;
  options.max_positions = d.max_positions;
  options.random_kv = true;
  options.count_launches = false;
  options.marks_layers = d.marks_layers;
  options.popularity = d.popularity;
  ORRERY_TRY(runner, ForwardRunner::create(i.model, options, memory, !d.waits, ranks));
  device.runner = std::move(runner);
  return device;
}

#ifdef ORRERY_SIMULATED_WARP
constexpr std::int64_t most_simulated_parameters = 20'000'000;  // fibres take a second for a step of these
#endif

// GPUs from the first one on; in a build without a GPU toolkit the CPU simulator, for models of a test's
// size.
class Devices {
 public:
  explicit Devices(bool own_all_reduce) : own_all_reduce_(own_all_reduce) {}

  Result<KernelDevice> take(const KernelDemand& d) {
    ORRERY_TRY(device, make(d));
    // A pool's own runner, for whoever moves KV between them.
    sides_.push_back({&static_cast<const ForwardRunner&>(*device.runner).forward(), memory_});
    return device;
  }
  Result<std::unique_ptr<KvMover>> mover() { return ForwardMover::create(sides_[0], sides_[1]); }

 private:
  // Of the first device, or the one beside it, whose memories reach each other then.
  Status choose(const KernelDemand& d, kernels::DeviceMemory& first) {
    memory_ = &first;
    if (d.first_device == 0) return ok_status();
    std::string why;
    if (pair_ == nullptr) pair_ = kernels::make_peer_group(2, first, why);
    if (pair_ == nullptr) return make_error(ErrorKind::unavailable, why);
    memory_ = &pair_->memory(1);
    return ok_status();
  }

#ifdef ORRERY_SIMULATED_WARP
  Result<KernelDevice> make(const KernelDemand& d) {
    ORRERY_TRY(plan, plan_memory(*d.instance));
    if (plan.weights.value() > 2.0 * most_simulated_parameters)
      return make_error(
          ErrorKind::unavailable,
          "this build has no GPU toolkit, so its kernels run in the CPU simulator, which is for models "
          "below 20 M parameters; build where nvcc is (cmake --preset release) and run on an NVIDIA GPU");
    ORRERY_TRY_STATUS(choose(d, host_));
    return device_with(d, {d.ranks, AllReduce::peers, d.shares_experts}, *memory_, 0,
                       "CPU simulator of the kernels (times mean nothing)");
  }
  kernels::HostMemory host_;
#else
  Result<KernelDevice> make(const KernelDemand& d) {
    std::string why;
    if (devices_.empty()) devices_ = kernels::devices(why);
    if (devices_.empty())
      return make_error(
          ErrorKind::unavailable,
          "--executor kernel needs an NVIDIA GPU: " + why +
              " (--executor cost-model predicts without one; a build without nvcc runs tiny models in "
              "the CPU simulator)");
    const std::int32_t needed = d.first_device + d.ranks;
    if (static_cast<std::int32_t>(devices_.size()) < needed)
      return make_error(ErrorKind::unavailable, "the deployment is one of " + std::to_string(needed) +
                                                    " GPUs (parallel, pools), and there are " +
                                                    std::to_string(devices_.size()));
    ORRERY_TRY_STATUS(choose(d, devices_.front()->memory()));
    const kernels::DeviceInfo& info = devices_[static_cast<std::size_t>(d.first_device)]->info();
    const std::string sums = d.ranks == 1 ? "" : own_all_reduce_ ? ", own all-reduce" : ", NCCL's all-reduce";
    return device_with(d, {d.ranks, own_all_reduce_ ? AllReduce::peers : AllReduce::nccl, d.shares_experts},
                       *memory_, static_cast<double>(info.memory_bytes),
                       (d.ranks > 1 ? std::to_string(d.ranks) + " × " : "") + info.name + ", driver " +
                           info.driver + ", " + info.runtime + sums);
  }
  std::vector<std::unique_ptr<kernels::Device>> devices_;
#endif

  [[maybe_unused]] bool own_all_reduce_;
  std::unique_ptr<kernels::PeerGroup> pair_;
  kernels::DeviceMemory* memory_ = nullptr;
  std::vector<ForwardMover::Side> sides_;
};

// What --profile-steps adds to a run's outputs.
struct LaunchEvidence {
  Json profile;  // null: not asked for
  std::string csv;
};

Result<LaunchEvidence> launch_evidence(const Scenario& scenario, const KernelRun& run) {
  LaunchEvidence out;
  if (run.profiled.empty()) return out;
  // Pools of prefill and decode have one model and one part; the first one's prices stand for both.
  ORRERY_TRY(pricer, StepPricer::create(scenario.pool.instance));
  out.profile = kernel_profile_json(run.profiled, pricer);
  out.csv = kernel_profile_csv(run.profiled, pricer);
  return out;
}

// Into the folder that the run has written; a refusal leaves the rest there.
Result<TableUpdate> update(const LiveKernelOptions& options, const Scenario& scenario, const KernelRun& run) {
  ORRERY_TRY(made, update_tables(scenario, run,
                                 "orrery live --profile-steps " + std::to_string(options.profile_steps) +
                                     ": " + scenario.pool.instance.model.name + " on " + run.device +
                                     ", launches of steps under load over the same launches alone",
                                 options.out));
  ORRERY_TRY_STATUS(
      write_file_atomically(options.out + "/calibration.json", canonical_json(table_update_json(made))));
  return made;
}

Status write_outputs(const std::string& folder, const Json& json, const EndpointComparison& comparison,
                     const Scenario& scenario, const KernelRun& run, const LaunchEvidence& evidence,
                     const CommandContext& context) {
  ORRERY_TRY(out, AtomicDirectory::create(folder));
  ORRERY_TRY(steps, kernel_steps_csv(scenario, run));
  ORRERY_TRY(page, Result<std::string>(endpoint_page(
                       comparison, run.seen, scenario.file + " on " + run.device, context.command_line)));
  ORRERY_TRY_STATUS(write_file_atomically(out.file("comparison.json"), canonical_json(json)));
  ORRERY_TRY_STATUS(write_file_atomically(out.file("comparison.html"), page));
  ORRERY_TRY_STATUS(write_file_atomically(out.file("measured.csv"), measured_csv(run.seen)));
  ORRERY_TRY_STATUS(write_file_atomically(out.file("steps.csv"), steps));
  if (!evidence.profile.is_null())
    ORRERY_TRY_STATUS(write_file_atomically(out.file("profile.csv"), evidence.csv));
  return out.commit();
}

std::string steps_text(const Json& steps) {
  std::string out;
  for (const char* kind : {"prefill", "mixed", "decode"}) {
    if (!steps.contains(kind)) continue;
    const Json& s = steps[kind];
    out += std::string(kind) + " steps  " + std::to_string(s["steps"].get<std::int64_t>()) + ": predicted " +
           format_fixed(s["predicted_ms"].get<double>(), 1) + " ms, measured " +
           format_fixed(s["measured_ms"].get<double>(), 1) + " ms, " +
           format_fixed(s["error_percent"].get<double>(), 1) + " %\n";
  }
  return out + "host        p50 " + format_fixed(steps["host_us"]["p50"].get<double>(), 1) + " us a step\n";
}

}  // namespace

Result<int> live_on_kernels(const LiveKernelOptions& options, const Scenario& scenario,
                            const CommandContext& context) {
  ORRERY_TRY_STATUS(check_kernel_scenario(scenario, options.waits));
  if (options.profile_steps > 0 && scenario.pool.instance.plan.tp > 1)
    return make_error(ErrorKind::usage,
                      "--profile-steps times launches one by one on one GPU; parallel.tp is " +
                          std::to_string(scenario.pool.instance.plan.tp));
  if (options.update_calibration) ORRERY_TRY_STATUS(check_table_update(scenario));
  ORRERY_TRY(runs, interval_runs(options.intervals));
  Devices devices(options.own_all_reduce);
  std::optional<TapeRecorder> tape;
  if (!options.tape.empty()) {
    ORRERY_TRY(recorder, TapeRecorder::create(options.tape, scenario, version(),
                                              options.waits ? "live" : "measured simulation", false));
    tape.emplace(std::move(recorder));
  }
  KernelRunOptions run_options;
  run_options.waits = options.waits;
  run_options.rehearse = options.waits;
  run_options.emulate_host = options.emulate_host;
  run_options.profile_steps = options.profile_steps;
  run_options.tape = tape ? &*tape : nullptr;
  run_options.keep_going = [](std::uint64_t) { return !interrupted(); };
  run_options.make_device = [&](const KernelDemand& d) { return devices.take(d); };
  run_options.make_mover = [&] { return devices.mover(); };
  ORRERY_TRY(run, run_on_kernels(scenario, run_options));
  if (interrupted()) return interruption();
  if (tape) ORRERY_TRY_STATUS(tape->finish(run.result));
  ORRERY_TRY(comparison,
             compare_with_endpoint(
                 scenario, run.seen,
                 {.runs = runs, .threads = context.threads, .keep_going = run_options.keep_going}));
  std::erase_if(comparison.compared.notes, [](const std::string& note) {  // of a server's clients
    return note.find("API server") != std::string::npos;
  });
  ORRERY_TRY(steps, kernel_steps_json(scenario, run));
  Json json = endpoint_json(comparison, run.seen);
  json["kernel_steps"] = steps;
  json["digest"] = digest_text(run.result.digest);
  ORRERY_TRY(evidence, launch_evidence(scenario, run));
  if (!evidence.profile.is_null()) json["profile"] = evidence.profile;
  comparison.launches = evidence.profile;
  if (!options.out.empty())
    ORRERY_TRY_STATUS(write_outputs(options.out, json, comparison, scenario, run, evidence, context));
  if (context.json) {
    std::fputs(canonical_json(json).c_str(), stdout);
  } else if (!context.quiet) {
    std::fputs(endpoint_text(comparison, run.seen).c_str(), stdout);
    std::fputs(steps_text(steps).c_str(), stdout);
    if (!evidence.profile.is_null()) std::fputs(kernel_profile_text(evidence.profile).c_str(), stdout);
    std::printf("device      %s\ndigest      %s\n", run.device.c_str(),
                digest_text(run.result.digest).c_str());
  }
  if (options.update_calibration) {
    ORRERY_TRY(made, update(options, scenario, run));
    if (!context.quiet && !context.json)
      std::printf("%s%s/%s: use it as deployment.kernels\n", table_update_text(made).c_str(),
                  options.out.c_str(), made.name.c_str());
  }
  return static_cast<int>(ExitCode::done);
}

}  // namespace orrery

#include "kernels/probes.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>

#include "kernels/case_table.h"
#include "kernels/probe_kernels.h"

namespace orrery::kernels {

namespace {

using Clock = std::chrono::steady_clock;

double microseconds_since(Clock::time_point begin) {
  return std::chrono::duration<double, std::micro>(Clock::now() - begin).count();
}

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

bool good(cudaError_t error, const char* what, std::string& why) {
  if (error == cudaSuccess) return true;
  why = std::string(what) + ": " + cudaGetErrorString(error);
  return false;
}

// Median rate in 10⁹ B/s; negative with a reason.
double rate(Device& device, void* memory, Traffic traffic, std::int64_t bytes, std::string& why) {
  TrafficLaunch launch;
  launch.traffic = traffic;
  launch.memory = memory;
  launch.bytes = bytes;
  // A launch moves at least 512 MiB: what starting it costs must not show.
  launch.passes = static_cast<std::int32_t>(std::max<std::int64_t>(1, (std::int64_t{512} << 20) / bytes));
  std::vector<double> ns;
  if (!device.time([&](int, Stream stream) { launch_traffic(launch, stream); }, 1, 9, ns, why)) return -1;
  return static_cast<double>(bytes) * launch.passes / median(ns);
}

// A stream and two events, and pinned memory.
struct HostSide {
  cudaStream_t stream = nullptr;
  cudaEvent_t begin = nullptr, end = nullptr;
  void* pinned = nullptr;

  HostSide() = default;
  HostSide(const HostSide&) = delete;
  HostSide& operator=(const HostSide&) = delete;
  ~HostSide() {
    if (pinned != nullptr) cudaFreeHost(pinned);
    if (begin != nullptr) cudaEventDestroy(begin);
    if (end != nullptr) cudaEventDestroy(end);
    if (stream != nullptr) cudaStreamDestroy(stream);
  }
  bool start(const Device& device, std::int64_t pinned_bytes, std::string& why) {
    return good(cudaSetDevice(device.info().index), "cudaSetDevice", why) &&
           good(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream", why) &&
           good(cudaEventCreate(&begin), "event", why) && good(cudaEventCreate(&end), "event", why) &&
           (pinned_bytes == 0 ||
            good(cudaMallocHost(&pinned, static_cast<std::size_t>(pinned_bytes)), "pinned memory", why));
  }
};

double copy_us(const HostSide& host, void* to, const void* from, std::int64_t bytes, std::string& why) {
  std::vector<double> taken;
  for (int i = 0; i < 12; ++i) {
    float ms = 0;
    const bool fine =
        good(cudaEventRecord(host.begin, host.stream), "event", why) &&
        good(cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes), cudaMemcpyDefault, host.stream),
             "copy", why) &&
        good(cudaEventRecord(host.end, host.stream), "event", why) &&
        good(cudaStreamSynchronize(host.stream), "copy", why) &&
        good(cudaEventElapsedTime(&ms, host.begin, host.end), "elapsed time", why);
    if (!fine) return -1;
    if (i >= 3) taken.push_back(static_cast<double>(ms) * 1e3);  // the first ones touch pages
  }
  return median(taken);
}

constexpr int launches_in_a_row = 256;  // fewer than a launch queue holds

bool probe_eager(const HostSide& host, LaunchCosts& costs, std::string& why) {
  std::vector<double> calls, rows, trips;
  for (int turn = 0; turn < 24; ++turn) {
    float ms = 0;
    if (!good(cudaStreamSynchronize(host.stream), "wait", why)) return false;
    cudaEventRecord(host.begin, host.stream);
    const Clock::time_point begin = Clock::now();
    for (int i = 0; i < launches_in_a_row; ++i) launch_empty(host.stream);
    const double called = microseconds_since(begin);
    cudaEventRecord(host.end, host.stream);
    const bool fine = good(cudaStreamSynchronize(host.stream), "launch", why) &&
                      good(cudaEventElapsedTime(&ms, host.begin, host.end), "elapsed time", why);
    if (!fine) return false;
    const Clock::time_point trip = Clock::now();
    launch_empty(host.stream);
    if (!good(cudaStreamSynchronize(host.stream), "launch", why)) return false;
    const double round_trip = microseconds_since(trip);
    if (turn < 4) continue;  // warming up
    calls.push_back(called / launches_in_a_row);
    rows.push_back(static_cast<double>(ms) * 1e3 / launches_in_a_row);
    trips.push_back(round_trip);
  }
  costs.eager_host_us = median(calls);
  costs.eager_back_to_back_us = median(rows);
  costs.eager_round_trip_us = median(trips);
  return true;
}

bool probe_graph_launch(const HostSide& host, LaunchCosts& costs, std::string& why) {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  if (!good(cudaStreamBeginCapture(host.stream, cudaStreamCaptureModeThreadLocal), "capture", why))
    return false;
  launch_empty(host.stream);
  bool fine = good(cudaStreamEndCapture(host.stream, &graph), "capture", why) &&
              good(cudaGraphInstantiate(&executable, graph, 0), "instantiate", why);
  std::vector<double> calls;
  for (int i = 0; i < 64 && fine; ++i) {
    const Clock::time_point begin = Clock::now();
    fine = good(cudaGraphLaunch(executable, host.stream), "replay", why);
    if (i >= 8) calls.push_back(microseconds_since(begin));
    fine = fine && good(cudaStreamSynchronize(host.stream), "replay", why);
  }
  costs.graph_launch_us = median(calls);
  if (executable != nullptr) cudaGraphExecDestroy(executable);
  if (graph != nullptr) cudaGraphDestroy(graph);
  return fine;
}

}  // namespace

bool probe_bandwidth(Device& device, std::int64_t largest, std::vector<BandwidthPoint>& points,
                     std::string& why) {
  void* memory = device.memory().allocate(static_cast<std::size_t>(largest));
  if (memory == nullptr) {
    why = "no room for " + std::to_string(largest) + " bytes";
    return false;
  }
  device.memory().fill(memory, 0, static_cast<std::size_t>(largest));
  bool fine = true;
  for (std::int64_t doubling = 256 << 10; doubling <= largest && fine; doubling *= 2) {
    for (const std::int64_t bytes : {doubling, doubling / 2 * 3}) {
      if (bytes > largest) continue;
      BandwidthPoint point;
      point.bytes = bytes;
      point.read_gb_s = rate(device, memory, Traffic::read, bytes, why);
      point.write_gb_s = rate(device, memory, Traffic::write, bytes, why);
      point.copy_gb_s = rate(device, memory, Traffic::copy, bytes, why);
      fine = point.read_gb_s > 0 && point.write_gb_s > 0 && point.copy_gb_s > 0;
      if (!fine) break;
      points.push_back(point);
    }
  }
  device.memory().release_all();
  return fine;
}

bool probe_host_copies(Device& device, std::int64_t largest, std::vector<HostCopyPoint>& points,
                       std::string& why) {
  HostSide host;
  void* memory = device.memory().allocate(static_cast<std::size_t>(largest));
  if (memory == nullptr) {
    why = "no room for " + std::to_string(largest) + " bytes";
    return false;
  }
  bool fine = host.start(device, largest, why);
  for (std::int64_t bytes = 4 << 10; bytes <= largest && fine; bytes *= 4) {
    HostCopyPoint point;
    point.bytes = bytes;
    point.to_device_us = copy_us(host, memory, host.pinned, bytes, why);
    point.to_host_us = copy_us(host, host.pinned, memory, bytes, why);
    fine = point.to_device_us > 0 && point.to_host_us > 0;
    if (fine) points.push_back(point);
  }
  device.memory().release_all();
  return fine;
}

bool probe_launches(Device& device, LaunchCosts& costs, std::string& why) {
  HostSide host;
  if (!host.start(device, 0, why) || !probe_eager(host, costs, why) ||
      !probe_graph_launch(host, costs, why)) {
    return false;
  }
  std::vector<double> ns;
  if (!device.time([](int, Stream stream) { launch_empty(stream); }, 500, 20, ns, why)) return false;
  costs.graph_node_us = median(ns) / 1e3;
  return true;
}

bool probe_sustained(Device& device, double seconds, SustainedLoad& load, std::string& why) {
  CaseSpec spec;
  spec.op = "gemm";
  spec.m = spec.n = spec.k = 8192;
  const std::unique_ptr<KernelCase> gemm = make_case(spec, why);
  if (gemm == nullptr || !gemm->prepare(device.memory(), 1, why)) {
    device.memory().release_all();
    return false;
  }
  load.kernel = gemm->kernel();
  std::atomic<bool> done{false};
  const Clock::time_point begin = Clock::now();
  std::thread sampler([&] {
    while (!done) {
      load.samples.push_back({microseconds_since(begin) / 1e6, device.telemetry()});
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
  });
  bool fine = true;
  std::vector<double> second_half;
  while (fine && microseconds_since(begin) < seconds * 1e6) {
    std::vector<double> ns;
    fine = device.time([&](int, Stream stream) { gemm->launch(0, stream); }, 16, 16, ns, why);
    if (microseconds_since(begin) > seconds * 0.5e6)
      second_half.insert(second_half.end(), ns.begin(), ns.end());
  }
  done = true;
  sampler.join();
  if (!second_half.empty()) load.tflop_s = gemm->flops() / median(second_half) / 1e3;
  device.memory().release_all();
  return fine;
}

}  // namespace orrery::kernels

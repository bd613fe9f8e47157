// kernels/device.h through the CUDA runtime, which is linked statically: without a driver the binary starts
// and devices() says what is missing.
#include <cuda_runtime.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <thread>

#include "kernels/device.h"
#include "kernels/guarded_memory.h"
#include "kernels/nvml.h"
#include "kernels/vendor_library.h"

namespace orrery::kernels {

namespace {

std::string words(cudaError_t error) {
  return std::string(cudaGetErrorName(error)) + ": " + cudaGetErrorString(error);
}

// True when fine; otherwise the words go to `why`.
bool good(cudaError_t error, const char* what, std::string& why) {
  if (error == cudaSuccess) return true;
  why = std::string(what) + ": " + words(error);
  return false;
}

class CudaMemory : public GuardedMemory {
 public:
  explicit CudaMemory(int device) : device_(device) {}
  CudaMemory(const CudaMemory&) = delete;
  CudaMemory& operator=(const CudaMemory&) = delete;
  ~CudaMemory() override { release_all(); }
  int device_index() const override { return device_; }

 protected:
  // Errors of copies are left to the runtime's last error: the next run() or time() reports them.
  void* raw_allocate(std::size_t bytes) override {
    before_launch();
    void* memory = nullptr;
    if (cudaMalloc(&memory, bytes) == cudaSuccess) return memory;
    static_cast<void>(cudaGetLastError());  // no room is an answer, not a state
    return nullptr;
  }
  void raw_free(void* memory) override {
    before_launch();
    static_cast<void>(cudaFree(memory));
  }
  void raw_upload(void* device, const void* host, std::size_t bytes) override {
    before_launch();
    static_cast<void>(cudaMemcpy(device, host, bytes, cudaMemcpyHostToDevice));
  }
  void raw_download(void* host, const void* device, std::size_t bytes) override {
    before_launch();
    static_cast<void>(cudaDeviceSynchronize());
    static_cast<void>(cudaMemcpy(host, device, bytes, cudaMemcpyDeviceToHost));
  }
  void raw_fill(void* device, int byte, std::size_t bytes) override {
    before_launch();
    static_cast<void>(cudaMemset(device, byte, bytes));
  }
  void before_launch() override { static_cast<void>(cudaSetDevice(device_)); }

 private:
  int device_;
};

// Holds a stream back while work is queued behind it, so that the first replays do not run at the pace of the
// CPU's submissions. Gives up by itself: a full launch queue must not wait for a gate that waits for it. A
// graph of hundreds of kernels fills the queue within a few replays, and each wait then costs all of the
// gate's patience; so it opens after the first few, and is not patient.
struct Gate {
  static constexpr int replays = 4, kernels = 256;  // queued behind it, whichever is more
  static constexpr auto patience = std::chrono::milliseconds(3);
  std::atomic<bool> open{false};

  static void CUDART_CB wait(void* gate) {
    const auto deadline = std::chrono::steady_clock::now() + patience;
    while (!static_cast<Gate*>(gate)->open && std::chrono::steady_clock::now() < deadline) {
      std::this_thread::yield();
    }
  }
};

class CudaDevice : public Device {
 public:
  CudaDevice(DeviceInfo info) : info_(std::move(info)), memory_(info_.index), nvml_(info_.uuid) {}
  CudaDevice(const CudaDevice&) = delete;
  CudaDevice& operator=(const CudaDevice&) = delete;
  ~CudaDevice() override {
    make_current();
    for (cudaEvent_t event : events_) static_cast<void>(cudaEventDestroy(event));
    if (stream_ != nullptr) static_cast<void>(cudaStreamDestroy(stream_));
  }

  const DeviceInfo& info() const override { return info_; }
  DeviceMemory& memory() override { return memory_; }
  Telemetry telemetry() override { return nvml_.read(); }

  bool run(const std::function<void(Stream)>& body, std::string& why) override {
    if (!start(why)) return false;
    body(stream_);
    return good(cudaGetLastError(), "launch", why) && good(cudaStreamSynchronize(stream_), "run", why);
  }

  bool time(const std::function<void(int, Stream)>& body, int launches, int replays,
            std::vector<double>& ns_per_launch, std::string& why) override {
    if (!start(why)) return false;
    cudaGraph_t graph = nullptr;
    if (!capture(body, launches, graph, why)) return false;
    cudaGraphExec_t executable = nullptr;
    bool fine = good(cudaGraphInstantiate(&executable, graph, 0), "instantiate the graph", why);
    static_cast<void>(cudaGraphDestroy(graph));
    // A first replay uploads the graph, is thrown away, and finds errors of the kernels themselves.
    fine = fine && good(cudaGraphLaunch(executable, stream_), "replay", why) &&
           good(cudaStreamSynchronize(stream_), "replay", why);
    constexpr int batch = 64;  // well below the launch queue's length
    for (int done = 0; fine && done < replays; done += batch) {
      fine = replay(executable, std::min(batch, replays - done), launches, ns_per_launch, why);
    }
    if (executable != nullptr) static_cast<void>(cudaGraphExecDestroy(executable));
    return fine;
  }

  std::vector<std::pair<std::string, std::string>> libraries() override;

 private:
  void make_current() { static_cast<void>(cudaSetDevice(info_.index)); }

  // An error of an earlier call that nobody asked about is reported here rather than blamed on what follows.
  bool start(std::string& why) {
    make_current();
    if (!good(cudaGetLastError(), "before this call", why)) return false;
    return stream_ != nullptr || good(cudaStreamCreate(&stream_), "create a stream", why);
  }

  bool capture(const std::function<void(int, Stream)>& body, int launches, cudaGraph_t& graph,
               std::string& why) {
    if (!good(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "begin a capture", why)) {
      return false;
    }
    for (int i = 0; i < launches; ++i) body(i, stream_);
    const cudaError_t launched = cudaGetLastError();
    const cudaError_t ended = cudaStreamEndCapture(stream_, &graph);
    if (good(launched, "launch in a capture", why) && good(ended, "end a capture", why)) return true;
    if (graph != nullptr) static_cast<void>(cudaGraphDestroy(graph));
    static_cast<void>(cudaGetLastError());
    return false;
  }

  bool replay(cudaGraphExec_t graph, int replays, int launches, std::vector<double>& ns_per_launch,
              std::string& why) {
    while (events_.size() < static_cast<std::size_t>(replays) + 1) {
      cudaEvent_t event = nullptr;
      if (!good(cudaEventCreate(&event), "create an event", why)) return false;
      events_.push_back(event);
    }
    Gate gate;
    bool fine = good(cudaLaunchHostFunc(stream_, Gate::wait, &gate), "gate", why);
    fine = fine && good(cudaEventRecord(events_[0], stream_), "event", why);
    const int held = std::max(Gate::replays, Gate::kernels / launches);
    for (int i = 0; fine && i < replays; ++i) {
      if (i == held) gate.open = true;
      fine = good(cudaGraphLaunch(graph, stream_), "replay", why) &&
             good(cudaEventRecord(events_[static_cast<std::size_t>(i) + 1], stream_), "event", why);
    }
    gate.open = true;
    std::string late;
    if (!good(cudaStreamSynchronize(stream_), "replay", fine ? why : late) || !fine) return false;
    for (int i = 0; i < replays; ++i) {
      float ms = 0;
      const auto at = static_cast<std::size_t>(i);
      if (!good(cudaEventElapsedTime(&ms, events_[at], events_[at + 1]), "elapsed time", why)) return false;
      ns_per_launch.push_back(static_cast<double>(ms) * 1e6 / launches);
    }
    return true;
  }

  DeviceInfo info_;
  CudaMemory memory_;
  NvmlDevice nvml_;
  cudaStream_t stream_ = nullptr;
  std::vector<cudaEvent_t> events_;
};

std::string dotted(std::size_t major, std::size_t minor, std::size_t patch) {
  return std::to_string(major) + "." + std::to_string(minor) + "." + std::to_string(patch);
}

std::vector<std::pair<std::string, std::string>> CudaDevice::libraries() {
  std::vector<std::pair<std::string, std::string>> found;
  if (auto* version = vendor_library(Vendor::cublas_lt).function<std::size_t()>("cublasLtGetVersion")) {
    const std::size_t v = version();  // 130100 = 13.1.0
    found.emplace_back("cublasLt", dotted(v / 10000, v / 100 % 100, v % 100));
  }
  if (auto* version = vendor_library(Vendor::cudnn).function<std::size_t()>("cudnnGetVersion")) {
    const std::size_t v = version();  // 91900 = 9.19.0
    found.emplace_back("cudnn", dotted(v / 10000, v / 100 % 100, v % 100));
  }
  if (auto* version = vendor_library(Vendor::nccl).function<int(int*)>("ncclGetVersion")) {
    int v = 0;  // 22809 = 2.28.9
    if (version(&v) == 0) {
      const auto u = static_cast<std::size_t>(v);
      found.emplace_back("nccl", dotted(u / 10000, u / 100 % 100, u % 100));
    }
  }
  return found;
}

std::string uuid_text(const cudaUUID_t& uuid) {
  std::string text = "GPU";
  for (std::size_t i = 0; i < sizeof uuid.bytes; ++i) {
    if (i == 0 || i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    char hex[3];
    std::snprintf(hex, sizeof hex, "%02x", static_cast<unsigned>(static_cast<unsigned char>(uuid.bytes[i])));
    text += hex;
  }
  return text;
}

bool describe(int index, DeviceInfo& info, std::string& why) {
  cudaDeviceProp properties;
  if (!good(cudaGetDeviceProperties(&properties, index), "device properties", why)) return false;
  info.index = index;
  info.name = properties.name;
  info.architecture = "sm_" + std::to_string(properties.major) + std::to_string(properties.minor);
  if (properties.major == 9) info.architecture += "a";  // what the binary carries for it
  int runtime = 0;
  static_cast<void>(cudaRuntimeGetVersion(&runtime));
  info.runtime = "CUDA " + std::to_string(runtime / 1000) + "." + std::to_string(runtime % 1000 / 10);
  info.driver = nvml_driver_version();
  info.uuid = uuid_text(properties.uuid);
  info.memory_bytes = properties.totalGlobalMem;
  info.l2_bytes = static_cast<std::size_t>(properties.l2CacheSize);
  info.compute_units = properties.multiProcessorCount;
  return true;
}

}  // namespace

std::vector<std::unique_ptr<Device>> devices(std::string& why) {
  std::vector<std::unique_ptr<Device>> found;
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  static_cast<void>(cudaGetLastError());
  if (error == cudaErrorInsufficientDriver || error == cudaErrorNoDevice ||
      (error == cudaSuccess && count == 0)) {
    why = "no NVIDIA GPU or no driver here (" + words(error) + ")";
    return found;
  }
  if (!good(error, "count the devices", why)) return found;
  for (int i = 0; i < count; ++i) {
    DeviceInfo info;
    if (describe(i, info, why)) found.push_back(std::make_unique<CudaDevice>(std::move(info)));
  }
  return found;
}

}  // namespace orrery::kernels

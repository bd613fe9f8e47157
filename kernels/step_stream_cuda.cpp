#include <cuda_runtime.h>

#include <vector>

#include "kernels/step_stream.h"

namespace orrery::kernels {

namespace {

bool good(cudaError_t error, const char* what, std::string& why) {
  if (error == cudaSuccess) return true;
  why = std::string(what) + ": " + cudaGetErrorName(error) + ": " + cudaGetErrorString(error);
  return false;
}

class CudaStream final : public StepStream {
 public:
  struct Executable final : Graph {
    Executable() = default;
    Executable(const Executable&) = delete;
    Executable& operator=(const Executable&) = delete;
    ~Executable() override {
      if (handle != nullptr) static_cast<void>(cudaGraphExecDestroy(handle));
    }
    cudaGraphExec_t handle = nullptr;
  };

  explicit CudaStream(int device) : device_(device) {}
  CudaStream(const CudaStream&) = delete;
  CudaStream& operator=(const CudaStream&) = delete;
  ~CudaStream() override {
    static_cast<void>(cudaSetDevice(device_));
    if (stream_ != nullptr) static_cast<void>(cudaStreamSynchronize(stream_));
    for (void* memory : memory_) static_cast<void>(cudaFreeHost(memory));
    marks_.insert(marks_.end(), {begin_, end_});
    marks_.insert(marks_.end(), clocks_.begin(), clocks_.end());
    for (cudaEvent_t event : marks_) {
      if (event != nullptr) static_cast<void>(cudaEventDestroy(event));
    }
    if (stream_ != nullptr) static_cast<void>(cudaStreamDestroy(stream_));
  }

  bool open(std::string& why) {
    return good(cudaSetDevice(device_), "choose the device", why) &&
           good(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "create a stream", why) &&
           good(cudaEventCreate(&begin_), "create an event", why) &&
           good(cudaEventCreate(&end_), "create an event", why);
  }

  Stream handle() override { return stream_; }
  void make_current() override { keep(cudaSetDevice(device_)); }
  void* host_memory(std::size_t bytes) override {
    void* memory = nullptr;
    if (cudaMallocHost(&memory, bytes) != cudaSuccess) {
      static_cast<void>(cudaGetLastError());
      return nullptr;
    }
    memory_.push_back(memory);
    return memory;
  }
  // What fails here is found by wait(): the runtime keeps the first error.
  void upload(void* device, const void* host, std::size_t bytes) override {
    keep(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, stream_));
  }
  void download(void* host, const void* device, std::size_t bytes) override {
    keep(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream_));
  }
  std::unique_ptr<Graph> capture(const Body& body, std::string& why) override {
    if (!good(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "begin a capture", why)) {
      return nullptr;
    }
    body(stream_);
    const cudaError_t launched = cudaGetLastError();
    cudaGraph_t graph = nullptr;
    const cudaError_t ended = cudaStreamEndCapture(stream_, &graph);
    auto executable = std::make_unique<Executable>();
    const bool fine = good(launched, "launch in a capture", why) && good(ended, "end a capture", why) &&
                      good(cudaGraphInstantiate(&executable->handle, graph, 0), "instantiate a graph", why);
    if (graph != nullptr) static_cast<void>(cudaGraphDestroy(graph));
    return fine ? std::move(executable) : nullptr;
  }
  void replay(Graph& graph) override {
    keep(cudaGraphLaunch(static_cast<Executable&>(graph).handle, stream_));
  }
  void hold_marks(std::size_t count) override {
    marks_.resize(count);
    for (cudaEvent_t& event : marks_) keep(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  }
  void mark(std::size_t number) override { keep(cudaEventRecord(marks_[number], stream_)); }
  bool passed(std::size_t number) const override {
    const bool there = cudaEventQuery(marks_[number]) == cudaSuccess;
    if (!there) static_cast<void>(cudaGetLastError());  // not ready is kept as an error
    return there;
  }
  void hold_clocks(std::size_t count) override {
    while (clocks_.size() < count) {
      clocks_.push_back(nullptr);
      keep(cudaEventCreate(&clocks_.back()));
    }
  }
  // External: each is a node of the graph, which notes the time whenever it runs.
  void clock(std::size_t number) override {
    keep(cudaEventRecordWithFlags(clocks_[number], stream_, cudaEventRecordExternal));
  }
  double clock_ns(std::size_t from, std::size_t to) override {
    float ms = 0;
    return cudaEventElapsedTime(&ms, clocks_[from], clocks_[to]) == cudaSuccess
               ? static_cast<double>(ms) * 1e6
               : 0;
  }
  void begin_step() override { keep(cudaEventRecord(begin_, stream_)); }
  void end_step() override { keep(cudaEventRecord(end_, stream_)); }
  bool wait(std::string& why) override {
    const cudaError_t finished = cudaStreamSynchronize(stream_);
    const cudaError_t first = error_ != cudaSuccess ? error_ : cudaGetLastError();
    error_ = cudaSuccess;
    return good(first, "launch", why) && good(finished, "run", why);
  }
  double step_ns() override {
    float ms = 0;
    return cudaEventElapsedTime(&ms, begin_, end_) == cudaSuccess ? static_cast<double>(ms) * 1e6 : 0;
  }

 private:
  void keep(cudaError_t error) {
    if (error_ == cudaSuccess) error_ = error;
  }

  int device_;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
  std::vector<cudaEvent_t> marks_, clocks_;
  cudaError_t error_ = cudaSuccess;
  std::vector<void*> memory_;
};

}  // namespace

std::unique_ptr<StepStream> make_step_stream(int device, std::string& why) {
  auto stream = std::make_unique<CudaStream>(device);
  if (!stream->open(why)) return nullptr;
  return stream;
}

}  // namespace orrery::kernels

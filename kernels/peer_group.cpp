#include "kernels/peer_group.h"

#include "kernels/device.h"
#include "kernels/rank_streams.h"

namespace orrery::kernels {

namespace {

// Both ways, so that the memory of each is memory of all. Already enabled is fine.
bool connect(const std::vector<int>& devices, std::string& why) {
  bool fine = true;
  for (const int from : devices) {
    for (const int to : devices) {
      if (from == to || !fine) continue;
      int can = 0;
      fine = cuda_good(cudaDeviceCanAccessPeer(&can, from, to), "peer access", why);
      if (fine && can == 0) {
        why =
            "device " + std::to_string(from) + " has no access to the memory of device " + std::to_string(to);
        fine = false;
      }
      if (!fine) continue;
      fine = cuda_good(cudaSetDevice(from), "cudaSetDevice", why);
      const cudaError_t enabled = cudaDeviceEnablePeerAccess(to, 0);
      if (enabled == cudaErrorPeerAccessAlreadyEnabled)
        static_cast<void>(cudaGetLastError());
      else
        fine = cuda_good(enabled, "peer access", why) && fine;
    }
  }
  return cuda_good(cudaSetDevice(devices.front()), "cudaSetDevice", why) && fine;
}

class CudaPeerGroup final : public PeerGroup {
 public:
  CudaPeerGroup(const RankStreams& streams, DeviceMemory& first, std::vector<std::unique_ptr<Device>> others)
      : streams_(streams), first_(first), others_(std::move(others)) {}
  CudaPeerGroup(const CudaPeerGroup&) = delete;
  CudaPeerGroup& operator=(const CudaPeerGroup&) = delete;
  // Giving back what lies on the others makes them current.
  ~CudaPeerGroup() override {
    if (word_ != nullptr) static_cast<void>(cudaFreeHost(word_));
    others_.clear();
    static_cast<void>(cudaSetDevice(streams_.device(0)));
  }

  std::int32_t ranks() const override { return static_cast<std::int32_t>(streams_.ranks()); }
  DeviceMemory& memory(std::int32_t rank) override {
    return rank == 0 ? first_ : others_[static_cast<std::size_t>(rank - 1)]->memory();
  }

  bool launch(const Body& body, Stream stream, std::string& why, int times) override {
    auto* first = static_cast<cudaStream_t>(stream);
    bool fine = streams_.fork(first, why);
    for (int i = 0; i < times && fine; ++i) {
      for (std::size_t r = 0; r < streams_.ranks() && fine; ++r) {
        fine = cuda_good(cudaSetDevice(streams_.device(r)), "cudaSetDevice", why);
        if (fine) body(static_cast<std::int32_t>(r), streams_.stream(r, first));
      }
    }
    return streams_.join(first, why) && fine;
  }

  bool synchronize(std::string& why) override { return streams_.synchronize(why); }

  std::uint32_t* word() override {
    void* memory = nullptr;
    constexpr unsigned everywhere = cudaHostAllocPortable | cudaHostAllocMapped;
    if (word_ == nullptr && cudaHostAlloc(&memory, sizeof *word_, everywhere) == cudaSuccess) {
      word_ = static_cast<std::uint32_t*>(memory);
      *word_ = 0;
    }
    return word_;
  }

  bool copy(std::int32_t from, std::int32_t to, std::span<const PeerCopy> copies, std::size_t bytes,
            CopyCalls calls, Stream stream, std::string& why) override {
    auto* on = static_cast<cudaStream_t>(stream);
    const int source = device(from), target = device(to);
    if (calls == CopyCalls::one_each) {
      bool fine = true;
      for (const PeerCopy& c : copies) {
        fine =
            fine && cuda_good(cudaMemcpyPeerAsync(c.to, target, c.from, source, bytes, on), "peer copy", why);
      }
      return fine;
    }
    std::vector<void*> there;
    std::vector<const void*> here;
    for (const PeerCopy& c : copies) there.push_back(c.to), here.push_back(c.from);
    const std::vector<std::size_t> sizes(copies.size(), bytes);
    cudaMemcpyAttributes attributes = {};
    attributes.srcAccessOrder = cudaMemcpySrcAccessOrderStream;
    std::size_t first = 0;
#if CUDART_VERSION >= 13000
    const cudaError_t code = cudaMemcpyBatchAsync(there.data(), here.data(), sizes.data(), copies.size(),
                                                  &attributes, &first, 1, on);
#else  // 12.8 and 12.9: pointers are not const, and the copy that failed is told
    std::vector<void*> sources;
    for (const PeerCopy& c : copies) sources.push_back(const_cast<void*>(c.from));
    std::vector<std::size_t> lengths = sizes;
    std::size_t failed = 0;
    const cudaError_t code = cudaMemcpyBatchAsync(there.data(), sources.data(), lengths.data(), copies.size(),
                                                  &attributes, &first, 1, &failed, on);
#endif
    return cuda_good(code, "batch of peer copies", why);
  }

 private:
  int device(std::int32_t rank) const { return streams_.device(static_cast<std::size_t>(rank)); }

  const RankStreams& streams_;
  DeviceMemory& first_;
  std::uint32_t* word_ = nullptr;
  std::vector<std::unique_ptr<Device>> others_;
};

}  // namespace

std::unique_ptr<PeerGroup> make_peer_group(std::int32_t ranks, DeviceMemory& first, std::string& why) {
  std::vector<std::unique_ptr<Device>> others;
  const std::vector<int> chosen = devices_of_group(ranks, first.device_index(), others, why);
  if (chosen.empty() || !connect(chosen, why)) return nullptr;
  const RankStreams* streams = RankStreams::of(chosen, why);
  if (streams == nullptr) return nullptr;
  return std::make_unique<CudaPeerGroup>(*streams, first, std::move(others));
}

}  // namespace orrery::kernels

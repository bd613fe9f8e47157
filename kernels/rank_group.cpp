#include "kernels/rank_group.h"

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <cstdlib>
#include <map>

#include "kernels/device.h"
#include "kernels/vendor_library.h"

namespace orrery::kernels {

namespace {

struct Nccl {
  std::string why;
  decltype(&ncclCommInitAll) init_all = nullptr;
  decltype(&ncclGroupStart) group_start = nullptr;
  decltype(&ncclGroupEnd) group_end = nullptr;
  decltype(&ncclAllReduce) all_reduce = nullptr;
  decltype(&ncclAllGather) all_gather = nullptr;
  decltype(&ncclReduceScatter) reduce_scatter = nullptr;
  decltype(&ncclSend) send = nullptr;
  decltype(&ncclRecv) receive = nullptr;
  decltype(&ncclGetErrorString) words = nullptr;

  Nccl() {
    const VendorLibrary& library = vendor_library(Vendor::nccl);
    // Read when the library makes its first communicator; an explicit choice of the user's stands.
    setenv("NCCL_NVLS_ENABLE", "0", 0);
    library.take(init_all, "ncclCommInitAll", why);
    library.take(group_start, "ncclGroupStart", why);
    library.take(group_end, "ncclGroupEnd", why);
    library.take(all_reduce, "ncclAllReduce", why);
    library.take(all_gather, "ncclAllGather", why);
    library.take(reduce_scatter, "ncclReduceScatter", why);
    library.take(send, "ncclSend", why);
    library.take(receive, "ncclRecv", why);
    library.take(words, "ncclGetErrorString", why);
  }
};

const Nccl& nccl() {
  static const Nccl library;
  return library;
}

struct Rank {
  int device = 0;
  ncclComm_t communicator = nullptr;
  cudaStream_t stream = nullptr;  // not of rank 0
  cudaEvent_t event = nullptr;    // rank 0: forked; others: joined
};

bool good(cudaError_t error, const char* what, std::string& why) {
  if (error == cudaSuccess) return true;
  why = std::string(what) + ": " + cudaGetErrorString(error);
  return false;
}
bool good(ncclResult_t result, const char* what, std::string& why) {
  if (result == ncclSuccess) return true;
  why = std::string(what) + ": " + nccl().words(result);
  return false;
}

bool connect(std::vector<Rank>& ranks, std::string& why) {
  std::vector<int> devices;
  std::vector<ncclComm_t> communicators(ranks.size());
  for (const Rank& rank : ranks) devices.push_back(rank.device);
  if (!good(nccl().init_all(communicators.data(), static_cast<int>(ranks.size()), devices.data()),
            "ncclCommInitAll", why)) {
    return false;
  }
  bool fine = true;
  for (std::size_t r = 0; r < ranks.size() && fine; ++r) {
    ranks[r].communicator = communicators[r];
    fine =
        good(cudaSetDevice(ranks[r].device), "cudaSetDevice", why) &&
        good(cudaEventCreateWithFlags(&ranks[r].event, cudaEventDisableTiming), "event", why) &&
        (r == 0 || good(cudaStreamCreateWithFlags(&ranks[r].stream, cudaStreamNonBlocking), "stream", why));
  }
  return good(cudaSetDevice(ranks.front().device), "cudaSetDevice", why) && fine;
}

// Kept for the life of the process: making communicators takes seconds.
const std::vector<Rank>* connected(const std::vector<int>& devices, std::string& why) {
  static std::map<std::vector<int>, std::vector<Rank>> known;
  const auto found = known.find(devices);
  if (found != known.end()) return &found->second;
  std::vector<Rank> ranks(devices.size());
  for (std::size_t r = 0; r < ranks.size(); ++r) ranks[r].device = devices[r];
  if (!connect(ranks, why)) return nullptr;
  return &known.emplace(devices, std::move(ranks)).first->second;
}

class Group final : public RankGroup {
 public:
  Group(const std::vector<Rank>& ranks, std::vector<std::unique_ptr<Device>> others)
      : ranks_(ranks), others_(std::move(others)) {}
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;
  // Giving back what lies on the others makes them current.
  ~Group() override {
    others_.clear();
    static_cast<void>(cudaSetDevice(ranks_.front().device));
  }

  DeviceMemory& memory(std::int32_t rank) override {
    return others_[static_cast<std::size_t>(rank - 1)]->memory();
  }

  bool launch(Collective what, std::int64_t count, const std::vector<RankBuffers>& buffers, Stream stream,
              std::string& why) override {
    auto* first = static_cast<cudaStream_t>(stream);
    bool fine = good(cudaSetDevice(ranks_.front().device), "cudaSetDevice", why) &&
                good(cudaEventRecord(ranks_.front().event, first), "fork", why);
    for (std::size_t r = 1; r < ranks_.size() && fine; ++r) {
      fine = good(cudaSetDevice(ranks_[r].device), "cudaSetDevice", why) &&
             good(cudaStreamWaitEvent(ranks_[r].stream, ranks_.front().event, 0), "fork", why);
    }
    fine = fine && good(nccl().group_start(), "ncclGroupStart", why);
    if (fine) {
      for (std::size_t r = 0; r < ranks_.size() && fine; ++r) {
        fine = good(call(what, count, buffers[r], r, r == 0 ? first : ranks_[r].stream), "NCCL", why);
      }
      fine = good(nccl().group_end(), "ncclGroupEnd", why) && fine;
    }
    for (std::size_t r = 1; r < ranks_.size() && fine; ++r) {
      fine = good(cudaSetDevice(ranks_[r].device), "cudaSetDevice", why) &&
             good(cudaEventRecord(ranks_[r].event, ranks_[r].stream), "join", why);
    }
    fine = good(cudaSetDevice(ranks_.front().device), "cudaSetDevice", why) && fine;
    for (std::size_t r = 1; r < ranks_.size() && fine; ++r) {
      fine = good(cudaStreamWaitEvent(first, ranks_[r].event, 0), "join", why);
    }
    return fine;
  }

  bool synchronize(std::string& why) override {
    bool fine = true;
    for (std::size_t r = ranks_.size(); r-- > 0;) {  // rank 0 last: its device stays current
      fine = good(cudaSetDevice(ranks_[r].device), "cudaSetDevice", why) &&
             good(cudaDeviceSynchronize(), "synchronise", why) && fine;
    }
    return fine;
  }

 private:
  ncclResult_t call(Collective what, std::int64_t count, const RankBuffers& at, std::size_t rank,
                    cudaStream_t stream) const {
    const auto all = static_cast<std::size_t>(count), part = all / ranks_.size();
    const ncclComm_t communicator = ranks_[rank].communicator;
    switch (what) {
      case Collective::all_reduce:
        return nccl().all_reduce(at.send, at.receive, all, ncclBfloat16, ncclSum, communicator, stream);
      case Collective::all_gather:
        return nccl().all_gather(at.send, at.receive, part, ncclBfloat16, communicator, stream);
      case Collective::reduce_scatter:
        return nccl().reduce_scatter(at.send, at.receive, part, ncclBfloat16, ncclSum, communicator, stream);
      case Collective::all_to_all: return exchange(part, at, communicator, stream);
      case Collective::send_recv: break;
    }
    const auto peer = static_cast<int>(rank ^ 1);
    if (static_cast<std::size_t>(peer) >= ranks_.size()) return ncclSuccess;
    if (rank % 2 == 0) return nccl().send(at.send, all, ncclBfloat16, peer, communicator, stream);
    return nccl().receive(at.receive, all, ncclBfloat16, peer, communicator, stream);
  }

  ncclResult_t exchange(std::size_t part, const RankBuffers& at, ncclComm_t communicator,
                        cudaStream_t stream) const {
    for (std::size_t peer = 0; peer < ranks_.size(); ++peer) {
      const auto* from = static_cast<const unsigned char*>(at.send) + peer * part * 2;
      auto* to = static_cast<unsigned char*>(at.receive) + peer * part * 2;
      ncclResult_t result =
          nccl().send(from, part, ncclBfloat16, static_cast<int>(peer), communicator, stream);
      if (result == ncclSuccess) {
        result = nccl().receive(to, part, ncclBfloat16, static_cast<int>(peer), communicator, stream);
      }
      if (result != ncclSuccess) return result;
    }
    return ncclSuccess;
  }

  const std::vector<Rank>& ranks_;
  std::vector<std::unique_ptr<Device>> others_;
};

}  // namespace

std::unique_ptr<RankGroup> make_rank_group(std::int32_t ranks, int first, std::string& why) {
  if (!nccl().why.empty()) {
    why = nccl().why;
    return nullptr;
  }
  std::vector<std::unique_ptr<Device>> all = devices(why), others;
  std::vector<int> chosen = {first};
  for (std::unique_ptr<Device>& device : all) {
    if (device->info().index == first || static_cast<std::int32_t>(chosen.size()) == ranks) continue;
    chosen.push_back(device->info().index);
    others.push_back(std::move(device));
  }
  if (static_cast<std::int32_t>(chosen.size()) < ranks) {
    why = std::to_string(ranks) + " ranks need as many devices; there are " + std::to_string(chosen.size());
    return nullptr;
  }
  const std::vector<Rank>* made = connected(chosen, why);
  if (made == nullptr) return nullptr;
  if (!good(cudaSetDevice(first), "cudaSetDevice", why)) return nullptr;
  return std::make_unique<Group>(*made, std::move(others));
}

}  // namespace orrery::kernels

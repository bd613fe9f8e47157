#include "kernels/rank_group.h"

#include <nccl.h>

#include <atomic>
#include <cstdlib>
#include <map>
#include <mutex>
#include <thread>

#include "kernels/rank_calls.h"
#include "kernels/rank_streams.h"
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
  decltype(&ncclCommAbort) comm_abort = nullptr;
  decltype(&ncclCommGetAsyncError) asynchronous_error = nullptr;

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
    library.take(comm_abort, "ncclCommAbort", why);
    library.take(asynchronous_error, "ncclCommGetAsyncError", why);
  }
};

const Nccl& nccl() {
  static const Nccl library;
  return library;
}

bool good(ncclResult_t result, const char* what, std::string& why) {
  if (result == ncclSuccess) return true;
  why = std::string(what) + ": " + nccl().words(result);
  return false;
}

using Communicators = std::vector<ncclComm_t>;

// Kept for the life of the process: making communicators takes seconds. Aborted ones are empty, and are made
// again.
Communicators* connected(const std::vector<int>& devices, std::string& why) {
  static std::map<std::vector<int>, Communicators> known;
  const auto found = known.find(devices);
  if (found != known.end() && !found->second.empty()) return &found->second;
  Communicators made(devices.size());
  if (!good(nccl().init_all(made.data(), static_cast<int>(made.size()), devices.data()), "ncclCommInitAll",
            why)) {
    return nullptr;
  }
  return &known.insert_or_assign(devices, std::move(made)).first->second;
}

class Group final : public RankGroup {
 public:
  Group(const RankStreams& streams, const Communicators& communicators,
        std::vector<std::unique_ptr<Device>> others)
      : streams_(streams), communicators_(communicators), others_(std::move(others)) {}
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;
  // Giving back what lies on the others makes them current.
  ~Group() override {
    others_.clear();
    static_cast<void>(cudaSetDevice(streams_.device(0)));
  }

  DeviceMemory& memory(std::int32_t rank) override {
    return others_[static_cast<std::size_t>(rank - 1)]->memory();
  }

  bool launch(Collective what, std::int64_t count, const std::vector<RankBuffers>& buffers, Stream stream,
              std::string& why, int times) override {
    auto* first = static_cast<cudaStream_t>(stream);
    bool fine = streams_.fork(first, why);
    for (int i = 0; i < times && fine; ++i) fine = call_all(what, count, buffers, first, why);
    return streams_.join(first, why) && fine;
  }

  bool synchronize(std::string& why) override { return streams_.synchronize(why); }

 private:
  bool call_all(Collective what, std::int64_t count, const std::vector<RankBuffers>& buffers,
                cudaStream_t first, std::string& why) const {
    if (!good(nccl().group_start(), "ncclGroupStart", why)) return false;
    bool fine = true;
    for (std::size_t r = 0; r < streams_.ranks() && fine; ++r) {
      fine = good(call(what, count, buffers[r], r, streams_.stream(r, first)), "NCCL", why);
    }
    return good(nccl().group_end(), "ncclGroupEnd", why) && fine;
  }

  ncclResult_t call(Collective what, std::int64_t count, const RankBuffers& at, std::size_t rank,
                    cudaStream_t stream) const {
    const auto all = static_cast<std::size_t>(count), part = all / streams_.ranks();
    const ncclComm_t communicator = communicators_[rank];
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
    if (static_cast<std::size_t>(peer) >= streams_.ranks()) return ncclSuccess;
    if (rank % 2 == 0) return nccl().send(at.send, all, ncclBfloat16, peer, communicator, stream);
    return nccl().receive(at.receive, all, ncclBfloat16, peer, communicator, stream);
  }

  ncclResult_t exchange(std::size_t part, const RankBuffers& at, ncclComm_t communicator,
                        cudaStream_t stream) const {
    for (std::size_t peer = 0; peer < streams_.ranks(); ++peer) {
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

  const RankStreams& streams_;
  const Communicators& communicators_;
  std::vector<std::unique_ptr<Device>> others_;
};

class Calls final : public RankCalls {
 public:
  explicit Calls(Communicators& communicators)
      : communicators_(communicators), guards_(communicators.size()) {}
  bool all_reduce(std::int32_t rank, std::uint16_t* x, std::int64_t count, Stream stream,
                  std::string& why) override {
    const auto r = static_cast<std::size_t>(rank);
    const std::lock_guard lock(guards_[r]);  // an abort frees the communicator
    if (aborted_) {
      why = "NCCL: the ranks have been given up";
      return false;
    }
    return good(nccl().all_reduce(x, x, static_cast<std::size_t>(count), ncclBfloat16, ncclSum,
                                  communicators_[r], static_cast<cudaStream_t>(stream)),
                "NCCL", why);
  }
  bool fine(std::string& why) override {
    for (std::size_t r = 0; r < guards_.size(); ++r) {
      const std::unique_lock lock(guards_[r], std::try_to_lock);
      ncclResult_t met = ncclSuccess;
      if (!lock.owns_lock() || aborted_) continue;
      if (!good(nccl().asynchronous_error(communicators_[r], &met), "NCCL", why)) return false;
      if (met != ncclInProgress && !good(met, "NCCL", why)) return false;
    }
    return true;
  }
  // Each from a thread of its own: an abort may wait for its kernels, which wait for the others' abort. A
  // call that is stuck in a full queue keeps its communicator for ever: that one is aborted under it.
  void give_up() override {
    if (aborted_.exchange(true)) return;
    std::vector<std::thread> threads;
    for (std::size_t r = 0; r < guards_.size(); ++r)
      threads.emplace_back([this, r] {
        std::unique_lock lock(guards_[r], std::try_to_lock);
        for (int i = 0; i < patience && !lock.owns_lock(); ++i) {
          std::this_thread::yield();
          static_cast<void>(lock.try_lock());
        }
        static_cast<void>(nccl().comm_abort(communicators_[r]));
      });
    for (std::thread& thread : threads) thread.join();
    communicators_.clear();
  }

 private:
  static constexpr int patience = 1 << 20;  // a second, about
  Communicators& communicators_;
  std::vector<std::mutex> guards_;  // a rank each
  std::atomic<bool> aborted_ = false;
};

}  // namespace

std::unique_ptr<RankCalls> make_rank_calls(std::int32_t ranks, int first, std::string& why) {
  if (!nccl().why.empty()) {
    why = nccl().why;
    return nullptr;
  }
  std::vector<std::unique_ptr<Device>> others;
  const std::vector<int> chosen = devices_of_group(ranks, first, others, why);
  Communicators* made = chosen.empty() ? nullptr : connected(chosen, why);
  if (made == nullptr || !cuda_good(cudaSetDevice(first), "cudaSetDevice", why)) return nullptr;
  return std::make_unique<Calls>(*made);
}

std::unique_ptr<RankGroup> make_rank_group(std::int32_t ranks, int first, std::string& why) {
  if (!nccl().why.empty()) {
    why = nccl().why;
    return nullptr;
  }
  std::vector<std::unique_ptr<Device>> others;
  const std::vector<int> chosen = devices_of_group(ranks, first, others, why);
  if (chosen.empty()) return nullptr;
  const RankStreams* streams = RankStreams::of(chosen, why);
  const Communicators* made = streams == nullptr ? nullptr : connected(chosen, why);
  if (made == nullptr) return nullptr;
  if (!cuda_good(cudaSetDevice(first), "cudaSetDevice", why)) return nullptr;
  return std::make_unique<Group>(*streams, *made, std::move(others));
}

}  // namespace orrery::kernels

#include "kernels/rccl.h"

namespace orrery::kernels {

namespace {

// ncclResult_t, ncclDataType_t, ncclRedOp_t and hipError_t are int, communicators and streams pointers
// (rccl.h and hip_runtime_api.h of ROCm 6 and 7).
namespace abi {
using Communicator = void*;
constexpr int success = 0, bf16 = 9, sum = 0;
}  // namespace abi

struct Calls {
  int (*version)(int*) = nullptr;
  int (*init_all)(abi::Communicator*, int ranks, const int* devices) = nullptr;
  int (*destroy)(abi::Communicator) = nullptr;
  int (*group_start)() = nullptr;
  int (*group_end)() = nullptr;
  int (*all_reduce)(const void*, void*, std::size_t, int type, int operation, abi::Communicator,
                    void* stream) = nullptr;
  const char* (*words)(int) = nullptr;
  int (*set_device)(int) = nullptr;

  bool take(const VendorLibrary& rccl, const VendorLibrary& hip, std::string& why) {
    why.clear();
    rccl.take(version, "ncclGetVersion", why);
    rccl.take(init_all, "ncclCommInitAll", why);
    rccl.take(destroy, "ncclCommDestroy", why);
    rccl.take(group_start, "ncclGroupStart", why);
    rccl.take(group_end, "ncclGroupEnd", why);
    rccl.take(all_reduce, "ncclAllReduce", why);
    rccl.take(words, "ncclGetErrorString", why);
    hip.take(set_device, "hipSetDevice", why);
    return why.empty();
  }
};

class Ranks final : public RcclRanks {
 public:
  Ranks(const Calls& calls, std::vector<int> devices)
      : calls_(calls), devices_(std::move(devices)), communicators_(devices_.size(), nullptr) {}
  Ranks(const Ranks&) = delete;
  Ranks& operator=(const Ranks&) = delete;
  ~Ranks() override {
    for (abi::Communicator each : communicators_) {
      if (each != nullptr) calls_.destroy(each);
    }
  }

  bool connect(std::string& why) {
    return good(calls_.init_all(communicators_.data(), static_cast<int>(devices_.size()), devices_.data()),
                "ncclCommInitAll", why);
  }

  bool all_reduce(std::int64_t count, const std::vector<RankBuffers>& buffers,
                  const std::vector<Stream>& streams, std::string& why) override {
    if (buffers.size() != devices_.size() || streams.size() != devices_.size()) {
      why = "every rank needs a buffer and a stream";
      return false;
    }
    bool fine = good(calls_.group_start(), "ncclGroupStart", why);
    if (!fine) return false;
    for (std::size_t r = 0; r < devices_.size() && fine; ++r) {
      if (calls_.set_device(devices_[r]) != abi::success) {
        why = "hipSetDevice " + std::to_string(devices_[r]) + " failed";
        fine = false;
        break;
      }
      fine = good(calls_.all_reduce(buffers[r].send, buffers[r].receive, static_cast<std::size_t>(count),
                                    abi::bf16, abi::sum, communicators_[r], streams[r]),
                  "ncclAllReduce", why);
    }
    return good(calls_.group_end(), "ncclGroupEnd", why) && fine;  // a group that was begun is ended
  }

 private:
  bool good(int result, const char* what, std::string& why) const {
    if (result == abi::success) return true;
    if (why.empty()) why = std::string(what) + ": " + calls_.words(result);
    return false;
  }

  Calls calls_;
  std::vector<int> devices_;
  std::vector<abi::Communicator> communicators_;
};

}  // namespace

std::unique_ptr<RcclRanks> make_rccl_ranks(const VendorLibrary& rccl, const VendorLibrary& hip,
                                           const std::vector<int>& devices, std::string& why) {
  Calls calls;
  if (!calls.take(rccl, hip, why)) return nullptr;
  int version = 0;
  if (calls.version(&version) != abi::success || version < least_rccl_version) {
    why = rccl.file() + " has the interface of NCCL " + std::to_string(version) + "; " +
          std::to_string(least_rccl_version) + " and later are called";
    return nullptr;
  }
  auto ranks = std::make_unique<Ranks>(calls, devices);
  return ranks->connect(why) ? std::move(ranks) : nullptr;
}

}  // namespace orrery::kernels

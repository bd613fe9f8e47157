#include "kernels/rank_streams.h"

#include <map>

namespace orrery::kernels {

bool cuda_good(cudaError_t error, const char* what, std::string& why) {
  if (error == cudaSuccess) return true;
  why = std::string(what) + ": " + cudaGetErrorString(error);
  return false;
}

const RankStreams* RankStreams::of(const std::vector<int>& devices, std::string& why) {
  static std::map<std::vector<int>, RankStreams> known;
  const auto found = known.find(devices);
  if (found != known.end()) return &found->second;
  RankStreams made;
  made.devices_ = devices;
  if (!made.make(why)) return nullptr;
  return &known.emplace(devices, std::move(made)).first->second;
}

bool RankStreams::make(std::string& why) {
  bool fine = true;
  streams_.resize(ranks());
  events_.resize(ranks());
  for (std::size_t r = 0; r < ranks() && fine; ++r) {
    fine =
        current(r, why) &&
        cuda_good(cudaEventCreateWithFlags(&events_[r], cudaEventDisableTiming), "event", why) &&
        (r == 0 || cuda_good(cudaStreamCreateWithFlags(&streams_[r], cudaStreamNonBlocking), "stream", why));
  }
  return current(0, why) && fine;
}

bool RankStreams::fork(cudaStream_t first, std::string& why) const {
  bool fine = current(0, why) && cuda_good(cudaEventRecord(events_[0], first), "fork", why);
  for (std::size_t r = 1; r < ranks() && fine; ++r) {
    fine = current(r, why) && cuda_good(cudaStreamWaitEvent(streams_[r], events_[0], 0), "fork", why);
  }
  return current(0, why) && fine;
}

bool RankStreams::join(cudaStream_t first, std::string& why) const {
  bool fine = true;
  for (std::size_t r = 1; r < ranks() && fine; ++r) {
    fine = current(r, why) && cuda_good(cudaEventRecord(events_[r], streams_[r]), "join", why);
  }
  fine = current(0, why) && fine;
  for (std::size_t r = 1; r < ranks() && fine; ++r) {
    fine = cuda_good(cudaStreamWaitEvent(first, events_[r], 0), "join", why);
  }
  return fine;
}

bool RankStreams::synchronize(std::string& why) const {
  bool fine = true;
  for (std::size_t r = ranks(); r-- > 0;) {  // rank 0 last: its device stays current
    fine = current(r, why) && cuda_good(cudaDeviceSynchronize(), "synchronise", why) && fine;
  }
  return fine;
}

std::vector<int> devices_of_group(std::int32_t ranks, int first, std::vector<std::unique_ptr<Device>>& others,
                                  std::string& why) {
  std::vector<int> chosen = {first};
  for (std::unique_ptr<Device>& device : devices(why)) {
    if (device->info().index == first || static_cast<std::int32_t>(chosen.size()) == ranks) continue;
    chosen.push_back(device->info().index);
    others.push_back(std::move(device));
  }
  if (static_cast<std::int32_t>(chosen.size()) == ranks) return chosen;
  why = std::to_string(ranks) + " ranks need as many devices; there are " + std::to_string(chosen.size());
  return {};
}

}  // namespace orrery::kernels

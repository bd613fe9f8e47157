// Clients that will give up, and requests between an API server and the core: what the loop waits for besides
// executor and inbox. Both are empty, and cost a comparison, when a workload has neither.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "sim/request.h"

namespace orrery {

// A heap by (time, request), so that equal times are no matter of insertion.
template <class Entry>  // has `at` and `request_id()`
class TimedHeap {
 public:
  bool empty() const { return heap_.empty(); }
  SimTime next() const { return heap_.empty() ? SimTime::never() : heap_.front().at; }
  const Entry& front() const { return heap_.front(); }
  void push(Entry entry) {
    heap_.push_back(std::move(entry));
    std::push_heap(heap_.begin(), heap_.end(), later_first);
  }
  Entry pop() {
    std::pop_heap(heap_.begin(), heap_.end(), later_first);
    Entry entry = std::move(heap_.back());
    heap_.pop_back();
    return entry;
  }

 private:
  static bool later_first(const Entry& a, const Entry& b) {
    return a.at != b.at ? a.at > b.at : a.request_id() > b.request_id();
  }
  std::vector<Entry> heap_;
};

struct Departure {  // the engine learns at `at` that the client is gone
  SimTime at;
  InstanceId instance;
  SequenceId sequence;
  RequestId request;
  std::uint32_t life = 0;  // of the instance
  RequestId request_id() const { return request; }
};

struct Entrance {  // the request reaches the core at `at`
  SimTime at;
  InstanceId instance;
  InstanceId from = InstanceId::none();  // whence its images' embeddings are fetched; none: nothing is
  Request request;
  std::uint32_t life = 0;       // of the instance
  std::uint32_t from_life = 0;  // of the one with its embeddings
  RequestId request_id() const { return request.id; }
};

}  // namespace orrery

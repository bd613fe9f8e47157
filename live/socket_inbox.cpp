#include "live/socket_inbox.h"

namespace orrery {

RequestId SocketInbox::push(SocketRequest request) {
  Request r;
  r.prompt_tokens = request.prompt_tokens;
  r.max_output_tokens = request.max_tokens;
  r.priority = request.priority;
  r.ignore_eos = true;
  r.hash_block_size = request.hash_block_size;
  r.hash_ids = std::move(request.hash_ids);
  RequestId id;
  SimTime at;
  {
    // Numbered and dated under the lock: the loop relies on arrivals in order of their numbers.
    const std::lock_guard lock(mutex_);
    if (!open_) return RequestId::none();
    r.id = id = RequestId(count_++);
    r.arrival = at = clock_.now();
    waiting_.push_back(std::move(r));
  }
  clock_.wake(at);
  return id;
}

void SocketInbox::close() {
  {
    const std::lock_guard lock(mutex_);
    open_ = false;
  }
  clock_.wake(clock_.now());
}

SimTime SocketInbox::next() const {
  const std::lock_guard lock(mutex_);
  if (!waiting_.empty()) return waiting_.front().arrival + input_delay_;
  return open_ ? SimTime(INT64_MAX - 1) : SimTime::never();
}

void SocketInbox::poll(SimTime now, Arrivals& arrivals) {
  const std::lock_guard lock(mutex_);
  while (!waiting_.empty() && waiting_.front().arrival + input_delay_ <= now) {
    arrivals.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
  }
}

}  // namespace orrery

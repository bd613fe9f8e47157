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
    under_way_.insert(id.value());
    waiting_.push_back(std::move(r));
  }
  clock_.wake(at);
  return id;
}

void SocketInbox::leave(RequestId request) {
  {
    const std::lock_guard lock(mutex_);
    if (under_way_.erase(request.value()) == 0) return;
    if (gone_.empty()) gone_at_ = clock_.now();
    gone_.push_back(request);
  }
  clock_.wake(clock_.now());
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
  SimTime next = open_ ? SimTime(INT64_MAX - 1) : SimTime::never();
  if (!waiting_.empty()) next = waiting_.front().arrival + input_delay_;
  return gone_.empty() ? next : earlier(next, gone_at_);
}

void SocketInbox::poll(SimTime now, Arrivals& arrivals) {
  const std::lock_guard lock(mutex_);
  while (!waiting_.empty() && waiting_.front().arrival + input_delay_ <= now) {
    arrivals.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
  }
}

void SocketInbox::poll_departures(SimTime, std::vector<RequestId>& gone) {
  const std::lock_guard lock(mutex_);
  gone.insert(gone.end(), gone_.begin(), gone_.end());
  gone_.clear();
}

void SocketInbox::on_finished(RequestId request, SimTime) {
  const std::lock_guard lock(mutex_);
  under_way_.erase(request.value());
}

}  // namespace orrery

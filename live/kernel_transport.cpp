#include "live/kernel_transport.h"

#include <algorithm>
#include <utility>

namespace orrery {

KernelTransport::KernelTransport(const Options& options) : options_(options) {
  if (options_.clock != nullptr) worker_ = std::thread([this] { work(); });
}

KernelTransport::~KernelTransport() {
  if (!worker_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  worker_.join();
}

std::string KernelTransport::failure() const {
  const std::lock_guard lock(mutex_);
  return failure_;
}

// Where the client has left, the prefill side may have nothing any more: then a transfer fails, so that the
// decode side does not keep what never came.
void KernelTransport::begin(const KvPull& pull, SimTime now) {
  KvMove what;
  const bool nowhere = pull.blocks > 0 && !options_.from->holds(pull.request);
  if (pull.blocks > 0 && !nowhere) {
    what.from = options_.from->lend(pull.request, pull.blocks);
    what.to = options_.to->adopt(pull.request, pull.sequence, pull.blocks);
  }
  put(pull.request, std::move(what), nowhere, now);
}

// What is sent part by part keeps its blocks: the decode instance has room for them since it said so. Of what
// it has already it shares the blocks, which the engine would write again; here they are left alone.
void KernelTransport::send(const KvSend& part, SimTime now) {
  auto way = std::find_if(ways_.begin(), ways_.end(),
                          [&](const Way& w) { return w.request == part.request.value(); });
  if (way == ways_.end()) {
    ways_.push_back({.request = part.request.value(), .from = {}, .to = {}});
    way = ways_.end() - 1;
    way->nowhere = !options_.from->holds(part.request);
    if (!way->nowhere) {
      const std::int64_t blocks = options_.to->lacking(part.request);
      way->from = options_.from->lend(part.request, blocks);
      way->to = options_.to->adopt(part.request, part.sequence, blocks);
    }
  }
  KvMove what{way->from, way->to, part.first, part.last, part.of};
  const bool nowhere = way->nowhere;
  if (part.last == part.of) ways_.erase(way);
  put(part.request, std::move(what), nowhere, now);
}

bool KernelTransport::carry_out(const KvMove& what, std::int64_t& ns) {
  std::string why;
  if (what.from.empty() || options_.mover->move(what, ns, why)) return true;
  const std::lock_guard lock(mutex_);
  failure_ = why.empty() ? "KV could not be moved" : why;
  failed_ = true;
  return false;
}

void KernelTransport::put(RequestId request, KvMove what, bool nowhere, SimTime now) {
  ++moves_;
  if (what.last == what.of) blocks_ += static_cast<std::int64_t>(what.from.size());
  Move move{.request = request, .what = std::move(what), .at = now};
  move.last = move.what.last == move.what.of;
  move.failed = nowhere;
  if (options_.clock == nullptr) {
    std::int64_t ns = 0;
    carry_out(move.what, ns);
    busy_ns_ += ns;
    free_ = move.at = later(free_, now) + SimDuration(ns);
    move.over = true;
  }
  {
    const std::lock_guard lock(mutex_);
    open_.push_back(std::move(move));
  }
  changed_.notify_all();
}

void KernelTransport::work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    Move* next = nullptr;
    changed_.wait(lock, [&] {
      const auto at = std::find_if(open_.begin(), open_.end(), [](const Move& m) { return !m.over; });
      next = at == open_.end() ? nullptr : &*at;
      return stop_ || next != nullptr;
    });
    if (stop_) return;
    const bool wanted = !next->dropped;
    lock.unlock();  // nobody takes out what is not over
    std::int64_t ns = 0;
    if (wanted) carry_out(next->what, ns);
    const SimTime at = options_.clock->now();
    lock.lock();
    busy_ns_ += ns;
    next->at = at;
    next->over = true;
    options_.clock->wake(at);
    changed_.notify_all();
  }
}

// Blocks of what is under way are still written: waits until they are not.
void KernelTransport::forget(RequestId request, SimTime) {
  std::unique_lock lock(mutex_);
  for (Move& m : open_) m.dropped = m.dropped || m.request == request;
  changed_.wait(lock, [&] {
    return stop_ ||
           std::all_of(open_.begin(), open_.end(), [](const Move& m) { return m.over || !m.dropped; });
  });
  std::erase_if(ways_, [&](const Way& w) { return w.request == request.value(); });
  lock.unlock();
  options_.from->release(request);
}

SimTime KernelTransport::next_event() {
  const std::lock_guard lock(mutex_);
  if (open_.empty()) return SimTime::never();
  if (open_.front().over) return open_.front().at;
  return options_.clock->now() + SimDuration(1'000'000'000);  // the thread will say
}

void KernelTransport::collect(SimTime now, std::vector<KvPullDone>& done) {
  const std::size_t first = done.size();
  std::unique_lock lock(mutex_);
  while (!open_.empty() && open_.front().over && open_.front().at <= now) {
    const Move& m = open_.front();
    if (m.last && !m.dropped) done.push_back({m.request, m.at, m.failed});
    open_.pop_front();
  }
  lock.unlock();
  for (std::size_t i = first; i < done.size(); ++i) options_.from->release(done[i].request);
  const auto begin = done.begin() + static_cast<std::ptrdiff_t>(first);
  std::sort(begin, done.end(), [](const KvPullDone& a, const KvPullDone& b) {
    return a.at != b.at ? a.at < b.at : a.request < b.request;
  });
}

}  // namespace orrery

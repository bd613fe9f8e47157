#include "sim/trace_inbox.h"

#include <algorithm>

namespace orrery {

namespace {
constexpr auto later_first = [](const auto& a, const auto& b) {
  return a.at != b.at ? a.at > b.at : a.after > b.after;
};
}  // namespace

TraceInbox::TraceInbox(std::unique_ptr<RequestSource> source, SimDuration input_delay,
                       std::int64_t concurrency, OutputLengths& oracle)
    : source_(std::move(source)), input_delay_(input_delay), concurrency_(concurrency),
      unstarted_(concurrency), oracle_(oracle) {
  read();
}

void TraceInbox::read() {
  has_pending_ = source_->next(pending_);
  if (has_pending_ && !pending_.images.empty()) {
    has_pending_ = false;
    failed_ = true;
    error_ = invalid_input("request " + std::to_string(pending_.index) +
                           " has images: Orrery does not model vision encoders yet; remove them "
                           "(orrery trace convert) or leave the request out");
  }
}

const Error* TraceInbox::error() const { return failed_ ? &error_ : source_->error(); }

SimTime TraceInbox::next() const {
  if (!has_pending_) return SimTime::never();
  if (concurrency_ == 0) return pending_.arrival + input_delay_;
  if (unstarted_ > 0) return SimTime(0) + input_delay_;
  return submissions_.empty() ? SimTime::never() : submissions_.front().at + input_delay_;
}

void TraceInbox::poll(SimTime now, Arrivals& arrivals) {
  if (concurrency_ == 0) {
    while (has_pending_ && pending_.arrival + input_delay_ <= now) push(arrivals, pending_.arrival);
    return;
  }
  if (SimTime(0) + input_delay_ <= now) {
    for (; has_pending_ && unstarted_ > 0; --unstarted_) push(arrivals, SimTime(0));
  }
  while (has_pending_ && !submissions_.empty() && submissions_.front().at + input_delay_ <= now) {
    const SimTime at = submissions_.front().at;
    std::pop_heap(submissions_.begin(), submissions_.end(), later_first);
    submissions_.pop_back();
    push(arrivals, at);
  }
}

void TraceInbox::push(Arrivals& arrivals, SimTime submitted) {
  Request r;
  r.id = RequestId(pending_.index);
  r.arrival = submitted;
  r.prompt_tokens = pending_.prompt_tokens;
  r.max_output_tokens = pending_.max_output_tokens;
  r.priority = pending_.priority;
  r.hash_block_size = pending_.hash_block_size;
  r.stream = stream_of(pending_);
  r.hash_ids.swap(pending_.hash_ids);
  r.ignore_eos = pending_.output_tokens == pending_.max_output_tokens;
  if (!r.ignore_eos) oracle_.set(r.id, pending_.output_tokens);
  arrivals.push_back(std::move(r));
  read();
}

// A session's prompts are one growing token stream while each extends the previous prompt and its answer; a
// prompt that does not begins a stream of its own.
std::uint64_t TraceInbox::stream_of(const TraceRequest& request) {
  if (request.session == 0 || !request.hash_ids.empty()) return 0;
  Stream& stream = streams_[request.session];
  if (stream.id == 0 || request.prompt_tokens <= stream.tokens) stream.id = next_stream_++;
  stream.tokens = std::int64_t{request.prompt_tokens} + request.output_tokens;
  return stream.id;
}

void TraceInbox::on_finished(RequestId request, SimTime at) {
  if (concurrency_ == 0) return;
  submissions_.push_back({at, request.value()});
  std::push_heap(submissions_.begin(), submissions_.end(), later_first);
}

}  // namespace orrery

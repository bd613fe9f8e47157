#include "sim/trace_inbox.h"

#include <algorithm>

namespace orrery {

namespace {
constexpr auto later_first = [](const auto& a, const auto& b) {
  return a.at != b.at ? a.at > b.at : a.after > b.after;
};
constexpr auto ready_later_first = [](const auto& a, const auto& b) {
  return a.ready != b.ready ? a.ready > b.ready : a.request.id > b.request.id;
};
}  // namespace

TraceInbox::TraceInbox(std::unique_ptr<RequestSource> source, SimDuration input_delay,
                       std::int64_t concurrency, OutputLengths& oracle, ImageFrontEnd* images)
    : source_(std::move(source)), input_delay_(input_delay), concurrency_(concurrency),
      unstarted_(concurrency), oracle_(oracle), images_(images) {
  read();
}

void TraceInbox::read() {
  has_pending_ = source_->next(pending_);
  if (!has_pending_ || pending_.images.empty()) return;
  const std::string who = "request " + std::to_string(pending_.index) + " ";
  if (images_ == nullptr) {
    error_ = invalid_input(who +
                               "has images, and the model has no vision encoder or the engine is told not to "
                               "use it; name a multimodal model (orrery list models), or leave the images "
                               "out",
                           pending_.where, "images");
  } else {
    const Status laid_out = images_->lay_out(pending_);
    if (laid_out.ok()) return;
    error_ = invalid_input(who + laid_out.errors().front().message, pending_.where, "images");
  }
  has_pending_ = false;
  failed_ = true;
}

const Error* TraceInbox::error() const { return failed_ ? &error_ : source_->error(); }

SimTime TraceInbox::next() const {
  const SimTime submission = next_submission();
  return preparing_.empty() ? submission : earlier(submission, preparing_.front().ready);
}

SimTime TraceInbox::next_submission() const {
  if (!has_pending_) return SimTime::never();
  if (concurrency_ == 0) return pending_.arrival + input_delay_;
  if (unstarted_ > 0) return SimTime(0) + input_delay_;
  return submissions_.empty() ? SimTime::never() : submissions_.front().at + input_delay_;
}

void TraceInbox::poll(SimTime now, Arrivals& arrivals) {
  submit(now, arrivals);
  while (!preparing_.empty() && preparing_.front().ready <= now) {
    std::pop_heap(preparing_.begin(), preparing_.end(), ready_later_first);
    arrivals.push_back(std::move(preparing_.back().request));
    preparing_.pop_back();
  }
}

void TraceInbox::submit(SimTime now, Arrivals& arrivals) {
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
  const SimDuration timeout = pending_.timeout, cancel = pending_.cancel_after;
  if (timeout.ns() > 0) r.gives_up = submitted + timeout;
  r.times_out = timeout.ns() > 0 && (cancel.ns() == 0 || timeout <= cancel);
  if (cancel.ns() > 0 && !r.times_out) r.gives_up = submitted + cancel;
  r.hash_block_size = pending_.hash_block_size;
  r.ignore_eos = pending_.output_tokens == pending_.max_output_tokens;
  if (!r.ignore_eos) oracle_.set(r.id, pending_.output_tokens);
  if (pending_.images.empty()) {
    r.stream = stream_of(pending_, r.prompt_tokens, true);
    r.hash_ids.swap(pending_.hash_ids);
    const SimTime turn = images_ == nullptr ? submitted : images_->turn_of_text(submitted);
    if (turn > submitted)
      await(turn + input_delay_, std::move(r));
    else
      arrivals.push_back(std::move(r));
  } else {
    prepare(std::move(r), submitted);
  }
  read();
}

// Its placeholders grow the prompt, and it reaches the engine when its images are prepared.
void TraceInbox::prepare(Request r, SimTime submitted) {
  const bool in_session = pending_.session != 0 && pending_.hash_ids.empty();
  const SessionImages* before = nullptr;
  if (in_session) {
    const auto stream = streams_.find(pending_.session);
    if (stream != streams_.end() && stream->second.id != 0) before = &stream->second.before;
  }
  const bool continues = images_->place(pending_, before, r);
  r.stream = stream_of(pending_, r.prompt_tokens, continues);
  if (in_session) streams_[pending_.session].before.placed = r.images;
  const SimTime ready = images_->prepare(pending_, submitted) + input_delay_;
  r.preparation = images_->last_work();
  r.sending = images_->last_sent();
  await(ready, std::move(r));
}

void TraceInbox::await(SimTime ready, Request r) {
  preparing_.push_back({ready, std::move(r)});
  std::push_heap(preparing_.begin(), preparing_.end(), ready_later_first);
}

// A session's prompts are one growing token stream while each extends the previous prompt and its answer; a
// prompt that does not begins a stream of its own. `continues`: its images allow that.
std::uint64_t TraceInbox::stream_of(const TraceRequest& request, std::int32_t prompt_tokens, bool continues) {
  if (request.session == 0 || !request.hash_ids.empty()) return 0;
  Stream& stream = streams_[request.session];
  const bool dropped_images = request.images.empty() && !stream.before.placed.empty();
  if (stream.id == 0 || !continues || dropped_images || prompt_tokens <= stream.before.tokens) {
    stream.id = next_stream_++;
    stream.before.placed.clear();
  }
  stream.before.tokens = std::int64_t{prompt_tokens} + request.output_tokens;
  return stream.id;
}

// By what had come before it, so that it does not matter when the question is asked.
SimTime TraceInbox::client_reads(SimTime update, SimDuration delay) {
  if (images_ == nullptr) return update;
  return later(update, images_->loop_free(update - input_delay_) - delay);
}

void TraceInbox::on_finished(RequestId request, SimTime at) {
  if (concurrency_ == 0) return;
  submissions_.push_back({at, request.value()});
  std::push_heap(submissions_.begin(), submissions_.end(), later_first);
}

}  // namespace orrery

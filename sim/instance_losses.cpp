// Instances that are lost, and sequences that lose what they wait for.
#include <algorithm>

#include "sim/instance.h"

namespace orrery {

std::vector<Instance::Live> Instance::live() const {
  std::vector<Live> all;
  for (std::size_t i = 0; i < progress_.size(); ++i) {
    const Progress& p = progress_[i];
    if (!p.request.is_none() && !p.lost)
      all.push_back({SequenceId(static_cast<std::uint32_t>(i)), p.request});
  }
  return all;
}

// A prefill leg's token is thrown away. Tokens whose stream event was still held did not reach the client.
LostRequest Instance::lost_of(SequenceId sequence, SimTime now) {
  const Progress& p = progress_of(sequence);
  LostRequest l;
  l.request = p.request;
  if (wiring_.relay != nullptr) return l;  // its images alone were here
  l.admitted = p.admitted;
  l.first_scheduled = p.first_scheduled;
  l.cached = p.cached;
  l.preemptions = p.preemptions;
  l.prompt_computed = std::min<std::int64_t>(p.prompt, p.computed);
  if (const Handoff* const h = handoff_of(p)) {
    l.admitted = !h->first_scheduled.is_never();
    l.first_scheduled = h->first_scheduled;
    l.cached = h->cached;
    l.preemptions += h->preemptions;
    // By the prefill instance, which may be at it still.
    l.prompt_computed = h->prefill_over || !wiring_.handoffs->rules.at_once ? p.prompt : 0;
  }
  if (!p.has_token || wiring_.role == PoolRole::prefill) return l;
  l.streamed = true;
  l.first_token = p.first_token;
  l.outputs = std::max(1, scheduler_->outputs_of(sequence));
  if (holds_tokens()) l.outputs = streams_->sent_by(sequence, now - output_delay_, l.outputs);
  return l;
}

std::vector<LostRequest> Instance::lose_all(SimTime now) {
  std::vector<LostRequest> lost;
  for (std::size_t i = 0; i < progress_.size(); ++i) {
    const SequenceId sequence(static_cast<std::uint32_t>(i));
    Progress& p = progress_[i];
    if (p.request.is_none()) continue;
    if (p.left || p.lost) {
      end_unanswered(sequence, p.has_token ? std::max(1, scheduler_->outputs_of(sequence)) : 0);
      continue;
    }
    lost.push_back(lost_of(sequence, now));
    if (wiring_.answers != nullptr) wiring_.answers->over(p.request, 0);
    observe_request(RequestEvent::Kind::lost, p.request, now, 0, lost.back().outputs, 0);
    forget(sequence);
  }
  const auto by_request = [](const LostRequest& a, const LostRequest& b) { return a.request < b.request; };
  std::sort(lost.begin(), lost.end(), by_request);
  const double used =
      1.0 - static_cast<double>(levels_.free_blocks) / static_cast<double>(levels_.usable_blocks);
  wiring_.collector->change_levels(-levels_.running, -levels_.waiting, -used);
  return lost;
}

std::optional<LostRequest> Instance::withdraw(SequenceId sequence, SimTime now) {
  Progress& p = progress_of(sequence);
  if (p.left) {
    p.lost |= silent();
    return std::nullopt;
  }
  const LostRequest l = lost_of(sequence, now);
  observe_request(RequestEvent::Kind::lost, p.request, now, 0, l.outputs, 0);
  if (wiring_.answers != nullptr) wiring_.answers->over(p.request, 0);
  p.lost = true;
  if (holds_tokens()) streams_->client_left(sequence);
  departed_.push_back(sequence);
  muted_.push_back(p.request);
  wiring_.executor->cut(wiring_.id, now);
  return l;
}

// Its request's last word is somebody else's.
void Instance::forget(SequenceId sequence) {
  Progress& p = progress_of(sequence);
  --outstanding_;
  times_.add(p.request.value());
  p.request = RequestId::none();
}

// The word of a withdrawn sequence, that nothing is to be fetched for it, would reach its request's next
// life; nor is anything fetched for it.
std::span<const PullWork> Instance::take_unmuted_pulls() {
  unmuted_.clear();
  for (const PullWork& work : scheduler_->take_pulls()) {
    const bool muted = std::find(muted_.begin(), muted_.end(), work.request) != muted_.end() &&
                       (work.sequence.is_none() || progress_of(work.sequence).lost);
    if (!muted) unmuted_.push_back(work);
  }
  std::erase_if(muted_, [&](RequestId request) {
    return std::none_of(departed_.begin(), departed_.end(), [&](SequenceId s) {
      return progress_of(s).lost && progress_of(s).request == request;
    });
  });
  return unmuted_;
}

}  // namespace orrery

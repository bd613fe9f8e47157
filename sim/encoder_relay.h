// Images encoded on instances of their own: where a request is between its arrival, an encoder instance's
// answer and its entry into a language instance. Looked up by request, never iterated.
//
// As vLLM's proxy for disaggregated encoding does it (examples of 0.24; its ECConnector does the rest): the
// encoder instance is asked first, with the images alone and for one token; when it has answered, the whole
// request goes to a language instance, whose API server prepares the images again.
#pragma once

#include <algorithm>
#include <map>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/check.h"
#include "sim/departures.h"
#include "sim/request.h"

namespace orrery {

class EncoderRelay {
 public:
  struct Sent {  // on its way to a language instance
    SimTime at;
    RequestId id;
    InstanceId from, to;
    std::uint32_t from_life = 0, to_life = 0;
    Request request;
    RequestId request_id() const { return id; }
  };

  explicit EncoderRelay(std::size_t instances) : free_at_(instances, SimTime(0)), held_(instances, 0) {}

  // Remembers the request; returns what an encoder instance is asked.
  Request open(const Request& request) {
    Request leg = request;
    leg.leg = RequestLeg::encode;
    leg.hash_ids.clear();
    leg.stream = 0;
    leg.prompt_tokens = 0;
    for (PlacedImage& image : leg.images) {
      image.offset = leg.prompt_tokens;
      leg.prompt_tokens += image.tokens;
    }
    requests_[request.id.value()] = request;
    return leg;
  }
  void drop(RequestId request) { requests_.erase(request.value()); }  // it ended at the encoder instance
  void answered(RequestId request, InstanceId from, std::uint32_t life, SimTime at) {
    ++held_[from.value()];
    answers_.push({.at = at, .id = request, .from = from, .to = {}, .from_life = life, .request = {}});
  }
  // Of how many answered requests an encoder instance has embeddings that somebody will fetch; one less;
  // none, for it is gone.
  std::int32_t held(InstanceId from) const { return held_[from.value()]; }
  void given_back(InstanceId from) { --held_[from.value()]; }
  void begin_anew(InstanceId instance, SimTime now) {
    held_[instance.value()] = 0;
    free_at_[instance.value()] = now;
  }
  SimTime next() const { return earlier(answers_.next(), prepared_.next()); }
  SimTime next_answer() const { return answers_.next(); }
  Sent pop_answer() {
    Sent sent = answers_.pop();
    const auto it = requests_.find(sent.id.value());
    ORRERY_CHECK(it != requests_.end(), "a request that an encoder instance has answered");
    sent.request = std::move(it->second);
    requests_.erase(it);
    return sent;
  }
  // Its images are prepared by the API server of `sent.to`, one request after another, and it is there `way`
  // later.
  void prepare(Sent sent, SimDuration way) {
    SimTime& free = free_at_[sent.to.value()];
    free = later(free, sent.at) + sent.request.preparation;
    sent.at = free + sent.request.sending + way;
    prepared_.push(std::move(sent));
  }
  SimTime next_prepared() const { return prepared_.next(); }
  Sent pop_prepared() { return prepared_.pop(); }

  // It is in the engine, which sets it aside until its embeddings have come.
  void wait(Entrance entrance) {
    const std::uint64_t id = entrance.request.id.value();
    waiting_[id] = std::move(entrance);
  }
  bool waits(RequestId request) const { return waiting_.count(request.value()) > 0; }
  Entrance fetched(RequestId request) {
    const auto it = waiting_.find(request.value());
    Entrance entrance = std::move(it->second);
    waiting_.erase(it);
    return entrance;
  }
  // Whose embeddings are on the way from or to an instance that is gone: they are out of here, by request.
  std::vector<Entrance> take_fetching(InstanceId gone) {
    std::vector<Entrance> all;
    std::erase_if(waiting_, [&](const auto& one) {
      const bool goes = one.second.from == gone || one.second.instance == gone;
      if (goes) all.push_back(one.second);
      return goes;
    });
    return all;
  }
  bool empty() const { return requests_.empty() && waiting_.empty() && prepared_.empty(); }

  // Of different images.
  static std::int64_t embeddings_of(const Request& request) {
    std::int64_t sum = 0;
    for (auto image = request.images.begin(); image != request.images.end(); ++image) {
      const bool again = std::any_of(request.images.begin(), image,
                                     [&](const PlacedImage& other) { return other.id == image->id; });
      if (!again) sum += image->embeddings;
    }
    return sum;
  }

 private:
  std::unordered_map<std::uint64_t, Request> requests_;  // at encoder instances; looked up, never iterated
  std::map<std::uint64_t, Entrance> waiting_;            // by request
  TimedHeap<Sent> answers_, prepared_;
  std::vector<SimTime> free_at_;    // of an instance's API server, for images
  std::vector<std::int32_t> held_;  // by encoder instance
};

}  // namespace orrery

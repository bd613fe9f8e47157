#include "sim/sglang_balancer.h"

#include "base/random.h"

namespace orrery {

namespace {

constexpr SimDuration read_interval(20'000'000);  // refresh_load_budget

class RankByRoom final : public RankBalancer {
 public:
  RankByRoom(std::size_t ranks, std::uint64_t seed) : ranks_(ranks), seed_(seed) {}
  std::size_t choose(const Request& request) override {
    RandomStream room(seed_, RandomPurpose::bootstrap_room, request.id.value());
    return room.below(std::uint64_t{1} << 63) % ranks_;
  }

 private:
  std::size_t ranks_;
  std::uint64_t seed_;
};

}  // namespace

std::unique_ptr<RankBalancer> make_rank_by_room(std::size_t ranks, std::uint64_t seed) {
  return std::make_unique<RankByRoom>(ranks, seed);
}

SglangBalancer::SglangBalancer(std::size_t ranks, const Rules& rules,
                               std::function<PublishedLoad(std::size_t)> load)
    : rules_(rules), load_(std::move(load)), ranks_(ranks) {}

bool SglangBalancer::less(const PublishedLoad& a, const PublishedLoad& b) const {
  if (rules_.by_tokens && a.tokens != b.tokens) return a.tokens < b.tokens;
  return a.requests < b.requests;
}

std::size_t SglangBalancer::choose(const Request& request) {
  if (!has_read_ || request.arrival - last_read_ >= read_interval) {
    has_read_ = true;
    last_read_ = request.arrival;
    for (Rank& rank : ranks_) {
      if (rank.fresh) rank.counted = rank.published;
      rank.fresh = false;
    }
  }
  std::size_t chosen = 0;
  for (std::size_t r = 1; r < ranks_.size(); ++r) {
    if (less(ranks_[r].counted, ranks_[chosen].counted)) chosen = r;
  }
  ++ranks_[chosen].counted.requests;
  if (rules_.by_tokens) ranks_[chosen].counted.tokens += request.prompt_tokens;
  return chosen;
}

void SglangBalancer::publish(Rank& rank, const PublishedLoad& load) {
  rank.published = load;
  rank.fresh = true;
  rank.quiet = 0;
}

void SglangBalancer::processing(std::size_t index, bool prompts) {
  Rank& rank = ranks_[index];
  if (!prompts && ++rank.quiet < rules_.publish_interval) return;
  publish(rank, load_(index));
}

void SglangBalancer::idle() {
  for (Rank& rank : ranks_) publish(rank, {});
}

}  // namespace orrery

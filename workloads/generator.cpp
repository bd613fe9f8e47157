#include "workloads/generator.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/det_math.h"
#include "base/random.h"
#include "workloads/generators/arrival_process.h"
#include "workloads/generators/length_sampler.h"
#include "workloads/generators/servegen.h"
#include "workloads/priority.h"
#include "workloads/trace_reader.h"

namespace orrery {

namespace {

constexpr std::size_t kMaxPairs = 20'000;  // resample: rows that are kept

struct LengthPair {
  std::int32_t input = 0, output = 0;
};

// A conversation between two of its turns.
struct Conversation {
  SimTime arrival;           // of its next turn
  std::uint64_t number = 0;  // from 0, in order of the first turns
  std::uint64_t turns_left = 0;
  std::int32_t history = 0;  // tokens of the previous prompt and output
  std::int32_t group = 0;
  LengthPair lengths;  // of its next turn: new tokens of the prompt, tokens of the answer
  RandomStream session, input, output;
};

// Largest block size of at most 512 that divides the shared prefix and is a whole number of KV blocks (16
// tokens); a prefix that has none is one block by itself. Either way the prefix ends where a block ends.
std::int32_t block_size_for(std::int32_t shared_prefix_tokens) {
  for (std::int32_t size = 512; size >= 16; size /= 2) {
    if (shared_prefix_tokens % size == 0) return size;
  }
  return shared_prefix_tokens;
}

class GeneratorSource final : public RequestSource {
 public:
  GeneratorSource(const GeneratorSpec& spec, std::uint64_t seed)
      : spec_(spec), seed_(seed),
        arrivals_(spec.arrivals, spec.arrivals.rate / spec.sessions.turns_mean, seed), input_(spec.input),
        output_(spec.output), next_start_(arrivals_.next()) {
    if (spec_.sessions.turns_mean > 1) log_go_on_ = det_log1p(-1.0 / spec_.sessions.turns_mean);
    if (spec_.sessions.shared_prefix_tokens > 0)
      block_size_ = block_size_for(spec_.sessions.shared_prefix_tokens);
    if (!spec_.resample.empty()) load_pairs();
  }

  bool next(TraceRequest& request) override;
  const Error* error() const override { return error_ ? &*error_ : nullptr; }
  std::uint64_t size_hint() const override { return spec_.requests; }

 private:
  void load_pairs();
  Conversation begin();
  void fill(Conversation& conversation, TraceRequest& request);
  LengthPair draw_lengths(Conversation& conversation);
  void fill_hash_ids(const Conversation& conversation, TraceRequest& request) const;
  std::uint64_t draw_turns(RandomStream& stream) const;

  // A heap with the earliest turn on top; ties go to the older conversation.
  static bool later_first(const Conversation& a, const Conversation& b) {
    return a.arrival != b.arrival ? b.arrival < a.arrival : b.number < a.number;
  }

  GeneratorSpec spec_;
  std::uint64_t seed_;
  ArrivalProcess arrivals_;
  LengthSampler input_, output_;
  std::vector<LengthPair> pairs_;
  double log_go_on_ = 0;         // log of the probability that a conversation goes on
  std::int32_t block_size_ = 0;  // 0 = no shared prefix
  SimTime next_start_;
  std::uint64_t started_ = 0, emitted_ = 0;
  std::vector<Conversation> waiting_;
  std::optional<Error> error_;
};

void GeneratorSource::load_pairs() {
  auto reader = open_trace(spec_.resample);
  if (!reader.ok()) {
    error_ = reader.errors().front();
    return;
  }
  TraceRequest row;
  while (pairs_.size() < kMaxPairs && (*reader)->next(row))
    pairs_.push_back({row.prompt_tokens, row.output_tokens});
  if ((*reader)->error() != nullptr) error_ = *(*reader)->error();
  if (!error_ && pairs_.empty())
    error_ = invalid_input("the trace is empty; nothing to resample", {spec_.resample, 0, 0});
}

bool GeneratorSource::next(TraceRequest& request) {
  if (error_ || emitted_ == spec_.requests) return false;
  const bool later_turn = !waiting_.empty() && waiting_.front().arrival <= next_start_;
  if (later_turn) {
    std::pop_heap(waiting_.begin(), waiting_.end(), later_first);
  } else {
    waiting_.push_back(begin());
  }
  Conversation& conversation = waiting_.back();
  request.index = emitted_++;
  fill(conversation, request);
  if (conversation.turns_left == 0) {
    waiting_.pop_back();
  } else {
    conversation.arrival += duration_from_seconds(conversation.session.exponential(spec_.sessions.think_s));
    std::push_heap(waiting_.begin(), waiting_.end(), later_first);
  }
  return true;
}

Conversation GeneratorSource::begin() {
  const std::uint64_t number = started_++;
  const RandomPurpose input_purpose =
      pairs_.empty() ? RandomPurpose::input_length : RandomPurpose::workload_resample;
  Conversation c{next_start_,
                 number,
                 1,
                 0,
                 0,
                 {},
                 RandomStream(seed_, RandomPurpose::session, number),
                 RandomStream(seed_, input_purpose, number),
                 RandomStream(seed_, RandomPurpose::output_length, number)};
  next_start_ = arrivals_.next();
  if (spec_.sessions.turns_mean > 1) c.turns_left = draw_turns(c.session);
  c.history = spec_.sessions.shared_prefix_tokens;
  if (spec_.sessions.prefix_groups > 1 && block_size_ > 0) {
    RandomStream prefix(seed_, RandomPurpose::prefix, number);
    c.group =
        static_cast<std::int32_t>(prefix.below(static_cast<std::uint64_t>(spec_.sessions.prefix_groups)));
  }
  c.lengths = draw_lengths(c);
  return c;
}

// Geometric on 1, 2, 3, … with the mean asked for, by inversion.
std::uint64_t GeneratorSource::draw_turns(RandomStream& stream) const {
  return 1 + static_cast<std::uint64_t>(det_log(stream.uniform_open()) / log_go_on_);
}

LengthPair GeneratorSource::draw_lengths(Conversation& conversation) {
  if (!pairs_.empty()) return pairs_[conversation.input.below(pairs_.size())];
  return {input_.draw(conversation.input), output_.draw(conversation.output)};
}

void GeneratorSource::fill(Conversation& conversation, TraceRequest& request) {
  const LengthPair lengths = conversation.lengths;
  const std::int64_t prompt = std::int64_t{conversation.history} + lengths.input;
  request.arrival = conversation.arrival;
  request.prompt_tokens = static_cast<std::int32_t>(std::min(prompt, kMaxTokens));
  request.output_tokens = lengths.output;
  request.max_output_tokens = lengths.output;
  request.session = spec_.sessions.turns_mean > 1 ? conversation.number + 1 : 0;
  request.priority = no_priority;
  request.images.clear();
  request.tenant.clear();
  request.hash_ids.clear();
  request.hash_block_size = 512;
  if (block_size_ > 0) fill_hash_ids(conversation, request);
  if (--conversation.turns_left == 0) return;
  const std::int64_t history = std::int64_t{request.prompt_tokens} + lengths.output;
  conversation.lengths = draw_lengths(conversation);
  if (history + conversation.lengths.input > spec_.sessions.max_prompt_tokens) conversation.turns_left = 0;
  conversation.history = static_cast<std::int32_t>(std::min(history, kMaxTokens));
}

// Blocks of the shared prefix are named by group, all others by conversation and position: the prompts of one
// conversation are the beginnings of one text.
void GeneratorSource::fill_hash_ids(const Conversation& conversation, TraceRequest& request) const {
  const auto block = static_cast<std::uint64_t>(block_size_);
  const auto shared = static_cast<std::uint64_t>(spec_.sessions.shared_prefix_tokens) / block;
  const std::uint64_t all = (static_cast<std::uint64_t>(request.prompt_tokens) + block - 1) / block;
  const std::uint64_t own = (conversation.number + 1) << 32;
  request.hash_block_size = block_size_;
  request.hash_ids.reserve(all);
  for (std::uint64_t i = 0; i < all; ++i) {
    request.hash_ids.push_back(i < shared ? static_cast<std::uint64_t>(conversation.group) * shared + i
                                          : own + i);
  }
}

}  // namespace

std::unique_ptr<RequestSource> make_generator(const GeneratorSpec& spec, std::uint64_t seed) {
  if (spec.servegen) return make_servegen(*spec.servegen, spec.requests, seed);
  return std::make_unique<GeneratorSource>(spec, seed);
}

}  // namespace orrery

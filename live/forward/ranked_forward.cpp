#include "live/forward/ranked_forward.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "kernels/peer_all_reduce.h"
#include "kernels/peer_gather_columns.h"

namespace orrery {

namespace {

// Of a block's slot, as reports/results/kernels_comm_2gpu.md was measured with.
constexpr std::int64_t slot_bytes = 65536;

// A step follows the one before within microseconds, so a thread looks for a while before it sleeps.
constexpr std::chrono::microseconds looked_for(200);

template <class Done>
bool look_for(const Done& done) {
  const auto until = std::chrono::steady_clock::now() + looked_for;
  do {
    for (int i = 0; i < 64; ++i)
      if (done()) return true;
    std::this_thread::yield();
  } while (std::chrono::steady_clock::now() < until);
  return done();
}

}  // namespace

// -------------------------------------------------------------------------------------------------- threads

RankThreads::RankThreads(std::size_t ranks) {
  for (std::size_t r = 1; r < ranks; ++r) threads_.emplace_back([this, r] { work(r); });
}

RankThreads::~RankThreads() {
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void RankThreads::begin(std::function<void(std::size_t)> job) {
  {
    const std::lock_guard lock(mutex_);
    job_ = std::move(job);
    running_ = threads_.size();
    ++round_;
  }
  if (!threads_.empty()) changed_.notify_all();
  job_(0);
}

void RankThreads::end() {
  const auto done = [this] { return running_ == 0; };
  if (look_for(done)) return;
  std::unique_lock lock(mutex_);
  changed_.wait(lock, done);
}

void RankThreads::work(std::size_t rank) {
  for (std::uint64_t seen = 0;;) {
    const auto due = [&] { return ended_ || round_ != seen; };
    if (!look_for(due)) {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, due);
    }
    if (ended_) return;
    seen = round_;
    job_(rank);
    {
      const std::lock_guard lock(mutex_);
      --running_;
    }
    changed_.notify_all();
  }
}

// ----------------------------------------------------------------------------------------------------- links

class RankedForward::Link final : public RankLink {
 public:
  Link(RankedForward& group, std::int32_t rank) : group_(group), rank_(rank) {}

  bool allocate(kernels::DeviceMemory& memory) {
    const std::int32_t ranks = group_.options_.ranks;
    const auto zeros = [&](std::int64_t bytes) {
      void* const to = memory.allocate(static_cast<std::size_t>(bytes));
      if (to != nullptr) memory.fill(to, 0, static_cast<std::size_t>(bytes));
      return to;
    };
    peers.given_up = group_.peers_->word();
    peers.ranks = ranks;
    peers.rank = rank_;
    peers.blocks = std::max(kernels::peer_all_reduce_blocks, kernels::peer_gather_blocks);
    peers.slot_bytes = slot_bytes;
    peers.line_bytes = slot_bytes;
    const std::int64_t area = kernels::peer_area_bytes(peers.blocks, ranks, slot_bytes);
    peers.flags[rank_] = static_cast<std::uint32_t*>(zeros(kernels::peer_flag_bytes));
    peers.epochs = static_cast<std::uint32_t*>(zeros(kernels::peer_epoch_bytes));
    peers.slots[rank_] = static_cast<unsigned char*>(zeros(area));
    peers.lines[rank_] = static_cast<unsigned char*>(zeros(area));
    std::uint32_t any = 0;  // fills run in a queue of their own: a download waits for them
    if (peers.flags[rank_] != nullptr) memory.download(&any, peers.flags[rank_], sizeof any);
    return peers.given_up != nullptr && peers.flags[rank_] != nullptr && peers.epochs != nullptr &&
           peers.slots[rank_] != nullptr && peers.lines[rank_] != nullptr;
  }
  void connect(const Link& other) {
    const auto r = static_cast<std::size_t>(other.rank_);
    peers.flags[r] = other.peers.flags[r];
    peers.slots[r] = other.peers.slots[r];
    peers.lines[r] = other.peers.lines[r];
  }

  void all_reduce(std::uint16_t* x, std::int64_t count, kernels::Stream stream) override {
    if (group_.broken_ || group_.options_.all_reduce == AllReduce::none) return;
    const RankFault& fault = group_.options_.fault;
    if (fault.rank == rank_ && sums_++ == fault.sum) {
      if (!fault.silent) refuse("a sum over the ranks was refused, as the test asks");
      return;
    }
    if (group_.calls_ != nullptr) {
      std::string why;
      if (!group_.calls_->all_reduce(rank_, x, count, stream, why)) refuse(why);
      return;
    }
    kernels::PeerAllReduceLaunch launch;
    launch.peers = peers;
    launch.in = launch.out = x;
    launch.count = count;
    launch.form = kernels::peer_form(peers.ranks, count * 2);
    kernels::launch_peer_all_reduce(launch, stream);
  }
  void gather_columns(const std::uint16_t* in, std::uint16_t* out, std::int32_t rows, std::int32_t columns,
                      kernels::Stream stream) override {
    if (group_.broken_) return;
    kernels::launch_peer_gather_columns({peers, in, out, rows, columns}, stream);
  }
  bool meet(bool fine) override {
    const std::uint64_t before = group_.meetings_;
    if (!fine) group_.broken_ = true;
    if (group_.broken_) return false;  // nobody comes together any more
    if (++group_.met_ == group_.options_.ranks) {
      group_.met_ = 0;
      ++group_.meetings_;
      return true;
    }
    while (group_.meetings_ == before) {
      if (group_.broken_) return false;
      std::this_thread::yield();
    }
    return true;
  }
  std::string take_refusal() override { return std::exchange(refusal_, {}); }

  kernels::PeerMemory peers;

 private:
  // At once: the others may be waiting for it by now, and this rank's host behind its own kernels.
  void refuse(const std::string& why) {
    refusal_ = why;
    group_.fail(static_cast<std::size_t>(rank_), {make_error(ErrorKind::unavailable, why)});
  }

  RankedForward& group_;
  std::int32_t rank_;
  std::int64_t sums_ = 0;
  std::string refusal_;
};

// ----------------------------------------------------------------------------------------------------- ranks

RankedForward::RankedForward(const Options& options, kernels::DeviceMemory& memory)
    : options_(options), memory_(memory) {}

// Streams and graphs of a rank end on its own thread, where its device is current.
RankedForward::~RankedForward() {
  watch_.reset();
  threads_->run([this](std::size_t rank) { forwards_[rank].reset(); });
}

Result<std::unique_ptr<RankedForward>> RankedForward::create(const ModelSpec& model,
                                                             const ForwardOptions& options,
                                                             const Options& ranks,
                                                             kernels::DeviceMemory& memory) {
  std::unique_ptr<RankedForward> group(new RankedForward(ranks, memory));
  const auto count = static_cast<std::size_t>(ranks.ranks);
  group->threads_ = std::make_unique<RankThreads>(count);
  group->forwards_.resize(count);
  group->errors_.resize(count);
  group->tokens_.resize(count);
  if (Result<Unit> ready = group->connect(); !ready) return ready.errors();
  if (Result<Unit> ready = group->prepare(model, options); !ready) return ready.errors();
  return group;
}

Result<Unit> RankedForward::connect() {
  if (options_.ranks == 1) return Unit{};
  std::string why;
  peers_ = kernels::make_peer_group(options_.ranks, memory_, why);
  if (peers_ == nullptr) return make_error(ErrorKind::unavailable, why);
  if (options_.all_reduce == AllReduce::nccl) {
    calls_ = kernels::make_rank_calls(options_.ranks, memory_.device_index(), why);
    if (calls_ == nullptr) return make_error(ErrorKind::unavailable, why);
  }
  for (std::int32_t r = 0; r < options_.ranks; ++r) {
    links_.push_back(std::make_unique<Link>(*this, r));
    if (!links_.back()->allocate(memory_of(static_cast<std::size_t>(r))))
      return make_error(ErrorKind::infeasible, "a device has no room for what ranks exchange");
  }
  for (auto& link : links_)
    for (const auto& other : links_) link->connect(*other);
  return Unit{};
}

Result<Unit> RankedForward::prepare(const ModelSpec& model, const ForwardOptions& options) {
  threads_->run([&](std::size_t rank) {
    ForwardOptions own = options;
    own.ranks = options_.ranks;
    own.rank = static_cast<std::int32_t>(rank);
    own.link = links_.empty() ? nullptr : links_[rank].get();
    own.shares_experts = options_.shares_experts;
    auto made = StepForward::create(model, own, memory_of(rank));
    if (made)
      forwards_[rank] = std::move(*made);
    else
      errors_[rank] = made.errors();
  });
  for (const Errors& errors : errors_)
    if (!errors.empty()) return errors;
  if (ranks() == 1) return Unit{};
  watch_ = std::make_unique<StepWatch>(
      options_.patience_s, [this](std::string& why) { return calls_ == nullptr || calls_->fine(why); },
      [this](const std::string& why) { give_up({make_error(ErrorKind::unavailable, why)}); });
  if (calls_ == nullptr) return Unit{};
  // NCCL makes its connections in the first call, which no capture may hold.
  watch_->begin();
  threads_->run([&](std::size_t rank) {
    if (Result<Unit> met = forwards_[rank]->first_sum(); !met) fail(rank, met.errors());
  });
  watch_->end();
  if (broken_) return what_failed();
  return Unit{};
}

// From the rank's thread.
void RankedForward::fail(std::size_t rank, Errors errors) {
  for (Error& each : errors) each.message = "rank " + std::to_string(rank) + ": " + each.message;
  errors_[rank] = errors;
  // Who stops with another is not the cause.
  if (errors.front().kind != ErrorKind::interrupted) give_up(errors);
}

void RankedForward::give_up(const Errors& why) {
  {
    const std::lock_guard lock(cause_mutex_);
    if (!cause_.empty()) return;
    cause_ = why;
  }
  broken_ = true;
  __atomic_store_n(peers_->word(), 1U, __ATOMIC_RELEASE);
  if (calls_ != nullptr) calls_->give_up();
}

Result<Unit> RankedForward::launch(const StepBatch& batch) {
  if (ranks() == 1) return forwards_.front()->launch(batch);
  for (Errors& errors : errors_) errors.clear();
  if (broken_)
    return make_error(ErrorKind::unavailable, "another rank has failed before: " + to_string(what_failed()));
  batch_ = batch;
  watch_->begin();
  // The other ranks wait for their step as well; the caller's is waited for in sampled().
  threads_->begin([this](std::size_t rank) {
    if (Result<Unit> launched = forwards_[rank]->launch(batch_); !launched)
      return fail(rank, launched.errors());
    if (rank == 0) return;
    const auto tokens = forwards_[rank]->sampled();
    if (tokens)
      tokens_[rank].assign(tokens->begin(), tokens->end());
    else
      fail(rank, tokens.errors());
  });
  if (errors_.front().empty()) return Unit{};
  threads_->end();
  watch_->end();
  return what_failed();
}

// Of the rank that failed by itself, not of those that stopped with it.
Errors RankedForward::what_failed() {
  const std::lock_guard lock(cause_mutex_);
  if (!cause_.empty()) return cause_;
  for (const Errors& errors : errors_)
    if (!errors.empty()) return errors;
  return {};
}

Result<std::span<const std::int32_t>> RankedForward::sampled() {
  auto tokens = forwards_.front()->sampled();
  if (ranks() == 1) return tokens;
  if (!tokens) fail(0, tokens.errors());
  threads_->end();
  watch_->end();
  if (const Errors errors = what_failed(); !errors.empty()) return errors;
  tokens_.front().assign(tokens->begin(), tokens->end());
  return tokens;
}

double RankedForward::step_ns() {
  double longest = 0;
  for (const auto& forward : forwards_) longest = std::max(longest, forward->step_ns());
  return longest;
}

bool RankedForward::agreed() const {
  return std::all_of(tokens_.begin(), tokens_.end(),
                     [&](const auto& tokens) { return tokens == tokens_.front(); });
}

}  // namespace orrery

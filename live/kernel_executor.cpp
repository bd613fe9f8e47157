#include "live/kernel_executor.h"

#include <algorithm>
#include <limits>

#include "base/check.h"
#include "costmodel/experts/token_draws.h"
#include "sim/costed/prompt_chunks.h"

namespace orrery {

namespace {

constexpr std::uint64_t nobody = std::numeric_limits<std::uint64_t>::max();
using Steady = std::chrono::steady_clock;

std::int64_t since(Steady::time_point from) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(Steady::now() - from).count();
}

}  // namespace

KernelExecutor::Engine::Engine(const Options& options, std::int64_t first)
    : blocks(options.blocks, options.block_size), book(options.seed, options.vocabulary),
      pipeline(options.pricer->launcher_is_core()), ends(*options.oracle, 0, 1), first_block(first) {}

KernelExecutor::KernelExecutor(const Options& options) : options_(options), turn_(Steady::now()) {
  ORRERY_CHECK(!waits() || options.instances == 1, "one device cannot be several at a time");
  for (std::size_t i = 0; i < options.instances; ++i) {
    const std::int64_t first = options.own_pools ? static_cast<std::int64_t>(i) * options.blocks : 0;
    engines_.push_back(std::make_unique<Engine>(options_, first));
  }
  if (waits()) worker_ = std::thread([this] { work(); });
}

KernelExecutor::~KernelExecutor() {
  if (!worker_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  worker_.join();
}

std::string KernelExecutor::failure() const {
  const std::lock_guard lock(mutex_);
  return failure_;
}

// ------------------------------------------------------------------------------------- a plan made concrete

void KernelExecutor::place_blocks(Engine& e, const StepPlan& plan, Job& job) {
  e.blocks.next_plan();
  for (const SequenceId id : plan.preempted) e.blocks.preempt(id);
  job.opened.swap(e.adopted);
  for (const PrefillWork& w : plan.prefill) {
    if (e.blocks.begun(w.sequence)) continue;
    const auto request = requests_.find(w.request.value());
    ORRERY_CHECK(request != requests_.end(), "a plan names requests that have arrived");
    e.blocks.begin(w.sequence, request->second, w.context);
    if (open(e, w.sequence, w.request)) job.opened.emplace_back(w.sequence, request->second);
  }
  decoding_sequences_.clear();
  for (const DecodingToken& d : decoding_) {
    decoding_sequences_.push_back(e.sequence_of.find(d.request.value())->second);
    e.blocks.cover(decoding_sequences_.back(), d.place + 1);
  }
  for (const PrefillWork& w : plan.prefill) e.blocks.cover(w.sequence, w.context + w.new_tokens);
}

bool KernelExecutor::open(Engine& e, SequenceId sequence, RequestId request) {
  if (sequence.value() >= e.request_of.size()) {
    e.request_of.resize(sequence.value() + 1, nobody);
    e.prompt_of.resize(sequence.value() + 1, 0);
  }
  std::uint64_t& known = e.request_of[sequence.value()];
  if (known == request.value()) return false;  // it goes on after a preemption
  known = request.value();
  e.sequence_of[request.value()] = sequence;
  e.prompt_of[sequence.value()] = requests_.at(request.value()).prompt_tokens;
  return true;
}

void KernelExecutor::add_sequence(Engine& e, Job& job, SequenceId sequence, std::int64_t context,
                                  std::int32_t rows) {
  StepBatch& b = job.batch;
  const std::span<const std::int32_t> table = e.blocks.table(sequence);
  const std::int64_t size = options_.block_size;
  b.sequences.push_back({.first_row = static_cast<std::int32_t>(b.positions.size()),
                         .rows = rows,
                         .context = static_cast<std::int32_t>(context + rows)});
  for (std::int64_t at = context; at < context + rows; ++at) {
    b.positions.push_back(static_cast<std::int32_t>(at));
    b.slots.push_back((e.first_block + table[static_cast<std::size_t>(at / size)]) * size + at % size);
    job.rows.push_back({sequence, at});
  }
  for (std::int64_t at = context; options_.popularity != nullptr && at < context + rows; ++at)
    b.expert_keys.push_back(
        token_key(options_.seed, e.request_of[sequence.value()], static_cast<std::uint64_t>(at)));
  b.sampled_rows.push_back(static_cast<std::int32_t>(b.positions.size()) - 1);
  job.sampled.push_back({sequence, context + rows});
  batch_sequences_.push_back(sequence);
}

void KernelExecutor::add_tables(Engine& e, Job& job) const {
  StepBatch& b = job.batch;
  const std::int32_t size = options_.block_size;
  for (const StepBatch::Sequence& s : b.sequences)
    b.max_blocks = std::max(b.max_blocks, (s.context + size - 1) / size);
  b.block_tables.resize(b.sequences.size() * static_cast<std::size_t>(b.max_blocks));
  for (std::size_t i = 0; i < b.sequences.size(); ++i) {
    const std::span<const std::int32_t> table = e.blocks.table(batch_sequences_[i]);
    const auto used = static_cast<std::size_t>((b.sequences[i].context + size - 1) / size);
    std::int32_t* const row = b.block_tables.data() + i * static_cast<std::size_t>(b.max_blocks);
    const auto first = static_cast<std::int32_t>(e.first_block);
    for (std::size_t k = 0; k < used; ++k) row[k] = first + table[k];
    std::fill(row + used, row + b.max_blocks, 0);
  }
}

// One that was used before has its memory already.
std::unique_ptr<KernelExecutor::Job> KernelExecutor::empty_job() {
  if (spare_.empty()) return std::make_unique<Job>();
  std::unique_ptr<Job> job = std::move(spare_.back());
  spare_.pop_back();
  StepBatch& b = job->batch;
  b.decodes = b.padded_rows = b.max_blocks = 0;
  b.tokens.clear();
  b.positions.clear();
  b.slots.clear();
  b.sequences.clear();
  b.expert_keys.clear();
  b.expert_epoch = 0;
  b.sampled_rows.clear();
  job->rows.clear();
  job->sampled.clear();
  job->opened.clear();
  job->skipped = job->started = false;
  job->result.device_ns = job->result.launch_ns = 0;
  job->result.first_use = false;
  job->result.work = {};
  job->result.sampled.clear();
  return job;
}

std::unique_ptr<KernelExecutor::Job> KernelExecutor::make_job(Engine& e, const StepPlan& plan) {
  auto job = empty_job();
  batch_sequences_.clear();
  decoding_.clear();
  if (plan.decode_sequences > 0) plan.decoding->append_decoding(decoding_);
  ORRERY_CHECK(static_cast<std::int32_t>(decoding_.size()) == plan.decode_sequences, "the plan's decodes");
  place_blocks(e, plan, *job);
  const auto rows = static_cast<std::size_t>(plan.tokens());
  job->batch.positions.reserve(rows);
  job->batch.slots.reserve(rows);
  job->rows.reserve(rows);
  for (std::size_t i = 0; i < decoding_.size(); ++i)
    add_sequence(e, *job, decoding_sequences_[i], decoding_[i].place, 1);
  // A chunk of one token is a decode to the device where the engine's dispatch says so.
  const bool single = options_.pricer->single_token_is_decode();
  for (const bool decodes : {true, false})
    for (const PrefillWork& w : plan.prefill)
      if ((single && w.new_tokens == 1) == decodes)
        add_sequence(e, *job, w.sequence, w.context, w.new_tokens);
  StepBatch& b = job->batch;
  for (const StepBatch::Sequence& s : b.sequences) b.decodes += single ? s.rows == 1 : 0;
  if (!single) b.decodes = plan.decode_sequences;
  const auto all = static_cast<std::int64_t>(b.sequences.size());
  const auto graph = std::lower_bound(options_.graph_sizes.begin(), options_.graph_sizes.end(), all);
  if (b.decodes == all && graph != options_.graph_sizes.end())
    b.padded_rows = static_cast<std::int32_t>(*graph);
  add_tables(e, *job);
  return job;
}

StepShape KernelExecutor::shape_of(const StepPlan& plan, std::vector<PrefillChunk>& chunks) const {
  StepShape shape{.prefill = {},
                  .decode_sequences = plan.decode_sequences,
                  .decode_context_tokens = plan.decode_context_tokens,
                  .new_requests = plan.new_requests,
                  .running = plan.running};
  add_prompts(plan.prefill, *options_.pricer, shape, chunks);
  return shape;
}

// -------------------------------------------------------------------------------------------- running a step

// Token ids are known in the order in which steps run: what the step before sampled is in the book by now.
void KernelExecutor::run(Engine& e, Job& job) {
  for (const auto& [sequence, request] : job.opened) e.book.open(sequence, request);
  job.batch.tokens.clear();
  for (const Place& p : job.rows) job.batch.tokens.push_back(e.book.at(p.sequence, p.at));
  std::string why;
  if (!job.skipped && !failed_ && !options_.runner->run(job.batch, job.result, why)) {
    const std::lock_guard lock(mutex_);
    failure_ = why.empty() ? "the device failed" : why;
    failed_ = true;
  }
  job.result.sampled.resize(job.sampled.size(), 0);
  for (std::size_t i = 0; i < job.sampled.size(); ++i)
    e.book.said(job.sampled[i].sequence, job.sampled[i].at, job.result.sampled[i]);
}

void KernelExecutor::profile(const Job& job, const KernelStep& step) {
  if (!options_.profiles || job.skipped || failed_ || !options_.profiles(step)) return;
  ProfiledStep timed{step, {}};
  std::string why;
  if (options_.runner->profile(job.batch, timed.profile, why)) {
    // The first time it came between other steps; the second behind itself, on a hotter device.
    if (!job.result.first_use) timed.profile.own_ns = static_cast<double>(job.result.device_ns);
    return profiled_.push_back(std::move(timed));
  }
  const std::lock_guard lock(mutex_);
  failure_ = why.empty() ? "the device failed" : why;
  failed_ = true;
}

void KernelExecutor::work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return stop_ || !queue_.empty(); });
    if (stop_) return;
    Job* const job = queue_.front();
    queue_.pop_front();
    lock.unlock();
    options_.runner->begin_layers();
    job->begun = options_.clock->now();
    lock.lock();
    job->started = true;
    lock.unlock();
    run(*engines_.front(), *job);
    job->done = options_.clock->now();
    lock.lock();
    ++done_;
    options_.clock->wake(job->done);
  }
}

void KernelExecutor::spin(std::int64_t ns) const {
  const Steady::time_point from = Steady::now();
  while (since(from) < ns) {}
}

void KernelExecutor::submit(StepId step, InstanceId instance, const StepPlan& plan, SimTime now) {
  Engine& e = *engines_[instance.value()];
  ORRERY_CHECK(plan.repeat == 1 && plan.ranks.empty() && plan.verify.empty() && plan.encode.empty(),
               "steps on real kernels are of one rank, one at a time, of text");
  KernelStep log{
      .instance = instance, .step = step.value(), .submitted = now, .chunks = {}, .shape = {}, .work = {}};
  log.shape = shape_of(plan, log.chunks);
  StepShape shape = log.shape;
  shape.prefill = log.chunks;
  Open open{.timing = options_.pricer->price(shape),
            .times = {},
            .log = steps_.size(),
            .prompts_alone = !plan.prefill.empty() && plan.decode_sequences == 0,
            .job = make_job(e, plan)};
  if (options_.popularity != nullptr) open.job->batch.expert_epoch = options_.popularity->epoch(now);
  stopped_ = stopped_ || (options_.stop && options_.stop());
  open.job->skipped = stopped_;
  e.ends.track(static_cast<std::int64_t>(step.value()), plan, plan.prefill, plan.joined, plan.stalls_decodes);
  e.ends.begin(!plan.stalls_decodes);
  log.padded_rows = open.job->batch.padded_rows;
  log.host_ns = since(turn_);
  steps_.push_back(std::move(log));
  if (waits()) {
    const StepTiming& t = open.timing;
    if (options_.emulate_host) spin(t.schedule + t.prepare);
    open.times.schedule_begin = now;
    {
      const std::lock_guard lock(mutex_);
      queue_.push_back(open.job.get());
    }
    changed_.notify_all();
    if (options_.emulate_host && options_.pricer->launcher_is_core()) spin(t.launch);
    e.host_free = later(now, options_.clock->now());
  } else {
    run(e, *open.job);
    profile(*open.job, steps_.back());
    open.timing.busy = open.job->result.device_ns;
    open.times = e.pipeline.begin(open.timing, now);
    e.host_free = e.pipeline.core_free();
  }
  e.open.push_back(std::move(open));
  e.host_free_due = static_cast<std::int32_t>(e.open.size()) < depth(instance);
  turn_ = Steady::now();
}

void KernelExecutor::ended(InstanceId instance, SequenceId sequence) {
  Engine& e = *engines_[instance.value()];
  e.ends.ended(sequence);
  const bool known = sequence.value() < e.request_of.size() && e.request_of[sequence.value()] != nobody;
  const bool keeps = known && options_.hands_over && e.fetched.erase(e.request_of[sequence.value()]) == 0 &&
                     answered(e, sequence);
  if (!keeps) e.blocks.end(sequence);
  if (!known) return;
  std::uint64_t& request = e.request_of[sequence.value()];
  if (keeps) e.handed[request] = sequence;
  e.sequence_of.erase(request);
  request = nobody;
}

// What taking in a prompt costs a core thread that is launching prompts alone
// (CostModelExecutor::take_input).
void KernelExecutor::take_input(InstanceId instance, std::int64_t prompt_tokens, SimTime now) {
  Engine& e = *engines_[instance.value()];
  if (waits() || e.open.empty() || !e.open.back().prompts_alone) return;
  e.pipeline.delay_launch(e.open.back().timing, e.open.back().times,
                          options_.pricer->input_work(prompt_tokens), now);
}

// ---------------------------------------------------------------------------------------------------- time

SimTime KernelExecutor::next_of(const Engine& e) const {
  if (e.host_free_due) return e.host_free;
  if (e.open.empty()) return SimTime::never();
  if (!waits()) {
    HostPipeline ahead = e.pipeline;
    StepTimes times = e.open.front().times;
    ahead.update(e.open.front().timing, times);
    return ahead.core_free();
  }
  {
    const std::lock_guard lock(mutex_);
    // A clock that nobody waits for any more is ahead of what is real.
    if (done_ > 0) return later(e.open.front().job->done, e.open.front().times.schedule_begin);
  }
  // The worker will say. Not centuries ahead: a clock that nobody waits for any more reads what it is given.
  return options_.clock->now() + SimDuration(1'000'000'000);
}

SimTime KernelExecutor::next_event() const {
  SimTime next = SimTime::never();
  for (const auto& e : engines_) next = earlier(next, next_of(*e));
  return next;
}

bool KernelExecutor::any_done() const {
  const std::lock_guard lock(mutex_);
  return done_ > 0;
}

void KernelExecutor::collect(SimTime now, Outcomes& outcomes) {
  turn_ = Steady::now();
  // One outcome of each: what an instance says next is later.
  for (const auto& e : engines_) {
    const SimTime at = next_of(*e);
    if (at > now || (waits() && !e->host_free_due && !any_done())) continue;
    if (e->host_free_due) {
      e->host_free_due = false;
      const auto index = static_cast<std::uint32_t>(&e - engines_.data());
      outcomes.host_free.push_back({InstanceId(index), at});
    } else {
      finish(*e, at, outcomes);
    }
  }
}

void KernelExecutor::finish(Engine& e, SimTime at, Outcomes& outcomes) {
  Open& oldest = e.open.front();
  if (waits()) {
    const std::lock_guard lock(mutex_);
    --done_;
  }
  const StepResult& result = oldest.job->result;
  KernelStep& log = steps_[oldest.log];
  log.device_ns = result.device_ns;
  log.launch_ns = result.launch_ns;
  log.first_use = result.first_use;
  log.work = result.work;
  if (waits()) {
    oldest.times.launch_begin = oldest.job->begun;
    oldest.times.device_end = at;
    oldest.times.device_begin = later(oldest.job->begun, at - SimDuration(result.device_ns));
    e.updated = at;
    if (options_.emulate_host) spin(oldest.timing.copy + oldest.timing.update);
  } else {
    e.pipeline.update(oldest.timing, oldest.times);
    e.updated = oldest.times.update_end;
  }
  const StepStamp stamp{.schedule_begin = oldest.times.schedule_begin,
                        .launch_begin = oldest.times.launch_begin,
                        .device_begin = oldest.times.device_begin,
                        .device_end = oldest.times.device_end};
  e.ends.update();
  e.eos.clear();
  const std::uint64_t step = e.next_update++;
  e.ends.take(static_cast<std::int64_t>(step), e.eos);
  spare_.push_back(std::move(oldest.job));
  e.open.pop_front();
  outcomes.steps.push_back({.instance = log.instance,
                            .first = StepId(step),
                            .scheduled = 1,
                            .updates = {&e.updated, 1},
                            .eos = e.eos,
                            .spoken = {},
                            .at = at,
                            .first_stamp = stamp,
                            .second_stamp = stamp,
                            .last_stamp = stamp});
}

DeviceSpan KernelExecutor::device_span(InstanceId instance, StepId step) const {
  const Engine& e = *engines_[instance.value()];
  if (waits() && step.value() < e.next_update) return {};  // it was over as its last layer was asked for
  const std::uint64_t place = step.value() - e.next_update;
  ORRERY_CHECK(place < e.open.size(), "the step is open");
  const Open& open = e.open[static_cast<std::size_t>(place)];
  if (waits()) return span_so_far(open, static_cast<std::size_t>(place));
  return {open.times.device_begin, open.times.device_end};
}

// What a step under way in real time will take is what it is priced at, but no layer is over before the
// device says so: then the span is as much longer as it has to be, and is asked for again soon.
DeviceSpan KernelExecutor::span_so_far(const Open& open, std::size_t place) const {
  constexpr SimDuration soon(100'000);
  const SimTime now = options_.clock->now();
  const SimDuration priced(std::max<std::int64_t>(open.timing.busy, 1));
  const std::lock_guard lock(mutex_);
  const Job& job = *open.job;
  if (place < done_) return {job.done - SimDuration(job.result.device_ns), job.done};
  if (!job.started) return {now + soon, now + soon + priced};
  const std::int64_t next = std::min(options_.runner->layers_done() + 1, options_.layers);
  const std::int64_t needed = (now + soon - job.begun).ns() * options_.layers / next;
  return {job.begun, job.begun + std::max(priced, SimDuration(needed))};
}

}  // namespace orrery

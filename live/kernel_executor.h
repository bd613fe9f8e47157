// The executor of real kernels: makes a plan concrete (physical blocks, token ids, rows), has it run, and
// says when it was over. Under a clock that jumps a step is run when it is submitted, and what the device
// took stands in the instance's pipeline for what the cost model would have said; host times are the engine
// profile's (measured simulation: one device stands for all instances). Under a clock that waits a thread of
// its own runs the steps of the one instance, and everything takes what it takes.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "costmodel/experts/popularity.h"
#include "costmodel/step_pricer.h"
#include "live/forward/step_runner.h"
#include "live/kv_block_map.h"
#include "live/token_book.h"
#include "live/wall_clock.h"
#include "sim/costed/end_tracker.h"
#include "sim/executor.h"

namespace orrery {

// A step that was run, for comparison with its price.
struct KernelStep {
  InstanceId instance;
  std::uint32_t pool = 0;
  std::uint64_t step = 0;
  SimTime submitted;
  std::vector<PrefillChunk> chunks;
  StepShape shape;  // `prefill` is empty: the chunks stand above
  std::int32_t padded_rows = 0;
  std::int64_t device_ns = 0, launch_ns = 0;
  std::int64_t host_ns = 0;  // our own scheduling and preparing, from the loop's turn until the step is
                             // handed over
  bool first_use = false;    // as StepResult's
  StepWork work;
};

// A step that was run once more with a clock between its launches.
struct ProfiledStep {
  KernelStep step;
  StepProfile profile;
};

class KernelExecutor final : public Executor {
 public:
  struct Options {
    std::size_t instances = 1;
    const StepPricer* pricer = nullptr;  // of every instance: host terms, depth
    const OutputLengths* oracle = nullptr;
    StepRunner* runner = nullptr;  // these three outlive the executor
    std::int64_t blocks = 0;       // of an instance's pool, as the engine counts them
    std::int32_t block_size = 16;
    bool own_pools = true;  // instance i has blocks i·blocks … of the device's pool; else all share one
    std::vector<std::int64_t> graph_sizes;  // of decode steps, ascending; empty: none
    std::uint64_t seed = 1;
    std::int64_t vocabulary = 32000;
    std::shared_ptr<const ExpertPopularity> popularity = {};  // that tokens' experts are drawn by, if they
                                                              // are
    WallClock* clock = nullptr;                               // null: the clock jumps
    bool emulate_host = false;        // with a clock that waits: spins for the engine profile's host times
    std::function<bool()> stop = {};  // asked before each step; true: from here on nothing is run
    // Asked behind each step, where the clock jumps: true has it timed launch by launch.
    std::function<bool(const KernelStep&)> profiles = {};
    std::int64_t layers = 1;  // of the model
    bool apart = false;       // one of two pools: of prefill and of decode
    bool hands_over = false;  // a prefill instance: blocks of what has ended stay until release()
  };
  explicit KernelExecutor(const Options& options);
  ~KernelExecutor() override;

  // Of the instance's scheduler, before the first step.
  CacheEvents* cache_events(InstanceId instance) { return &engines_[instance.value()]->blocks; }
  // A request that a plan may name from now on, until it is over.
  void arrived(const Request& request) { requests_.insert_or_assign(request.id.value(), request); }
  void over(RequestId request) {
    // A leg of it at another pool may outlive its client.
    if (!options_.apart) requests_.erase(request.value());
    if (options_.hands_over && !engines_.front()->lent.contains(request.value())) release(request);
  }

  // Prefill and decode apart (kernel_handover.cpp), of the first instance; numbers are the device's. Blocks
  // of a prompt, the last `count`, where it was computed: from now on they are read, until release().
  std::vector<std::int32_t> lend(RequestId request, std::int64_t count);
  bool holds(RequestId request) const;  // something that can be lent
  // Where they will come to: from now on `sequence` has blocks for the whole prompt, of which it finds all
  // but those.
  std::vector<std::int32_t> adopt(RequestId request, SequenceId sequence, std::int64_t count);
  // Of a prompt's blocks those that are not here already.
  std::int64_t lacking(RequestId request) const;
  void release(RequestId request);  // nobody will ask for its blocks any more; no effect where none are kept

  void submit(StepId step, InstanceId instance, const StepPlan& plan, SimTime now) override;
  void cut(InstanceId, SimTime) override {}
  void take_input(InstanceId instance, std::int64_t prompt_tokens, SimTime now) override;
  void ended(InstanceId instance, SequenceId sequence) override;
  SimTime next_event() const override;
  void collect(SimTime now, Outcomes& outcomes) override;
  DeviceSpan device_span(InstanceId instance, StepId step) const override;
  std::int32_t depth(InstanceId) const override { return options_.pricer->steps_in_flight(); }
  SimDuration output_delay(InstanceId) const override { return options_.pricer->output_delay(); }
  SimDuration output_per_sequence(InstanceId) const override {
    return options_.pricer->output_per_sequence();
  }

  const std::vector<KernelStep>& steps() const { return steps_; }
  const std::vector<ProfiledStep>& profiled() const { return profiled_; }
  const KvBlockMap& blocks(InstanceId instance) const { return engines_[instance.value()]->blocks; }
  // What the device said when it failed, and from when on nothing was run; empty: all is well.
  std::string failure() const;
  bool stopped() const { return stopped_; }
  bool failed() const { return failed_; }  // takes no lock: a clock asks that the worker may be waking

 private:
  // Whose token a row is; and where a sampled one goes.
  struct Place {
    SequenceId sequence;
    std::int64_t at = 0;
  };
  struct Job {
    StepBatch batch;
    std::vector<Place> rows, sampled;
    std::vector<std::pair<SequenceId, Request>> opened;
    StepResult result;
    bool skipped = false, started = false;  // started: guarded by the mutex
    SimTime begun, done;                    // a clock that waits
  };
  struct Open {
    StepTiming timing;
    StepTimes times;
    std::size_t log = 0;
    bool prompts_alone = false;  // without decodes beside them
    std::unique_ptr<Job> job;
  };
  struct Engine {
    Engine(const Options& options, std::int64_t first_block);
    KvBlockMap blocks;
    TokenBook book;  // the worker's, where there is one
    HostPipeline pipeline;
    EndTracker ends;
    std::int64_t first_block;
    std::deque<Open> open;
    bool host_free_due = false;
    SimTime host_free;
    std::uint64_t next_update = 0;
    std::vector<std::uint64_t> request_of;                      // by sequence, in the book
    std::vector<std::int32_t> prompt_of;                        // likewise: tokens
    std::vector<SequenceId> sequences;                          // of the plan's decodes
    std::unordered_map<std::uint64_t, SequenceId> sequence_of;  // by request; never iterated
    SimTime updated;
    std::vector<SequenceId> eos;
    std::vector<std::pair<SequenceId, Request>> adopted;   // for the next job to open
    std::unordered_map<std::uint64_t, SequenceId> handed;  // by request: ended, blocks kept; never iterated
    std::unordered_set<std::uint64_t> fetched;             // the other way round; likewise
    std::unordered_set<std::uint64_t> lent;                // blocks that a transport reads; never iterated
  };

  bool waits() const { return options_.clock != nullptr; }
  std::unique_ptr<Job> empty_job();
  std::unique_ptr<Job> make_job(Engine& e, const StepPlan& plan);
  std::vector<std::int32_t> last_blocks(RequestId request, std::int64_t count) const;
  bool answered(const Engine& e, SequenceId sequence) const;
  bool open(Engine& e, SequenceId sequence, RequestId request);  // false: it goes on
  void place_blocks(Engine& e, const StepPlan& plan, Job& job);
  void add_sequence(Engine& e, Job& job, SequenceId sequence, std::int64_t context, std::int32_t rows);
  void add_tables(Engine& e, Job& job) const;
  StepShape shape_of(const StepPlan& plan, std::vector<PrefillChunk>& chunks) const;
  void run(Engine& e, Job& job);
  void profile(const Job& job, const KernelStep& step);
  void work();  // the worker thread
  SimTime next_of(const Engine& e) const;
  bool any_done() const;
  DeviceSpan span_so_far(const Open& open, std::size_t place) const;
  void spin(std::int64_t ns) const;
  void finish(Engine& e, SimTime at, Outcomes& outcomes);

  Options options_;
  std::vector<std::unique_ptr<Engine>> engines_;
  std::unordered_map<std::uint64_t, Request> requests_;  // looked up, never iterated
  std::vector<DecodingToken> decoding_;
  std::vector<SequenceId> decoding_sequences_;  // theirs
  std::vector<std::unique_ptr<Job>> spare_;
  std::vector<KernelStep> steps_;
  std::vector<ProfiledStep> profiled_;
  bool stopped_ = false;
  std::chrono::steady_clock::time_point turn_;  // when the loop last came here
  std::vector<SequenceId> batch_sequences_;     // of the job under construction

  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::deque<Job*> queue_;
  std::size_t done_ = 0;  // of the open jobs, oldest first
  bool stop_ = false;
  std::string failure_;
  std::atomic<bool> failed_ = false;
  std::thread worker_;
};

}  // namespace orrery

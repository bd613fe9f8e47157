// The executor that asks the cost model. Device, launcher and core thread of every instance follow the
// pipeline recurrence of costmodel/pipeline.h; a stretch of decode steps is the same recurrence in a loop.
#pragma once

#include <deque>
#include <optional>
#include <vector>

#include "base/indexed_heap.h"
#include "costmodel/encoder_pricer.h"
#include "costmodel/step_pricer.h"
#include "sim/costed/end_tracker.h"
#include "sim/costed/expert_run.h"
#include "sim/costed/fabric_transport.h"
#include "sim/costed/first_use.h"
#include "sim/costed/idle_waves.h"
#include "sim/costed/launch_jitter.h"
#include "sim/executor.h"
#include "sim/request.h"
#include "sim/speculation.h"

namespace orrery {

// Device time on a GPU at `speed` of what it should have.
inline std::int64_t slowed(std::int64_t ns, double speed) {
  return round_half_even(static_cast<double>(ns) / speed);
}

// For a heap of transfers with the earliest on top.
inline constexpr auto done_later = [](const TransferDone& a, const TransferDone& b) {
  if (a.at != b.at) return a.at > b.at;
  return a.instance != b.instance ? a.instance > b.instance : a.id > b.id;
};

// Of pure decode steps.
std::vector<StepShape> stretch_shapes(const std::vector<RankPlan>& ranks, bool with_experts);

class CostModelExecutor final : public Executor {
 public:
  // `pricers`: one per instance (instances of a pool share one); they and `oracle` must outlive the executor.
  // `jitter` belongs to as many instances. `encoder`: prices the images of a step, null for a text-only
  // model.
  // `acceptance`: who decides how drafts fare; null = no speculation.
  CostModelExecutor(std::vector<const StepPricer*> pricers, const OutputLengths& oracle,
                    LaunchJitter jitter = {}, const EncoderPricer* encoder = nullptr,
                    const AcceptanceOracle* acceptance = nullptr);

  void submit(StepId step, InstanceId instance, const StepPlan& plan, SimTime now) override;
  void transfer(InstanceId instance, std::span<const TransferWork> work, SimTime now) override;
  // For as many instances; before the first step.
  void charge_first_use(FirstUse first_use) { first_use_ = std::move(first_use); }
  // Every pass waits for so long before it composes (costmodel/batch_wait.h): prices have it between an
  // update and the next pass, this is between a pass with nothing to update and the next one.
  void wait_between_passes(SimDuration wait) { pass_wait_ = wait; }
  const FirstUse& first_use() const { return first_use_; }
  // For as many instances; before the first step.
  void follow_experts(ExpertRun experts) { experts_ = std::move(experts); }
  void tell_choices(ExpertChoiceLog* log) { experts_.tell(log); }
  const ExpertRun& experts() const { return experts_; }
  // An encoder instance (vLLM's ec_producer): a step runs the encoder and nothing of the language model.
  void encode_only() { encode_only_ = true; }
  void follow_waves(IdleWaves waves) { waves_ = std::move(waves); }
  const IdleWaves& waves() const { return waves_; }
  // Links on which others travel beside its instances' traffic; the first of them has this number there.
  // After FabricTransport::share() and follow_experts().
  void share_links(FabricTransport* fabric, std::size_t first_instance) {
    fabric_ = fabric;
    shared_ = fabric->shared();
    first_instance_ = first_instance;
    experts_.share(fabric);
  }
  void know_stages(std::int32_t gpus_per_stage) { gpus_per_stage_ = gpus_per_stage; }
  // Copies to and from host memory are flows there. After share_links() and share_copies().
  void copy_over_fabric() { copies_on_fabric_ = true; }
  // Every instance gets a host link of its own.
  void add_host_links(const HostLink& link) {
    links_.assign(engines_.size(), link);
    fresh_link_ = link;
  }
  void cut(InstanceId instance, SimTime at) override;
  // Lengthens the launching of a step of prompts alone. Beside decodes the measured variation of launches
  // (LaunchJitter) holds it, and that of a decode step hides behind the step ahead. Not beside host links,
  // whose transfers were timed by the step's end as it was submitted.
  void take_input(InstanceId instance, std::int64_t prompt_tokens, SimTime now) override;
  SimTime hold_launch(InstanceId instance, SimDuration work, SimTime now) override;
  void ended(InstanceId instance, SequenceId sequence) override;
  // Faults (executor_faults.cpp). Experts' popularity and placement, and launches' variation, go on.
  void reset(InstanceId instance, SimTime now) override;
  void set_speed(InstanceId instance, std::int32_t gpu, double factor) override;
  void end_before(InstanceId instance, SimTime at) override;
  SimTime next_event() const override {
    const SimTime copied = copies_on_fabric_ ? fabric_->next_copy() : SimTime::never();
    const SimTime first = earlier(events_.first_time(), copied);
    return transfers_.empty() ? first : earlier(first, transfers_.front().at);
  }
  void collect(SimTime now, Outcomes& outcomes) override;
  DeviceSpan device_span(InstanceId instance, StepId step) const override;
  std::int32_t depth(InstanceId instance) const override;
  SimDuration output_delay(InstanceId instance) const override;
  SimDuration output_per_sequence(InstanceId instance) const override;

  // Steps of one kind: their device time and what they add up to, for saying what they rest on.
  struct StepKind {
    std::int64_t ns = 0, steps = 0;
    std::int64_t prefill_tokens = 0, chunks = 0, prefill_context = 0;
    std::int64_t decodes = 0, decode_context = 0, drafts = 0;
  };
  struct Usage {  // all instances
    StepKind prefill, mixed, decode;
    std::uint64_t prices = 0;
    std::int64_t encoder_ns = 0, encoder_launch_ns = 0, encoder_passes = 0;
    // Pipeline stages: busy nanoseconds of each (hand-offs apart), time with any step on any stage, summed
    // over instances, and steps of nobody.
    std::vector<std::int64_t> stage_ns;
    std::int64_t handoff_ns = 0, staged_span_ns = 0;
    std::uint64_t empty_batches = 0;
    std::int64_t copy_ns = 0;                // KV blocks over the host link with the device waiting
    std::vector<EncoderImage> largest_pass;  // what the encoder's prices rest on is asked of this one
  };
  const Usage& usage() const { return usage_; }

 private:
  static StepStamp stamp(const StepTimes& t) {
    return {.schedule_begin = t.schedule_begin,
            .launch_begin = t.launch_begin,
            .device_begin = t.device_begin,
            .device_end = t.device_end};
  }
  struct OpenStep {
    StepTiming timing;
    StepTimes times;
    bool prompts_alone = false;  // without decodes beside them
  };
  struct Stretch {
    std::int64_t planned = 0, taken = 0;  // steps; planned 0 = none is running
    std::int32_t decodes = 0, running = 0;
    std::int64_t context = 0;     // context sum of its first step
    std::vector<RankPlan> ranks;  // attention data parallelism: of its first step
    double speed = 1;             // of its GPU when it began
    SimTime start;
    HostPipeline pipeline{true};  // state before the first step, to run again when cut
    std::deque<OpenStep> open;
    std::vector<SimTime> boundaries;  // core thread free after each update
    std::int64_t first_busy = 0, last_busy = 0;
    ExpertRun::State experts;  // before the first step, where they change
  };
  struct GpuSpeed {  // that is not as it should be
    InstanceId instance;
    std::int32_t gpu;
    double factor;
  };
  struct Engine {
    const StepPricer* pricer;
    HostPipeline pipeline;
    std::size_t depth;
    std::deque<OpenStep> open;
    bool host_free_due = false;
    std::int64_t next_update = 0;  // index of the oldest open step
    Stretch stretch;
    std::vector<SimTime> updates;
    StepStamp first_stamp, second_stamp, last_stamp;
    std::vector<EndTracker> lanes;  // one a rank
    std::vector<SequenceId> eos;
    std::optional<SpokenSteps> speech;  // speculation and pipeline stages: instead of ends by decode step
    std::optional<StageChain> staged;   // pipeline stages: instead of `pipeline`
    SimTime staged_until;               // end on the last stage of what was submitted so far
    std::vector<double> speeds;         // by stage, of its slowest GPU; empty: as it should be
  };

  void make_state(Engine& e) const;
  void finish_stretch(Engine& e);
  void begin_single(Engine& e, std::size_t instance, const StepPlan& plan, SimTime now);
  void begin_stretch(Engine& e, const StepPlan& plan, SimTime now);
  void run_stretch(Engine& e, std::int64_t steps);
  std::size_t index_of(const Engine& e) const { return static_cast<std::size_t>(&e - engines_.data()); }
  struct AlonePrices;
  struct JointPrices;
  template <class Prices>
  void run_steps(Engine& e, std::int64_t steps, Prices prices);
  StepTiming price_alone(Engine& e, const StepPlan& plan, SimTime now, StepShape& shape);
  StepTiming price_ranks(const Engine& e, const StepPlan& plan, SimTime now);
  StepShape shape_alone(Engine& e, const StepPlan& plan);
  void name_tokens(const StepPlan& plan);
  bool meets_traffic(std::size_t instance) const {
    return shared_ != nullptr && shared_->meets_traffic(first_instance_ + instance);
  }
  bool shares_links(std::size_t instance) const {
    return shared_ != nullptr && shared_->watches(first_instance_ + instance);
  }
  std::int64_t share_step(const Engine& e, std::span<const StepShape> ranks, std::int64_t busy, SimTime now);
  void share_stretch(const Engine& e, std::int64_t busy, SimTime now);
  // link_sharing.cpp.
  void note_use(std::size_t instance, const LinkUse& use, std::int64_t busy, SimTime now);
  void share_stages(const Engine& e, const StepShape& shape, SimTime now);
  bool copies_on_fabric(std::size_t instance) const {
    return copies_on_fabric_ && fabric_->copies(first_instance_ + instance);
  }
  SimTime copied(std::size_t instance, const TransferWork& work, SimTime ready, SimTime now);
  void take_copies();
  // Pipeline stages (staged_execution.cpp).
  void begin_staged(Engine& e, std::size_t instance, const StepPlan& plan, SimTime now);
  void begin_empty(Engine& e, const StepPlan& plan, SimTime now);
  SimTime core_free(const Engine& e) const;
  SimTime core_free_after_update(const Engine& e) const;
  void update_oldest(Engine& e);
  void track_ends(Engine& e, std::int64_t step, const StepPlan& plan);
  std::int64_t updates_until_end(Engine& e);
  void take_ends(Engine& e, std::int64_t step);
  void schedule_event(std::uint32_t id);
  void copy_blocks(Engine& e, std::size_t instance, const StepPlan& plan, SimTime now);
  SimTime copy_before_staged(std::size_t instance, const StepPlan& plan, SimTime now);
  void add_images(const StepPlan& plan, StepTiming& timing);
  void count_usage(const StepPlan& plan, const StepShape& shape, std::int64_t busy);

  std::vector<Engine> engines_;
  LaunchJitter jitter_;
  FirstUse first_use_;
  SimDuration pass_wait_{0};
  ExpertRun experts_;
  std::vector<DecodingToken> tokens_;  // of the plan at hand, where they matter one by one
  IdleWaves waves_;
  bool encode_only_ = false;
  IndexedTimeHeap events_;
  FabricTransport* fabric_ = nullptr;
  SharedLinks* shared_ = nullptr;
  bool copies_on_fabric_ = false;  // of some instance
  std::size_t first_instance_ = 0;
  std::vector<HostLink> links_;
  std::vector<TransferDone> transfers_;  // under way: min-heap by (end, instance, id)
  std::optional<HostLink> fresh_link_;
  const OutputLengths* oracle_;
  const AcceptanceOracle* acceptance_;
  std::vector<GpuSpeed> slow_;
  std::int32_t gpus_per_stage_ = 1;
  const EncoderPricer* encoder_;
  std::vector<EncoderImage> images_;
  std::vector<PrefillChunk> chunks_;
  std::vector<StepShape> rank_shapes_;
  StagedTiming staged_;  // of the step at hand
  std::vector<std::int64_t> stage_experts_;
  Usage usage_;
};

}  // namespace orrery

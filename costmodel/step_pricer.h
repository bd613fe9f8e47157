// What a step should cost: the operator graph of one step of a model under a parallel plan on a part,
// compiled once so that pricing a shape is arithmetic on a few dozen numbers.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "costmodel/engine_profile.h"
#include "costmodel/expert_spec.h"
#include "costmodel/experts/rank_loads.h"
#include "costmodel/group_links.h"
#include "costmodel/hardware.h"
#include "costmodel/kernel_set.h"
#include "costmodel/model_spec.h"
#include "costmodel/parallel_plan.h"
#include "costmodel/pipeline.h"
#include "costmodel/ring_pipeline.h"
#include "costmodel/speculation.h"
#include "costmodel/step_shape.h"

namespace orrery {

struct ExchangeTable;  // costmodel/expert_exchange.h
struct ExpertStep;     // costmodel/expert_loads.h, as what follows
struct ExpertTime;
struct ExpertWork;

struct InstanceSpec;
class MoeTiles;
// How rows are exchanged, as loads have to know it; off where they are not.
ExchangeGroups exchange_groups(const InstanceSpec& spec);

// Which pipeline stage a spec speaks of; `of` 1 = the whole instance.
struct StageIndex {
  std::int32_t index = 0, of = 1;
  bool first() const { return index == 0; }
  bool last() const { return index == of - 1; }
};

// Everything that decides a price. All parts are resolved and validated (see costmodel/instance_spec.h).
struct InstanceSpec {
  HardwareProfile hardware;
  ModelSpec model;  // with quantisation and KV dtype applied
  ParallelPlan plan;
  EngineProfile engine;                      // with engine_args applied
  std::shared_ptr<const KernelSet> kernels;  // tables that price its operators; null = roofline only
  SpeculationSpec speculation = {};
  ExpertSpec experts = {};
  std::shared_ptr<const MoeTiles> tiles = {};  // of the experts' kernel; null = not told apart
  // vLLM's ranks of a model without experts: engines that share a front end and nothing else. `plan` is that
  // of one of them, with dp 1; everything here is one engine's.
  std::int32_t engines = 1;
  // GPUs over which dense MLPs, shared experts and the head are spread.
  std::int64_t dense_ranks() const {
    return engine.settings.joint.gathers_experts() ? plan.tp : plan.mlp_ranks();
  }
  std::int64_t dense_mlp_ranks() const { return engine.settings.joint.dense_whole ? 1 : dense_ranks(); }
  std::int64_t head_ranks() const { return engine.settings.joint.head_whole ? plan.tp : dense_ranks(); }
  // vLLM (`use_sequence_parallel_moe`): GPUs of a rank that hold whole experts split its rows for them.
  bool splits_rows() const { return engine.settings.joint.gathers_experts() && plan.tp > 1 && plan.ep > 1; }
  // Over which shared experts are: with an exchange, or split rows, they see a GPU's own rows only, and every
  // GPU has them whole (models/deepseek_v2.py of both engines: `_shared_expert_use_tp1`,
  // `is_sequence_parallel`).
  std::int64_t shared_expert_ranks() const {
    const bool own = engine.settings.joint.gathers_all() && engine.settings.joint.exchanges();
    return own || splits_rows() ? 1 : dense_ranks();
  }
  // Over which routed experts are, or shared out whole.
  std::int64_t expert_ranks() const {
    return engine.settings.context.own_experts ? plan.tp : plan.mlp_ranks();
  }
  std::shared_ptr<const ExchangeTable> exchange;  // of experts' rows by point-to-point kernels; null = none
  // Where the plan stands on several nodes; null = inside one scale-up domain.
  std::shared_ptr<const PlanLinks> links = {};
  StageIndex stage = {};  // with one of several, `model` holds that stage's layers only (costmodel/stages.h)
};

enum class OpClass : std::uint8_t {
  gemm,
  grouped_gemm,
  attention_prefill,
  attention_decode,
  elementwise,
  routing,
  collective,
  sampling,
  linear_attention,  // what layers with a state run between their products
  count
};
const char* to_string(OpClass op_class);
constexpr std::size_t op_class_count = static_cast<std::size_t>(OpClass::count);

// What-if and perturbation factors: the time of an operator class is multiplied by its factor, host times by
// `host`. All 1 = the nominal prediction.
struct PriceScales {
  std::array<double, op_class_count> op{1, 1, 1, 1, 1, 1, 1, 1, 1};
  double host = 1;
};

// The price of a pure decode step as a line in the sum of contexts, in fixed point (Q20 nanoseconds), valid
// on [low, high]. A stretch of decode steps evaluates the same line that single steps do, so both give the
// same nanoseconds: busy_ns = (base + slope·context_sum) >> 20.
struct DecodeLine {
  std::int64_t base = 0;   // Q20 ns
  std::int64_t slope = 0;  // Q20 ns per context token, ≥ 0
  std::int64_t low = 0;    // first context sum for which the line holds
  std::int64_t high = 0;   // last
  StepTiming timing;       // everything but `busy`; does not depend on the context
  // `more`: what the line leaves out (Q20 ns), see decode_line.
  std::int64_t busy(std::int64_t context_sum, std::int64_t more = 0) const {
    return (base + slope * context_sum + more) >> 20;
  }
};

// One line of the breakdown. Times of the lines sum exactly to the step's busy time (integer nanoseconds; the
// rounding rest is given to the largest line).
struct OpLine {
  std::string name;  // "qkv_proj", "attention_decode", "moe_gate_up", …
  OpClass op_class = OpClass::gemm;
  std::int64_t count = 0;  // launches in the step, all layers
  double flops = 0;        // all launches, one GPU
  double bytes = 0;        // HBM traffic, all launches, one GPU
  double link_bytes = 0;   // bytes sent per GPU
  std::int64_t time_ns = 0;
  std::string bound;    // compute | memory | link | latency
  std::string shape;    // "m=64 n=6144 k=4096 bf16", for people
  std::string rung;     // measured | published | transported | roofline
  std::string hit;      // exact | interpolated | extrapolated, of that rung's table
  double achieved = 0;  // data-sheet bound ÷ time: how near the roofline; 0 where neither rate is used
  double error = 0;     // one standard deviation of log(time)
};

// Of one pipeline stage; `stages` of them are alike.
struct StageLine {
  std::int32_t first = 0, stages = 1;
  std::int64_t layers = 0;                                  // of each
  std::int64_t busy_ns = 0, handoff_ns = 0, launch_ns = 0;  // of each
};

struct StepBreakdown {
  std::vector<OpLine> ops;     // in launch order
  StepTiming timing;           // with busy
  std::int64_t device_ns = 0;  // D − B: busy, or longer when launches cannot keep up (interfaces §6)
  std::int64_t host_ns = 0;    // schedule + prepare + launch + update
  std::int64_t step_ns = 0;    // time per step when this step repeats for ever in the engine's pipeline
  std::int64_t low_ns = 0, high_ns = 0;  // 90 % interval of device_ns
  std::string bound;                     // compute | memory | link | launch | latency: largest share
  std::string graph_mode;                // full | piecewise | none
  std::int64_t padded_tokens = 0;
  // Pipeline stages; empty = one. Then timing.busy, and the operators' lines, add up all stages with their
  // hand-offs, device_ns is the way through all stages of a step alone, step_ns the time between steps of
  // equal, disjoint batches, and `bubble` the share of the stages' time that stays idle among those.
  std::vector<StageLine> stages;
  double bubble = 0;
};

// The columns of `orrery cost --steps` (interfaces §6): explain() without its words.
struct StepSummary {
  StepTiming timing;
  std::int64_t device_ns = 0, host_ns = 0, step_ns = 0;  // as in StepBreakdown
  std::int64_t low_ns = 0, high_ns = 0;
  const char* bound = "";
};

// How links that a step's collectives use are shared with others, inside a node and between nodes.
struct LinkPace {
  struct Side {
    double slowdown = 1;  // at the links' own rate its bytes take so many times as long (max-min)
    double most_ns = 0;   // and no more longer than this: until all that the others have left has passed
    double left = 1;      // what faults leave of the links: of the rate that a collective reaches as well
    friend bool operator==(const Side&, const Side&) = default;
  };
  Side inside, network;
  bool alone() const { return inside == Side{} && network == Side{}; }
};
// What a step's collectives, exchanges of rows and moved weights put on links.
struct LinkUse {
  double more_ns = 0;        // of busy time, at that pace
  double weak_ns = 0;        // of that, what faults alone make it longer
  double inside_ns = 0;      // that the links inside a node are full, were they at their data-sheet rate
  double network_bytes = 0;  // over the busiest link between nodes
};

class StepPricer {
 public:
  static Result<StepPricer> create(const InstanceSpec& spec, const PriceScales& scales = {});
  struct State;
  StepPricer(StepPricer&&) noexcept;
  StepPricer& operator=(StepPricer&&) noexcept;
  ~StepPricer();

  // Hot path. Pure function of the shape (internal tables are filled at construction); thread-safe. At most
  // 1 µs for any shape with a few chunks. A shape without tokens is a broken precondition.
  StepTiming price(const StepShape& shape) const;
  // Attention data parallelism: one step of all ranks, one shape each (idle ranks: no tokens; at least one
  // rank has some). As long as the slowest rank in every part; each distinct shape is priced once.
  std::int32_t ranks() const;
  bool ranks_share_slots() const;  // a rank's sequences have any slots of the instance, not those modulo it
  StepTiming price_joint(std::span<const StepShape> ranks) const;
  StepTiming price_joint_pass() const;  // of ranks that find nothing to run
  // Pipeline stages: every stage's part of a step. `samples`: some sequence gets a token.
  std::int32_t stages() const;
  const StageRules& stage_rules() const;
  // `experts`: StepShape::expert_q20 by stage, or none.
  void price_stages(const StepShape& shape, bool samples, StagedTiming& out,
                    std::span<const std::int64_t> experts = {}) const;
  StepTiming empty_timing(std::int32_t running) const;  // host terms of a step without tokens
  // The line of each rank with decodes beside the others; the step's busy time is the largest of theirs.
  std::vector<DecodeLine> joint_decode_lines(std::span<const StepShape> ranks) const;
  // The line that price() of a pure decode step evaluates, around `context_sum`.
  // `with_experts` false: without the expert products whose load changes from step to step.
  DecodeLine decode_line(std::int32_t decode_sequences, std::int64_t context_sum, std::int32_t running,
                         bool with_experts = true) const;
  // What experts' loads decide of a step: of all layers with this load, and of one in halves under each
  // layer's, and under those of the first instant (costmodel/expert_price.cpp). Precondition: experts.on().
  ExpertTime expert_time(const ExpertStep& step, const RankLoad& load) const;
  ExpertWork expert_work(std::span<const StepShape> ranks) const;
  double halved_ns(const ExpertWork& work, const std::array<std::span<const ExpertTime>, 2>& loads) const;
  double first_halved_ns(const ExpertWork& work) const;
  // One shape a rank, one of which has tokens. Of pipeline stages: see below.
  LinkUse link_use(std::span<const StepShape> ranks, const LinkPace& pace) const;
  // Of one stage, without and with nothing but the hand-off to it.
  LinkUse stage_link_use(std::size_t stage, const StepShape& shape, const LinkPace& pace, bool handoff) const;
  // Until every rank of an expert-parallel group has received `bytes` (of the one that receives most), over
  // the scale-up links, or the network where it spans nodes. `ns` is with what the pace adds.
  struct ExpertMove {
    double ns = 0;
    LinkUse use;
  };
  ExpertMove expert_move(double bytes, const LinkPace& pace = {}) const;
  // From the end of an update to the client (frontend: none), and from the client to the core's input queue.
  SimDuration output_delay() const;
  SimDuration output_per_sequence() const;
  SimDuration input_delay() const;
  SimDuration core_wake() const;          // from there to a core that was idle
  SimDuration input_per_request() const;  // between requests that come at once
  // What taking in such a prompt costs a core thread that is launching a step meanwhile.
  SimDuration input_work(std::int64_t prompt_tokens) const;
  // Steps that may be open at once, and whether the core thread launches kernels itself.
  std::int32_t steps_in_flight() const;
  bool single_token_is_decode() const;  // a prompt's chunk of one token, see padding.h
  bool launcher_is_core() const;

  // For people: slower, allocates. device, host and step times as interfaces §6 defines them.
  StepBreakdown explain(const StepShape& shape) const;
  StepSummary summarize(const StepShape& shape) const;  // the same figures, about a microsecond
  // Nanoseconds of the operators that depend on the padded token count, before the rounding that hides last
  // bits: what determinism tests compare.
  double unrounded_ns(std::int64_t tokens) const;

 private:
  explicit StepPricer(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace orrery

// Inside of StepPricer, shared by pricing (step_pricer.cpp) and explaining (breakdown.cpp).
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "costmodel/expert_loads.h"
#include "costmodel/padding.h"
#include "costmodel/price_table.h"
#include "costmodel/roofline.h"
#include "costmodel/step_graph.h"
#include "costmodel/step_pricer.h"
#include "costmodel/two_batches.h"

namespace orrery {

inline double nanoseconds(const Figure<Seconds>& figure, double scale) {
  return figure.value.value() * 1e9 * scale;
}

// Host coefficients in nanoseconds, scaled.
struct HostNanoseconds {
  double schedule_base = 0, schedule_per_sequence = 0, schedule_per_new_request = 0;
  double prepare_base = 0, prepare_per_sequence = 0;  // the base includes the RPC of a multi-process engine
  double launch_graph = 0, launch_piecewise = 0, launch_kernel = 0;
  double launch_eager_more = 0;  // of all fused expert layers and collectives of a step
  double launch_split_more = 0;  // of the collectives that split prompts add
  // Speculation: launches of the drafting network's passes, the first one in graph pieces or kernel by
  // kernel; n-grams: the search, per token of context, before the tokens are copied.
  double draft_pieces = 0, draft_eager = 0, draft_next = 0, draft_passes = 0, ngram_token = 0;
  double verify = 0;  // of what follows the logits in a graph step with drafts (V1 model runner of vLLM)
  double tree = 0, tree_eager = 0;  // around a verification of a tree of drafts, beside a graph and without
  double ngram_propose = 0, ngram_propose_per_sequence = 0;
  // Layers with a state, of a step with prompts and of one with decodes: kernels that they launch between
  // graph pieces, and what those of Triton take more.
  struct StateLaunches {
    double kernels = 0, more = 0;
  } state_prompts, state_decodes;
  bool draft_in_graph = false;
  double first_kernel = 0, step_gap = 0;
  bool waits_for_accepted = false;  // a launch needs what the step before accepted
  double rank_sync = 0;             // between the ranks of attention data parallelism, before a step
  double copy = 0, update_base = 0, update_per_sequence = 0, gap = 0;
};

// costmodel/host_paths.cpp: what groups of KV layers and proposing n-grams add.
void add_group_terms(const InstanceSpec& spec, double scale, HostNanoseconds& ns);
void set_proposing_terms(const HostCosts& host, double scale, HostNanoseconds& ns);

// One stretch of the decode-attention line: Q20 nanoseconds at `low` is base + slope·low.
struct LineSegment {
  std::int64_t base = 0, slope = 0, low = 0, high = 0;
};

// One half of a step that runs in two.
struct HalfStep {
  StepShape of;
  PaddedStep padded;
  std::vector<PrefillChunk> prefill;
  void take(const StepShape& shape, const PaddedStep& whole, int half);
};

struct PricerState {
  std::unique_ptr<Roofline> roofline;
  std::shared_ptr<const PlanLinks> links;  // that operators point into; null inside one scale-up domain
  std::vector<GraphNode> nodes;            // launch order
  std::vector<double> weights;  // per node: count · scale of its class; the fixed order of every sum
  GraphPadding padding{SchedulerSettings{}};
  HostNanoseconds host;
  std::int64_t kernels_without_attention = 0, attention_layers = 0;
  std::int64_t kernels_of_prefill = 0, kernels_of_decode = 0;  // beside attention itself: latent attention
  std::int64_t kernels_of_tree = 0;                            // of a verification of a tree of drafts
  PriceTable token_table, row_table, last_table;               // by tokens or rows; nanoseconds
  // Attention data parallelism, by rows of all ranks: what runs over them, the collectives of the two ways to
  // gather them, the head. Empty without.
  PriceTable gathered_table, evenly_table, by_sum_table, gathered_rows_table;
  PriceTable draft_table;     // by tokens of a drafting pass; empty without a drafting network
  std::size_t last_node = 0;  // the kernel that ends a step
  std::shared_ptr<ExpertLoads> expert_loads;  // of the first instant; null = uniform, in the token table
  std::vector<double> expert_table;           // under them, by tokens
  mutable std::mutex loads_guard;             // they fill when asked, where rows are exchanged
  bool loads_exchanges = false;               // some node is `by_load`
  double layers_of_all = 1;                   // layers with experts of all pipeline stages ÷ this one's
  std::int32_t expert_ranks = 1;
  SimDuration input_delay, core_wake, input_per_request, output_delay, output_per_sequence;
  PriceTable handoff_table;  // pipeline stages: nanoseconds by tokens; empty without
  std::int32_t steps_in_flight = 1;
  bool launcher_is_core = false;
  double host_error = 0;
  double input_token_ns = 0;

  double sum_tokens(std::int64_t tokens) const;  // operators that depend on padded tokens, uncached
  double sum_rows(std::int64_t rows) const;
  double sum_drafting(std::int64_t tokens) const;  // passes over one token of each sequence, and draft heads
  double sum_over(DependsOn depends_on, std::int64_t tokens) const;  // of one kind of gathered operators
  double over_ns(const PriceTable& table, DependsOn depends_on, std::int64_t tokens) const {
    return table.at(tokens, [&](std::int64_t t) { return sum_over(depends_on, t); });
  }
  double gathered_ns(const PaddedStep& padded) const;
  // costmodel/context_price.cpp. Ranks of context parallelism: what steps run whose prompts are dealt to
  // them, and what all others do, by rows of all ranks.
  bool shares_prompts = false;
  PriceTable split_table, whole_table;
  std::int64_t kernels_of_split = 0;
  void add_context(const InstanceSpec& spec, double host_scale);
  double context_ns(const PaddedStep& padded) const;
  bool exchanges = false;  // some node is one of an exchange
  double exchanged_ns(const PaddedStep& padded) const;
  // costmodel/exchanged_step.cpp. Layers with an exchange, and all; share of the part's multiprocessors that
  // normal kernels of it occupy.
  std::int64_t exchange_layers = 0, all_layers = 0;
  double exchange_units = 0;
  bool by_phase_batches = false, pause_between_layers = false;
  void add_exchange(const InstanceSpec& spec);
  double two_batch_ns(const StepShape& shape, const PaddedStep& padded) const;
  HalvedStep halved(const StepShape& shape, const PaddedStep& padded) const;
  // With what the loads of each half decide, by layer.
  double halved_ns(const HalvedStep& step, const std::array<std::span<const ExpertTime>, 2>& loads) const;
  double half_node_ns(std::size_t node, const HalfStep& half) const;
  double in_halves_ns(std::size_t node, const StepShape& shape, const PaddedStep& padded) const;
  double halved_share(const GraphNode& node) const;
  double slower_beside_exchange(const PaddedStep& padded) const;
  HalfExchange taken_apart(std::size_t node, const StepInput& input, bool low_latency, double ns) const;
  // Whether a node takes part in a step, and what it is given.
  bool takes_part(const GraphNode& node, const StepShape& shape, const PaddedStep& padded) const;
  StepInput input_of(const GraphNode& node, const StepShape& shape, const PaddedStep& padded) const;
  // costmodel/overlapped_step.cpp. What shared experts hide beside the routed ones, and early starts save.
  struct Branches {
    struct Side {
      double ns = 0, memory = 0, compute = 0;  // the last two at the part's rates, compute as products reach
      double room = 0;                         // of ns, what kernels that leave units to others take
    };
    Side shared, routed;
    double fork_join = 0, slower = 1;
    double hidden(double bandwidth) const;
  };
  struct EarlyStarts {
    double always = 0, prefill = 0, decode = 0;  // nanoseconds a step, of one with prompts, with decodes
  };
  SharedExpertStream side;
  double side_fork_join = 0;  // nanoseconds a step
  std::int64_t side_parts = 1;
  EarlyStarts early;
  PriceTable hidden_table;  // by tokens; empty where it depends on more
  void add_side_stream(const InstanceSpec& spec);
  void add_early(const InstanceSpec& spec);
  void add_branch(const GraphNode& node, double weight, const StepInput& input, Branches& sum) const;
  double room_beside(const GraphNode& node, const StepInput& input, double ns) const;
  bool beside(const StepShape& shape, const PaddedStep& padded) const;
  double hidden_ns(const StepShape& shape, const PaddedStep& padded) const;
  double reckon_hidden(const StepShape& shape, const PaddedStep& padded) const;
  double early_ns(const StepShape& shape) const;
  double sum_prefill(const StepShape& shape) const;
  double sum_eager(std::int64_t kernels) const;  // launched one by one
  double node_ns(std::size_t node, const StepInput& input) const {
    return weights[node] * nodes[node].op->cost(input).ns();
  }
  double plus_node(double sum, std::size_t node, const StepInput& input) const;
  // costmodel/expert_price.cpp. Under one load, and under those of the first instant (0 where the token table
  // has them).
  ExpertTime expert_time(const ExpertStep& step, const RankLoad& load) const;
  ExpertPrice expert_price() const {
    return [this](const ExpertStep& step, const RankLoad& load) { return expert_time(step, load); };
  }
  ExpertStep expert_step(const PaddedStep& padded) const;
  std::array<ExpertStep, 2> half_steps(const PaddedStep& padded) const;
  double experts_ns(const PaddedStep& padded) const;
  double first_halved_ns(const HalvedStep& step, const std::array<ExpertStep, 2>& halves) const;
  const RankLoad* typical_load(std::int64_t tokens) const;  // of the layers' slowest ranks, on average
  void add_experts(const InstanceSpec& spec);
  double tokens_ns(std::int64_t tokens) const {
    return token_table.at(tokens, [&](std::int64_t t) { return sum_tokens(t); });
  }
  double rows_ns(std::int64_t rows) const {
    return row_table.at(rows, [&](std::int64_t r) { return sum_rows(r); });
  }
  double drafting_ns(std::int64_t tokens) const {
    if (draft_table.empty()) return 0;
    return draft_table.at(tokens, [&](std::int64_t t) { return sum_drafting(t); });
  }
  // A stage that samples nothing ends with a layer's kernel.
  bool samples = true;
  double last_ns(std::int64_t rows) const {
    if (!samples) return 0;
    return last_table.at(rows, [&](std::int64_t r) { return node_ns(last_node, {0, r, nullptr, 0, r}); });
  }

  // Decode attention of `shape` with its context replaced by a knot; the stretch of the line around
  // `context_sum`.
  std::int64_t decode_q20(const StepShape& shape, const PaddedStep& padded, std::int64_t context_sum) const;
  LineSegment decode_segment(const StepShape& shape, const PaddedStep& padded) const;
  // Everything but decode attention, Q20.
  std::int64_t fixed_q20(const StepShape& shape, const PaddedStep& padded) const;
  StepTiming host_timing(const StepShape& shape, const PaddedStep& padded) const;
  StepTiming price(const StepShape& shape, const PaddedStep& padded) const;
  DecodeLine decode_line(const StepShape& shape, const PaddedStep& padded) const;
  std::int64_t kernels(const StepShape& shape) const;
  std::int64_t eager_kernels(const StepShape& shape, const PaddedStep& padded) const {
    if (padded.mode != GraphMode::none) return 0;
    return (padded.two_batches ? 2 : 1) * kernels(shape) + (padded.split_prompts ? kernels_of_split : 0);
  }
  double proposing_ns(const StepShape& shape) const;
  void add_state_launches(const InstanceSpec& spec, double scale);
  double state_launch_ns(const StepShape& shape, const PaddedStep& padded) const;
  void add_speculation(const InstanceSpec& spec, double scale);
  void add_v1_drafting();
  Status fill(const InstanceSpec& spec, const PriceScales& scales);
  StageTiming price_stage(const StepShape& shape, const PaddedStep& padded, StepTiming& host) const;
  void count_kernels(const InstanceSpec& spec, const PriceScales& scales);
  void add_launches(const InstanceSpec& spec, double scale);
  void set_delays(const HostCosts& h, double scale);
  void make_tables(bool joint);
};

// With pipeline stages it is the last one's itself.
struct StepPricer::State : PricerState {
  std::vector<std::unique_ptr<PricerState>> others;  // one for all stages that are alike
  std::vector<const PricerState*> stages;            // by stage; empty = one stage
  std::vector<std::int64_t> layers;                  // likewise
  StageRules rules;
};

// costmodel/staged_price.cpp: the pricers of all stages, and what a step of them is taken apart into.
Status fill_stages(const InstanceSpec& spec, const PriceScales& scales, StepPricer::State& state);
StepBreakdown explain_stages(const StepPricer::State& state, const StepShape& shape);
StepSummary summarize_stages(const StepPricer::State& state, const StepShape& shape);

constexpr int line_shift = 20;  // Q20

}  // namespace orrery

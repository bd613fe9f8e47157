#include "costmodel/step_pricer.h"

#include <algorithm>
#include <bit>

#include "base/mutation.h"
#include "costmodel/batch_wait.h"
#include "costmodel/pricer_state.h"

namespace orrery {

namespace {

// Kernels of a layer's attention that stand between graph pieces. Latent attention is one operator to vLLM's
// compiler, so both absorbing products are launched there too (mla_attention.py, forward_impl).
double attention_launches(const InstanceSpec& spec) {
  return spec.model.latent.present() && spec.engine.engine == "vllm" ? 4 : 2;
}

HostNanoseconds host_costs(const InstanceSpec& spec, double scale, bool one_process) {
  const HostCosts& h = spec.engine.host;
  HostNanoseconds ns;
  ns.schedule_base = nanoseconds(h.schedule_base, scale);
  ns.schedule_per_sequence = nanoseconds(h.schedule_per_sequence, scale);
  ns.schedule_per_new_request = nanoseconds(h.schedule_per_new_request, scale);
  ns.prepare_base = nanoseconds(h.prepare_base, scale);
  if (!one_process) ns.prepare_base += nanoseconds(h.prepare_rpc, scale);
  const bool v1 = spec.engine.runner == "v1";
  ns.prepare_per_sequence = nanoseconds(v1 ? h.prepare_per_sequence_v1 : h.prepare_per_sequence, scale);
  ns.launch_graph = nanoseconds(h.launch_graph, scale);
  ns.first_kernel = ns.launch_graph * h.first_kernel.value;
  if (!spec.stage.last()) ns.launch_graph *= spec.engine.pipeline->execute_share.value;
  ns.launch_kernel = nanoseconds(h.launch_kernel, scale);
  ns.step_gap = nanoseconds(h.step_gap, 1);
  // Graph pieces run between the layers' attention, whose KV write and attention are launched eagerly, and
  // between what layers with a state run (add_state_launches).
  const double layers = static_cast<double>(spec.model.attention_layers());
  const double stateful = static_cast<double>(spec.model.state_layers());
  ns.launch_piecewise = nanoseconds(h.launch_piece, scale) * (layers + stateful + 1) +
                        attention_launches(spec) * layers * ns.launch_kernel;
  ns.copy = nanoseconds(h.copy, scale);
  ns.update_base = nanoseconds(h.update_base, scale);
  ns.update_per_sequence = nanoseconds(h.update_per_sequence, scale);
  ns.gap = nanoseconds(h.loop_gap, scale) + batch_wait_ns(spec.engine.settings);
  add_group_terms(spec, scale, ns);
  return ns;
}

Status check_scales(const PriceScales& scales) {
  Errors errors;
  for (std::size_t i = 0; i < op_class_count; ++i) {
    if (scales.op[i] > 0 && scales.op[i] < 1e6) continue;
    errors.push_back(invalid_input("a factor must be positive and below a million", {},
                                   std::string("op_scale.") + to_string(static_cast<OpClass>(i))));
  }
  if (!(scales.host > 0 && scales.host < 1e6)) {
    errors.push_back(invalid_input("a factor must be positive and below a million", {}, "op_scale.host"));
  }
  if (!errors.empty()) return errors;
  return ok_status();
}

// Knots of the decode line: eight to an octave of the context sum, at most 2^20 apart, so that the rest that
// the floor of the slope leaves at a knot stays below a nanosecond.
struct KnotInterval {
  std::int64_t low, next;
};
KnotInterval knots_around(std::int64_t context_sum) {
  const int octave = static_cast<int>(std::bit_width(static_cast<std::uint64_t>(context_sum))) - 1;
  const int shift = std::clamp(octave - 3, 0, line_shift);
  const std::int64_t low = (context_sum >> shift) << shift;
  return {low, low + (std::int64_t{1} << shift)};
}

std::int64_t to_q20(double ns) { return round_half_even(ns * static_cast<double>(1 << line_shift)); }

}  // namespace

double PricerState::plus_node(double sum, std::size_t node, const StepInput& input) const {
  if (ORRERY_MUTANT(fused_multiply_add)) {  // the product is not rounded before the sum
    const long double product = static_cast<long double>(weights[node]) * nodes[node].op->cost(input).ns();
    return static_cast<double>(product + sum);
  }
  return sum + node_ns(node, input);
}

double PricerState::sum_tokens(std::int64_t tokens) const {
  const StepInput input{tokens, 0, nullptr, 0};
  double ns = 0;
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    if (nodes[i].spec.depends_on == DependsOn::tokens) ns = plus_node(ns, i, input);
  }
  return ns;
}

double PricerState::sum_rows(std::int64_t rows) const {
  const StepInput input{0, rows, nullptr, 0};
  double ns = 0;
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    if (nodes[i].spec.depends_on == DependsOn::rows) ns = plus_node(ns, i, input);
  }
  return ns;
}

double PricerState::sum_drafting(std::int64_t tokens) const {
  const StepInput input{0, 0, nullptr, 0, tokens};
  double ns = 0;
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    if (nodes[i].spec.depends_on == DependsOn::drafting) ns = plus_node(ns, i, input);
  }
  return ns;
}

double PricerState::sum_over(DependsOn depends_on, std::int64_t tokens) const {
  const StepInput input{tokens, 0, nullptr, 0};
  double ns = 0;
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    if (nodes[i].spec.depends_on == depends_on && !nodes[i].by_load) ns = plus_node(ns, i, input);
  }
  return ns;
}

double PricerState::sum_prefill(const StepShape& shape) const {
  const StepInput input{0, 0, &shape, 0};
  double ns = 0;
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    if (nodes[i].spec.depends_on == DependsOn::prefill) ns = plus_node(ns, i, input);
  }
  return ns;
}

double PricerState::sum_eager(std::int64_t kernels) const {
  StepInput input;
  input.eager_kernels = kernels;
  double ns = 0;
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    if (nodes[i].spec.depends_on == DependsOn::eager) ns = plus_node(ns, i, input);
  }
  return ns;
}

std::int64_t PricerState::decode_q20(const StepShape& shape, const PaddedStep& padded,
                                     std::int64_t context_sum) const {
  StepShape at_knot = shape;
  at_knot.decode_context_tokens = context_sum;
  if (padded.two_batches) return to_q20(two_batch_ns(at_knot, padded));  // with all else
  const StepInput input{0, 0, &at_knot, 0};
  double ns = 0;
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    if (nodes[i].spec.depends_on == DependsOn::decode) ns = plus_node(ns, i, input);
  }
  return to_q20(ns);
}

LineSegment PricerState::decode_segment(const StepShape& shape, const PaddedStep& padded) const {
  const KnotInterval knots = knots_around(shape.decode_context_tokens);
  const std::int64_t at_low = decode_q20(shape, padded, knots.low);
  const std::int64_t at_next = decode_q20(shape, padded, knots.next);
  LineSegment line;
  line.low = knots.low;
  line.high = knots.next - 1;
  line.slope = (at_next - at_low) / (knots.next - knots.low);  // both differences are ≥ 0: floor
  line.base = at_low - line.slope * knots.low;
  return line;
}

std::int64_t PricerState::fixed_q20(const StepShape& shape, const PaddedStep& padded) const {
  const bool expected = shape.expert_q20 == StepShape::as_expected;
  const std::int64_t experts = expected ? 0 : shape.expert_q20;
  if (padded.two_batches)
    return experts + (shape.decode_sequences > 0 ? 0 : to_q20(two_batch_ns(shape, padded)));
  double ns = tokens_ns(padded.tokens) + rows_ns(padded.rows);
  ns += drafting_ns(padded.drafting);
  if (expert_loads != nullptr && expected) ns += experts_ns(padded);
  if (padded.gathered > 0) ns += gathered_ns(padded);
  if (!shape.prefill.empty()) ns += sum_prefill(shape);
  if (padded.mode == GraphMode::none) ns += sum_eager(eager_kernels(shape, padded));
  ns -= hidden_ns(shape, padded) + early_ns(shape);
  return to_q20(ns) + experts;
}

std::int64_t PricerState::kernels(const StepShape& shape) const {
  // One launch of attention a layer with prompt chunks (decodes ride along), two for decodes alone.
  return kernels_without_attention + attention_layers * (shape.prefill.empty() ? 2 : 1) +
         (shape.prefill.empty() ? 0 : kernels_of_prefill) +
         (shape.decode_sequences > 0 ? kernels_of_decode : 0) +
         (shape.draft_tokens > 0 ? kernels_of_tree : 0);
}

StepTiming PricerState::host_timing(const StepShape& shape, const PaddedStep& padded) const {
  const double sequences = static_cast<double>(padded.sequences);
  const double running = shape.running > 0 ? static_cast<double>(shape.running) : sequences;
  StepTiming t;
  t.schedule = round_half_even(host.schedule_base + host.schedule_per_sequence * running +
                               host.schedule_per_new_request * static_cast<double>(shape.new_requests));
  if (padded.gathered > 0 && !padded.launcher_agrees) t.schedule += round_half_even(host.rank_sync);
  t.prepare = round_half_even(host.prepare_base + host.prepare_per_sequence * sequences);
  switch (padded.mode) {
    case GraphMode::full: t.launch = round_half_even(host.launch_graph); break;
    case GraphMode::piecewise: t.launch = round_half_even(host.launch_graph + host.launch_piecewise); break;
    case GraphMode::none:
      t.launch = round_half_even(host.launch_graph + host.launch_eager_more * (padded.two_batches ? 2 : 1) +
                                 (padded.split_prompts ? host.launch_split_more : 0) +
                                 host.launch_kernel * static_cast<double>(eager_kernels(shape, padded)));
      break;
  }
  t.launch += round_half_even(state_launch_ns(shape, padded));
  const bool drafting = !draft_table.empty() && !shape.without_drafting;
  if (drafting && host.draft_in_graph) {  // launched with the step's graph, or kernel by kernel with the rest
    if (padded.mode == GraphMode::none) t.launch += round_half_even(host.draft_eager * host.draft_passes);
  } else if (drafting) {
    const bool pieces = padded.mode != GraphMode::none;
    t.launch += round_half_even(host.draft_next + (pieces ? host.draft_pieces : host.draft_eager));
    if (pieces && shape.decode_sequences > 0) t.launch += round_half_even(host.verify);  // else with the rest
  }
  if (shape.draft_tokens > 0)
    t.launch += round_half_even(padded.mode == GraphMode::none ? host.tree_eager : host.tree);
  t.first_kernel = round_half_even(host.first_kernel);
  if (padded.launcher_agrees) {  // before the first kernel, by whoever launches
    t.launch += round_half_even(host.rank_sync);
    t.first_kernel += round_half_even(host.rank_sync);
  }
  t.step_gap = round_half_even(host.step_gap);
  t.last_kernel = round_half_even(last_ns(drafting ? padded.drafting : padded.rows));
  t.copy = round_half_even(host.copy + proposing_ns(shape));
  t.update = round_half_even(host.update_base + host.update_per_sequence * sequences);
  t.gap = round_half_even(host.gap);
  t.needs_tokens = (host.ngram_token > 0 || host.waits_for_accepted) && shape.decode_sequences > 0;
  return t;
}

// A pass of the drafting network runs in graph pieces between its attention, its head kernel by kernel
// (vLLM's V1 proposer; the V2 runner's full graphs for later passes are not told apart).
void PricerState::add_speculation(const InstanceSpec& spec, double scale) {
  if (spec.speculation.method == SpeculationMethod::ngram) set_proposing_terms(spec.engine.host, scale, host);
  const TreeAttention tree = spec.speculation.tree_attention;
  if (tree != TreeAttention::none) {
    using Kernels = TreeKernels;
    const double around = Kernels::building + Kernels::committing, tables = Kernels::tables(tree);
    host.tree = (around + tables) * host.launch_kernel;
    // N-grams' are among the kernels of an eager step.
    host.tree_eager =
        (tables + (spec.speculation.has_network() ? Kernels::organizing + around : 0)) * host.launch_kernel;
  }
  if (!spec.speculation.has_network()) return;
  const double layers = static_cast<double>(spec.speculation.draft.layers);
  double head = 0, kernels = 0, experts = 0;
  for (const GraphNode& node : nodes) {
    if (!node.draft || !node.name.starts_with("draft_") || node.name.starts_with("draft_next_")) continue;
    if (node.name == "draft_inputs") continue;           // counted below
    if (node.name.starts_with("draft_tree_")) continue;  // with a verification alone: host.tree_eager
    kernels += static_cast<double>(node.kernels());
    if (node.name == "draft_moe_experts" || node.name == "draft_moe_gate_up")
      experts += static_cast<double>(node.count) * nanoseconds(spec.engine.host.launch_experts, scale);
    if (node.spec.depends_on == DependsOn::drafting) head += static_cast<double>(node.kernels());
  }
  host.draft_pieces = nanoseconds(spec.engine.host.launch_piece, scale) * (layers + 1) +
                      (attention_launches(spec) * layers + head) * host.launch_kernel;
  host.draft_eager = kernels * host.launch_kernel + experts;
  // MiMo's network is compiled by nothing and captured in nothing (models/mimo_mtp.py).
  if (spec.model.architecture == "MiMoForCausalLM") host.draft_pieces = host.draft_eager;
  host.draft_passes = static_cast<double>(spec.speculation.tokens);
  host.draft_in_graph = spec.speculation.inside_engine(spec.engine.engine);
  host.draft_next = static_cast<double>(spec.speculation.tokens - 1) *
                    (padding.largest() > 0 ? host.draft_pieces : host.draft_eager);
  if (drafts_by_v1(spec)) add_v1_drafting();
  // SGLang captures its passes in one graph, and the first one, after a verification, in another, for chains
  // as for trees (eagle_worker_v2.py, `_capture_cuda_graphs`; on AMD's parts the first with AITER alone).
  if (spec.engine.engine == "sglang" && padding.largest() > 0) {
    const bool extends = spec.hardware.vendor != "amd" || spec.hardware.architecture == "gfx942";
    host.draft_pieces = extends ? host.launch_graph : host.draft_eager;
    host.draft_next = host.draft_passes > 1 ? host.launch_graph : 0;
  }
  draft_table = PriceTable::create();
}

void PricerState::add_v1_drafting() {
  using Kernels = V1DraftKernels;
  host.launch_graph += Kernels::inputs * host.launch_kernel;
  host.first_kernel += Kernels::inputs * host.launch_kernel;
  host.verify = Kernels::verification * host.launch_kernel;
  host.draft_pieces += Kernels::first_pass * host.launch_kernel;
  host.draft_eager += Kernels::first_pass * host.launch_kernel;
  host.draft_next += (host.draft_passes - 1) * Kernels::next_pass * host.launch_kernel;
}

void PricerState::make_tables(bool joint) {
  token_table = PriceTable::create();
  row_table = PriceTable::create();
  last_table = PriceTable::create();
  const bool staged = std::any_of(nodes.begin(), nodes.end(), [](const GraphNode& node) {
    return node.spec.depends_on == DependsOn::handoff;
  });
  if (staged) handoff_table = PriceTable::create();
  if (!joint) return;
  for (PriceTable* table : {&gathered_table, &evenly_table, &by_sum_table, &gathered_rows_table})
    *table = PriceTable::create();
}

StepTiming PricerState::price(const StepShape& shape, const PaddedStep& padded) const {
  ORRERY_CHECK(padded.real_tokens > 0, "a step without tokens has no price");
  StepTiming t = host_timing(shape, padded);
  std::int64_t busy = fixed_q20(shape, padded);
  if (shape.decode_sequences > 0) {
    const LineSegment line = decode_segment(shape, padded);
    busy += line.base + line.slope * shape.decode_context_tokens;
  }
  t.busy = busy >> line_shift;
  return t;
}

DecodeLine PricerState::decode_line(const StepShape& shape, const PaddedStep& padded) const {
  const LineSegment segment = decode_segment(shape, padded);
  DecodeLine line;
  line.base = fixed_q20(shape, padded) + segment.base;
  line.slope = segment.slope;
  line.low = segment.low;
  line.high = segment.high;
  line.timing = host_timing(shape, padded);
  return line;
}

void PricerState::set_delays(const HostCosts& h, double scale) {
  input_delay = duration_from_nanoseconds(nanoseconds(h.input_delay, scale));
  core_wake = duration_from_nanoseconds(nanoseconds(h.core_wake, scale));
  input_per_request = duration_from_nanoseconds(nanoseconds(h.input_per_request, scale));
  output_per_sequence = duration_from_nanoseconds(nanoseconds(h.output_per_sequence, scale));
  input_token_ns = nanoseconds(h.input_per_token, scale);
  output_delay = duration_from_nanoseconds(nanoseconds(h.output_delay, scale));
}

Status PricerState::fill(const InstanceSpec& spec, const PriceScales& scales) {
  ORRERY_TRY(line, Roofline::create(spec.hardware, spec.kernels));
  roofline = std::make_unique<Roofline>(std::move(line));
  if (!spec.engine.kernel_laws.empty()) roofline->set_laws(spec.engine.kernel_laws.front());
  links = spec.links;
  ORRERY_TRY(graph, build_step_graph(spec, *roofline));
  nodes = std::move(graph);
  count_kernels(spec, scales);
  padding = GraphPadding(spec.engine.settings);
  if (spec.experts.on()) add_experts(spec);
  if (spec.exchange != nullptr) add_exchange(spec);
  add_side_stream(spec);
  add_early(spec);
  const bool one_process = spec.engine.single_process_per_gpu ||
                           (spec.engine.single_process_at_one_gpu && spec.plan.gpus() * spec.engines == 1);
  host = host_costs(spec, scales.host, one_process);
  add_state_launches(spec, scales.host);
  add_launches(spec, scales.host);
  if (spec.engine.settings.joint.on() && spec.engine.data_parallel)
    host.rank_sync = nanoseconds(spec.engine.data_parallel->sync, scales.host) +
                     (spec.plan.dp - 2) * nanoseconds(spec.engine.data_parallel->sync_per_rank, scales.host);
  // PrefillDelayer._gather_info: one more gathering on the same group.
  const NamedOptions& o = spec.engine.settings.options;
  if (o.has("enable_prefill_delayer") && o.flag("enable_prefill_delayer")) host.rank_sync *= 2;
  // GPUModelRunner._prepare_inputs of 0.24 (needs_cpu_accepted_counts): with mamba_cache_mode align states
  // are copied on the host's word, asynchronous scheduling or not.
  const SchedulerSettings& s = spec.engine.settings;
  host.waits_for_accepted = spec.engine.engine == "vllm" && spec.model.state.present() &&
                            s.enable_prefix_caching && !s.state_every_block && s.draft_tokens > 0;
  launcher_is_core = one_process;
  steps_in_flight = spec.engine.steps_in_flight;
  set_delays(spec.engine.host, scales.host);
  core_wake = core_wake + duration_from_nanoseconds(batch_wait_ns(spec.engine.settings));
  host_error = spec.engine.interval_host_error;
  samples = spec.stage.last();
  add_speculation(spec, scales.host);
  make_tables(spec.engine.settings.joint.on());
  if (spec.engine.settings.context.on()) add_context(spec, scales.host);
  share_price_tables(spec, *this);
  return ok_status();
}

Result<StepPricer> StepPricer::create(const InstanceSpec& spec, const PriceScales& scales) {
  ORRERY_TRY_STATUS(check_scales(scales));
  auto state = std::make_unique<State>();
  if (spec.plan.pp > 1) {
    ORRERY_TRY_STATUS(fill_stages(spec, scales, *state));
  } else {
    ORRERY_TRY_STATUS(state->fill(spec, scales));
  }
  return StepPricer(std::move(state));
}

StepPricer::StepPricer(std::unique_ptr<State> state) : state_(std::move(state)) {}
StepPricer::StepPricer(StepPricer&&) noexcept = default;
StepPricer& StepPricer::operator=(StepPricer&&) noexcept = default;
StepPricer::~StepPricer() = default;

StepTiming StepPricer::price(const StepShape& shape) const {
  if (!state_->stages.empty()) return summarize_stages(*state_, shape).timing;
  return state_->price(shape, state_->padding.pad(shape));
}

DecodeLine StepPricer::decode_line(std::int32_t decode_sequences, std::int64_t context_sum,
                                   std::int32_t running, bool with_experts) const {
  ORRERY_CHECK(decode_sequences > 0 && context_sum >= 0, "a decode step has sequences");
  ORRERY_CHECK(state_->stages.empty(), "a line is one stage's");
  StepShape shape;
  shape.decode_sequences = decode_sequences;
  shape.decode_context_tokens = context_sum;
  shape.running = running;
  if (!with_experts) shape.expert_q20 = 0;
  return state_->decode_line(shape, state_->padding.pad(shape));
}

double StepPricer::unrounded_ns(std::int64_t tokens) const { return state_->sum_tokens(tokens); }

SimDuration StepPricer::output_delay() const { return state_->output_delay; }
SimDuration StepPricer::output_per_sequence() const { return state_->output_per_sequence; }
SimDuration StepPricer::input_delay() const { return state_->input_delay; }
SimDuration StepPricer::core_wake() const { return state_->core_wake; }
SimDuration StepPricer::input_per_request() const { return state_->input_per_request; }
SimDuration StepPricer::input_work(std::int64_t prompt_tokens) const {
  return duration_from_nanoseconds(static_cast<double>(prompt_tokens) * state_->input_token_ns);
}
std::int32_t StepPricer::steps_in_flight() const { return state_->steps_in_flight; }
bool StepPricer::launcher_is_core() const { return state_->launcher_is_core; }
bool StepPricer::single_token_is_decode() const { return state_->padding.single_token_is_decode(); }

}  // namespace orrery

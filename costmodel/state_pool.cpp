#include "costmodel/state_pool.h"

#include <algorithm>
#include <array>
#include <limits>

#include "base/json.h"
#include "costmodel/engine_profile.h"
#include "costmodel/instance_spec.h"
#include "costmodel/memory_plan.h"
#include "costmodel/model_spec.h"
#include "costmodel/typed_profile.h"

namespace orrery {

namespace {

constexpr std::array own_arguments{"mamba_ssm_dtype", "mamba_radix_cache_strategy", "mamba_track_interval",
                                   "max_mamba_cache_size", "mamba_full_memory_ratio"};

class PoolChooser {
 public:
  PoolChooser(const StatePoolArguments& a, ModelSpec& model) : a_(a), model_(model) {}

  void choose() {
    choose_type();
    choose_strategy();
    check_beside();
    check_grid();
    note_without_effect();
  }

 private:
  bool given(const char* name) const { return a_.args.present() && a_.args.optional(name).present(); }
  bool flag(const char* name) const { return a_.options.has(name) && a_.options.flag(name); }
  void fail(const char* name, const std::string& message) const {
    const Yaml argument = a_.args.present() ? a_.args.optional(name) : Yaml{};
    (argument.present() ? argument : a_.place).fail(message);
  }

  // configs/mamba_utils.py, `mamba2_state_dtype`: the argument, else the config's mamba_ssm_dtype, else fp32;
  // Nemotron-H's mamba_ssm_cache_dtype is not read.
  void choose_type() {
    StateLayers& state = model_.state;
    if (state.dtype_of_model || state.rule == StateRule::mamba2) state.dtype = DType::fp32;
    state.dtype_of_model = false;
    if (!a_.options.has("mamba_ssm_dtype")) return;
    const std::string& type = a_.options.text("mamba_ssm_dtype");
    state.dtype = type == "float32" ? DType::fp32 : type == "bfloat16" ? DType::bf16 : DType::fp16;
  }

  // `auto`: two more slots a sequence, filled in turn as it grows, where steps overlap or pages are larger
  // than a token (extra_buffer; the linear attention of the backend `triton` can), else the state of its end.
  void choose_strategy() {
    const char* const name = "mamba_radix_cache_strategy";
    const std::int64_t page = a_.options.integer("page_size");
    if (flag("disable_radix_cache")) return;
    if (a_.options.text(name) == "auto") {
      const bool wants = !flag("disable_overlap_schedule") || page > 1;
      return a_.options.set(name, std::string(wants ? "extra_buffer" : "no_buffer"));
    }
    if (a_.options.text(name) != "no_buffer") return;
    if (page > 1) fail(name, "no_buffer needs page_size: 1 (validate_mamba_no_buffer asserts it)");
    // 0.5.9, whose default this is, turns the overlap off by itself.
    if (given(name) && !flag("disable_overlap_schedule"))
      fail(name, "no_buffer needs disable_overlap_schedule: true (validate_mamba_no_buffer asserts it)");
    a_.options.set("disable_overlap_schedule", true);
  }

  void check_beside() const {
    if (a_.plan.cp > 1)
      fail("attn_cp_size", "cp above 1 beside layers with a state is not modelled on sglang; expected cp: 1");
  }

  // validate_mamba_extra_buffer and mamba_cache_chunk_size (arg_groups/overrides.py).
  void check_grid() const {
    const std::int64_t page = a_.options.integer("page_size");
    const std::int64_t chunk = model_.state.rule == StateRule::mamba2 ? model_.state.chunk : 64;
    if (flag("disable_radix_cache")) return;
    if (std::max(chunk, page) % std::min(chunk, page) != 0)
      fail("page_size", "must divide the chunk of a scan, " + std::to_string(chunk) +
                            " tokens, or be a multiple of it (the engine asserts it)");
    const std::int64_t interval = a_.options.integer("mamba_track_interval");
    if (const std::int64_t drafts = a_.engine.settings.draft_tokens; drafts > 0 && interval < drafts + 1)
      fail("mamba_track_interval", "must not be less than what a verification looks at, " +
                                       std::to_string(drafts + 1) +
                                       " tokens (validate_mamba_extra_buffer asserts it)");
    if (interval % page != 0)
      fail("mamba_track_interval", "must be a multiple of page_size, " + std::to_string(page) +
                                       " (validate_mamba_extra_buffer asserts it)");
  }

  // As in the engine, which takes them and does not look at them.
  void note_without_effect() const {
    const bool cached = !flag("disable_radix_cache");
    const bool in_turn = cached && a_.options.text("mamba_radix_cache_strategy") == "extra_buffer";
    const bool sized =
        a_.options.has("max_mamba_cache_size") || (!cached && a_.options.has("max_running_requests"));
    const auto note = [&](const char* name, bool without_effect) {
      if (without_effect && given(name)) a_.engine.ignored_args.emplace_back(name);
    };
    note("mamba_radix_cache_strategy", !cached);
    note("mamba_track_interval", !in_turn);
    note("mamba_full_memory_ratio", sized);
  }

  const StatePoolArguments& a_;
  ModelSpec& model_;
};

}  // namespace

void choose_state_pool(const StatePoolArguments& a, ModelSpec& model) {
  if (model.state.present()) return PoolChooser(a, model).choose();
  if (!a.args.present()) return;
  for (const char* name : own_arguments) {
    if (a.args.optional(name).present()) a.engine.ignored_args.emplace_back(name);
  }
}

namespace {

// With drafts a verification keeps the state after every token apart until it is known which of them count:
// so many states for every running request, as the engine reckons them (`_handle_max_mamba_cache`; what it
// then allocates is less, for its convolutions' inputs overlap), and one for the rows that pad a graph.
std::int64_t states_in_between(const InstanceSpec& spec, const MemoryPlan& plan) {
  const std::int64_t drafts = spec.engine.settings.draft_tokens;
  if (drafts == 0) return 0;
  const NamedOptions& o = spec.engine.settings.options;
  const std::int64_t running = o.has("max_running_requests") ? o.integer("max_running_requests")
                                                             : spec.engine.typed->speculating_sequences;
  return (std::min(running, sequences_by_states(spec, plan)) + 1) * (drafts + 1);
}

}  // namespace

// One slot more than counts is kept for the rows that pad a graph.
Bytes share_states(const InstanceSpec& spec, MemoryPlan& plan) {
  if (!spec.model.state.present()) return Bytes(0);
  const NamedOptions& o = spec.engine.settings.options;
  const bool cached = !o.flag("disable_radix_cache");
  // `_calculate_mamba_ratio`: three, and the slots that are filled in turn (`get_mamba_tracking_slots`).
  const bool extra = cached && o.text("mamba_radix_cache_strategy") == "extra_buffer";
  const std::int64_t in_turn = !extra ? 0 : o.flag("disable_overlap_schedule") ? 1 : 2;
  plan.slots_of_sequence = 1 + in_turn;
  const double each = plan.state_bytes.value();
  const std::int64_t ranks = spec.plan.dp;  // the argument is for all ranks together
  const std::int64_t looked_at =
      spec.engine.settings.draft_tokens > 0 ? spec.engine.settings.draft_tokens + 1 : 0;
  if (o.has("max_mamba_cache_size")) {
    plan.state_slots = o.integer("max_mamba_cache_size") / ranks;
  } else if (!cached && o.has("max_running_requests")) {
    plan.state_slots = o.integer("max_running_requests");
  } else {
    const double ratio = o.number("mamba_full_memory_ratio");
    const double budget = plan.kv_available.value() * ratio / (1 + ratio);
    const auto apart = static_cast<double>(looked_at);
    const double requests = cached ? static_cast<double>(plan.slots_of_sequence + 2) : 1;
    plan.state_slots = static_cast<std::int64_t>(
        std::max(0.0, (budget - each * (1 + apart)) / (each * (1 + apart / requests))));
  }
  const std::int64_t between = states_in_between(spec, plan);
  return Bytes(static_cast<double>(plan.state_slots + 1 + between) * each);
}

std::int64_t sequences_by_states(const InstanceSpec& spec, const MemoryPlan& plan) {
  if (plan.slots_of_sequence == 0) return std::numeric_limits<std::int64_t>::max();
  const bool cached = !spec.engine.settings.options.flag("disable_radix_cache");
  return plan.state_slots / (cached ? plan.slots_of_sequence + 2 : 1);
}

Status check_state_pool(const InstanceSpec& spec, const MemoryPlan& plan) {
  if (!spec.model.state.present() || spec.engine.engine != "sglang") return ok_status();
  const double each = plan.state_bytes.value();
  const double taken = static_cast<double>(plan.state_slots + 1) * each;
  if (sequences_by_states(spec, plan) > 0 && taken < plan.kv_available.value()) return ok_status();
  constexpr double gib = 1024.0 * 1024 * 1024;
  return make_error(ErrorKind::infeasible,
                    "the pool of states has " + std::to_string(plan.state_slots) + " slots of " +
                        format_fixed(each / gib, 3) + " GiB, of " +
                        format_fixed(plan.kv_available.value() / gib, 2) +
                        " GiB for states and keys and values together, which serves no request; another "
                        "max_mamba_cache_size or mamba_full_memory_ratio, mamba_ssm_dtype: bfloat16, or a "
                        "larger parallel.tp",
                    {}, "deployment");
}

}  // namespace orrery

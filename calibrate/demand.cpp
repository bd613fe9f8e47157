#include "calibrate/demand.h"

#include <algorithm>
#include <array>

#include "calibrate/axes.h"
#include "calibrate/routing.h"
#include "costmodel/model_spec.h"
#include "costmodel/profile_folder.h"
#include "costmodel/step_graph.h"

namespace orrery::calibrate {

namespace {

// The deployments of ../shared/truth: what the accuracy report and most of our users look at first.
struct Focus {
  const char* model;
  std::int32_t tp;
};
constexpr std::array<Focus, 4> focus_runs{
    {{"qwen3-8b", 1}, {"qwen3-32b", 2}, {"qwen3-30b-a3b-fp8", 1}, {"qwen3-30b-a3b", 1}}};
constexpr double focus_weight = 8;
constexpr int level_of_thirds = 4;       // values between powers of two: last
constexpr double variant_weight = 0.25;  // a model in a quantisation that its checkpoint does not have
constexpr std::array<std::int32_t, 4> tensor_widths{1, 2, 4, 8};
constexpr std::array<const char*, 3> dense_variants{"fp8-block", "fp8-tensor", "fp8-channel"};
constexpr std::array<const char*, 2> expert_variants{"fp8-block", "w4a8"};

// Steps in which a row count is typical: decodes of this context up to so many rows, prompts above.
constexpr std::int64_t decode_rows_limit = 512, typical_context = 1024, typical_prompt = 2048;
constexpr std::int64_t most_sampled_rows = 1024;
// Of a prefill, over its sequences: engines cut longer prompts into chunks.
constexpr std::int64_t most_new_tokens = 16384, most_prefill_context = 65536;
constexpr std::int64_t most_cached_tokens = 1 << 20;  // what the pool of a model on one part holds

// How often a serving system meets a length or a batch, beside the commonest: an octave off the usual range
// halves it.
double typicality(std::int64_t value, std::int64_t low, std::int64_t high) {
  double weight = 1;
  for (; value < low; value *= 2) weight /= 2;
  for (; value > high; value /= 2) weight /= 2;
  return weight;
}
// Seconds each, so not before the operators are covered.
constexpr int probe_level = 1;
constexpr std::array<const char*, 4> probe_names{"bandwidth", "host_copies", "launches", "sustained"};
constexpr double memory_share = 0.3;  // of the device, for one set of operands

// Row-wise kernels that an operator of the step graph stands for.
enum class Fields : std::uint8_t { width, routing, width_and_choices, width_and_routing, heads, kv_heads };
struct RowWise {
  const char* node;       // in the cost model's graph
  const char* plain;      // kernel
  const char* quantised;  // kernel when the output is fused to eight bits; null: none
  const char* with_norm;  // kernel when the model norms its heads; null: none
  Fields fields;
  double weight;  // below 1: what an engine may do instead
};
constexpr std::array<RowWise, 15> row_wise{
    {{"add_rms_norm", "add_rms_norm", "add_rms_norm_quantize", nullptr, Fields::width, 1},
     {"add_rms_norm", "rms_norm", nullptr, nullptr, Fields::width, 0.1},
     {"rotary", "rotary", nullptr, "qk_norm_rotary", Fields::heads, 1},
     {"kv_write", "kv_write", nullptr, nullptr, Fields::kv_heads, 1},
     {"silu_mul", "silu_mul", "silu_mul_quantize", nullptr, Fields::width, 1},
     {"quantize", "quantize", "quantize", nullptr, Fields::width, 1},
     {"embedding", "embedding", nullptr, nullptr, Fields::width, 1},
     {"gather_rows", "gather_rows", nullptr, nullptr, Fields::width, 1},
     {"topk", "router_topk", nullptr, nullptr, Fields::routing, 1},
     {"moe_align", "moe_align", nullptr, nullptr, Fields::routing, 1},
     {"moe_combine", "moe_combine", nullptr, nullptr, Fields::width_and_choices, 1},
     {"moe_combine", "moe_permute", nullptr, nullptr, Fields::width_and_routing, 0.5},
     {"logits_copy", "logits_copy", nullptr, nullptr, Fields::width, 1},
     {"argmax", "argmax", nullptr, nullptr, Fields::width, 1},
     {"argmax", "sample", nullptr, nullptr, Fields::width, 0.5}}};

struct Deployment {
  const std::vector<GraphNode>& nodes;
  std::string scheme;  // "bf16", "fp8-block": of the model's linear layers
  double weight = 1;
  bool focus = false;
};

double node_ns(const GraphNode& node, const StepInput& input) {
  const DependsOn d = node.spec.depends_on;
  if (d == DependsOn::prefill && input.shape->prefill.empty()) return 0;
  if (d == DependsOn::decode && input.shape->decode_sequences == 0) return 0;
  return static_cast<double>(node.count) * node.op->cost(input).ns();
}

double step_ns(const std::vector<GraphNode>& nodes, const StepInput& input) {
  double total = 0;
  for (const GraphNode& node : nodes) total += node_ns(node, input);
  return total;
}

// Formats that Orrery has kernels for; others (mxfp4 …) are priced from elsewhere.
bool has_kernels(const WeightFormat& format, std::int64_t n, std::int64_t k) {
  if (format.label == "fp8-block") return n % 128 == 0 && k % 128 == 0;
  if (format.label == "fp8-tensor" || format.label == "fp8-channel") return n % 16 == 0 && k % 16 == 0;
  return format.label == "bf16" && n >= 8;  // a gate of one column (Qwen3-Next) is no product of theirs
}

// Weights of four bits: experts only.
bool has_expert_kernels(const WeightFormat& format, std::int64_t n, std::int64_t k) {
  if (format.label == "w4a8" || format.label == "w4a16") return n % 8 == 0 && k % 128 == 0;
  return has_kernels(format, n, k);
}

// No sliding windows and no capped scores yet.
bool has_attention_kernel(const OpSpec& spec) {
  return spec.window == 0 && !spec.softcap && (spec.head_dim == 64 || spec.head_dim == 128);
}

class Collector {
 public:
  Collector(const DemandOptions& options, Demand& demand)
      : options_(options), axes_(options.between ? axes_between() : grid_axes()), demand_(demand) {}

  void add(const Deployment& d) {
    for (const GraphNode& node : d.nodes) {
      const std::string op = node.entry->name;
      if (op == "gemm")
        add_gemm(d, node);
      else if (op == "grouped_gemm")
        add_grouped(d, node);
      else if (op == "attention_decode")
        add_decode(d, node);
      else if (op == "attention_prefill")
        add_prefill(d, node);
      else if (op == "all_reduce" || op == "all_gather")
        add_collective(d, node, op);
      else
        add_rows(d, node, op);
    }
  }

  // What no model asks for by itself, with a small share so that it is not forgotten.
  void add_probes() {
    kernels::CaseSpec s;
    s.op = "copy";
    for (std::size_t i = 0; i < axes_.copy_bytes.size(); ++i) {
      s.bytes = axes_.copy_bytes[i];
      note(s, "copy", axis_level(i, axes_.copy_bytes.size()), 0.01, true);
    }
    s.bytes = 0;
    for (const char* probe : probe_names) {
      s.op = probe;
      if (!options_.between) note(s, std::string("probe ") + probe, probe_level, 0.01, true);
    }
    for (const char* op : {"all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv"}) {
      for (std::size_t i = 0; i < axes_.collective_bytes.size(); ++i) note_collective(op, 2, i, 0.01, true);
    }
  }

 private:
  // The step in which an operator meets `rows` rows, and what all of it takes.
  struct TypicalStep {
    std::vector<PrefillChunk> chunks;
    StepShape shape;
    StepInput input;
  };
  static void make_step(std::int64_t rows, TypicalStep& step) {
    step.chunks.clear();
    step.shape = {};
    if (rows <= decode_rows_limit) {
      step.shape.decode_sequences = static_cast<std::int32_t>(rows);
      step.shape.decode_context_tokens = rows * typical_context;
      step.input = {rows, rows, &step.shape};
      return;
    }
    for (std::int64_t left = rows; left > 0; left -= typical_prompt)
      step.chunks.push_back({static_cast<std::int32_t>(std::min(left, typical_prompt)), 0});
    step.shape.prefill = step.chunks;
    step.input = {rows, static_cast<std::int64_t>(step.chunks.size()), &step.shape};
  }

  double share_at(const Deployment& d, const GraphNode& node, std::int64_t rows) {
    TypicalStep step;
    make_step(rows, step);
    if (node.spec.depends_on == DependsOn::rows) step.input.rows = rows;
    const double total = step_ns(d.nodes, step.input);
    return total > 0 ? node_ns(node, step.input) / total : 0;
  }

  void note(const kernels::CaseSpec& spec, const std::string& family, int level, double share, bool focus) {
    Point point;
    point.spec = spec;
    point.table = table_of(spec);
    point.shape = shape_of(spec);
    point.round = level;
    const std::string key = point.key();
    const auto [at, is_new] = demand_.points.emplace(key, point);
    at->second.share += share;
    at->second.round = std::min(at->second.round, level);
    if (is_new) demand_.family_of[key] = family;
    Family& f = demand_.families[demand_.family_of[key]];
    f.share += share;
    f.focus = f.focus || focus;
  }

  void add_gemm(const Deployment& d, const GraphNode& node) {
    if (!has_kernels(node.spec.format, node.spec.n, node.spec.k)) return;
    kernels::CaseSpec s;
    s.op = "gemm";
    s.dtype = node.spec.format.label;
    s.n = node.spec.n;
    s.k = node.spec.k;
    const std::string family = "gemm " + s.dtype + " " + std::to_string(s.n) + " " + std::to_string(s.k);
    const auto at = [&](std::int64_t m, int level) {
      if (node.spec.depends_on == DependsOn::rows && m > most_sampled_rows) return;
      s.m = m;
      if (fits(static_cast<double>(m) * static_cast<double>(s.n + s.k) * 2 + cold_bytes(s)))
        note(s, family, level, d.weight * share_at(d, node, m), d.focus);
    };
    for (std::size_t i = 0; i < axes_.gemm_rows.size(); ++i)
      at(axes_.gemm_rows[i], axis_level(i, axes_.gemm_rows.size()));
    for (const std::int64_t m : axes_.gemm_knees) at(m, level_of_thirds);
  }

  void add_grouped(const Deployment& d, const GraphNode& node) {
    if (!has_expert_kernels(node.spec.format, node.spec.n, node.spec.k)) return;
    struct Pattern {
      RowPattern pattern;
      int level;  // what a router does comes first
      double weight;
    };
    constexpr std::array<Pattern, 4> patterns{{{RowPattern::routed, 0, 1},
                                               {RowPattern::balanced, 2, 0.3},
                                               {RowPattern::zipf, 1, 0.5},
                                               {RowPattern::one_hot, 2, 0.1}}};
    kernels::CaseSpec s;
    s.op = "grouped_gemm";
    s.dtype = node.spec.format.label;
    s.n = node.spec.n;
    s.k = node.spec.k;
    s.experts = node.spec.experts;
    s.top_k = node.spec.experts_per_token;
    const std::string family = "grouped_gemm " + s.dtype + " " + std::to_string(s.n) + " " +
                               std::to_string(s.k) + " " + std::to_string(s.experts);
    const double weights = static_cast<double>(s.experts * s.n * s.k) * weight_bytes_per_parameter(s.dtype);
    if (!fits(weights)) return;
    for (std::size_t i = 0; i < axes_.expert_tokens.size(); ++i) {
      const double share = d.weight * share_at(d, node, axes_.expert_tokens[i]);
      for (const Pattern& p : patterns) {
        s.rows = expert_rows(p.pattern, s.experts, s.top_k, axes_.expert_tokens[i]);
        note(s, family, axis_level(i, axes_.expert_tokens.size()) + p.level, share * p.weight, d.focus);
      }
    }
    for (const std::int64_t tokens : axes_.expert_thirds) {
      s.rows = expert_rows(RowPattern::routed, s.experts, s.top_k, tokens);
      note(s, family, level_of_thirds, d.weight * share_at(d, node, tokens), d.focus);
    }
  }

  // Heads, head size and the cache's type: the family of an attention.
  std::string attention_family(const GraphNode& node, kernels::CaseSpec& s) const {
    s.heads = node.spec.heads;
    s.kv_heads = node.spec.kv_heads;
    s.head_dim = node.spec.head_dim;
    return s.op + " " + s.kv_dtype + " " + std::to_string(s.heads) + " " + std::to_string(s.kv_heads) + " " +
           std::to_string(s.head_dim);
  }

  void add_decode(const Deployment& d, const GraphNode& node) {
    if (!has_attention_kernel(node.spec)) return;
    kernels::CaseSpec s;
    s.op = "attention_decode";
    for (const char* kv : {"bf16", "fp8"}) {
      s.kv_dtype = kv;
      const bool own = (node.spec.kv_bytes < 2) == (s.kv_dtype == "fp8");
      const std::string family = attention_family(node, s);
      const double weight = (own ? 1 : variant_weight) * d.weight;
      for (std::size_t b = 0; b < axes_.decode_batches.size(); ++b) {
        const int level = axis_level(b, axes_.decode_batches.size());
        add_decodes(d, node, family, s, {axes_.decode_batches[b], level, weight, d.focus && own});
      }
      for (const std::int64_t batch : axes_.decode_thirds)
        add_decodes(d, node, family, s, {batch, level_of_thirds, weight, d.focus && own});
    }
  }

  // A batch over all contexts.
  struct DecodeBatch {
    std::int64_t sequences;
    int level;
    double weight;
    bool focus;
  };
  void add_decodes(const Deployment& d, const GraphNode& node, const std::string& family,
                   kernels::CaseSpec& s, const DecodeBatch& batch) {
    for (std::size_t c = 0; c < axes_.decode_contexts.size(); ++c) {
      const std::int64_t context = axes_.decode_contexts[c];
      s.contexts.assign(static_cast<std::size_t>(batch.sequences), context);
      if (!fits(cold_bytes(s)) || batch.sequences * context > most_cached_tokens) continue;
      StepShape shape;
      shape.decode_sequences = static_cast<std::int32_t>(batch.sequences);
      shape.decode_context_tokens = batch.sequences * (context - 1);
      const int level = std::max(batch.level, axis_level(c, axes_.decode_contexts.size()));
      const double weight =
          batch.weight * typicality(context, 512, 8192) * typicality(batch.sequences, 4, 256);
      note(s, family, level, weight * share_of(d, node, batch.sequences, shape), batch.focus);
    }
  }

  double share_of(const Deployment& d, const GraphNode& node, std::int64_t tokens, const StepShape& shape) {
    const std::int64_t rows = shape.decode_sequences + static_cast<std::int64_t>(shape.prefill.size());
    const StepInput input{tokens, rows, &shape};
    const double total = step_ns(d.nodes, input);
    return total > 0 ? node_ns(node, input) / total : 0;
  }

  void add_prefill(const Deployment& d, const GraphNode& node) {
    if (!has_attention_kernel(node.spec)) return;
    kernels::CaseSpec s;
    s.op = "attention_prefill";
    const std::string family = attention_family(node, s);
    for (std::size_t t = 0; t < axes_.prefill_tokens.size(); ++t) {
      const int level = axis_level(t, axes_.prefill_tokens.size());
      for (const std::int64_t context : axes_.prefill_contexts)
        add_chunks(d, node, family, s, axes_.prefill_tokens[t], context, level);
    }
    for (const std::int64_t fresh : axes_.prompt_thirds)
      add_chunks(d, node, family, s, fresh, 0, level_of_thirds);
  }

  // Batches of equal chunks.
  void add_chunks(const Deployment& d, const GraphNode& node, const std::string& family, kernels::CaseSpec& s,
                  std::int64_t fresh, std::int64_t context, int axis_level) {
    for (std::size_t q = 0; q < axes_.prefill_sequences.size(); ++q) {
      const std::int64_t count = axes_.prefill_sequences[q];
      if (count * fresh > most_new_tokens || count * context > most_prefill_context) continue;
      const std::vector<PrefillChunk> chunks(static_cast<std::size_t>(count),
                                             {static_cast<std::int32_t>(fresh), context});
      s.sequences.assign(chunks.size(), {fresh, context});
      StepShape shape;
      shape.prefill = chunks;
      const int level = axis_level + (context == 0 ? 0 : 1) + (q == 0 ? 0 : 1);
      const double weight = d.weight * typicality(fresh, 256, 8192) * (context == 0 ? 1 : 0.5);
      note(s, family, level, weight * share_of(d, node, count * fresh, shape), d.focus);
    }
  }

  void add_rows(const Deployment& d, const GraphNode& node, const std::string& op) {
    for (const RowWise& r : row_wise) {
      if (op == r.node) add_row_wise(d, node, r);
    }
  }

  void add_row_wise(const Deployment& d, const GraphNode& node, const RowWise& r) {
    const bool quantised = node.spec.out_bytes < 2 && r.quantised != nullptr;
    kernels::CaseSpec s;
    s.op = quantised ? r.quantised : node.spec.norm_heads && r.with_norm != nullptr ? r.with_norm : r.plain;
    s.dtype = quantised ? d.scheme : "bf16";
    set_fields(node.spec, r.fields, s);
    const bool sampled = node.spec.depends_on == DependsOn::rows;
    s.m = 1;
    const std::string family = s.op + " " + s.dtype + " " + shape_of(s);
    for (std::size_t i = 0; i < axes_.elementwise_rows.size(); ++i) {
      const std::int64_t rows = axes_.elementwise_rows[i];
      if (sampled && rows > most_sampled_rows) continue;
      s.m = node.spec.expert_rows ? rows * node.spec.experts_per_token : rows;
      const double share = d.weight * share_at(d, node, rows);
      note(s, family, axis_level(i, axes_.elementwise_rows.size()), share * r.weight,
           d.focus && r.weight == 1);
    }
  }

  // An operator reads the fields that it names; the others stay zero, so that equal shapes have equal names.
  static void set_fields(const OpSpec& from, Fields fields, kernels::CaseSpec& s) {
    if (fields == Fields::width || fields == Fields::width_and_choices || fields == Fields::width_and_routing)
      s.n = from.n;
    if (fields == Fields::routing || fields == Fields::width_and_routing) s.experts = from.experts;
    if (fields == Fields::routing || fields == Fields::width_and_choices ||
        fields == Fields::width_and_routing)
      s.top_k = from.experts_per_token;
    if (fields != Fields::heads && fields != Fields::kv_heads) return;
    if (fields == Fields::heads) s.heads = from.heads;
    s.kv_heads = from.kv_heads;
    s.head_dim = from.head_dim;
    s.kv_dtype = from.kv_bytes < 2 ? "fp8" : "bf16";
  }

  void note_collective(const std::string& op, std::int32_t ranks, std::size_t i, double share, bool focus) {
    kernels::CaseSpec s;
    s.op = op;
    s.ranks = ranks;
    s.bytes = axes_.collective_bytes[i];
    note(s, op + " " + std::to_string(ranks), axis_level(i, axes_.collective_bytes.size()), share, focus);
  }

  // Messages are rows · width; the sizes on the axis stand for them.
  void add_collective(const Deployment& d, const GraphNode& node, const std::string& op) {
    for (std::size_t i = 0; i < axes_.collective_bytes.size(); ++i) {
      const std::int64_t rows =
          std::clamp<std::int64_t>(axes_.collective_bytes[i] / (2 * node.spec.n), 1, 16384);
      note_collective(op, node.spec.ranks, i, d.weight * share_at(d, node, rows), d.focus);
    }
  }

  bool fits(double bytes) const {
    return options_.memory_bytes == 0 || bytes < memory_share * static_cast<double>(options_.memory_bytes);
  }

  const DemandOptions& options_;
  const Axes axes_;
  Demand& demand_;
};

}  // namespace

namespace {

bool is_focus(const std::string& model, std::int32_t tp) {
  return std::any_of(focus_runs.begin(), focus_runs.end(),
                     [&](const Focus& f) { return model == f.model && tp == f.tp; });
}

// The checkpoint's own quantisation first, then those that engines make of a bf16 checkpoint.
std::vector<std::string> variants_of(const ModelSpec& model) {
  std::vector<std::string> out{""};
  if (model.quantization != Quantization::none) return out;
  if (model.experts > 0)
    out.insert(out.end(), expert_variants.begin(), expert_variants.end());
  else
    out.insert(out.end(), dense_variants.begin(), dense_variants.end());
  return out;
}

// Every tensor-parallel width that divides the model; the others are not deployments.
void add_plans(const HardwareProfile& hardware, const Roofline& roofline, const ModelSpec& model,
               bool own_quantization, Collector& collector) {
  for (const std::int32_t tp : tensor_widths) {
    InstanceSpec spec;
    spec.hardware = hardware;
    spec.model = model;
    spec.plan.tp = tp;
    const auto nodes = build_step_graph(spec, roofline);
    if (!nodes.ok()) continue;
    const bool focus = own_quantization && is_focus(model.name, tp);
    const double weight = focus ? focus_weight : own_quantization ? 1 : variant_weight;
    collector.add({*nodes, to_string(model.quantization), weight, focus});
  }
}

}  // namespace

Result<Demand> collect_demand(const HardwareProfile& hardware, const DemandOptions& options) {
  ORRERY_TRY(roofline, Roofline::create(hardware));
  const std::vector<std::string> names =
      options.models.empty() ? profile_names("model_profiles") : options.models;
  Demand demand;
  Collector collector(options, demand);
  Errors errors;
  for (const std::string& name : names) {
    const auto own = load_model(name, "", "", "auto");
    if (!own.ok()) {
      errors.insert(errors.end(), own.errors().begin(), own.errors().end());
      continue;
    }
    for (const std::string& variant : variants_of(*own)) {
      auto model = load_model(name, "", variant, "auto");
      if (model.ok())
        add_plans(hardware, roofline, *model, variant.empty(), collector);
      else
        errors.insert(errors.end(), model.errors().begin(), model.errors().end());
    }
  }
  if (!errors.empty()) return errors;
  collector.add_probes();
  return demand;
}

}  // namespace orrery::calibrate

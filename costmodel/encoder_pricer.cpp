#include "costmodel/encoder_pricer.h"

#include <algorithm>

#include "costmodel/image_tokens.h"
#include "costmodel/op_table.h"
#include "costmodel/ops/encoder_attention.h"
#include "costmodel/roofline.h"
#include "costmodel/weight_format.h"

namespace orrery {

namespace {

// Which rows an operator of the encoder runs over.
enum class Rows : std::uint8_t { patches, merged, whole_images, windows };

struct EncoderNode {
  std::string name;
  Rows rows = Rows::patches;
  OpClass op_class = OpClass::gemm;
  std::int64_t count = 0, launches = 1;
  double python = 0;             // launches that the module's own Python takes as long as, on vLLM
  double weight = 1;             // count · scale of its class
  std::unique_ptr<Operator> op;  // null: attention
};

struct RowCounts {
  std::int64_t patches = 0, merged = 0;
};

}  // namespace

struct EncoderPricer::State {
  VisionSpec vision;
  std::unique_ptr<Roofline> roofline;
  std::vector<EncoderNode> nodes;
  std::unique_ptr<EncoderAttention> attention;
  std::int64_t ranks = 1;            // data parallel: that share out the images
  double launch_ns = 0;              // per forward pass
  double copy_ns_per_patch = 0;      // pixels to the device
  double gap_ns = 0;                 // between kernels of a stream, per forward pass
  std::unique_ptr<Operator> gather;  // data parallel: outputs of all ranks

  RowCounts count(std::span<const EncoderImage> images) const {
    RowCounts rows;
    for (const EncoderImage& image : images) {
      rows.patches += image.patches() + (vision.class_token ? image.tiles : 0);
      rows.merged += merged_rows(image);
    }
    return rows;
  }
  std::int64_t merged_rows(const EncoderImage& image) const {
    return vision.tokens_per_image > 0 ? vision.tokens_per_image * image.tiles
                                       : image.patches() / (vision.merge * vision.merge);
  }

  OpCost cost(const EncoderNode& node, std::span<const EncoderImage> images, const RowCounts& rows) const {
    if (node.op == nullptr) return attention->cost(images, node.rows == Rows::windows);
    StepInput input;
    input.tokens = input.rows = node.rows == Rows::merged ? rows.merged : rows.patches;
    return node.op->cost(input);
  }

  double forward_ns(std::span<const EncoderImage> images) const {
    const RowCounts rows = count(images);
    double ns = gap_ns + copy_ns_per_patch * static_cast<double>(rows.patches);
    for (const EncoderNode& node : nodes) ns += node.weight * cost(node, images, rows).ns();
    return ns;
  }

  // Largest first, each to the rank with the fewest patches (vLLM's get_load_balance_assignment).
  std::vector<std::vector<EncoderImage>> deal(std::span<const EncoderImage> images) const {
    std::vector<EncoderImage> sorted(images.begin(), images.end());
    std::stable_sort(sorted.begin(), sorted.end(),
                     [](const auto& a, const auto& b) { return a.patches() > b.patches(); });
    std::vector<std::vector<EncoderImage>> shares(static_cast<std::size_t>(ranks));
    std::vector<std::int64_t> load(shares.size(), 0);
    for (const EncoderImage& image : sorted) {
      const auto least = static_cast<std::size_t>(std::min_element(load.begin(), load.end()) - load.begin());
      shares[least].push_back(image);
      load[least] += image.patches();
    }
    return shares;
  }

  // The rank that takes longest, and the images it has.
  std::vector<EncoderImage> slowest_share(std::span<const EncoderImage> images) const {
    std::vector<EncoderImage> slowest;
    double most = -1;
    for (std::vector<EncoderImage>& share : deal(images)) {
      const double ns = share.empty() ? 0 : forward_ns(share);
      if (ns > most) {
        most = ns;
        slowest = std::move(share);
      }
    }
    return slowest;
  }
  // Every rank's outputs are padded to the longest before they are gathered.
  double gather_ns(std::span<const EncoderImage> share) const {
    StepInput input;
    for (const EncoderImage& image : share) input.rows += merged_rows(image) * ranks;
    input.tokens = input.rows;
    return gather->cost(input).ns();
  }
};

namespace {

// Between the kernels of a block of Qwen3-VL's encoder the host takes 36 µs in the mean of eleven, but 90 in
// front of the rotary embedding and 122 in front of attention (median of 25 blocks, profsmall_b1.prompt of
// reports/cases/h200_vllm_0_24_features): ApplyRotaryEmb and MMEncoderAttention.
constexpr double rotary_python = 1.5, attention_python = 2.4;

// Builds the operators of one rank.
class EncoderGraph {
 public:
  EncoderGraph(const VisionSpec& vision, const Roofline& roofline, const PriceScales& scales, DType type,
               std::int64_t tp)
      : v_(vision), roofline_(roofline), scales_(scales), tp_(tp) {
    WeightTensor tensor;
    tensor.dtype = type;
    format_ = weight_format(tensor, Quantization::none, type, roofline);
  }

  std::vector<EncoderNode> build() {
    const std::int64_t heads = v_.heads / tp_, inner = v_.intermediate / tp_;
    const std::int64_t width = heads * v_.head_dim;
    gemm("patch_embed", Rows::patches, v_.hidden, v_.patch_features(), 1);
    if (v_.position_embeddings > 0) rows("position_add", "gather_rows", Rows::patches, v_.hidden, 1);
    if (v_.window > 0) rows("window_order", "gather_rows", Rows::patches, v_.hidden, 2);
    const std::int64_t l = v_.layers;
    rows("norm1", "add_rms_norm", Rows::patches, v_.hidden, l);
    if (!v_.gated) nodes_.back().launches = 2;  // sum and LayerNorm apart (qwen3_vl.py, Qwen3_VisionBlock)
    gemm("qkv", Rows::patches, 3 * width, v_.hidden, l);
    if (v_.rule == ImageRule::qwen_vl || v_.rule == ImageRule::pixtral) rotary(heads, l);
    if (v_.qk_norm) rows("qk_norm", "add_rms_norm", Rows::patches, width, 2 * l);
    if (v_.scaled) rows("layer_scale", "gather_rows", Rows::patches, v_.hidden, 2 * l);
    const std::int64_t windowed = v_.window > 0 ? l - v_.full_layers : 0;
    attention("attention_windows", Rows::windows, windowed);
    attention("attention_image", Rows::whole_images, l - windowed);
    gemm("proj", Rows::patches, v_.hidden, width, l);
    all_reduce("attention_all_reduce", Rows::patches, v_.hidden, l);
    rows("norm2", "add_rms_norm", Rows::patches, v_.hidden, l);
    if (!v_.gated) nodes_.back().launches = 2;
    gemm(v_.gated ? "gate_up" : "fc1", Rows::patches, (v_.gated ? 2 : 1) * inner, v_.hidden, l);
    rows("activation", v_.gated ? "silu_mul" : "gather_rows", Rows::patches, inner, l);
    gemm(v_.gated ? "down" : "fc2", Rows::patches, v_.hidden, inner, l);
    all_reduce("mlp_all_reduce", Rows::patches, v_.hidden, l);
    const std::int64_t mergers = 1 + v_.deepstack, in = v_.hidden * v_.merge * v_.merge;
    // InternVL's pixel shuffle: two copies of what the encoder gives (`pixel_shuffle`, ps_version v2).
    if (v_.rule == ImageRule::internvl) rows("pixel_shuffle", "gather_rows", Rows::patches, v_.hidden, 2);
    rows("merger_norm", "add_rms_norm", Rows::patches, v_.hidden, mergers);
    if (v_.merger_hidden > 0) {
      gemm("merger_fc1", Rows::merged, v_.merger_hidden / tp_, in, mergers);
      rows("merger_activation", "gather_rows", Rows::merged, v_.merger_hidden / tp_, mergers);
      gemm("merger_fc2", Rows::merged, v_.out_hidden, v_.merger_hidden / tp_, mergers);
      all_reduce("merger_all_reduce", Rows::merged, v_.out_hidden, mergers);
    } else {
      gemm("projection", Rows::merged, v_.out_hidden, in, mergers);
    }
    return std::move(nodes_);
  }

 private:
  void add(const std::string& name, const char* op, Rows rows, const OpSpec& spec, std::int64_t count) {
    const OperatorEntry* entry = find_operator(op);
    ORRERY_CHECK(entry != nullptr, "an operator of the encoder is not in the table");
    EncoderNode node;
    node.name = name;
    node.rows = rows;
    node.op_class = entry->op_class;
    node.count = count;
    node.launches = entry->launches;
    node.op = entry->make(spec, roofline_);
    node.weight = static_cast<double>(count) * scales_.op[static_cast<std::size_t>(entry->op_class)];
    nodes_.push_back(std::move(node));
  }
  void gemm(const std::string& name, Rows rows, std::int64_t n, std::int64_t k, std::int64_t count) {
    OpSpec s;
    s.n = n;
    s.k = k;
    s.format = format_;
    add(name, "gemm", rows, s, count);
  }
  void rows(const std::string& name, const char* op, Rows rows, std::int64_t n, std::int64_t count) {
    OpSpec s;
    s.n = n;
    add(name, op, rows, s, count);
  }
  void rotary(std::int64_t heads, std::int64_t count) {
    OpSpec s;
    s.heads = s.kv_heads = heads;
    s.head_dim = v_.head_dim;
    add("rotary", "rotary", Rows::patches, s, count);
    nodes_.back().python = rotary_python;
  }
  void all_reduce(const std::string& name, Rows rows, std::int64_t n, std::int64_t count) {
    if (tp_ == 1) return;
    OpSpec s;
    s.n = n;
    s.ranks = static_cast<std::int32_t>(tp_);
    add(name, "all_reduce", rows, s, count);
  }
  void attention(const std::string& name, Rows rows, std::int64_t count) {
    if (count == 0) return;
    EncoderNode node;
    node.name = name;
    node.rows = rows;
    node.op_class = OpClass::attention_prefill;
    node.count = count;
    node.launches = 3;  // q, k, v copied, tiles counted, attention (profile in
                        // reports/cases/h200_vllm_0_24_features)
    node.python = attention_python;
    node.weight =
        static_cast<double>(count) * scales_.op[static_cast<std::size_t>(OpClass::attention_prefill)];
    nodes_.push_back(std::move(node));
  }

  const VisionSpec& v_;
  const Roofline& roofline_;
  const PriceScales& scales_;
  std::int64_t tp_;
  WeightFormat format_;
  std::vector<EncoderNode> nodes_;
};

DType encoder_type(const ModelSpec& model) {
  return model.activation_dtype == DType::fp16 ? DType::fp16 : DType::bf16;
}

}  // namespace

EncoderPricer::EncoderPricer(std::unique_ptr<State> state) : state_(std::move(state)) {}
EncoderPricer::EncoderPricer(EncoderPricer&&) noexcept = default;
EncoderPricer& EncoderPricer::operator=(EncoderPricer&&) noexcept = default;
EncoderPricer::~EncoderPricer() = default;

Result<EncoderPricer> EncoderPricer::create(const InstanceSpec& spec, const PriceScales& scales) {
  ORRERY_CHECK(spec.model.vision != nullptr, "a text-only model has no encoder to price");
  if (!spec.hardware.pcie_bandwidth.present()) {
    return invalid_input(spec.hardware.name +
                             " has no pcie_bandwidth, over which images reach the device; "
                             "add it to the hardware profile",
                         {}, "hardware");
  }
  auto state = std::make_unique<State>();
  state->vision = *spec.model.vision;
  ORRERY_TRY(roofline, Roofline::create(spec.hardware, spec.kernels));
  state->roofline = std::make_unique<Roofline>(std::move(roofline));
  const bool shared_out = spec.engine.settings.encoder.data_parallel;
  const std::int64_t tp = shared_out ? 1 : spec.plan.tp;
  state->ranks = shared_out ? spec.plan.tp : 1;
  if (spec.plan.tp > 1 && !state->roofline->has_link())
    return invalid_input("the part has no scale-up link figures, which tp > 1 needs", {}, "parallel.tp");
  const DType type = encoder_type(spec.model);
  state->nodes = EncoderGraph(state->vision, *state->roofline, scales, type, tp).build();
  state->attention = std::make_unique<EncoderAttention>(state->vision, tp, type, *state->roofline);
  if (state->ranks > 1) {
    OpSpec gather;
    gather.n = state->vision.out_hidden * (1 + state->vision.deepstack);
    gather.ranks = static_cast<std::int32_t>(state->ranks);
    state->gather = find_operator("all_gather")->make(gather, *state->roofline);
  }
  const HostCosts& host = spec.engine.host;
  const double launch = host.launch_kernel.value.value() * 1e9 * scales.host;
  const double collective = host.launch_collective.value.value() * 1e9 * scales.host;
  double kernels = 0;
  for (const EncoderNode& node : state->nodes) {
    const double uses = static_cast<double>(node.count * node.launches);
    kernels += uses;
    state->launch_ns += uses * launch;
    if (spec.engine.engine == "vllm")
      state->launch_ns += static_cast<double>(node.count) * node.python * launch;
    if (node.op_class == OpClass::collective) state->launch_ns += uses * collective;
  }
  state->gap_ns = kernels * host.stream_gap.value.value() * 1e9;
  const double bytes = static_cast<double>(state->vision.patch_features()) * bytes_per_element(type);
  state->copy_ns_per_patch = bytes / (spec.hardware.pcie_bandwidth.value.value() * 1e-9);
  return EncoderPricer(std::move(state));
}

EncoderTiming EncoderPricer::price(std::span<const EncoderImage> images) const {
  ORRERY_CHECK(!images.empty(), "an encoder pass has images");
  EncoderTiming timing;
  double ns = 0;
  if (state_->ranks == 1) {
    ns = state_->forward_ns(images);
  } else {
    const std::vector<EncoderImage> share = state_->slowest_share(images);
    ns = state_->forward_ns(share) + state_->gather_ns(share);
  }
  timing.busy = round_half_even(ns);
  timing.launch = round_half_even(state_->launch_ns);
  return timing;
}

std::vector<OpLine> EncoderPricer::explain(std::span<const EncoderImage> images) const {
  const State& s = *state_;
  std::vector<EncoderImage> share(images.begin(), images.end());
  if (s.ranks > 1) share = s.slowest_share(images);
  const RowCounts rows = s.count(share);
  std::vector<OpLine> lines;
  const auto line = [&](const std::string& name, double ns) {
    OpLine l;
    l.name = name;
    l.op_class = OpClass::elementwise;
    l.count = 1;
    l.time_ns = round_half_even(ns);
    l.bound = "link";
    l.rung = to_string(Rung::roofline);
    l.hit = to_string(Hit::extrapolated);
    lines.push_back(l);
  };
  line("pixels_to_device", s.copy_ns_per_patch * static_cast<double>(rows.patches));
  for (const EncoderNode& node : s.nodes) {
    const OpCost cost = s.cost(node, share, rows);
    OpLine l;
    l.name = node.name;
    l.op_class = node.op_class;
    l.count = node.count;
    l.flops = cost.flops * static_cast<double>(node.count);
    l.bytes = cost.bytes * static_cast<double>(node.count);
    l.link_bytes = cost.link_bytes * static_cast<double>(node.count);
    l.time_ns = round_half_even(node.weight * cost.ns());
    l.bound = to_string(cost.bound());
    l.shape = "rows=" + std::to_string(node.rows == Rows::merged ? rows.merged : rows.patches);
    l.rung = to_string(cost.rung);
    l.hit = to_string(cost.hit);
    l.error = cost.error;
    lines.push_back(l);
  }
  if (s.ranks > 1) line("outputs_all_gather", s.gather_ns(share));
  line("stream_gaps", s.gap_ns);
  std::int64_t rest = price(images).busy;
  for (const OpLine& l : lines) rest -= l.time_ns;
  std::max_element(lines.begin(), lines.end(), [](const OpLine& a, const OpLine& b) {
    return a.time_ns < b.time_ns;
  })->time_ns += rest;
  return lines;
}

namespace {

// Rows that LLaVA-NeXT encodes are not those that it keeps: padding is dropped, line breaks are added.
std::int64_t tiles_of_largest(const VisionSpec& v) { return largest_image(v).tiles; }

}  // namespace

// vLLM's profile_run encodes as many of the largest items as the budget takes (one, where the budget is that
// item), keeps their outputs, and then runs the step. The widest part of an encoder layer: the residual, its
// norm, and q, k, v with the attention's output, or the MLP's rows before and after the activation.
EncoderMemory encoder_memory(const InstanceSpec& spec) {
  EncoderMemory memory;
  if (spec.model.vision == nullptr) return memory;
  const VisionSpec& v = *spec.model.vision;
  const EncoderSettings& s = spec.engine.settings.encoder;
  const double tp = s.data_parallel ? 1 : spec.plan.tp;
  const double width = bytes_per_element(encoder_type(spec.model));
  memory.weights = Bytes(
      (static_cast<double>(v.split_parameters()) / tp + static_cast<double>(v.replicated_parameters())) *
      width);
  if (s.skip_profiling || s.cache_size == 0) return memory;
  const std::int64_t image = s.image_limit > 0 ? largest_image(v).embeddings : 0;
  const std::int64_t video =
      s.videos ? largest_video_tokens(v, spec.model.architecture, spec.engine.settings.max_model_len) : 0;
  const std::int64_t item = std::max(image, video);
  if (item == 0) return memory;
  std::int64_t items = std::max<std::int64_t>(1, s.compute_budget / item);
  items = std::min(items, spec.engine.settings.max_num_seqs *
                              std::max<std::int64_t>(1, std::min(video >= image ? 999 : s.image_limit,
                                                                 spec.engine.settings.max_model_len / item)));
  const double embeddings = static_cast<double>(items * item);
  const std::int64_t side = v.image_size / v.patch;
  const double patches =
      v.rule == ImageRule::llava_next ? static_cast<double>(items * tiles_of_largest(v) * side * side)
      : v.tokens_per_image > 0
          ? embeddings / static_cast<double>(v.tokens_per_image) * static_cast<double>(side * side)
          : embeddings * static_cast<double>(v.merge * v.merge);
  const double inner = static_cast<double>(v.intermediate) / tp;
  const double heads = static_cast<double>(v.heads * v.head_dim) / tp;
  const double widest =
      2 * static_cast<double>(v.hidden) + std::max(4 * heads, (v.gated ? 3.0 : 2.0) * inner);
  const double pixels = static_cast<double>(v.patch_features());
  memory.activations = Bytes(patches * (widest + pixels) * width);
  memory.outputs = Bytes(embeddings * static_cast<double>(v.out_hidden * (1 + v.deepstack)) * width);
  return memory;
}

}  // namespace orrery

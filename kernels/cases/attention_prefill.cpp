#include "kernels/attention_prefill.h"

#include <algorithm>
#include <cmath>

#include "kernels/case_table.h"
#include "kernels/cases/paged_operands.h"
#include "kernels/cudnn_attention.h"

namespace orrery::kernels {

namespace {

enum class Form : std::uint8_t { mma, wgmma, cudnn };

// cuDNN up to 9.15 reads beyond the keys when they are not a multiple of 128, unless they are masked as
// padding (NVIDIA/cudnn-frontend, scaled_dot_product_flash_attention.h: has_workaround_padding_mask). So
// prompts are padded: under the causal mask no token sees what lies behind it.
std::int64_t rows_of(const CaseSpec& spec, std::size_t sequence, Form form) {
  const std::int64_t added = spec.sequences[sequence].first;
  return form == Form::cudnn ? (added + 127) / 128 * 128 : added;
}

std::vector<std::int64_t> tokens_in_cache(const CaseSpec& spec, Form form) {
  std::vector<std::int64_t> tokens;
  for (std::size_t s = 0; s < spec.sequences.size(); ++s)
    tokens.push_back(rows_of(spec, s, form) + spec.sequences[s].second);
  return tokens;
}

struct OperandSet {
  Matrix queries, out;  // [rows · heads][head_dim], [rows · heads][value_dim]
  PagedOperands kv;
};

class AttentionPrefillCase final : public KernelCase {
 public:
  AttentionPrefillCase(const CaseSpec& spec, Form form)
      : spec_(spec), form_(form),
        layout_(tokens_in_cache(spec, form), spec.kv_heads, spec.head_dim, spec.seed),
        plan_(plan_attention_prefill(spec.sequences, spec.heads / spec.kv_heads)),
        scale_(static_cast<float>(1 / std::sqrt(static_cast<double>(spec.head_dim)))) {
    for (std::size_t s = 0; s < spec.sequences.size(); ++s) rows_ += rows_of(spec, s, form);
    if (form == Form::cudnn) layout_.in_order();
    layout_.value_dim = value_dim();
  }

  std::string kernel() const override {
    if (form_ == Form::cudnn) return "cudnn.sdpa.bf16";
    return "orrery." + spec_.op + ".bf16.v1";
  }
  std::size_t bytes_per_set() const override {
    double tokens = 0;
    for (const std::int64_t each : layout_.tokens) tokens += static_cast<double>(each);
    return static_cast<std::size_t>(bytes_of(static_cast<double>(rows_), tokens));
  }

  bool prepare(DeviceMemory& memory, int sets, std::string& why) override {
    if (const char* refusal = form_ == Form::wgmma ? attention_prefill_wgmma_refusal() : nullptr) {
      why = refusal;
      return false;
    }
    table_ = upload_new(memory, layout_.table.data(), layout_.table.size() * 4);
    tiles_ = upload_new(memory, plan_.data(), plan_.size() * sizeof(PrefillTile));
    bool room = table_ != nullptr && tiles_ != nullptr;
    for (int i = 0; i < sets && room; ++i) {
      OperandSet set;
      set.queries = {nullptr, Element::bf16, rows_ * spec_.heads, spec_.head_dim};
      set.out = {nullptr, Element::bf16, rows_ * spec_.heads, value_dim()};
      // Queries were written by the kernel before: they are warm, and all sets share them.
      if (i == 0) {
        room = set.queries.allocate(memory) && set.out.allocate(memory);
      } else {
        set.queries = sets_.front().queries;
        set.out = sets_.front().out;
      }
      room = room && set.kv.allocate(memory, layout_, false);
      if (!room) break;
      const std::uint64_t seed = spec_.seed + 10 * static_cast<std::uint64_t>(i);
      if (i == 0) set.queries.fill(memory, spec_.fill, 1.0F, seed + 2);
      // NaNs come through queries: one of a value would reach rows that may not see it
      // (attention_prefill.cu).
      set.kv.fill(memory, layout_, spec_.fill == Fill::with_nan ? Fill::random : spec_.fill, seed + 3,
                  i == 0);
      sets_.push_back(set);
    }
    if (room && form_ == Form::cudnn) return plan_cudnn(memory, why);
    if (!room)
      why = "no room for " + std::to_string(sets) + " sets of " + std::to_string(bytes_per_set()) + " bytes";
    return room;
  }

  void launch(int set, Stream stream) override {
    const OperandSet& o = sets_[static_cast<std::size_t>(set)];
    if (form_ == Form::cudnn) {
      std::string why;
      const bool launched = cudnn_->launch(o.queries.data, o.kv.keys.data, o.kv.values.data, o.out.data,
                                           workspace_, stream, why);
      if (!launched) refused_ = why;
      return;
    }
    AttentionPrefill problem;
    problem.queries = o.queries.data;
    problem.out = o.out.data;
    problem.kv = o.kv.on_device(layout_, table_);
    problem.tiles = static_cast<const PrefillTile*>(tiles_);
    problem.tile_count = static_cast<std::int32_t>(plan_.size());
    problem.heads = static_cast<std::int32_t>(spec_.heads);
    problem.kv_heads = static_cast<std::int32_t>(spec_.kv_heads);
    problem.head_dim = static_cast<std::int32_t>(spec_.head_dim);
    problem.value_dim = static_cast<std::int32_t>(value_dim());
    problem.softmax_scale = scale_;
    form_ == Form::wgmma ? attention_prefill_wgmma(problem, stream) : attention_prefill(problem, stream);
  }

  std::string refusal() const override { return refused_; }

  CheckResult check(DeviceMemory& memory) override {
    MatrixComparison comparison;
    const OperandSet& o = sets_.front();
    compare_attention(memory, o.queries, o.out, download_cache(memory, layout_, o.kv), rows_to_check(),
                      scale_, 0x1p-8, comparison);
    comparison.guards(memory);
    return comparison.result();
  }

  double flops() const override {
    return 2.0 * seen_pairs() * static_cast<double>(spec_.heads * (spec_.head_dim + value_dim()));
  }
  // Queries, outputs, and keys and values of all tokens once.
  double bytes() const override {
    double added = 0, tokens = 0;
    for (const auto& [fresh, context] : spec_.sequences) {
      added += static_cast<double>(fresh);
      tokens += static_cast<double>(fresh + context);
    }
    return bytes_of(added, tokens);
  }

 private:
  // Latent attention's heads carry 64 rotary dimensions that values have not.
  std::int64_t value_dim() const { return spec_.head_dim == 192 ? 128 : spec_.head_dim; }

  bool plan_cudnn(DeviceMemory& memory, std::string& why) {
    CudnnAttentionShape shape;
    shape.sequences = static_cast<std::int64_t>(spec_.sequences.size());
    shape.tokens = rows_of(spec_, 0, form_);
    shape.heads = spec_.heads;
    shape.kv_heads = spec_.kv_heads;
    shape.head_dim = spec_.head_dim;
    shape.kv_sequence_stride = layout_.table_stride * layout_.elements_per_block();
    shape.softmax_scale = scale_;
    cudnn_ = plan_cudnn_attention(shape, why);
    if (cudnn_ == nullptr) return false;
    workspace_ = memory.allocate(std::max<std::size_t>(cudnn_->workspace_bytes(), 16));
    if (workspace_ == nullptr) {
      why = "no room for cuDNN's workspace";
      return false;
    }
    // The first launch loads modules, which a capture might not survive.
    const OperandSet& o = sets_.front();
    return cudnn_->launch(o.queries.data, o.kv.keys.data, o.kv.values.data, o.out.data, workspace_, nullptr,
                          why);
  }

  // Rows are pairs of a new token and a head.
  std::vector<AttentionRow> rows_to_check() const {
    const auto sequences = static_cast<std::int64_t>(spec_.sequences.size());
    const std::vector<std::int64_t> chosen = sample(sequences, 8, spec_.seed);
    std::vector<AttentionRow> rows;
    for (const std::int64_t sequence : chosen) {
      const auto [added, context] = spec_.sequences[static_cast<std::size_t>(sequence)];
      std::int64_t before = 0;
      for (std::int64_t s = 0; s < sequence; ++s)
        before += rows_of(spec_, static_cast<std::size_t>(s), form_);
      const std::int64_t all = rows_to_compare(spec_.head_dim, added + context);
      const auto each = std::max<std::int64_t>(all / static_cast<std::int64_t>(chosen.size()) + 1, 4);
      for (const std::int64_t row : sample(added * spec_.heads, each, spec_.seed + 1)) {
        const std::int64_t token = row / spec_.heads, head = row % spec_.heads;
        rows.push_back({before * spec_.heads + row, static_cast<std::size_t>(sequence),
                        head / (spec_.heads / spec_.kv_heads), context + token + 1,
                        "sequence " + std::to_string(sequence) + ", token " + std::to_string(token) +
                            ", head " + std::to_string(head)});
      }
    }
    return rows;
  }

  double bytes_of(double added, double tokens) const {
    return 2.0 * static_cast<double>(spec_.head_dim + value_dim()) *
           (tokens * static_cast<double>(spec_.kv_heads) + added * static_cast<double>(spec_.heads));
  }

  double seen_pairs() const {
    double pairs = 0;
    for (const auto& [added, context] : spec_.sequences) {
      pairs += static_cast<double>(added) * static_cast<double>(context) +
               static_cast<double>(added) * static_cast<double>(added + 1) / 2;
    }
    return pairs;
  }

  CaseSpec spec_;
  Form form_;
  PagedLayout layout_;
  std::vector<PrefillTile> plan_;
  float scale_;
  std::int64_t rows_ = 0;  // of queries and outputs, padding included
  void* table_ = nullptr;
  void* tiles_ = nullptr;
  void* workspace_ = nullptr;
  std::unique_ptr<CudnnAttention> cudnn_;
  std::string refused_;
  std::vector<OperandSet> sets_;
};

}  // namespace

// The operator is "attention_prefill", "attention_prefill_wgmma" for the form that only Hopper runs, or
// "attention_prefill_cudnn": cuDNN over the keys and values of prompts as they were just computed, without
// blocks, all sequences alike. "mla_prefill", and with _wgmma: keys and values of latent attention expanded
// for every head, 192 and 128 wide.
std::unique_ptr<KernelCase> make_attention_prefill_case(const CaseSpec& spec, std::string& why) {
  bool sensible = !spec.sequences.empty();
  Form form = spec.op == "attention_prefill_cudnn" ? Form::cudnn : Form::mma;
  if (spec.op.ends_with("_wgmma")) form = Form::wgmma;
  CaseSpec taken = spec;
  const bool latent = spec.op.starts_with("mla_prefill");
  if (latent) taken.head_dim = 192, taken.kv_heads = spec.heads;
  bool alike = true;
  for (const auto& [added, context] : spec.sequences) {
    sensible = sensible && added >= 1 && context >= 0;
    alike = alike && std::pair(added, context) == spec.sequences.front();
  }
  const char* need = nullptr;
  if (!latent && spec.head_dim != 64 && spec.head_dim != 128) {
    need = "head_dim 64 or 128";
  } else if (taken.heads < 1 || taken.kv_heads < 1 || taken.heads % taken.kv_heads != 0) {
    need = "heads, a multiple of kv_heads";
  } else if (spec.block_size != kv_block_tokens) {
    need = "block_size 16";
  } else if (spec.dtype != "bf16" || spec.kv_dtype != "bf16") {
    need = "dtype and kv_dtype bf16";
  } else if (!sensible) {
    need = "sequences: (new tokens ≥ 1, context ≥ 0) of each";
  } else if (form == Form::cudnn && (!alike || spec.sequences.front().second > 0)) {
    need = "all sequences alike and without a context";
  } else {
    return std::make_unique<AttentionPrefillCase>(taken, form);
  }
  why = "operator " + spec.op + " needs " + need;
  return nullptr;
}

}  // namespace orrery::kernels

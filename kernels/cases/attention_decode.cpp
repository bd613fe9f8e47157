#include "kernels/attention_decode.h"

#include <algorithm>
#include <cmath>

#include "kernels/case_table.h"
#include "kernels/cases/paged_operands.h"

namespace orrery::kernels {

namespace {

struct OperandSet {
  Matrix queries, out;  // [sequences · heads][head_dim]
  PagedOperands kv;
};

class AttentionDecodeCase final : public KernelCase {
 public:
  explicit AttentionDecodeCase(const CaseSpec& spec)
      : spec_(spec), fp8_(spec.kv_dtype == "fp8"),
        layout_(spec.contexts, spec.kv_heads, spec.head_dim, spec.seed),
        scale_(static_cast<float>(1 / std::sqrt(static_cast<double>(spec.head_dim)))) {
    if (spec.op.ends_with("_vectorised")) layout_.layout = KvLayout::vectorised;
  }

  std::string kernel() const override {
    return "orrery." + spec_.op + "." + (fp8_ ? "fp8" : "bf16") + "_kv.v1";
  }
  std::size_t bytes_per_set() const override { return static_cast<std::size_t>(bytes()); }

  bool prepare(DeviceMemory& memory, int sets, std::string& why) override {
    plan_ = plan_attention_decode(spec_.contexts, spec_.heads, spec_.kv_heads, attention_compute_units());
    table_ = upload_new(memory, layout_.table.data(), layout_.table.size() * 4);
    pieces_ = upload_new(memory, plan_.pieces.data(), plan_.pieces.size() * sizeof(DecodePiece));
    merges_ = upload_new(memory, plan_.merges.data(), plan_.merges.size() * sizeof(DecodeMerge));
    const auto partial_rows = static_cast<std::size_t>(plan_.slots * spec_.heads);
    partial_ = memory.allocate(
        std::max<std::size_t>(partial_rows * static_cast<std::size_t>(spec_.head_dim) * 4, 16));
    log_sums_ = memory.allocate(std::max<std::size_t>(partial_rows * 4, 16));
    bool room = table_ != nullptr && pieces_ != nullptr && merges_ != nullptr && partial_ != nullptr &&
                log_sums_ != nullptr;
    for (int i = 0; i < sets && room; ++i) {
      OperandSet set;
      set.queries = {nullptr, Element::bf16, sequences() * spec_.heads, spec_.head_dim};
      set.out = set.queries;
      // Queries were written by the kernel before: they are warm, and all sets share them.
      if (i == 0) {
        room = set.queries.allocate(memory) && set.out.allocate(memory);
      } else {
        set.queries = sets_.front().queries;
        set.out = sets_.front().out;
      }
      room = room && set.kv.allocate(memory, layout_, fp8_);
      if (!room) break;
      const std::uint64_t seed = spec_.seed + 10 * static_cast<std::uint64_t>(i);
      if (i == 0) set.queries.fill(memory, spec_.fill, 1.0F, seed + 2);
      set.kv.fill(memory, layout_, spec_.fill, seed + 3, i == 0);
      sets_.push_back(set);
    }
    if (!room)
      why = "no room for " + std::to_string(sets) + " sets of " + std::to_string(bytes_per_set()) + " bytes";
    return room;
  }

  void launch(int set, Stream stream) override {
    const OperandSet& o = sets_[static_cast<std::size_t>(set)];
    AttentionDecode problem;
    problem.queries = o.queries.data;
    problem.out = o.out.data;
    problem.kv = o.kv.on_device(layout_, table_);
    problem.pieces = static_cast<const DecodePiece*>(pieces_);
    problem.merges = static_cast<const DecodeMerge*>(merges_);
    problem.partial = static_cast<float*>(partial_);
    problem.partial_log_sum = static_cast<float*>(log_sums_);
    problem.piece_count = static_cast<std::int32_t>(plan_.pieces.size());
    problem.merge_count = static_cast<std::int32_t>(plan_.merges.size());
    problem.heads = static_cast<std::int32_t>(spec_.heads);
    problem.kv_heads = static_cast<std::int32_t>(spec_.kv_heads);
    problem.head_dim = static_cast<std::int32_t>(spec_.head_dim);
    problem.fp8_kv = fp8_;
    problem.softmax_scale = scale_;
    attention_decode(problem, stream);
  }

  CheckResult check(DeviceMemory& memory) override {
    MatrixComparison comparison;
    const OperandSet& o = sets_.front();
    const std::vector<std::int64_t> chosen = sample(sequences(), 16, spec_.seed);
    const auto count = static_cast<std::int64_t>(chosen.size());
    std::vector<AttentionRow> rows;
    for (const std::int64_t sequence : chosen) {
      const std::int64_t tokens = spec_.contexts[static_cast<std::size_t>(sequence)];
      const std::int64_t each = (rows_to_compare(spec_.head_dim, tokens) + count - 1) / count;
      for (const std::int64_t head : sample(spec_.heads, std::max<std::int64_t>(each, 2), spec_.seed + 1)) {
        rows.push_back({sequence * spec_.heads + head, static_cast<std::size_t>(sequence),
                        head / (spec_.heads / spec_.kv_heads), tokens,
                        "sequence " + std::to_string(sequence) + ", head " + std::to_string(head)});
      }
    }
    compare_attention(memory, o.queries, o.out, download_cache(memory, layout_, o.kv), rows, scale_,
                      attention_weight_rounding(fp8_), comparison);
    comparison.guards(memory);
    return comparison.result();
  }

  double flops() const override {
    return 4.0 * static_cast<double>(all_tokens()) * static_cast<double>(spec_.heads * spec_.head_dim);
  }
  // Keys and values once, queries and outputs.
  double bytes() const override {
    const double per_token = 2.0 * static_cast<double>(spec_.kv_heads * spec_.head_dim) * (fp8_ ? 1 : 2);
    return static_cast<double>(all_tokens()) * per_token +
           4.0 * static_cast<double>(sequences() * spec_.heads * spec_.head_dim);
  }

 private:
  std::int64_t sequences() const { return static_cast<std::int64_t>(spec_.contexts.size()); }
  std::int64_t all_tokens() const {
    std::int64_t sum = 0;
    for (const std::int64_t context : spec_.contexts) sum += context;
    return sum;
  }

  CaseSpec spec_;
  bool fp8_;
  PagedLayout layout_;
  float scale_;
  DecodePlan plan_;
  void* table_ = nullptr;
  void* pieces_ = nullptr;
  void* merges_ = nullptr;
  void* partial_ = nullptr;
  void* log_sums_ = nullptr;
  std::vector<OperandSet> sets_;
};

}  // namespace

// "attention_decode", or "attention_decode_vectorised": over a cache in AITER's layout.
std::unique_ptr<KernelCase> make_attention_decode_case(const CaseSpec& spec, std::string& why) {
  std::int64_t shortest = spec.contexts.empty() ? 0 : spec.contexts.front();
  for (const std::int64_t context : spec.contexts) shortest = std::min(shortest, context);
  const char* need = nullptr;
  if (spec.head_dim != 64 && spec.head_dim != 128) {
    need = "head_dim 64 or 128";
  } else if (spec.heads < 1 || spec.kv_heads < 1 || spec.heads % spec.kv_heads != 0) {
    need = "heads, a multiple of kv_heads";
  } else if (spec.block_size != kv_block_tokens) {
    need = "block_size 16";
  } else if (spec.dtype != "bf16" || (spec.kv_dtype != "bf16" && spec.kv_dtype != "fp8")) {
    need = "dtype bf16 and kv_dtype bf16 or fp8";
  } else if (shortest < 1) {
    need = "contexts: at least one token for each sequence";
  } else {
    return std::make_unique<AttentionDecodeCase>(spec);
  }
  why = "operator " + spec.op + " needs " + need;
  return nullptr;
}

}  // namespace orrery::kernels

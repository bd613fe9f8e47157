#include "kernels/mla_decode.h"

#include <algorithm>
#include <cmath>

#include "base/random.h"
#include "kernels/case_table.h"
#include "kernels/cases/latent_operands.h"

namespace orrery::kernels {

namespace {

struct OperandSet {
  Matrix queries, out;  // [sequences · heads][576], [sequences · heads][512]
  LatentOperands kv;
};

// Of the tokens of each sequence, as many as spec.top_k, in any order; all of them where it is 0.
std::vector<std::int64_t> attended_tokens(const CaseSpec& spec) {
  std::vector<std::int64_t> out = spec.contexts;
  for (std::int64_t& tokens : out) {
    if (spec.top_k > 0) tokens = std::min(tokens, spec.top_k);
  }
  return out;
}

class MlaDecodeCase final : public KernelCase {
 public:
  MlaDecodeCase(const CaseSpec& spec, LatentFormat format)
      : spec_(spec), format_(format), wgmma_(spec.op.ends_with("_wgmma")),
        layout_(spec.contexts, 1, latent_key, spec.seed, spec.block_size), attended_(attended_tokens(spec)),
        // Of DeepSeek's heads before they are absorbed: 128 + 64 wide.
        scale_(static_cast<float>(1 / std::sqrt(192.0))) {
    if (spec.top_k > 0) pick();
  }

  std::string kernel() const override { return "orrery." + spec_.op + "." + spec_.kv_dtype + "_kv.v1"; }
  std::size_t bytes_per_set() const override { return LatentOperands::bytes(layout_, format_); }

  bool prepare(DeviceMemory& memory, int sets, std::string& why) override {
    if (const char* refusal = wgmma_ ? mla_decode_wgmma_refusal() : nullptr) {
      why = refusal;
      return false;
    }
    plan_ = plan_mla_decode(attended_, spec_.heads, wgmma_ ? mla_wgmma_heads : mla_plain_heads,
                            attention_compute_units());
    const auto partial_rows = static_cast<std::size_t>(plan_.slots * spec_.heads);
    table_ = upload_new(memory, layout_.table.data(), layout_.table.size() * 4);
    picks_on_device_ = upload_new(memory, picks_.data(), picks_.size() * 4);
    pieces_ = upload_new(memory, plan_.pieces.data(), plan_.pieces.size() * sizeof(DecodePiece));
    merges_ = upload_new(memory, plan_.merges.data(), plan_.merges.size() * sizeof(DecodeMerge));
    partial_ = memory.allocate(std::max<std::size_t>(partial_rows * latent_width * 4, 16));
    log_sums_ = memory.allocate(std::max<std::size_t>(partial_rows * 4, 16));
    bool room = table_ != nullptr && pieces_ != nullptr && merges_ != nullptr && partial_ != nullptr &&
                log_sums_ != nullptr && picks_on_device_ != nullptr;
    for (int i = 0; i < sets && room; ++i) {
      OperandSet set;
      set.queries = {nullptr, Element::bf16, sequences() * spec_.heads, latent_key};
      set.out = {nullptr, Element::bf16, sequences() * spec_.heads, latent_width};
      // Queries were written by the kernel before: they are warm, and all sets share them.
      if (i == 0) {
        room = set.queries.allocate(memory) && set.out.allocate(memory);
      } else {
        set.queries = sets_.front().queries;
        set.out = sets_.front().out;
      }
      room = room && set.kv.allocate(memory, layout_, format_);
      if (!room) break;
      const std::uint64_t seed = spec_.seed + 10 * static_cast<std::uint64_t>(i);
      if (i == 0)
        set.queries.fill(memory, spec_.fill == Fill::with_nan ? Fill::random : spec_.fill, 1.0F, seed + 2);
      set.kv.fill(memory, layout_, spec_.fill, seed + 3, i == 0);
      sets_.push_back(set);
    }
    if (!room)
      why = "no room for " + std::to_string(sets) + " sets of " + std::to_string(bytes_per_set()) + " bytes";
    return room;
  }

  void launch(int set, Stream stream) override {
    const OperandSet& o = sets_[static_cast<std::size_t>(set)];
    MlaDecode problem;
    problem.queries = o.queries.data;
    problem.out = o.out.data;
    problem.kv.rows = o.kv.rows;
    problem.kv.block_table = static_cast<const std::int32_t*>(table_);
    problem.kv.table_stride = layout_.table_stride;
    problem.kv.blocks = layout_.blocks;
    if (spec_.top_k > 0) problem.kv.picks = static_cast<const std::int32_t*>(picks_on_device_);
    problem.kv.picks_stride = spec_.top_k;
    problem.kv.block_size = static_cast<std::int32_t>(spec_.block_size);
    problem.kv.format = format_;
    problem.kv.scale = o.kv.scale;
    problem.pieces = static_cast<const DecodePiece*>(pieces_);
    problem.merges = static_cast<const DecodeMerge*>(merges_);
    problem.partial = static_cast<float*>(partial_);
    problem.partial_log_sum = static_cast<float*>(log_sums_);
    problem.piece_count = static_cast<std::int32_t>(plan_.pieces.size());
    problem.merge_count = static_cast<std::int32_t>(plan_.merges.size());
    problem.heads = static_cast<std::int32_t>(spec_.heads);
    problem.softmax_scale = scale_;
    wgmma_ ? mla_decode_wgmma(problem, stream) : mla_decode(problem, stream);
  }

  CheckResult check(DeviceMemory& memory) override {
    MatrixComparison comparison;
    const OperandSet& o = sets_.front();
    std::vector<unsigned char> cache(bytes_per_set());
    memory.download(cache.data(), o.kv.rows, cache.size());
    const std::vector<std::int64_t> chosen = sample(sequences(), 16, spec_.seed);
    const auto count = static_cast<std::int64_t>(chosen.size());
    std::vector<AttentionRow> rows;
    for (const std::int64_t sequence : chosen) {
      const std::int64_t tokens = attended_[static_cast<std::size_t>(sequence)];
      const std::int64_t each = (rows_to_compare(latent_width, tokens) + count - 1) / count;
      for (const std::int64_t head : sample(spec_.heads, std::max<std::int64_t>(each, 2), spec_.seed + 1)) {
        rows.push_back({sequence * spec_.heads + head, static_cast<std::size_t>(sequence), 0, tokens,
                        "sequence " + std::to_string(sequence) + ", head " + std::to_string(head)});
      }
    }
    const auto reference = [&](const std::vector<double>& query, const AttentionRow& row) {
      LatentTokens attended(cache, format_, o.kv.scale, places(row.sequence));
      return attention_reference(query, attended, row.tokens, scale_, bf16_rounding);
    };
    compare_attention(memory, o.queries, o.out, rows, reference, comparison);
    comparison.guards(memory);
    return comparison.result();
  }

  double flops() const override {
    return 2.0 * (latent_key + latent_width) * static_cast<double>(all_tokens() * spec_.heads);
  }
  // Latents once, queries and outputs.
  double bytes() const override {
    return static_cast<double>(all_tokens() * latent_row_bytes(format_)) +
           2.0 * (latent_key + latent_width) * static_cast<double>(sequences() * spec_.heads);
  }

 private:
  std::int64_t sequences() const { return static_cast<std::int64_t>(spec_.contexts.size()); }
  std::int64_t all_tokens() const {
    std::int64_t sum = 0;
    for (const std::int64_t tokens : attended_) sum += tokens;
    return sum;
  }
  // What follows a sequence's picks must not be read.
  void pick() {
    picks_.assign(static_cast<std::size_t>(sequences() * spec_.top_k), -1);
    for (std::size_t s = 0; s < spec_.contexts.size(); ++s) {
      RandomStream random(spec_.seed, RandomPurpose::kernel_operands, s);
      std::vector<std::int64_t> tokens(static_cast<std::size_t>(spec_.contexts[s]));
      for (std::size_t t = 0; t < tokens.size(); ++t) tokens[t] = static_cast<std::int64_t>(t);
      for (std::size_t i = 0; i < static_cast<std::size_t>(attended_[s]); ++i) {
        std::swap(tokens[i], tokens[i + random.below(tokens.size() - i)]);
        picks_[s * static_cast<std::size_t>(spec_.top_k) + i] =
            static_cast<std::int32_t>(layout_.place(s, tokens[i]));
      }
    }
  }
  std::vector<std::int64_t> places(std::size_t sequence) const {
    std::vector<std::int64_t> out(static_cast<std::size_t>(attended_[sequence]));
    for (std::size_t i = 0; i < out.size(); ++i) {
      out[i] = spec_.top_k > 0 ? picks_[sequence * static_cast<std::size_t>(spec_.top_k) + i]
                               : layout_.place(sequence, static_cast<std::int64_t>(i));
    }
    return out;
  }

  CaseSpec spec_;
  LatentFormat format_;
  bool wgmma_;
  PagedLayout layout_;
  std::vector<std::int64_t> attended_;
  std::vector<std::int32_t> picks_;  // [sequences][top_k] places
  float scale_;
  DecodePlan plan_;
  void *table_ = nullptr, *picks_on_device_ = nullptr, *pieces_ = nullptr, *merges_ = nullptr;
  void *partial_ = nullptr, *log_sums_ = nullptr;
  std::vector<OperandSet> sets_;
};

}  // namespace

// "mla_decode" over all of the context, "mla_sparse_decode" over top_k picked tokens; with _wgmma the form
// that only Hopper runs.
std::unique_ptr<KernelCase> make_mla_decode_case(const CaseSpec& spec, std::string& why) {
  const bool sparse = spec.op.starts_with("mla_sparse");
  CaseSpec taken = spec;
  if (!sparse) taken.top_k = 0;
  LatentFormat format = LatentFormat::bf16;
  const std::int64_t shortest =
      spec.contexts.empty() ? 0 : *std::min_element(spec.contexts.begin(), spec.contexts.end());
  const char* need = nullptr;
  if (spec.heads < 1 || spec.heads > 128) {
    need = "heads 1 to 128";
  } else if (spec.block_size < 1) {
    need = "block_size, at least 1";
  } else if (spec.dtype != "bf16" || !latent_format(spec.kv_dtype, format)) {
    need = "dtype bf16 and kv_dtype bf16, fp8 or fp8_ds_mla";
  } else if (sparse && spec.top_k < 1) {
    need = "top_k, the tokens to attend to";
  } else if (shortest < 1) {
    need = "contexts: at least one token for each sequence";
  } else {
    return std::make_unique<MlaDecodeCase>(taken, format);
  }
  why = "operator " + spec.op + " needs " + need;
  return nullptr;
}

}  // namespace orrery::kernels

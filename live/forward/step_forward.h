// A model's forward pass as launches of our kernels, in the order and with the shapes of the step graph
// (costmodel/step_graph.cpp), on buffers as large as the model's: weights are random, from a seed.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "costmodel/model_spec.h"
#include "kernels/fp8_output.h"
#include "kernels/kernel_case.h"
#include "kernels/step_stream.h"
#include "live/forward/drawn_choices.h"
#include "live/forward/forward_inputs.h"
#include "live/forward/forward_products.h"
#include "live/forward/forward_weights.h"
#include "live/forward/fp32_forward.h"
#include "live/forward/launch_count.h"
#include "live/forward/rank_link.h"
#include "live/forward/step_batch.h"

namespace orrery {

struct ForwardOptions {
  std::uint64_t seed = 1;
  std::int64_t kv_blocks = 0;                    // of 16 tokens, in the pool
  std::int64_t max_rows = 0, max_sequences = 0;  // of a step, with padding
  std::int64_t max_positions = 0;                // of a sequence: its tokens are fewer
  float head_spread = 0;   // of the rows of lm_head, as exp(spread · normal): how far apart the best logits
                           // are
  bool random_kv = false;  // else the pool holds NaNs until it is written: what reads too much shows
  bool fp32 = false;       // by plain kernels, for checks: models without experts, weights of bf16
  bool count_launches = false;
  bool marks_layers = false;
  std::int32_t ranks = 1, rank = 0;
  bool shares_experts = false;  // whole experts by rank
  // Of experts: each token's are drawn by it, instead of by the router's logits (StepBatch::expert_keys).
  std::shared_ptr<const ExpertPopularity> popularity = {};
  RankLink* link = nullptr;  // of more than one rank; outlives the forward pass
};

class StepForward {
 public:
  // Errors: what a model has that there is no kernel or no code for, by name; no room.
  static Result<std::unique_ptr<StepForward>> create(const ModelSpec& model, const ForwardOptions& options,
                                                     kernels::DeviceMemory& memory);

  // Puts the step behind what was launched before; returns before it has run. The step before must have been
  // waited for. Errors: a batch that does not fit the options or contradicts itself.
  Result<Unit> launch(const StepBatch& batch);
  // The step that was waited for last, again, each launch by itself (step_profile.cpp). Of one rank.
  Result<StepProfile> profile(const StepBatch& batch);
  Result<Unit> first_sum();                         // of nothing, over the ranks; waits
  Result<std::span<const std::int32_t>> sampled();  // waits; a token for each of sampled_rows
  double step_ns() { return stream_->step_ns(); }   // of the step that was waited for, by the device's clock
  const std::vector<LaunchCount>& counts() const { return counts_; }  // of the last step, when asked for

  // Experts that a layer chose for the last step's rows, experts_per_token each; waits.
  std::vector<std::int32_t> chosen_experts(std::size_t layer, std::int32_t rows);
  std::vector<float> logits();  // of the last step's sampled rows, row-major; waits
  const ForwardShape& shape() const { return shape_; }
  const ForwardWeights& weights() const { return weights_; }
  // Keys, then values, of each layer; a latent's rows are keys alone. Blocks of 16 tokens.
  std::vector<void*> kv_pools() const;
  // Layers of the step under way whose keys and values the device has written, when asked for
  // (ForwardOptions::marks_layers): of steps with prompts, which no graph runs
  // (step_ranks.cpp); the device is asked every few microseconds at most.
  void begin_layers();
  std::int64_t layers_done();  // always by the same thread
  std::int64_t kv_block_bytes() const { return kernels::kv_block_tokens * shape_.kv_width() * 2; }
  std::int64_t kv_blocks() const { return options_.kv_blocks; }
  std::int64_t graphs() const { return static_cast<std::int64_t>(graphs_.size()); }
  std::int64_t first_uses() const {
    return captured_ + products_->planned();
  }  // graphs, and products' shapes

 private:
  struct Scratch {  // rows are max_rows + 1: the last takes what padding of a graph writes
    std::uint16_t *x = nullptr, *residual = nullptr, *zeros = nullptr, *normed = nullptr, *qkv = nullptr,
                  *queries = nullptr, *attended = nullptr, *gate_up = nullptr, *inner = nullptr,
                  *sampled = nullptr, *logits = nullptr,
                  *logits_part = nullptr;  // of the rank's share of the vocabulary
    float* logits_fp32 = nullptr;
    std::int32_t* tokens = nullptr;
    std::uint64_t* sample_partial = nullptr;
    std::uint32_t* sample_arrived = nullptr;
    float *partial = nullptr, *log_sums = nullptr;  // of attention's pieces
    // Of models with 8-bit products: what the next one reads, scales with rows fastest.
    std::uint8_t* eight = nullptr;
    float* scales = nullptr;
    std::int64_t scale_stride = 0;
  };
  struct LatentScratch {
    std::uint16_t *kv = nullptr, *plain = nullptr;         // [rows][576]; [heads][rows][plain]
    std::uint16_t *by_head = nullptr, *queries = nullptr;  // [heads][rows][512], [rows][heads][576]
    std::uint16_t *out = nullptr, *values = nullptr;       // [rows][heads][512], [heads][rows][value]
  };
  struct ExpertScratch {  // a row is a token's choice
    std::uint16_t *router = nullptr, *shared = nullptr, *rows = nullptr, *gate_up = nullptr, *inner = nullptr,
                  *out = nullptr;
    float *router_fp32 = nullptr, *weights = nullptr;
    std::vector<std::int32_t*> chosen;  // of every layer, so that a check can ask
    std::int32_t *sorted = nullptr, *positions = nullptr, *block_experts = nullptr, *offsets = nullptr,
                 *counts = nullptr, *workspace = nullptr;
    std::uint8_t* eight = nullptr;
    float* scales = nullptr;  // row by row
  };
  struct KvPool {
    std::uint16_t *keys = nullptr, *values = nullptr;  // of a layer; a latent's rows are keys
  };

  StepForward(const ForwardShape& shape, const ForwardOptions& options, kernels::DeviceMemory& memory);
  Result<Unit> prepare();
  Result<Unit> allocate_scratch();
  // Zeros: what products compute of rows beyond a step's must be no fault of theirs. False: no room.
  template <class T>
  bool allocate(T*& to, std::int64_t count) {
    const auto bytes = static_cast<std::size_t>(count) * sizeof(T);
    to = static_cast<T*>(memory_.allocate(bytes));
    if (to != nullptr) memory_.fill(to, 0, bytes);
    return to != nullptr;
  }
  bool hold_pieces(std::int64_t slots);
  Result<Unit> run_graph(const DeviceStep& step);
  // The step without what ranks do together: products are planned and graphs captured where nobody waits.
  Result<Unit> rehearse(const DeviceStep& step);
  Result<Unit> meet(bool fine, const Error& error);  // with the other ranks, if there are any
  void sum_over_ranks(const char* use, std::int32_t rows, kernels::Stream stream);  // x
  void gather_logits(const DeviceStep& step, kernels::Stream stream);

  // All launches of a step up to the last norm; of what comes behind it.
  void launch_layers(const DeviceStep& step, kernels::Stream stream);
  void launch_head(const DeviceStep& step, kernels::Stream stream);
  void make_logits(const DeviceStep& step, kernels::Stream stream);
  void embed(const DeviceStep& step, kernels::Stream stream);
  // What a norm gives to a product: quantised where that product's weights are. Null: nobody's.
  void norm(const char* use, const std::uint16_t* residual, const std::uint16_t* weight, const Weight* reader,
            const DeviceStep& step, kernels::Stream stream);
  void attention(std::size_t index, const DeviceStep& step, kernels::Stream stream);
  void latent_attention(std::size_t index, const DeviceStep& step, kernels::Stream stream);
  void place_latents(std::size_t index, const DeviceStep& step, kernels::Stream stream);
  void attend_latents(const KvPool& pool, const DeviceStep& step, kernels::Stream stream);
  void by_heads(const char* use, const Weight& weight, const std::uint16_t* in, std::uint16_t* out,
                const DeviceStep& step, kernels::Stream stream);
  void swap_heads(std::uint16_t* by_head, std::uint16_t* by_row, bool to_rows, std::int64_t width,
                  std::int64_t stride, const DeviceStep& step, kernels::Stream stream);
  void rotate(const LayerWeights& layer, const DeviceStep& step, kernels::Stream stream);
  void write_kv(const KvPool& pool, const DeviceStep& step, kernels::Stream stream);
  kernels::PagedKv pages(const KvPool& pool, const DeviceStep& step) const;
  // The pieces of a step's decodes and what merges their sums, for either kernel.
  template <class Problem>
  void set_pieces(Problem& problem, const DeviceStep& step) const {
    problem.pieces = step.pieces;
    problem.merges = step.merges;
    problem.partial = scratch_.partial;
    problem.partial_log_sum = scratch_.log_sums;
    problem.piece_count = step.piece_count;
    problem.merge_count = step.merge_count;
    problem.heads = static_cast<std::int32_t>(shape_.heads);
  }
  void attend(const KvPool& pool, const DeviceStep& step, kernels::Stream stream);
  void attend_decodes(const KvPool& pool, const DeviceStep& step, kernels::Stream stream);
  void attend_chunks(const KvPool& pool, const DeviceStep& step, kernels::Stream stream);
  void multiply(const char* use, const Weight& weight, const std::uint16_t* in, std::uint16_t* out,
                std::int32_t rows, const std::int32_t* range, kernels::Stream stream);
  void quantise(const char* use, const std::uint16_t* from, std::int64_t width, std::int32_t rows,
                const kernels::Fp8Output& to, kernels::Stream stream);
  kernels::Fp8Output eight_bits() const;  // scratch, as products read it
  void feed_experts(std::size_t index, const DeviceStep& step, kernels::Stream stream);
  void route(std::size_t index, const DeviceStep& step, kernels::Stream stream);
  void draw_experts(std::size_t index, const DeviceStep& step, kernels::Stream stream);
  void quantise_experts(const DeviceStep& step, kernels::Stream stream);
  void sort_by_expert(std::size_t index, const DeviceStep& step, kernels::Stream stream);
  void multiply_experts(const char* use, const Weight& weight, const std::uint16_t* in, std::uint16_t* out,
                        const DeviceStep& step, kernels::Stream stream);
  void combine_experts(const DeviceStep& step, kernels::Stream stream);
  // Rows of all experts of a rank, on average; and where the device says how many there are (null: all).
  std::int32_t expert_rows(const DeviceStep& step) const;
  const std::int32_t* used_expert_rows() const;
  bool allocate_experts();
  bool allocate_latent();
  // `shared`: the shared experts of a layer, whose output joins the others'.
  void feed_forward(const Weight& gate_up, const Weight& down, bool shared, const DeviceStep& step,
                    kernels::Stream stream);
  void count(const char* use, OpClass op_class, double flops, double memory_bytes, double activation_bytes,
             double link_bytes = 0);

  void launch_timed(const DeviceStep& step, kernels::Stream stream);
  void time_from_here(const char* use, OpClass op_class);

  ForwardShape shape_;
  ForwardOptions options_;
  kernels::DeviceMemory& memory_;
  std::unique_ptr<kernels::StepStream> stream_;
  ForwardWeights weights_;
  ForwardInputs inputs_;
  std::unique_ptr<Fp32Forward> fp32_;  // null: our real kernels
  std::unique_ptr<ForwardProducts> products_;
  Scratch scratch_;
  ExpertScratch experts_;
  DrawnChoices drawn_;
  LatentScratch latent_;
  std::vector<KvPool> pool_;
  const float* rotary_ = nullptr;
  std::int64_t piece_slots_ = 0;
  std::int32_t* sampled_host_ = nullptr;
  std::int32_t last_sampled_ = 0;
  std::map<GraphKey, std::unique_ptr<kernels::StepStream::Graph>> graphs_;
  std::int64_t captured_ = 0;
  std::vector<LaunchCount> counts_;
  std::vector<LaunchTime> timed_;  // of a profile: what each clock stands before
  std::size_t clocks_ = 0;
  bool timing_ = false;
  std::atomic<std::int64_t> launched_layers_ = 0;  // with a mark behind them
  std::atomic<std::uint64_t> layered_steps_ = 0;
  std::uint64_t asked_step_ = 0;  // by layers_done(), with what it found, and when
  std::int64_t passed_layers_ = 0;
  std::chrono::steady_clock::time_point asked_at_;
  bool counting_ = false, launching_ = true, together_ = true;  // together: with the other ranks
  std::set<std::pair<std::int64_t, std::int64_t>> rehearsed_;   // rows and sampled rows, as launched
  bool wgmma_ = false, latent_wgmma_ = false;  // of the device: attention of prompts, of latents
};

}  // namespace orrery

#include "live/forward/forward_check.h"

#include <algorithm>
#include <cmath>

#include "base/random.h"
#include "costmodel/experts/rank_loads.h"
#include "live/forward/reference_forward.h"

namespace orrery {

namespace {

constexpr std::int32_t block = 16, pool_blocks = 24, step_rows = 24, chunk_rows = 13;
constexpr std::size_t preempted = 2, sharing = 1;  // which sequences are
constexpr float head_spread = 2;                   // tokens stand apart, as a trained model's do

struct Served {
  std::vector<std::int32_t> tokens;   // prompt, then sampled
  std::vector<ChosenExperts> chosen;  // by position
  std::int32_t prompt = 0, wanted = 0, cached = 0;
  std::vector<std::int32_t> blocks;
  bool started = false, done = false;
  std::int32_t preempt_at = 0;  // tokens sampled before it loses its blocks; 0: it does not
};

struct Sampled {
  std::size_t sequence = 0;
  std::int32_t position = 0, token = 0;
  std::vector<float> logits;
};

class Schedule {
 public:
  Schedule(const ModelSpec& model, const ForwardCheckOptions& options, RankedForward& forward)
      : options_(options), forward_(forward), vocabulary_(static_cast<std::size_t>(model.vocabulary)),
        layers_(model.experts > 0 ? static_cast<std::size_t>(model.layers) : 0) {
    RandomStream random(options.seed, RandomPurpose::property_test);
    // Blocks in no order.
    for (std::int32_t b = 0; b < pool_blocks; ++b) free_.push_back(b);
    for (std::size_t i = free_.size(); i > 1; --i) std::swap(free_[i - 1], free_[random.below(i)]);
    const std::vector<std::int32_t> prompts =
        options.brief ? std::vector{18, 22} : std::vector{21, 29, 34, 5};
    const std::vector<std::int32_t> wanted = options.brief ? std::vector{2, 2} : std::vector{7, 5, 6, 9};
    for (std::size_t s = 0; s < prompts.size(); ++s) {
      Served each;
      each.prompt = prompts[s];
      each.wanted = wanted[s];
      for (std::int32_t i = 0; i < each.prompt; ++i)
        each.tokens.push_back(static_cast<std::int32_t>(random.below(vocabulary_)));
      each.chosen.assign(static_cast<std::size_t>(each.prompt + each.wanted), ChosenExperts(layers_));
      served_.push_back(each);
    }
    std::copy_n(served_[0].tokens.begin(), block, served_[sharing].tokens.begin());
    if (served_.size() > preempted) served_[preempted].preempt_at = 3;
  }

  Result<Unit> run(ForwardCheck& check) {
    while (!std::all_of(served_.begin(), served_.end(), [](const Served& s) { return s.done; })) {
      before_step();
      StepBatch batch = compose();
      spoil(batch);
      if (Result<Unit> launched = forward_.launch(batch); !launched) return launched;
      auto tokens = forward_.sampled();
      if (!tokens) return tokens.errors();
      ++check.steps;
      check.ranks_agree = check.ranks_agree && forward_.agreed();
      if (batch.padded_rows > 0) ++check.graph_steps;
      keep_choices(batch);
      take(batch, *tokens, forward_.logits());
      if (options_.fault != ForwardFault::none && spoiled_) break;  // it has shown, or does not
    }
    return Unit{};
  }

  std::uint64_t key_of(std::size_t sequence, std::int64_t position) const {
    return token_key(options_.seed, sequence, static_cast<std::uint64_t>(position));
  }
  // Experts that are not those of the simulation, of tokens that were computed.
  std::int64_t not_drawn(const ExpertPopularity& popularity, const ForwardShape& shape) const {
    std::int64_t wrong = 0, layer = 0;
    std::vector<std::uint16_t> drawn(static_cast<std::size_t>(popularity.per_token()));
    for (std::size_t l = 0; l < shape.experts_of_layer.size(); ++l) {
      if (!shape.experts_of_layer[l]) continue;
      const ExpertDemand demand(popularity.weights(static_cast<std::int32_t>(layer), 0),
                                popularity.per_token());
      for (std::size_t s = 0; s < served_.size(); ++s) {
        for (std::int32_t at = 0; at < served_[s].cached; ++at) {
          const auto& chosen = served_[s].chosen[static_cast<std::size_t>(at)][l];
          // A prefix that was found has its first owner's.
          demand.draw(key_of(s == sharing && at < block ? 0 : s, at), static_cast<std::uint64_t>(layer),
                      drawn);
          wrong += std::equal(chosen.begin(), chosen.end(), drawn.begin(), drawn.end()) ? 0 : 1;
        }
      }
      ++layer;
    }
    return wrong;
  }
  const std::vector<Served>& served() const { return served_; }
  // Of each sequence the tokens whose logits were sampled.
  std::vector<std::vector<std::int32_t>> seen() const {
    std::vector<std::size_t> ends(served_.size());
    for (const Sampled& each : sampled_)
      ends[each.sequence] = std::max(ends[each.sequence], static_cast<std::size_t>(each.position) + 1);
    std::vector<std::vector<std::int32_t>> out;
    for (std::size_t s = 0; s < ends.size(); ++s) {
      const auto begin = served_[s].tokens.begin();
      out.emplace_back(begin, begin + static_cast<std::ptrdiff_t>(ends[s]));
    }
    return out;
  }
  const std::vector<Sampled>& sampled() const { return sampled_; }

 private:
  std::int32_t pending(const Served& s) const {
    return static_cast<std::int32_t>(s.tokens.size()) - s.cached;
  }
  bool decodes(const Served& s) const {
    return s.started && !s.done && pending(s) == 1 && s.cached >= s.prompt;
  }

  void release(Served& s) {
    const bool shared = &s == &served_[sharing];
    // Its first block is the first sequence's, who gives it back.
    free_.insert(free_.begin(), s.blocks.begin() + (shared ? 1 : 0), s.blocks.end());
    s.blocks.clear();
  }

  void before_step() {
    Served &first = served_[0], &second = served_[sharing];
    for (Served& s : served_) s.started = s.started || &s != &second;
    if (!second.started && first.cached >= block) {  // the prefix is there: a hit
      second.started = true;
      second.cached = block;
      std::copy_n(first.chosen.begin(), block, second.chosen.begin());
      second.blocks = {first.blocks.front()};
      if (options_.fault == ForwardFault::stale_prefix) {
        second.blocks.front() = first.blocks.back();
        spoiled_ = true;
      }
    }
    if (served_.size() <= preempted) return;
    Served& victim = served_[preempted];
    const auto got = static_cast<std::int32_t>(victim.tokens.size()) - victim.prompt;
    if (victim.preempt_at > 0 && got >= victim.preempt_at) {  // what it had goes to others first
      victim.preempt_at = 0;
      victim.cached = 0;
      release(victim);
    }
  }

  void grow(Served& s, std::int32_t tokens) {
    while (static_cast<std::int32_t>(s.blocks.size()) * block < tokens) {
      ORRERY_CHECK(!free_.empty(), "the check's pool is too small");
      s.blocks.push_back(free_.back());
      free_.pop_back();
    }
  }

  void add(StepBatch& batch, std::size_t index, std::int32_t rows) {
    Served& s = served_[index];
    grow(s, s.cached + rows);
    batch.sequences.push_back({static_cast<std::int32_t>(batch.tokens.size()), rows, s.cached + rows});
    for (std::int32_t i = 0; i < rows; ++i) {
      const std::int32_t at = s.cached + i;
      batch.tokens.push_back(s.tokens[static_cast<std::size_t>(at)]);
      batch.positions.push_back(at);
      batch.sampled_rows.push_back(static_cast<std::int32_t>(batch.sampled_rows.size()));  // all
      batch.slots.push_back(std::int64_t{s.blocks[static_cast<std::size_t>(at / block)]} * block +
                            at % block);
      if (options_.zipf > 0) batch.expert_keys.push_back(key_of(index, at));
    }
    in_step_.push_back(index);
  }

  StepBatch compose() {
    StepBatch batch;
    in_step_.clear();
    for (std::size_t s = 0; s < served_.size(); ++s) {
      if (decodes(served_[s])) add(batch, s, 1);
    }
    batch.decodes = static_cast<std::int32_t>(batch.sequences.size());
    for (std::size_t s = 0; s < served_.size(); ++s) {
      const std::int32_t room = step_rows - static_cast<std::int32_t>(batch.tokens.size());
      const Served& each = served_[s];
      if (!each.started || each.done || decodes(each) || room == 0) continue;
      add(batch, s, std::min({pending(each), chunk_rows, room}));
    }
    for (const std::size_t s : in_step_)
      batch.max_blocks = std::max(batch.max_blocks, static_cast<std::int32_t>(served_[s].blocks.size()));
    for (const std::size_t s : in_step_) {
      std::vector<std::int32_t> row = served_[s].blocks;
      row.resize(static_cast<std::size_t>(batch.max_blocks));
      batch.block_tables.insert(batch.block_tables.end(), row.begin(), row.end());
    }
    const auto rows = static_cast<std::int32_t>(batch.tokens.size());
    if (options_.graphs && batch.decodes == rows) batch.padded_rows = rows <= 2 ? 2 : rows <= 4 ? 4 : 8;
    return batch;
  }

  // The first step that has decodes of two blocks is broken, once.
  void spoil(StepBatch& batch) {
    const bool elsewhere =
        options_.fault == ForwardFault::none || options_.fault == ForwardFault::stale_prefix;
    if (elsewhere || spoiled_ || batch.decodes == 0) return;
    StepBatch::Sequence& first = batch.sequences.front();
    if (first.context <= block + 4) return;
    spoiled_ = true;
    if (options_.fault == ForwardFault::slot) batch.slots.front() -= 2;
    if (options_.fault == ForwardFault::position) batch.positions.front() += 1;
    if (options_.fault == ForwardFault::block_table) std::swap(batch.block_tables[0], batch.block_tables[1]);
    if (options_.fault == ForwardFault::context) first.context -= 1;
  }

  void keep_choices(const StepBatch& batch) {
    const auto rows = static_cast<std::int32_t>(batch.tokens.size());
    for (std::size_t l = 0; l < layers_; ++l) {
      const std::vector<std::int32_t> chosen = forward_.chosen_experts(l, rows);
      const auto each = static_cast<std::ptrdiff_t>(chosen.size()) / rows;
      for (std::size_t i = 0; i < in_step_.size(); ++i) {
        const StepBatch::Sequence& of = batch.sequences[i];
        for (std::int32_t row = 0; row < of.rows; ++row) {
          auto& kept = served_[in_step_[i]].chosen[static_cast<std::size_t>(of.context - of.rows + row)];
          const auto from = chosen.begin() + (of.first_row + row) * each;
          kept[l].assign(from, from + each);
        }
      }
    }
  }

  void take(const StepBatch& batch, std::span<const std::int32_t> tokens, const std::vector<float>& logits) {
    for (std::size_t i = 0; i < in_step_.size(); ++i) {
      Served& s = served_[in_step_[i]];
      const StepBatch::Sequence& rows = batch.sequences[i];
      for (std::int32_t row = rows.first_row; row < rows.first_row + rows.rows; ++row) {
        const auto from =
            logits.begin() + static_cast<std::ptrdiff_t>(row) * static_cast<std::ptrdiff_t>(vocabulary_);
        sampled_.push_back({in_step_[i],
                            s.cached++,
                            tokens[static_cast<std::size_t>(row)],
                            {from, from + static_cast<std::ptrdiff_t>(vocabulary_)}});
      }
      if (pending(s) > 0) continue;  // a chunk that ends inside the prompt, or a recomputed part
      if (static_cast<std::int32_t>(s.tokens.size()) - s.prompt < s.wanted) {
        s.tokens.push_back(sampled_.back().token);
      } else {
        s.done = true;
        if (in_step_[i] != 0) release(s);  // the first sequence's are read by another
      }
    }
  }

  ForwardCheckOptions options_;
  RankedForward& forward_;
  std::size_t vocabulary_, layers_;  // with experts
  std::vector<Served> served_;
  std::vector<Sampled> sampled_;
  std::vector<std::size_t> in_step_;
  std::vector<std::int32_t> free_;
  bool spoiled_ = false;
};

void compare(const Sampled& got, const Estimates& expected, std::vector<double>& deviations,
             ForwardCheck& check) {
  const auto best = static_cast<std::size_t>(std::max_element(expected.value.begin(), expected.value.end()) -
                                             expected.value.begin());
  const auto token = static_cast<std::size_t>(got.token);
  ++check.rows;
  ++check.tokens;
  if (token == best) {
    ++check.same_tokens;
  } else if (token >= expected.size() ||
             expected.value[best] - expected.value[token] >
                 bound_deviations * std::sqrt(expected.variance[best] + expected.variance[token])) {
    ++check.wrong_tokens;
  }
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double deviation = std::sqrt(expected.variance[i]);
    const double off = std::fabs(static_cast<double>(got.logits[i]) - expected.value[i]) / deviation;
    ++check.logits;
    deviations.push_back(deviation);
    check.worst_deviations = std::max(check.worst_deviations, off);
    if (off <= bound_deviations) continue;
    if (++check.beyond_bound > 1) continue;
    check.detail = "sequence " + std::to_string(got.sequence) + ", position " + std::to_string(got.position) +
                   ", logit " + std::to_string(i) + ": " + std::to_string(got.logits[i]) + ", not " +
                   std::to_string(expected.value[i]) + " ± " + std::to_string(bound_deviations * deviation);
  }
}

}  // namespace

ModelSpec tiny_model(bool experts, Quantization quantization) {
  ModelSpec model;
  model.name = std::string("tiny") + (experts ? " with experts" : "") + ", " + to_string(quantization);
  model.architecture = experts ? "Qwen3MoeForCausalLM" : "Qwen3ForCausalLM";
  model.layers = 2;
  model.hidden = 128;
  model.heads = 2;
  model.kv_heads = 1;
  model.head_dim = 64;
  model.intermediate = 128;
  model.vocabulary = 256;
  model.qk_norm = true;
  model.max_positions = 64;
  model.quantization = quantization;
  if (experts) {
    model.experts = 8;
    model.experts_per_token = 2;
    model.expert_intermediate = 128;
  }
  LayerKind kind;
  kind.count = 2;
  kind.moe = experts;
  model.layer_kinds = {kind};
  return model;
}

ModelSpec tiny_grouped_model(Quantization quantization) {
  ModelSpec model = tiny_model(false, quantization);
  model.name = "tiny with grouped heads, " + std::string(to_string(quantization));
  model.heads = 4;
  model.kv_heads = 2;
  model.intermediate = 384;
  return model;
}

ModelSpec tiny_latent_model() {
  ModelSpec model = tiny_model(true);
  model.name = "tiny with a latent and experts, bf16";
  model.architecture = "DeepseekV2ForCausalLM";
  model.qk_norm = false;
  model.kv_heads = 1;
  model.head_dim = 576;
  model.latent.rank = 512;
  model.latent.rotary_dim = 64;
  model.latent.key_dim = 128;
  model.latent.value_dim = 128;
  model.shared_expert_intermediate = 64;
  LayerKind dense, moe;
  dense.count = moe.count = 1;
  moe.moe = true;
  model.layer_kinds = {dense, moe};
  return model;
}

std::vector<ModelSpec> checked_models() {
  return {tiny_model(),
          tiny_grouped_model(Quantization::none),
          tiny_grouped_model(Quantization::fp8_block),
          tiny_model(true),
          tiny_model(true, Quantization::fp8_block),
          tiny_latent_model()};
}

std::vector<ModelSpec> checked_models_of_two() {
  std::vector<ModelSpec> models = {tiny_grouped_model(Quantization::none),
                                   tiny_grouped_model(Quantization::fp8_block),
                                   tiny_grouped_model(Quantization::none)};
  models[1].intermediate = 512;
  models[2].name = "tiny with grouped heads and experts, bf16";
  models[2].architecture = "Qwen3MoeForCausalLM";
  models[2].experts = 8;
  models[2].experts_per_token = 2;
  models[2].expert_intermediate = 256;
  models[2].layer_kinds.front().moe = true;
  models.push_back(models[2]);
  models.back().name = "tiny with grouped heads and experts, fp8-block";
  models.back().quantization = Quantization::fp8_block;
  models.back().intermediate = 512;
  models.push_back(tiny_latent_model());
  models.back().intermediate = 256;
  models.back().shared_expert_intermediate = 128;
  return models;
}

StepBatch least_step() {
  StepBatch batch;
  batch.tokens = batch.positions = {1};
  batch.slots = {1};
  batch.sequences = {{0, 1, 2}};
  batch.decodes = batch.max_blocks = 1;
  batch.block_tables = batch.sampled_rows = {0};
  return batch;
}

Result<ForwardCheck> check_forward(const ModelSpec& model, const ForwardCheckOptions& options,
                                   kernels::DeviceMemory& memory) {
  ForwardOptions forward_options;
  forward_options.seed = options.seed;
  forward_options.kv_blocks = pool_blocks;
  forward_options.max_rows = step_rows;
  forward_options.max_sequences = step_rows;
  forward_options.max_positions = 64;
  forward_options.head_spread = head_spread;
  forward_options.fp32 = options.fp32;
  if (options.zipf > 0) {
    PopularitySpec popular;
    popular.law = PopularitySpec::Law::zipf;
    popular.parameter = options.zipf;
    std::int32_t layers = 0;
    for (const LayerKind& kind : model.layer_kinds)
      layers += kind.moe ? static_cast<std::int32_t>(kind.count) : 0;
    forward_options.popularity = std::make_shared<const ExpertPopularity>(
        popular, layers, static_cast<std::int32_t>(model.experts),
        static_cast<std::int32_t>(model.experts_per_token), options.seed);
  }
  auto forward = RankedForward::create(model, forward_options, options.ranks, memory);
  if (!forward) return forward.errors();
  ForwardCheck check;
  Schedule schedule(model, options, **forward);
  if (Result<Unit> ran = schedule.run(check); !ran) return ran.errors();
  check.graphs = (*forward)->graphs();
  std::vector<ReferenceForward::Share> shares;
  for (std::size_t r = 0; r < (*forward)->ranks(); ++r)
    shares.push_back(
        {&(*forward)->of_rank(r).shape(), &(*forward)->of_rank(r).weights(), &(*forward)->memory_of(r)});
  ReferenceForward reference(shares, options.fp32 ? DevicePrecision::fp32() : DevicePrecision());
  if (options.zipf > 0) reference.take_choices();
  std::vector<std::vector<Estimates>> expected;
  const auto seen = schedule.seen();
  for (std::size_t s = 0; s < seen.size(); ++s)
    expected.push_back(reference.run(seen[s], schedule.served()[s].chosen));
  check.wrong_choices = reference.wrong_choices();
  if (options.zipf > 0)
    check.wrong_choices += schedule.not_drawn(*forward_options.popularity, (*forward)->of_rank(0).shape());
  std::vector<double> deviations;
  for (const Sampled& each : schedule.sampled()) {
    compare(each, expected[each.sequence][static_cast<std::size_t>(each.position)], deviations, check);
  }
  const auto middle = deviations.begin() + static_cast<std::ptrdiff_t>(deviations.size() / 2);
  std::nth_element(deviations.begin(), middle, deviations.end());
  check.median_deviation = *middle;
  return check;
}

}  // namespace orrery

#include "costmodel/speculation.h"

#include <algorithm>
#include <filesystem>

#include "costmodel/draft_trees.h"
#include "costmodel/model_spec.h"
#include "costmodel/profile_reader.h"

namespace orrery {

namespace {

// A single number serves for all positions; a list has one for each.
std::vector<double> read_acceptance(const Yaml& node, std::int64_t tokens) {
  const auto count = static_cast<std::size_t>(tokens);
  if (!node.is_list()) return std::vector<double>(count, node.number(0, 0, 1));
  std::vector<double> out;
  for (const Yaml& item : node.items()) out.push_back(item.number(0, 0, 1));
  if (out.size() == 1) out.resize(count, out.front());
  if (out.size() != count) {
    node.fail("needs one number for all positions or one for each of the " + std::to_string(tokens) +
              " drafts, not " + std::to_string(out.size()));
    out.resize(count, 0);
  }
  return out;
}

// What only TensorRT-LLM has: two engines for an EAGLE-3 network (without MTP's: its two-model form is not),
// and an end of drafting when many requests are active, which a network inside the model's own engine cannot
// have.
void read_tensorrt_llm(const Yaml& node, const std::string& engine, SpeculationSpec& s) {
  const Yaml one_model = node.optional("one_model"), most = node.optional("max_concurrency");
  const bool trt = engine == "tensorrt-llm";
  for (const Yaml& key : {one_model, most}) {
    if (key.present() && !trt) key.fail("only TensorRT-LLM has this key; remove it");
    if (!trt) accept_all(key);
  }
  if (!trt) return;
  if (one_model.present() && s.method != SpeculationMethod::eagle)
    one_model.fail("only EAGLE-3 comes in two forms; remove the key");
  s.one_model = one_model.boolean(true);
  s.max_concurrency = static_cast<std::int32_t>(most.integer(0, 1, 1'000'000));
  if (most.present() && s.inside_engine(engine))
    most.fail("a network inside the model's engine always drafts; use ngram, or eagle with one_model: false");
  if (s.method == SpeculationMethod::eagle && s.draft.projected != 3)
    (node.optional("draft").present() ? node.optional("draft") : node.optional("method"))
        .fail("the PyTorch back end runs EAGLE-3 only; say draft: {kind: eagle3}");
}

void read_draft(const Yaml& node, const ModelSpec& model, const Yaml& place, SpeculationSpec& s) {
  DraftShape& d = s.draft;
  const bool eagle = s.method == SpeculationMethod::eagle;
  if (node.present() && !eagle) {
    node.fail(s.method == SpeculationMethod::mtp
                  ? "an MTP layer has the shape of the model's last layer; remove the key"
                  : "n-gram drafts without a network; remove the key");
    accept_all(node);
    return;
  }
  const bool dense = std::any_of(model.layer_kinds.begin(), model.layer_kinds.end(),
                                 [](const LayerKind& kind) { return !kind.moe; });
  d.intermediate = dense ? model.intermediate : 0;
  if (node.present()) {
    const bool third =
        node.optional("kind").present() && node.optional("kind").choice({"eagle", "eagle3"}) == 1;
    d.projected = third ? 3 : 2;
    d.layers = node.optional("layers").integer(1, 1, 64);
    d.intermediate = node.optional("intermediate").integer(d.intermediate, 1, 1 << 20);
    d.vocabulary = node.optional("vocabulary").integer(0, 1, 1 << 24);
  }
  if (eagle && d.intermediate == 0) {
    (node.present() ? node : place)
        .fail("the MLP width of the EAGLE layer is not known: " + model.name +
              " has no dense layer to take it from; say it by deployment.speculation.draft.intermediate");
  }
}

}  // namespace

LayerKind draft_layer(const SpeculationSpec& speculation, const ModelSpec& model) {
  LayerKind layer = model.layer_kinds.back();
  // Qwen3-Next's and Qwen3.5's attends (qwen3_next_mtp.py, qwen3_5_mtp.py of vLLM 0.24).
  for (const LayerKind& kind : model.layer_kinds) {
    if (layer.mixer != Mixer::attention && kind.mixer == Mixer::attention) layer = kind;
  }
  layer.sliding_window = 0;
  layer.count = speculation.draft.layers;
  if (speculation.method == SpeculationMethod::mtp) return layer;
  // EAGLE: a dense layer in the activation type, whatever the model is quantised to; EAGLE-3 attends over
  // (token, hidden state) side by side.
  const std::int64_t width = speculation.draft.projected == 3 ? 2 * model.hidden : model.hidden;
  const std::int64_t inner = speculation.draft.intermediate;
  std::erase_if(layer.weights, [](const WeightTensor& t) {
    return t.copies > 1 || t.name.starts_with("router") || t.name.starts_with("experts") ||
           t.name.starts_with("shared") || t.name.starts_with("gate_proj") || t.name.starts_with("up_proj") ||
           t.name.starts_with("down_proj");
  });
  const auto add = [&](const char* name, std::int64_t rows, std::int64_t columns) {
    WeightTensor t;
    t.name = name;
    t.rows = rows;
    t.columns = columns;
    layer.weights.push_back(std::move(t));
  };
  add("gate_proj", inner, model.hidden);
  add("up_proj", inner, model.hidden);
  add("down_proj", model.hidden, inner);
  for (WeightTensor& t : layer.weights) {
    if (t.name == "q_proj" || t.name == "k_proj" || t.name == "v_proj") t.columns = width;
    t.dtype = model.activation_dtype;
    t.scales = Bytes(0);
  }
  layer.moe = false;
  return layer;
}

std::vector<WeightTensor> draft_globals(const SpeculationSpec& speculation, const ModelSpec& model) {
  std::vector<WeightTensor> out(1);
  out.front().name = "draft_projection";
  out.front().rows = model.hidden;
  out.front().columns = speculation.draft.projected * model.hidden;
  if (speculation.draft.vocabulary > 0) {
    out.emplace_back();
    out.back().name = "lm_head";
    out.back().rows = speculation.draft.vocabulary;
    out.back().columns = model.hidden;
  }
  for (WeightTensor& t : out) {
    t.per_layer = false;
    t.dtype = model.activation_dtype;
  }
  return out;
}

std::int64_t draft_layers_loaded(const SpeculationSpec& speculation, const ModelSpec& model) {
  if (!speculation.has_network()) return 0;
  return speculation.method == SpeculationMethod::mtp ? model.mtp_layers : speculation.draft.layers;
}

std::int64_t draft_layers_cached(const SpeculationSpec& speculation, const ModelSpec& model,
                                 const std::string& engine) {
  if (engine == "tensorrt-llm" && speculation.method == SpeculationMethod::mtp) return speculation.tokens;
  return draft_layers_loaded(speculation, model);
}

const char* to_string(SpeculationMethod method) {
  switch (method) {
    case SpeculationMethod::off: return "off";
    case SpeculationMethod::ngram: return "ngram";
    case SpeculationMethod::eagle: return "eagle";
    case SpeculationMethod::mtp: return "mtp";
  }
  return "?";
}

SpeculationSpec read_speculation(const Yaml& node, const ModelSpec& model, const std::string& engine,
                                 const std::string& folder) {
  SpeculationSpec s;
  if (!node.present()) return s;
  const Yaml method = node.require("method");
  if (method.present())
    s.method = static_cast<SpeculationMethod>(method.choice({"off", "ngram", "eagle", "mtp"}));
  const Yaml tokens = node.optional("tokens"), acceptance = node.optional("acceptance"),
             log = node.optional("acceptance_log"), match = node.optional("match_rate"),
             draft = node.optional("draft");
  if (!s.on()) {
    for (const Yaml& unused :
         {tokens, acceptance, log, match, draft, node.optional("one_model"), node.optional("max_concurrency"),
          node.optional("branches"), node.optional("verified"), node.optional("siblings"),
          node.optional("match_length")})
      accept_all(unused);
    return s;
  }
  if (engine != "vllm" && engine != "sglang" && engine != "tensorrt-llm") {
    method.fail("speculative decoding is not modelled for " + engine +
                " by this version of Orrery; use an engine of vLLM, SGLang or TensorRT-LLM, or method: off");
  }
  // SGLang 0.5.23 hands images' embeddings on to its draft (eagle_worker_v2.py, `mm_input_embeds`) and keeps
  // their padding out of n-grams (ngram_worker.py). TensorRT-LLM's multimodal models hand no spec_metadata on
  // to their decoder (modeling_qwen2vl.py, modeling_gemma3vl.py of autumn 2025), so that no network gets
  // hidden states; n-grams need none.
  if (model.vision != nullptr && engine == "tensorrt-llm" && s.has_network())
    method.fail(
        "TensorRT-LLM 1.2 gives a multimodal model's hidden states to no drafting network "
        "(spec_metadata); use ngram, method: off, or a text-only model");
  DraftTreeKeys tree(node);
  tree.read_shape(model, engine, s);
  if (acceptance.present() == log.present()) {
    node.fail(
        "needs either `acceptance` (a probability for each draft, given that all before it were accepted) "
        "or `acceptance_log` (a CSV file of what a real run accepted)");
    accept_all(acceptance);
  } else if (acceptance.present()) {
    s.acceptance = read_acceptance(acceptance, s.tokens);
  } else {
    const std::filesystem::path path = log.text();
    s.log = path.is_relative() ? (std::filesystem::path(folder) / path).lexically_normal().string()
                               : path.string();
  }
  tree.plant(s);
  if (s.method == SpeculationMethod::ngram) {
    // How often text repeats itself is a property of the traffic; there is no default that would be right.
    if (s.log.empty() && !match.present())
      node.fail(
          "n-gram drafts only where a sequence's last tokens occur earlier in it: say how often by "
          "`match_rate`, between 0 and 1");
    s.match_rate = match.number(1, 0, 1);
  } else if (match.present()) {
    match.fail("only n-gram drafting may find no match; remove the key");
    accept_all(match);
  }
  if (s.method == SpeculationMethod::mtp && model.mtp_layers == 0) {
    method.fail(model.name +
                " has no layers that predict several tokens (num_nextn_predict_layers); use eagle "
                "or ngram");
  }
  if (s.method == SpeculationMethod::eagle && model.latent.present())
    method.fail("an EAGLE layer for a model with latent attention is not modelled; use mtp or ngram");
  read_draft(draft, model, node, s);
  read_tensorrt_llm(node, engine, s);
  return s;
}

}  // namespace orrery

// Speculative decoding as a deployment configures it (interfaces §3, `deployment.speculation`): who drafts,
// how many tokens, and how often drafts are accepted. What a draft costs is in step_graph.cpp and
// step_pricer.cpp, what it does to a scheduler in sim/, how an accepted length is drawn in sim/speculation.h.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/yaml_reader.h"

namespace orrery {

struct DraftTree;  // costmodel/draft_tree.h

enum class SpeculationMethod : std::uint8_t { off, ngram, eagle, mtp };
const char* to_string(SpeculationMethod method);

// The drafting network: decoder layers behind a projection of (token, hidden state) to the model's width.
// MTP: a layer like the model's last; EAGLE: dense ones, with the model's lm_head unless it has its own.
struct DraftShape {
  std::int64_t layers = 1;
  std::int64_t projected = 2;     // widths that the projection takes in: 2 (EAGLE, MTP), 3 (EAGLE-3)
  std::int64_t intermediate = 0;  // MLP width of a dense draft layer
  std::int64_t vocabulary = 0;    // of its own head; 0 = the model's head, shared
};

// What attends over a tree of drafts (costmodel/draft_trees.h).
enum class TreeAttention : std::uint8_t { none, cascade, masked };

struct SpeculationSpec {
  SpeculationMethod method = SpeculationMethod::off;
  std::int32_t tokens = 0;  // drafts of a sequence and step, at most; of a tree, on a path
  // acceptance[i]: probability that draft i is accepted given that all before it were.
  std::vector<double> acceptance;
  double match_rate = 1;  // n-gram: probability that a sequence's last tokens occur earlier in it
  std::string log;        // CSV of logged acceptances instead of drawn ones; path as in the scenario
  DraftShape draft;
  // SGLang's trees, null = a chain: branches that each pass goes on with, and what `acceptance` says of the
  // best candidate continued for the others: siblings[r] is of candidate r + 1, given that the better ones
  // are not the model's token.
  std::shared_ptr<const DraftTree> tree;
  std::int32_t branches = 1;
  std::int32_t verified = 0;  // tokens of a verification, the one before the drafts and padding included
  std::vector<double> siblings;
  bool siblings_assumed = false, chosen_by_engine = false;
  TreeAttention tree_attention = TreeAttention::none;
  // TensorRT-LLM: an EAGLE network inside the model's engine, or one of its own; and how many active requests
  // there may be for drafting to go on (0 = any number).
  bool one_model = true;
  std::int32_t max_concurrency = 0;

  bool on() const { return method != SpeculationMethod::off; }
  bool has_network() const { return method == SpeculationMethod::eagle || method == SpeculationMethod::mtp; }
  // TensorRT-LLM's MTP and one-model EAGLE-3: drafting is a part of the model's own forward pass and graph.
  bool inside_engine(const std::string& engine) const {
    return engine == "tensorrt-llm" &&
           (method == SpeculationMethod::mtp || (method == SpeculationMethod::eagle && one_model));
  }
  // That a verification looks at.
  std::int32_t drafts() const { return verified > 0 ? verified - 1 : tokens; }
  std::int32_t query_length() const { return 1 + drafts(); }  // of a decode whose drafts are all there
};

struct ModelSpec;
struct LayerKind;
struct WeightTensor;

// A decoder layer of the drafting network, `count` = layers of one pass. Precondition: has_network().
LayerKind draft_layer(const SpeculationSpec& speculation, const ModelSpec& model);
// Its projection, and its head if it has its own.
std::vector<WeightTensor> draft_globals(const SpeculationSpec& speculation, const ModelSpec& model);
// Layers whose weights are loaded and whose keys and values take room in the pool: 0 without a network. An
// MTP pass runs one of the model's MTP layers, all of which are loaded.
std::int64_t draft_layers_loaded(const SpeculationSpec& speculation, const ModelSpec& model);
// Of them, those with keys and values in the pool: TensorRT-LLM keeps some for each pass of MTP
// (`get_num_spec_layers`).
std::int64_t draft_layers_cached(const SpeculationSpec& speculation, const ModelSpec& model,
                                 const std::string& engine);

// Problems go to the document; absent means off. `folder`: where a relative path of `log` starts. `engine`:
// vllm, sglang, tensorrt-llm.
SpeculationSpec read_speculation(const Yaml& node, const ModelSpec& model, const std::string& engine,
                                 const std::string& folder);

}  // namespace orrery

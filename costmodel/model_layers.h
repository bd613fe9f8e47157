// The weights of a model's layers, for the reader of configs (costmodel/model_config.cpp), and what follows
// of an architecture by its name.
#pragma once

#include <cstdint>
#include <vector>

#include "costmodel/model_spec.h"

namespace orrery {

// What a config says of its layers beside the shapes that ModelSpec holds.
struct LayerRules {
  bool mlp_bias = false, output_bias = false, router_bias = false;
  bool expert_biases = false;        // of the router and of every expert (gpt-oss)
  std::int64_t window = 0;           // tokens, of the sliding layers
  std::vector<bool> sliding, dense;  // per layer; empty = none slides, and where there are experts none is
                                     // dense
  std::vector<Mixer> mixers;         // per layer; empty = all attend
  std::vector<bool> alone;           // per layer: a mixer without an MLP; empty = none
};

// Fills layer_kinds and global_weights. Precondition: the sizes of `model` are positive.
void build_layers(const LayerRules& rules, ModelSpec& model);

// One norm over all heads of q and one over those of k (MiniMax-M2), whose sums ranks add up.
bool norms_all_heads(const ModelSpec& model);

}  // namespace orrery

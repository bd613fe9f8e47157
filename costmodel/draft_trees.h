// Trees of drafts as SGLang 0.5.23 has them (docs/speculation.md): the keys that say one, its chances, and
// what attends over it. Shapes: costmodel/draft_tree.h.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>

#include "base/yaml_reader.h"
#include "costmodel/draft_tree.h"
#include "costmodel/speculation.h"

namespace orrery {

struct InstanceSpec;

// `tokens`, `branches`, `verified`, `siblings` and `match_length` of deployment.speculation, `node`.
class DraftTreeKeys {
 public:
  explicit DraftTreeKeys(const Yaml& node);
  // How many drafts, and in which shape. What an engine other than SGLang does not have is refused.
  void read_shape(const ModelSpec& model, const std::string& engine, SpeculationSpec& s);
  // The tree, once the acceptance of best candidates is known.
  void plant(SpeculationSpec& s) const;

 private:
  void read_of_network(const ModelSpec& model, SpeculationSpec& s);
  void read_of_ngrams(SpeculationSpec& s);
  void refuse(std::initializer_list<const Yaml*> keys, const char* why) const;

  Yaml node_, tokens_, branches_, verified_, siblings_, matched_;
  std::int32_t nodes_ = 0;  // verified, the token before the drafts included; 0 = a chain
  NgramTrie trie_;
};

// Once the part and the engine's arguments are known: what attends over the tree, and what is not modelled
// beside it. Problems go to the document of `node`.
void check_trees(const Yaml& node, InstanceSpec& spec);

// For people: "drafts: a tree of 7 …"; empty for a chain.
std::string tree_line(const SpeculationSpec& speculation);

// Slots that a decode may write (mem_cache/allocation_sizing.py, `get_alloc_len_per_decode`).
std::int64_t slots_of_decode(const SpeculationSpec& speculation, std::int64_t page);

}  // namespace orrery

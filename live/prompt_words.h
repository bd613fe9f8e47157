// Words of which each is one token, whatever stands beside it, by a model's tokenizer.json: text of an exact
// token count is made of them.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/result.h"

namespace orrery {

// Not base/json.h's, which keeps the order of keys: a vocabulary has a hundred thousand.
using Tree = nlohmann::json;

// Byte-level BPE as Hugging Face's tokenizers has it (tokenizers/src/models/bpe,
// pre_tokenizers/byte_level.rs), for what it takes here: pieces of text that a pre-tokenizer leaves whole.
class BytePairs {
 public:
  // `model` of tokenizer.json: vocab, merges (as text or as pairs), ignore_merges. Errors name the key.
  static Result<BytePairs> read(const Tree& model, const std::string& file);
  // How many tokens a pre-token becomes; 0 where a part of it is in no vocabulary. ASCII only.
  std::size_t tokens(const std::string& piece) const;
  const std::map<std::string, std::int64_t>& vocabulary() const { return vocabulary_; }

 private:
  std::map<std::string, std::int64_t> vocabulary_;
  std::unordered_map<std::string, std::int64_t> ranks_;  // "left right" → when it merges; never iterated
  bool whole_first_ = false;                             // ignore_merges
};

struct PromptWords {
  std::vector<std::string> words;  // by token id
  std::int32_t specials = 0;  // tokens that the tokenizer puts around a text by itself (BOS and the like)
};

// Errors: no byte-level BPE, a pre-tokenizer that is not known to cut before a blank and a run of letters, a
// vocabulary without words; the file and key are named.
Result<PromptWords> read_prompt_words(const std::string& file);

}  // namespace orrery

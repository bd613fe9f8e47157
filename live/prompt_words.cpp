#include "live/prompt_words.h"

#include <algorithm>

#include "base/files.h"
#include "base/text.h"

namespace orrery {

namespace {

// How byte-level vocabularies write a blank (U+0120); letters stand for themselves.
const std::string blank = "\xc4\xa0";
constexpr std::size_t shortest = 2, longest = 12, fewest_words = 16, most_words = 4096;
constexpr int deepest = 64;  // nesting of the file; real ones have six

std::vector<std::string> symbols_of(const std::string& piece) {
  std::vector<std::string> out;
  for (const char c : piece) out.push_back(c == ' ' ? blank : std::string(1, c));
  return out;
}

Error wrong(const std::string& file, const std::string& key, const std::string& what) {
  return invalid_input(what, {file, 0, 0}, key);
}

// A blank and the letters behind it are a piece of their own: the alternatives for words of GPT-2 (also what
// ByteLevel does by itself), of cl100k, Qwen and Llama 3, of DeepSeek V3, and of o200k.
constexpr const char* word_patterns[] = {
    R"( ?\p{L}+)", R"([^\r\n\p{L}\p{N}]?\p{L}+)", R"([^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+)",
    R"([^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+)", R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*)"};

bool cuts_words(const std::string& pattern) {
  return std::any_of(std::begin(word_patterns), std::end(word_patterns),
                     [&](const char* p) { return pattern.find(p) != std::string::npos; });
}

// Null where it is missing. Not nlohmann's value(), which copies, and throws at another type.
const Tree& part(const Tree& json, const char* key) {
  static const Tree missing;
  const auto found = json.find(key);
  return found == json.end() ? missing : *found;
}

std::string text_of(const Tree& json, const char* key) {
  const Tree& text = part(json, key);
  return text.is_string() ? text.get<std::string>() : "";
}

std::string kind_of(const Tree& json) { return text_of(json, "type"); }

Result<bool> flag(const Tree& json, const char* key, bool otherwise, const std::string& file,
                  const char* path) {
  const Tree& value = part(json, key);
  if (value.is_null()) return otherwise;
  if (!value.is_boolean()) return wrong(file, path, "is neither true nor false");
  return value.get<bool>();
}

// Every split before ByteLevel has to leave " word" whole or be one that cuts words; one that cuts them is
// needed.
Status check_pre_tokenizer(const Tree& pre, const std::string& file) {
  std::vector<const Tree*> steps;
  if (const Tree& listed = part(pre, "pretokenizers"); kind_of(pre) == "Sequence" && listed.is_array())
    for (const Tree& step : listed) steps.push_back(&step);
  else
    steps.push_back(&pre);
  bool bytes = false, cuts = false;
  for (const Tree* const step : steps) {
    const std::string kind = kind_of(*step);
    if (kind == "ByteLevel") {
      ORRERY_TRY(regex, flag(*step, "use_regex", true, file, "pre_tokenizer.use_regex"));
      bytes = true;
      cuts = cuts || regex;
    } else if (kind == "Digits") {
      continue;  // no word has one
    } else if (kind == "Split") {
      const std::string text = text_of(part(*step, "pattern"), "Regex");
      // DeepSeek splits digits and CJK first, which no word of ours has.
      const bool no_letters = text == R"(\p{N}{1,3})" || text.find("一") != std::string::npos;
      if (!no_letters && !cuts_words(text))
        return wrong(file, "pre_tokenizer",
                     "splits by " + quote(text) + ", which is not known here; use --prompts tokens");
      cuts = cuts || cuts_words(text);
    } else {
      return wrong(file, "pre_tokenizer",
                   "has a " + quote(kind) + ", which is not known here; use --prompts tokens");
    }
  }
  if (!bytes || !cuts)
    return wrong(file, "pre_tokenizer",
                 "is not byte-level, or does not cut before words; use --prompts tokens");
  return ok_status();
}

// Special tokens that are put around a single text.
std::int32_t specials_of(const Tree& post) {
  std::int32_t found = 0;
  const auto count = [&](const Tree& p) {
    const Tree& single = part(p, "single");
    if (kind_of(p) != "TemplateProcessing" || !single.is_array()) return;
    for (const Tree& piece : single) found += part(piece, "SpecialToken").is_null() ? 0 : 1;
  };
  count(post);
  if (const Tree& listed = part(post, "processors"); kind_of(post) == "Sequence" && listed.is_array())
    for (const Tree& p : listed) count(p);
  return found;
}

bool is_word(const std::string& token) {
  if (!token.starts_with(blank)) return false;
  const std::size_t letters = token.size() - blank.size();
  return letters >= shortest && letters <= longest &&
         std::all_of(token.begin() + static_cast<std::ptrdiff_t>(blank.size()), token.end(),
                     [](char c) { return c >= 'a' && c <= 'z'; });
}

// The parser and what it builds are safe at any depth; what walks a tree afterwards is not.
Result<Tree> parse(const std::string& text, const std::string& file) {
  bool deep = false;
  const auto look = [&](int depth, Tree::parse_event_t, Tree&) {
    deep = deep || depth > deepest;
    return !deep;
  };
  Tree json = Tree::parse(text, look, false);
  if (deep) return wrong(file, "", "is nested deeper than " + std::to_string(deepest) + " levels");
  if (!json.is_object()) return wrong(file, "", "is no tokenizer.json: expected a map");
  return json;
}

}  // namespace

Result<BytePairs> BytePairs::read(const Tree& model, const std::string& file) {
  const std::string kind = kind_of(model);
  // Files from before tokenizers 0.9 do not name the type; their vocabulary and merges do.
  if (!model.is_object() || (!kind.empty() && kind != "BPE"))
    return wrong(file, "model", "is no BPE but " + quote(kind) + "; use --prompts tokens");
  ORRERY_TRY(fallback, flag(model, "byte_fallback", false, file, "model.byte_fallback"));
  if (fallback)
    return wrong(file, "model.byte_fallback", "the vocabulary is not byte-level; use --prompts tokens");
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!text_of(model, key).empty())
      return wrong(file, std::string("model.") + key, "is not known here; use --prompts tokens");
  }
  const Tree &vocab = part(model, "vocab"), &merges = part(model, "merges");
  if (!vocab.is_object()) return wrong(file, "model.vocab", "is missing: expected a map of tokens to ids");
  if (!merges.is_array()) return wrong(file, "model.merges", "is missing: expected a list");
  BytePairs out;
  for (const auto& [token, id] : vocab.items()) {
    if (!id.is_number_integer()) return wrong(file, "model.vocab", "has an id that is no number");
    out.vocabulary_.emplace(token, id.get<std::int64_t>());
  }
  std::int64_t rank = 0;
  for (const Tree& merge : merges) {
    std::string pair;
    if (merge.is_string())
      pair = merge.get<std::string>();
    else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string())
      pair = merge[0].get<std::string>() + " " + merge[1].get<std::string>();
    else
      return wrong(file, "model.merges", "has an entry that is no pair");
    out.ranks_.emplace(std::move(pair), rank++);
  }
  ORRERY_TRY(whole, flag(model, "ignore_merges", false, file, "model.ignore_merges"));
  out.whole_first_ = whole;
  return out;
}

std::size_t BytePairs::tokens(const std::string& piece) const {
  std::vector<std::string> symbols = symbols_of(piece);
  std::string whole;
  for (const std::string& s : symbols) whole += s;
  if (whole_first_ && vocabulary_.contains(whole)) return 1;
  while (symbols.size() > 1) {
    std::size_t best = symbols.size();
    std::int64_t lowest = INT64_MAX;
    for (std::size_t i = 0; i + 1 < symbols.size(); ++i) {
      const auto found = ranks_.find(symbols[i] + " " + symbols[i + 1]);
      if (found == ranks_.end() || found->second >= lowest) continue;
      lowest = found->second;
      best = i;
    }
    if (best == symbols.size()) break;
    symbols[best] += symbols[best + 1];
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(best) + 1);
  }
  const bool known = std::all_of(symbols.begin(), symbols.end(),
                                 [&](const std::string& s) { return vocabulary_.contains(s); });
  return known ? symbols.size() : 0;
}

Result<PromptWords> read_prompt_words(const std::string& file) {
  ORRERY_TRY(text, read_text_file(file));
  ORRERY_TRY(json, parse(text, file));
  ORRERY_TRY(pairs, BytePairs::read(part(json, "model"), file));
  ORRERY_TRY_STATUS(check_pre_tokenizer(part(json, "pre_tokenizer"), file));
  std::vector<std::pair<std::int64_t, std::string>> found;
  for (const auto& [token, id] : pairs.vocabulary()) {
    if (!is_word(token)) continue;
    std::string word = " " + token.substr(blank.size());
    // That a word is in the vocabulary does not say that the merges get there.
    if (pairs.tokens(word) == 1) found.emplace_back(id, word.substr(1));
  }
  std::sort(found.begin(), found.end());
  if (found.size() > most_words) found.resize(most_words);
  if (found.size() < fewest_words)
    return wrong(file, "model.vocab",
                 "has " + std::to_string(found.size()) + " words of one token: expected at least " +
                     std::to_string(fewest_words) + "; use --prompts tokens");
  PromptWords out;
  for (auto& [id, word] : found) out.words.push_back(std::move(word));
  out.specials = specials_of(part(json, "post_processor"));
  return out;
}

}  // namespace orrery

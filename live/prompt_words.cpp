#include "live/prompt_words.h"

#include <algorithm>

#include "base/files.h"
#include "base/text.h"

namespace orrery {

namespace {

// How byte-level vocabularies write a blank (U+0120); letters stand for themselves.
const std::string blank = "\xc4\xa0";
constexpr std::size_t shortest = 2, longest = 12, fewest_words = 16, most_words = 4096;

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

std::string kind_of(const Tree& json) {
  return json.is_object() && json.contains("type") && json["type"].is_string()
             ? json["type"].get<std::string>()
             : "";
}

// Every split before ByteLevel has to leave " word" whole or be one that cuts words; one that cuts them is
// needed.
Status check_pre_tokenizer(const Tree& pre, const std::string& file) {
  Tree parts = Tree::array();
  if (kind_of(pre) == "Sequence" && pre.contains("pretokenizers") && pre["pretokenizers"].is_array())
    parts = pre["pretokenizers"];
  else
    parts.push_back(pre);
  bool bytes = false, cuts = false;
  for (const Tree& part : parts) {
    const std::string kind = kind_of(part);
    if (kind == "ByteLevel") {
      bytes = true;
      cuts = cuts || part.value("use_regex", true);
    } else if (kind == "Digits") {
      continue;  // no word has one
    } else if (kind == "Split") {
      const Tree pattern = part.value("pattern", Tree::object());
      const std::string text = pattern.is_object() ? pattern.value("Regex", std::string()) : "";
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
    if (kind_of(p) != "TemplateProcessing" || !p.contains("single") || !p["single"].is_array()) return;
    for (const Tree& piece : p["single"]) found += piece.is_object() && piece.contains("SpecialToken");
  };
  count(post);
  if (kind_of(post) == "Sequence" && post.contains("processors") && post["processors"].is_array()) {
    for (const Tree& p : post["processors"]) count(p);
  }
  return found;
}

bool is_word(const std::string& token) {
  if (!token.starts_with(blank)) return false;
  const std::size_t letters = token.size() - blank.size();
  return letters >= shortest && letters <= longest &&
         std::all_of(token.begin() + static_cast<std::ptrdiff_t>(blank.size()), token.end(),
                     [](char c) { return c >= 'a' && c <= 'z'; });
}

}  // namespace

Result<BytePairs> BytePairs::read(const Tree& model, const std::string& file) {
  const std::string kind = kind_of(model);
  // Files from before tokenizers 0.9 do not name the type; their vocabulary and merges do.
  if (!model.is_object() || (!kind.empty() && kind != "BPE"))
    return wrong(file, "model", "is no BPE but " + quote(kind) + "; use --prompts tokens");
  if (model.value("byte_fallback", false))
    return wrong(file, "model.byte_fallback", "the vocabulary is not byte-level; use --prompts tokens");
  if (!model.contains("vocab") || !model["vocab"].is_object())
    return wrong(file, "model.vocab", "is missing: expected a map of tokens to ids");
  if (!model.contains("merges") || !model["merges"].is_array())
    return wrong(file, "model.merges", "is missing: expected a list");
  BytePairs out;
  for (const auto& [token, id] : model["vocab"].items()) {
    if (!id.is_number_integer()) return wrong(file, "model.vocab", "has an id that is no number");
    out.vocabulary_.emplace(token, id.get<std::int64_t>());
  }
  std::int64_t rank = 0;
  for (const Tree& merge : model["merges"]) {
    std::string pair;
    if (merge.is_string())
      pair = merge.get<std::string>();
    else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string())
      pair = merge[0].get<std::string>() + " " + merge[1].get<std::string>();
    else
      return wrong(file, "model.merges", "has an entry that is no pair");
    out.ranks_.emplace(std::move(pair), rank++);
  }
  out.whole_first_ = model.value("ignore_merges", false);
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
  const Tree json = Tree::parse(text, nullptr, false);
  if (!json.is_object()) return wrong(file, "", "is no tokenizer.json: expected a map");
  ORRERY_TRY(pairs, BytePairs::read(json.value("model", Tree()), file));
  ORRERY_TRY_STATUS(check_pre_tokenizer(json.value("pre_tokenizer", Tree()), file));
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
  out.specials = specials_of(json.value("post_processor", Tree()));
  return out;
}

}  // namespace orrery

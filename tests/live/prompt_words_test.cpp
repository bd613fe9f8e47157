// Text of exact token counts. tokenizer.json: byte-level BPE in Qwen's layout, trained by Hugging Face's
// tokenizers 0.23.2 on docs/*.md (560 tokens), with a special token before each text; the counts below are
// that library's.
#include "live/prompt_words.h"

#include <filesystem>
#include <set>

#include "base/files.h"
#include "catch.h"
#include "live/prompts.h"

using namespace orrery;

namespace {

const std::string file = std::string(ORRERY_SOURCE_DIR) + "/tests/live/tokenizer.json";

Tree tokenizer() { return Tree::parse(read_text_file(file).value()); }

// Of a changed file, written to a folder of the test's own.
Result<PromptWords> words_of_text(const std::string& text) {
  const std::string path =
      (std::filesystem::temp_directory_path() / "orrery_prompt_words_test.json").string();
  REQUIRE(write_file_atomically(path, text).ok());
  auto words = read_prompt_words(path);
  std::filesystem::remove(path);
  return words;
}

Result<PromptWords> words_of(const Tree& tree) { return words_of_text(tree.dump()); }

std::string refusal(const Tree& tree) {
  const auto words = words_of(tree);
  REQUIRE_FALSE(words.ok());
  return to_string(words.errors());
}

}  // namespace

TEST_CASE("pieces become as many tokens as in the library that wrote the file") {
  const BytePairs pairs = BytePairs::read(tokenizer()["model"], file).value();
  const std::pair<const char*, std::size_t> counted[] = {
      {" the", 1},     {" a", 1},        {" request", 2},    {" requests", 2}, {" scheduler", 5},
      {" prefill", 2}, {" decode", 1},   {" step", 1},       {" steps", 2},    {" tokenizer", 3},
      {" zebra", 5},   {" measured", 4}, {" simulation", 4}, {" kernel", 2},   {" bandwidth", 5},
      {" latency", 5}, {" quartz", 4}};
  for (const auto& [piece, tokens] : counted) {
    INFO(piece);
    CHECK(pairs.tokens(piece) == tokens);
  }
}

TEST_CASE("a prompt's words are as many tokens as the trace says, with what the tokenizer adds") {
  const PromptWords words = read_prompt_words(file).value();
  const BytePairs pairs = BytePairs::read(tokenizer()["model"], file).value();
  CHECK(words.specials == 1);
  CHECK(words.words.size() >= 60);
  CHECK(std::set<std::string>(words.words.begin(), words.words.end()).size() == words.words.size());
  PromptMaker maker(3, 32000, &words);
  for (const int length : {2, 3, 57, 1000}) {
    TraceRequest request;
    request.index = static_cast<std::uint64_t>(length);
    request.prompt_tokens = length;
    const std::string text = maker.text(request);
    std::size_t tokens = 1;
    for (std::size_t at = 0; at < text.size();) {
      REQUIRE(text[at] == ' ');
      const std::size_t end = std::min(text.find(' ', at + 1), text.size());
      CHECK(pairs.tokens(text.substr(at, end - at)) == 1);
      tokens += pairs.tokens(text.substr(at, end - at));
      at = end;
    }
    CHECK(tokens == static_cast<std::size_t>(length));
  }
  // What the trace calls equal is.
  TraceRequest a, b;
  a.prompt_tokens = b.prompt_tokens = 9;
  a.hash_block_size = b.hash_block_size = 4;
  a.hash_ids = {1, 2, 3};
  b.hash_ids = {1, 9, 3};
  const std::string x = maker.text(a), y = maker.text(b);
  CHECK(x != y);
  std::size_t fourth = 0;
  for (int i = 0; i < 4; ++i) fourth = x.find(' ', fourth + 1);
  CHECK(x.substr(0, fourth) == y.substr(0, fourth));
}

TEST_CASE(
    "merges may be pairs, a whole word may come before them, and a word that they do not reach is none") {
  Tree tree = tokenizer();
  const auto before = words_of(tree).value();
  for (Tree& merge : tree["model"]["merges"]) {
    if (!merge.is_string()) continue;
    const std::string text = merge.get<std::string>();
    const std::size_t space = text.find(' ');
    merge = {text.substr(0, space), text.substr(space + 1)};
  }
  CHECK(words_of(tree).value().words == before.words);
  tree["model"]["vocab"]["\xc4\xa0unmerged"] = 5000;
  CHECK(words_of(tree).value().words == before.words);
  tree["model"]["ignore_merges"] = true;
  CHECK(words_of(tree).value().words.back() == "unmerged");
}

TEST_CASE("tokenizers of other kinds are refused by name") {
  Tree tree = tokenizer();
  tree["model"]["type"] = "Unigram";
  CHECK(refusal(tree).find("Unigram") != std::string::npos);
  tree = tokenizer();
  tree["model"]["byte_fallback"] = true;
  CHECK(refusal(tree).find("byte_fallback") != std::string::npos);
  tree = tokenizer();
  tree["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "[a-e]+";
  CHECK(refusal(tree).find("[a-e]+") != std::string::npos);
  tree = tokenizer();
  tree["pre_tokenizer"] = {{"type", "Metaspace"}};
  CHECK(refusal(tree).find("Metaspace") != std::string::npos);
  tree = tokenizer();
  tree["model"]["merges"] = Tree::array();
  CHECK(refusal(tree).find("words of one token") != std::string::npos);
  tree = tokenizer();
  tree["model"].erase("vocab");
  CHECK(refusal(tree).find("model.vocab") != std::string::npos);
}

TEST_CASE("a file that is no tokenizer's is refused, and ends nothing") {
  const auto changed = [](const auto& change) {
    Tree tree = tokenizer();
    change(tree);
    return refusal(tree);
  };
  CHECK(changed([](Tree& t) { t["model"]["byte_fallback"] = 1; }).find("byte_fallback") != std::string::npos);
  CHECK(changed([](Tree& t) { t["model"]["ignore_merges"] = "no"; }).find("ignore_merges") !=
        std::string::npos);
  CHECK(changed([](Tree& t) { t["model"]["end_of_word_suffix"] = "</w>"; }).find("end_of_word_suffix") !=
        std::string::npos);
  CHECK(changed([](Tree& t) {
          t["pre_tokenizer"] = {{"type", "ByteLevel"}, {"use_regex", "x"}};
        }).find("use_regex") != std::string::npos);
  CHECK(changed([](Tree& t) { t["pre_tokenizer"]["pretokenizers"][0]["pattern"] = 3; }).find("splits by") !=
        std::string::npos);
  for (const auto* key : {"model", "pre_tokenizer"}) CHECK_FALSE(words_of(Tree{{key, 7}}).ok());
  // What is missing has its default, as there.
  Tree tree = tokenizer();
  tree["model"]["byte_fallback"] = tree["model"]["ignore_merges"] = nullptr;
  tree["post_processor"] = 5;
  CHECK(words_of(tree).value().specials == 0);
  const std::size_t depth = 1'000'000;
  const auto deep = words_of_text("{\"model\":" + std::string(depth, '[') + std::string(depth, ']') + "}");
  REQUIRE_FALSE(deep.ok());
  CHECK(to_string(deep.errors()).find("nested deeper") != std::string::npos);
  CHECK_FALSE(words_of_text("[1, 2").ok());
}

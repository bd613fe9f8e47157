#include "cli/commands/plan_sharing.h"

#include <algorithm>
#include <filesystem>
#include <sstream>

#include "base/json.h"

namespace orrery {

namespace {

struct Share {
  std::uint64_t index = 0, of = 0;  // index from 1
};

Result<Share> parse_share(const std::string& text) {
  constexpr std::uint64_t most = 100'000;
  Share share;
  char slash = 0;
  std::istringstream in(text);
  if (in >> share.index >> slash >> share.of && slash == '/' && in.peek() == EOF && share.index >= 1 &&
      share.index <= share.of && share.of <= most)
    return share;
  return make_error(ErrorKind::usage, "--shard takes i/n with i from 1 to n, as 3/8; not " + text);
}

// The stores of a folder's shards, in the order of their names; of a file, itself.
Result<std::vector<std::string>> stores_at(const std::string& path) {
  std::error_code failed;
  if (!std::filesystem::is_directory(path, failed)) return std::vector<std::string>{path};
  std::vector<std::string> found;
  for (const auto& entry : std::filesystem::directory_iterator(path, failed)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("shard-") && name.ends_with(".sqlite")) found.push_back(entry.path().string());
  }
  std::sort(found.begin(), found.end());
  if (found.empty())
    return invalid_input("no shard has left its results here; run `orrery plan SPACE --shard i/n` first",
                         {path, 0, 0}, "--merge");
  return found;
}

}  // namespace

Result<std::unique_ptr<ShardCrew>> set_up_sharing(const PlanSharing& sharing, const std::string& out,
                                                  SearchOptions& search) {
  const std::string merged = out + "/" + plan_store_name;
  search.start = StoreStart::either;
  if (sharing.merge) {
    search.store = merged;
    for (const std::string& path : sharing.stores.empty() ? std::vector<std::string>{out} : sharing.stores) {
      ORRERY_TRY(found, stores_at(path));
      search.others.insert(search.others.end(), found.begin(), found.end());
    }
    return std::make_unique<ShardCrew>(0, 0);
  }
  ORRERY_TRY(share, parse_share(sharing.shard));
  search.store =
      out + "/shard-" + std::to_string(share.index) + "-of-" + std::to_string(share.of) + ".sqlite";
  if (std::filesystem::exists(merged)) search.others.push_back(merged);
  return std::make_unique<ShardCrew>(share.index - 1, share.of);
}

std::string shard_text(const PlanSharing& sharing, const ShardCrew& crew, const std::string& out, bool json) {
  if (json) {
    Json text;
    text["shard"] = sharing.shard;
    text["round"] = crew.batches();
    text["results"] = crew.pieces();
    text["missing"] = crew.missing();
    return canonical_json(text);
  }
  std::string text = "shard       " + sharing.shard + ", ";
  if (crew.missing() == 0) return text + "nothing is missing: `orrery plan` with --merge writes the answer\n";
  return text + "round " + std::to_string(crew.batches()) + ": " +
         std::to_string(crew.pieces() - crew.missing()) + " of " + std::to_string(crew.pieces()) +
         " results are here, the others are other shards'\nnext        when all shards are done: the same "
         "with "
         "--merge instead of --shard\noutputs     " +
         out + "\n";
}

Error not_merged(const ShardCrew& crew, const std::string& out) {
  return make_error(ErrorKind::unavailable,
                    "round " + std::to_string(crew.batches()) + " of the search lacks " +
                        std::to_string(crew.missing()) + " of " + std::to_string(crew.pieces()) +
                        " results. What is there is joined in " + out + "/" + plan_store_name +
                        ": run the shards again (they go on from it) and merge again, or finish it here with "
                        "--resume");
}

std::string command_without_sharing(const std::string& line) {
  std::istringstream in(line);
  std::string out, word;
  bool more = static_cast<bool>(std::getline(in, word, ' '));
  const auto next = [&] { return more = static_cast<bool>(std::getline(in, word, ' ')); };
  while (more) {
    if (word == "--threads" || word == "--shard" || word == "--emit" || word == "--shards") {
      next();  // its value
    } else if (word == "--merge") {
      while (next() && !word.starts_with("-")) {}
      continue;
    } else if (word != "--resume" && !word.starts_with("--threads=") && !word.starts_with("--shard") &&
               !word.starts_with("--emit=")) {
      out += (out.empty() ? "" : " ") + word;
    }
    next();
  }
  return out;
}

}  // namespace orrery

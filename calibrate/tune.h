// `orrery calibrate --tune`: which products, the searches one after the other, their journal and what is made
// of it. docs/tiles.md.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/result.h"
#include "calibrate/journal.h"
#include "calibrate/tile_search.h"
#include "costmodel/hardware.h"
#include "costmodel/moe_tiles.h"

namespace orrery::calibrate {

struct TuneOptions {
  std::vector<std::string> models;  // names in model_profiles/; empty: those of tuned_models
  std::vector<std::string> tables;  // gemm, grouped_gemm; empty: both
  std::size_t max_problems = 0;     // 0 = all
};

// Products with FP8 block scales of the models' layers over 1, 2, 4 and 8 GPUs at the batch sizes of vLLM's
// files. Both products of an expert layer side by side; batch sizes coarse to fine, so that what is cut off
// covers all of them about equally. Experts: rows as a uniform router deals them out.
Result<std::vector<TileProblem>> tune_plan(const TuneOptions& options);

// What a journal's line holds.
struct TuneRecord {
  std::string table, shape, layer;
  std::int64_t tokens = 0;
  TileSearch search;
  std::string key() const { return table + ":" + shape; }
};
struct TuneJournal {
  JournalHeader header;
  std::vector<TuneRecord> records;
};
Json record_json(const TileProblem& problem, const TileSearch& search);
// As read_journal: a line that was cut off is dropped, anything else that is wrong is a located error.
Result<TuneJournal> parse_tune_journal(const std::string& text, const std::string& name,
                                       std::uint64_t* used_bytes = nullptr);

struct TuneSession {
  double deadline = 0;  // on the timer; infinity
  std::function<bool()> interrupted = [] { return false; };
  std::function<void(std::size_t done, std::size_t total)> progress = [](std::size_t, std::size_t) {};
  // The tiles of a problem, and what its kernel takes by itself.
  std::function<std::vector<SearchTile>(const TileProblem&)> space;
  std::function<SearchTile(const TileProblem&)> own;
  TileLimits limits;
};
struct TuneSummary {
  std::size_t planned = 0, skipped = 0, searched = 0, unsupported = 0, timings = 0;
  bool out_of_time = false, interrupted = false;
};
Result<TuneSummary> run_tune(const std::vector<TileProblem>& plan, const std::set<std::string>& done,
                             TileTimer& tiles, Timer& timer, JournalWriter& journal,
                             const TuneSession& session);

// <table>_tuned.csv → text: a row a product, with both times.
std::map<std::string, std::string> tuned_files(const TuneJournal& journal);

// Files in vLLM's layout (get_config_file_name and get_moe_configs of its fused_moe.py) by name: of every
// layer both of whose products were searched, at each batch size the tile with the least sum of both times
// among those that Triton can take (extents that are powers of two). `device`: as vLLM names the part.
// A file's name does not say how wide the model is: an error where two layers differ in nothing else.
Result<std::map<std::string, std::string>> vllm_files(const TuneJournal& journal, const std::string& device);
std::string vllm_device_of(const JournalHeader& header);

}  // namespace orrery::calibrate

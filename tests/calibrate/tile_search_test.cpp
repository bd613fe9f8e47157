#include "calibrate/tile_search.h"

#include <filesystem>
#include <map>

#include "base/files.h"
#include "calibrate/again.h"
#include "calibrate/tune.h"
#include "calibrate/tune_timers.h"
#include "catch.h"
#include "fake_device.h"

using namespace orrery;
using namespace orrery::calibrate;
namespace fs = std::filesystem;

namespace {

SearchTile tile(std::int64_t rows, std::int64_t columns, std::int64_t stages = 4, bool swapped = false) {
  SearchTile t;
  t.rows = rows;
  t.columns = columns;
  t.stages = stages;
  t.swapped = swapped;
  t.warps = rows * columns > 64 * 128 ? 8 : 4;
  return t;
}

std::vector<SearchTile> some_space() {
  std::vector<SearchTile> space;
  for (const std::int64_t rows : {16, 32, 64, 128, 192, 256}) {
    for (const std::int64_t columns : {64, 128, 256}) {
      for (const std::int64_t stages : {3, 4}) space.push_back(tile(rows, columns, stages));
    }
  }
  return space;
}

TileProblem grouped(std::vector<std::int64_t> rows, std::int64_t tokens, const std::string& layer,
                    std::int64_t n = 1536, std::int64_t k = 2048) {
  TileProblem p;
  p.table = "grouped_gemm";
  p.spec.op = "block_gemm_wgmma";
  p.spec.dtype = "fp8-block";
  p.spec.n = n;
  p.spec.k = k;
  p.spec.rows = std::move(rows);
  p.shape = shape_of(p.spec);
  p.tokens = tokens;
  p.layer = layer;
  return p;
}

TileLimits limits() {
  TileLimits l;
  l.units = 132;
  l.shared_bytes = 227 << 10;
  return l;
}

// A law with one best tile; counts what it is asked, and moves the clock.
class FakeTiles : public TileTimer {
 public:
  explicit FakeTiles(std::int64_t best_rows, FakeTimer* clock = nullptr) : best_(best_rows), clock_(clock) {}
  double us(const TileProblem&, const SearchTile& t, int effort, std::string& why) override {
    asked[t.text()].push_back(effort);
    ++calls;
    if (clock_ != nullptr) clock_->now += 0.01 * effort;
    if (refused.count(t.rows) > 0) {
      why = "no such tile";
      return 0;
    }
    const double distance = std::abs(static_cast<double>(t.rows - best_)) / 16;
    return 10 + distance + 0.01 * static_cast<double>(t.columns) + 0.1 * static_cast<double>(t.stages);
  }
  std::map<std::string, std::vector<int>> asked;
  std::set<std::int64_t> refused;
  int calls = 0;

 private:
  std::int64_t best_;
  FakeTimer* clock_;
};

}  // namespace

TEST_CASE("tiles that cannot win are not timed: padding, idle units, shared memory") {
  // One row: a tile of 256 rows holds 16 times the outputs of one of 16.
  const TileProblem one = grouped({1, 0, 1}, 1, "");
  const auto space = some_space();
  for (const std::size_t place : worth_timing(space, one, limits())) CHECK(space[place].rows <= 32);
  // 96 rows an expert: 64 and 32 rows pad to 128 and 96, 256 to 256, which is more than twice 96.
  const TileProblem many = grouped(std::vector<std::int64_t>(128, 96), 1536, "");
  const auto kept = worth_timing(space, many, limits());
  CHECK(std::any_of(kept.begin(), kept.end(), [&](std::size_t i) { return space[i].rows == 128; }));
  CHECK(std::none_of(kept.begin(), kept.end(), [&](std::size_t i) { return space[i].rows == 256; }));
  TileLimits small = limits();
  small.shared_bytes = 64 << 10;  // of an AMD part: 4 stages of 16 + 128 rows of 128 bytes do not fit
  for (const std::size_t place : worth_timing(space, many, small)) {
    CHECK(space[place].stages * (space[place].rows + space[place].columns) * 128 <= 64 << 10);
  }
}

TEST_CASE("successive halving finds the fastest tile and looks longest at the last ones") {
  const TileProblem problem = grouped(std::vector<std::int64_t>(128, 96), 1536, "");
  FakeTiles fake(32);
  const TileSearch found = search_tiles(problem, some_space(), tile(64, 128), fake, limits());
  CHECK(found.winner.tile.rows == 32);
  CHECK(found.winner.tile.columns == 64);
  CHECK(found.winner.tile.stages == 3);
  CHECK(found.own.us > found.winner.us);
  // The winner was timed in every round, each twice as long; the worst of the first round only once.
  const std::vector<int>& winner = fake.asked.at(found.winner.tile.text());
  REQUIRE(winner.size() >= 2);
  for (std::size_t i = 0; i < winner.size(); ++i) CHECK(winner[i] == 1 << i);
  CHECK(fake.asked.at(found.timed.back().tile.text()).size() == 1);
  const std::size_t first_round = found.space - found.pruned;
  CHECK(static_cast<std::size_t>(fake.calls) < 3 * first_round);
  CHECK(static_cast<std::size_t>(fake.calls) == found.timings);
}

TEST_CASE("the kernel's own tile wins ties and stays when nothing else can be timed") {
  const TileProblem problem = grouped(std::vector<std::int64_t>(128, 96), 1536, "");
  FakeTiles fake(64);
  const SearchTile own = tile(64, 64, 3);
  CHECK(search_tiles(problem, some_space(), own, fake, limits()).winner.us ==
        search_tiles(problem, some_space(), own, fake, limits()).own.us);
  FakeTiles refuses(64);
  for (const std::int64_t rows : {16, 32, 128, 192, 256}) refuses.refused.insert(rows);
  std::vector<SearchTile> others;
  for (const SearchTile& t : some_space())
    if (t.rows != 64) others.push_back(t);
  const TileSearch found = search_tiles(problem, others, own, refuses, limits());
  CHECK(found.winner.tile.rows == 64);
  CHECK(found.refused > 0);
  CHECK(found.timed.empty());
}

TEST_CASE("a tuning that is stopped anywhere and resumed gives the same journal and files") {
  const fs::path folder = fs::temp_directory_path() / "orrery_tune_test";
  fs::remove_all(folder);
  fs::create_directories(folder);
  std::vector<TileProblem> plan;
  for (const std::int64_t tokens : {16, 256, 1024}) {
    const std::vector<std::int64_t> rows(8, tokens);
    plan.push_back(grouped(rows, tokens, "E=8,N=768,K=2048", 1536, 2048));
    plan.push_back(grouped(rows, tokens, "E=8,N=768,K=2048", 2048, 768));
  }
  const auto run = [&](const std::string& name, std::size_t most, bool resume) {
    FakeTimer clock;
    FakeTiles tiles(32, &clock);
    const std::string path = (folder / name).string();
    std::set<std::string> done;
    std::uint64_t used = 0;
    if (resume) {
      auto journal = parse_tune_journal(read_text_file(path).value(), path, &used);
      REQUIRE(journal.ok());
      for (const TuneRecord& r : journal->records) done.insert(r.key());
    }
    FakeWorld world;
    FakeDevice device(world);
    auto writer =
        resume ? JournalWriter::append(path, used) : JournalWriter::create(path, fake_header(device));
    REQUIRE(writer.ok());
    TuneSession session;
    session.deadline = 1e9;
    session.limits = limits();
    std::size_t begun = 0;
    session.progress = [&](std::size_t, std::size_t) { ++begun; };
    session.interrupted = [&] { return begun > most; };
    session.space = [](const TileProblem&) { return some_space(); };
    session.own = [](const TileProblem&) { return tile(64, 128); };
    return run_tune(plan, done, tiles, clock, *writer, session).value();
  };
  CHECK(run("whole", 100, false).searched == plan.size());
  const std::string whole = read_text_file((folder / "whole").string()).value();
  for (std::size_t most = 0; most <= plan.size(); ++most) {
    const std::string name = "part" + std::to_string(most);
    CHECK(run(name, most, false).searched == most);
    const std::string path = (folder / name).string();
    REQUIRE(write_file_atomically(path, read_text_file(path).value() + "{\"table\":\"gr").ok());  // killed
    CHECK(run(name, 100, true).skipped == most);
    CHECK(read_text_file(path).value() == whole);
  }
  const auto journal = parse_tune_journal(whole, "whole").value();
  const auto files = tuned_files(journal);
  REQUIRE(files.count("grouped_gemm_tuned.csv") == 1);
  CHECK(files.at("grouped_gemm_tuned.csv").substr(0, 58) ==
        "dtype,n,k,rows,us,kernel,tile,default_us,default_tile\nfp8-");
  fs::remove_all(folder);
}

TEST_CASE("vLLM's files hold the tile that is best for both products, and only what Triton takes") {
  // By hand: 32 rows take 5 + 9, 64 take 6 + 6, in whichever way; 192 is fastest and nothing for Triton.
  TuneJournal journal;
  journal.header.hardware = "h200";
  SearchTile split = tile(16, 128);
  split.splits = 2;
  for (const bool down : {false, true}) {
    TuneRecord record;
    record.table = "grouped_gemm";
    record.layer = "E=128,N=768,K=2048";
    record.tokens = 64;
    record.search.timed = {
        {tile(192, 128), 1},         {tile(8, 128, 4, true), 1}, {tile(32, 128), down ? 9.0 : 5.0},
        {tile(64, 128, 4, true), 6}, {tile(64, 128), 8},         {split, 2}};  // no tile of Triton's
    journal.records.push_back(record);
  }
  journal.records.push_back(journal.records.front());  // another batch size, one product of it missing
  journal.records.back().tokens = 128;
  const auto files = vllm_files(journal, vllm_device_of(journal.header)).value();
  REQUIRE(files.size() == 1);
  CHECK(files.begin()->first ==
        "E=128,N=768,device_name=NVIDIA_H200,dtype=fp8_w8a8,block_shape=[128,128].json");
  const auto json = parse_json(files.begin()->second, "file").value();
  REQUIRE(json.size() == 1);
  CHECK(json["64"]["BLOCK_SIZE_M"] == 64);
  CHECK(json["64"]["BLOCK_SIZE_N"] == 128);
  CHECK(json["64"]["BLOCK_SIZE_K"] == 128);
  for (const char* name : {"GROUP_SIZE_M", "num_warps", "num_stages"}) CHECK(json["64"].contains(name));
  // A model of another width has the same file: neither layer's tiles may take its place unseen.
  for (const bool down : {false, true}) {
    journal.records.push_back(journal.records[down ? 1 : 0]);
    journal.records.back().layer = "E=128,N=768,K=4096";
  }
  const auto both = vllm_files(journal, vllm_device_of(journal.header));
  REQUIRE_FALSE(both.ok());
  for (const char* said : {"E=128,N=768,K=2048", "E=128,N=768,K=4096", "--models"})
    CHECK(both.errors()[0].message.find(said) != std::string::npos);
}

TEST_CASE("a split tile counts once for each split in waves, and is told from the whole one") {
  SearchTile split = tile(64, 128);
  split.splits = 2;
  CHECK(split.text() == tile(64, 128).text() + " split in 2");
  const auto written = [](const SearchTile& t) {
    return parse_json(canonical_json(tile_json(t)), "line").value();
  };
  SearchTile read;
  REQUIRE(read_tile(written(split), read));
  CHECK(read.splits == 2);
  CHECK(read.blocks == 1);
  SearchTile two = tile(16, 128);
  two.blocks = 2;
  CHECK(two.text() != tile(16, 128).text());
  REQUIRE(read_tile(written(two), read));
  CHECK(read.blocks == 2);
  Json older = written(tile(64, 128));  // of a journal from before there were any
  older.erase("splits");
  older.erase("blocks");
  REQUIRE(read_tile(older, read));
  CHECK(read.splits == 1);
  Json wrong = written(split);
  wrong["splits"] = std::uint64_t{0};
  CHECK_FALSE(read_tile(wrong, read));
  // 12 tiles fill a part with 132 units once however they are split; of 96 a split in three needs three
  // waves.
  SearchTile thirds = tile(64, 128);
  thirds.splits = 3;
  const std::vector<SearchTile> space = {tile(64, 128), split, thirds};
  CHECK(worth_timing(space, grouped({64}, 64, ""), limits()).size() == 3);
  CHECK(worth_timing(space, grouped(std::vector<std::int64_t>(8, 64), 64, ""), limits()) ==
        std::vector<std::size_t>{0, 1});
}

TEST_CASE("the plan covers both products of each layer, coarse batch sizes first") {
  TuneOptions options;
  options.models = {"qwen3-30b-a3b-fp8"};
  options.tables = {"grouped_gemm"};
  const auto plan = tune_plan(options).value();
  std::map<std::string, std::size_t> layers;
  for (const TileProblem& p : plan) ++layers[p.layer + "/" + std::to_string(p.tokens)];
  for (const auto& [layer, products] : layers) CHECK(products == 2);
  CHECK(layers.count("E=128,N=768,K=2048/64") == 1);
  CHECK(layers.count("E=64,N=768,K=2048/64") == 1);   // shared out whole over two GPUs
  CHECK(layers.count("E=128,N=384,K=2048/64") == 1);  // cut in two widths
  CHECK(plan.front().tokens == 1);
  options.max_problems = 5;
  CHECK(tune_plan(options).value().size() == 5);
}

TEST_CASE("the tile law needs no GPU and finds less padding where rows are few") {
  const HardwareProfile r9700 = load_hardware("r9700").value();
  auto law = LawTiles::create(r9700).value();
  const TileProblem few = grouped(std::vector<std::int64_t>(64, 8), 128, "E=64,N=768,K=2048");
  const TileSearch found = search_tiles(few, law.space(few), law.own(few), law, law.limits());
  CHECK(found.own.tile.rows == 64);    // get_default_config beyond 64 tokens
  CHECK(found.winner.tile.rows < 64);  // eight rows of an expert fill an eighth of it
  CHECK(found.winner.us < found.own.us);
  TileProblem dense = few;
  dense.spec.rows.clear();
  std::string why;
  CHECK(law.us(dense, found.own.tile, 1, why) == 0);
  CHECK_FALSE(why.empty());
}

TEST_CASE("rows of a set are timed again, each once, spread over all shapes") {
  const fs::path folder = fs::temp_directory_path() / "orrery_again_test";
  fs::remove_all(folder);
  fs::create_directories(folder);
  std::string gemm = "dtype,m,n,k,us,spread,kernel\n", grouped = "dtype,n,k,rows,us,spread,kernel\n";
  for (int m = 1; m <= 20; ++m) {
    gemm += "fp8-block," + std::to_string(m) + ",1024,2048,1,0,x\n";
    gemm += "bf16," + std::to_string(m) + ",1024,2048,1,0,x\n";
  }
  grouped += "fp8-block,1536,2048,3 0 2x1,5,0,x\n";
  REQUIRE(write_file_atomically((folder / "gemm.csv").string(), gemm).ok());
  REQUIRE(write_file_atomically((folder / "grouped_gemm.csv").string(), grouped).ok());
  const auto points = points_again(folder.string(), {"gemm/fp8-block", "grouped_gemm"}).value();
  std::set<std::string> keys;
  for (const Point& p : points) keys.insert(p.key());
  CHECK(points.size() == 21);
  CHECK(keys.size() == 21);
  CHECK(keys.count("grouped_gemm:fp8-block,1536,2048,3 0 2x1") == 1);
  std::set<std::int64_t> first;  // a third of the work reaches beyond half of the sizes
  for (std::size_t i = 0; i < 7; ++i) first.insert(points[i].spec.m);
  CHECK(*first.rbegin() > 10);
  CHECK(points_again(folder.string(), {}).value().size() == 41);
  CHECK_FALSE(points_again(folder.string(), {"attention_decode"}).ok());
  REQUIRE(write_file_atomically((folder / "gemm.csv").string(), gemm + "fp8-block,x,1024,2048,1,0,x\n").ok());
  const auto wrong = points_again(folder.string(), {});
  REQUIRE_FALSE(wrong.ok());
  CHECK(wrong.errors()[0].where.line == 42);
  fs::remove_all(folder);
}

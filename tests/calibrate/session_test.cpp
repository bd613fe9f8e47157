#include "calibrate/session.h"

#include <algorithm>
#include <filesystem>

#include "base/files.h"
#include "calibrate/duration.h"
#include "calibrate/hardware_of.h"
#include "calibrate/table_index.h"
#include "calibrate/tables.h"
#include "catch.h"
#include "fake_device.h"

using namespace orrery;
using namespace orrery::calibrate;
namespace fs = std::filesystem;

namespace {

class Folder {
 public:
  explicit Folder(const std::string& name) : path_(fs::temp_directory_path() / ("orrery_" + name)) {
    fs::remove_all(path_);
    fs::create_directories(path_);
  }
  ~Folder() { fs::remove_all(path_); }
  std::string file(const std::string& name) const { return (path_ / name).string(); }

 private:
  fs::path path_;
};

std::vector<Point> small_plan() {
  std::vector<Point> plan;
  for (const std::int64_t m : {1, 64, 4096, 16, 512}) {
    for (const std::int64_t n : {1024, 4096}) plan.push_back(gemm_point(m, n, 2048));
  }
  Point decode;
  decode.spec.op = "attention_decode";
  decode.spec.heads = 32;
  decode.spec.kv_heads = 8;
  decode.spec.head_dim = 128;
  decode.spec.contexts.assign(64, 4096);
  decode.table = table_of(decode.spec);
  decode.shape = shape_of(decode.spec);
  plan.push_back(decode);
  return plan;
}

// A session on a fresh fake; noise off, so that two halves find what a whole one finds.
SessionSummary run(const std::string& path, bool resume, const SessionOptions& options, FakeWorld& world) {
  world.noise = 0;
  FakeDevice device(world);
  std::set<std::string> done;
  std::uint64_t used = 0;
  if (resume) {
    auto journal = read_journal(path, &used);
    REQUIRE(journal.ok());
    done = finished_keys(*journal);
  }
  auto writer = resume ? JournalWriter::append(path, used) : JournalWriter::create(path, fake_header(device));
  REQUIRE(writer.ok());
  auto summary = run_session(small_plan(), done, device, world.timer, fake_cases(world), *writer, options);
  REQUIRE(summary.ok());
  return *summary;
}

std::map<std::string, std::string> tables(const std::string& path) {
  auto journal = read_journal(path);
  REQUIRE(journal.ok());
  return table_files(*journal);
}

}  // namespace

TEST_CASE("a session measures its plan and its journal becomes tables") {
  const Folder folder("calibrate_session");
  FakeWorld world;
  const SessionSummary s = run(folder.file("j"), false, {}, world);
  CHECK(s.states.at("ok") == small_plan().size());
  const auto files = tables(folder.file("j"));
  CHECK(files.at("gemm.csv").substr(0, 28) == "dtype,m,n,k,us,spread,kernel");
  CHECK(files.at("gemm.csv").find("bf16,1,1024,2048,") != std::string::npos);
  CHECK(files.at("gemm.csv").find("\nbf16,16,") < files.at("gemm.csv").find("\nbf16,512,"));
  CHECK(files.at("attention_decode.csv").find("bf16,bf16,32,8,128,64,4096,") != std::string::npos);
  CHECK(files.at("table.yaml").find("sm_mhz_median: 1980") != std::string::npos);
  CHECK(files.at("table.yaml").find("points: 10") != std::string::npos);
}

TEST_CASE("a point that left the clock low is followed by a rest until it is back, but not by a long one") {
  const Folder folder("calibrate_rest");
  SessionOptions options;
  options.warm_up_s = 0;
  {
    FakeWorld world;
    world.clocks = {1980, 1980, 1300, 1310, 1700, 1975};  // sentinel, point, point that is hot, three looks
    run(folder.file("recovers"), false, options, world);
    CHECK(world.timer.paused == Approx(3 * options.rest_s / 16));
  }
  FakeWorld stuck;
  stuck.clocks = {1980, 1980};
  stuck.clocks.insert(stuck.clocks.end(), 60, 1300);
  run(folder.file("stuck"), false, options, stuck);
  CHECK(stuck.timer.paused >= options.rest_s);
  CHECK(stuck.timer.paused <= 60.0 / 16 * options.rest_s);
}

TEST_CASE("a session that is killed after any number of points and resumed gives the same tables") {
  const Folder folder("calibrate_resume");
  FakeWorld whole_world;
  run(folder.file("whole"), false, {}, whole_world);
  const auto whole = tables(folder.file("whole"));
  for (std::size_t k = 0; k <= small_plan().size(); ++k) {
    const std::string path = folder.file("part" + std::to_string(k));
    std::size_t seen = 0;
    SessionOptions options;
    options.interrupted = [&] { return seen >= k; };
    options.progress = [&](std::size_t, std::size_t) { ++seen; };
    FakeWorld first, second;
    CHECK(run(path, false, options, first).interrupted == (k < small_plan().size()));
    // The kill may come in the middle of a line.
    auto text = read_text_file(path);
    REQUIRE(text.ok());
    REQUIRE(write_file_atomically(path, *text + "{\"table\":\"ge").ok());
    const SessionSummary rest = run(path, true, {}, second);
    CHECK(rest.skipped == k);
    CHECK(tables(path) == whole);
  }
}

TEST_CASE("a budget is kept, tables included") {
  const Folder folder("calibrate_budget");
  for (const double budget : {2.0, 3.0, 5.0, 30.0}) {
    FakeWorld world;
    SessionOptions options;
    options.deadline = world.timer.now + budget;
    const SessionSummary s = run(folder.file(std::to_string(budget)), false, options, world);
    CHECK(world.timer.now <= options.deadline - 0.5 * options.tables_s);
    if (budget == 2.0) CHECK(s.out_of_time);
    if (budget == 30.0) CHECK_FALSE(s.out_of_time);
  }
}

TEST_CASE("a part that slows down is noticed") {
  const Folder folder("calibrate_drift");
  FakeWorld world;
  SessionOptions options;
  options.sentinel_every_s = 0;
  std::vector<std::string> said;
  options.say = [&](const std::string& text) { said.push_back(text); };
  options.progress = [&](std::size_t done, std::size_t) { world.slowdown = done > 5 ? 1.05 : 1; };
  const SessionSummary s = run(folder.file("j"), false, options, world);
  CHECK(s.drift == Approx(0.05).epsilon(0.02));
  REQUIRE_FALSE(said.empty());
  CHECK(said[0].find("moved by 5.0 %") != std::string::npos);
}

TEST_CASE("operators without a kernel are told once and tried again by another build") {
  const Folder folder("calibrate_without");
  FakeWorld world;
  world.without = {"attention_decode"};
  int said = 0;
  SessionOptions options;
  options.say = [&](const std::string&) { ++said; };
  const SessionSummary s = run(folder.file("j"), false, options, world);
  CHECK(s.states.at("unsupported") == 1);
  CHECK(said == 1);
  FakeWorld better;
  CHECK(run(folder.file("j"), true, {}, better).states.at("ok") == 1);
}

TEST_CASE("probes have the device to themselves, once") {
  const Folder folder("calibrate_probes");
  FakeWorld world;
  FakeDevice device(world);
  auto writer = JournalWriter::create(folder.file("j"), fake_header(device));
  REQUIRE(writer.ok());
  Point probe;
  probe.spec.op = "launches";
  probe.table = "probes";
  probe.shape = shape_of(probe.spec);
  SessionOptions options;
  int calls = 0;
  options.probe = [&](const std::string& name, kernels::Device&, std::vector<ProbeFigure>& out,
                      std::string&) {
    ++calls;
    CHECK(device.memory_.releases == 1);
    out.push_back({name + ".graph_node", 0, 1.25, "us"});
    return true;
  };
  const std::vector<Point> plan{gemm_point(1, 512, 512), probe};
  REQUIRE(run_session(plan, {}, device, world.timer, fake_cases(world), *writer, options).ok());
  CHECK(calls == 1);
  auto journal = read_journal(folder.file("j"));
  REQUIRE(journal.ok());
  CHECK(finished_keys(*journal).count(probe.key()) == 1);
  CHECK(table_files(*journal).at("probes.csv") == "probe,bytes,value,unit\nlaunches.graph_node,0,1.25,us\n");
}

TEST_CASE("a device that is lost ends the session with an error and keeps what was found") {
  const Folder folder("calibrate_lost");
  FakeWorld world;
  FakeDevice device(world);
  auto writer = JournalWriter::create(folder.file("j"), fake_header(device));
  REQUIRE(writer.ok());
  std::vector<Point> plan;
  for (std::int64_t m = 1; m < 40; ++m) plan.push_back(gemm_point(m, 512, 512));
  SessionOptions options;
  options.progress = [&](std::size_t done, std::size_t) {
    world.fail_with = done > 9 ? "illegal address" : "";
  };
  const auto s = run_session(plan, {}, device, world.timer, fake_cases(world), *writer, options);
  REQUIRE_FALSE(s.ok());
  CHECK(s.errors()[0].kind == ErrorKind::unavailable);
  auto journal = read_journal(folder.file("j"));
  REQUIRE(journal.ok());
  // Ten good ones and the one that broke the device; those behind it deserve another try.
  CHECK(finished_keys(*journal).size() == 11);
}

TEST_CASE("a journal of another device, driver or card is refused") {
  FakeWorld world;
  FakeDevice device(world);
  const JournalHeader then = fake_header(device);
  JournalHeader now = then;
  CHECK(mismatch(then, now, false).empty());
  now.device.uuid = "GPU-1";
  CHECK_FALSE(mismatch(then, now, false).empty());
  CHECK(mismatch(then, now, true).empty());
  now.device.driver = "590";
  CHECK(mismatch(then, now, true).find("driver") != std::string::npos);
  now = then;
  now.device.name = "NVIDIA H100";
  CHECK_FALSE(mismatch(then, now, true).empty());
}

TEST_CASE("damaged journals are located errors") {
  FakeWorld world;
  FakeDevice device(world);
  const std::string header = header_json(fake_header(device)).dump() + "\n";
  CHECK_FALSE(parse_journal("", "j").ok());
  CHECK_FALSE(parse_journal("{}\n", "j").ok());
  const auto wrong = parse_journal(header + "{\"table\":\"gemm\"\n{}\n", "j");
  REQUIRE_FALSE(wrong.ok());
  CHECK(wrong.errors()[0].where.line == 2);
  const auto negative = parse_journal(
      header +
          R"({"table":"gemm","shape":"bf16,1,2,3","kernel":"x","state":"ok","us":-1,"spread":0,"samples":9})" +
          "\n",
      "j");
  REQUIRE_FALSE(negative.ok());
  CHECK(negative.errors()[0].key == "us");
  CHECK_FALSE(JournalWriter::create("/proc/nowhere/j", fake_header(device)).ok());
}

TEST_CASE("errors of a table are its operators' least and most") {
  const Folder folder("calibrate_errors");
  const std::string path = folder.file("errors.csv");
  const std::string text =
      "op,dtype,low,high,points,shapes\ngemm,bf16,1,64,0.03,0.05\ngemm,bf16,65,512,0.06,0.05\n";
  REQUIRE(write_file_atomically(path, text + "copy,,1,2,0.01,0.01\n").ok());
  std::map<std::string, TableOperator> operators;
  operators["gemm"].points = 9;
  REQUIRE(read_errors(path, operators).ok());
  CHECK(operators.size() == 1);
  CHECK(operators["gemm"].least_error == 0.03);
  CHECK(operators["gemm"].most_error == 0.06);
  REQUIRE(write_file_atomically(path, text + "gemm,bf16,1,2,x,0.01\n").ok());
  const Status wrong = read_errors(path, operators);
  REQUIRE_FALSE(wrong.ok());
  CHECK(wrong.errors()[0].where.line == 4);
}

TEST_CASE("durations and devices by name") {
  CHECK(parse_duration("8m").value() == 480);
  CHECK(parse_duration("1h30m").value() == 5400);
  CHECK(parse_duration("90s").value() == 90);
  for (const char* wrong : {"", "8", "m", "8x", "-3s", "0s", "8 m"}) CHECK_FALSE(parse_duration(wrong).ok());
  CHECK(hardware_of("NVIDIA H200").value() == "h200");
  CHECK(hardware_of("NVIDIA H100 80GB HBM3").value() == "h100");
  CHECK(hardware_of("NVIDIA H20").value() == "h20");
  CHECK(hardware_of("AMD Instinct MI300X").value() == "mi300x");
  CHECK_FALSE(hardware_of("NVIDIA H100 PCIe").ok());
  CHECK_FALSE(hardware_of("NVIDIA H20-3e").ok());
  CHECK_FALSE(hardware_of("NVIDIA A100").ok());
}

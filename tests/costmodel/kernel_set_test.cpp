// Tables of kernel timings: interpolation keeps what was measured, wrong files are located, committed tables
// stay within physics.
#include "costmodel/kernel_set.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "base/det_math.h"
#include "base/files.h"
#include "catch.h"
#include "costmodel/op_query.h"
#include "costmodel/op_table.h"
#include "costmodel/read_part.h"

using namespace orrery;
namespace fs = std::filesystem;

namespace {

std::shared_ptr<const KernelSet> committed(const HardwareProfile& hardware) {
  auto set = KernelSet::load(hardware, "vllm-0.24");
  if (!set.ok()) INFO(to_string(set.errors()));
  REQUIRE(set.ok());
  return *set;
}

// A data directory of its own, with one table in it.
class TableFolder {
 public:
  explicit TableFolder(const std::string& csv, const std::string& table = "gemm")
      : root_(fs::temp_directory_path() / "orrery_kernel_set_test") {
    const fs::path folder = root_ / "hardware_profiles/tables/h200/mine";
    fs::remove_all(root_);
    fs::create_directories(folder);
    std::ofstream(folder / "table.yaml")
        << "hardware: h200\nkernels: mine\nkind: measured\nsource: \"a test\"\n";
    std::ofstream(folder / (table + ".csv")) << csv;
    setenv("ORRERY_DATA_DIR", root_.c_str(), 1);
  }
  fs::path file(const std::string& name) const { return root_ / "hardware_profiles/tables/h200/mine" / name; }
  ~TableFolder() {
    unsetenv("ORRERY_DATA_DIR");
    fs::remove_all(root_);
  }

 private:
  fs::path root_;
};

// The committed profiles, but for our own kernels on the H200: carried over from the H100's.
class CarriedFolder {
 public:
  CarriedFolder() : root_(fs::temp_directory_path() / "orrery_carried_set_test") {
    const fs::path here = fs::path(ORRERY_SOURCE_DIR) / "hardware_profiles",
                   there = root_ / "hardware_profiles";
    fs::remove_all(root_);
    fs::create_directories(there / "tables/h200/orrery");
    for (const char* name : {"h100.yaml", "h200.yaml", "tables/h100"})
      fs::create_symlink(here / name, there / name);
    std::ofstream(there / "tables/h200/orrery/table.yaml")
        << "hardware: h200\nkernels: orrery\nkind: transported\nfrom: h100\nsource: \"a test\"\n";
    setenv("ORRERY_DATA_DIR", root_.c_str(), 1);
  }
  ~CarriedFolder() {
    unsetenv("ORRERY_DATA_DIR");
    fs::remove_all(root_);
  }

 private:
  fs::path root_;
};

OpPrice price(const OpQuery& query, const HardwareProfile& hardware, std::shared_ptr<const KernelSet> set) {
  const auto roofline = Roofline::create(hardware, std::move(set));
  REQUIRE(roofline.ok());
  const auto priced = price_operator(query, *roofline);
  REQUIRE(priced.ok());
  return *priced;
}

}  // namespace

TEST_CASE("a curve keeps its points, is a power law between and flat beyond") {
  const UtilisationCurve curve({{1, 0.1}, {4, 0.4}, {64, 0.8}});
  CHECK(curve.at(1) == Approx(0.1));
  CHECK(curve.at(4) == Approx(0.4));
  CHECK(curve.at(2) == Approx(0.2));  // proportional between 1 and 4: constant time stays constant
  CHECK(curve.at(16) == Approx(0.4 * 1.41421356));
  CHECK(curve.at(0.5) == Approx(0.1));
  CHECK(curve.at(1000) == Approx(0.8));
  CHECK(curve.hit(4) == Hit::exact);
  CHECK(curve.hit(5) == Hit::interpolated);
  CHECK(curve.hit(65) == Hit::extrapolated);
}

TEST_CASE("the cubic of a curve keeps its points, stays between them and halves a knee's error") {
  // A launch of 1 and work of x/16: utilisation x/16 over their sum, in truth a smooth knee.
  const auto truth = [](double x) { return x / 16 / (1 + x / 16); };
  std::vector<UtilisationPoint> points;
  for (double x = 1; x <= 4096; x *= 4) points.push_back({x, truth(x)});
  const UtilisationCurve curve(points);
  double linear = 0, cubic = 0;
  for (std::size_t i = 0; i + 1 < points.size(); ++i) {
    CHECK(curve.smooth_log(points[i].x) == Approx(det_log(points[i].utilisation)));
    const double x = points[i].x * 2, between = det_exp(curve.smooth_log(x));
    CHECK(between >= points[i].utilisation);
    CHECK(between <= points[i + 1].utilisation);
    linear = std::max(linear, std::abs(det_log(curve.at(x) / truth(x))));
    cubic = std::max(cubic, std::abs(det_log(between / truth(x))));
  }
  CHECK(cubic < linear / 2);
}

TEST_CASE("neighbours' weights sum to one, keep a plane and give an exact match everything") {
  std::vector<LogShape> grid;
  for (int i = 0; i < 5; ++i) {
    for (int j = 0; j < 5; ++j) grid.push_back({i * 0.7, j * 0.7});
  }
  const auto exact = neighbour_weights(grid, {1.4, 2.1});
  REQUIRE(exact.size() == 1);
  CHECK(grid[exact[0].first][0] == Approx(1.4));
  const LogShape query{1.05, 1.75};
  double sum = 0, plane = 0;
  for (const auto& [index, weight] : neighbour_weights(grid, query)) {
    sum += weight;
    plane += weight * (0.3 + 0.5 * grid[index][0] - 0.2 * grid[index][1]);
  }
  CHECK(sum == Approx(1));
  CHECK(plane == Approx(0.3 + 0.5 * query[0] - 0.2 * query[1]).margin(0.01));
}

TEST_CASE("a dense grid is bilinear, exact on its lattice, and can be made monotone") {
  const auto law = [](double x, double y) { return 3 + 2 * x + 5 * y + 0.5 * x * y; };
  const DenseGrid grid(6, 10, law);
  for (const double x : {1.0, 1.125, 3.0, 17.3, 64.0}) {
    for (const double y : {1.0, 2.5, 100.0, 777.7, 1024.0}) CHECK(grid.at(x, y) == Approx(law(x, y)));
  }
  CHECK(grid.at(1e9, 1e9) == Approx(law(64, 1024)));
  CHECK(grid.at(0, 0) == Approx(law(1, 1)));
  DenseGrid noisy(6, 10,
                  [](double x, double y) { return x * y * (static_cast<int>(y) % 2 == 0 ? 0.5 : 1.0); });
  noisy.make_monotone();
  for (double y = 1; y < 1000; y *= 1.1) CHECK(noisy.at(8, y * 1.1) >= noisy.at(8, y));
}

TEST_CASE("a timed sample is priced as it was measured, and the rung says so") {
  const HardwareProfile h200 = part("h200");
  const TableFolder folder(
      "dtype,m,n,k,us,spread,kernel\nbf16,64,6144,4096,17.79,0.001,cublaslt\nbf16,128,6144,4096,18.05,0.001,"
      "cublaslt\n");
  auto set = KernelSet::load(h200, "mine");
  REQUIRE(set.ok());
  OpQuery query;
  query.op = "gemm";
  query.n = 6144;
  query.k = 4096;
  query.m = 64;
  const OpPrice exact = price(query, h200, *set);
  CHECK(exact.ns == 17790);
  CHECK(exact.rung == "measured");
  CHECK(exact.hit == "exact");
  query.m = 90;
  const OpPrice between = price(query, h200, *set);
  CHECK(between.ns > 17790);
  CHECK(between.ns < 18050);
  CHECK(between.hit == "interpolated");
  query.m = 4096;
  CHECK(price(query, h200, *set).hit == "extrapolated");
}

TEST_CASE("a set holds what the own choice of a tile takes and what the fastest does") {
  const HardwareProfile h200 = part("h200");
  const std::string rows = "bf16,64,6144,4096,17.79,0,x\nbf16,128,6144,4096,18.05,0,x\n";
  const TableFolder folder("dtype,m,n,k,us,spread,kernel\n" + rows);
  OpQuery query;
  query.op = "gemm";
  query.n = 6144;
  query.k = 4096;
  query.m = 64;
  CHECK_FALSE(KernelSet::load(h200, "mine", true).value()->tuned());  // nothing was searched
  std::ofstream(folder.file("gemm_tuned.csv"))
      << "dtype,m,n,k,us,kernel,tile,default_us,default_tile\nbf16,64,6144,4096,15.5,x,a,17.79,b\n"
         "bf16,128,6144,4096,19,x,a,19.5,b\n";
  CHECK(price(query, h200, KernelSet::load(h200, "mine").value()).ns == 17790);
  const auto tuned = KernelSet::load(h200, "mine", true).value();
  CHECK(tuned->tuned());
  CHECK(price(query, h200, tuned).ns == 15500);
  query.m = 128;  // where another kernel of the set is faster than the winner, it stays
  CHECK(price(query, h200, tuned).ns == 18050);
  std::ofstream(folder.file("gemm_tuned.csv"))
      << "dtype,m,n,k,us,kernel,tile,default_us,default_tile\nbf16,64,6144,4096,15.5,x,a,17.5,b\n"
         "bf16,256,6144,4096,25,x,a,30,b\nbf16,64,512,512,4,x,a,5,b\n";
  const auto both = KernelSet::load(h200, "mine").value();
  CHECK(price(query, h200, both).ns == 18050);  // as the set has it,
  query.m = 256;
  CHECK(price(query, h200, both).ns == 30000);  // and where it has nothing, as the search found it
  query.m = 64;
  query.n = query.k = 512;
  CHECK(price(query, h200, both).ns == 5000);
  CHECK(price(query, h200, KernelSet::load(h200, "mine", true).value()).ns == 4000);
  std::ofstream(folder.file("gemm_tuned.csv")) << "dtype,m,n,k,us,kernel\nbf16,64,6144,4096,-1,x\n";
  CHECK_FALSE(KernelSet::load(h200, "mine", true).ok());
}

TEST_CASE("grouped products of one size but other proportions do not answer for each other") {
  const HardwareProfile h200 = part("h200");
  const TableFolder folder(
      "dtype,n,k,rows,us,spread,kernel\nbf16,384,4096,8x1,26.8,0,a\nbf16,2048,768,8x1,13.5,0,a\n"
      "bf16,2048,768,8x4,13.7,0,a\n",
      "grouped_gemm");
  auto set = KernelSet::load(h200, "mine");
  REQUIRE(set.ok());
  OpQuery query;
  query.op = "grouped_gemm";
  query.n = 2048;
  query.k = 768;
  query.rows.assign(8, 4);
  CHECK(price(query, h200, *set).ns == 13700);
  query.rows.assign(8, 1);
  CHECK(price(query, h200, *set).ns == 13500);
  query.n = 384;
  query.k = 4096;
  CHECK(price(query, h200, *set).ns == 26800);
}

TEST_CASE("chunks behind a context are priced from timed chunks, by whole waves of tiles") {
  const HardwareProfile h200 = part("h200");  // 132 SMs
  // 8 KV heads, groups of 4: 32 new tokens fill a tile of each KV head. The law: 40 us a wave at 4,096 keys.
  const auto row = [](std::int64_t chunks, std::int64_t fresh, std::int64_t context, double us) {
    return "bf16,bf16,32,8,128," + std::to_string(chunks) + "x" + std::to_string(fresh) + "@" +
           std::to_string(context) + "," + std::to_string(us) + ",0,ours\n";
  };
  const TableFolder folder("dtype,kv_dtype,heads,kv_heads,head_dim,sequences,us,spread,kernel\n" +
                               row(1, 32, 4096, 40) + row(16, 32, 4096, 40) + row(64, 32, 4096, 160) +
                               row(1, 32, 16384, 160) + row(16, 32, 16384, 160) + row(64, 32, 16384, 640),
                           "attention_prefill");
  auto set = KernelSet::load(h200, "mine");
  REQUIRE(set.ok());
  OpQuery query;
  query.op = "attention_prefill";
  query.heads = 32;
  query.kv_heads = 8;
  query.head_dim = 128;
  const auto us = [&](std::size_t chunks, std::int64_t context) {
    query.sequences.assign(chunks, PrefillChunk{32, context});
    const OpPrice priced = price(query, h200, *set);
    CHECK(priced.rung == "measured");
    return static_cast<double>(priced.ns) / 1000;
  };
  CHECK(us(1, 4096) == Approx(40).epsilon(0.02));
  CHECK(us(16, 16384) == Approx(160).epsilon(0.02));
  CHECK(us(16, 4096) == Approx(40).epsilon(0.02));  // 128 tiles: one wave
  CHECK(us(17, 4096) == Approx(80).epsilon(0.05));  // 136: two
  CHECK(us(32, 4096) == Approx(80).epsilon(0.05));
  // One long chunk among short ones sets the pace.
  query.sequences = {PrefillChunk{32, 16384}, PrefillChunk{32, 64}, PrefillChunk{32, 64}};
  CHECK(static_cast<double>(price(query, h200, *set).ns) / 1000 == Approx(160).epsilon(0.02));
}

TEST_CASE("wrong tables are located errors") {
  const HardwareProfile h200 = part("h200");
  const auto message = [&](const std::string& csv) {
    const TableFolder folder(csv);
    const auto set = KernelSet::load(h200, "mine");
    REQUIRE_FALSE(set.ok());
    return to_string(set.errors());
  };
  CHECK(message("dtype,m,n,k,us,spread,kernel\nbf16,64,6144,4096,-1,0,x\n").find("gemm.csv:2") !=
        std::string::npos);
  CHECK(message("dtype,m,n,k,us,spread,kernel\nbf16,64,6144\n").find("3 cells, the header 7") !=
        std::string::npos);
  CHECK(message("dtype,n,k,kernel,1,64\nbf16,6144,4096,x,0.5,7\n").find("below 4") != std::string::npos);
  CHECK(message("").find("gemm.csv") != std::string::npos);
  const TableFolder folder("dtype,n,k,kernel,1\nbf16,6144,4096,x,0.5\n");
  const auto unknown = KernelSet::load(h200, "mime");
  REQUIRE_FALSE(unknown.ok());
  CHECK(to_string(unknown.errors()).find("did you mean \"mine\"") != std::string::npos);
}

TEST_CASE("a length that stands twice for a shape is a located error") {
  const HardwareProfile h200 = part("h200");
  const TableFolder folder("dtype,n,k,kernel,1\nbf16,6144,4096,x,0.5\n");
  std::ofstream(folder.file("attention_decode.csv"))
      << "dtype,kv_dtype,heads,kv_heads,head_dim,window,kernel,context,1,2\n"
         "bf16,bf16,32,8,128,0,a,64,0.1,0.2\nbf16,bf16,32,8,128,0,b,64,0.1,0.2\n";
  const auto set = KernelSet::load(h200, "mine");
  REQUIRE_FALSE(set.ok());
  CHECK(to_string(set.errors()).find("attention_decode.csv:3") != std::string::npos);
}

TEST_CASE("no committed table claims more than the data sheet") {
  for (const char* name : {"h200", "h100", "l40s"}) {
    const HardwareProfile hardware = part(name);
    const auto set = committed(hardware);
    CHECK(set->points("gemm") > 1000);
    CHECK(set->points("attention_decode") > 1000);
    const PartRates rates = PartRates::of(hardware);
    for (const std::int64_t n : {512, 1024, 4096, 6144, 11008, 24576, 151936}) {
      for (const std::int64_t k : {1024, 4096, 12288, 28672}) {
        const auto fitted = set->gemm("bf16", n, k);
        REQUIRE(fitted);
        for (double m = 1; m < 40000; m *= 1.7) {
          const double bound =
              gemm_bound_ns(rates, "bf16", m, static_cast<double>(n), static_cast<double>(k));
          INFO(name << " " << m << " " << n << " " << k);
          CHECK(fitted->curve.at(m) <= 1.0);
          CHECK(fitted->curve.at(m) * 1e6 > bound * 1e-3);  // and no kernel takes a thousand times a
                                                            // millisecond
        }
      }
    }
  }
}

TEST_CASE("decode attention never gets shorter with more keys or more sequences") {
  const HardwareProfile h200 = part("h200");
  const auto set = committed(h200);
  OpQuery query;
  query.op = "attention_decode";
  query.head_dim = 128;
  for (const auto& [heads, kv_heads] :
       {std::pair{32, 8}, std::pair{32, 4}, std::pair{40, 8}, std::pair{28, 4}}) {
    query.heads = heads;
    query.kv_heads = kv_heads;
    for (const std::int32_t batch : {1, 3, 16, 100, 256}) {
      query.batch = batch;
      std::int64_t before = 0;
      for (std::int64_t context = 16; context < 100000; context = context * 3 / 2) {
        query.context_sum = context * batch;
        const std::int64_t ns = price(query, h200, set).ns;
        CHECK(ns >= before);
        before = ns;
      }
    }
  }
}

TEST_CASE("timings carried to a relative keep compute and scale memory") {
  const CarriedFolder folder;
  const HardwareProfile h100 = part("h100"), h200 = part("h200");
  const auto ours = KernelSet::load(h100, "orrery"), carried = KernelSet::load(h200, "orrery");
  REQUIRE(ours.ok());
  REQUIRE(carried.ok());
  OpQuery query;
  query.op = "gemm";
  query.n = 6144;
  query.k = 4096;
  query.m = 4096;
  const OpPrice there = price(query, h100, *ours), here = price(query, h200, *carried);
  CHECK(there.rung == "measured");
  CHECK(here.rung == "transported");
  CHECK(here.ns == there.ns);  // one die, one clock
  query.m = 1;
  const double ratio = static_cast<double>(price(query, h200, *carried).ns) /
                       static_cast<double>(price(query, h100, *ours).ns);
  CHECK(ratio > 3.35 / 4.8);  // the start does not scale
  CHECK(ratio < 0.85);
  CHECK(here.high_ns - here.low_ns > there.high_ns - there.low_ns);
}

TEST_CASE("row-wise kernels are priced by their choices and formats") {
  const HardwareProfile h200 = part("h200");
  const TableFolder folder(
      "op,dtype,rows,n,k,us,spread,kernel\n"
      "moe_combine,bf16,64,2048,4,4,0,a\nmoe_combine,bf16,64,2048,8,8,0,a\n"
      "quantize,fp8-block,64,2048,0,3,0,a\nquantize,fp8-tensor,64,2048,0,2,0,a\n",
      "elementwise");
  const auto set = KernelSet::load(h200, "mine");
  REQUIRE(set.ok());
  OpQuery query;
  query.op = "moe_combine";
  query.m = 64;
  query.n = 2048;
  for (const std::int64_t choices : {4, 8}) {
    query.k = choices;
    CHECK(price(query, h200, *set).ns == 1000 * choices);
  }
  query.op = "quantize";
  query.dtype = "fp8-block";
  CHECK(price(query, h200, *set).ns == 3000);
  query.dtype = "fp8-tensor";
  CHECK(price(query, h200, *set).ns == 2000);
  query.n = 0;
  const auto roofline = Roofline::create(h200, *set);
  CHECK(price_operator(query, *roofline).errors().front().key == "n");
}

TEST_CASE("prompts of a head layout that was timed for one sequence follow layouts with more heads") {
  const HardwareProfile h200 = part("h200");
  const TableFolder folder(
      "dtype,kv_dtype,heads,kv_heads,head_dim,sequences,us,spread,kernel\n"
      "bf16,bf16,4,1,128,64@0,7,0,a\nbf16,bf16,8,2,128,64@0,8,0,a\nbf16,bf16,32,8,128,64@0,9,0,a\n"
      "bf16,bf16,32,8,128,4x64@0,20,0,a\n",
      "attention_prefill");
  const auto set = KernelSet::load(h200, "mine");
  REQUIRE(set.ok());
  OpQuery query;
  query.op = "attention_prefill";
  query.heads = 4;
  query.kv_heads = 1;
  query.head_dim = 128;
  query.sequences.assign(8, {64, 0});  // as many tiles as one prompt of 32 heads
  CHECK(price(query, h200, *set).ns == Approx(9000).epsilon(0.01));
  query.sequences.assign(32, {64, 0});
  CHECK(price(query, h200, *set).ns == Approx(20000).epsilon(0.01));
}

TEST_CASE("a shape narrower than any timed one waits for its start as long") {
  const HardwareProfile h200 = part("h200");
  OpQuery query;
  {
    const TableFolder folder(
        "op,dtype,rows,n,k,us,spread,kernel\nkv_write,bf16,1,512,0,2.7,0,a\nkv_write,bf16,65536,512,0,60,0,"
        "a\n",
        "elementwise");
    const auto set = KernelSet::load(h200, "mine");
    REQUIRE(set.ok());
    query.op = "kv_write";
    query.n = 128;
    query.m = 1;
    CHECK(price(query, h200, *set).ns > 2650);
    CHECK(price(query, h200, *set).ns <= 2700);
    query.m = 65536;  // what moves bytes moves fewer
    CHECK(price(query, h200, *set).ns < 55000);
    // Nor does a row four times as wide wait four times as long; what moves bytes moves four times as many.
    query.n = 2048;
    query.m = 1;
    CHECK(price(query, h200, *set).ns == Approx(2700).epsilon(0.001));
    query.m = 65536;
    CHECK(price(query, h200, *set).ns == Approx(2700 + 4 * 57300).epsilon(0.001));
  }
  const TableFolder folder(
      "dtype,m,n,k,us,spread,kernel\nbf16,1,256,2048,5.6,0,a\nbf16,64,256,2048,5.8,0,a\n");
  const auto set = KernelSet::load(h200, "mine");
  REQUIRE(set.ok());
  query.op = "gemm";
  query.m = 64;
  query.n = 128;
  query.k = 2048;
  CHECK(price(query, h200, *set).ns > 5500);
  CHECK(price(query, h200, *set).ns <= 5800);
}

TEST_CASE("a wide window without a table of its own is the full kernel at the keys that it leaves") {
  const HardwareProfile h200 = part("h200");
  const auto roofline = Roofline::create(h200, committed(h200));
  REQUIRE(roofline.ok());
  const auto cost = [&](const char* op, std::int64_t window, const StepShape& shape) {
    OpSpec spec;
    spec.heads = 32;
    spec.kv_heads = 8;
    spec.head_dim = 128;
    spec.window = window;
    return find_operator(op)->make(spec, *roofline)->cost({0, 0, &shape, 0});
  };
  StepShape shape;
  shape.decode_sequences = 16;
  shape.decode_context_tokens = 16 * 4095;
  const OpCost inside = cost("attention_decode", 4096, shape), full = cost("attention_decode", 0, shape);
  CHECK(inside.ns() == full.ns());
  CHECK(inside.error > full.error);
  shape.decode_context_tokens = 16 * 30000;  // no key beyond the window is read
  CHECK(cost("attention_decode", 4096, shape).ns() == full.ns());
  double before = 0;
  for (const std::int32_t fresh : {128, 256, 512, 1024, 2048}) {
    const std::vector<PrefillChunk> near{{fresh, 1024}}, far{{fresh, 8192}};
    const StepShape seen{.prefill = near}, beyond{.prefill = far};
    CHECK(cost("attention_prefill", 4096, seen).ns() == cost("attention_prefill", 0, seen).ns());
    const double ns = cost("attention_prefill", 4096, beyond).ns();
    CHECK(ns < cost("attention_prefill", 0, beyond).ns());
    CHECK(ns > before);
    before = ns;
  }
  const std::vector<PrefillChunk> chunks{{16384, 0}};
  const StepShape prompt{.prefill = chunks};
  const double windowed = cost("attention_prefill", 4096, prompt).ns(),
               whole = cost("attention_prefill", 0, prompt).ns();
  // Pairs within 4,096 keys of 16,384 tokens: 7/16 of all, at the rate of shorter prompts.
  CHECK(windowed > 0.4375 * whole);
  CHECK(windowed < 0.55 * whole);
}

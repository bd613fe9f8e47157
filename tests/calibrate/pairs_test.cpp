#include "calibrate/pairs.h"

#include <filesystem>

#include "base/files.h"
#include "catch.h"

using namespace orrery;
using namespace orrery::calibrate;

namespace {

std::vector<KernelPair> read(const std::string& text) {
  const auto path = (std::filesystem::temp_directory_path() / "orrery_pairs_test.yaml").string();
  REQUIRE(write_file_atomically(path, text).ok());
  auto pairs = load_pairs(path);
  std::filesystem::remove(path);
  if (!pairs.ok()) throw std::runtime_error(pairs.errors().front().message);
  return *pairs;
}

const std::string head =
    "pairs:\n  - name: a\n    case: c9\n    what: \"a test\"\n    part: h200\n"
    "    published: {ratio: 1.5, to: 2, source: \"nobody\"}\n";

Measurement takes(double us) {
  Measurement m;
  m.state = PointState::ok;
  m.us = us;
  m.kernel = "k";
  return m;
}

}  // namespace

TEST_CASE("both sides of a pair are sums over their operators, shape by shape") {
  const auto pairs = read(
      head +
      "    at: [{m: 4}, {m: 8, n: 512}]\n    before:\n      - {op: rms_norm, n: 256}\n"
      "      - {op: copy, bytes: 64, times: 3}\n    after:\n      - {op: rotary, m: 2, block_size: 64}\n");
  REQUIRE(pairs.size() == 1);
  REQUIRE(pairs[0].shapes.size() == 2);
  CHECK(pairs[0].shapes[1].text == "m=8 n=512");
  std::vector<kernels::CaseSpec> asked;
  const auto figures = measure_pair(pairs[0], [&](const kernels::CaseSpec& spec) {
    asked.push_back(spec);
    return takes(spec.op == "rotary" ? 4 : static_cast<double>(spec.m));
  });
  REQUIRE(figures.size() == 2);
  CHECK(figures[0].before_us == 4 + 3 * 4);  // one norm, three copies
  CHECK(figures[0].after_us == 4);
  CHECK(figures[1].ratio() == Approx(8));
  CHECK(asked[0].n == 256);  // an operator's own field goes before the shape's
  CHECK(asked[3].n == 256);
  CHECK(asked[2].m == 2);
  CHECK(asked[2].block_size == 64);
}

TEST_CASE("a kernel that this build lacks is a reason, not a figure") {
  const auto pairs =
      read(head + "    at: [{m: 4}]\n    before: [{op: rms_norm, n: 256}]\n    after: [{op: nothing}]\n");
  const auto figures = measure_pair(pairs[0], [](const kernels::CaseSpec& spec) {
    Measurement m = takes(5);
    if (spec.op == "nothing") {
      m.state = PointState::unsupported;
      m.why = "no kernel";
    }
    return m;
  });
  CHECK(figures[0].why == "nothing: no kernel");
  CHECK(figures[0].before_us == 0);
  CHECK(figures[0].ratio() == 0);
}

TEST_CASE("pairs that say nothing of a missing side, or have keys of no operator, are errors") {
  CHECK_THROWS(read(head + "    at: [{m: 4}]\n    before: [{op: rms_norm}]\n"));
  CHECK_THROWS(read(head + "    at: [{m: 4}]\n    not_priced: x\n    before: [{op: rms_norm}]\n"));
  CHECK_THROWS(
      read(head + "    at: [{m: 4, w: 1}]\n    before: [{op: rms_norm}]\n    after: [{op: rms_norm}]\n"));
  CHECK_THROWS(read(head + "    at: [{m: 4}]\n    before: [{n: 8}]\n    after: [{op: rms_norm}]\n"));
  CHECK_NOTHROW(read(head + "    at: [{m: 4}]\n    not_priced: x\n    not_measured: y\n"));
}

TEST_CASE("every pair of the case studies is priced or says why not") {
  const auto pairs = load_pairs(pairs_path()).value();
  CHECK(pairs.size() >= 15);
  for (const KernelPair& pair : pairs) {
    CAPTURE(pair.name);
    for (const PairFigure& figure : price_pair(pair)) {
      CAPTURE(figure.shape, figure.why);
      CHECK(figure.why == pair.not_priced);  // no other reason: an operator that cannot be priced is a slip
      if (figure.why.empty()) CHECK(figure.ratio() > 0.9);
    }
  }
}

TEST_CASE("a tile that is not swapped is priced by whole tiles of rows; the tile law by its search") {
  const auto pairs =
      read(head +
           "    kernels: orrery\n    at: [{m: 8}]\n"
           "    before: [{op: block_gemm_wgmma, dtype: fp8-block, n: 2112, k: 7168, tile: 128x64}]\n"
           "    after: [{op: block_gemm_wgmma, dtype: fp8-block, n: 2112, k: 7168}]\n");
  const auto padded = read(head +
                           "    kernels: orrery\n    at: [{m: 128}]\n"
                           "    before: [{op: block_gemm_wgmma, dtype: fp8-block, n: 2112, k: 7168}]\n"
                           "    after: [{op: block_gemm_wgmma, dtype: fp8-block, n: 2112, k: 7168}]\n");
  CHECK(price_pair(pairs[0])[0].before_us == Approx(price_pair(padded[0])[0].before_us));
  CHECK(price_pair(pairs[0])[0].after_us < price_pair(padded[0])[0].after_us);
}

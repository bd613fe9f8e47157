// AMD's libraries through the loader, on stand-ins (fake_rocm.cpp) in folders of their own: found and called,
// without a function, of a version that is too old, and not there.
#include "kernels/vendor_library.h"

#include <cstdlib>
#include <vector>

#include "catch.h"
#include "kernels/hipblaslt.h"
#include "kernels/rccl.h"
#include "kernels/small_floats.h"

using namespace orrery::kernels;

namespace {

// ROCM_PATH is asked when a library is constructed.
VendorLibrary library_in(const char* folder, Vendor vendor) {
  ::setenv("ROCM_PATH", folder, 1);
  return VendorLibrary(vendor);
}

int live_objects(const VendorLibrary& library) { return library.function<int()>("fake_live_objects")(); }

struct Product {
  static constexpr int m = 3, n = 5, k = 32;
  std::vector<std::uint16_t> a, w, out = std::vector<std::uint16_t>(m * n, 0xFFFF);
  std::vector<std::uint8_t> a8, w8;
  std::vector<unsigned char> workspace = std::vector<unsigned char>(16);
  float of_activations = 0.5F, of_weights = 0.25F;

  Product() {
    for (int i = 0; i < m * k; ++i) a.push_back(float_to_bf16(static_cast<float>(i % 7 - 3)));
    for (int i = 0; i < n * k; ++i) w.push_back(float_to_bf16(static_cast<float>(i % 5 - 2)));
    for (const std::uint16_t v : a) a8.push_back(float_to_fp8(bf16_to_float(v), Fp8Format::fnuz));
    for (const std::uint16_t v : w) w8.push_back(float_to_fp8(bf16_to_float(v), Fp8Format::fnuz));
  }
  double expected(int row, int column) const {
    double sum = 0;
    for (int i = 0; i < k; ++i)
      sum += bf16_to_float(a[static_cast<std::size_t>(row * k + i)]) *
             bf16_to_float(w[static_cast<std::size_t>(column * k + i)]);
    return sum;
  }
  void check(double scale) const {
    for (int row = 0; row < m; ++row) {
      for (int column = 0; column < n; ++column)
        CHECK(bf16_to_float(out[static_cast<std::size_t>(row * n + column)]) ==
              Approx(scale * expected(row, column)).epsilon(0.01));
    }
  }
};

}  // namespace

TEST_CASE("hipBLASLt multiplies as it is asked, and gives back what it made", "[kernels]") {
  const VendorLibrary library = library_in(FAKE_ROCM_GOOD, Vendor::hipblas_lt);
  REQUIRE(library.loaded());
  CHECK(library.file().find("libhipblaslt.so.0") != std::string::npos);
  Product p;
  std::string why;
  GemmOperands operands{p.a.data(), p.w.data(), p.out.data(), nullptr, nullptr, p.workspace.data()};
  {
    const auto plan = plan_hipblaslt_gemm(library, {GemmScaling::none, p.m, p.n, p.k}, false, why);
    CAPTURE(why);
    REQUIRE(plan != nullptr);
    CHECK(plan->algorithm() == "hipBLASLt 1200");
    REQUIRE(plan->launch(operands, nullptr));
    p.check(1);
    CHECK(live_objects(library) > 0);
  }
  CHECK(live_objects(library) == 0);
  // 8 bits: a scale for each operand, each on its own side; gfx942's format.
  const auto plan = plan_hipblaslt_gemm(library, {GemmScaling::tensor, p.m, p.n, p.k}, true, why);
  REQUIRE(plan != nullptr);
  operands = {p.a8.data(), p.w8.data(), p.out.data(), &p.of_activations, &p.of_weights, p.workspace.data()};
  REQUIRE(plan->launch(operands, nullptr));
  p.check(0.125);
  operands.workspace = nullptr;
  CHECK_FALSE(plan->launch(operands, nullptr));  // what the library refuses is a refusal
}

TEST_CASE("what hipBLASLt is not asked for, or cannot do, has a reason", "[kernels]") {
  std::string why;
  const GemmShape shape{GemmScaling::none, 4, 4, 32};
  const VendorLibrary good = library_in(FAKE_ROCM_GOOD, Vendor::hipblas_lt);
  for (const GemmScaling scaling : {GemmScaling::channel, GemmScaling::block}) {
    CHECK(plan_hipblaslt_gemm(good, {scaling, 4, 4, 32}, false, why) == nullptr);
    CHECK(why.find("scales") != std::string::npos);
  }
  const VendorLibrary lacking = library_in(FAKE_ROCM_LACKING, Vendor::hipblas_lt);
  REQUIRE(lacking.loaded());
  CHECK(plan_hipblaslt_gemm(lacking, shape, false, why) == nullptr);
  CHECK(why.find("lacks hipblasLtMatmul") != std::string::npos);
  const VendorLibrary old = library_in(FAKE_ROCM_OLD, Vendor::hipblas_lt);
  CHECK(plan_hipblaslt_gemm(old, shape, false, why) == nullptr);
  CHECK(why.find("version 300") != std::string::npos);
  CHECK(live_objects(old) == 0);
  const VendorLibrary nowhere = library_in("/nonexistent", Vendor::hipblas_lt);
  CHECK_FALSE(nowhere.loaded());
  CHECK(plan_hipblaslt_gemm(nowhere, shape, false, why) == nullptr);
  CHECK(why.find("libhipblaslt") != std::string::npos);
}

TEST_CASE("RCCL adds over ranks, each on its device", "[kernels]") {
  const VendorLibrary rccl = library_in(FAKE_ROCM_GOOD, Vendor::rccl);
  REQUIRE(rccl.loaded());
  std::string why;
  std::vector<std::uint16_t> a, b, sum_a(4), sum_b(4);
  for (int i = 0; i < 4; ++i) {
    a.push_back(float_to_bf16(static_cast<float>(i)));
    b.push_back(float_to_bf16(static_cast<float>(10 * i)));
  }
  const std::vector<RankBuffers> buffers{{a.data(), sum_a.data()}, {b.data(), sum_b.data()}};
  const std::vector<Stream> streams{nullptr, nullptr};
  // Stand-ins for RCCL and HIP are one library here, so that it sees which device is current.
  auto ranks = make_rccl_ranks(rccl, rccl, {1, 3}, why);
  CAPTURE(why);
  REQUIRE(ranks != nullptr);
  REQUIRE(ranks->all_reduce(4, buffers, streams, why));
  for (std::size_t i = 0; i < 4; ++i) {
    CHECK(bf16_to_float(sum_a[i]) == 11.0F * static_cast<float>(i));
    CHECK(sum_b[i] == sum_a[i]);
  }
  CHECK(rccl.function<int()>("fake_current_device")() == 3);
  CHECK_FALSE(ranks->all_reduce(4, {buffers[0]}, streams, why));
  ranks.reset();
  CHECK(live_objects(rccl) == 0);
  why.clear();
  CHECK(make_rccl_ranks(rccl, rccl, {-1}, why) == nullptr);
  CHECK(why == "ncclCommInitAll: invalid argument");
  auto beyond = make_rccl_ranks(rccl, rccl, {9, 10}, why);  // the ninth device is not there
  REQUIRE(beyond != nullptr);
  why.clear();
  CHECK_FALSE(beyond->all_reduce(4, buffers, streams, why));
  CHECK(why.find("hipSetDevice 9") != std::string::npos);
}

TEST_CASE("an RCCL without a call, or too old, or a missing HIP runtime is refused by name", "[kernels]") {
  std::string why;
  const VendorLibrary hip = library_in(FAKE_ROCM_GOOD, Vendor::hip);
  REQUIRE(hip.loaded());
  const VendorLibrary lacking = library_in(FAKE_ROCM_LACKING, Vendor::rccl);
  CHECK(make_rccl_ranks(lacking, hip, {0, 1}, why) == nullptr);
  CHECK(why.find("lacks ncclAllReduce") != std::string::npos);
  const VendorLibrary old = library_in(FAKE_ROCM_OLD, Vendor::rccl);
  CHECK(make_rccl_ranks(old, hip, {0, 1}, why) == nullptr);
  CHECK(why.find("NCCL 20400") != std::string::npos);
  const VendorLibrary rccl = library_in(FAKE_ROCM_GOOD, Vendor::rccl);
  const VendorLibrary no_hip = library_in("/nonexistent", Vendor::hip);
  CHECK(make_rccl_ranks(rccl, no_hip, {0, 1}, why) == nullptr);
  CHECK(why.find("libamdhip64") != std::string::npos);
}

// What a board draws: bounds, sums, and parts of which nothing is known.
#include "costmodel/energy.h"

#include "base/json.h"
#include "catch.h"

using namespace orrery;

namespace {

EnergyProfile h200() {
  auto hardware = load_hardware("h200");
  REQUIRE(hardware.ok());
  auto energy = load_energy(*hardware);
  if (!energy.ok()) FAIL(to_string(energy.errors()));
  return std::move(energy).value();
}

OpLine line(OpClass op_class, double flops, double bytes, std::int64_t ns, const char* shape = "bf16") {
  OpLine out;
  out.op_class = op_class;
  out.flops = flops;
  out.bytes = bytes;
  out.time_ns = ns;
  out.shape = shape;
  return out;
}

}  // namespace

TEST_CASE("an operator draws its floor, its bytes and its operations, up to the limit") {
  const EnergyProfile p = h200();
  // A microsecond of nothing: 534 W; with 200 MFLOP (200 TFLOP/s) 0.218 W for each; of decode attention 285
  // W, and with 2 MB (2 TB/s) 17.6 W for each.
  CHECK(joules_of(p, line(OpClass::gemm, 0, 0, 1000)).nominal == Approx(534e-6));
  CHECK(joules_of(p, line(OpClass::gemm, 2e8, 2e6, 1000)).nominal == Approx((534 + 43.6) * 1e-6));
  CHECK(joules_of(p, line(OpClass::attention_decode, 0, 2e6, 1000)).nominal == Approx((285 + 35.2) * 1e-6));
  // Beyond the limit of 700 W nothing is drawn, whatever the operations say.
  CHECK(joules_of(p, line(OpClass::gemm, 2e9, 4e6, 1000)).nominal == Approx(700e-6));
  CHECK(joules_of(p, line(OpClass::gemm, 2e9, 4e6, 1000)).high == Approx(700e-6));
  // The same work in twice the time: more joules, fewer watts.
  const double fast = joules_of(p, line(OpClass::gemm, 2e8, 2e6, 1000)).nominal;
  const double slow = joules_of(p, line(OpClass::gemm, 2e8, 2e6, 2000)).nominal;
  CHECK(slow > fast);
  CHECK(slow < 2 * fast);
  for (const OpClass c : {OpClass::gemm, OpClass::grouped_gemm, OpClass::attention_prefill,
                          OpClass::attention_decode, OpClass::collective, OpClass::sampling}) {
    const Joules j = joules_of(p, line(c, 1e8, 3e6, 1000));
    CHECK(j.low < j.nominal);
    CHECK(j.nominal <= j.high);
    CHECK(j.nominal >= idle_joules(p, 1e-6).nominal);  // planner bounds rest on it
  }
  // What overlaps takes the same off all ends: the upper one stays above.
  Joules both = joules_of(p, line(OpClass::gemm, 0, 0, 1000));
  both += joules_of(p, line(OpClass::elementwise, 0, 0, -400));
  CHECK(both.nominal == Approx((534 - 0.4 * 142) * 1e-6));
  CHECK(both.low < both.nominal);
  CHECK(both.nominal < both.high);
  CHECK(energy_class(line(OpClass::gemm, 0, 0, 1, "m=8 n=64 k=64 fp8-block")) == "gemm_fp8");
  CHECK(idle_joules(p, 8).nominal == Approx(1000));
}

TEST_CASE("a part without figures is an error that names the file") {
  auto hardware = load_hardware("mi300x");
  REQUIRE(hardware.ok());
  auto energy = load_energy(*hardware);
  REQUIRE_FALSE(energy.ok());
  CHECK(energy.errors().front().where.file.find("hardware_profiles/energy/mi300x.yaml") != std::string::npos);
  CHECK(to_string(energy.errors()).find("h200") != std::string::npos);
}

#include "calibrate/check.h"

#include <algorithm>
#include <array>
#include <filesystem>

#include "base/files.h"
#include "calibrate/check_children.h"
#include "calibrate/check_shapes.h"
#include "calibrate/point.h"
#include "catch.h"
#include "fake_device.h"

using namespace orrery;
using namespace orrery::calibrate;

namespace {

// A kernel that is wrong for one fill, or writes where it must not.
struct Behaviour {
  kernels::Fill wrong_for = kernels::Fill::random;
  bool wrong = false, compares_nothing = false;
};
Behaviour behaviour;
FakeWorld& world() {
  static FakeWorld w;
  return w;
}

class CheckedKernel : public FakeKernel {
 public:
  CheckedKernel(const kernels::CaseSpec& spec) : FakeKernel(world(), spec), fill_(spec.fill) {}
  kernels::CheckResult check(kernels::DeviceMemory&) override {
    if (behaviour.compares_nothing) return {true, 0, 0, ""};
    const bool wrong = behaviour.wrong && fill_ == behaviour.wrong_for;
    return {!wrong, wrong ? 40.0 : 0.25, 4096, wrong ? "out[3, 7] is 1, not 2" : ""};
  }

 private:
  kernels::Fill fill_;
};

std::unique_ptr<kernels::KernelCase> make_bf16(const kernels::CaseSpec& spec, std::string& why) {
  if (spec.dtype == "bf16") return std::make_unique<CheckedKernel>(spec);
  why = "bf16 only";
  return nullptr;
}
std::unique_ptr<kernels::KernelCase> make_nothing(const kernels::CaseSpec&, std::string& why) {
  why = "no library";
  return nullptr;
}

constexpr std::array entries{kernels::CaseEntry{"gemm", "", false, make_bf16},
                             kernels::CaseEntry{"rms_norm", "", true, make_bf16}};
constexpr std::array with_absent{kernels::CaseEntry{"gemm", "", false, make_bf16},
                                 kernels::CaseEntry{"all_reduce", "", false, make_nothing}};

CheckSummary run(std::span<const kernels::CaseEntry> table, FakeMemory& memory,
                 const CheckOptions& options = {}, const char* launch_error = nullptr) {
  const CheckTarget target{memory, [&](const std::function<void(kernels::Stream)>& body, std::string& why) {
                             body(nullptr);
                             if (launch_error != nullptr) why = launch_error;
                             return launch_error == nullptr;
                           }};
  return run_checks(table, target, options);
}

}  // namespace

TEST_CASE("right kernels pass over all adversarial shapes and fills") {
  behaviour = {};
  FakeMemory memory;
  const CheckSummary s = run(entries, memory);
  CHECK(s.good());
  CHECK(s.failed == 0);
  CHECK(s.passed + s.skipped == s.outcomes.size());
  CHECK(s.passed == static_cast<std::size_t>(memory.releases));
}

TEST_CASE("one wrong fill, a broken guard zone, a failed launch and an empty comparison each fail") {
  FakeMemory memory;
  behaviour = {kernels::Fill::with_nan, true, false};
  const CheckSummary wrong = run(entries, memory);
  CHECK_FALSE(wrong.good());
  CHECK(wrong.failed * 3 == wrong.passed);  // one of four fills
  CHECK(summary_text(wrong).find("40.000") != std::string::npos);
  behaviour = {};
  memory.intact = false;
  const CheckSummary broken = run(entries, memory);
  CHECK(broken.passed == 0);
  const auto failed = std::find_if(broken.outcomes.begin(), broken.outcomes.end(),
                                   [](const CheckOutcome& o) { return o.state == CheckState::failed; });
  REQUIRE(failed != broken.outcomes.end());
  CHECK(outcome_text(*failed).find("BROKEN") != std::string::npos);
  memory.intact = true;
  CHECK(run(entries, memory, {}, "illegal address").passed == 0);
  behaviour.compares_nothing = true;
  CHECK(run(entries, memory).passed == 0);
}

TEST_CASE("a check in which an operator never ran does not pass") {
  behaviour = {};
  FakeMemory memory;
  const CheckSummary s = run(with_absent, memory);
  CHECK_FALSE(s.good());
  REQUIRE(s.unchecked.size() == 1);
  CHECK(s.unchecked[0] == "all_reduce (no library)");
  CHECK(s.unavailable.empty());
  CheckOptions only;
  only.ops = {"gemm"};
  CHECK(run(with_absent, memory, only).good());
}

TEST_CASE("shapes hold what kernels get wrong") {
  const auto gemm = check_shapes("gemm");
  CHECK(std::any_of(gemm.begin(), gemm.end(), [](const auto& s) { return s.m == 1; }));
  CHECK(std::any_of(gemm.begin(), gemm.end(), [](const auto& s) { return s.m == 2053; }));
  const auto grouped = check_shapes("grouped_gemm");
  CHECK(std::any_of(grouped.begin(), grouped.end(), [](const auto& s) {
    return std::count(s.rows.begin(), s.rows.end(), 0) == static_cast<std::int64_t>(s.rows.size()) - 1;
  }));
  const auto decode = check_shapes("attention_decode");
  for (const std::int64_t context : {1, 131072}) {
    CHECK(std::any_of(decode.begin(), decode.end(), [&](const auto& s) {
      return std::find(s.contexts.begin(), s.contexts.end(), context) != s.contexts.end();
    }));
  }
  CHECK(check_fills().size() == 4);
}

TEST_CASE("every kernel of an operator is checked over that operator's shapes") {
  CHECK(check_shapes("grouped_gemm_wgmma").size() == check_shapes("grouped_gemm").size());
  CHECK(check_shapes("attention_prefill_cudnn").size() == check_shapes("attention_prefill").size());
  CHECK(shape_of(check_shapes("attention_prefill_wgmma")[0]) ==
        shape_of(check_shapes("attention_prefill")[0]));
}

TEST_CASE("a check that runs out of time says what it left out, and is good as far as it went") {
  behaviour = {};
  FakeMemory memory;
  double now = 0;
  std::vector<OperatorSummary> told;
  CheckOptions options;
  options.deadline = 10;
  options.seconds = [&] { return now; };
  options.report = [&](const CheckOutcome& o) { now += o.state == CheckState::passed ? 0.5 : 0; };
  options.operator_done = [&](const OperatorSummary& o) { told.push_back(o); };
  const CheckSummary s = run(entries, memory, options);
  CHECK(s.good());
  CHECK(now <= 10.5);
  CHECK(s.left_out > 0);
  CHECK(s.passed == 20);
  CHECK(summary_text(s).find(std::to_string(s.left_out) + " cases were LEFT OUT") != std::string::npos);
  REQUIRE(told.size() == 2);  // each got its share of the time
  CHECK(told[0].passed == 10);
  CHECK(told[1].passed == 10);
  CHECK(operator_text(told[0]).find("LEFT OUT") != std::string::npos);
}

TEST_CASE("a child that hangs, crashes or is missing fails its own operator and no other") {
  namespace fs = std::filesystem;
  const fs::path folder = fs::temp_directory_path() / "orrery_check_children";
  fs::remove_all(folder);
  auto log = CheckLog::open(folder.string(), "check", false);
  REQUIRE(log.ok());
  log->quiet = true;
  CheckOutcome fine;
  fine.op = "gemm";
  fine.shape = "bf16,1,2,3";
  fine.fill = "zeros";
  fine.state = CheckState::passed;
  fine.compared = 4096;
  const std::string line = outcome_json(fine).dump(), begun = R"({"begin":)" + line + "}";
  const auto script = [&](const std::string& op) -> std::string {
    const std::string write = "printf '%s\\n' '" + begun + "' '" + line + "' > \"$0\"; ";
    if (op == "hangs") return write + "printf '%s\\n' '" + begun + "' >> \"$0\"; exec sleep 30";
    return op == "crashes" ? write + "kill -SEGV $$" : write;
  };
  ChildOptions options;
  options.directory = folder.string();
  options.timeout_s = 1;
  options.at_once = 2;
  options.command = [&](const std::string& op, const std::string& part, double) {
    return std::vector<std::string>{op == "absent" ? "/nowhere/orrery" : "/bin/sh", "-c", script(op), part};
  };
  WallTimer timer;
  const double began = timer.seconds();
  const CheckSummary s = run_children({"hangs", "gemm", "crashes", "absent", "gemm"}, options, timer, *log);
  CHECK(timer.seconds() - began < 10);
  CHECK(s.passed >= 2);
  CHECK(s.failed == 3);
  CHECK_FALSE(s.good());
  std::string details;
  for (const CheckOutcome& o : s.outcomes) details += o.op + " " + o.shape + ": " + o.detail + "\n";
  CHECK(details.find("hangs bf16,1,2,3: hung: killed after 1.") != std::string::npos);
  CHECK(details.find("crashes after the last case: crashed: signal 11") != std::string::npos);
  CHECK(details.find("absent before the first case: its process") != std::string::npos);
  const auto text = read_text_file((folder / "check.log").string());
  REQUIRE(text.ok());
  CHECK(text->find("== hangs: 0 passed, 1 failed") != std::string::npos);
  options.deadline = timer.seconds();
  const CheckSummary late = run_children({"gemm"}, options, timer, *log);
  CHECK(late.left_out == 1);
  CHECK(late.good());
  fs::remove_all(folder);
}

// Decode steps of attention data parallelism over growing ranks: never shorter with more sequences, but where
// the engine's rule changes what runs.
#include <algorithm>
#include <string>

#include "catch.h"
#include "costmodel/read_instance.h"
#include "costmodel/step_pricer.h"

using namespace orrery;

namespace {

StepPricer pricer_of(const std::string& engine, const std::string& model, const std::string& plan) {
  Read r = read("hardware: h200\nmodel: " + model + "\nengine: " + engine + "\nparallel: " + plan + "\n");
  if (!r.errors.empty()) FAIL(to_string(r.errors));
  return StepPricer::create(r.spec).value();
}

StepBreakdown step_of(const StepPricer& pricer, std::int32_t sequences) {
  StepShape s;
  s.decode_sequences = sequences;
  s.decode_context_tokens = std::int64_t{1000} * sequences;
  return pricer.explain(s);
}

double link_bytes_of(const StepBreakdown& b, const std::string& name) {
  for (const OpLine& line : b.ops)
    if (line.name == name) return std::stod(line.shape.substr(line.shape.find('=') + 1));
  return 0;
}
bool has(const StepBreakdown& b, const std::string& name) {
  return std::any_of(b.ops.begin(), b.ops.end(), [&](const OpLine& line) { return line.name == name; });
}

// Calls `falls(before, after)` where one sequence more makes the busy time shorter.
template <class Falls>
std::int32_t scan(const StepPricer& pricer, std::int32_t first, std::int32_t last, Falls falls) {
  std::int32_t count = 0;
  StepBreakdown before = step_of(pricer, first);
  for (std::int32_t n = first + 1; n <= last; ++n) {
    CAPTURE(n);
    StepBreakdown now = step_of(pricer, n);
    if (static_cast<double>(now.timing.busy) < 0.999 * static_cast<double>(before.timing.busy)) {
      falls(before, now);
      ++count;
    }
    before = std::move(now);
  }
  return count;
}

}  // namespace

// The sum of the ranks' rows goes by all-reduce as long as it fits the buffer of SGLang's custom all-reduce,
// 16 MiB (`DpPaddingMode.get_default_mode_in_cuda_graph`), whatever the other way would take. Its kernel was
// timed to 8 MiB, and what the library takes stands in up to 16 (docs/parallel_plans.md).
TEST_CASE("SGLang's ranks: shorter only where their sum has outgrown the all-reduce's buffer") {
  constexpr double buffer = 16.0 * 1024 * 1024;
  for (const char* model : {"deepseek-v3", "qwen3-235b-a22b"}) {
    CAPTURE(model);
    const std::int32_t at = std::string(model) == "deepseek-v3" ? 288 : 512;  // · 4 ranks · hidden · 2 bytes
    const StepPricer pricer = pricer_of("sglang-0.5", model, "{dp: 4, tp: 2}");
    const std::int32_t falls =
        scan(pricer, at - 60, at + 60, [&](const StepBreakdown& before, const StepBreakdown& after) {
          CHECK(link_bytes_of(before, "dp_all_reduce") <= buffer);
          CHECK(has(before, "dp_all_reduce"));
          CHECK(link_bytes_of(after, "dp_all_gather") > buffer);
          CHECK_FALSE(has(after, "dp_all_reduce"));
          // No more than the collectives themselves are shorter.
          const auto collectives = [](const StepBreakdown& b) {
            std::int64_t ns = 0;
            for (const OpLine& line : b.ops)
              if (line.name.starts_with("dp_")) ns += line.time_ns;
            return ns;
          };
          CHECK(before.timing.busy - after.timing.busy <= collectives(before) - collectives(after));
        });
    CHECK(falls == 1);
  }
}

// Without padding (`cuda_graph_config.enable_padding`, off by default) a batch of a captured size alone is a
// graph, and all others wait between kernels that are launched one by one.
TEST_CASE("TensorRT-LLM's ranks: shorter only where a size was captured") {
  for (const char* model : {"qwen3-30b-a3b", "deepseek-v3"}) {
    CAPTURE(model);
    const StepPricer pricer = pricer_of("tensorrt-llm-1.2", model, "{dp: 8, ep: 8}");
    const std::int32_t falls =
        scan(pricer, 33, 140, [&](const StepBreakdown& before, const StepBreakdown& after) {
          CHECK(has(before, "stream_gaps"));
          CHECK_FALSE(has(after, "stream_gaps"));
        });
    CHECK(falls == 2);  // 64 and 128
  }
}

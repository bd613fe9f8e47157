// Experts drawn for each token: the same ones under every plan, order and scheduler, compared request by
// request.
#include <map>
#include <set>
#include <tuple>

#include "catch.h"
#include "sanitized.h"
#include "sim/costed/expert_run.h"
#include "sim/costed/run.h"

using namespace orrery;

namespace {

constexpr std::int64_t prompt = 100, outputs = 20;
constexpr std::uint64_t requests = 16;

struct Log final : ExpertChoiceLog {
  using Token = std::tuple<std::uint64_t, std::int64_t>;  // request, place
  std::map<std::tuple<std::uint64_t, std::int64_t, std::int32_t>, std::vector<std::uint16_t>> experts;
  std::set<Token> tokens;
  bool constant = true;
  void chose(RequestId request, std::int64_t place, std::int32_t layer,
             std::span<const std::uint16_t> chosen) override {
    const std::vector<std::uint16_t> now(chosen.begin(), chosen.end());
    const auto [it, is_new] = experts.try_emplace({request.value(), place, layer}, now);
    constant &= is_new || it->second == now;
    tokens.insert({request.value(), place});
  }
};

Scenario load(const std::string& plan, const std::string& engine, std::vector<std::string> more = {}) {
  ScenarioOptions options;
  options.overrides = {"deployment.hardware=h100",
                       "deployment.model=qwen3-30b-a3b",
                       "deployment.parallel=" + plan,
                       "deployment.engine=" + engine,
                       "deployment.experts={popularity: {zipf: 0.8}, routing: sampled}",
                       "workload={generator: {requests: 16, arrivals: {process: poisson, rate: 30}, input: "
                       "{distribution: fixed, value: 100}, output: {distribution: fixed, value: 20}}}"};
  options.overrides.insert(options.overrides.end(), more.begin(), more.end());
  auto s = load_scenario(std::string(ORRERY_SOURCE_DIR) + "/examples/qwen3-8b-h200.yaml", options);
  if (!s.ok()) FAIL(to_string(s.errors()));
  return s.value();
}

struct Run {
  Log log;
  RunResult result;
};
Run run(const Scenario& scenario, bool stretches = true) {
  Run r;
  RunOptions options;
  options.choices = &r.log;
  options.stretches = stretches;
  r.result = run_scenario(scenario, options).value();
  return r;
}

// A prompt's last token gives the first output; the others are of decodes, one a place.
std::set<Log::Token> decoded() {
  std::set<Log::Token> all;
  for (std::uint64_t r = 0; r < requests; ++r) {
    for (std::int64_t i = 0; i + 1 < outputs; ++i) all.insert({r, prompt + i});
  }
  return all;
}

void compare(const Run& a, const Run& b) {
  std::size_t common = 0, different = 0;
  for (const auto& [token, experts] : a.log.experts) {
    const auto other = b.log.experts.find(token);
    if (other == b.log.experts.end()) continue;
    ++common;
    different += other->second != experts;
  }
  CHECK(different == 0);
  CHECK(common > a.log.experts.size() / 4);
}

}  // namespace

TEST_CASE("TP4, EP8, EP2 of 4, attention ranks, three engines: a token's experts are its own") {
  const Run first = run(load("{tp: 8, ep: 8}", "vllm-0.24"));
  CHECK(first.log.constant);
  CHECK((first.log.tokens == decoded()));
  struct Other {
    const char *plan, *engine;
    std::vector<std::string> more;
  };
  const std::vector<Other> others = {
      {"{tp: 4}", "vllm-0.24", {}},
      {"{dp: 4, ep: 4}", "vllm-0.24", {}},
      {"{tp: 8, ep: 8}", "sglang-0.5", {}},
      {"{tp: 4, ep: 2}", "sglang-0.5", {}},
      {"{tp: 8, ep: 8}", "tensorrt-llm-1.2", {}},
      {"{tp: 2, pp: 2, ep: 2}", "vllm-0.24", {}},
      // Few blocks: sequences are thrown out and computed again, at the same places.
      {"{tp: 8, ep: 8}",
       "vllm-0.24",
       {"deployment.engine_args={num_gpu_blocks_override: 40, max_model_len: 640}"}},
      {"{tp: 8, ep: 8}", "vllm-0.24", {"deployment.engine_args={max_num_seqs: 2}"}}};
  for (const Other& other : others) {
    if (sanitized && other.more.empty()) continue;
    INFO(other.engine << " " << other.plan);
    const Run r = run(load(other.plan, other.engine, other.more));
    CHECK(r.result.completed == requests);
    CHECK(r.log.constant);
    CHECK((r.log.tokens == decoded()));
    compare(first, r);
  }
}

TEST_CASE("another seed is another draw; stretches and single steps are one") {
  if (sanitized) return;
  const Scenario s = load("{tp: 8, ep: 8}", "vllm-0.24");
  const Run a = run(s), b = run(s, false), c = run(load("{tp: 8, ep: 8}", "vllm-0.24", {"seed=2"}));
  CHECK(a.result.digest == b.result.digest);
  CHECK((a.log.tokens == b.log.tokens));
  compare(a, b);  // a stretch that is cut has looked at more layers of tokens to come
  std::size_t same = 0;
  for (const auto& [token, experts] : a.log.experts) {
    const auto other = c.log.experts.find(token);
    same += other != c.log.experts.end() && other->second == experts;
  }
  CHECK(same * 1000 < a.log.experts.size());
}

TEST_CASE("drafts are tokens at the places behind") {
  if (sanitized) return;
  const Run r =
      run(load("{tp: 8, ep: 8}", "vllm-0.24",
               {"deployment.speculation={method: ngram, tokens: 3, acceptance: 0.6, match_rate: 0.7}"}));
  CHECK(r.log.constant);
  for (const auto& [request, place] : r.log.tokens) CHECK((place >= prompt && place < prompt + outputs - 1));
}

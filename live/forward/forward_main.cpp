// orrery-forward-check [--time MODEL] [--sums MODEL]: the forward pass on the first GPU, and on the first
// two, held against its double-precision reference (forward_check.h); on two also ranks that fail on purpose.
// With
// --time also steps of a model, beside which `orrery cost` can be put; with --sums first, steps on two ranks
// with their sums and without, and no checks.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>
#include <vector>

#include "kernels/device.h"
#include "live/forward/forward_check.h"
#include "live/forward/step_forward.h"

namespace orrery {

namespace {

constexpr std::int32_t block = 16, context = 1024;

std::string told(const RankedForward::Options& ranks) {
  if (ranks.ranks == 1) return "";
  return std::string(" on two ranks") + (ranks.shares_experts ? " with half of the experts each, " : ", ") +
         (ranks.all_reduce == AllReduce::nccl ? "NCCL's all-reduce" : "own all-reduce");
}

bool check(const ModelSpec& model, ForwardCheckOptions options, kernels::Device& device) {
  const Result<ForwardCheck> checked = check_forward(model, options, device.memory());
  device.memory().release_all();
  if (!checked) {
    std::printf("%s: %s\n", model.name.c_str(), to_string(checked.errors()).c_str());
    return false;
  }
  std::printf(
      "%s%s%s%s, graphs %s: %s; %lld steps, %lld of them by %lld graphs; %lld rows, %lld of %lld tokens the "
      "reference's, %lld wrong; %lld logits, the worst %.2f deviations off (bound %.0f), median "
      "deviation %.2g %s\n",
      model.name.c_str(), options.fp32 ? " in fp32" : "", told(options.ranks).c_str(),
      options.zipf > 0 ? ", experts drawn" : "", options.graphs ? "on" : "off",
      checked->passed() ? "passed" : "FAILED", static_cast<long long>(checked->steps),
      static_cast<long long>(checked->graph_steps), static_cast<long long>(checked->graphs),
      static_cast<long long>(checked->rows), static_cast<long long>(checked->same_tokens),
      static_cast<long long>(checked->tokens), static_cast<long long>(checked->wrong_tokens),
      static_cast<long long>(checked->logits), checked->worst_deviations, bound_deviations,
      checked->median_deviation, checked->detail.c_str());
  return checked->passed();
}

bool check_two(bool graphs, kernels::Device& device) {
  bool good = true;
  ForwardCheckOptions options;
  options.graphs = graphs;
  options.ranks.ranks = 2;
  for (const AllReduce sum : {AllReduce::peers, AllReduce::nccl}) {
    options.ranks.all_reduce = sum;
    for (const ModelSpec& model : checked_models_of_two()) {
      for (const bool shared : {false, true}) {
        if (shared && model.experts == 0) continue;
        options.ranks.shares_experts = shared;
        options.zipf = shared ? 1 : 0;
        good = check(model, options, device) && good;
      }
    }
  }
  return good;
}

// A rank's third sum is refused, or never made: the step must end with an error on both.
bool check_fault(AllReduce sum, bool silent, kernels::Device& device) {
  ForwardOptions options;
  options.kv_blocks = options.max_rows = options.max_sequences = 1;
  options.max_positions = 16;
  options.random_kv = true;
  RankedForward::Options ranks;
  ranks.ranks = 2;
  ranks.all_reduce = sum;
  // The first sum of NCCL's ranks makes connections.
  ranks.fault = {1, sum == AllReduce::nccl ? 3 : 2, silent};
  ranks.patience_s = 2;
  std::string found = "no group";
  double seconds = 0;
  if (auto group = RankedForward::create(checked_models_of_two().front(), options, ranks, device.memory())) {
    const auto begin = std::chrono::steady_clock::now();
    const auto launched = (*group)->launch(least_step());
    if (!launched)
      found = to_string(launched.errors());
    else if (const auto sampled = (*group)->sampled(); !sampled)
      found = to_string(sampled.errors());
    else
      found = "";
    seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }
  device.memory().release_all();
  const bool good = found.find(silent ? "a step was not over" : "rank 1: ") != std::string::npos;
  std::printf("a sum that rank 1 %s, %s all-reduce: %s after %.2f s: %s\n",
              silent ? "never makes" : "refuses", sum == AllReduce::nccl ? "NCCL's" : "own",
              good ? "passed" : "FAILED", seconds, found.c_str());
  return good;
}

int check_all(kernels::Device& device, bool two) {
  bool good = true;
  for (const bool graphs : {false, true}) {
    ForwardCheckOptions options;
    options.graphs = graphs;
    for (const ModelSpec& model : checked_models()) good = check(model, options, device) && good;
    options.zipf = 1;
    good = check(tiny_model(true, Quantization::fp8_block), options, device) && good;
    options.zipf = 0;
    options.fp32 = true;
    good = check(tiny_model(), options, device) && good;
    if (two) good = check_two(graphs, device) && good;
  }
  for (const AllReduce sum : {AllReduce::peers, AllReduce::nccl})
    for (const bool silent : {false, true})
      if (two) good = check_fault(sum, silent, device) && good;
  std::fflush(stdout);
  return good ? 0 : 1;
}

// `decodes` sequences of `context` tokens, or one chunk of a prompt.
StepBatch step_of(std::int32_t decodes, std::int32_t chunk, bool graph) {
  StepBatch batch;
  batch.decodes = decodes;
  batch.padded_rows = graph ? decodes : 0;
  const std::int32_t sequences = decodes > 0 ? decodes : 1, tokens = decodes > 0 ? context : chunk;
  batch.max_blocks = (tokens + block - 1) / block;
  for (std::int32_t s = 0; s < sequences; ++s) {
    const std::int32_t rows = decodes > 0 ? 1 : chunk;
    batch.sequences.push_back({static_cast<std::int32_t>(batch.tokens.size()), rows, tokens});
    for (std::int32_t b = 0; b < batch.max_blocks; ++b)
      batch.block_tables.push_back(s * batch.max_blocks + b);
    for (std::int32_t i = tokens - rows; i < tokens; ++i) {
      batch.tokens.push_back(i % 1000);
      batch.positions.push_back(i);
      batch.slots.push_back(std::int64_t{s} * batch.max_blocks * block + i);
    }
    batch.sampled_rows.push_back(static_cast<std::int32_t>(batch.tokens.size()) - 1);
  }
  return batch;
}

// Median of the device's time and of the host's until the launches are queued, in microseconds.
void time_step(StepForward& forward, const StepBatch& batch, const char* what) {
  std::vector<double> device, host;
  for (int i = 0; i < 23; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    const Result<Unit> launched = forward.launch(batch);
    const auto end = std::chrono::steady_clock::now();
    if (!launched || !forward.sampled()) {
      std::printf("%s: %s\n", what, launched ? "failed" : to_string(launched.errors()).c_str());
      return;
    }
    if (i < 3) continue;  // products are planned, a graph is captured
    device.push_back(forward.step_ns() / 1e3);
    host.push_back(std::chrono::duration<double, std::micro>(end - begin).count());
  }
  std::sort(device.begin(), device.end());
  std::sort(host.begin(), host.end());
  std::printf("%s: device %.1f us (%.1f to %.1f), host until queued %.1f us\n", what, device[10], device[2],
              device[17], host[10]);
  std::fflush(stdout);
}

int time_model(const std::string& name, kernels::Device& device) {
  const Result<ModelSpec> model = load_model(name, "", "", "");
  if (!model) {
    std::printf("%s\n", to_string(model.errors()).c_str());
    return 1;
  }
  ForwardOptions options;
  options.kv_blocks = 256 * context / block;
  options.max_rows = 2048;
  options.max_sequences = 256;
  options.max_positions = 4096;
  options.random_kv = true;
  auto forward = StepForward::create(*model, options, device.memory());
  if (!forward) {
    std::printf("%s: %s\n", name.c_str(), to_string(forward.errors()).c_str());
    return 1;
  }
  for (const std::int32_t batch : {1, 64, 256}) {
    for (const bool graph : {false, true}) {
      const std::string what = name + ", decode " + std::to_string(batch) + "@" +
                               std::to_string(context - 1) + (graph ? ", graph" : ", eager");
      time_step(**forward, step_of(batch, 0, graph), what.c_str());
    }
  }
  time_step(**forward, step_of(0, 2048, false), (name + ", prefill 2048@0").c_str());
  forward->reset();
  device.memory().release_all();
  return 0;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// What a sum takes in a step: the step with sums less the step without, over their number; and how far apart
// ranks are that do not wait for each other.
int time_sums(const std::string& name, kernels::Device& device) {
  const Result<ModelSpec> model = load_model(name, "", "", "");
  if (!model) {
    std::printf("%s\n", to_string(model.errors()).c_str());
    return 1;
  }
  const std::vector<std::pair<std::int32_t, std::int32_t>> steps = {{1, 0},   {16, 0},   {64, 0},
                                                                    {0, 256}, {0, 1024}, {0, 2048}};
  std::vector<double> alone(steps.size());
  for (const AllReduce sum : {AllReduce::none, AllReduce::peers, AllReduce::nccl}) {
    ForwardOptions options;
    options.kv_blocks = 64 * context / block;
    options.max_rows = 2048;
    options.max_sequences = 64;
    options.max_positions = 2048;
    options.random_kv = true;
    RankedForward::Options ranks;
    ranks.ranks = 2;
    ranks.all_reduce = sum;
    auto forward = RankedForward::create(*model, options, ranks, device.memory());
    if (!forward) {
      std::printf("%s: %s\n", name.c_str(), to_string(forward.errors()).c_str());
      return 1;
    }
    const double sums = static_cast<double>(2 * model->layers + 1);
    for (std::size_t i = 0; i < steps.size(); ++i) {
      const StepBatch batch = step_of(steps[i].first, steps[i].second, steps[i].first > 0);
      std::vector<double> of_rank[2], slower;
      for (int n = 0; n < 33; ++n) {
        if (!(*forward)->launch(batch) || !(*forward)->sampled()) return 1;
        if (n < 3) continue;
        for (const std::size_t r : {0U, 1U}) of_rank[r].push_back((*forward)->of_rank(r).step_ns() / 1e3);
        slower.push_back(std::max(of_rank[0].back(), of_rank[1].back()));
      }
      if (sum == AllReduce::none) alone[i] = median(slower);
      std::printf("%s TP2, %s %d, sums %s: ranks %.1f, %.1f us, the slower %.1f; a sum %.2f us\n",
                  name.c_str(), steps[i].first > 0 ? "decode" : "prefill",
                  steps[i].first > 0 ? steps[i].first : steps[i].second,
                  sum == AllReduce::none    ? "left out"
                  : sum == AllReduce::peers ? "own"
                                            : "NCCL's",
                  median(of_rank[0]), median(of_rank[1]), median(slower), (median(slower) - alone[i]) / sums);
    }
    std::fflush(stdout);
    forward->reset();
    device.memory().release_all();
  }
  return 0;
}

int run(int count, char** arguments) {
  std::string why;
  const auto devices = kernels::devices(why);
  if (devices.empty()) {
    std::printf("%s\n", why.c_str());
    return 6;
  }
  kernels::Device& device = *devices.front();
  const kernels::DeviceInfo& info = device.info();
  std::printf("%s, driver %s, %s\n", info.name.c_str(), info.driver.c_str(), info.runtime.c_str());
  const bool times_sums = count > 2 && std::string(arguments[1]) == "--sums";
  int result = times_sums ? 0 : check_all(device, devices.size() > 1);
  for (int i = 1; i + 1 < count; i += 2) {
    if (std::string(arguments[i]) == "--time")
      result = std::max(result, time_model(arguments[i + 1], device));
    if (std::string(arguments[i]) == "--sums") result = std::max(result, time_sums(arguments[i + 1], device));
  }
  return result;
}

}  // namespace

}  // namespace orrery

int main(int count, char** arguments) { return orrery::run(count, arguments); }

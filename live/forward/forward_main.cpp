// orrery-forward-check [--time MODEL]: the forward pass on the first GPU, held against its double-precision
// reference (forward_check.h); with --time also steps of a model, beside which `orrery cost` can be put.
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

bool check(const ModelSpec& model, bool graphs, bool fp32, kernels::Device& device,
           const RankedForward::Options& ranks = {}) {
  ForwardCheckOptions options;
  options.ranks = ranks;
  options.graphs = graphs;
  options.fp32 = fp32;
  const Result<ForwardCheck> checked = check_forward(model, options, device.memory());
  device.memory().release_all();
  if (!checked) {
    std::printf("%s: %s\n", model.name.c_str(), to_string(checked.errors()).c_str());
    return false;
  }
  std::printf(
      "%s%s%s, graphs %s: %s; %lld steps, %lld of them by %lld graphs; %lld rows, %lld of %lld tokens the "
      "reference's, %lld wrong; %lld logits, the worst %.2f deviations off (bound %.0f), median "
      "deviation %.2g %s\n",
      model.name.c_str(), fp32 ? " in fp32" : "",
      ranks.ranks == 1                      ? ""
      : ranks.all_reduce == AllReduce::nccl ? " on two ranks, NCCL's all-reduce"
                                            : " on two ranks, own all-reduce",
      graphs ? "on" : "off", checked->passed() ? "passed" : "FAILED", static_cast<long long>(checked->steps),
      static_cast<long long>(checked->graph_steps), static_cast<long long>(checked->graphs),
      static_cast<long long>(checked->rows), static_cast<long long>(checked->same_tokens),
      static_cast<long long>(checked->tokens), static_cast<long long>(checked->wrong_tokens),
      static_cast<long long>(checked->logits), checked->worst_deviations, bound_deviations,
      checked->median_deviation, checked->detail.c_str());
  return checked->passed();
}

int check_all(kernels::Device& device, bool two) {
  bool good = true;
  for (const bool graphs : {false, true}) {
    for (const ModelSpec& model : checked_models()) good = check(model, graphs, false, device) && good;
    good = check(tiny_model(), graphs, true, device) && good;
    for (const AllReduce sum : {AllReduce::peers, AllReduce::nccl})
      for (const ModelSpec& model : two ? checked_models_of_two() : std::vector<ModelSpec>{})
        good = check(model, graphs, false, device, {2, sum}) && good;
  }
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
  int result = check_all(device, devices.size() > 1);
  for (int i = 1; i + 1 < count; i += 2) {
    if (std::string(arguments[i]) == "--time")
      result = std::max(result, time_model(arguments[i + 1], device));
  }
  return result;
}

}  // namespace

}  // namespace orrery

int main(int count, char** arguments) { return orrery::run(count, arguments); }

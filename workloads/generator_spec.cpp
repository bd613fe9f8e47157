// Reading `generator: {…}`.
#include <algorithm>
#include <cmath>

#include "workloads/generator.h"
#include "workloads/trace_reader.h"

namespace orrery {

namespace {

constexpr double kMaxLength = static_cast<double>(kMaxTokens);
constexpr double kTiny = 1e-9;  // smallest rate, mean and duration: zero is never meant

ArrivalSpec read_arrivals(const Yaml& node) {
  ArrivalSpec spec;
  using Kind = ArrivalSpec::Kind;
  constexpr Kind kKinds[] = {Kind::poisson, Kind::gamma, Kind::on_off, Kind::fixed};
  if (const Yaml process = node.optional("process")) {
    spec.kind = kKinds[process.choice({"poisson", "gamma", "on-off", "fixed"})];
  }
  spec.rate = node.require("rate").number(1, kTiny, 1e6);
  if (spec.kind == Kind::gamma) spec.cv = node.require("cv").number(1, 1e-3, 1e3);
  if (spec.kind == Kind::on_off) {
    spec.on_s = node.require("on_s").number(10, 1e-3, 1e9);
    spec.off_s = node.require("off_s").number(10, 1e-3, 1e9);
  }
  return spec;
}

std::vector<double> read_quantiles(const Yaml& node) {
  std::vector<double> quantiles;
  for (const Yaml& item : node.items()) {
    quantiles.push_back(item.number(1, 1, kMaxLength));
    if (quantiles.size() > 1 && quantiles.back() < quantiles[quantiles.size() - 2]) {
      item.fail("quantiles must not decrease");
    }
  }
  if (node.is_list() && quantiles.size() < 2)
    node.fail("expected at least two quantiles: the shortest and the longest");
  if (quantiles.size() < 2) quantiles = {1, 1};
  return quantiles;
}

LengthSpec read_length(const Yaml& node) {
  LengthSpec spec;
  using Kind = LengthSpec::Kind;
  constexpr Kind kKinds[] = {Kind::fixed, Kind::log_normal, Kind::uniform, Kind::empirical};
  spec.kind = kKinds[node.require("distribution").choice({"fixed", "log-normal", "uniform", "empirical"})];
  const Yaml low = spec.kind == Kind::uniform ? node.require("low") : node.optional("low");
  const Yaml high = spec.kind == Kind::uniform ? node.require("high") : node.optional("high");
  spec.low = low.number(spec.low, 1, kMaxLength);
  spec.high = high.number(spec.high, 1, kMaxLength);
  if (!low) spec.low = 1;
  if (!high) spec.high = 131072;
  if (spec.high < spec.low) {
    high.fail("expected at least low = " + std::to_string(spec.low));
    spec.high = spec.low;
  }
  if (spec.kind == Kind::uniform && std::floor(spec.high) < std::ceil(spec.low)) {
    high.fail("no whole number lies between low and high");
    spec.high = spec.low = std::floor(spec.low);
  }
  const auto bounded = [&](const char* key) {
    const Yaml value = node.require(key);
    const double number = value.number(1, 1, kMaxLength);
    if (value && (number < spec.low || number > spec.high)) {
      value.fail("lies outside the bounds low and high (default 1 and 131072); set them as well");
    }
    return number;
  };
  if (spec.kind == Kind::fixed) spec.value = bounded("value");
  if (spec.kind == Kind::log_normal) {
    spec.mean = bounded("mean");
    spec.cv = node.require("cv").number(1, 1e-3, 1e3);
  }
  if (spec.kind == Kind::empirical) {
    const Yaml quantiles = node.require("quantiles");
    spec.quantiles = read_quantiles(quantiles);
    if (quantiles && (spec.quantiles.front() < spec.low || spec.quantiles.back() > spec.high)) {
      quantiles.fail(
          "quantiles lie outside the bounds low and high (default 1 and 131072); set them as well");
    }
  }
  return spec;
}

SessionSpec read_sessions(const Yaml& node) {
  SessionSpec spec;
  if (const Yaml turns = node.optional("turns_mean")) spec.turns_mean = turns.number(1, 1, 1e6);
  if (const Yaml think = node.optional("think_s")) spec.think_s = think.number(10, 1e-6, 1e9);
  if (const Yaml shared = node.optional("shared_prefix_tokens")) {
    spec.shared_prefix_tokens = static_cast<std::int32_t>(shared.integer(0, 0, 10'000'000));
  }
  if (const Yaml groups = node.optional("prefix_groups")) {
    spec.prefix_groups = static_cast<std::int32_t>(groups.integer(1, 1, 100'000));
  }
  if (const Yaml longest = node.optional("max_prompt_tokens")) {
    spec.max_prompt_tokens = static_cast<std::int32_t>(longest.integer(131072, 1, kMaxTokens));
  }
  return spec;
}

ServegenSpec read_servegen(const Yaml& node) {
  ServegenSpec spec;
  spec.folder = node.require("folder").text();
  if (const Yaml start = node.optional("start_s")) spec.start_s = start.number(0, 0, 1e9);
  if (const Yaml rate = node.optional("rate")) spec.rate = rate.number(1, kTiny, 1e6);
  return spec;
}

}  // namespace

GeneratorSpec read_generator(const Yaml& node) {
  GeneratorSpec spec;
  spec.requests = static_cast<std::uint64_t>(node.require("requests").integer(1000, 1, 2'000'000'000));
  if (const Yaml servegen = node.optional("servegen")) {
    // Any other key stays unasked for, and so is reported as unknown here.
    spec.servegen = read_servegen(servegen);
    return spec;
  }
  spec.arrivals = read_arrivals(node.require("arrivals"));
  if (const Yaml resample = node.optional("resample")) {
    spec.resample = resample.text();
    for (const char* key : {"input", "output"}) {
      if (const Yaml other = node.optional(key))
        other.fail("resample replaces input and output; remove one of the two");
    }
  } else {
    spec.input = read_length(node.require("input"));
    spec.output = read_length(node.require("output"));
  }
  if (const Yaml sessions = node.optional("sessions")) spec.sessions = read_sessions(sessions);
  return spec;
}

}  // namespace orrery

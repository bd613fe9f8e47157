#include "costmodel/figure_changes.h"

#include <algorithm>
#include <array>
#include <functional>

#include "base/json.h"
#include "base/text.h"
#include "costmodel/host_terms.h"

namespace orrery {

namespace {

template <class Q>
double number_of(const Figure<Q>& figure) {
  if constexpr (std::is_same_v<Q, double>)
    return figure.value;
  else
    return figure.value.value();
}

template <class Q>
void replace(Figure<Q>& figure, double value) {
  figure.source = "what-if: overrides.figures, instead of " + format_number(number_of(figure)) + " (" +
                  to_string(figure.kind) + ": " + figure.source + ")";
  figure.kind = FigureKind::assumed;
  figure.value = Q(value);
}

// A name that a scenario may change.
struct Change {
  std::string name;
  bool exists = true;         // false: the part has no such figure to replace
  bool zero_allowed = false;  // times of a host
  double most = 1e30;         // 1 for ratios
  std::function<void(double)> apply = {};
  std::string why_not = {};  // it would change nothing, or not what is meant
};

template <class Q>
Change change(std::string name, Figure<Q>& figure, double most = 1e30) {
  return {
      .name = std::move(name), .exists = figure.present(), .most = most, .apply = [&figure](double value) {
        replace(figure, value);
      }};
}

Change refused(const char* name, const char* why) { return {.name = name, .why_not = why}; }

// Tables price what they know, and an efficiency of the roofline then moves nothing.
std::string table_instead(const InstanceSpec& spec, const std::string& efficiency) {
  if (spec.kernels == nullptr) return "";
  for (const char* op : {"grouped_gemm", "gemm", "attention_prefill", "attention_decode", "collective"}) {
    if (!efficiency.starts_with(op)) continue;
    const bool experts = op == std::string_view("grouped_gemm") && spec.kernels->points("experts") > 0;
    if (spec.kernels->points(op) == 0 && !experts) return "";
    return "tables of " + spec.kernels->name() + " price this on " + spec.hardware.name +
           "; use overrides.op_scale, or kernels: roofline";
  }
  return "";
}

void add_rates(InstanceSpec& spec, std::vector<Change>& out) {
  HardwareProfile& h = spec.hardware;
  for (std::size_t i = 0; i < static_cast<std::size_t>(DType::count); ++i) {
    const std::string name = std::string("matrix_rate_") + to_string(static_cast<DType>(i));
    const auto found = h.matrix_rate.find(static_cast<DType>(i));
    out.push_back(found != h.matrix_rate.end() ? change(name, found->second)
                                               : Change{.name = name, .exists = false});
  }
  out.push_back(h.vector_rate ? change("vector_rate", *h.vector_rate)
                              : Change{.name = "vector_rate", .exists = false});
  for (auto& [name, efficiency] : h.efficiency) {
    out.push_back(change("efficiency_" + name, efficiency.value, 1));
    out.back().why_not = table_instead(spec, name);
  }
}

std::vector<Change> changes_of_part(InstanceSpec& spec) {
  HardwareProfile& h = spec.hardware;
  std::vector<Change> out;
  out.push_back(change("memory_bandwidth", h.memory_bandwidth));
  out.push_back(change("hbm_bandwidth", h.memory_bandwidth));  // interfaces §3 calls it so
  out.push_back(change("memory_total", h.memory_total));
  add_rates(spec, out);
  out.push_back(change("compute_units", h.compute_units));
  out.push_back(change("kernel_floor", h.kernel_floor));
  Change cache = change("last_level_cache", h.last_level_cache);
  cache.apply = [&h](double value) {
    replace(h.last_level_cache, value);
    if (value < h.l2.value.value()) replace(h.l2, value);  // prices take the larger of the two
  };
  out.push_back(std::move(cache));
  out.push_back(change("link_bandwidth", h.link_bandwidth));
  out.push_back(change("link_pair_bandwidth", h.link_pair_bandwidth));
  out.push_back(change("link_efficiency", h.link_efficiency, 1));
  out.push_back(change("collective_latency", h.collective_latency));
  out.push_back(change("pcie_bandwidth", h.pcie_bandwidth));
  Change price{.name = "price"};
  price.apply = [&h](double value) {
    h.price = Figure<UsdPerHour>{UsdPerHour(value), FigureKind::assumed, "what-if: overrides.figures"};
  };
  out.push_back(std::move(price));
  out.push_back(refused("l2", "say last_level_cache: prices take the larger of the two"));
  out.push_back(refused("clock_peak", "no price reads the clock; say matrix_rate_bf16, vector_rate, …"));
  out.push_back(
      refused("nic_bandwidth", "rates of a network are deployment.topology's (nic_gbps, or a file)"));
  out.push_back(refused("power", "no price reads it"));
  return out;
}

std::vector<Change> changes_of_host(EngineProfile& engine) {
  std::vector<Change> out;
  for (const HostTerm& term : host_terms(engine.host)) {
    out.push_back(change(term.key, *term.figure));
    out.back().exists = true;  // 0 where the profile has none
  }
  out.push_back(change("first_kernel", engine.host.first_kernel, 1));
  for (Change& c : out) c.zero_allowed = true;
  return out;
}

std::vector<Change> changes_of_front_end(EngineProfile& engine) {
  std::vector<Change> out;
  if (!engine.front_end) return out;
  FrontEndCosts& f = *engine.front_end;
  out.push_back(change("request", f.request));
  out.push_back(change("tokenize", f.tokenize));
  out.push_back(change("message", f.message));
  out.push_back(change("detokenize", f.detokenize));
  out.push_back(change("event", f.event));
  for (Change& c : out) c.zero_allowed = true;
  return out;
}

void apply_all(const std::vector<std::pair<std::string, Yaml>>& entries, const std::vector<Change>& changes,
               const std::string& owner, const std::vector<std::string>& more_names) {
  std::vector<std::string> names = more_names;
  for (const Change& c : changes) {
    if (c.why_not.empty()) names.push_back(c.name);
  }
  for (const auto& [name, value] : entries) {
    const auto found =
        std::find_if(changes.begin(), changes.end(), [&, n = name](const Change& c) { return c.name == n; });
    if (found == changes.end()) {
      value.fail("unknown figure" + did_you_mean(name, names) + "; known: " + join(names, ", "));
    } else if (!found->why_not.empty()) {
      value.fail("would change nothing: " + found->why_not);
    } else if (!found->exists) {
      value.fail(owner +
                 " has no such figure to replace; add it to a profile of your own (hardware: path.yaml)");
    } else {
      const double number = value.number(1, 0, found->most);
      if (number == 0 && !found->zero_allowed) value.fail("a number above 0 was expected, in base units");
      if (number > 0 || found->zero_allowed) found->apply(number);
    }
    if (value.is_map()) value.entries();
  }
}

}  // namespace

void change_figures(const Yaml& node, InstanceSpec& spec) {
  if (!node.present()) return;
  std::vector<std::pair<std::string, Yaml>> of_part;
  for (auto& [name, value] : node.entries()) {
    if (name == "host") {
      apply_all(value.entries(), changes_of_host(spec.engine), spec.engine.name, {});
    } else if (name == "front_end" && spec.engine.front_end) {
      apply_all(value.entries(), changes_of_front_end(spec.engine), spec.engine.name, {});
    } else {
      of_part.emplace_back(name, value);
    }
  }
  const auto both = [&](const char* one, const char* other) {
    const Yaml second = node.optional(other);
    if (node.optional(one).present() && second.present())
      second.fail(std::string("is the same figure as ") + one + "; give one of them");
  };
  both("hbm_bandwidth", "memory_bandwidth");
  apply_all(of_part, changes_of_part(spec), spec.hardware.name, {"host", "front_end"});
}

}  // namespace orrery

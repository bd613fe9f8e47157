#include "plan/space.h"

#include <algorithm>
#include <filesystem>

#include "base/json.h"
#include "base/text.h"
#include "base/yaml_reader.h"
#include "plan/workloads_reader.h"

namespace orrery {

namespace {

const std::vector<std::string> objective_names = {"gpus",    "cost", "throughput", "latency",
                                                  "goodput", "rate", "energy"};

// `parallel` beside `parallel.tp`: the one that is set later would undo the other.
bool within(const std::string& inner, const std::string& outer) {
  return inner.starts_with(outer) && inner.size() > outer.size() &&
         (inner[outer.size()] == '.' || inner[outer.size()] == '[');
}

std::vector<PlanAxis> read_axes(const Yaml& node) {
  std::vector<PlanAxis> axes;
  if (!node.present()) return axes;
  for (const auto& [key, values] : node.entries()) {
    PlanAxis axis{.key = key, .values = {}, .where = values.where()};
    if (key.empty() || key.find('=') != std::string::npos) values.fail("is no path of a key");
    if (!values.is_list()) {
      values.fail("needs a list of values to try, as [1, 2, 4]");
      continue;
    }
    for (const Yaml& value : values.items()) {
      axis.values.push_back(flow_text(value));
      if (std::count(axis.values.begin(), axis.values.end(), axis.values.back()) > 1)
        value.fail("stands twice in this list");
    }
    for (const PlanAxis& other : axes) {
      if (within(key, other.key) || within(other.key, key))
        values.fail("is varied together with " + other.key + ", and one holds the other; vary one of them");
    }
    if (axis.values.empty()) values.fail("an empty list leaves nothing to try; give it a value or remove it");
    axes.push_back(std::move(axis));
  }
  return axes;
}

std::vector<PlanShape> read_shapes(const Yaml& search) {
  const std::vector<PlanAxis> common = read_axes(search.optional("vary"));
  const Yaml list = search.optional("shapes");
  if (!list.present()) return {{.name = "", .deployment = "", .axes = common}};
  std::vector<PlanShape> shapes;
  for (const Yaml& node : list.items()) {
    PlanShape shape;
    const Yaml name = node.require("name");
    shape.name = name.text();
    for (const PlanShape& other : shapes) {
      if (other.name == shape.name) name.fail("two shapes have this name");
    }
    if (const Yaml deployment = node.optional("deployment"); deployment.present())
      shape.deployment = flow_text(deployment);
    shape.axes = common;
    for (PlanAxis& own : read_axes(node.optional("vary"))) {
      std::erase_if(shape.axes, [&](const PlanAxis& axis) {
        return axis.key == own.key || within(axis.key, own.key) || within(own.key, axis.key);
      });
      shape.axes.push_back(std::move(own));
    }
    shapes.push_back(std::move(shape));
  }
  if (shapes.empty()) list.fail("an empty list leaves nothing to search; remove it or name a shape");
  return shapes;
}

void read_parts(const Yaml& search, PlanSpace& space) {
  if (const Yaml owned = search.optional("owned"); owned.present()) {
    if (owned.entries().empty()) owned.fail("an empty map owns nothing; remove it, or name a part");
    for (const auto& [part, count] : owned.entries())
      space.owned.emplace_back(part, count.integer(0, 0, 1'000'000));
  }
  if (const Yaml prices = search.optional("prices"); prices.present()) {
    for (const auto& [part, price] : prices.entries())
      space.prices.emplace_back(part, price.number(1, 1e-6, 1e6));
  }
  if (const Yaml replicas = search.optional("replicas"); replicas.present())
    space.most_replicas = replicas.require("up_to").integer(1, 1, 4096);
}

std::vector<double> read_factors(const Yaml& node, double most) {
  std::vector<double> factors;
  if (!node.present()) return factors;
  for (const Yaml& item : node.items()) factors.push_back(item.number(1, 1e-3, most));
  return factors;
}

void read_around(const Yaml& search, PlanSpace& space) {
  space.growth = search.optional("growth").number(1, 1e-3, 1e3);
  space.peak = search.optional("peak").number(1, 1, 1e3);
  if (const Yaml node = search.optional("what_if"); node.present()) {
    space.what_if.traffic = read_factors(node.optional("traffic"), 1e3);
    space.what_if.prompts = read_factors(node.optional("prompts"), 1e3);
    space.what_if.hit_rate = read_factors(node.optional("hit_rate"), 1);
    static const std::vector<std::string> losses = {"instance", "node"};
    if (const Yaml lost = node.optional("lost"); lost.present()) {
      for (const Yaml& item : lost.items()) space.what_if.lost.push_back(losses[item.choice(losses)]);
    }
  }
  if (const Yaml node = search.optional("curves"); node.present()) {
    space.curves.rates = read_factors(node.optional("rates"), 1e3);
    if (const Yaml counts = node.optional("instances"); counts.present()) {
      for (const Yaml& item : counts.items()) space.curves.instances.push_back(item.integer(1, 1, 4096));
    }
  }
}

// A closed loop's clients send when they are answered: a rate says nothing of them.
void refuse_rates_of_closed_loop(const Yaml& root, const Yaml& search, const PlanSpace& space) {
  const bool of_one = std::any_of(space.workloads.begin(), space.workloads.end(),
                                  [](const PlanWorkload& w) { return w.closed_loop; });
  if (!of_one && !root.optional("workload").optional("closed_loop").present()) return;
  const auto refuse = [&](const Yaml& key) {
    key.fail(
        "says nothing of a closed loop, whose clients send when they are answered; change "
        "workload.closed_loop.concurrency, or leave closed_loop out");
  };
  if (space.growth != 1) refuse(search.optional("growth"));
  if (space.peak != 1) refuse(search.optional("peak"));
  if (!space.what_if.traffic.empty()) refuse(search.optional("what_if").optional("traffic"));
  if (!space.curves.rates.empty()) refuse(search.optional("curves").optional("rates"));
  if (space.objective == PlanObjective::rate) refuse(search.optional("objective"));
}

constexpr const char* scenario_keys[] = {"deployment", "workload", "slo",     "seed",
                                         "overrides",  "faults",   "recovery"};

// What stands below these keys is for the reader of scenarios to judge.
bool is_scenarios(const std::string& key) {
  return std::any_of(std::begin(scenario_keys), std::end(scenario_keys), [&](const std::string& name) {
    return key.starts_with(name + ".") || key.starts_with(name + "[");
  });
}

}  // namespace

const char* to_string(PlanObjective objective) {
  return objective_names[static_cast<std::size_t>(objective)].c_str();
}

std::uint64_t PlanShape::combinations() const {
  constexpr std::uint64_t cap = std::uint64_t{1} << 40;
  std::uint64_t product = 1;
  for (const PlanAxis& axis : axes)
    product = std::min(cap, product * std::max<std::uint64_t>(1, axis.values.size()));
  return product;
}

std::uint64_t PlanSpace::candidates() const {
  std::uint64_t sum = 0;
  for (const PlanShape& shape : shapes) sum += shape.combinations();
  return sum;
}

double PlanSpace::price_of(const std::string& part) const {
  for (const auto& [name, price] : prices) {
    if (name == part) return price;
  }
  return 0;
}

Result<PlanSpace> load_space(const std::string& path, const SpaceOptions& options) {
  ORRERY_TRY(document, YamlDocument::load(path));
  for (const std::string& assignment : options.overrides) ORRERY_TRY_STATUS(document.set(assignment));
  if (!options.trace.empty()) {
    if (document.root().optional("search").optional("workloads").present())
      return make_error(ErrorKind::usage, "--trace names one workload, and search.workloads several");
    document.erase("workload.generator");
    const std::string trace = std::filesystem::absolute(options.trace).lexically_normal().string();
    ORRERY_TRY_STATUS(document.set_text("workload.trace", trace));
  }
  if (options.seed >= 0) ORRERY_TRY_STATUS(document.set("seed=" + std::to_string(options.seed)));
  PlanSpace space;
  space.file = path;
  const Yaml root = document.root();
  for (const char* key : scenario_keys) root.optional(key);
  const Yaml search = root.require("search");
  space.shapes = read_shapes(search);
  space.objective = static_cast<PlanObjective>(search.require("objective").choice(objective_names));
  read_parts(search, space);
  read_around(search, space);
  space.finalists = search.optional("finalists").integer(8, 1, 1000);
  space.draws = search.optional("draws").integer(16, 2, 1000);
  ORRERY_TRY_STATUS(
      read_plan_workloads(root, search, std::filesystem::path(path).parent_path().string(), space));
  const bool each_has_slo =
      !space.workloads.empty() && std::all_of(space.workloads.begin(), space.workloads.end(),
                                              [](const PlanWorkload& w) { return w.has_slo; });
  const bool has_slo = root.optional("slo").present() || each_has_slo;
  if (space.most_replicas > 0 && !has_slo)
    search.optional("replicas").fail("as few replicas as meet the SLO: give `slo:`");
  const bool of_slo = space.objective == PlanObjective::gpus || space.objective == PlanObjective::goodput ||
                      space.objective == PlanObjective::rate;
  if (of_slo && !has_slo) search.optional("objective").fail("says nothing without limits: give `slo:`");
  if (space.most_replicas > 0 && space.objective == PlanObjective::rate)
    search.optional("replicas")
        .fail(
            "as few as meet the SLO at the workload's rate, and `rate` looks for that "
            "rate; vary `replicas` instead");
  if (space.candidates() > most_candidates) {
    search.fail("these are " + std::to_string(space.candidates()) + " combinations; at most " +
                std::to_string(most_candidates) + " are searched: shorten lists");
  }
  refuse_rates_of_closed_loop(root, search, space);
  document.finish();
  Errors errors = document.errors();
  std::erase_if(errors, [](const Error& error) { return is_scenarios(error.key); });
  if (!errors.empty()) return errors;
  document.erase("search");
  space.document = document.dump();
  return space;
}

}  // namespace orrery

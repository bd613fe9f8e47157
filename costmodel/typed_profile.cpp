#include "costmodel/typed_profile.h"

#include <array>
#include <utility>

#include "costmodel/profile_reader.h"
#include "costmodel/typed_defaults.h"

namespace orrery {

namespace {

constexpr double unlimited = 1e15;

OptionValue read_scalar(const Yaml& node, TypedArgument::Type type) {
  switch (type) {
    case TypedArgument::Type::integer: return node.integer(0);
    case TypedArgument::Type::number: return node.number(0);
    case TypedArgument::Type::boolean: return node.boolean(false);
    case TypedArgument::Type::choice: break;
  }
  return node.text();
}

TypedArgument read_argument(const std::string& name, const Yaml& row) {
  static const std::vector<std::string> types{"integer", "number", "boolean", "choice"};
  TypedArgument a;
  a.name = name;
  a.type = static_cast<TypedArgument::Type>(row.require("type").choice(types));
  a.least = row.optional("least").number(0);
  a.most = row.optional("most").number(unlimited);
  if (a.type == TypedArgument::Type::choice) {
    for (const Yaml& choice : row.require("choices").items()) a.choices.push_back(choice.text());
  }
  if (const Yaml needs = row.optional("needs"); needs.present()) {
    a.needs = needs.require("argument").text();
    for (const Yaml& value : needs.require("among").items()) a.among.push_back(value.text());
  }
  const Yaml fallback = row.require("default");
  const std::string text = fallback.scalar_text();
  if (text == "by_device") {
    a.fallback = TypedArgument::Default::by_device;
  } else if (text == "by_model") {
    a.fallback = TypedArgument::Default::by_model;
  } else if (text == "open") {
    a.fallback = TypedArgument::Default::open;
  } else {
    a.value = read_scalar(fallback, a.type);
  }
  return a;
}

void read_devices(const Yaml& node, TypedProfile& profile) {
  node.require("source").text();
  profile.wide_from_tp = node.require("wide_from_tp").integer(4, 1);
  for (const Yaml& row : node.require("rows").items()) {
    TypedProfile::Device device;
    for (const auto& [key, value] : row.entries()) {
      if (key == "memory_below") {
        device.memory_below = read_figure<Bytes>(value).value;
      } else if (value.is_list()) {
        for (const Yaml& one : value.items()) device.values[key].push_back(one.integer(1, 1));
      } else {
        device.values[key].push_back(value.integer(1, 1));
      }
    }
    profile.devices.push_back(std::move(device));
  }
  if (profile.devices.empty() || profile.devices.back().memory_below.value() > 0)
    node.fail("the last row must hold for every device: no memory_below");
}

GraphSizes read_sizes(const Yaml& node) {
  GraphSizes sizes;
  for (const Yaml& size : node.require("dense").items()) sizes.dense.push_back(size.integer(1, 1));
  for (const Yaml& row : node.require("ranges").items())
    sizes.ranges.push_back({row.require("from").integer(1, 1), row.optional("to").integer(0, 0),
                            row.require("step").integer(1, 1)});
  sizes.append_limit = node.require("append_limit").boolean(false);
  if (const Yaml vendors = node.optional("vendors"); vendors.present()) {
    for (const Yaml& vendor : vendors.items()) sizes.vendors.push_back(vendor.text());
  }
  return sizes;
}

StaticFraction read_memory(const Yaml& node) {
  StaticFraction m;
  const std::array<std::pair<const char*, Figure<Bytes>*>, 9> bytes{{
      {"before_load", &m.before_load},
      {"driver_more", &m.driver_more},
      {"constant", &m.constant},
      {"per_token", &m.per_token},
      {"per_gpu", &m.per_gpu},
      {"per_decode_slot", &m.per_decode_slot},
      {"per_prefill_graph", &m.per_prefill_graph},
      {"floor", &m.floor},
      {"floor_above", &m.floor_above},
  }};
  for (const auto& [key, figure] : bytes) *figure = read_figure<Bytes>(node.require(key), true);
  const std::array<std::pair<const char*, Figure<double>*>, 5> counts{{
      {"least_tokens", &m.least_tokens},
      {"sequences_per_context", &m.sequences_per_context},
      {"least_sequences", &m.least_sequences},
      {"most_sequences", &m.most_sequences},
      {"tokens_per_sequence", &m.tokens_per_sequence},
  }};
  for (const auto& [key, figure] : counts) *figure = read_number_figure(node.require(key), Dimension::count);
  return m;
}

OptionValue read_constant(const Yaml& node) {
  const std::string text = node.scalar_text();
  if (text == "true" || text == "false") return node.boolean(false);
  if (text.find_first_not_of("0123456789") == std::string::npos) return node.integer(0);
  return node.number(0);
}

}  // namespace

std::vector<std::int64_t> GraphSizes::up_to(std::int64_t limit) const {
  std::vector<std::int64_t> sizes;
  for (const std::int64_t size : dense) {
    if (size <= limit) sizes.push_back(size);
  }
  for (const Range& range : ranges) {
    const std::int64_t last = range.to > 0 ? std::min(range.to, limit) : limit;
    for (std::int64_t size = range.from; size <= last; size += range.step) sizes.push_back(size);
  }
  if (append_limit && limit > 0 && (sizes.empty() || sizes.back() != limit)) sizes.push_back(limit);
  return sizes;
}

TypedProfile read_typed_profile(const Yaml& root) {
  TypedProfile profile;
  for (const auto& [role, argument] : root.require("roles").entries()) profile.roles[role] = argument.text();
  for (const char* role : {"context", "page", "step_tokens", "prefill_tokens", "sequences", "kv_tokens",
                           "static_fraction", "decode_graphs", "prefill_graphs", "no_graphs",
                           "no_decode_graphs", "no_prefill_graphs", "one_step_in_flight"}) {
    if (profile.roles.count(role) == 0)
      root.optional("roles").fail(std::string("must say which argument is `") + role + "`");
  }
  read_devices(root.require("devices"), profile);
  const Yaml graphs = root.require("graphs");
  graphs.require("source").text();
  profile.decode_graphs = read_sizes(graphs.require("decode"));
  profile.prefill_graphs = read_sizes(graphs.require("prefill"));
  profile.speculating_graphs = read_sizes(graphs.require("decode_speculating"));
  profile.widest_padding = graphs.require("widest_padding").number(2, 1);
  profile.memory = read_memory(root.require("memory"));
  profile.speculating_sequences = static_cast<std::int64_t>(
      read_number_figure(root.require("speculation").require("running_requests"), Dimension::count).value);
  const Yaml constants = root.require("constants");
  for (const auto& [name, value] : constants.entries()) {
    if (name == "source")
      value.text();
    else
      profile.constants.set(name, read_constant(value));
  }
  return profile;
}

void read_typed_arguments(const Yaml& effective, TypedProfile& profile) {
  for (const auto& [name, row] : effective.entries()) profile.arguments.push_back(read_argument(name, row));
  for (const auto& [role, argument] : profile.roles) {
    bool known = false;
    for (const TypedArgument& a : profile.arguments) known |= a.name == argument;
    if (!known) effective.fail("there is no argument " + argument + ", which `roles` calls " + role);
  }
}

void change_typed_defaults(const Yaml& node, TypedProfile& profile) {
  node.require("source").text();
  for (const auto& [name, value] : node.entries()) {
    if (name == "source") continue;
    TypedArgument* argument = nullptr;
    for (TypedArgument& a : profile.arguments) {
      if (a.name == name) argument = &a;
    }
    if (argument == nullptr) {
      value.fail("the base has no argument " + name);
      continue;
    }
    argument->fallback = TypedArgument::Default::fixed;
    argument->value = read_scalar(value, argument->type);
  }
}

}  // namespace orrery

#include "costmodel/expert_exchange.h"

#include <algorithm>

#include "base/check.h"
#include "base/det_math.h"
#include "costmodel/moe.h"
#include "costmodel/profile_folder.h"
#include "costmodel/profile_reader.h"

namespace orrery {

namespace {

const char* const folder = "hardware_profiles/exchange";

ExchangeFigures read_figures(const Yaml& node) {
  ExchangeFigures f;
  const auto seconds = [&](const char* key, Figure<Seconds>& figure) {
    if (const Yaml given = node.optional(key); given.present()) figure = read_figure<Seconds>(given);
  };
  f.start = read_figure<Seconds>(node.require("start"));
  seconds("per_expert", f.per_expert);
  seconds("per_row_kib", f.per_row_kib);
  seconds("per_doubling", f.per_doubling);
  f.rate = read_figure<BytesPerSecond>(node.require("rate"));
  f.error = read_number_figure(node.require("error"), Dimension::ratio);
  if (const Yaml network = node.optional("network"); network.present()) {
    f.network = read_figure<BytesPerSecond>(network);
    f.network_error = read_number_figure(node.require("network_error"), Dimension::ratio);
  }
  if (const Yaml unhidden = node.optional("unhidden"); unhidden.present())
    f.unhidden = read_number_figure(unhidden, Dimension::ratio);
  return f;
}

ExchangeKernels read_kernels(const Yaml& node) {
  return {read_figures(node.require("dispatch")), read_figures(node.require("combine"))};
}

Result<ExchangeTable> read_table(YamlDocument document) {
  const Yaml root = document.root();
  ExchangeTable t;
  t.name = root.require("name").text();
  t.library = root.require("library").text();
  t.architecture = root.require("architecture").text();
  if (const Yaml link = root.optional("network_link"); link.present())
    t.network_link = read_figure<BytesPerSecond>(link);
  t.multiprocessors = read_number_figure(root.require("multiprocessors"), Dimension::count);
  t.least_experts = root.require("least_experts").integer(1, 1, 1'000'000);
  if (const Yaml kernels = root.optional("low_latency"); kernels.present())
    t.low_latency = read_kernels(kernels);
  t.normal = read_kernels(root.require("normal"));
  if (const Yaml masked = root.optional("masked_experts"); masked.present()) {
    t.masked = {.start = read_figure<Seconds>(masked.require("start")),
                .memory = read_number_figure(masked.require("memory"), Dimension::ratio),
                .compute = read_number_figure(masked.require("compute"), Dimension::ratio),
                .rows = read_number_figure(masked.require("rows"), Dimension::count),
                .error = read_number_figure(masked.require("error"), Dimension::ratio)};
  }
  document.finish();
  if (!document.errors().empty()) return document.errors();
  return t;
}

const ExchangeFigures& figures_of(const ExchangeShape& s) {
  const ExchangeKernels& kernels = s.low_latency ? s.table->low_latency : s.table->normal;
  return s.dispatch ? kernels.dispatch : kernels.combine;
}

// The profile's own network link against that of the timings.
ExchangeTable on_network(ExchangeTable t, const HardwareProfile& hardware) {
  if (hardware.nic_bandwidth.present() && t.network_link.present())
    t.network_ratio = hardware.nic_bandwidth.value.value() / t.network_link.value.value();
  return t;
}

}  // namespace

Result<ExchangeTable> parse_exchange(const std::string& text, const std::string& file_name) {
  ORRERY_TRY(document, YamlDocument::parse(text, file_name));
  return read_table(std::move(document));
}

Result<ExchangeTable> load_exchange(const std::string& library, const HardwareProfile& hardware) {
  const ExchangeTable* nearest = nullptr;
  std::vector<ExchangeTable> tables;
  for (const std::string& name : profile_names(folder)) {
    ORRERY_TRY(document, YamlDocument::load(profile_path(folder, name)));
    ORRERY_TRY(table, read_table(std::move(document)));
    tables.push_back(std::move(table));
  }
  for (const ExchangeTable& table : tables) {
    if (table.library != library) continue;
    if (table.name == hardware.name) return on_network(table, hardware);
    if (table.architecture == hardware.architecture) nearest = &table;  // the last by name
  }
  if (nearest == nullptr) {
    return invalid_input("nobody published timings of " + library + " on " + hardware.name +
                         " or on another part of " + hardware.architecture + " (" + folder + ")");
  }
  ORRERY_TRY(timed, load_hardware(nearest->name));
  ExchangeTable t = *nearest;
  t.more_error = exchange_transport_error;
  t.link_ratio = hardware.link_bandwidth.value.value() / timed.link_bandwidth.value.value();
  return on_network(t, hardware);
}

double expected_distinct_groups(double groups, double experts, std::int64_t per_token) {
  double missed = 1;  // probability that no choice falls into a given group
  for (std::int64_t i = 0; i < per_token; ++i) {
    const auto chosen = static_cast<double>(i);
    missed *= std::max(0.0, experts - experts / groups - chosen) / (experts - chosen);
  }
  return groups * (1 - missed);
}

ExchangeBytes exchange_bytes(const ExchangeShape& s) {
  const double ranks = s.ranks, nodes = s.nodes(), k = static_cast<double>(s.experts_per_token);
  const auto experts = static_cast<double>(s.experts);
  if (s.low_latency) {
    const double local = ranks / nodes;
    return {s.row_bytes * k * (local - 1) / ranks, s.row_bytes * k * (ranks - local) / ranks};
  }
  return {s.row_bytes * expected_distinct_groups(ranks, experts, s.experts_per_token) * (ranks - 1) / ranks,
          s.row_bytes * expected_distinct_groups(nodes, experts, s.experts_per_token) * (nodes - 1) / nodes};
}

double exchange_links(const HardwareProfile& hardware, std::int32_t ranks) {
  const double peers = std::min(ranks, gpus_of_node) - 1;
  return std::min(1.0,
                  hardware.link_pair_bandwidth.value.value() * peers / hardware.link_bandwidth.value.value());
}

ExchangeRows busiest_rows(const ExchangeShape& s, const StepInput& input) {
  const auto own = static_cast<double>((input.own + s.own_parts - 1) / s.own_parts);
  const double mean = static_cast<double>(input.tokens) / s.ranks;
  if (input.load == nullptr || input.tokens == 0) return {std::max(mean, own), std::max(mean, own)};
  const auto tokens = static_cast<double>(input.tokens), experts = static_cast<double>(s.experts);
  const auto beyond = [&](double most, double even) { return even > 0 ? mean * most / even : mean; };
  if (s.low_latency) {
    const double rows = expected_slowest_rank(experts, static_cast<double>(s.experts_per_token), tokens,
                                              static_cast<double>(s.ranks))
                            .rows;
    const double busiest = std::max(own, beyond(input.load->rows, rows));
    return {busiest, busiest};
  }
  const auto even = [&](double groups) {
    return expected_most_touched(groups, expected_distinct_groups(groups, experts, s.experts_per_token),
                                 tokens);
  };
  return {std::max(own, beyond(input.load->received, even(s.ranks))),
          std::max(own, beyond(input.load->at_node, even(s.nodes())))};
}

ExchangeTime exchange_time(const ExchangeShape& s, const ExchangeRows& rows) {
  const ExchangeTable& t = *s.table;
  const ExchangeFigures& f = figures_of(s);
  const auto ns = [](const Figure<Seconds>& figure) { return figure.value.value() * 1e9; };
  ExchangeTime time;
  time.fixed = ns(f.start) + ns(f.per_expert) * static_cast<double>(s.experts) +
               ns(f.per_row_kib) * s.row_bytes / 1024;
  const double rate = f.rate.value.value() * 1e-9 * t.link_ratio * s.links;
  const ExchangeBytes bytes = exchange_bytes(s);
  time.near = rows.near * bytes.near / rate;
  if (s.nodes() > 1) {
    ORRERY_CHECK(f.network.present(), "an exchange over nodes needs figures of a network");
    time.fixed += ns(f.per_doubling) * det_log(static_cast<double>(s.nodes())) / det_log(2.0);
    time.far = rows.far * bytes.far / (f.network.value.value() * 1e-9 * t.network_ratio);
    time.unhidden = f.unhidden.value;
  }
  return time;
}

}  // namespace orrery

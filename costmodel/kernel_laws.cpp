#include "costmodel/kernel_laws.h"

#include <algorithm>

#include "costmodel/profile_reader.h"

namespace orrery {

namespace {

std::int64_t over(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

std::int64_t read_count(const Yaml& node) { return node.integer(1, 1, 1 << 20); }

TileLaw read_tile_law(const Yaml& node) {
  TileLaw law;
  law.format = node.require("format").text();
  law.rows = read_count(node.require("rows"));
  law.columns = read_count(node.require("columns"));
  law.depth = read_count(node.require("depth"));
  law.up_to = node.optional("up_to").integer(0, 1, 1 << 20);
  law.start = read_figure<Seconds>(node.require("start"), true);
  const Yaml step = node.optional("step");
  if (law.format == "bf16" && !step.present())
    law.least = true;
  else
    law.step = read_figure<Seconds>(node.require("step"));
  if (const Yaml read = node.optional("read"); read.present()) {
    law.read = read_figure<BytesPerSecond>(read);
    law.gap = read_figure<Seconds>(node.require("gap"), true);
  }
  law.error = read_number_figure(node.require("error"), Dimension::ratio).value;
  return law;
}

BlockAttentionLaw read_block_attention(const Yaml& node) {
  BlockAttentionLaw law;
  law.above_blocks = node.require("above_blocks").integer(0, 0, 1 << 20);
  law.longest = read_count(node.require("longest"));
  law.unit_shared = read_figure<Bytes>(node.require("unit_shared"));
  law.start = read_figure<Seconds>(node.require("start"), true);
  law.key = read_figure<Seconds>(node.require("key"));
  law.further = read_number_figure(node.require("further"), Dimension::ratio, true);
  law.error = read_number_figure(node.require("error"), Dimension::ratio).value;
  return law;
}

SplitAttentionLaw read_split_attention(const Yaml& node) {
  SplitAttentionLaw law;
  law.splits = read_count(node.require("splits"));
  law.heads = read_count(node.require("heads"));
  for (const Yaml& width : node.require("widths").items()) {
    law.widths.push_back({.head_dim = read_count(width.require("head_dim")),
                          .key = read_figure<Seconds>(width.require("key"))});
  }
  law.further = read_number_figure(node.require("further"), Dimension::ratio, true);
  law.error = read_number_figure(node.require("error"), Dimension::ratio).value;
  return law;
}

LatentSteps read_latent_steps(const Yaml& node) {
  LatentSteps steps;
  steps.rotary = node.optional("rotary").integer(0, 0, 100);
  steps.concatenations = node.optional("concatenations").integer(0, 0, 100);
  steps.weight_casts = node.optional("weight_casts").integer(0, 0, 100);
  steps.copies = node.optional("copies").integer(0, 0, 100);
  node.require("source").text();
  return steps;
}

KernelLaws read_laws(const Yaml& node) {
  KernelLaws laws;
  laws.architecture = node.require("architecture").text();
  laws.timed_on = node.require("timed_on").text();
  if (const Yaml floor = node.optional("kernel_floor"); floor.present())
    laws.kernel_floor = read_figure<Seconds>(floor);
  if (const Yaml product = node.optional("product"); product.present()) laws.product = read_tile_law(product);
  if (const Yaml decode = node.optional("decode_attention"); decode.present())
    laws.decode = read_block_attention(decode);
  if (const Yaml split = node.optional("split_decode_attention"); split.present())
    laws.split_decode = read_split_attention(split);
  laws.decode_rows = node.optional("decode_rows").integer(0, 1, 1024);
  if (const Yaml latent = node.optional("latent_steps"); latent.present())
    laws.latent = read_latent_steps(latent);
  if (const Yaml shared = node.optional("shared_among_routed"); shared.present()) {
    laws.shared_among_routed = true;
    shared.require("source").text();
  }
  return laws;
}

}  // namespace

double TileLaw::ns(std::int64_t units, std::int64_t m, std::int64_t n, std::int64_t k,
                   double bytes_per_weight) const {
  const std::int64_t waves = over(over(m, rows) * over(n, columns), units);
  const double steps = static_cast<double>(over(k, depth));
  const double walk = static_cast<double>(waves) * (start.value.value() + steps * step.value.value());
  if (!read.present()) return 1e9 * walk;
  const double bytes = static_cast<double>(over(n, columns) * columns * depth) * bytes_per_weight;
  return 1e9 * std::max(walk, start.value.value() + steps * (gap.value.value() + bytes / read.value.value()));
}

void TileLaw::resolve(std::int64_t units, double flops_per_second) {
  if (!least) return;
  const double flops = 2.0 * static_cast<double>(rows * columns * depth * units);
  step = {Seconds(flops / flops_per_second), FigureKind::derived, "a unit's share of the matrix rate"};
}

void BlockAttentionLaw::resolve(std::int64_t longest_sequence) {
  constexpr double score_bytes = 4;    // fp32
  constexpr double other_bytes = 512;  // the query and the reduction's words
  const double bytes = score_bytes * static_cast<double>(std::min(longest, longest_sequence)) + other_bytes;
  const auto blocks = static_cast<std::int64_t>(unit_shared.value.value() / bytes);
  resident = 1 + further.value * static_cast<double>(std::max<std::int64_t>(blocks, 1) - 1);
}

double BlockAttentionLaw::ns(std::int64_t units, std::int64_t sequences, std::int64_t heads,
                             double keys) const {
  const double blocks = static_cast<double>(sequences * heads);
  const double walked = keys * static_cast<double>(heads);
  return 1e9 * (blocks * start.value.value() + walked * key.value.value()) /
         (static_cast<double>(units) * resident);
}

const SplitAttentionLaw::Width* SplitAttentionLaw::of(std::int64_t head_dim) const {
  for (const Width& width : widths) {
    if (width.head_dim == head_dim) return &width;
  }
  return nullptr;
}

// A sequence is never cut finer than a key (`get_num_kv_splits_triton` cuts short ones less; there the walk
// is short either way).
double SplitAttentionLaw::ns(std::int64_t units, std::int64_t sequences, std::int64_t query_heads,
                             std::int64_t kv_heads, std::int64_t head_dim, double keys) const {
  const std::int64_t together = std::min(heads, std::max<std::int64_t>(1, query_heads / kv_heads));
  const double each = keys / static_cast<double>(sequences);
  const double shares = std::clamp(each, 1.0, static_cast<double>(splits));
  const double blocks = static_cast<double>(sequences * over(query_heads, together)) * shares;
  const double crowd = std::max(0.0, blocks / static_cast<double>(units) - 1);
  return 1e9 * of(head_dim)->key.value.value() * each / shares * (1 + further.value * crowd);
}

std::vector<KernelLaws> read_kernel_laws(const Yaml& node) {
  std::vector<KernelLaws> all;
  if (!node.present()) return all;
  if (!node.is_list()) return {read_laws(node)};
  for (const Yaml& one : node.items()) {
    all.push_back(read_laws(one));
    const auto same = [&](const KernelLaws& l) { return l.architecture == all.back().architecture; };
    if (std::find_if(all.begin(), all.end() - 1, same) != all.end() - 1)
      one.fail("a second one of architecture \"" + all.back().architecture + "\": write them as one");
  }
  return all;
}

}  // namespace orrery

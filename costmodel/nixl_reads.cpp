#include "costmodel/nixl_reads.h"

#include <algorithm>

#include "costmodel/profile_reader.h"

namespace orrery {

namespace {

NixlReads read_reads(const Yaml& node) {
  const auto seconds = [&](const char* key) { return read_figure<Seconds>(node.require(key), true); };
  return {.post_start = seconds("post_start"),
          .post_each = seconds("post_each"),
          .post_queued = seconds("post_queued"),
          .queue = read_number_figure(node.require("queue"), Dimension::count),
          .read_start = seconds("read_start"),
          .read_each = seconds("read_each")};
}

}  // namespace

NixlFigures read_nixl_figures(const Yaml& node) {
  return {.in_node = read_reads(node.require("in_node")),
          .between_nodes = read_reads(node.require("between_nodes")),
          .idle_notice = read_figure<Seconds>(node.require("idle_notice"), true)};
}

SimDuration NixlReads::posting(std::int64_t descriptors) const {
  const auto n = static_cast<double>(descriptors);
  const double at_once = std::min(n, queue.value);
  return duration_from_seconds(post_start.value.value() + at_once * post_each.value.value() +
                               (n - at_once) * post_queued.value.value());
}

SimDuration NixlReads::reading(std::int64_t descriptors) const {
  return duration_from_seconds(read_start.value.value() +
                               static_cast<double>(descriptors) * read_each.value.value());
}

}  // namespace orrery

// What vLLM's NixlConnector takes to read a prompt's KV beside the bytes, as data of the engine profile: each
// block of each layer, keys and values apart, is a descriptor that the decode worker posts and that the GPU's
// copy engine, or the NIC, runs by itself (docs/disaggregation.md).
#pragma once

#include <cstdint>

#include "base/time.h"
#include "base/yaml_reader.h"
#include "costmodel/figure.h"

namespace orrery {

struct NixlReads {
  // The worker posts n descriptors in post_start + n · post_each, where n counts those that the queue takes
  // at once; the others go at the pace of post_queued.
  Figure<Seconds> post_start, post_each, post_queued;
  Figure<double> queue;
  // They are there, bytes aside, read_start + n · read_each after the first was posted; one prompt after the
  // other.
  Figure<Seconds> read_start, read_each;

  SimDuration posting(std::int64_t descriptors) const;
  SimDuration reading(std::int64_t descriptors) const;
};

struct NixlFigures {
  NixlReads in_node, between_nodes;  // peer copies; RDMA
  // A decode engine with nothing to run learns of a read's end, and runs what has come, so much later.
  Figure<Seconds> idle_notice;
};

NixlFigures read_nixl_figures(const Yaml& node);

}  // namespace orrery

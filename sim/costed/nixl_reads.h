// What vLLM's NixlConnector takes to read a prompt's KV beside the bytes: each block of each layer, keys and
// values apart, is a descriptor that the decode worker posts and the GPU's copy engine runs by itself.
//
// Measured on two and four H200 of one node (reports/results/disaggregation.md): posting holds up the launch
// of the worker's next step, and blocks of 16 and of 32 KiB take the same time, those of 256 KiB 0.6 µs more.
#pragma once

#include <cstdint>

#include "base/time.h"
#include "sim/fabric/figure.h"

namespace orrery {

struct NixlReads {
  // The worker posts `n` descriptors in post_start + n · post_each, where n counts those that the copy
  // engine's queue takes at once; the others go at the pace of post_queued.
  fabric::Figure post_start, post_each, post_queued, queue;
  // They are there, bytes aside, read_start + n · read_each after the first was posted; one prompt after the
  // other.
  fabric::Figure read_start, read_each;
  // An engine with nothing to run asks its connector, and runs what has come, so long after its end.
  fabric::Figure idle_notice;

  SimDuration posting(std::int64_t descriptors) const;
  SimDuration reading(std::int64_t descriptors) const;
};

// Between GPUs of one node (peer copies), and between nodes (RDMA).
extern const NixlReads nixl_in_node, nixl_between_nodes;

}  // namespace orrery

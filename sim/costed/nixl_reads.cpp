#include "sim/costed/nixl_reads.h"

#include <algorithm>

namespace orrery {

namespace {

using fabric::Figure;
using fabric::FigureKind;

Figure measured(double value, const char* how) {
  return {
      value, FigureKind::measured,
      std::string("reports/cases/h200_vllm_0_24_disaggregated (vLLM 0.24.0, NIXL 1.3.2 over UCX 1.21 with "
                  "cuda_ipc, driver 580.159.04, a virtual machine): ") +
          how};
}

Figure assumed(double value, const char* why) { return {value, FigureKind::assumed, why}; }

SimDuration seconds(double value) { return duration_from_seconds(value); }

}  // namespace

const NixlReads nixl_in_node{
    .post_start = measured(2.0e-3, "_read_blocks_for_req of 36 to 4,608 descriptors, a line through them"),
    .post_each = measured(1.65e-6, "the same line's slope"),
    .post_queued = measured(3.4e-6, "the same of 9,216 to 135,000 descriptors"),
    .queue = measured(4608, "where the two lines meet"),
    .read_start = measured(2.0e-3, "NIXL's own telemetry, xferDuration, of 36 to 576 descriptors"),
    .read_each =
        measured(3.6e-6, "the same of 576 to 135,000 descriptors of 16 and 32 KiB, the fastest of each size"),
    .idle_notice = measured(
        2.5e-3, "from the end on the worker to the schedule of the next step, requests one at a time")};

const NixlReads nixl_between_nodes{
    .post_start = assumed(2.0e-3, "as in a node, where it was measured"),
    .post_each = assumed(0.4e-6, "a posted RDMA read on one core, a few hundred nanoseconds; no run of ours"),
    .post_queued = assumed(0.4e-6, "the same; a NIC's queue was not found to limit"),
    .queue = assumed(4608, "without effect"),
    .read_start = assumed(2.0e-3, "as in a node, where it was measured"),
    .read_each = assumed(0.4e-6, "as posted; bytes are the links'"),
    .idle_notice = measured(2.5e-3, "the engine's own way, in a node")};

SimDuration NixlReads::posting(std::int64_t descriptors) const {
  const auto n = static_cast<double>(descriptors);
  const double at_once = std::min(n, queue.value);
  return seconds(post_start.value + at_once * post_each.value + (n - at_once) * post_queued.value);
}

SimDuration NixlReads::reading(std::int64_t descriptors) const {
  return seconds(read_start.value + static_cast<double>(descriptors) * read_each.value);
}

}  // namespace orrery

#include "kernels/cases/peer_case.h"

namespace orrery::kernels {

PeerMemory own_peer_memory(Operands& make, PeerMemory m) {
  m.flags[m.rank] = make.zeroed<std::uint32_t>(peer_flag_bytes / 4);
  m.epochs = make.zeroed<std::uint32_t>(peer_epoch_bytes / 4);
  const std::int64_t slots = peer_area_bytes(m.blocks, m.ranks, m.slot_bytes);
  const std::int64_t lines = peer_area_bytes(m.blocks, m.ranks, m.line_bytes);
  if (slots > 0) m.slots[m.rank] = make.output<unsigned char>(slots);
  if (lines > 0) m.lines[m.rank] = make.zeroed<unsigned char>(lines);
  return m;
}

bool launch_alternated(ChainedCase& first, ChainedCase& second, Stream stream, std::string& why) {
  const auto body = [&](std::int32_t rank, Stream on) {
    for (int call = 0; call < alternated_calls; ++call)
      (alternates(call) ? second : first).start_on(rank, on);
  };
  return first.group().launch(body, stream, why);
}

}  // namespace orrery::kernels

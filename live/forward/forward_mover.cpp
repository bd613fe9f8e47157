#include "live/forward/forward_mover.h"

#include <algorithm>
#include <chrono>

namespace orrery {

Result<std::unique_ptr<KvMover>> ForwardMover::create(const Side& from, const Side& to) {
  std::unique_ptr<ForwardMover> made(new ForwardMover());
  std::string why;
  made->stream_ = kernels::make_step_stream(from.memory->device_index(), why);
  if (made->stream_ == nullptr) return make_error(ErrorKind::unavailable, why);
  const auto here = from.forward->kv_pools(), there = to.forward->kv_pools();
  if (here.size() != there.size() || from.forward->kv_block_bytes() != to.forward->kv_block_bytes())
    return make_error(ErrorKind::internal, "KV moves between pools of one model");
  std::vector<kernels::KvPools> pools;
  for (std::size_t i = 0; i < here.size(); ++i) pools.push_back({here[i], there[i]});
  made->layers_ = from.forward->shape().layers;
  made->pools_of_layer_ = static_cast<std::int32_t>(static_cast<std::int64_t>(pools.size()) / made->layers_);
  made->most_blocks_ = std::max(from.forward->kv_blocks(), to.forward->kv_blocks());
  const auto ids = static_cast<std::size_t>(2 * made->most_blocks_) * sizeof(std::int32_t);
  auto* const known = static_cast<kernels::KvPools*>(from.memory->allocate(pools.size() * sizeof(pools[0])));
  auto* const words = static_cast<std::uint32_t*>(from.memory->allocate(8));
  auto* const arrived = static_cast<std::uint32_t*>(to.memory->allocate(4));
  made->ids_ = static_cast<std::int32_t*>(from.memory->allocate(ids));
  made->ids_host_ = static_cast<std::int32_t*>(made->stream_->host_memory(ids));
  if (known == nullptr || words == nullptr || arrived == nullptr || made->ids_ == nullptr ||
      made->ids_host_ == nullptr)
    return make_error(ErrorKind::infeasible, "the device has no room for what moves KV");
  from.memory->upload(known, pools.data(), pools.size() * sizeof(pools[0]));
  const std::uint32_t zeros[2] = {};
  from.memory->upload(words, zeros, sizeof zeros);
  to.memory->upload(arrived, zeros, sizeof zeros[0]);
  made->launch_.pools = known;
  made->launch_.words = words;
  made->launch_.arrived = arrived;
  made->launch_.block_bytes = from.forward->kv_block_bytes();
  return std::unique_ptr<KvMover>(std::move(made));
}

bool ForwardMover::move(const KvMove& move, std::int64_t& ns, std::string& why) {
  const auto begin = std::chrono::steady_clock::now();
  const auto blocks = static_cast<std::int64_t>(move.from.size());
  const std::int64_t first = layers_ * move.first / move.of, last = layers_ * move.last / move.of;
  if (blocks > most_blocks_ || move.to.size() != move.from.size() || first >= last) {
    why = "a move of KV that is none";
    return false;
  }
  stream_->make_current();
  std::copy(move.to.begin(), move.to.end(), std::copy(move.from.begin(), move.from.end(), ids_host_));
  stream_->upload(ids_, ids_host_, static_cast<std::size_t>(2 * blocks) * sizeof(std::int32_t));
  kernels::KvTransferLaunch launch = launch_;
  launch.pools += first * pools_of_layer_;
  launch.layers = static_cast<std::int32_t>(last - first) * pools_of_layer_;
  launch.from_blocks = ids_;
  launch.to_blocks = ids_ + blocks;
  launch.blocks = static_cast<std::int32_t>(blocks);
  stream_->begin_step();
  kernels::launch_kv_transfer(launch, stream_->handle());
  stream_->end_step();
  if (!stream_->wait(why)) return false;
  ns = static_cast<std::int64_t>(stream_->step_ns());
  if (ns <= 0)  // the simulator has no clock of its own
    ns = std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - begin)
             .count();
  return true;
}

}  // namespace orrery

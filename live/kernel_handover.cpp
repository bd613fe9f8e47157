// Prefill and decode apart: which blocks of the device a prompt's keys and values are in, where they were
// computed and where they go.
#include "base/check.h"
#include "live/kernel_executor.h"

namespace orrery {

std::vector<std::int32_t> KernelExecutor::blocks_of(RequestId request, std::int64_t count) {
  Engine& e = *engines_.front();
  const auto handed = e.handed.find(request.value());
  const auto running = e.sequence_of.find(request.value());
  ORRERY_CHECK(handed != e.handed.end() || running != e.sequence_of.end(),
               "KV is fetched from where it was computed");
  const SequenceId sequence = handed != e.handed.end() ? handed->second : running->second;
  const std::int64_t size = options_.block_size, tokens = requests_.at(request.value()).prompt_tokens;
  const std::span<const std::int32_t> table = e.blocks.table(sequence);
  const std::int64_t all = (tokens + size - 1) / size;
  std::vector<std::int32_t> blocks;
  for (std::int64_t i = all - count; i < all; ++i)
    blocks.push_back(static_cast<std::int32_t>(e.first_block + table[static_cast<std::size_t>(i)]));
  return blocks;
}

std::int64_t KernelExecutor::lacking(RequestId id) const {
  const Request& request = requests_.at(id.value());
  const std::int64_t size = options_.block_size, all = (request.prompt_tokens + size - 1) / size;
  return all - engines_.front()->blocks.findable(request);
}

std::vector<std::int32_t> KernelExecutor::adopt(RequestId id, SequenceId sequence, std::int64_t count) {
  Engine& e = *engines_.front();
  const Request& request = requests_.at(id.value());
  const std::int64_t size = options_.block_size, all = (request.prompt_tokens + size - 1) / size;
  e.blocks.next_plan();
  e.blocks.begin(sequence, request, (all - count) * size);
  e.blocks.cover(sequence, request.prompt_tokens);
  if (open(e, sequence, id)) e.adopted.emplace_back(sequence, request);
  return blocks_of(id, count);
}

void KernelExecutor::release(RequestId request) {
  Engine& e = *engines_.front();
  const auto handed = e.handed.find(request.value());
  if (handed != e.handed.end()) {
    e.blocks.end(handed->second);
    e.handed.erase(handed);
  } else if (e.sequence_of.contains(request.value())) {
    e.fetched.insert(request.value());  // layers came before the step's end was looked at
  }
}

}  // namespace orrery

// Prefill and decode apart: which blocks of the device a prompt's keys and values are in, where they were
// computed and where they go.
#include <algorithm>

#include "base/check.h"
#include "live/kernel_executor.h"

namespace orrery {

bool KernelExecutor::holds(RequestId request) const {
  const Engine& e = *engines_.front();
  return e.handed.contains(request.value()) || e.sequence_of.contains(request.value());
}

std::vector<std::int32_t> KernelExecutor::lend(RequestId request, std::int64_t count) {
  engines_.front()->lent.insert(request.value());
  engines_.front()->fetched.erase(request.value());  // its client left before anything was asked for
  return last_blocks(request, count);
}

std::vector<std::int32_t> KernelExecutor::last_blocks(RequestId request, std::int64_t count) const {
  const Engine& e = *engines_.front();
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
  return last_blocks(id, count);
}

// A prompt that has run to its end. Of one that is dropped before, its client gone, the scheduler has given
// the blocks away already: who still reads them reads for a leg that fails.
bool KernelExecutor::answered(const Engine& e, SequenceId sequence) const {
  if (!e.blocks.begun(sequence) || e.blocks.tokens(sequence) < e.prompt_of[sequence.value()]) return false;
  return std::none_of(e.open.begin(), e.open.end(), [&](const Open& open) {
    const auto& rows = open.job->sampled;
    return std::any_of(rows.begin(), rows.end(), [&](const Place& p) { return p.sequence == sequence; });
  });
}

void KernelExecutor::release(RequestId request) {
  Engine& e = *engines_.front();
  e.lent.erase(request.value());
  const auto handed = e.handed.find(request.value());
  if (handed != e.handed.end()) {
    e.blocks.end(handed->second);
    e.handed.erase(handed);
  } else if (e.sequence_of.contains(request.value())) {
    e.fetched.insert(request.value());  // layers came before the step's end was looked at
  }
}

}  // namespace orrery

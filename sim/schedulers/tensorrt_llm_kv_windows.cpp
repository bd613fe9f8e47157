// The pool of layers that keep a window of tokens, with reuse (kvCacheManager.cpp of autumn 2025,
// `detachFrontBlock`, `getFreeBlock`, `releaseBlocks`; §4.3 of ../shared/reference/tensorrt_llm_1_2.md): what
// the window left goes to the end of the free queue and stays what it is until somebody gets it. If nobody
// did, the whole sequence is stored when it is released, the front too; else nothing of it is.
//
// The engine invalidates the sequence that last took a block out of the queue. So it overlooks blocks that
// were found in the tree, and its own taken again, and would then store what others have written; here both
// count.
#include "sim/schedulers/tensorrt_llm_kv_state.h"

namespace orrery {

using trtllm::Block;
using trtllm::Id;
using trtllm::Sequence;

void TensorRtLlmKvPool::detach_front(Handle handle, std::int64_t blocks) {
  State& state = *state_;
  Sequence& s = state.at(handle);
  for (std::int64_t i = s.gone(); i < blocks; ++i) {
    if (i == static_cast<std::int64_t>(s.blocks.size())) {  // one without a record: it gets one
      s.blocks.push_back(state.tree.blocks.make(state.fresh(1)));
      --(s.more > 0 ? s.more : state.unattributed);
      ORRERY_CHECK(state.unattributed >= 0, "KV pool: a window leaves behind what nobody got");
    }
    const Id id = s.blocks[static_cast<std::size_t>(i)];
    s.births.push_back(state.tree.blocks[id].birth);
    if (--state.tree.blocks[id].refs == 0) state.tree.append(id);
  }
}

std::int64_t TensorRtLlmKvPool::blocks_left_behind(Handle handle) const { return state_->at(handle).gone(); }

bool TensorRtLlmKvPool::State::keeps_its_front(const Sequence& s) const {
  for (std::size_t i = 0; i < s.births.size(); ++i) {
    if (tree.blocks[s.blocks[i]].birth != s.births[i]) return false;
  }
  return true;
}

}  // namespace orrery

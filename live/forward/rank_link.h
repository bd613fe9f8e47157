// What a rank of a sharded forward pass has of the others: sums and columns over all of them, behind what was
// launched before on its stream. Ranks make the same calls in the same order, each from a thread of its own.
#pragma once

#include <cstdint>
#include <string>

#include "kernels/kernel_case.h"

namespace orrery {

class RankLink {
 public:
  virtual ~RankLink() = default;
  virtual void all_reduce(std::uint16_t* x, std::int64_t count, kernels::Stream stream) = 0;  // in place
  // out[rows][ranks · columns], of in[rows][columns] of each.
  virtual void gather_columns(const std::uint16_t* in, std::uint16_t* out, std::int32_t rows,
                              std::int32_t columns, kernels::Stream stream) = 0;
  // Until the threads of all ranks have come here. Where one plans, captures or allocates, none may have
  // kernels on its device that wait for it: the driver may wait for them in turn. Whether all came `fine`;
  // where one did not, none goes on, or its kernels would wait for those of the one that failed.
  [[nodiscard]] virtual bool meet(bool fine) = 0;
  virtual std::string take_refusal() = 0;  // what a library said since the last call; empty: nothing
};

}  // namespace orrery

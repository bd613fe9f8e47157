// A search by the ranks of mpirun. Each rank runs the same search; rank 0 hands out the pieces of a batch one
// by one, to itself as well, keeps every result in its store as it comes, and gives all of them to everyone
// at the end of the batch (plan/crew.h).
#pragma once

#include <memory>

#include "plan/crew.h"

namespace orrery {

class MpiCrew : public PlanCrew {
 public:
  static bool started_by_mpi();  // by the environment that mpirun and srun leave
  // Loads orrery_mpi.so from the folder of the binary. Errors: unavailable.
  static Result<std::unique_ptr<MpiCrew>> start();
  ~MpiCrew() override;

  int rank() const;
  int size() const;
  Status join(PlanStore& store, std::function<std::uint64_t()> runs_here) override;
  // `threads` is not asked: ranks stand instead of threads, one piece each at a time.
  Status batch(std::size_t count, int threads, const PlanWork& work) override;
  std::uint64_t runs_elsewhere() const override;

 private:
  struct State;
  MpiCrew();
  std::unique_ptr<State> state_;
};

}  // namespace orrery

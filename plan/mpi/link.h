// The little that a search asks of MPI, as C functions of a module of its own (orrery_mpi.so beside the
// binary): the binary starts where no MPI is installed, and loads it when mpirun has started it.
#pragma once

#include <cstddef>

extern "C" {

struct OrreryMpiLink {
  // False where MPI cannot be started. Ranks are from 0.
  bool (*start)(int* rank, int* size);
  void (*send)(int to, const char* bytes, std::size_t count);
  // The size of the next message and who it is from, without waiting; −1 where there is none.
  long long (*waiting)(int* from);
  void (*receive)(int from, char* bytes, std::size_t count);  // that message
  void (*stop)();                                             // all ranks, at the end
};

// The one symbol of the module.
const OrreryMpiLink* orrery_mpi_link();
}

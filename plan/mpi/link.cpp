#include "link.h"

#include <mpi.h>

namespace {

// One thread of each rank speaks MPI.
bool start(int* rank, int* size) {
  int provided = 0;
  if (MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS) return false;
  MPI_Comm_rank(MPI_COMM_WORLD, rank);
  MPI_Comm_size(MPI_COMM_WORLD, size);
  return provided >= MPI_THREAD_FUNNELED;
}

void send(int to, const char* bytes, std::size_t count) {
  MPI_Send(bytes, static_cast<int>(count), MPI_CHAR, to, 0, MPI_COMM_WORLD);
}

long long waiting(int* from) {
  int there = 0, count = 0;
  MPI_Status status;
  MPI_Iprobe(MPI_ANY_SOURCE, 0, MPI_COMM_WORLD, &there, &status);
  if (there == 0) return -1;
  MPI_Get_count(&status, MPI_CHAR, &count);
  *from = status.MPI_SOURCE;
  return count;
}

void receive(int from, char* bytes, std::size_t count) {
  MPI_Recv(bytes, static_cast<int>(count), MPI_CHAR, from, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
}

void stop() { MPI_Finalize(); }

}  // namespace

const OrreryMpiLink* orrery_mpi_link() {
  static const OrreryMpiLink link = {start, send, waiting, receive, stop};
  return &link;
}

// Runs kernels on the CPU, one fibre per GPU thread, so that their logic can be tested without a GPU and
// under sanitizers. A barrier or a warp exchange is a switch to the scheduler; a block runs on one OS thread,
// blocks run one after another. Odd blocks run their threads in reverse order: what works only in one order
// is a missing barrier. Shared memory is filled with NaN bytes before each block and sits in allocations of
// its own, so that AddressSanitizer sees overruns.
//
// Not shown by it: memory-model races within a barrier interval that the two orders hide, speed; of matrix
// instructions (emulated over it) what their tables do not say, such as the precision of sums inside one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

namespace orrery::kernels::simulator {

struct Extent {
  unsigned x = 1, y = 1, z = 1;
};

// Where the running fibre stands; what threadIdx, blockIdx, blockDim and gridDim read.
struct Position {
  Extent thread, block, block_extent, grid;
};
const Position& here();

// Runs body once per thread of the grid. `warp` is 32 or 64. A broken rule (see take_error) ends the launch.
void launch(Extent grid, unsigned threads, unsigned warp, const std::function<void()>& body);

// First broken rule since the last call; empty when there was none:
// - a barrier that some threads of the block do not reach,
// - a warp exchange that some lanes of the warp do not reach.
std::string take_error();

void barrier();
unsigned lane();
// All lanes of the warp meet; returns every lane's value, indexed by lane, valid until the exchange after
// next.
const std::uint64_t* exchange(std::uint64_t value);
unsigned lanes();  // of this warp: less than its width when the block's size is no multiple of it

// The shared array of this block that belongs to a place in the source (its address is the name).
void* shared(const void* site, std::size_t bytes);

}  // namespace orrery::kernels::simulator

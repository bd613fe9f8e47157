#include "kernels/cpu_simulator.h"

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "base/check.h"

#if defined(__SANITIZE_ADDRESS__)
#define ORRERY_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ORRERY_ASAN 1
#elif __has_feature(thread_sanitizer)
#define ORRERY_TSAN 1
#endif
#elif defined(__SANITIZE_THREAD__)
#define ORRERY_TSAN 1
#endif
#if ORRERY_ASAN
#include <sanitizer/common_interface_defs.h>
#elif ORRERY_TSAN
#include <sanitizer/tsan_interface.h>
#endif

#if defined(__x86_64__)
// swapcontext also switches the signal mask, by a system call that takes most of a simulated kernel's time.
// Saves what a function must keep (System V ABI), leaves the old stack pointer in *from and goes on at `to`.
extern "C" void orrery_switch_stack(void** from, void* to);
asm(R"(
.text
.type orrery_switch_stack, @function
orrery_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size orrery_switch_stack, .-orrery_switch_stack
)");
#endif

namespace orrery::kernels::simulator {

namespace {

constexpr std::size_t stack_bytes = 128 * 1024;  // sanitizers make frames several times larger

enum class State : std::uint8_t { runnable, at_barrier, at_exchange, done };

// A stack with registers to continue from. Sanitizers must be told of every switch between stacks.
struct Stack {
#if defined(__x86_64__)
  void* pointer = nullptr;
#else
  ucontext_t context{};
#endif
  const void* bottom = nullptr;
  std::size_t size = 0;
  void* sanitizer_state = nullptr;  // ASan: the fake stack while away; TSan: the fibre
};

void switch_stacks(Stack& from, Stack& to) {
#if ORRERY_ASAN
  __sanitizer_start_switch_fiber(&from.sanitizer_state, to.bottom, to.size);
#elif ORRERY_TSAN
  __tsan_switch_to_fiber(to.sanitizer_state, 0);
#endif
#if defined(__x86_64__)
  orrery_switch_stack(&from.pointer, to.pointer);
#else
  swapcontext(&from.context, &to.context);
#endif
#if ORRERY_ASAN
  __sanitizer_finish_switch_fiber(from.sanitizer_state, nullptr, nullptr);
#endif
}

struct Fibre {
  Stack stack;
  std::unique_ptr<char[]> memory;
  Position position;
  unsigned index = 0;
  unsigned parity = 0;  // which half of the exchange slots the next exchange uses
  State state = State::done;

  Fibre() = default;
  Fibre(const Fibre&) = delete;
  Fibre& operator=(const Fibre&) = delete;
  ~Fibre() {
#if ORRERY_TSAN
    if (stack.sanitizer_state) __tsan_destroy_fiber(stack.sanitizer_state);
#endif
  }
};

struct SharedArray {
  const void* site;
  std::size_t bytes;
  std::unique_ptr<unsigned char[]> data;
};

class Block;
thread_local Block* running = nullptr;
thread_local std::string first_error;

// Fibres outlive a launch, because a thousand new stacks cost more than most kernels; after a broken rule
// they stand somewhere inside a kernel and are thrown away.
struct Fibres {
  Stack scheduler;  // of the thread that launches
  std::vector<std::unique_ptr<Fibre>> all;
};
thread_local Fibres pool;

class Block {
 public:
  Block(Extent grid, unsigned threads, unsigned warp, const std::function<void()>& body)
      : grid_(grid), threads_(threads), warp_(warp), body_(body) {
    for (auto& half : slots_) half.resize(threads);
#if ORRERY_TSAN
    pool.scheduler.sanitizer_state = __tsan_get_current_fiber();
#endif
    while (pool.all.size() < threads) {
      pool.all.push_back(std::make_unique<Fibre>());
      start(*pool.all.back(), static_cast<unsigned>(pool.all.size() - 1));
    }
  }

  bool run(Extent block) {
    for (SharedArray& array : shared_) std::memset(array.data.get(), 0xFF, array.bytes);
    for (unsigned i = 0; i < threads_; ++i) {
      Fibre& fibre = *pool.all[i];
      fibre.state = State::runnable;
      fibre.parity = 0;
      fibre.position = Position{{fibre.index, 0, 0}, block, {threads_, 1, 1}, grid_};
    }
    reversed_ = (block.x + block.y) % 2 == 1;
    const unsigned warps = (threads_ + warp_ - 1) / warp_;
    for (;;) {
      for (unsigned w = 0; w < warps; ++w) run_warp(reversed_ ? warps - 1 - w : w);
      unsigned at_barrier = 0, done = 0;
      for (unsigned i = 0; i < threads_; ++i) {
        at_barrier += pool.all[i]->state == State::at_barrier;
        done += pool.all[i]->state == State::done;
      }
      if (done == threads_) return true;
      if (at_barrier != threads_) return complain(block, at_barrier, done);
      for (unsigned i = 0; i < threads_; ++i) pool.all[i]->state = State::runnable;
    }
  }

  const Position& position() const { return current_->position; }
  unsigned lane() const { return current_->index % warp_; }
  unsigned lanes() const { return std::min(warp_, threads_ - current_->index / warp_ * warp_); }

  void wait(State state) {
    Fibre& me = *current_;
    me.state = state;
    switch_stacks(me.stack, pool.scheduler);
  }

  const std::uint64_t* exchange(std::uint64_t value) {
    Fibre& me = *current_;
    std::vector<std::uint64_t>& half = slots_[me.parity];
    me.parity ^= 1;  // nobody writes this half again before every lane has come to the next exchange
    half[me.index] = value;
    wait(State::at_exchange);
    return half.data() + me.index / warp_ * warp_;
  }

  void* shared(const void* site, std::size_t bytes) {
    for (SharedArray& array : shared_) {
      if (array.site == site) return array.data.get();
    }
    shared_.push_back({site, bytes, std::unique_ptr<unsigned char[]>(new unsigned char[bytes])});
    std::memset(shared_.back().data.get(), 0xFF, bytes);
    return shared_.back().data.get();
  }

 private:
  void start(Fibre& fibre, unsigned index) {
    fibre.index = index;
    fibre.memory.reset(new char[stack_bytes]);
    fibre.stack.bottom = fibre.memory.get();
    fibre.stack.size = stack_bytes;
#if ORRERY_TSAN
    fibre.stack.sanitizer_state = __tsan_create_fiber(0);
#endif
    prepare(fibre.stack, fibre.memory.get());
  }

  // The first switch to the stack calls enter().
  static void prepare(Stack& stack, char* memory) {
#if defined(__x86_64__)
    // From the top: nothing to return to, where `ret` goes, six registers. The ABI wants 16 bytes' alignment.
    const auto top = (reinterpret_cast<std::uintptr_t>(memory) + stack_bytes) / 16 * 16;
    void** words = reinterpret_cast<void**>(top) - 8;
    std::fill(words, words + 8, nullptr);
    words[6] = reinterpret_cast<void*>(&Block::enter);
    stack.pointer = words;
#else
    getcontext(&stack.context);
    stack.context.uc_stack.ss_sp = memory;
    stack.context.uc_stack.ss_size = stack_bytes;
    stack.context.uc_link = nullptr;
    makecontext(&stack.context, &Block::enter, 0);
#endif
  }

  // A fibre runs its thread of one block after another, of one launch after another.
  static void enter() {
#if ORRERY_ASAN
    Stack& from = pool.scheduler;
    __sanitizer_finish_switch_fiber(nullptr, &from.bottom, &from.size);
#endif
    for (;;) {
      running->body_();
      running->wait(State::done);
    }
  }

  // Until every lane is done or at a barrier, or lanes wait for lanes that will not come.
  void run_warp(unsigned warp) {
    const unsigned begin = warp * warp_, end = std::min(threads_, begin + warp_);
    for (;;) {
      for (unsigned k = begin; k < end; ++k) {
        Fibre& fibre = *pool.all[reversed_ ? end - 1 - (k - begin) : k];
        if (fibre.state != State::runnable) continue;
        current_ = &fibre;
        switch_stacks(pool.scheduler, fibre.stack);
      }
      unsigned at_exchange = 0;
      for (unsigned k = begin; k < end; ++k) at_exchange += pool.all[k]->state == State::at_exchange;
      if (at_exchange != end - begin) return;
      for (unsigned k = begin; k < end; ++k) pool.all[k]->state = State::runnable;
    }
  }

  bool complain(Extent block, unsigned at_barrier, unsigned done) {
    const unsigned at_exchange = threads_ - at_barrier - done;
    std::string text = at_exchange > 0 ? "divergent warp exchange" : "divergent barrier";
    text += " in block (" + std::to_string(block.x) + ", " + std::to_string(block.y) + "): of " +
            std::to_string(threads_) + " threads " + std::to_string(at_barrier) + " wait at a barrier, " +
            std::to_string(at_exchange) + " at a warp exchange, " + std::to_string(done) + " have ended";
    if (first_error.empty()) first_error = std::move(text);
    return false;
  }

  Extent grid_;
  unsigned threads_, warp_;
  const std::function<void()>& body_;
  std::vector<std::uint64_t> slots_[2];
  std::vector<SharedArray> shared_;
  Fibre* current_ = nullptr;
  bool reversed_ = false;
};

}  // namespace

const Position& here() { return running->position(); }
unsigned lane() { return running->lane(); }
unsigned lanes() { return running->lanes(); }
void barrier() { running->wait(State::at_barrier); }
const std::uint64_t* exchange(std::uint64_t value) { return running->exchange(value); }
void* shared(const void* site, std::size_t bytes) { return running->shared(site, bytes); }

void launch(Extent grid, unsigned threads, unsigned warp, const std::function<void()>& body) {
  ORRERY_CHECK(running == nullptr, "a kernel cannot launch a kernel");
  ORRERY_CHECK(threads >= 1 && threads <= 1024 && (warp == 32 || warp == 64), "launch configuration");
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) {
    if (first_error.empty()) first_error = "empty grid";
    return;
  }
  Block block(grid, threads, warp, body);
  running = &block;
  bool good = true;
  for (unsigned z = 0; z < grid.z && good; ++z) {
    for (unsigned y = 0; y < grid.y && good; ++y) {
      for (unsigned x = 0; x < grid.x && good; ++x) good = block.run({x, y, z});
    }
  }
  running = nullptr;
  if (!good) pool.all.clear();
}

std::string take_error() { return std::exchange(first_error, std::string()); }

}  // namespace orrery::kernels::simulator

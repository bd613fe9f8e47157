// A queue of a device's work: steps' inputs, launches, captured graphs, and how long a step took. On the CPU
// simulator everything is done at once, and a graph runs its launches again.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>

#include "kernels/kernel_case.h"

namespace orrery::kernels {

class StepStream {
 public:
  class Graph {
   public:
    virtual ~Graph() = default;
  };
  using Body = std::function<void(Stream)>;

  virtual ~StepStream() = default;
  virtual Stream handle() = 0;
  virtual void make_current() = 0;  // its device, of the calling thread: launches and captures need it
  // Host memory that copies can be made from and to while the host goes on; null when there is no room. Lives
  // as long as the stream.
  virtual void* host_memory(std::size_t bytes) = 0;
  virtual void upload(void* device, const void* host, std::size_t bytes) = 0;      // asynchronous
  virtual void download(void* host, const void* device, std::size_t bytes) = 0;    // asynchronous
  virtual std::unique_ptr<Graph> capture(const Body& body, std::string& why) = 0;  // launches nothing
  virtual void replay(Graph& graph) = 0;
  // Places in the queue, by numbers below those held; and whether the device has passed one since it was last
  // marked, from any thread.
  virtual void hold_marks(std::size_t count) = 0;
  virtual void mark(std::size_t number) = 0;
  virtual bool passed(std::size_t number) const = 0;
  // Clocks between the launches of a captured body: noted in the order of the calls, read behind a wait.
  virtual void hold_clocks(std::size_t count) = 0;
  virtual void clock(std::size_t number) = 0;
  virtual double clock_ns(std::size_t from, std::size_t to) = 0;  // a tick each on the simulator
  virtual void begin_step() = 0;                                  // from here …
  virtual void end_step() = 0;                                    // … to here a step is timed
  virtual bool wait(std::string& why) = 0;  // for all of it; false with the driver's words on an error
  virtual double step_ns() = 0;             // of the last step that was waited for; 0 on the simulator
};

// Null with a reason when the device gives none.
std::unique_ptr<StepStream> make_step_stream(int device, std::string& why);

}  // namespace orrery::kernels

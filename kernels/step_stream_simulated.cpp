#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "kernels/cpu_simulator.h"
#include "kernels/step_stream.h"

namespace orrery::kernels {

namespace {

class SimulatedStream final : public StepStream {
 public:
  struct Recorded final : Graph {
    explicit Recorded(Body launches) : body(std::move(launches)) {}
    Body body;
  };

  Stream handle() override { return nullptr; }
  void make_current() override {}
  void* host_memory(std::size_t bytes) override {
    memory_.push_back(std::make_unique<unsigned char[]>(bytes));
    return memory_.back().get();
  }
  void upload(void* device, const void* host, std::size_t bytes) override {
    std::memcpy(device, host, bytes);
  }
  void download(void* host, const void* device, std::size_t bytes) override {
    std::memcpy(host, device, bytes);
  }
  std::unique_ptr<Graph> capture(const Body& body, std::string&) override {
    return std::make_unique<Recorded>(body);
  }
  void replay(Graph& graph) override { static_cast<Recorded&>(graph).body(nullptr); }
  void hold_marks(std::size_t) override {}
  void mark(std::size_t) override {}
  bool passed(std::size_t) const override { return true; }
  void hold_clocks(std::size_t count) override { clocks_.resize(std::max(count, clocks_.size())); }
  void clock(std::size_t number) override { clocks_[number] = static_cast<double>(++ticks_); }
  double clock_ns(std::size_t from, std::size_t to) override { return clocks_[to] - clocks_[from]; }
  void begin_step() override {}
  void end_step() override {}
  bool wait(std::string& why) override {
    const std::string error = simulator::take_error();
    if (!error.empty()) why = "simulator: " + error;
    return error.empty();
  }
  double step_ns() override { return 0; }

 private:
  std::vector<std::unique_ptr<unsigned char[]>> memory_;
  std::vector<double> clocks_;
  std::int64_t ticks_ = 0;
};

}  // namespace

std::unique_ptr<StepStream> make_step_stream(int, std::string&) {
  return std::make_unique<SimulatedStream>();
}

}  // namespace orrery::kernels

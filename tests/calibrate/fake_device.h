// A GPU that obeys a known law with noise, on a clock that only its own work moves.
#pragma once

#include <cmath>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/random.h"
#include "calibrate/measure.h"
#include "calibrate/session.h"

namespace orrery::calibrate {

class FakeTimer : public Timer {
 public:
  double seconds() override { return now; }
  void pause(double s) override {
    now += s;
    paused += s;
  }
  std::string date() override { return "2026-11-25"; }
  double now = 100, paused = 0;
};

// What the fakes share: the clock, the noise, and what goes wrong.
struct FakeWorld {
  explicit FakeWorld(std::uint64_t seed = 1) : random(seed, RandomPurpose::property_test) {}
  FakeTimer timer;
  RandomStream random;
  double noise = 0.002;        // relative deviation of a replay
  double pending_ns = 0;       // of the launches since the last reading
  double slowdown = 1;         // of everything: a drifting part
  std::vector<double> clocks;  // the next readings, MHz; 1980 when there are none
  std::string refusal;         // of every launch
  int throttled_readings = 0;  // so many telemetry readings from now on say throttled
  int time_calls = 0, kernels_made = 0, sets_prepared = 0;
  std::string fail_with;                    // of time()
  std::set<std::string> without;            // operators that there is no kernel for
  std::map<std::string, double> takes;      // of operators that do not take 1 × the law
  std::vector<kernels::CaseSpec> measured;  // in order of their making
};

class FakeMemory : public kernels::DeviceMemory {
 public:
  void* allocate(std::size_t bytes) override { return bytes < largest ? storage_ : nullptr; }
  void upload(void*, const void*, std::size_t) override {}
  void download(void*, const void*, std::size_t) override {}
  void fill(void*, int, std::size_t) override {}
  void fill_random(void*, std::size_t, const char*, float, std::uint64_t) override {}
  bool guards_intact(std::string& what) override {
    if (!intact) what = "behind buffer 1";
    return intact;
  }
  void release_all() override { ++releases; }
  bool intact = true;
  int releases = 0;
  std::size_t largest = std::size_t{1} << 40;

 private:
  unsigned char storage_[256] = {};  // an address; nobody reads or writes behind it
};

class FakeDevice : public kernels::Device {
 public:
  explicit FakeDevice(FakeWorld& world) : world_(world) {
    info_.name = "NVIDIA H200";
    info_.architecture = "sm_90a";
    info_.driver = "580.1";
    info_.runtime = "CUDA 13.0";
    info_.uuid = "GPU-0";
    info_.memory_bytes = std::size_t{141} << 30;
    info_.l2_bytes = std::size_t{60} << 20;
    info_.compute_units = 132;
  }
  const kernels::DeviceInfo& info() const override { return info_; }
  kernels::DeviceMemory& memory() override { return memory_; }
  bool time(const std::function<void(int, kernels::Stream)>& body, int launches, int replays,
            std::vector<double>& ns, std::string& why) override {
    ++world_.time_calls;
    if (!world_.fail_with.empty()) {
      why = world_.fail_with;
      return false;
    }
    world_.pending_ns = 0;
    for (int i = 0; i < launches; ++i) body(i, nullptr);
    const double per_launch = world_.pending_ns * world_.slowdown / launches;
    world_.timer.now += 1e-3;  // capture
    for (int i = 0; i < replays; ++i) {
      ns.push_back(per_launch * std::abs(1 + world_.noise * world_.random.normal()));
      world_.timer.now += 1e-9 * ns.back() * launches;
    }
    return true;
  }
  bool run(const std::function<void(kernels::Stream)>& body, std::string&) override {
    body(nullptr);
    world_.timer.now += 1e-4;
    return true;
  }
  kernels::Telemetry telemetry() override {
    kernels::Telemetry t;
    t.valid = true;
    t.sm_clock_mhz = 1980;
    if (!world_.clocks.empty()) {
      t.sm_clock_mhz = world_.clocks.front();
      world_.clocks.erase(world_.clocks.begin());
    }
    t.memory_clock_mhz = 3201;
    t.power_w = 480;
    t.temperature_c = 51;
    t.throttled = world_.throttled_readings > 0;
    if (t.throttled) {
      --world_.throttled_readings;
      t.throttle_reasons = 64;
    }
    return t;
  }
  std::vector<std::pair<std::string, std::string>> libraries() override { return {{"cublasLt", "13.1.0"}}; }
  kernels::DeviceInfo info_;
  FakeMemory memory_;

 private:
  FakeWorld& world_;
};

// Two microseconds, then the slower of 700 TFLOP/s and 4 TB/s: what an H200 does, nearly.
inline double law_ns(const kernels::CaseSpec& s) {
  const double flops = s.op == "gemm" ? 2.0 * static_cast<double>(s.m * s.n * s.k) : 0;
  const double bytes =
      cold_bytes(s) + static_cast<double>(s.bytes) + static_cast<double>(s.m * (s.n + s.k)) * 2;
  return 2000 + std::max(flops / 7e5, bytes / 4e3);
}

class FakeKernel : public kernels::KernelCase {
 public:
  FakeKernel(FakeWorld& world, const kernels::CaseSpec& spec) : world_(world), spec_(spec) {}
  std::string kernel() const override { return "fake." + spec_.op; }
  std::size_t bytes_per_set() const override { return static_cast<std::size_t>(cold_bytes(spec_)) + 4096; }
  bool prepare(kernels::DeviceMemory&, int sets, std::string&) override {
    world_.sets_prepared = sets;
    world_.timer.now += 2e-3;
    return true;
  }
  void launch(int, kernels::Stream) override {
    const auto factor = world_.takes.find(spec_.op);
    world_.pending_ns += law_ns(spec_) * (factor == world_.takes.end() ? 1 : factor->second);
  }
  std::string refusal() const override { return world_.refusal; }
  kernels::CheckResult check(kernels::DeviceMemory&) override { return {true, 0.5, 4096, ""}; }
  double flops() const override { return 1; }
  double bytes() const override { return 1; }

 private:
  FakeWorld& world_;
  kernels::CaseSpec spec_;
};

inline MakeCase fake_cases(FakeWorld& world) {
  return [&world](const kernels::CaseSpec& spec, std::string& why) -> std::unique_ptr<kernels::KernelCase> {
    if (world.without.count(spec.op) > 0) {
      why = "no kernel for " + spec.op;
      return nullptr;
    }
    ++world.kernels_made;
    world.measured.push_back(spec);
    return std::make_unique<FakeKernel>(world, spec);
  };
}

inline Point gemm_point(std::int64_t m, std::int64_t n, std::int64_t k) {
  Point p;
  p.spec.op = "gemm";
  p.spec.m = m;
  p.spec.n = n;
  p.spec.k = k;
  p.table = table_of(p.spec);
  p.shape = shape_of(p.spec);
  return p;
}

inline JournalHeader fake_header(kernels::Device& device) {
  JournalHeader h;
  h.hardware = "h200";
  h.date = "2026-11-25";
  h.version = "test";
  h.device = device.info();
  h.libraries = device.libraries();
  return h;
}

}  // namespace orrery::calibrate

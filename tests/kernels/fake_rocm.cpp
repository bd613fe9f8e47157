// Stands in for libhipblaslt, librccl and libamdhip64 in vendor_library_test.cpp: the same C interface, on
// host memory. FAKE_VERSION is what it calls itself; FAKE_LACKS leaves a function out.
#include <cstdint>
#include <cstring>
#include <vector>

#include "kernels/small_floats.h"

#ifndef FAKE_VERSION
#define FAKE_VERSION 1200
#endif

using namespace orrery::kernels;

namespace {

struct Layout {
  int type;
  std::uint64_t rows, columns;
  std::int64_t leading;
};
struct Description {
  std::int32_t transpose_first = 111;
  const float* scales[2] = {nullptr, nullptr};
};
struct Preference {
  std::uint64_t workspace = 0;
};

[[maybe_unused]] double value(const void* data, int type, std::size_t index) {
  if (type == 14) return bf16_to_float(static_cast<const std::uint16_t*>(data)[index]);
  const Fp8Format format = type == 1000 ? Fp8Format::fnuz : Fp8Format::ocp;
  return fp8_to_float(static_cast<const std::uint8_t*>(data)[index], format);
}

int live = 0;  // objects that were made and not dropped
int current_device = -1, group_depth = 0;

struct Part {
  const void* send;
  void* receive;
  std::size_t count;
};
std::vector<Part> group;

template <class T>
int make(void** out) {
  ++live;
  *out = new T();
  return 0;
}
template <class T>
int drop(void* object) {
  --live;
  delete static_cast<T*>(object);
  return 0;
}

}  // namespace

extern "C" {

int fake_live_objects() { return live; }
int fake_current_device() { return current_device; }

int hipblasLtCreate(void** handle) { return make<int>(handle); }
int hipblasLtDestroy(void* handle) { return drop<int>(handle); }
int hipblasLtGetVersion(void*, int* version) {
  *version = FAKE_VERSION;
  return 0;
}
int hipblasLtMatmulDescCreate(void** out, int compute, int scale) {
  return compute == 2 && scale == 0 ? make<Description>(out) : 3;
}
int hipblasLtMatmulDescDestroy(void* d) { return drop<Description>(d); }
int hipblasLtMatmulDescSetAttribute(void* d, int attribute, const void* from, std::size_t bytes) {
  auto* description = static_cast<Description*>(d);
  if (attribute == 0 && bytes == 4) {
    std::memcpy(&description->transpose_first, from, bytes);
  } else if ((attribute == 5 || attribute == 6) && bytes == sizeof(void*)) {
    std::memcpy(static_cast<void*>(&description->scales[attribute - 5]), from, bytes);
  } else {
    return 3;
  }
  return 0;
}
int hipblasLtMatrixLayoutCreate(void** out, int type, std::uint64_t rows, std::uint64_t columns,
                                std::int64_t leading) {
  if (type != 14 && type != 28 && type != 1000) return 3;
  ++live;
  *out = new Layout{type, rows, columns, leading};
  return 0;
}
int hipblasLtMatrixLayoutDestroy(void* l) { return drop<Layout>(l); }
int hipblasLtMatmulPreferenceCreate(void** out) { return make<Preference>(out); }
int hipblasLtMatmulPreferenceDestroy(void* p) { return drop<Preference>(p); }
int hipblasLtMatmulPreferenceSetAttribute(void* p, int attribute, const void* from, std::size_t bytes) {
  if (attribute != 1 || bytes != 8) return 3;
  std::memcpy(&static_cast<Preference*>(p)->workspace, from, bytes);
  return 0;
}

// hipblasLtMatmulHeuristicResult_t
struct Candidate {
  unsigned char algorithm[16];
  std::size_t most_workspace, workspace;
  int state;
  float waves;
  int reserved[4];
};
int hipblasLtMatmulAlgoGetHeuristic(void*, void*, void*, void*, void*, void*, void* p, int asked, void* out,
                                    int* found) {
  *found = 0;
  if (asked < 1 || static_cast<Preference*>(p)->workspace == 0) return 0;
  *static_cast<Candidate*>(out) = {{'k', 'e', 'p', 't'}, 0, 0, 0, 1, {}};
  *found = 1;
  return 0;
}

#ifndef FAKE_LACKS
// Column-major: d (n × m) = op(a) · b.
int hipblasLtMatmul(void*, void* d, const void* alpha, const void* a, void* of_a, const void* b, void* of_b,
                    const void* beta, const void*, void*, void* out, void* of_out, const void* algorithm,
                    void* workspace, std::size_t bytes, void*) {
  const auto* description = static_cast<Description*>(d);
  const auto *la = static_cast<Layout*>(of_a), *lb = static_cast<Layout*>(of_b),
             *lo = static_cast<Layout*>(of_out);
  if (description->transpose_first != 112 || std::memcmp(algorithm, "kept", 4) != 0) return 3;
  if (workspace == nullptr || bytes == 0 || *static_cast<const float*>(beta) != 0) return 3;
  if (la->rows != lb->rows || lo->rows != la->columns || lo->columns != lb->columns || lo->type != 14)
    return 3;
  double scale = *static_cast<const float*>(alpha);
  for (const float* each : description->scales) scale *= each != nullptr ? *each : 1;
  for (std::uint64_t j = 0; j < lo->columns; ++j) {
    for (std::uint64_t i = 0; i < lo->rows; ++i) {
      double sum = 0;
      for (std::uint64_t k = 0; k < la->rows; ++k)
        sum += value(a, la->type, i * static_cast<std::uint64_t>(la->leading) + k) *
               value(b, lb->type, j * static_cast<std::uint64_t>(lb->leading) + k);
      static_cast<std::uint16_t*>(out)[j * static_cast<std::uint64_t>(lo->leading) + i] =
          float_to_bf16(static_cast<float>(scale * sum));
    }
  }
  return 0;
}
#endif

int ncclGetVersion(int* version) {
  *version = FAKE_VERSION >= 600 ? 22'105 : 20'400;
  return 0;
}
int ncclCommInitAll(void** out, int ranks, const int* devices) {
  for (int r = 0; r < ranks; ++r) {
    if (devices[r] < 0) return 4;
    out[r] = new int(devices[r]);
    ++live;
  }
  return 0;
}
int ncclCommDestroy(void* communicator) { return drop<int>(communicator); }
int ncclGroupStart() { return ++group_depth == 1 ? 0 : 5; }
int ncclGroupEnd() {
  --group_depth;
  for (std::size_t i = 0; !group.empty() && i < group.front().count; ++i) {
    double sum = 0;
    for (const Part& part : group) sum += bf16_to_float(static_cast<const std::uint16_t*>(part.send)[i]);
    for (const Part& part : group)
      static_cast<std::uint16_t*>(part.receive)[i] = float_to_bf16(static_cast<float>(sum));
  }
  group.clear();
  return 0;
}
#ifndef FAKE_LACKS
int ncclAllReduce(const void* send, void* receive, std::size_t count, int type, int operation,
                  void* communicator, void*) {
  // RCCL wants the communicator's device to be current.
  if (type != 9 || operation != 0 || *static_cast<int*>(communicator) != current_device) return 4;
  group.push_back({send, receive, count});
  return 0;
}
#endif
const char* ncclGetErrorString(int) { return "invalid argument"; }

int hipSetDevice(int device) {
  current_device = device;
  return device < 8 ? 0 : 101;
}
}

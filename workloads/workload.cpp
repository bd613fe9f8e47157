#include "workloads/workload.h"

#include <filesystem>
#include <utility>

#include "base/random.h"
#include "base/text.h"
#include "workloads/trace_reader.h"

namespace orrery {

namespace {

// Applies time_scale and limits to any source. The first request is read ahead, so that an empty workload is
// an error before anything has been simulated.
class LimitedSource final : public RequestSource {
 public:
  LimitedSource(std::unique_ptr<RequestSource> inner, const WorkloadSpec& spec, std::uint64_t seed)
      : inner_(std::move(inner)), time_scale_(spec.time_scale), limit_requests_(spec.limit_requests),
        seed_(seed), disconnect_share_(spec.client.disconnect_share) {
    if (spec.client.timeout_s > 0) timeout_ = duration_from_seconds(spec.client.timeout_s);
    if (disconnect_share_ > 0) disconnect_after_ = duration_from_seconds(spec.client.disconnect_after_s);
    if (spec.limit_duration_s > 0) end_ = SimTime() + duration_from_seconds(spec.limit_duration_s);
  }

  bool read_ahead() { return has_first_ = read(first_); }

  bool next(TraceRequest& request) override {
    if (!has_first_) return read(request);
    has_first_ = false;
    request = first_;
    return true;
  }

  const Error* error() const override { return error_ ? &*error_ : inner_->error(); }

  std::uint64_t size_hint() const override {
    const std::uint64_t inner = inner_->size_hint();
    if (!end_.is_never()) return 0;
    if (limit_requests_ == 0) return inner;
    return inner == 0 ? 0 : std::min(inner, limit_requests_);
  }

 private:
  bool read(TraceRequest& request) {
    if (done_ || (limit_requests_ != 0 && count_ == limit_requests_)) return false;
    request.timeout = request.cancel_after = SimDuration(0);
    if (!inner_->next(request)) return false;
    if (time_scale_ != 1.0) {
      const double ns = static_cast<double>(request.arrival.ns()) / time_scale_;
      if (!(ns <= kMaxTimestampMs * 1e6)) {
        error_ = invalid_input("request " + std::to_string(request.index) +
                                   " would arrive after more than 63 years; "
                                   "expected a larger time_scale",
                               {}, "workload.time_scale");
        done_ = true;
        return false;
      }
      request.arrival = SimTime(round_half_even(ns));
    }
    if (request.arrival >= end_) {
      done_ = true;
      return false;
    }
    ++count_;
    if (request.timeout.ns() == 0) request.timeout = timeout_;
    if (request.cancel_after.ns() == 0 && disconnect_share_ > 0 &&
        RandomStream(seed_, RandomPurpose::client, request.index).uniform() < disconnect_share_) {
      request.cancel_after = disconnect_after_;
    }
    return true;
  }

  std::unique_ptr<RequestSource> inner_;
  double time_scale_;
  std::uint64_t limit_requests_;
  std::uint64_t seed_;
  double disconnect_share_;
  SimDuration timeout_, disconnect_after_;
  SimTime end_ = SimTime::never();
  TraceRequest first_;
  bool has_first_ = false, done_ = false;
  std::uint64_t count_ = 0;
  std::optional<Error> error_;
};

class ListSource final : public RequestSource {
 public:
  explicit ListSource(std::shared_ptr<const std::vector<TraceRequest>> requests)
      : requests_(std::move(requests)) {}
  bool next(TraceRequest& request) override {
    if (position_ == requests_->size()) return false;
    request = (*requests_)[position_++];
    return true;
  }
  const Error* error() const override { return nullptr; }
  std::uint64_t size_hint() const override { return requests_->size(); }

 private:
  std::shared_ptr<const std::vector<TraceRequest>> requests_;
  std::size_t position_ = 0;
};

std::string resolve(const std::string& folder, const std::string& path) {
  if (path.empty() || folder.empty()) return path;
  const std::filesystem::path given(path);
  return given.is_absolute() ? path : (std::filesystem::path(folder) / given).lexically_normal().string();
}

void read_limits(const Yaml& node, WorkloadSpec& spec) {
  if (const Yaml requests = node.optional("requests")) {
    spec.limit_requests = static_cast<std::uint64_t>(requests.integer(1, 1));
  }
  if (const Yaml duration = node.optional("duration_s")) {
    spec.limit_duration_s = duration.number(1, 0, 1e9);
    if (spec.limit_duration_s <= 0) duration.fail("expected more than 0 seconds");
  }
}

void read_client(const Yaml& node, ClientSpec& client) {
  const auto seconds = [](const Yaml& value) {
    const double s = value.number(1, 0, 1e9);
    if (s <= 0) value.fail("expected more than 0 seconds");
    return s;
  };
  if (const Yaml timeout = node.optional("timeout_s")) client.timeout_s = seconds(timeout);
  if (const Yaml disconnect = node.optional("disconnect")) {
    client.disconnect_share = disconnect.require("share").number(0, 0, 1);
    client.disconnect_after_s = seconds(disconnect.require("after_s"));
  }
}

}  // namespace

WorkloadSpec read_workload(const Yaml& node, const std::string& folder) {
  WorkloadSpec spec;
  const Yaml trace = node.optional("trace");
  const Yaml generator = node.optional("generator");
  if (trace && generator) {
    generator.fail("a workload has either a trace or a generator; remove one of the two");
  }
  if (trace) {
    spec.trace = resolve(folder, trace.text());
    if (spec.trace.empty()) trace.fail("expected the path of a trace file");
  }
  if (generator) {
    spec.generator = read_generator(generator);
    spec.generator->resample = resolve(folder, spec.generator->resample);
    if (spec.generator->servegen) {
      spec.generator->servegen->folder = resolve(folder, spec.generator->servegen->folder);
    }
  }
  if (const Yaml scale = node.optional("time_scale")) {
    spec.time_scale = scale.number(1, 0, 1e9);
    if (!(spec.time_scale > 0)) {
      scale.fail("expected a number greater than 0 (2.0 plays the trace twice as fast)");
      spec.time_scale = 1;
    }
  }
  if (const Yaml loop = node.optional("closed_loop")) {
    spec.closed_loop_concurrency = loop.require("concurrency").integer(1, 1, 1'000'000'000);
  }
  if (const Yaml limit = node.optional("limit")) read_limits(limit, spec);
  if (const Yaml frontend = node.optional("frontend")) {
    spec.openai_frontend = frontend.choice({"none", "openai"}) == 1;
  }
  if (const Yaml client = node.optional("client")) read_client(client, spec.client);
  if (const Yaml warmup = node.optional("warmup_s")) { spec.warmup_s = warmup.number(0, 0, 1e9); }
  return spec;
}

Result<std::unique_ptr<RequestSource>> open_workload(const WorkloadSpec& spec, std::uint64_t seed) {
  if (spec.requests == nullptr && spec.trace.empty() == !spec.generator.has_value()) {
    return invalid_input(spec.trace.empty()
                             ? "no requests: expected a trace, a generator or --trace FILE"
                             : "a workload has either a trace or a generator; remove one of the two",
                         {}, "workload");
  }
  std::unique_ptr<RequestSource> inner;
  std::string file;
  if (spec.requests != nullptr) {
    inner = std::make_unique<ListSource>(spec.requests);
  } else if (spec.generator) {
    inner = make_generator(*spec.generator, seed);
  } else {
    ORRERY_TRY(reader, open_trace(spec.trace));
    inner = std::move(reader);
    file = spec.trace;
  }
  auto source = std::make_unique<LimitedSource>(std::move(inner), spec, seed);
  if (!source->read_ahead()) {
    if (source->error() != nullptr) return *source->error();
    const bool limited = spec.limit_duration_s > 0;
    return invalid_input(
        limited ? "no request arrives before limit.duration_s = " + std::to_string(spec.limit_duration_s)
                : std::string("the trace is empty; expected at least one request"),
        SourceLocation{file, 0, 0});
  }
  return std::unique_ptr<RequestSource>(std::move(source));
}

}  // namespace orrery

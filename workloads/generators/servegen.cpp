#include "workloads/generators/servegen.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>
#include <vector>

#include "base/det_math.h"
#include "base/random.h"
#include "workloads/generators/servegen_profile.h"

namespace orrery {

namespace {

class ServegenSource final : public RequestSource {
 public:
  ServegenSource(const ServegenSpec& spec, std::uint64_t requests, std::uint64_t seed)
      : spec_(spec), requests_(requests), seed_(seed) {
    auto clients = load_servegen(spec_.folder);
    if (clients.ok()) {
      clients_ = std::move(clients).value();
      check_windows();
    } else {
      error_ = clients.errors().front();
    }
  }

  bool next(TraceRequest& request) override {
    while (position_ == batch_.size()) {
      if (error_ || emitted_ == requests_ || window_ == clients_.front().windows.size()) return false;
      fill_window(window_++);
    }
    if (error_ || emitted_ == requests_) return false;
    const Row& row = batch_[position_++];
    request = TraceRequest{};
    request.index = emitted_++;
    request.arrival = row.arrival;
    request.prompt_tokens = row.input;
    request.output_tokens = request.max_output_tokens = row.output;
    return true;
  }

  const Error* error() const override { return error_ ? &*error_ : nullptr; }

 private:
  struct Row {
    SimTime arrival;
    std::int32_t input = 0, output = 0;
  };

  void check_windows();
  void fill_window(std::size_t index);
  void fill_client(const ServegenClient& client, std::size_t index, double scale);
  double draw_gap(const ServegenWindow& window, RandomStream& stream) const;
  static std::int32_t draw_tokens(const TokenDistribution& distribution, RandomStream& stream);

  ServegenSpec spec_;
  std::uint64_t requests_, seed_;
  std::vector<ServegenClient> clients_;
  double window_length_ = 0;
  std::size_t window_ = 0;
  std::vector<Row> batch_;  // one window's requests, in order
  std::vector<double> gaps_;
  std::size_t position_ = 0;
  std::uint64_t emitted_ = 0;
  std::optional<Error> error_;
};

void ServegenSource::check_windows() {
  const std::vector<ServegenWindow>& first = clients_.front().windows;
  window_length_ = first[1].start_s - first[0].start_s;
  for (const ServegenClient& client : clients_) {
    if (client.windows.size() != first.size() || client.windows.front().start_s != first.front().start_s ||
        client.windows[1].start_s != first[1].start_s) {
      error_ = invalid_input("client " + std::to_string(client.id) + " has other windows than client " +
                                 std::to_string(clients_.front().id),
                             SourceLocation{spec_.folder, 0, 0});
      return;
    }
  }
  while (window_ < first.size() && first[window_].start_s + window_length_ <= spec_.start_s) ++window_;
}

void ServegenSource::fill_window(std::size_t index) {
  batch_.clear();
  position_ = 0;
  double published = 0;
  for (const ServegenClient& client : clients_) published += client.windows[index].rate;
  if (published == 0) return;
  const double scale = spec_.rate > 0 ? spec_.rate / published : 1;
  for (const ServegenClient& client : clients_) {
    if (client.windows[index].rate > 0) fill_client(client, index, scale);
    if (error_) return;
  }
  // Stable: requests of one instant stay in order of the client's id.
  std::stable_sort(batch_.begin(), batch_.end(),
                   [](const Row& a, const Row& b) { return a.arrival < b.arrival; });
}

void ServegenSource::fill_client(const ServegenClient& client, std::size_t index, double scale) {
  const ServegenWindow& window = client.windows[index];
  const ServegenLengths* lengths = nullptr;
  for (const ServegenLengths& candidate : client.lengths) {
    if (candidate.start_s <= window.start_s || lengths == nullptr) lengths = &candidate;
  }
  if (lengths == nullptr || lengths->input.tokens.empty() || lengths->output.tokens.empty()) {
    error_ = invalid_input(
        "client " + std::to_string(client.id) + " sends requests at " + std::to_string(window.start_s) +
            " s, but has no length distribution for that time",
        SourceLocation{spec_.folder + "/chunk-" + std::to_string(client.id) + "-dataset.json", 0, 0});
    return;
  }
  const std::uint64_t entity = client.id << 32 | index;
  RandomStream arrivals(seed_, RandomPurpose::arrivals, entity);
  RandomStream inputs(seed_, RandomPurpose::input_length, entity);
  RandomStream outputs(seed_, RandomPurpose::output_length, entity);
  gaps_.clear();
  double sum = 0;
  const auto count = static_cast<std::size_t>(std::ceil(window.rate * scale * window_length_));
  for (std::size_t i = 0; i < count; ++i) sum += gaps_.emplace_back(draw_gap(window, arrivals));
  double at = 0;
  for (const double gap : gaps_) {
    at += gap;
    const double second = window.start_s + at / sum * window_length_;
    const std::int32_t input = draw_tokens(lengths->input, inputs);
    const std::int32_t output = draw_tokens(lengths->output, outputs);
    if (second < spec_.start_s || second >= window.start_s + window_length_) continue;
    batch_.push_back({SimTime() + duration_from_seconds(second - spec_.start_s), input, output});
  }
}

double ServegenSource::draw_gap(const ServegenWindow& window, RandomStream& stream) const {
  if (!window.weibull) return stream.gamma(window.shape, window.scale);
  // Weibull by inversion: scale · (−log u)^(1/shape).
  return window.scale * det_pow(-det_log(stream.uniform_open()), 1.0 / window.shape);
}

std::int32_t ServegenSource::draw_tokens(const TokenDistribution& distribution, RandomStream& stream) {
  const double u = stream.uniform();
  const auto found = std::upper_bound(distribution.cumulated.begin(), distribution.cumulated.end(), u);
  const auto index = std::min(static_cast<std::size_t>(found - distribution.cumulated.begin()),
                              distribution.tokens.size() - 1);
  return distribution.tokens[index];
}

}  // namespace

std::unique_ptr<RequestSource> make_servegen(const ServegenSpec& spec, std::uint64_t requests,
                                             std::uint64_t seed) {
  return std::make_unique<ServegenSource>(spec, requests, seed);
}

}  // namespace orrery

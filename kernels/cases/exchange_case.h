// What the cases of both forms of exchanging experts' rows share: a dispatch, or a combine behind one
// dispatch.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "kernels/cases/expert_routes.h"
#include "kernels/cases/peer_case.h"

namespace orrery::kernels {

template <class Launch>
class ExchangeCaseOf : public PeerCaseOf<Launch> {
 public:
  ExchangeCaseOf(const CaseSpec& spec, bool combines)
      : PeerCaseOf<Launch>(spec, "orrery." + spec.op + ".v1"), combines_(combines) {}

  CheckResult check(DeviceMemory&) override {
    Comparison comparison(this->kernel());
    const ExpertRoutes routes(this->spec_);
    for (std::int32_t r = 0; r < this->spec_.ranks; ++r) {
      if (!combines_)
        check_arrived(comparison, routes, r);
      else if (routes.tokens(r) > 0)
        check_combined(comparison, routes, r);
    }
    return this->finish(comparison);
  }

 protected:
  virtual void dispatch(const Launch& launch, Stream stream) const = 0;
  virtual void combine(const Launch& launch, Stream stream) const = 0;
  virtual void check_arrived(Comparison& comparison, const ExpertRoutes& routes, std::int32_t rank) = 0;
  virtual void check_combined(Comparison& comparison, const ExpertRoutes& routes, std::int32_t rank) = 0;

  bool begin(std::string& why) override {
    if (!combines_) return true;
    const auto body = [&](std::int32_t rank, Stream stream) { dispatch(this->of_rank(rank), stream); };
    return this->group().launch(body, nullptr, why) && this->group().synchronize(why);
  }
  void start(std::int32_t, const Launch& launch, Stream stream) override {
    combines_ ? combine(launch, stream) : dispatch(launch, stream);
  }

  bool combines_;
};

// Terms added up to a row of bf16, and the row itself against them.
class SummedRow {
 public:
  explicit SummedRow(std::int64_t columns)
      : sum_(static_cast<std::size_t>(columns)), magnitude_(sum_.size()) {}
  void add(const std::vector<double>& y, double weight) {
    for (std::size_t i = 0; i < y.size(); ++i) {
      sum_[i] += weight * y[i];
      magnitude_[i] += std::fabs(weight * y[i]);
    }
  }
  void compare(Comparison& comparison, std::int64_t row, const std::vector<double>& out) const {
    for (std::size_t i = 0; i < out.size(); ++i) {
      comparison.value("out", row, static_cast<std::int64_t>(i), out[i], sum_[i],
                       bf16_tolerance(sum_[i], magnitude_[i]));
    }
  }

 private:
  std::vector<double> sum_, magnitude_;
};

}  // namespace orrery::kernels

#include "plan/blocks.h"

#include <algorithm>

namespace orrery {

void BlockSink::on_request(const RequestRecord& record) {
  if (!any_) {
    any_ = true;
    from_ = record.arrival + warmup_;
    last_ = from_;
  }
  if (record.arrival < from_) return;
  const std::uint64_t at = measured_ > 0 ? std::min(seen_, measured_ - 1) * block_count / measured_ : 0;
  RequestBlock& block = blocks_[static_cast<std::size_t>(at)];
  ++seen_;
  block.requests += 1;
  const bool answered = record.status == RequestStatus::completed;
  // As RunCollector::measure counts it.
  const bool met =
      answered && (!slo_.given || (record.ttft <= slo_.ttft && record.tpot_ns() <= slo_.tpot.ns()));
  missed_ += met ? 0 : 1;
  if (!answered) return;
  block.answered += 1;
  block.tokens += record.output_tokens;
  block.e2e_ms += static_cast<double>(record.e2e.ns()) * 1e-6;
  const SimTime end = record.arrival + record.e2e;
  if (end > last_) {
    block.busy_s += (end - last_).seconds();
    last_ = end;
  }
  if (!met) return;
  block.met += 1;
  block.met_tokens += record.output_tokens;
}

double BlockSink::most_attainment() const {
  const auto all = static_cast<double>(measured_);
  return measured_ > 0 ? (all - static_cast<double>(missed_)) / all : 0;
}

bool BlockSink::hopeless() const {
  return stop_below_ > 0 && measured_ > 0 && most_attainment() < stop_below_;
}

RequestBlocks BlockSink::blocks() const {
  RequestBlocks out = blocks_;
  if (seen_ == 0) return out;
  RequestBlock mean;
  for (const RequestBlock& block : blocks_) {
    mean.met += block.met / static_cast<double>(seen_);
    mean.answered += block.answered / static_cast<double>(seen_);
  }
  for (std::uint64_t i = seen_; i < measured_; ++i) {
    RequestBlock& block = out[static_cast<std::size_t>(i * block_count / measured_)];
    block.requests += 1;
    block.met += mean.met;
    block.answered += mean.answered;
  }
  return out;
}

}  // namespace orrery

// What a rank of a sharded step does with the others; how far the device has come in a step.
#include "live/forward/step_forward.h"

namespace orrery {

// Every rank has all rows, of its share of the features; their sum is the same bits on all of them.
void StepForward::sum_over_ranks(const char* use, std::int32_t rows, kernels::Stream stream) {
  if (shape_.ranks == 1) return;
  const std::int64_t elements = std::int64_t{rows} * shape_.hidden;
  const double bytes = static_cast<double>(elements) * bf16_bytes, ranks = shape_.ranks;
  count(use, OpClass::collective, 0, 0, bytes, 2 * (ranks - 1) / ranks * bytes);
  if (launching_ && together_) options_.link->all_reduce(scratch_.x, elements, stream);
}

Result<Unit> StepForward::first_sum() {
  options_.link->all_reduce(scratch_.x, shape_.hidden, stream_->handle());
  std::string why;
  if (!stream_->wait(why)) return make_error(ErrorKind::unavailable, why);
  why = options_.link->take_refusal();
  if (!why.empty()) return make_error(ErrorKind::unavailable, why);
  return Unit{};
}

void StepForward::gather_logits(const DeviceStep& step, kernels::Stream stream) {
  const double ranks = shape_.ranks,
               bytes = step.sampled * static_cast<double>(shape_.whole_vocabulary()) * bf16_bytes;
  count("logits_all_gather", OpClass::collective, 0, 0, bytes, (ranks - 1) / ranks * bytes);
  if (!launching_ || !together_) return;
  options_.link->gather_columns(scratch_.logits_part, scratch_.logits, step.sampled,
                                static_cast<std::int32_t>(shape_.vocabulary), stream);
}

// `error`: what it says when it is not fine.
Result<Unit> StepForward::meet(bool fine, const Error& error) {
  const bool all = options_.link == nullptr ? fine : options_.link->meet(fine);
  if (!fine) return error;
  if (!all) return make_error(ErrorKind::interrupted, "another rank has failed");
  return Unit{};
}

// All ranks have the same steps, so all come here or none. Keys and values of the step are written twice.
Result<Unit> StepForward::rehearse(const DeviceStep& step) {
  const std::pair<std::int64_t, std::int64_t> met{ForwardProducts::launched_rows(step.rows),
                                                  ForwardProducts::launched_rows(step.sampled)};
  if (!rehearsed_.insert(met).second) return Unit{};
  together_ = false;
  launch_layers(step, stream_->handle());
  launch_head(step, stream_->handle());
  together_ = true;
  std::string why;
  const bool fine = stream_->wait(why);
  return meet(fine, make_error(ErrorKind::unavailable, why));
}

// The thread that launches.
void StepForward::begin_layers() {
  launched_layers_ = 0;
  ++layered_steps_;
}

// Asking takes a lock of the driver's that launches need.
std::int64_t StepForward::layers_done() {
  constexpr std::chrono::microseconds seldom(50);
  const std::uint64_t step = layered_steps_;
  if (asked_step_ != step) passed_layers_ = 0;
  const auto now = std::chrono::steady_clock::now();
  if (asked_step_ == step && now - asked_at_ < seldom) return passed_layers_;
  asked_step_ = step;
  asked_at_ = now;
  const std::int64_t launched = launched_layers_;
  while (passed_layers_ < launched && stream_->passed(static_cast<std::size_t>(passed_layers_)))
    ++passed_layers_;
  return passed_layers_;
}

}  // namespace orrery

#include "sim/front_end.h"

namespace orrery {

namespace {

SimDuration rounded(std::int64_t ps) { return SimDuration((ps + 500) / 1000); }

}  // namespace

FrontEnd::FrontEnd(const FrontEndConfig& config)
    : config_(config), loop_in_(static_cast<std::size_t>(config.processes), SimTime(0)),
      tokenizer_(static_cast<std::size_t>(config.processes), SimTime(0)), loop_out_(SimTime(0)),
      detokenizer_(SimTime(0)) {}

SimTime FrontEnd::accept(std::uint64_t request, std::int32_t prompt_tokens, SimTime at) {
  const auto process = static_cast<std::size_t>(request % static_cast<std::uint64_t>(config_.processes));
  const std::int64_t tokenize = prompt_tokens * config_.tokenize_ps;
  const std::int64_t work = config_.request.ns() * 1000 + (config_.tokenizer_beside_loop ? 0 : tokenize);
  SimTime& loop = loop_in_[process];
  loop = later(loop, at) + rounded(work);
  requests_.push_back({at, work / config_.processes});
  if (!config_.tokenizer_beside_loop) return loop;
  SimTime& beside = tokenizer_[process];
  beside = later(beside, loop) + rounded(tokenize);
  return beside;
}

void FrontEnd::take_requests(SimTime before) {
  for (; !requests_.empty() && requests_.front().at < before; requests_.pop_front()) {
    loop_out_ = later(loop_out_, requests_.front().at) + rounded(requests_.front().ps);
    loop_work_ps_ += requests_.front().ps;
  }
}

SimTime FrontEnd::deliver(SimTime update, const Outputs& outputs) {
  take_requests(update);
  if (outputs.sequences == 0) return update;  // a step without outputs sends no message
  SimTime ready = update;
  if (config_.detokenizer_apart) {
    const std::int64_t share = (outputs.tokens + config_.detokenizers - 1) / config_.detokenizers;
    detokenizer_ = later(detokenizer_, update) + config_.message + rounded(share * config_.detokenize_ps);
    ready = detokenizer_;
  }
  const auto mine = [&](std::int64_t all) { return (all + config_.processes - 1) / config_.processes; };
  std::int64_t work = config_.message.ns() * 1000 + mine(outputs.sequences) * config_.output_ps +
                      mine(outputs.events) * config_.event_ps;
  if (!config_.detokenizer_apart) work += mine(outputs.tokens) * config_.detokenize_ps;
  loop_work_ps_ += work;
  loop_out_ = later(loop_out_, ready) + rounded(work);
  return loop_out_;
}

}  // namespace orrery

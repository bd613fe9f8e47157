#include "reports/run_outputs.h"

namespace orrery {

struct RunOutputs::State {
  OutputOptions options;
  AtomicDirectory directory;
  std::unique_ptr<RequestsCsv> requests;
};

RunOutputs::RunOutputs() = default;
RunOutputs::RunOutputs(RunOutputs&&) noexcept = default;
RunOutputs& RunOutputs::operator=(RunOutputs&&) noexcept = default;
RunOutputs::~RunOutputs() = default;

Result<RunOutputs> RunOutputs::create(const std::string& directory, const OutputOptions& options) {
  ORRERY_TRY(folder, AtomicDirectory::create(directory));
  RunOutputs outputs;
  outputs.state_ = std::make_unique<State>(State{options, std::move(folder), nullptr});
  State& s = *outputs.state_;
  if (options.level != "summary") {
    ORRERY_TRY(csv, RequestsCsv::create(s.directory.file("requests.csv"), options.itl));
    s.requests = std::make_unique<RequestsCsv>(std::move(csv));
  }
  return outputs;
}

RecordSink* RunOutputs::sink() { return state_ == nullptr ? nullptr : state_->requests.get(); }
RunObserver* RunOutputs::observer() { return nullptr; }

Status RunOutputs::finish(const Scenario& scenario, const SummaryInput& summary, const std::string&, const std::string&,
                          const std::function<bool(std::uint64_t)>&) {
  State& s = *state_;
  if (s.requests != nullptr) ORRERY_TRY_STATUS(s.requests->commit());
  ORRERY_TRY_STATUS(write_file_atomically(s.directory.file("summary.json"), canonical_json(summary_json(summary))));
  ORRERY_TRY_STATUS(write_file_atomically(s.directory.file("scenario.resolved.yaml"), scenario.resolved_yaml()));
  return s.directory.commit();
}

}  // namespace orrery

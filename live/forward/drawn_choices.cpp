#include "live/forward/drawn_choices.h"

#include "costmodel/experts/drawn_table.h"

namespace orrery {

bool DrawnChoices::prepare(std::shared_ptr<const ExpertPopularity> popularity, kernels::StepStream& stream,
                           kernels::DeviceMemory& memory) {
  popularity_ = std::move(popularity);
  stream_ = &stream;
  const std::size_t tables = entries() * sizeof *table_, weights = entries() * sizeof *weights_;
  table_ = static_cast<kernels::DrawnExpert*>(memory.allocate(tables));
  weights_ = static_cast<double*>(memory.allocate(weights));
  host_table_ = static_cast<kernels::DrawnExpert*>(stream.host_memory(tables));
  host_weights_ = static_cast<double*>(stream.host_memory(weights));
  if (table_ == nullptr || weights_ == nullptr || host_table_ == nullptr || host_weights_ == nullptr)
    return false;
  upload();
  return true;
}

void DrawnChoices::follow(std::int64_t epoch) {
  if (epoch == epoch_) return;
  epoch_ = epoch;
  upload();
}

void DrawnChoices::upload() {
  std::size_t at = 0;
  for (std::int32_t layer = 0; layer < popularity_->layers(); ++layer) {
    const AliasTable alias = alias_table(popularity_->weights(layer, epoch_));
    const std::vector<DrawnEntry> table = drawn_table(alias);
    for (std::size_t e = 0; e < table.size(); ++e, ++at) {
      host_table_[at] = {table[e].keep, table[e].own, table[e].other};
      host_weights_[at] = alias.weights[e];
    }
  }
  stream_->upload(table_, host_table_, at * sizeof *table_);
  stream_->upload(weights_, host_weights_, at * sizeof *weights_);
}

void DrawnChoices::of_layer(std::int64_t layer, kernels::RouterDrawnLaunch& launch) const {
  const std::int64_t first = layer * popularity_->experts();
  launch.table = table_ + first;
  launch.popularity = weights_ + first;
  launch.layer = static_cast<std::uint64_t>(layer);
}

}  // namespace orrery

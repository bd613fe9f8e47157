// Tables corrected by what launches of a run's steps took, and tried on steps that the correction has not
// seen.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "live/kernel_run.h"

namespace orrery {

struct TableUpdate {
  struct HeldOut {
    std::string kind;  // of steps
    std::size_t steps = 0;
    double before = 0, after = 0;                // of all of them together, percent
    double before_median = 0, after_median = 0;  // absolute, of a step, percent
  };
  std::string name;                // of the set: a folder with the two files
  std::string table, corrections;  // table.yaml, corrections.csv
  std::vector<HeldOut> held_out;
  std::size_t fitted_steps = 0, held_out_steps = 0;
};

// Before a run: whether its tables can be corrected (tables there are, and they are a set of the part).
Status check_table_update(const Scenario& scenario);
// Fitted to the profiled steps of the rehearsal's first two thirds, tried on the last third of the run's own
// steps, pool by pool. Errors: nothing was profiled; no tables; no improvement of the held-out steps (check
// failed, with the figures). `folder`: where it may write the set to try it, and leaves it: <folder>/<name>/.
Result<TableUpdate> update_tables(const Scenario& scenario, const KernelRun& run, const std::string& source,
                                  const std::string& folder);

Json table_update_json(const TableUpdate& update);
std::string table_update_text(const TableUpdate& update);

}  // namespace orrery

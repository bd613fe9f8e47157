// Rows that, read as they stand, ask a part for more than its kind was seen to do.
#pragma once

#include <vector>

#include "reports/casebook/published/import_rules.h"
#include "reports/casebook/published/run_import.h"

namespace orrery {

// A closed loop's own TTFT and TPOT say how many requests it ended a second: load ÷ (TTFT + (output − 1) ·
// TPOT). Where the products of their tokens alone ask for more than `most_of_peak` of the fastest matrix rate
// of all its GPUs, the load, the lengths or what a prompt costs (a cache of prompts) is not what the row
// says. Then every row of its file (`source_file=` in the note; else of its run) gets RowRule::impossible:
// they are of one measurement. Only figures that are to be priced; of rules without `most_of_peak` none.
void leave_out_impossible(const std::vector<FigureRow>& rows, const ImportRules& rules,
                          PublishedImport& import);

}  // namespace orrery

// Row-wise operators of `orrery cost --ops`: by the names of the tables' `elementwise.csv`.
#pragma once

#include <string>
#include <vector>

#include "costmodel/op_query.h"

namespace orrery {

const std::vector<std::string>& row_wise_queries();  // the names that `op` may have

// A row-wise query reads m (rows), n (width: features of a row, of q and k heads together, of the KV heads;
// experts for router_topk and moe_align) and k (choices a token, where there are any; default 1).
// Errors: m or n missing. Null table and name: the roofline's price.
Result<OpCost> row_wise_cost(const OpQuery& query, const Roofline& roofline);

}  // namespace orrery

// The requests of a published run, a row each, as its file in ../shared has them.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "reports/casebook/published_case.h"
#include "workloads/request_source.h"

namespace orrery {

struct PublishedTrace {
  std::vector<TraceRequest> requests;   // in order of arrival, the first at 0
  std::vector<double> ttft_ms, e2e_ms;  // of the same requests
};

// Plain, .gz or .zst CSV with a header and no quoted cells. Errors: a column that the header lacks, a cell
// that is no number or not above 0; with file and line.
Result<PublishedTrace> read_published_requests(const std::string& path, const PublishedRequests& columns);

// Path of a file of ../shared, or of an absolute name; empty when it is not there.
std::string find_shared_file(const std::string& file);

}  // namespace orrery

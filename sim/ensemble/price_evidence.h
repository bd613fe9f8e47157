// What a predicted figure stands on: part, engine, model, load and the rungs of its prices. Measured figures
// are put together by it (interval_corrections.h).
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "sim/costed/scenario.h"

namespace orrery {

// "throughput" for all rates; else "duration_s", "tpot_ms", "ttft_ms", "itl_ms", "e2e_ms".
std::string quantity_of(const std::string& metric);
// "tensorrt-llm-1.2" → "tensorrt-llm", "vllm-v1-runner" → "vllm", "vllm-0.5-rocm" (V0) → "vllm-v0"; an engine
// of another name is its own family.
std::string engine_family(const std::string& profile);

// Part, engine and model are empty where a run's pools differ in them.
struct PriceEvidence {
  std::string part = {}, engine = {};  // engine: the profile
  std::string rung = {};  // the one with the largest share of device time; of equal ones the less sure
  std::string model = {};
  std::int64_t prompt_tokens = 0, output_tokens = 0;  // of a request; 0: a trace's
  std::int64_t in_flight = 0;                         // requests at once; 0: by rate
  double tables = 0;      // share of device time priced by measured or published tables
  std::string plan = {};  // plan_name; "apart": prefill and decode
};
// "tp 4 ep 4": of an instance, widths of 1 left out but tp's.
std::string plan_name(const ParallelPlan& plan);
using RungShares = std::vector<std::pair<std::string, double>>;
PriceEvidence evidence_of(const Scenario& scenario, const RungShares& price_sources);
std::string main_rung(const RungShares& price_sources);
double share_of_tables(const RungShares& price_sources);

// Where among figures of its quantity one of this metric stands, from the widest region to the narrowest:
// rung; part and engine family; model; engine profile; middle or tail of the requests; parallel plan; whether
// prompts or outputs make up four fifths of the tokens; requests at once. Ends where the evidence does.
std::vector<std::string> region_path(const std::string& metric, const PriceEvidence& evidence);
constexpr std::size_t model_depth = 3;  // names of it as far as the model

}  // namespace orrery

#include "catch.h"

#include <algorithm>

#include "support.h"
#include "workloads/trace_stats.h"
#include "workloads/trace_writer.h"

using namespace orrery;
using namespace orrery::test;

namespace {

std::string excerpt(const std::string& name) {
  return std::string(ORRERY_SOURCE_DIR) + "/workloads/excerpts/" + name;
}

TraceStats stats_of(const Read& read) {
  TraceStats stats;
  for (const TraceRequest& request : read.requests) stats.add(request);
  return stats;
}

// The bytes that `orrery trace convert ORIGINAL OUT --limit-duration 600` writes.
std::string first_ten_minutes(const std::string& original) {
  std::string text;
  for (const TraceRequest& request : read_trace(original).requests) {
    if (request.arrival >= SimTime() + seconds(600)) break;
    append_trace_line(text, request);
    text += '\n';
  }
  return text;
}

}  // namespace

TEST_CASE("the excerpts load and are what their README says") {
  const Read azure = read_trace(excerpt("azure_2023_conversation_10min.jsonl"));
  REQUIRE(azure.error == "");
  CHECK(azure.requests.size() == 2867);
  CHECK(azure.requests.back().arrival < SimTime() + seconds(600));
  const Read mooncake = read_trace(excerpt("mooncake_conversation_10min.jsonl"));
  REQUIRE(mooncake.error == "");
  CHECK(mooncake.requests.size() == 1750);
  // Mooncake's conversations share their beginnings; Azure's published rows do not say.
  CHECK(stats_of(mooncake).shared_block_share() > 0.05);
  CHECK(stats_of(azure).prompt_blocks() == 0);
}

TEST_CASE("the excerpts are the first ten minutes of the published files, byte for byte") {
  const std::string traces = std::string(ORRERY_SOURCE_DIR) + "/../shared/data/traces/";
  if (!std::filesystem::exists(traces)) {
    WARN("skipped: " << traces << " is not there, so the excerpts were not compared with their originals");
    return;
  }
  CHECK(first_ten_minutes(traces + "azure_2023/AzureLLMInferenceTrace_conv.csv.zst") ==
        read_bytes(excerpt("azure_2023_conversation_10min.jsonl")));
  CHECK(first_ten_minutes(traces + "mooncake/conversation_trace.jsonl.zst") ==
        read_bytes(excerpt("mooncake_conversation_10min.jsonl")));
}

TEST_CASE("the published traces at hand read to their end") {
  const std::string traces = std::string(ORRERY_SOURCE_DIR) + "/../shared/data/traces/";
  if (!std::filesystem::exists(traces)) {
    WARN("skipped: " << traces << " is not there");
    return;
  }
  const auto count = [&](const std::string& name) {
    const Read read = read_trace(traces + name);
    CHECK(read.error == "");
    return read.requests.size();
  };
  CHECK(count("azure_2023/AzureLLMInferenceTrace_conv.csv.zst") == 19366);
  CHECK(count("azure_2023/AzureLLMInferenceTrace_code.csv.zst") == 8819);
  CHECK(count("mooncake/conversation_trace.jsonl.zst") == 12031);
  CHECK(count("mooncake/synthetic_trace.jsonl.zst") == 3993);
}

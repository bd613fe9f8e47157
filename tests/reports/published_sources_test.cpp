// What the sources of published rows say of themselves and of their clients
// (reports/cases/import_rules.yaml).
#include "published_rows.h"

using namespace orrery;

TEST_CASE("what a source says of itself leaves rows out") {
  const auto rule = [](const std::string& configuration, const std::string& source) {
    const auto import = import_text(configuration + ",latency,5,s," + source + ",\n");
    return import.figures[0].rule;
  };
  const std::string argonne = "argonne-lcf/LLM-Inference-Bench,all",
                    engines = ",2024,meta-llama/Llama-2-7b-hf,fp16/bf16,1,,,,,128,16,offline,batch_size,4";
  CHECK(rule("H100-SXM,1,vLLM" + engines, argonne) == RowRule::priced);
  CHECK(rule("H100-SXM,1,TensorRT-LLM" + engines, argonne) == RowRule::engine);  // compiled engines
  const std::string minimax =
      "H200-SXM,8,vllm,nightly 2026-02,MiniMaxAI/MiniMax-M2.5,checkpoint default,8,8"
      ",,,0,1024,128,random,concurrency,4";
  CHECK(rule(minimax, "InferenceX experimental/token_position_decode_slo,here") == RowRule::disowned);
  CHECK(rule(minimax, "somebody,here") == RowRule::priced);
  const std::string oss =
      "H100-SXM,4,vllm,0.11.2,openai/gpt-oss-120b,mxfp4,4,1,1,1,0,1024,8192,fixed,concurrency";
  const std::string run = "silicon_sample.csv,2026_04_06_gpt_oss_120b_h100_sxm_vllm_fp4_agg_1024x8192_c";
  CHECK(rule(oss + ",512", run + "512_tp4") == RowRule::workload);
  CHECK(rule(oss + ",64", run + "64_tp4") == RowRule::priced);
}

TEST_CASE("what the first requests decide is left out where nothing had warmed the server up") {
  const auto rule = [](const std::string& figure, const std::string& date) {
    return import_text("H200-SXM,8,sglang,,DeepSeek-R1 (dsr1),fp8,8,1,,,0,1024,1024,,concurrency,4," +
                       figure + ",5,ms,InferenceX dashboard,date=" + date + ",spec=none\n")
        .figures[0]
        .rule;
  };
  CHECK(rule("p99_ttft", "2025-12-10") == RowRule::cold);
  CHECK(rule("mean_ttft", "2026-01-05") == RowRule::cold);
  for (const char* other : {"median_ttft", "p99_tpot"}) CHECK(rule(other, "2025-12-10") == RowRule::priced);
  CHECK(rule("p99_ttft", "2026-01-23") == RowRule::priced);
}

// `validate --published`: rows are read strictly, each is priced or left out by one named rule, equal runs
// are simulated once, and what is priced is what a simulation of the same scenario gives.
#include <algorithm>

#include "base/files.h"
#include "catch.h"
#include "published_rows.h"
#include "reports/casebook/published/beyond_part.h"
#include "reports/casebook/published/board_text.h"
#include "reports/casebook/published/import_rules.h"
#include "reports/casebook/published/published_board.h"
#include "reports/casebook/published/published_metric.h"
#include "reports/casebook/score_rows.h"

using namespace orrery;

namespace {

std::string row(const std::string& metric, const std::string& value, const std::string& unit,
                const std::string& configuration =
                    "H200-SXM,1,vllm,0.24.0,Qwen/Qwen3-8B,BF16,1,,,,0,300,20,4 prompts,"
                    "concurrency,2") {
  return configuration + "," + metric + "," + value + "," + unit + ",made up,here,\n";
}

std::string errors_of(const std::string& text) {
  const test::TempFolder folder;
  const auto rows = read_figure_rows(folder.write("rows.csv", text));
  REQUIRE_FALSE(rows.ok());
  return to_string(rows.errors());
}

bool says(const std::string& text, const std::string& what) { return text.find(what) != std::string::npos; }

PublishedBoard price(const std::string& text, int threads = 1, int runs = 0) {
  BoardOptions options;
  options.runs = runs;
  options.threads = threads;
  auto board = price_published(rows_of(kHeader + text), our_rules(), options);
  REQUIRE(board.ok());
  return std::move(*board);
}

}  // namespace

TEST_CASE("cells may be quoted, columns stand in any order, others are not read") {
  const auto rows = rows_of("extra," + kHeader +
                            "x,H200-SXM,1,vllm,0.24.0,m,,1,,,,0,1,2,\"a, \"\"b\"\"\",concurrency,1,ttft,"
                            "1.5e1,ms,s,l,n\n");
  REQUIRE(rows.size() == 1);
  CHECK(rows[0].line == 2);
  CHECK(rows[0].value == 15);
  CHECK(rows[0][FigureColumn::workload] == "a, \"b\"");
  CHECK(rows[0][FigureColumn::note] == "n");
}

TEST_CASE("what is wrong with a file is said with line and column") {
  const std::string header = errors_of("hw,gpus\nH200,1\n");  // one error for all that it lacks
  CHECK(says(header, "rows.csv:1:1: the header lacks engine, engine_version, "));
  CHECK(header.find("lacks") == header.rfind("lacks"));
  CHECK(says(errors_of("hw," + kHeader), "rows.csv:1:4: hw: this column stands twice"));
  CHECK(says(errors_of(kHeader), "rows.csv:2:1: no rows below the header"));
  CHECK(says(errors_of(""), "rows.csv:1:1: the file is empty"));
  const std::string both = errors_of(kHeader + row("ttft", "fast", "ms") + "H200,1\n");
  const std::size_t column = row("ttft", "fast", "ms").find("fast") + 1;
  CHECK(
      says(both, "rows.csv:2:" + std::to_string(column) + ": value: expected a finite number, got \"fast\""));
  CHECK(says(both, "rows.csv:3:6: expected 22 cells as in the header, got 2"));
  CHECK(says(errors_of(kHeader + row("ttft", "nan", "ms")), "expected a finite number"));
  CHECK(says(errors_of(kHeader + "H200-SXM,\"open\n"), "rows.csv:2:10: a quote is opened here"));
}

TEST_CASE("versions are the first number with a point in the cell") {
  CHECK(release_number("0.12.0") == 12'000);
  CHECK(release_number("0.12") == 12'000);
  CHECK(release_number("lmsysorg/sglang:v0.5.12-rocm700-mi30x") == 5'012);
  CHECK(release_number("0.5.6.post2") == 5'006);
  CHECK(release_number("1.0.0rc3") == 1'000'000);
  CHECK(release_number("glm5-hopper") == -1);
  CHECK(release_number("") == -1);
}

TEST_CASE("figures are brought to our names and units") {
  const auto metric = [](const std::string& name, const std::string& value, const std::string& unit) {
    return published_metric(rows_of(kHeader + row(name, value, unit))[0], 8);
  };
  CHECK(metric("ttft", "12", "ms")->name() == "ttft_ms.mean");
  CHECK(metric("p99_e2el", "2", "s")->name() == "e2e_ms.p99");
  CHECK(metric("p99_e2el", "2", "s")->value == 2000);
  CHECK(metric("tput_per_gpu", "100", "tok/s/gpu")->name() == "throughput.total_tokens_per_s");
  CHECK(metric("tput_per_gpu", "100", "tok/s/gpu")->value == 800);
  CHECK(metric("mean_decode_speed_per_user", "50", "tok/s")->value == 20);
  CHECK(metric("latency", "3", "s")->name() == "duration_s");
  CHECK_FALSE(metric("mean_power", "300", "W"));
  CHECK_FALSE(metric("ttft", "12", "furlongs"));
  CHECK_FALSE(published_metric(rows_of(kHeader + row("tput_per_gpu", "1", "tok/s/gpu"))[0], 0));
}

TEST_CASE("rows of one configuration share a simulation") {
  const auto import =
      import_text(row("mean_ttft", "20", "ms") + row("mean_tpot", "5", "ms") + row("mean_ttft", "21", "ms"));
  CHECK(import.setups.size() == 1);
  CHECK(import.setups[0].metrics.size() == 2);
  CHECK(import.figures[2].metric == import.figures[0].metric);
  CHECK(import.figures[2].measured == 21);
}

TEST_CASE("every rule leaves its row out and says why") {
  const std::string tail = ",concurrency,2";
  const auto rule = [&](const std::string& configuration, const std::string& metric = "ttft",
                        const std::string& value = "5", const std::string& unit = "ms") {
    const auto import = import_text(row(metric, value, unit, configuration));
    REQUIRE(import.figures.size() == 1);
    CHECK((import.figures[0].rule == RowRule::priced || !import.figures[0].why.empty()));
    return import.figures[0].rule;
  };
  const std::string good = "H200-SXM,1,vllm,0.24.0,Qwen/Qwen3-8B,BF16,1,,,,0,300,20,w" + tail;
  const auto replaced = [](std::string text, const std::string& what, const std::string& by) {
    const std::size_t at = text.find(what);
    REQUIRE(at != std::string::npos);
    return text.replace(at, what.size(), by);
  };
  const auto with = [&](const std::string& what, const std::string& by) { return replaced(good, what, by); };
  CHECK(rule(good) == RowRule::priced);
  CHECK(rule(good, "ttft", "0") == RowRule::value);
  CHECK(rule(good, "mean_power", "5", "W") == RowRule::metric);
  CHECK(rule(with("H200-SXM", "A100")) == RowRule::hardware);
  CHECK(rule(with("vllm", "llama.cpp")) == RowRule::engine);
  CHECK(rule(with("0.24.0", "0.6.3")) == RowRule::engine_version);
  CHECK(rule(replaced(with("0.24.0", "0.6.3"), "concurrency", "batch_size")) == RowRule::priced);
  CHECK(rule(with(",0,300", ",1,300")) == RowRule::disaggregated);
  CHECK(rule(with("BF16", "\"FP8, FP8 KV, MTP3\"")) == RowRule::speculation);
  CHECK(rule(with("Qwen/Qwen3-8B", "Nobody/Knows-8B")) == RowRule::model);
  CHECK(rule(with("BF16", "Q4_K_M")) == RowRule::quantization);
  CHECK(rule(with("300", "see source")) == RowRule::workload);
  CHECK(rule(with("concurrency,2", "max_throughput,inf")) == RowRule::workload);
  CHECK(rule(with("concurrency,2", "qps,5abc")) == RowRule::workload);
  CHECK(rule(with("concurrency,2", "qps,5")) == RowRule::priced);
  CHECK(rule(with("H200-SXM,1", "H200-SXM,4")) == RowRule::plan);
}

TEST_CASE("a release of SGLang has the profile that its patch asks for, a run without one that of its day") {
  const auto engine = [](const std::string& version, const std::string& locator) {
    return import_text("H200-SXM,8,sglang," + version +
                       ",DeepSeek-R1 (dsr1),fp8,8,1,,,0,1024,1024,random,concurrency,4,ttft,5,ms,"
                       "SemiAnalysis InferenceX dashboard snapshot," +
                       locator + ",spec=none\n")
        .setups[0]
        .engine;
  };
  CHECK(engine("lmsysorg/sglang:v0.5.9-cu130", "run date=2026-03-25") == "sglang-0.5.9");
  CHECK(engine("0.5.6.post2", "run") == "sglang-0.5.9");
  CHECK(engine("0.5.10", "run") == "sglang-0.5");
  CHECK(engine("0.5.12", "run") == "sglang-0.5");
  CHECK(engine("", "run date=2026-01-22") == "sglang-0.5.9");
  CHECK(engine("", "run date=2026-05-17") == "sglang-0.5");
}

TEST_CASE("TensorRT-LLM before 1.2 has a profile of its own, by the release or the day of a run") {
  const auto engine = [](const std::string& version, const std::string& locator) {
    return import_text("H200-SXM,8,trt," + version +
                       ",DeepSeek-R1 (dsr1),fp8,8,8,,,0,1024,1024,random,concurrency,4,tpot,5,ms,"
                       "SemiAnalysis InferenceX dashboard snapshot," +
                       locator + ",spec=none\n")
        .setups[0]
        .engine;
  };
  CHECK(engine("nvcr.io/nvidia/tensorrt-llm/release:1.1.0rc2.post2", "run date=2025-12-15") ==
        "tensorrt-llm-1.0");
  CHECK(engine("", "run date=2025-12-05") == "tensorrt-llm-1.0");
  CHECK(engine("nvcr.io/nvidia/tensorrt-llm/release:1.3.0rc14", "run date=2026-05-18") == "tensorrt-llm-1.2");
  CHECK(engine("", "run date=2026-05-18") == "tensorrt-llm-1.2");
}

TEST_CASE("gpt-oss of InferenceX runs the experts that its scripts ask for") {
  const auto engine = [](const std::string& gpus, const std::string& of, const std::string& locator) {
    return import_text(
               gpus + "," + of + ",,openai/gpt-oss-120b,fp4 gemm=nvfp4 moe=nvfp4,1,1,1,1,0,1024,1024," +
               "fixed,concurrency,8,tpot,5,ms,ai-dynamo/aiconfigurator silicon_sample.csv," + locator + ",\n")
        .setups[0]
        .engine;
  };
  CHECK(engine("H200-SXM,1", "vllm", "2026_03_01_x") == "vllm-0.18-marlin");
  CHECK(engine("H100-SXM,1", "vllm", "2026_03_01_x") == "vllm-0.18-marlin");
  CHECK(engine("H200-SXM,1", "trtllm", "2026_03_01_x") == "tensorrt-llm-1.0-triton");
}

TEST_CASE("Qwen's own speed page: checkpoints in blocks, SGLang 0.4.6 with its arguments") {
  const std::string figure =
      "H20,1,SGLang,0.4.6.post1,Qwen/Qwen3-8B,FP8,1,,,,,64,20,one,batch_size,1,total_tok_per_s,9,tok/s,";
  const auto import =
      import_text(figure + "QwenLM/Qwen3 docs speed_benchmark.md,1,\n" + figure + "another,1,\n");
  CHECK(import.setups.at(1).engine == "sglang-0.4");
  CHECK(says(import.setups[0].scenario, "quantization: fp8-block"));
  CHECK(says(import.setups[0].scenario, "enable_mixed_chunk: true"));
  CHECK(says(import.setups[1].scenario, "quantization: fp8-tensor"));
}

TEST_CASE("what is known of a row stands beside it") {
  PublishedBoard board = price(row("mean_ttft", "20", "ms"));
  board.explanations = {RowExplanation{{}, {}, {}, {}, {}, "because of <it>"}};
  CHECK(says(board_markdown(board), "because of &lt;it>"));
}

TEST_CASE("a slow rate keeps its digits") {
  const auto import = import_text(
      row("ttft", "5", "ms", "H200-SXM,1,vllm,0.24.0,Qwen/Qwen3-8B,BF16,1,,,,0,300,20,w,qps,0.0004"));
  REQUIRE(import.setups.size() == 1);
  CHECK(says(import.setups[0].scenario, "rate: 4e-04}"));
  CHECK(says(import.setups[0].load, "4e-04/s"));
}

TEST_CASE("what a deployment cannot be is found when it is priced") {
  const auto board = price(
      row("ttft", "5", "ms", "H200-SXM,3,vllm,0.24.0,Qwen/Qwen3-8B,BF16,3,,,,0,300,20,w,concurrency,2") +
      row("ttft", "5", "ms",
          "H200-SXM,1,vllm,0.24.0,deepseek-ai/DeepSeek-R1,fp8,1,,,,0,300,20,w,"
          "concurrency,2"));
  CHECK(board.board.empty());
  REQUIRE(board.left_out.size() == 2);
  CHECK(board.left_out[0].rule == RowRule::refused);
  CHECK(says(board.left_out[0].why, "deployment.parallel.tp"));
  CHECK(board.left_out[1].rule == RowRule::does_not_fit);
}

TEST_CASE("settings of a source reach the scenario") {
  const auto import = import_text(
      "H200-SXM,64,trt,nvcr.io/nvidia/tensorrt-llm/release:1.1.0rc2,DeepSeek-R1 "
      "(dsr1),fp8,8,8,,,0,1024,1024,random,"
      "concurrency,64,tput_per_gpu,450,tok/s/gpu,SemiAnalysis InferenceX dashboard snapshot,run,spec=none\n");
  REQUIRE(import.setups.size() == 1);
  const std::string& text = import.setups[0].scenario;
  CHECK(says(text, "parallel: {tp: 8, pp: 1, ep: 8, dp: 1}"));
  CHECK(says(text, "kv_cache_dtype: fp8"));
  CHECK(says(text, "max_num_tokens: 8192"));  // 64 + 1024 + 64 in steps of 64, at least 8192
  CHECK(says(import_text("H200-SXM,8,trt,,DeepSeek-R1 (dsr1),fp8,8,1,,,0,1024,1024,random,concurrency,64,"
                         "tput_per_gpu,450,tok/s/gpu,SemiAnalysis InferenceX dashboard snapshot,run "
                         "date=2025-12-15,spec=none\n")
                 .setups.at(0)
                 .scenario,
             "max_num_tokens: 1152"));  // before the floor
  CHECK(says(text, "requests: 640"));
  CHECK(says(text, "input: {distribution: uniform, low: 819, high: 1024}"));
  CHECK(import.figures[0].measured == 8 * 450.0);  // its 64 GPUs are the eight, times the expert width
}

TEST_CASE("long outputs are cut to the steps that are simulated, not below three rounds") {
  const auto requests = [](const std::string& output) {
    const auto import = import_text(
        row("ttft", "5", "ms",
            "H200-SXM,1,vllm,0.24.0,Qwen/Qwen3-8B,BF16,1,,,,0,300," + output + ",w,concurrency,4"));
    const std::string& text = import.setups[0].scenario;
    return text.substr(text.find("requests: "), 12);
  };
  CHECK(requests("100") == "requests: 40");
  CHECK(requests("8192") == "requests: 40");   // ten rounds are 81,920 steps
  CHECK(requests("16384") == "requests: 20");  // 90,000 / 16,384 = 5 rounds
  CHECK(requests("40000") == "requests: 12");
}

TEST_CASE("a file with a run that multiplies faster than its part does is left out whole") {
  // 64 in flight, 2,000 + 100 tokens of Qwen3-8B: 100 ms and 10 ms mean 59 requests a second, 1.7 PFLOP/s.
  const auto run = [](const std::string& locator, const std::string& file, const std::string& ttft,
                      const std::string& tpot, const std::string& source = "somebody") {
    const std::string common = "H200-SXM,1,vllm,0.12.0,Qwen/Qwen3-8B,fp8,1,,,,0,2000,100,w,concurrency,64,";
    const std::string end = ",ms," + source + "," + locator + ",source_file=" + file + "; x\n";
    return common + "ttft," + ttft + end + common + "tpot," + tpot + end;
  };
  const std::string text = run("a", "one.csv", "100", "10") + run("b", "one.csv", "2000", "40") +
                           run("c", "two.csv", "2000", "40") + run("d", "", "90", "10") +
                           run("e", "one.csv", "2000", "40", "another") + run("f", "", "2000", "40");
  const std::vector<FigureRow> rows = rows_of(kHeader + text);
  const auto rules_of = [&](const ImportRules& rules) {
    PublishedImport import = import_rows(rows, rules);
    leave_out_impossible(rows, rules, import);
    std::string out;
    for (const ImportedFigure& f : import.figures) out += f.rule == RowRule::impossible ? 'x' : '.';
    return out;
  };
  CHECK(rules_of(our_rules()) == "xxxx..xx....");
  ImportRules looser = our_rules();
  looser.most_of_peak = 1;
  CHECK(rules_of(looser) == "............");  // 0.86 and 0.87 of the peak
  looser.most_of_peak = 0;
  CHECK(rules_of(looser) == "............");
  const auto board = price(text, 1, 0);
  CHECK(board.board.size() == 6);
}

TEST_CASE("priced rows carry what the simulation gives, alike with any number of threads") {
  const std::string text = row("mean_ttft", "20", "ms") + row("mean_tpot", "5", "ms") +
                           row("output_tput", "300", "tok/s",
                               "H100-SXM,1,vLLM,2024,meta-llama/Llama-2-7b-hf,fp16/bf16,1,,,"
                               ",,128,16,offline,batch_size,4") +
                           row("mean_ttft", "20", "ms",
                               "H200-SXM,1,llama.cpp,1,Qwen/Qwen3-8B,BF16,1,,,,0,300,20,w,"
                               "concurrency,2");
  const auto board = price(text, 1, 2);
  REQUIRE(board.board.size() == 3);
  for (const BoardRow& r : board.board) {
    CHECK(r.compared.predicted > 0);
    CHECK(r.interval);
    CHECK(r.compared.low <= r.compared.predicted);
    CHECK(r.compared.high >= r.compared.predicted);
  }
  CHECK(board.setups[board.board[2].setup].engine == "vllm-0.5");
  REQUIRE(board.left_out.size() == 1);
  CHECK(board.left_out[0].rule == RowRule::engine);
  CHECK(board.left_out[0].error_percent);  // more than 5 % of the rows: priced as if
  CHECK(canonical_json(board_json(board)) == canonical_json(board_json(price(text, 3, 2))));
  const Json json = board_json(board);
  CHECK(json["cases"].size() == 3);
  CHECK(json["cases"][0]["id"] == "line 2");
  CHECK(json["by_part"]["h200"]["rows"] == 2);
  CHECK(json["rules"][0]["rule"] == "engine");
  CHECK(says(board_markdown(board), "| h200 | vllm-0.24 | ttft_ms | 1 |"));
  CHECK(says(board_text(board), "3 of 4 rows priced"));
  const std::string csv = board_csv(board);
  CHECK(std::count(csv.begin(), csv.end(), '\n') == 4);
  CHECK(says(left_out_csv(board), "5,engine,llama.cpp,"));
}

TEST_CASE("a figure of which the shortened runs say nothing has no interval and counts for none") {
  // Prompts of 1 to 300 tokens, one after another, of which the first three are too long for the server.
  ImportRules rules = our_rules();
  RunSetting setting;
  setting.low_share = 0;
  setting.rounds = 40;
  ArgumentValue most;
  most.text = "48";
  setting.engine_args.emplace_back("max_model_len", most);
  rules.settings.push_back(setting);
  const std::string text = kHeader + row("mean_ttft", "20", "ms",
                                         "H200-SXM,1,vllm,0.24.0,Qwen/Qwen3-8B,BF16,1,,,,0,300,2,w,"
                                         "concurrency,1");
  BoardOptions options;
  options.runs = 2;
  const auto board = price_published(rows_of(text), rules, options);
  REQUIRE(board.ok());
  REQUIRE(board->board.size() == 1);
  CHECK(board->board[0].compared.predicted > 0);
  CHECK_FALSE(board->board[0].interval);
  const Json json = board_json(*board);
  CHECK(json["all"]["rows"] == 1);
  CHECK(json["all"]["with_interval"] == 0);
  CHECK(json["coverage"].is_null());
  CHECK(json["cases"][0]["low"].is_null());
  CHECK(json["cases"][0]["verdict"].is_null());
}

TEST_CASE("what stands in the journal is not priced again, and gives the same board") {
  const test::TempFolder folder;
  const auto rows =
      rows_of(kHeader + row("mean_ttft", "20", "ms") +
              row("mean_ttft", "20", "ms",
                  "H200-SXM,1,vllm,0.24.0,Qwen/Qwen3-8B,BF16,1,,,,0,400,20,4 prompts,concurrency,2"));
  BoardOptions options;
  options.runs = 2;
  const auto without = price_published(rows, our_rules(), options);
  REQUIRE(without.ok());
  options.journal = folder.path() + "/deep/out";
  std::vector<std::size_t> found;
  std::size_t priced = 0;
  options.resumed = [&](std::size_t n, std::size_t) { found.push_back(n); };
  options.progress = [&](std::size_t, std::size_t) { ++priced; };
  const std::string path = options.journal + "/prices.jsonl";
  const auto first = price_published(rows, our_rules(), options);
  REQUIRE(first.ok());
  CHECK(priced == 2);
  const std::string settled = *read_text_file(path);
  // The second line torn, the first whole.
  std::ofstream(path, std::ios::binary) << settled.substr(0, settled.find('\n') + 30);
  const auto second = price_published(rows, our_rules(), options);
  REQUIRE(second.ok());
  CHECK(priced == 3);
  CHECK(found == std::vector<std::size_t>{0, 1});
  CHECK(*read_text_file(path) == settled);
  for (const auto* const board : {&first, &second})
    CHECK(canonical_json(board_json(**board)) == canonical_json(board_json(*without)));
  options.runs = 3;  // other intervals
  REQUIRE(price_published(rows, our_rules(), options).ok());
  CHECK(found.back() == 0);
}

TEST_CASE("the journal keeps what this program priced from this data, also of other rows") {
  const test::TempFolder folder;
  const std::string one = row("mean_ttft", "20", "ms"),
                    two = row(
                        "mean_ttft", "20", "ms",
                        "H200-SXM,1,vllm,0.24.0,Qwen/Qwen3-8B,BF16,1,,,,0,400,20,4 prompts,concurrency,2");
  BoardOptions options;
  options.runs = 0;
  options.journal = folder.path() + "/out";
  std::vector<std::size_t> found;
  options.resumed = [&](std::size_t n, std::size_t) { found.push_back(n); };
  for (const std::string& text : {one + two, one, one + two})
    REQUIRE(price_published(rows_of(kHeader + text), our_rules(), options).ok());
  CHECK(found == std::vector<std::size_t>{0, 1, 2});
}

TEST_CASE("texts of others are cut at characters, and are no tags") {
  std::string note = "<b>";
  while (note.size() < 59) note += 'x';
  std::string text = row("mean_ttft", "20", "ms");
  text.insert(text.size() - 1, note + "\xC3\xA4\xC3\xA4");  // bytes 59 and 60 are one character
  const std::string markdown = board_markdown(price(text));
  CHECK(says(markdown, "&lt;b>"));
  CHECK_FALSE(says(markdown, "<b>"));
  CHECK_FALSE(says(markdown, "\xC3 "));
}

TEST_CASE("a named case and its row are one case, in whatever words") {
  const auto loaded = load_published_case(published_case_path("aiconfigurator-vllm-0.12-qwen3-32b-h100"));
  REQUIRE(loaded.ok());
  CaseComparison compared;
  compared.about = *loaded;
  for (const PublishedRun& run : loaded->runs) {
    ComparedRun priced;
    priced.name = run.name;
    priced.metrics = {{"tpot_ms.mean", 1, 1, 1, 1}};
    compared.runs.push_back(priced);
  }
  const std::vector<ScoreRow> scores = score_rows({compared});
  REQUIRE(loaded->runs[0].name == "tp2 1024+128, 8 in flight");
  const auto import =
      import_text(row("tpot", "18", "ms",
                      "H100-SXM,,vllm,0.12.0,Qwen/Qwen3-32B,unspecified,2,1,1,,0,1024,128,w,concurrency,8"));
  REQUIRE(import.setups.size() == 1);
  CHECK(scores[0].group == case_name(import.setups[0]));
  CHECK(scores[0].group != scores.back().group);

  PublishedSetup a;
  a.hardware = "h200";
  a.engine = "sglang-0.5.9";
  a.model = "deepseek-r1";
  a.plan = "tp 8";
  a.load = "1024+1024, batch of 8";
  a.input = a.output = 1024;
  a.in_flight = 8;
  PublishedSetup b = a;
  b.engine = "sglang-0.5";
  b.model = "deepseek-v3";
  b.load = "1024+1024, 8 in flight";
  CHECK(case_name(a) == case_name(b));
  b.in_flight = 16;
  CHECK(case_name(a) != case_name(b));
}

TEST_CASE("products of SGLang before 0.5.7 are not 0.5.9's on AMD") {
  const auto engine = [](const std::string& version) {
    const auto import = import_text(
        row("tpot", "18", "ms",
            "MI300X,8,sglang," + version + ",deepseek-ai/DeepSeek-R1,fp8,8,1,1,,0,1024,128,w,concurrency,8"));
    REQUIRE(import.setups.size() == 1);
    return import.setups[0].engine;
  };
  CHECK(engine("0.5.2") == "sglang-0.5.2");
  CHECK(engine("0.5.5.post3") == "sglang-0.5.5");
  CHECK(engine("0.5.9") == "sglang-0.5.9");
}

TEST_CASE("removing a row changes no other row's prediction") {
  const std::string other =
      row("mean_ttft", "9", "ms",
          "H200-SXM,1,vllm,0.24.0,Qwen/Qwen3-8B,BF16,1,,,,0,400,20,4 prompts,concurrency,2");
  const auto both = price(other + row("mean_ttft", "20", "ms")), alone = price(row("mean_ttft", "20", "ms"));
  REQUIRE(both.board.size() == 2);
  REQUIRE(alone.board.size() == 1);
  CHECK(both.board[1].compared.predicted == alone.board[0].compared.predicted);
  CHECK(both.board[0].compared.predicted != alone.board[0].compared.predicted);
}

TEST_CASE("a bar is met by the median of its rows") {
  auto board = price(row("mean_ttft", "20", "ms"));
  const double predicted = board.board[0].compared.predicted;
  board.bars = {{{"h200"}, {"vllm"}, "ttft_ms", 10}, {{"l40s"}, {}, "ttft_ms", 10}};
  board.board[0].compared.measured = predicted / 1.05;
  CHECK(compare_bars(board)[0].met());
  CHECK(compare_bars(board)[0].median_abs_percent == Approx(5).margin(1e-6));
  CHECK(compare_bars(board)[1].rows == 0);
  CHECK(compare_bars(board)[1].met());
  board.board[0].compared.measured = predicted / 1.2;
  CHECK_FALSE(compare_bars(board)[0].met());
}

TEST_CASE("rules of one's own are read strictly") {
  const test::TempFolder folder;
  const std::string path =
      folder.write("rules.yaml",
                   "hardware: {h200: [X]}\nengines: {vllm: [vllm]}\nmodels: {}\nlocator_models: {}\n"
                   "no_model: []\nversions: []\nnamed_versions: {}\nquantizations: []\nsettings:\n"
                   "  - when: {colour: red}\n    set: {}\n    why: no reason\nbars: []\n");
  const auto rules = load_import_rules(path);
  REQUIRE_FALSE(rules.ok());
  CHECK(says(to_string(rules.errors()), "colour"));
}

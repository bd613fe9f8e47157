// Images with prefill and decode apart: the prefill side encodes them, both sides prepare them, and the KV
// that travels is the whole prompt's, placeholders included.
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "base/random.h"
#include "catch.h"
#include "sim/costed/run.h"

using namespace orrery;

namespace {

struct Records final : RecordSink {
  std::vector<RequestRecord> all;
  void on_request(const RequestRecord& r) override { all.push_back(r); }
};

struct Line {
  double at_ms = 0;
  int text = 500, output = 20;
  std::vector<std::pair<int, int>> images = {};
};

// A trace file that lives as long as this.
class Trace {
 public:
  explicit Trace(const std::vector<Line>& lines)
      : file_(std::filesystem::temp_directory_path() /
              ("orrery_pd_images_" + std::to_string(::getpid()) + ".jsonl")) {
    std::ofstream out(file_);
    for (const Line& line : lines) {
      out << "{\"timestamp\": " << line.at_ms << ", \"input_length\": " << line.text
          << ", \"output_length\": " << line.output;
      for (std::size_t i = 0; i < line.images.size(); ++i)
        out << (i == 0 ? ", \"images\": [" : ", ") << "{\"width\": " << line.images[i].first
            << ", \"height\": " << line.images[i].second << "}" << (i + 1 == line.images.size() ? "]" : "");
      out << "}\n";
    }
  }
  ~Trace() { std::filesystem::remove(file_); }
  std::string name() const { return file_.string(); }

 private:
  std::filesystem::path file_;
};

struct Served {
  RunResult run;
  std::vector<RequestRecord> records;
};

// `pools`: what follows each pool's hardware, model and engine.
Result<Served> serve_pools(const std::string& engine, const std::vector<std::string>& pools,
                           const std::vector<Line>& lines, bool stretches, const std::string& pd) {
  const Trace trace(lines);
  std::string list;
  for (const std::string& pool : pools)
    list += (list.empty() ? "{" : ", {") + ("hardware: h200, model: qwen2.5-vl-7b, engine: " + engine) +
            ", " + pool + "}";
  ScenarioOptions options;
  options.overrides = {"deployment={topology: {preset: hopper-8}, " + pd + "pools: [" + list + "]}",
                       "workload={}"};
  options.trace = trace.name();
  ORRERY_TRY(scenario,
             load_scenario(std::string(ORRERY_SOURCE_DIR) + "/examples/qwen3-8b-h200.yaml", options));
  Records records;
  RunOptions run;
  run.sink = &records;
  run.stretches = stretches;
  ORRERY_TRY(result, run_scenario(scenario, run));
  return Served{std::move(result), std::move(records.all)};
}

Result<Served> serve(const std::string& engine, const std::vector<Line>& lines, bool stretches = true,
                     const std::string& decode = "", const std::string& pd = "") {
  return serve_pools(engine, {"name: d, role: decode" + decode, "name: p, role: prefill"}, lines, stretches,
                     pd);
}

Served served(const std::string& engine, const std::vector<Line>& lines, bool stretches = true,
              const std::string& pd = "") {
  auto result = serve(engine, lines, stretches, "", pd);
  if (!result.ok()) FAIL(result.errors().front().message);
  return std::move(result).value();
}

std::string refusal(const Result<Served>& run) { return run.ok() ? "" : to_string(run.errors()); }

const std::vector<Line> one_image = {Line{.images = {{1120, 1120}}}};

}  // namespace

TEST_CASE(
    "the prefill side encodes, the decode side needs no pixels, and all of the prompt's KV travels "
    "[pd][images]") {
  for (const char* engine : {"vllm-0.24", "sglang-0.5"}) {
    CAPTURE(engine);
    const Served image = served(engine, one_image);
    const RequestRecord& r = image.records.at(0);
    CHECK(r.output_tokens == 20);
    CHECK(r.prompt_tokens > 500 + 1500);  // 1,600 patches of 28 x 28 pixels, merged, are tokens
    CHECK(image.run.images.passes == 1);
    CHECK(image.run.images.arrived == 1);
    CHECK(image.run.images.encoded == 1);
    const Served text = served(engine, {Line{.text = r.prompt_tokens}});
    CHECK(image.run.transfers.bytes == text.run.transfers.bytes);
    CHECK(r.handoff.transfer == text.records.at(0).handoff.transfer);
    CHECK(r.handoff.first_step == text.records.at(0).handoff.first_step);
  }
}

TEST_CASE(
    "behind the proxy's answer the image is prepared again; where both legs begin at once that is hidden "
    "[pd][images]") {
  const auto wait = [](const Served& s) { return s.records.at(0).handoff.wait; };
  const Served image = served("vllm-0.24", one_image);
  const Served text = served("vllm-0.24", {Line{.text = image.records.at(0).prompt_tokens}});
  const ImageResult& i = image.run.images;
  CHECK(wait(image) - wait(text) == SimDuration(i.prepare_ns + i.send_ns));
  CHECK(i.prepare_ns > milliseconds(10).ns());
  CHECK(i.send_ns > milliseconds(1).ns());
  CHECK(wait(served("sglang-0.5", one_image)) == SimDuration(0));
  Line brief = one_image[0];
  brief.output = 2;  // no step runs when the second is there
  // Two computed in one step behind a long prompt, and so answered at once: the second waits for all of the
  // first one's preparation, and not for its way to the engine.
  const Served two = served("vllm-0.24", {Line{.text = 8000, .output = 2}, brief, brief});
  std::vector<SimDuration> waits;
  for (const RequestRecord& r : two.records)
    if (r.prompt_tokens < 8000) waits.push_back(r.handoff.wait);
  REQUIRE(waits.size() == 2);
  std::sort(waits.begin(), waits.end());
  CHECK(two.run.images.passes == 1);
  CHECK(waits[0] == wait(image));
  // Only the first one wakes the engine's core.
  const SimDuration apart = waits[1] - waits[0], preparation(i.prepare_ns);
  CHECK(apart <= preparation);
  CHECK(apart > preparation - milliseconds(1));
}

TEST_CASE(
    "many images: every request ends once, nothing leaks, and single steps are stretches [pd][images]") {
  RandomStream random(5, RandomPurpose::property_test, 51);
  std::vector<Line> lines;
  double at = 0;
  for (int i = 0; i < 60; ++i) {
    at += 60 * random.uniform();
    Line line{.at_ms = at,
              .text = 50 + static_cast<int>(random.below(2000)),
              .output = 1 + static_cast<int>(random.below(60))};
    for (std::uint64_t n = random.below(3); n > 0; --n)
      line.images.emplace_back(200 + static_cast<int>(random.below(1000)),
                               200 + static_cast<int>(random.below(1000)));
    lines.push_back(line);
  }
  const std::pair<const char*, const char*> kinds[] = {
      {"vllm-0.24", ""}, {"vllm-0.24", "pd: {transfer: layerwise}, "}, {"sglang-0.5", ""}};
  for (const auto& [engine, pd] : kinds) {
    CAPTURE(engine, pd);
    const Served a = served(engine, lines, true, pd), b = served(engine, lines, false, pd);
    CHECK(a.run.completed == 60);
    CHECK(a.run.digest == b.run.digest);
    CHECK(a.run.transfers.pulls == 60);
    for (const RequestRecord& r : a.records) {
      const HandoffTimes& t = r.handoff;
      REQUIRE(t.queue + t.prefill + t.wait + t.transfer + t.decode_queue + t.first_step == r.ttft);
    }
  }
}

TEST_CASE("what of images is still refused apart [pd][images]") {
  CHECK(refusal(serve("vllm-0.24", one_image, true, ", engine_args: {language_model_only: true}"))
            .find("images and this one") != std::string::npos);
  CHECK(refusal(serve("tensorrt-llm-1.2", one_image)).find("not modelled on tensorrt-llm") !=
        std::string::npos);
  CHECK(refusal(serve("vllm-0.24", one_image, true, ", engine_args: {limit_mm_per_prompt: {image: 3}}"))
            .find("images are prepared alike") != std::string::npos);
}

TEST_CASE("a mixed pool beside prefill and decode takes images in whatever order they stand [pd][images]") {
  const std::vector<Line> lines = {Line{.text = 100, .images = {{280, 280}}}, one_image[0]};
  const std::string p = "name: p, role: prefill", d = "name: d, role: decode", m = "name: m";
  for (const auto& pools : {std::vector{p, d, m}, std::vector{m, p, d}, std::vector{d, m, p}}) {
    const auto run = serve_pools("vllm-0.24", pools, lines, true, "pd: {local_below: 1000}, ");
    if (!run.ok()) FAIL(to_string(run.errors()));
    CHECK(run->run.completed == 2);
    CHECK(run->run.transfers.pulls == 1);
    CHECK(run->run.images.encoded == 2);
    const auto& rows = run->run.device_time;  // of two pools that encode
    CHECK(std::count_if(rows.begin(), rows.end(),
                        [](const auto& row) { return row.first == "image encoding"; }) == 1);
  }
}

namespace {

Result<Served> serve_three(const std::vector<Line>& lines, bool stretches = true, const std::string& pd = "",
                           const std::string& prefill = "") {
  return serve_pools("vllm-0.24",
                     {"name: p, role: prefill" + prefill, "name: d, role: decode", "name: e, role: encoder"},
                     lines, stretches, pd);
}

}  // namespace

TEST_CASE(
    "encoder, prefill and decode pools: embeddings to the prefill side, KV to the decode side "
    "[pd][images]") {
  const auto three = serve_three(one_image);
  if (!three.ok()) FAIL(to_string(three.errors()));
  const Served two = served("vllm-0.24", one_image);
  const RequestRecord &r = three->records.at(0), &q = two.records.at(0);
  CHECK(r.prompt_tokens == q.prompt_tokens);
  CHECK(three->run.images.fetches == 1);
  // Of 3,584 values of 16 bits each.
  CHECK(three->run.images.fetched_bytes ==
        static_cast<std::int64_t>(three->run.images.embeddings) * 3584 * 2);
  CHECK(three->run.transfers.pulls == 1);
  CHECK(three->run.transfers.bytes == two.run.transfers.bytes);
  CHECK(r.handoff.transfer == q.handoff.transfer);
  // The prefill instance encodes nothing: its step is a text prompt's.
  const Served text = served("vllm-0.24", {Line{.text = r.prompt_tokens}});
  CHECK(r.handoff.prefill == text.records.at(0).handoff.prefill);
  // A prompt without an image does not go to the encoder.
  const auto plain = serve_three({Line{}});
  CHECK(plain->records.at(0).ttft == served("vllm-0.24", {Line{}}).records.at(0).ttft);
  CHECK(plain->run.images.fetches == 0);
}

TEST_CASE("three kinds of pools: every request ends once, and single steps are stretches [pd][images]") {
  RandomStream random(6, RandomPurpose::property_test, 52);
  std::vector<Line> lines;
  double at = 0;
  std::uint64_t with_images = 0;
  for (int i = 0; i < 60; ++i) {
    at += 80 * random.uniform();
    Line line{.at_ms = at,
              .text = 50 + static_cast<int>(random.below(2000)),
              .output = 1 + static_cast<int>(random.below(60))};
    for (std::uint64_t n = random.below(3); n > 0; --n)
      line.images.emplace_back(200 + static_cast<int>(random.below(800)),
                               200 + static_cast<int>(random.below(800)));
    with_images += line.images.empty() ? 0 : 1;
    lines.push_back(line);
  }
  const auto a = serve_three(lines), b = serve_three(lines, false);
  if (!a.ok()) FAIL(to_string(a.errors()));
  CHECK(a->run.completed == 60);
  CHECK(a->run.digest == b->run.digest);
  CHECK(a->run.transfers.pulls == 60);
  CHECK(a->run.images.fetches == with_images);
  for (const RequestRecord& r : a->records) {
    const HandoffTimes& t = r.handoff;
    REQUIRE(t.queue + t.prefill + t.wait + t.transfer + t.decode_queue + t.first_step == r.ttft);
  }
  CHECK(
      refusal(serve_three(lines, true, "pd: {transfer: layerwise}, ")).find("encoder pools beside layers") !=
      std::string::npos);
  CHECK(refusal(serve_three(lines, true, "pd: {local_below: 100}, ")).find("not split") != std::string::npos);
  const std::string scaled = ", autoscale: {metric: outstanding, target: 32, min: 1, max: 1}";
  CHECK(refusal(serve_three(lines, true, "", scaled)).find("with encoder, prefill and decode") !=
        std::string::npos);
}

TEST_CASE("no embeddings go to a decode pool: what it computes again it encodes itself [pd][images]") {
  const std::vector<Line> lines(6, Line{.output = 600, .images = {{1120, 1120}}});
  const std::string args = ", engine_args: {enable_prefix_caching: false, max_model_len: 4096";
  const auto with_decode = [&](const std::string& more) {
    return serve_pools(
        "vllm-0.24",
        {"name: p, role: prefill", "name: d, role: decode" + args + more + "}", "name: e, role: encoder"},
        lines, true, "");
  };
  const auto wide = with_decode(""), tight = with_decode(", num_gpu_blocks_override: 480");
  if (!tight.ok()) FAIL(to_string(tight.errors()));
  CHECK(tight->run.completed == 6);
  CHECK(wide->run.preemptions == 0);
  CHECK(wide->run.images.encoded == 6);
  CHECK(tight->run.preemptions > 0);
  CHECK(tight->run.images.encoded > 6);
  CHECK(tight->run.images.encoded <= 6 + tight->run.preemptions);
  CHECK(tight->run.images.fetches == 6);
  CHECK(tight->run.images.encoder_ns > wide->run.images.encoder_ns);
}

// The mock server and the load generator against each other, and each against somebody who misbehaves.
#include <atomic>
#include <filesystem>
#include <fstream>
#include <future>
#include <thread>

#include "catch.h"
#include "live/endpoint_comparison.h"
#include "live/mock_server.h"
#include "live/openai_api.h"
#include "live/scripted_server.h"
#include "live/tape.h"
#include "workloads/workload.h"

namespace {

using namespace orrery;

Scenario tiny(const std::vector<std::string>& more = {}) {
  ScenarioOptions options;
  options.overrides = {"deployment={hardware: h200, model: qwen3-0.6b, engine: vllm-0.24}",
                       "workload={generator: {requests: 24, arrivals: {process: fixed, rate: 30}, input: "
                       "{distribution: fixed, value: 300}, output: {distribution: fixed, value: 25}}}"};
  options.overrides.insert(options.overrides.end(), more.begin(), more.end());
  auto scenario = load_scenario(std::string(ORRERY_SOURCE_DIR) + "/examples/qwen3-8b-h200.yaml", options);
  INFO((scenario.ok() ? "" : to_string(scenario.errors())));
  REQUIRE(scenario.ok());
  return std::move(scenario).value();
}

// A mock server in a thread of its own, until it is asked how it was.
class Mock {
 public:
  explicit Mock(const Scenario& scenario, MockServerOptions options = {}) {
    options.stop = [this] { return stop_.load(); };
    options.on_listening = [this](std::uint16_t port) { port_.set_value(port); };
    thread_ = std::thread([this, scenario, options] { report_.emplace(serve_scenario(scenario, options)); });
    number_ = port_.get_future().get();
  }
  ~Mock() { end(); }
  int port() const { return number_; }
  std::string url() const { return "http://127.0.0.1:" + std::to_string(number_); }
  const MockServerReport& end() {
    stop_ = true;
    if (thread_.joinable()) thread_.join();
    return report_->value();
  }

 private:
  std::atomic<bool> stop_{false};
  std::promise<std::uint16_t> port_;
  std::optional<Result<MockServerReport>> report_;
  std::thread thread_;
  int number_ = 0;
};

EndpointOptions fast(const std::string& url) {
  EndpointOptions o;
  o.url = parse_endpoint(url).value();
  o.backoff_s = 0.01;
  o.stall_s = 5;
  o.scrape_s = 0.1;
  return o;
}

EndpointRun play(const Scenario& scenario, const EndpointOptions& options) {
  auto source = open_workload(scenario.workload, scenario.seed).value();
  auto run = run_endpoint(*source, options);
  INFO((run.ok() ? "" : to_string(run.errors())));
  REQUIRE(run.ok());
  return std::move(run).value();
}

// One request against a scripted server, which answers /v1/models by itself.
EndpointRun one(ScriptedServer::Script script, EndpointOptions (*change)(EndpointOptions) = nullptr) {
  const Scenario scenario =
      tiny({"workload.generator.requests=1", "workload.generator.output={distribution: fixed, value: 2}"});
  ScriptedServer server([&](const std::string& head, int post) -> ScriptedServer::Said {
    if (post < 0) return {http_answer(200, "application/json", api_models("m", 0, 1), true), true};
    return script(head, post);
  });
  EndpointOptions options = fast(server.url());
  options.scrape_s = 0;
  options.stall_s = 1;  // a machine with other work may be away for a while
  if (change != nullptr) options = change(options);
  return play(scenario, options);
}

std::string event(const std::string& text) {
  return "data: {\"choices\":[{\"text\":\"" + text + "\",\"finish_reason\":null}]}\n\n";
}
const std::string usage =
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":300,\"completion_tokens\":2}}\n\n";
std::string streamed(const std::string& events) {
  return http_stream_head(true) + http_chunk(events) + http_chunk("");
}
const std::string good = streamed(event(" a") + event(" b") + usage + "data: [DONE]\n\n");

}  // namespace

TEST_CASE("what the mock server is measured to do is what the simulation says") {
  const Scenario scenario = tiny();
  const std::string tape = std::filesystem::temp_directory_path() / "orrery-mock.tape";
  MockServerOptions options;
  options.tape = tape;
  Mock mock(scenario, options);
  const EndpointRun run = play(scenario, fast(mock.url()));
  const MockServerReport& report = mock.end();

  REQUIRE(run.records.size() == 24);
  for (const EndpointRecord& r : run.records) {
    CHECK(r.status == RequestStatus::completed);
    CHECK(r.prompt_tokens == 300);
    CHECK(r.output_tokens == 25);
    CHECK(r.events == 25);
    CHECK(r.tries == 1);
    CHECK(r.sent >= r.intended);
    CHECK(r.first > r.sent);
    CHECK(r.last > r.first);
  }
  CHECK(run.model == "qwen3-0.6b");
  CHECK(run.kv_blocks == scenario.pool.memory.kv_blocks);
  CHECK_FALSE(run.scrapes.empty());
  CHECK(report.run.completed == 24);
  CHECK(report.run.output_tokens == 24 * 25);
  CHECK(report.gone == 0);

  const auto compared = compare_with_endpoint(scenario, run, {.runs = 0});
  REQUIRE(compared.ok());
  // No client sees a token before it is due; how much later is this machine's load.
  for (const ComparedMetric& m : compared->compared.metrics) {
    INFO(m.name << ": predicted " << m.predicted << ", measured " << m.measured);
    if (m.name == "ttft_ms.mean" || m.name == "e2e_ms.mean" || m.name == "duration_s") {
      CHECK(m.measured > 0.9 * m.predicted);
      CHECK(m.measured < m.predicted + 2000);
    }
  }
  const auto replay = replay_tape(tape);
  INFO((replay.ok() ? "" : to_string(replay.errors())));
  REQUIRE(replay.ok());
  CHECK(replay->run.digest == report.run.digest);
}

TEST_CASE("each token has an event of its own, whichever engine is simulated") {
  const std::string part = "{hardware: h200, model: qwen3-0.6b, engine: vllm-0.24, ";
  for (const std::string& deployment :
       {std::string("deployment.engine=sglang-0.5"), std::string("deployment.engine=tensorrt-llm-1.2"),
        "deployment={topology: {preset: hopper-8}, pools: [" + part + "name: p, role: prefill}, " + part +
            "name: d, role: decode}]}"}) {
    INFO(deployment);
    const Scenario scenario = tiny({deployment, "workload.generator.requests=6"});
    Mock mock(scenario);
    const EndpointRun run = play(scenario, fast(mock.url()));
    for (const EndpointRecord& r : run.records) {
      CHECK(r.output_tokens == 25);
      CHECK(r.events == 25);
    }
  }
  // Drafts: a step brings several.
  const Scenario scenario =
      tiny({"deployment.speculation={method: ngram, tokens: 3, acceptance: [0.9, 0.9, "
            "0.9], match_rate: 0.9}",
            "workload.generator.requests=6"});
  Mock mock(scenario);
  const EndpointRun run = play(scenario, fast(mock.url()));
  std::int64_t events = 0;
  for (const EndpointRecord& r : run.records) {
    CHECK(r.output_tokens == 25);
    events += r.events;
  }
  CHECK(events < 6 * 20);
  CHECK(events > 6 * 4);
}

TEST_CASE("streams go on when their instance is lost, and are cut off when nobody takes them up") {
  for (const bool tries_again : {true, false}) {
    const Scenario scenario =
        tiny({"deployment.replicas=2", "faults=[{at_s: 0.45, kind: gpu, target: {instance: 0, gpu: 0}}]",
              std::string("deployment.on_failure={detection_s: 0.1, policy: ") +
                  (tries_again ? "retry}" : "fail}")});
    Mock mock(scenario);
    EndpointOptions options = fast(mock.url());
    options.retries = 0;
    const EndpointRun run = play(scenario, options);
    std::size_t completed = 0;
    for (const EndpointRecord& r : run.records) {
      completed += r.status == RequestStatus::completed ? 1 : 0;
      if (r.status == RequestStatus::completed) CHECK(r.output_tokens == 25);
    }
    const MockServerReport& report = mock.end();
    CHECK(report.run.completed == completed);
    CHECK((completed == 24) == tries_again);
    CHECK(report.run.completed + report.run.failed == 24);
  }
}

TEST_CASE("a closed loop of chats keeps so many streams open, and no more") {
  const Scenario scenario = tiny({"workload.closed_loop={concurrency: 4}", "workload.generator.requests=12",
                                  "workload.generator.output={distribution: fixed, value: 8}"});
  Mock mock(scenario);
  EndpointOptions options = fast(mock.url());
  options.chat = options.text_prompts = true;
  options.concurrency = 4;
  const EndpointRun run = play(scenario, options);
  CHECK(run.records.size() == 12);
  CHECK(run.most_streams == 4);
  CHECK(run.connections <= 8);
  for (const EndpointRecord& r : run.records) CHECK(r.output_tokens == 8);
  CHECK(mock.end().run.completed == 12);
}

TEST_CASE("answers that are not streamed, and requests that are refused") {
  Mock mock(tiny());
  const auto ask = [&](const std::string& method, const std::string& target, const std::string& body) {
    return read_all(connect_and_send(mock.port(), method + " " + target +
                                                      " HTTP/1.1\r\nConnection: close\r\nContent-Length: " +
                                                      std::to_string(body.size()) + "\r\n\r\n" + body));
  };
  const std::string whole = ask("POST", "/v1/completions", R"({"prompt": "a b c", "max_tokens": 4})");
  CHECK(whole.find("\"text\":\" token token token token\"") != std::string::npos);
  CHECK(whole.find("\"prompt_tokens\":3,\"total_tokens\":7,\"completion_tokens\":4") != std::string::npos);
  CHECK(ask("POST", "/v1/completions", "{").starts_with("HTTP/1.1 400"));
  CHECK(ask("POST", "/v1/completions", R"({"model": "x", "prompt": "a"})").starts_with("HTTP/1.1 404"));
  CHECK(ask("GET", "/v1/completions", "").starts_with("HTTP/1.1 405"));
  CHECK(ask("GET", "/nothing", "").starts_with("HTTP/1.1 404"));
  CHECK(ask("GET", "/health", "").starts_with("HTTP/1.1 200"));
  const std::string metrics = ask("GET", "/metrics", "");
  CHECK(metrics.find("vllm:generation_tokens_total{model_name=\"qwen3-0.6b\",engine=\"0\"} 4\n") !=
        std::string::npos);
  CHECK(metrics.find("vllm:request_success_total{model_name=\"qwen3-0.6b\",engine=\"0\",finished_reason="
                     "\"length\"} 1\n") != std::string::npos);
  CHECK(read_all(connect_and_send(mock.port(), "no HTTP\r\n\r\n")).starts_with("HTTP/1.1 400"));
  CHECK(mock.end().bad_requests == 3);
}

TEST_CASE("a client that leaves and one that does not read cost nobody else anything") {
  const std::string tape = std::filesystem::temp_directory_path() / "orrery-left.tape";
  MockServerOptions options;
  options.unread_limit = 4096;
  options.tape = tape;
  const Scenario scenario = tiny({"workload.generator.requests=4"});
  Mock mock(scenario, options);
  const std::string body = R"({"prompt": [1, 2, 3], "max_tokens": 400, "stream": true})";
  const std::string ask =
      "POST /v1/completions HTTP/1.1\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
  ::close(connect_and_send(mock.port(), ask));
  const int slow = connect_and_send(mock.port(), ask, true);
  const EndpointRun run = play(scenario, fast(mock.url()));
  for (const EndpointRecord& r : run.records) CHECK(r.status == RequestStatus::completed);
  const MockServerReport& report = mock.end();
  ::close(slow);
  CHECK(report.run.completed == 4);
  CHECK(report.run.cancelled == 2);  // the engine is told, and computes them no further
  CHECK(report.run.output_tokens < 4 * 25 + 400);
  CHECK(report.gone == 2);
  CHECK(report.slow == 1);
  const auto replay = replay_tape(tape);
  INFO((replay.ok() ? "" : to_string(replay.errors())));
  REQUIRE(replay.ok());
  CHECK(replay->run.digest == report.run.digest);
}

TEST_CASE("who sends without end behind a request that is not answered is held back") {
  MockServerOptions options;
  options.most_connections = 2;
  Mock mock(tiny(), options);
  const std::string body = R"({"prompt": [1, 2, 3], "max_tokens": 200})";
  std::string much =
      "POST /v1/completions HTTP/1.1\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
  for (int i = 0; i < 40'000; ++i) much += "GET /health HTTP/1.1\r\n\r\n";
  const int flood = connect_and_send(mock.port(), much);
  const std::string health = "GET /health HTTP/1.1\r\nConnection: close\r\n\r\n";
  CHECK(read_all(connect_and_send(mock.port(), health)).starts_with("HTTP/1.1 200"));
  // One more than may be there at once.
  const int second = connect_and_send(mock.port(), "GET /hea");
  CHECK(read_all(connect_and_send(mock.port(), health)).empty());
  ::close(second);
  ::close(flood);
  CHECK(mock.end().refused_connections >= 1);
}

TEST_CASE("a server that dies in the middle of a stream fails its request, which is not sent again") {
  const EndpointRun run = one([](const std::string&, int) -> ScriptedServer::Said {
    return {http_stream_head(true) + http_chunk(event(" a") + event(" b")), false};
  });
  CHECK(run.records[0].status == RequestStatus::failed);
  CHECK(run.records[0].tries == 1);
  CHECK(run.records[0].events == 2);
  CHECK(run.itl.count == 0);  // in no measurement
  CHECK(run.cut == 1);
}

TEST_CASE("a stream that stops is half-open, and given up") {
  const EndpointRun run = one([](const std::string&, int) -> ScriptedServer::Said {
    return {http_stream_head(true) + http_chunk(event(" a")), true};
  });
  CHECK(run.records[0].status == RequestStatus::timed_out);
  CHECK(run.half_open == 1);
}

TEST_CASE("a stream without its end is no answer; one with it is, whatever follows") {
  CHECK(one([](const std::string&, int) -> ScriptedServer::Said {
          return {streamed(event(" a")), true};
        }).cut == 1);
  const EndpointRun run = one([](const std::string&, int) -> ScriptedServer::Said {
    return {http_stream_head(true) + http_chunk(event(" a") + event(" b") + usage + "data: [DONE]\n\n"),
            false};
  });
  CHECK(run.records[0].status == RequestStatus::completed);
}

TEST_CASE("malformed events and malformed HTTP are counted, and not retried") {
  for (const std::string& bytes :
       {streamed("data: {\"choices\": [\n\n"),
        std::string("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")}) {
    const EndpointRun run = one([&](const std::string&, int) -> ScriptedServer::Said {
      return {bytes, true};
    });
    CHECK(run.malformed == 1);
    CHECK(run.records[0].status == RequestStatus::failed);
    CHECK(run.records[0].tries == 1);
  }
}

TEST_CASE("429 and 500 are tried again, later each time, and not for ever") {
  const EndpointRun twice = one([](const std::string&, int post) -> ScriptedServer::Said {
    if (post == 0) return {"HTTP/1.1 429 Too Many\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n", true};
    if (post == 1) return {http_answer(500, "text/plain", "oh", true), true};
    return {good, true};
  });
  CHECK(twice.records[0].status == RequestStatus::completed);
  CHECK(twice.records[0].tries == 3);
  CHECK(twice.refused_429 == 1);
  CHECK(twice.refused_5xx == 1);
  CHECK(twice.retried == 2);
  CHECK(twice.records[0].first - twice.records[0].intended > 30'000'000);  // 10 ms and 20 ms of back-off
  const EndpointRun never = one([](const std::string&, int) -> ScriptedServer::Said {
    return {http_answer(503, "text/plain", "oh", true), true};
  });
  CHECK(never.records[0].status == RequestStatus::failed);
  CHECK(never.records[0].tries == 4);
  const EndpointRun refused = one([](const std::string&, int) -> ScriptedServer::Said {
    return {http_answer(400, "text/plain", "no", true), true};
  });
  CHECK(refused.records[0].status == RequestStatus::rejected);
  CHECK(refused.records[0].tries == 1);
}

TEST_CASE("nobody waits for a server beyond the request's own time") {
  const auto began = std::chrono::steady_clock::now();
  const EndpointRun run = one(
      [](const std::string&, int) -> ScriptedServer::Said {
        return {"HTTP/1.1 429 Too Many\r\nRetry-After: 20\r\nContent-Length: 0\r\n\r\n", true};
      },
      [](EndpointOptions o) {
        o.timeout_s = 0.3;
        return o;
      });
  CHECK(run.records[0].status == RequestStatus::timed_out);
  CHECK(run.records[0].tries == 1);
  CHECK(std::chrono::steady_clock::now() - began < std::chrono::seconds(10));
}

TEST_CASE("a chunk that comes twice is seen by the server's own count") {
  const EndpointRun run = one([](const std::string&, int) -> ScriptedServer::Said {
    return {streamed(event(" a") + event(" b") + event(" b") + usage + "data: [DONE]\n\n"), true};
  });
  CHECK(run.records[0].status == RequestStatus::completed);
  CHECK(run.records[0].output_tokens == 2);
  CHECK(run.surplus_events == 1);
}

TEST_CASE("a connection that was kept and is closed is replaced without a word") {
  const Scenario scenario =
      tiny({"workload.generator.requests=3", "workload.generator.output={distribution: fixed, value: 2}"});
  ScriptedServer server([](const std::string&, int post) -> ScriptedServer::Said {
    if (post < 0) return {http_answer(200, "application/json", api_models("m", 0, 1), true), true};
    return {good, false};  // says that it keeps it, and does not
  });
  EndpointOptions options = fast(server.url());
  options.scrape_s = 0;
  options.concurrency = 1;
  const EndpointRun run = play(scenario, options);
  for (const EndpointRecord& r : run.records) CHECK(r.status == RequestStatus::completed);
  CHECK(server.posts() == 3);
}

TEST_CASE("the key is in one header, and in nothing that is written") {
  const Scenario scenario =
      tiny({"workload.generator.requests=2", "workload.generator.output={distribution: fixed, value: 2}"});
  ScriptedServer server([](const std::string&, int post) -> ScriptedServer::Said {
    if (post < 0) return {http_answer(200, "application/json", api_models("m", 0, 1), true), true};
    // The second one begins where other texts are shortened.
    if (post == 0)
      return {http_answer(400, "text/plain", "what is very-secret?" + std::string(175, '.') + "very-secret",
                          true),
              true};
    return {good, true};
  });
  EndpointOptions options = fast(server.url());
  options.api_key = "very-secret";
  const EndpointRun run = play(scenario, options);
  CHECK(server.heads().find("Authorization: Bearer very-secret\r\n") != std::string::npos);
  CHECK(run.records[0].error.find("(the key)") != std::string::npos);
  const auto compared = compare_with_endpoint(scenario, run, {.runs = 0});
  REQUIRE(compared.ok());
  for (const std::string& text :
       {canonical_json(endpoint_json(*compared, run)), measured_csv(run), endpoint_text(*compared, run),
        endpoint_page(*compared, run, "t", "c").value()})
    CHECK(text.find("very-s") == std::string::npos);
}

TEST_CASE("a session's request that is sent again says the same") {
  const std::string trace = std::filesystem::temp_directory_path() / "orrery-session.jsonl";
  std::ofstream(trace) << R"({"timestamp": 0, "input_length": 20, "output_length": 2, "session": 7})"
                       << "\n";
  const Scenario scenario = tiny({"workload={trace: " + trace + "}"});
  std::mutex mutex;
  std::vector<std::string> bodies;
  ScriptedServer server([&](const std::string& head, int post) -> ScriptedServer::Said {
    if (post < 0) return {http_answer(200, "application/json", api_models("m", 0, 1), true), true};
    const std::lock_guard lock(mutex);
    bodies.push_back(head.substr(head.find("\r\n\r\n") + 4));
    return post == 0 ? ScriptedServer::Said{http_answer(500, "text/plain", "oh", true), true}
                     : ScriptedServer::Said{good, true};
  });
  play(scenario, fast(server.url()));
  REQUIRE(bodies.size() == 2);
  CHECK(bodies[0].find("\"prompt\":[") != std::string::npos);
  CHECK(bodies[0] == bodies[1]);
}

TEST_CASE("no server, no run") {
  int free_port = 0;
  {
    ScriptedServer gone([](const std::string&, int) -> ScriptedServer::Said { return {"", false}; });
    free_port = std::stoi(gone.url().substr(17));
  }
  const Scenario scenario = tiny();
  auto source = open_workload(scenario.workload, scenario.seed).value();
  const auto run = run_endpoint(*source, fast("http://127.0.0.1:" + std::to_string(free_port)));
  REQUIRE_FALSE(run.ok());
  CHECK(run.errors().front().kind == ErrorKind::unavailable);
}

// What comes over a connection, however it is cut, and whatever nonsense it is.
#include <string>
#include <vector>

#include "base/random.h"
#include "catch.h"
#include "live/answer_reader.h"
#include "live/endpoint_text.h"
#include "live/http_reader.h"
#include "live/openai_api.h"

namespace {

using namespace orrery;

std::vector<std::string> events(const std::string& bytes, std::size_t piece) {
  SseReader reader;
  std::vector<std::string> all;
  std::string data;
  for (std::size_t at = 0; at < bytes.size(); at += piece) {
    CHECK(reader.feed(std::string_view(bytes).substr(at, piece)));
    while (reader.next(data)) all.push_back(data);
  }
  return all;
}

std::string noise(RandomStream& random, std::size_t length, const std::string& alphabet) {
  std::string text;
  for (std::size_t i = 0; i < length; ++i) text += alphabet[random.below(alphabet.size())];
  return text;
}

const std::string answer =
    "data: {\"choices\":[{\"text\":\" a\",\"finish_reason\":null}]}\n\n"
    "data: {\"choices\":[{\"text\":\" b\",\"finish_reason\":\"length\"}]}\n\n"
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":2}}\n\n"
    "data: [DONE]\n\n";

}  // namespace

TEST_CASE("events are the same however their bytes are cut, with any line ends") {
  const std::string bytes =
      "\xEF\xBB\xBF: hello\ndata: one\r\ndata:two\r\n\r\nevent: x\rdata\r\rid: 4\n\ndata:  three\n\n";
  const std::vector<std::string> expected = {"one\ntwo", "", " three"};
  for (std::size_t piece = 1; piece <= bytes.size(); ++piece) CHECK(events(bytes, piece) == expected);
}

TEST_CASE("an event without an end is none, and one that never ends is refused") {
  CHECK(events("data: half", 3).empty());
  SseReader reader(100);
  CHECK(reader.feed(std::string(90, 'x')));
  CHECK_FALSE(reader.feed(std::string(90, 'x')));
}

TEST_CASE("an answer's tokens, usage and end") {
  for (std::size_t piece = 1; piece < 40; ++piece) {
    AnswerReader reader;
    int said = 0;
    for (std::size_t at = 0; at < answer.size(); at += piece)
      said += reader.feed(std::string_view(answer).substr(at, piece));
    CHECK(said == 2);
    CHECK(reader.complete());
    CHECK(reader.close());
    CHECK(reader.prompt_tokens() == 7);
    CHECK(reader.output_tokens() == 2);
  }
}

TEST_CASE("a server's error of any depth is said, and ends nothing") {
  for (const std::size_t depth : {std::size_t{3}, std::size_t{500'000}}) {
    AnswerReader reader;
    reader.feed("data: {\"error\":" + std::string(depth, '[') + std::string(depth, ']') + "}\n\n");
    CHECK(reader.error().find("the server says: ") == 0);
    CHECK(reader.error().size() < 8192);
  }
}

TEST_CASE("a token without text is a token, an end without text is not") {
  AnswerReader reader;
  const auto event = [](const char* text, const char* reason) {
    return std::string("data: {\"choices\":[{\"text\":\"") + text + "\",\"finish_reason\":" + reason +
           "}]}\n\n";
  };
  CHECK(reader.feed(event("", "null")) == 1);  // part of a character, or a token that is not shown
  CHECK(reader.feed(event("é", "null")) == 1);
  CHECK(reader.feed(event("", "\"length\"")) == 0);
  // Of a chat the first event has a role only.
  AnswerReader chat;
  CHECK(chat.feed("data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n") == 0);
}

TEST_CASE("an answer that is cut off, says an error or is no JSON is not taken for one") {
  AnswerReader cut;
  CHECK(cut.feed(answer.substr(0, 60)) == 1);
  CHECK_FALSE(cut.close());
  AnswerReader wrong;
  CHECK(wrong.feed("data: {\"choices\":[{\"text\":\"a\"}\n\n") == -1);
  CHECK_FALSE(wrong.error().empty());
  AnswerReader error;
  CHECK(error.feed("data: {\"error\":{\"message\":\"out of memory\"}}\n\n") == -1);
  CHECK(error.error().find("out of memory") != std::string::npos);
  AnswerReader whole;
  CHECK(whole.read_whole(
      "{\"choices\":[{\"message\":{\"content\":\"hi\"}}],\"usage\":{\"completion_tokens\":3}}"));
  CHECK(whole.output_tokens() == 3);
}

TEST_CASE("an endpoint's address that may hold a key is not said again") {
  for (const char* url : {"http://me:topsecret@host", "http://host?key=topsecret",
                          "http://host/x?key=topsecret", "topsecret@host"}) {
    const auto parsed = parse_endpoint(url);
    REQUIRE_FALSE(parsed.ok());
    CHECK(to_string(parsed.errors()).find("topsecret") == std::string::npos);
  }
}

TEST_CASE("a count that no request can have is none") {
  AnswerReader reader;
  CHECK(
      reader.read_whole("{\"choices\":[{\"text\":\"a\"}],\"usage\":{\"prompt_tokens\":"
                        "99999999999,\"completion_tokens\":1}}"));
  CHECK(reader.prompt_tokens() == -1);
  CHECK(reader.output_tokens() == 1);
}

TEST_CASE("noise never becomes a complete answer") {
  RandomStream random(1, RandomPurpose::property_test, 90);
  for (int i = 0; i < 500; ++i) {
    AnswerReader reader;
    for (int piece = 0; piece < 4; ++piece)
      reader.feed(noise(random, 1 + random.below(60), "data: {}[]\",:\r\n01xtechoices"));
    CHECK_FALSE((reader.close() && reader.output_tokens() >= 0));
    std::string changed = answer;
    changed[random.below(changed.size())] = static_cast<char>(random.below(256));
    AnswerReader other;
    other.feed(changed);
    CHECK(other.events() <= 3);
  }
}

TEST_CASE("an HTTP answer is the same however its bytes are cut") {
  const std::string bytes =
      "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
      "5\r\nhello\r\n6;x=y\r\n world\r\n0\r\n\r\nHTTP/1.1 429 Too Many Requests\r\nRetry-After: "
      "2\r\nContent-Length: 3\r\n\r\nno!";
  for (std::size_t piece = 1; piece < bytes.size(); ++piece) {
    HttpReader reader(HttpReader::Kind::response);
    std::string first, second;
    bool behind = false;
    for (std::size_t at = 0; at < bytes.size(); at += piece) {
      const bool taken = reader.feed(std::string_view(bytes).substr(at, piece));
      INFO(piece << " bytes at " << at << ": " << reader.error());
      REQUIRE(taken);
      (behind ? second : first) += reader.take_body();
      if (!behind && reader.done()) {
        CHECK(reader.status() == 200);
        reader.next();
        behind = true;
        second += reader.take_body();
      }
    }
    CHECK(first == "hello world");
    CHECK(second == "no!");
    CHECK(reader.done());
    CHECK(reader.status() == 429);
    CHECK(reader.header("retry-after") == "2");
  }
}

TEST_CASE("a message that is cut off, or none, is said to be so") {
  HttpReader cut(HttpReader::Kind::response);
  REQUIRE(cut.feed("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"));
  CHECK(cut.started());
  CHECK_FALSE(cut.close());
  HttpReader until_closed(HttpReader::Kind::response);
  REQUIRE(until_closed.feed("HTTP/1.1 200 OK\r\n\r\nall of it"));
  CHECK(until_closed.close());
  CHECK(until_closed.done());
  for (const char* bad : {"HTTP/9.9 what\r\n\r\n", "garbage garbage\r\n\r\n",
                          "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"}) {
    HttpReader reader(HttpReader::Kind::response);
    CHECK_FALSE(reader.feed(bad));
    CHECK_FALSE(reader.error().empty());
  }
  HttpReader large(HttpReader::Kind::request, 100);
  CHECK_FALSE(large.feed("POST / HTTP/1.1\r\nContent-Length: 101\r\n\r\n"));
  RandomStream random(1, RandomPurpose::property_test, 91);
  for (int i = 0; i < 300; ++i) {
    HttpReader reader(HttpReader::Kind::response);
    reader.feed("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + noise(random, 30, "05af\r\n;x"));
    CHECK((reader.done() || !reader.close()));
  }
}

TEST_CASE("a request's tokens are counted and named by content") {
  const ApiLimits limits{.block_size = 4, .max_model_len = 100, .model = "m"};
  const auto ids =
      read_api_request(R"({"prompt": [1,2,3,4,5,6], "max_tokens": 9, "stream": true})", false, limits);
  REQUIRE(ids.ok());
  CHECK(ids->asked.prompt_tokens == 6);
  CHECK(ids->asked.max_tokens == 9);
  CHECK(ids->asked.hash_ids.size() == 2);
  const auto same = read_api_request(R"({"prompt": [1,2,3,4,9,9,9,9]})", false, limits);
  REQUIRE(same.ok());
  CHECK(same->asked.max_tokens == 16);
  CHECK(same->asked.hash_ids[0] == ids->asked.hash_ids[0]);
  CHECK(same->asked.hash_ids[1] != ids->asked.hash_ids[1]);
  const auto chat = read_api_request(R"({"messages": [{"role": "user", "content": "a b  c"}], "model": "m"})",
                                     true, limits);
  REQUIRE(chat.ok());
  CHECK(chat->asked.prompt_tokens == 3);
  for (const char* bad :
       {"", "[]", "{}", R"({"prompt": []})", R"({"prompt": [1], "max_tokens": 0})",
        R"({"prompt": [1], "max_tokens": 100})", R"({"prompt": ["a"]})",
        R"({"prompt": "a", "model": "other"})", R"({"prompt": "a", "n": 2})",
        R"({"prompt": "a", "stream": 1})", R"({"prompt": "a", "priority": 4294967299})",
        R"({"prompt": "a", "priority": -2147483648})", R"({"prompt": "a", "priority": 1.5})"})
    CHECK_FALSE(read_api_request(bad, false, limits).ok());
  // Who says none is not who says 0: SGLang has a default for it, or lets it be the least urgent.
  CHECK(same->asked.priority == no_priority);
  const auto ranked = read_api_request(R"({"prompt": [1], "priority": -7})", false, limits);
  REQUIRE(ranked.ok());
  CHECK(ranked->asked.priority == -7);
}

TEST_CASE("endpoints, models and metrics are read") {
  const auto url = parse_endpoint("https://[::1]:8443/base/v1/");
  REQUIRE(url.ok());
  CHECK(url->tls);
  CHECK(url->host == "::1");
  CHECK(url->port == "8443");
  CHECK(url->base == "/base");
  CHECK(parse_endpoint("http://a")->port == "80");
  for (const char* bad : {"a:80", "http://", "http://a:x", "http://a:0", "http://u:p@a", "http://a/b?c"})
    CHECK_FALSE(parse_endpoint(bad).ok());
  CHECK(first_model(api_models("m", 10, 1)) == "m");
  CHECK(first_model("{\"data\": []}").empty());
  EndpointScrape scrape;
  std::int64_t blocks = 0;
  read_metrics(
      "# HELP x\nvllm:num_requests_running{engine=\"0\"} 3\nvllm:num_requests_running{engine=\"1\"} 4.0\n"
      "vllm:kv_cache_usage_perc{engine=\"0\"} 0.25\nvllm:cache_config_info{num_gpu_blocks=\"77\"} 1",
      scrape, blocks);
  CHECK(scrape.running == 7);
  CHECK(scrape.kv_usage == 0.25);
  CHECK(blocks == 77);
}

TEST_CASE("prompts share what the trace says they share, and hold no key") {
  PromptMaker maker(1, 32000);
  TraceRequest a, b;
  a.prompt_tokens = b.prompt_tokens = 10;
  a.hash_block_size = b.hash_block_size = 4;
  a.hash_ids = {1, 2, 3};
  b.hash_ids = {1, 9, 3};
  const auto x = maker.tokens(a), y = maker.tokens(b);
  REQUIRE(x.size() == 10);
  CHECK(std::equal(x.begin(), x.begin() + 4, y.begin()));
  CHECK_FALSE(std::equal(x.begin() + 4, x.begin() + 8, y.begin() + 4));
  CHECK(*std::min_element(x.begin(), x.end()) >= 1000);
  CHECK(*std::max_element(x.begin(), x.end()) < 30000);
  TraceRequest s;
  s.session = 5;
  s.prompt_tokens = 6;
  s.output_tokens = 2;
  const auto first = maker.tokens(s);
  s.prompt_tokens = 12;
  const auto second = maker.tokens(s);
  CHECK(std::equal(first.begin(), first.end(), second.begin()));
}

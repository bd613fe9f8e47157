#include "live/answer_reader.h"

#include <algorithm>

#include "base/json.h"
#include "base/text.h"

namespace orrery {

namespace {

constexpr std::int64_t most_tokens = 1 << 24;  // more is no count of one request

std::int64_t count_of(const Json& usage, const char* name) {
  const auto found = usage.find(name);
  if (found == usage.end() || !found->is_number_integer()) return -1;
  const auto n = found->get<std::int64_t>();
  return n <= most_tokens ? n : -1;
}

bool says_something(const Json& choice) {
  const auto is_text = [](const Json& map, const char* name) {
    const auto found = map.find(name);
    return found != map.end() && found->is_string() && !found->get_ref<const std::string&>().empty();
  };
  if (is_text(choice, "text")) return true;
  // A completion's event before the last brings a token even where it has no text yet: of part of a
  // character, or of a token that is not shown (vLLM: entrypoints/openai/completion/serving.py sends it; its
  // own client counts it).
  const auto text = choice.find("text"), reason = choice.find("finish_reason");
  if (text != choice.end() && text->is_string() && (reason == choice.end() || reason->is_null())) return true;
  for (const char* part : {"delta", "message"}) {
    const auto found = choice.find(part);
    if (found == choice.end() || !found->is_object()) continue;
    if (is_text(*found, "content") || is_text(*found, "reasoning_content") || is_text(*found, "reasoning"))
      return true;
  }
  return false;
}

// What writes a tree walks down in it; a parser builds one of any depth.
bool shallow(const Json& json, int levels) {
  return !json.is_structured() ||
         (levels > 0 && std::all_of(json.begin(), json.end(),
                                    [&](const Json& inner) { return shallow(inner, levels - 1); }));
}

}  // namespace

bool AnswerReader::take(const std::string& data, bool& content) {
  content = false;
  if (data == "[DONE]") {
    done_ = true;
    return true;
  }
  const Json json = Json::parse(data, nullptr, false);
  if (json.is_discarded() || !json.is_object()) {
    error_ = "an event is no JSON object: " + quote(data.substr(0, 4096));
    return false;
  }
  if (const auto error = json.find("error"); error != json.end() && !error->is_null()) {
    error_ = "the server says: " + quote(shallow(*error, 32)
                                             ? error->dump(-1, ' ', false, Json::error_handler_t::replace)
                                             : data.substr(0, 4096));
    return false;
  }
  if (const auto usage = json.find("usage"); usage != json.end() && usage->is_object()) {
    prompt_tokens_ = count_of(*usage, "prompt_tokens");
    output_tokens_ = count_of(*usage, "completion_tokens");
  }
  const auto choices = json.find("choices");
  if (choices == json.end() || !choices->is_array() || choices->empty()) return true;
  const Json& choice = choices->front();
  if (!choice.is_object()) {
    error_ = "an event has a choice that is no object";
    return false;
  }
  const auto reason = choice.find("finish_reason");
  finished_ = finished_ || (reason != choice.end() && !reason->is_null());
  content = says_something(choice);
  return true;
}

int AnswerReader::feed(std::string_view body) {
  if (!error_.empty()) return -1;
  if (!sse_.feed(body)) {
    error_ = "an event is longer than any answer";
    return -1;
  }
  int found = 0;
  std::string data;
  while (!done_ && sse_.next(data)) {
    bool content = false;
    if (!take(data, content)) return -1;
    if (content) ++found;
  }
  events_ += found;
  return found;
}

bool AnswerReader::close() {
  if (!error_.empty()) return false;
  if (!done_ && !finished_)
    error_ = sse_.inside() ? "the stream ended inside an event"
                           : "the stream ended before its answer was complete";
  return error_.empty();
}

bool AnswerReader::read_whole(const std::string& body) {
  bool content = false;
  if (!take(body, content)) return false;
  events_ = content ? 1 : 0;
  done_ = true;
  return true;
}

}  // namespace orrery

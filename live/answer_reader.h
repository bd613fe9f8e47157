// What an OpenAI-compatible server answers, streamed or whole, as a load generator needs it: when something
// was said, how many tokens there were in the end, and what was wrong with it. Knows no sockets and no clock.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "live/sse.h"

namespace orrery {

class AnswerReader {
 public:
  // Bytes of a body with status 200. Returns how many events with content they completed; −1: malformed, and
  // error() says how.
  int feed(std::string_view body);
  // The body is over. False: it ended inside an event, or without saying that it was complete.
  bool close();
  bool complete() const { return done_; }  // [DONE] was said
  // Of a body that is not streamed.
  bool read_whole(const std::string& body);

  std::int64_t events() const { return events_; }                // with content
  std::int64_t prompt_tokens() const { return prompt_tokens_; }  // as the server counts; −1: it did not say
  std::int64_t output_tokens() const { return output_tokens_; }
  bool finished() const { return finished_; }  // a reason for the end was given
  const std::string& error() const { return error_; }

 private:
  bool take(const std::string& data, bool& content);
  SseReader sse_;
  std::int64_t events_ = 0, prompt_tokens_ = -1, output_tokens_ = -1;
  bool done_ = false, finished_ = false;
  std::string error_;
};

}  // namespace orrery

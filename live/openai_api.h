// The part of OpenAI's API that load generators and routers use, as vLLM 0.24 serves it: what a client asks,
// and what it is told.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"
#include "live/socket_inbox.h"

namespace orrery {

struct ApiRequest {
  bool chat = false, stream = false, include_usage = false;
  SocketRequest asked;
};

struct ApiLimits {
  std::int32_t block_size = 16;    // tokens that share a name in the prefix cache
  std::int64_t max_model_len = 0;  // prompt and answer; 0 = no limit
  std::string model;
};

// The body of POST /v1/completions or /v1/chat/completions. A prompt of token ids counts them; of text, its
// words: there is no tokeniser here. Errors say what the server answers with status 400, or 404 where
// the model is not here (unavailable).
Result<ApiRequest> read_api_request(const std::string& body, bool chat, const ApiLimits& limits);

// One answer's texts. `tokens` counts those before.
class ApiAnswer {
 public:
  ApiAnswer(std::uint64_t number, const ApiRequest& request, const std::string& model, std::int64_t created);
  std::string first_event() const;  // of a chat: the role; "" otherwise
  std::string event(std::int32_t tokens, bool last) const;
  std::string end(std::int32_t tokens) const;    // usage where asked for, and [DONE]
  std::string whole(std::int32_t tokens) const;  // not streamed

 private:
  std::string usage(std::int32_t tokens) const;
  std::string head(bool chunk) const;
  std::string id_, model_;
  std::int64_t created_ = 0;
  std::int32_t prompt_ = 0;
  bool chat_ = false, include_usage_ = false;
};

std::string api_error(int status, std::string_view message);
std::string api_models(const std::string& model, std::int64_t max_model_len, std::int64_t created);

// Messages of a connection that stays open.
std::string http_answer(int status, std::string_view type, std::string_view body, bool keep_alive);
std::string http_stream_head(bool keep_alive);   // of a body in chunks
std::string http_chunk(std::string_view bytes);  // "" ends the body

}  // namespace orrery

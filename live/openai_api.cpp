#include "live/openai_api.h"

#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>

#include "base/digest.h"
#include "base/json.h"

namespace orrery {

namespace {

// Names for the prefix cache: equal blocks of content, equal names. The last one names what there is of it.
class BlockNames {
 public:
  explicit BlockNames(SocketRequest& request) : request_(request) {}
  void token(std::uint64_t value) {
    block_.add(value);
    if (++request_.prompt_tokens % request_.hash_block_size == 0) close();
  }
  void text(const std::string& text) {
    std::size_t at = 0;
    while ((at = text.find_first_not_of(" \n\t\r", at)) != std::string::npos) {
      const std::size_t end = std::min(text.find_first_of(" \n\t\r", at), text.size());
      Digest word;
      word.add_text(text.substr(at, end - at));
      token(word.value());
      at = end;
    }
  }
  void close() {
    if (request_.prompt_tokens >
        static_cast<std::int64_t>(request_.hash_ids.size()) * request_.hash_block_size)
      request_.hash_ids.push_back(block_.value());
    block_ = {};
  }

 private:
  SocketRequest& request_;
  Digest block_;
};

Error refuse(const std::string& what) { return invalid_input(what); }

Status read_prompt(const Json& prompt, BlockNames& names) {
  if (prompt.is_string()) {
    names.text(prompt.get<std::string>());
  } else if (prompt.is_array()) {
    for (const Json& token : prompt) {
      if (!token.is_number_integer()) return refuse("prompt: expected one text, or one list of token ids");
      names.token(token.get<std::uint64_t>());
    }
  } else {
    return refuse("prompt: expected a text or a list of token ids");
  }
  return ok_status();
}

Status read_messages(const Json& messages, BlockNames& names) {
  if (!messages.is_array() || messages.empty()) return refuse("messages: expected a list of messages");
  for (const Json& message : messages) {
    if (!message.is_object() || !message.contains("content")) return refuse("messages: each needs a content");
    const Json& content = message["content"];
    if (content.is_string()) {
      names.text(content.get<std::string>());
      continue;
    }
    if (!content.is_array()) return refuse("messages: a content is a text, or a list of parts");
    for (const Json& part : content) {
      if (!part.is_object() || part.value("type", Json("")) != "text" || !part.contains("text") ||
          !part["text"].is_string())
        return refuse("messages: this server takes parts of type text only");
      names.text(part["text"].get<std::string>());
    }
  }
  return ok_status();
}

Result<bool> flag(const Json& json, const char* name) {
  if (!json.contains(name) || json[name].is_null()) return false;
  if (!json[name].is_boolean()) return refuse(std::string(name) + ": expected true or false");
  return json[name].get<bool>();
}

Result<std::int32_t> whole_number(const Json& json, const char* name, std::int32_t otherwise) {
  if (!json.contains(name) || json[name].is_null()) return otherwise;
  const Json& v = json[name];
  if (!v.is_number_integer() || v.get<std::int64_t>() < 1 || v.get<std::int64_t>() > (1 << 24))
    return refuse(std::string(name) + ": expected a whole number of at least 1");
  return v.get<std::int32_t>();
}

std::string words(std::int32_t tokens) {
  std::string text;
  for (std::int32_t i = 0; i < tokens; ++i) text += " token";
  return text;
}

const char* reason(int status) {
  switch (status) {
    case 200: return "OK";
    case 400: return "Bad Request";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 503: return "Service Unavailable";
    default: return "Error";
  }
}

}  // namespace

Result<ApiRequest> read_api_request(const std::string& body, bool chat, const ApiLimits& limits) {
  ORRERY_TRY(json, parse_json(body, "body"));
  if (!json.is_object()) return refuse("expected an object");
  ApiRequest r;
  r.chat = chat;
  r.asked.hash_block_size = limits.block_size;
  if (json.contains("model") && json["model"].is_string() && json["model"] != limits.model)
    return make_error(ErrorKind::unavailable, "the model " + json["model"].get<std::string>() +
                                                  " does not exist; this server has " + limits.model);
  BlockNames names(r.asked);
  const char* const key = chat ? "messages" : "prompt";
  if (!json.contains(key)) return refuse(std::string(key) + ": is missing");
  ORRERY_TRY_STATUS(chat ? read_messages(json[key], names) : read_prompt(json[key], names));
  names.close();
  if (r.asked.prompt_tokens == 0) return refuse(std::string(key) + ": is empty");
  ORRERY_TRY(stream, flag(json, "stream"));
  r.stream = stream;
  if (json.contains("stream_options") && json["stream_options"].is_object()) {
    ORRERY_TRY(usage, flag(json["stream_options"], "include_usage"));
    r.include_usage = usage;
  }
  ORRERY_TRY(answers, whole_number(json, "n", 1));
  if (answers != 1) return refuse("n: this server gives one answer");
  // vLLM's default for completions is 16; a chat's is what the model's length leaves, which nobody waits for.
  ORRERY_TRY(legacy, whole_number(json, "max_tokens", 16));
  ORRERY_TRY(most, whole_number(json, "max_completion_tokens", legacy));
  r.asked.max_tokens = most;
  if (limits.max_model_len > 0 && std::int64_t{r.asked.prompt_tokens} + most > limits.max_model_len)
    return refuse("the prompt's " + std::to_string(r.asked.prompt_tokens) + " tokens and max_tokens " +
                  std::to_string(most) + " are more than the maximum length of " +
                  std::to_string(limits.max_model_len));
  if (json.contains("priority") && !json["priority"].is_null()) {
    const Json& priority = json["priority"];
    if (!priority.is_number_integer() || std::abs(priority.get<double>()) > INT32_MAX)
      return refuse("priority: expected a whole number of 32 bits");
    r.asked.priority = priority.get<std::int32_t>();
  }
  return r;
}

ApiAnswer::ApiAnswer(std::uint64_t number, const ApiRequest& request, const std::string& model,
                     std::int64_t created)
    : id_((request.chat ? "chatcmpl-" : "cmpl-") + std::to_string(number)), model_(Json(model).dump()),
      created_(created), prompt_(request.asked.prompt_tokens), chat_(request.chat),
      include_usage_(request.include_usage) {}

std::string ApiAnswer::head(bool chunk) const {
  const char* const object =
      chat_ ? (chunk ? "chat.completion.chunk" : "chat.completion") : "text_completion";
  return "{\"id\":\"" + id_ + "\",\"object\":\"" + object + "\",\"created\":" + std::to_string(created_) +
         ",\"model\":" + model_;
}

std::string ApiAnswer::usage(std::int32_t tokens) const {
  return "\"usage\":{\"prompt_tokens\":" + std::to_string(prompt_) +
         ",\"total_tokens\":" + std::to_string(prompt_ + tokens) +
         ",\"completion_tokens\":" + std::to_string(tokens) + "}";
}

std::string ApiAnswer::first_event() const {
  if (!chat_) return "";
  return "data: " + head(true) +
         ",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,"
         "\"finish_reason\":null}]}\n\n";
}

std::string ApiAnswer::event(std::int32_t tokens, bool last) const {
  const std::string text = words(tokens);
  const std::string what = chat_ ? "\"delta\":{\"content\":\"" + text + "\"}" : "\"text\":\"" + text + "\"";
  return "data: " + head(true) + ",\"choices\":[{\"index\":0," + what +
         ",\"logprobs\":null,\"finish_reason\":" + (last ? "\"length\"" : "null") + "}]}\n\n";
}

std::string ApiAnswer::end(std::int32_t tokens) const {
  std::string text;
  if (include_usage_) text = "data: " + head(true) + ",\"choices\":[]," + usage(tokens) + "}\n\n";
  return text + "data: [DONE]\n\n";
}

std::string ApiAnswer::whole(std::int32_t tokens) const {
  const std::string text = words(tokens);
  const std::string what = chat_ ? "\"message\":{\"role\":\"assistant\",\"content\":\"" + text + "\"}"
                                 : "\"text\":\"" + text + "\"";
  return head(false) + ",\"choices\":[{\"index\":0," + what +
         ",\"logprobs\":null,\"finish_reason\":\"length\"}]," + usage(tokens) + "}";
}

std::string api_error(int status, std::string_view message) {
  return Json({{"error",
                {{"message", message},
                 {"type", status == 404 ? "NotFoundError" : "BadRequestError"},
                 {"param", nullptr},
                 {"code", status}}}})
      .dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string api_models(const std::string& model, std::int64_t max_model_len, std::int64_t created) {
  Json card = {{"id", model}, {"object", "model"}, {"created", created}, {"owned_by", "orrery"}};
  if (max_model_len > 0) card["max_model_len"] = max_model_len;
  return Json({{"object", "list"}, {"data", Json::array({card})}}).dump();
}

std::string http_answer(int status, std::string_view type, std::string_view body, bool keep_alive) {
  return "HTTP/1.1 " + std::to_string(status) + " " + reason(status) +
         "\r\nContent-Type: " + std::string(type) + "\r\nContent-Length: " + std::to_string(body.size()) +
         (keep_alive ? "\r\n\r\n" : "\r\nConnection: close\r\n\r\n") + std::string(body);
}

std::string http_stream_head(bool keep_alive) {
  return std::string(
             "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: "
             "no-cache\r\n"
             "Transfer-Encoding: chunked\r\n") +
         (keep_alive ? "\r\n" : "Connection: close\r\n\r\n");
}

std::string http_chunk(std::string_view bytes) {
  std::array<char, 20> length{};
  std::snprintf(length.data(), length.size(), "%zx\r\n", bytes.size());
  return length.data() + std::string(bytes) + "\r\n";
}

}  // namespace orrery

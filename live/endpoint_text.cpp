#include "live/endpoint_text.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>

#include "base/json.h"
#include "base/text.h"

namespace orrery {

namespace {

std::string message(const EndpointOptions& options, const char* method, const std::string& path,
                    const std::string& body) {
  const EndpointUrl& url = options.url;
  std::string host = url.host.find(':') == std::string::npos ? url.host : "[" + url.host + "]";
  if (url.port != (url.tls ? "443" : "80")) host += ":" + url.port;
  std::string text = std::string(method) + " " + url.base + path + " HTTP/1.1\r\nHost: " + host +
                     "\r\nUser-Agent: orrery\r\nAccept: */*\r\n";
  if (!options.api_key.empty()) text += "Authorization: Bearer " + options.api_key + "\r\n";
  if (!body.empty())
    text += "Content-Type: application/json\r\nContent-Length: " + std::to_string(body.size()) + "\r\n";
  return text + "\r\n" + body;
}

std::string label(const std::string& line, const std::string& name) {
  const std::string key = name + "=\"";
  const std::size_t at = line.find(key);
  if (at == std::string::npos) return "";
  return line.substr(at + key.size(), line.find('"', at + key.size()) - at - key.size());
}

}  // namespace

std::string EndpointUrl::text() const {
  return std::string(tls ? "https://" : "http://") + host + ":" + port + base;
}

Result<EndpointUrl> parse_endpoint(const std::string& url) {
  const auto wrong = [&](const std::string& why) {
    // Where a key may be in it, it is not said again.
    const bool tells = url.find_first_of("@?#") == std::string::npos;
    return make_error(ErrorKind::usage, "--endpoint" + (tells ? " " + quote(url) : "") + ": " + why +
                                            "; expected http://HOST[:PORT][/PATH] or https://…");
  };
  EndpointUrl e;
  std::string rest;
  if (url.starts_with("http://")) {
    rest = url.substr(7);
  } else if (url.starts_with("https://")) {
    rest = url.substr(8);
    e.tls = true;
  } else {
    return wrong("the scheme is missing");
  }
  const std::size_t slash = std::min(rest.find('/'), rest.size());
  std::string authority = rest.substr(0, slash);
  e.base = rest.substr(slash);
  while (e.base.ends_with('/')) e.base.pop_back();
  if (e.base.ends_with("/v1")) e.base.resize(e.base.size() - 3);
  // A key in a URL would be in shell histories, logs and reports.
  if (authority.find('@') != std::string::npos)
    return wrong("credentials come from the environment (ORRERY_API_KEY), not from the URL");
  if (rest.find_first_of("?# \r\n") != std::string::npos)
    return wrong("a host and a path hold no query, blank or line break");
  e.port = e.tls ? "443" : "80";
  if (authority.starts_with('[')) {
    const std::size_t end = authority.find(']');
    if (end == std::string::npos) return wrong("the address does not end");
    e.host = authority.substr(1, end - 1);
    authority = authority.substr(end + 1);
  } else {
    const std::size_t colon = std::min(authority.find(':'), authority.size());
    e.host = authority.substr(0, colon);
    authority = authority.substr(colon);
  }
  if (e.host.empty()) return wrong("the host is missing");
  if (authority.starts_with(':')) {
    int port = 0;
    const char* const end = authority.data() + authority.size();
    const auto parsed = std::from_chars(authority.data() + 1, end, port);
    if (parsed.ec != std::errc() || parsed.ptr != end || port < 1 || port > 65535)
      return wrong("the port is no number from 1 to 65535");
    e.port = std::to_string(port);
  } else if (!authority.empty()) {
    return wrong("nothing but a port may follow the host");
  }
  return e;
}

std::string get_message(const EndpointOptions& options, const std::string& path) {
  return message(options, "GET", path, "");
}

// ignore_eos and min_tokens are extensions of vLLM, SGLang and TensorRT-LLM: exactly the trace's length.
std::string completion_message(const EndpointOptions& options, const TraceRequest& request,
                               PromptMaker& prompts) {
  Json body = {{"model", options.model}};
  if (options.chat)
    body["messages"] = Json::array({{{"role", "user"}, {"content", prompts.text(request)}}});
  else if (options.text_prompts)
    body["prompt"] = prompts.text(request);
  else
    body["prompt"] = prompts.tokens(request);
  body[options.chat ? "max_completion_tokens" : "max_tokens"] = request.output_tokens;
  body["min_tokens"] = request.output_tokens;
  body["ignore_eos"] = true;
  body["temperature"] = 0;
  body["stream"] = true;
  body["stream_options"] = {{"include_usage", true}};
  return message(options, "POST", options.chat ? "/v1/chat/completions" : "/v1/completions", body.dump());
}

std::string without_key(std::string text, const std::string& key) {
  for (std::size_t at = 0; !key.empty() && (at = text.find(key, at)) != std::string::npos;)
    text.replace(at, key.size(), "(the key)");
  return text;
}

std::string first_model(const std::string& body) {
  const Json json = Json::parse(body, nullptr, false);
  if (json.is_discarded() || !json.is_object()) return "";
  const auto data = json.find("data");
  if (data == json.end() || !data->is_array() || data->empty() || !data->front().is_object()) return "";
  const auto id = data->front().find("id");
  return id != data->front().end() && id->is_string() ? id->get<std::string>() : "";
}

void read_metrics(const std::string& text, EndpointScrape& scrape, std::int64_t& kv_blocks) {
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    const std::string line = text.substr(at, end - at);
    at = end + 1;
    if (line.empty() || line[0] == '#') continue;
    const std::string name = line.substr(0, line.find_first_of("{ "));
    const double value = std::strtod(line.c_str() + line.rfind(' ') + 1, nullptr);
    if (name == "vllm:num_requests_running" || name == "sglang:num_running_reqs") scrape.running += value;
    if (name == "vllm:num_requests_waiting" || name == "sglang:num_queue_reqs") scrape.waiting += value;
    if (name == "vllm:kv_cache_usage_perc" || name == "sglang:token_usage")
      scrape.kv_usage = std::max(scrape.kv_usage, value);
    if (name == "vllm:cache_config_info")
      kv_blocks = std::strtoll(label(line, "num_gpu_blocks").c_str(), nullptr, 10);
  }
}

}  // namespace orrery

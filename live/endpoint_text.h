// Texts that the load generator sends and reads, apart from its sockets.
#pragma once

#include <string>

#include "live/endpoint_client.h"
#include "live/prompts.h"

namespace orrery {

// The whole message, with header. `path` under the URL's base.
std::string get_message(const EndpointOptions& options, const std::string& path);
std::string completion_message(const EndpointOptions& options, const TraceRequest& request,
                               PromptMaker& prompts);
// A server may repeat in its refusal what it was given.
std::string without_key(std::string text, const std::string& key);
// The first model of a /v1/models answer; "" when there is none.
std::string first_model(const std::string& body);
// Of Prometheus text, vLLM's names or SGLang's; the sum over engines, of usage the highest.
void read_metrics(const std::string& text, EndpointScrape& scrape, std::int64_t& kv_blocks);

}  // namespace orrery

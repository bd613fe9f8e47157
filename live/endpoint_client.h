// A load generator: plays a workload against an OpenAI-compatible server, as many streams at once as the
// workload has, from one thread, and measures what clients see. Latencies count from the instant at which a
// request was meant to be sent, so that a client that is late does not flatter the server; how late it was is
// measured too.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "live/prompt_words.h"
#include "sim/results.h"
#include "workloads/request_source.h"

namespace orrery {

struct EndpointUrl {
  bool tls = false;
  std::string host, port, base;  // base: path before /v1/…, without a slash at its end
  std::string text() const;
};
// "http://host[:port][/path]", or https. Errors say what is missing. A path that ends in /v1 loses it.
Result<EndpointUrl> parse_endpoint(const std::string& url);

struct EndpointOptions {
  EndpointUrl url;
  bool chat = false;
  bool text_prompts = false;              // else token ids, which /v1/completions of the three engines takes
  std::optional<PromptWords> words = {};  // that text prompts are made of; else common ones
  std::string model;                      // "": the first one that /v1/models names
  std::string api_key;                    // "": none. Goes into one header and nowhere else
  std::string ca_file;  // certificates that the server's is checked against; "": the system's
  std::int64_t vocabulary = 32000;
  std::int64_t concurrency = 0;  // closed loop; 0: at the trace's times
  std::uint64_t seed = 1;
  double timeout_s = 600;  // of a request, all tries together
  double stall_s = 60;     // without a byte: the stream is half-open, and is given up
  int retries = 3;         // of a request that was refused (429, 5xx, no connection) before its first byte
  double backoff_s = 0.5;  // before the first retry; twice as long before each further one
  double scrape_s = 1;     // between looks at /metrics; 0: none
  std::function<bool(std::uint64_t ended)> keep_going = {};
};

struct EndpointRecord {
  std::uint64_t request = 0;  // index in the trace
  // Nanoseconds from the start: when it was to be sent, was sent (its first try), and its first and last
  // token came.
  std::int64_t intended = 0, sent = 0, first = -1, last = -1;
  std::int64_t prompt_tokens = 0, output_tokens = 0, events = 0;  // as the server counts, where it does
  int tries = 0;
  RequestStatus status = RequestStatus::failed;
  std::string error;
};

struct EndpointScrape {
  double at_s = 0, running = 0, waiting = 0, kv_usage = 0;
};

struct EndpointRun {
  std::string model;
  bool text_prompts = false;             // else token ids, which no tokeniser sees
  std::vector<EndpointRecord> records;   // in order of submission
  std::vector<TraceRequest> requests;    // the same, as the trace has them
  Distribution itl, lateness, loop_lag;  // pooled gaps between events; client's own delays
  std::uint64_t retried = 0, refused_429 = 0, refused_5xx = 0, no_connection = 0, half_open = 0, cut = 0,
                malformed = 0, surplus_events = 0, other_status = 0;
  std::uint64_t connections = 0, most_streams = 0;
  std::vector<EndpointScrape> scrapes;
  std::int64_t kv_blocks = 0;  // as the server says; 0: it does not
  double duration_s = 0;       // from the start to the last token
  bool interrupted = false;
  // The client was late: 1 % of its requests by more than 5 ms, or of its looks at the clock.
  bool late() const { return lateness.p99 > 5'000'000 || loop_lag.p99 > 5'000'000; }
};

// Errors: the server cannot be reached or names no model (unavailable), bad input of the trace, requests with
// images. A server that fails in the middle is no error: its requests' records say so.
Result<EndpointRun> run_endpoint(RequestSource& source, const EndpointOptions& options);

}  // namespace orrery

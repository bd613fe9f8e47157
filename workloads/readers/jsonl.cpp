// Orrery's own JSON Lines, a superset of Mooncake's: {"timestamp": ms, "input_length": tokens,
// "output_length": tokens, "hash_ids": […], …}. Strict, because a misspelt optional key that is ignored
// changes a prediction without a word.
#include <simdjson.h>

#include <array>
#include <cstring>
#include <vector>

#include "base/digest.h"
#include "base/text.h"
#include "workloads/priority.h"
#include "workloads/readers/line_trace.h"

namespace orrery {

namespace {

// simdjson 3.6 (Ubuntu 24.04) asks whether to replace broken surrogate pairs; 3.0 (Debian 12) never does.
template <class Field>
auto unescaped_key(Field& field) {
  if constexpr (requires { field.unescaped_key(); }) {
    return field.unescaped_key();
  } else {
    return field.unescaped_key(false);
  }
}

namespace ondemand = simdjson::ondemand;

enum Key : unsigned {
  kTimestamp,
  kInputLength,
  kOutputLength,
  kHashIds,
  kHashBlockSize,
  kSession,
  kMaxOutputTokens,
  kPriority,
  kTimeout,
  kCancelAfter,
  kImages,
  kTenant,
  kKeyCount,
};
constexpr std::array<std::string_view, kKeyCount> kKeyNames = {
    "timestamp",         "input_length", "output_length", "hash_ids",        "hash_block_size", "session",
    "max_output_tokens", "priority",     "timeout_ms",    "cancel_after_ms", "images",          "tenant"};

constexpr std::array<const char*, 4> kImageKeys = {"width", "height", "id", "position"};

// Features of real requests that would change the prediction and that Orrery has no model of.
struct Unmodelled {
  std::string_view prefix;
  const char* feature;
};
constexpr std::array<Unmodelled, 12> kUnmodelled = {{
    {"lora", "LoRA adapters"},
    {"adapter", "LoRA adapters"},
    {"structured_output", "structured output"},
    {"guided_", "structured output (guided decoding)"},
    {"response_format", "structured output"},
    {"json_schema", "structured output"},
    {"grammar", "structured output"},
    {"beam", "beam search"},
    {"best_of", "several samples per prompt"},
    {"prompt_logprobs", "prompt log probabilities"},
    {"audio", "audio input"},
    {"video", "video input"},
}};

const char* unmodelled_feature(std::string_view key) {
  for (const Unmodelled& entry : kUnmodelled) {
    if (key.substr(0, entry.prefix.size()) == entry.prefix) return entry.feature;
  }
  return nullptr;
}

class JsonlReader final : public LineTrace {
 public:
  JsonlReader(LineReader lines, std::string first, TraceReadOptions options)
      : LineTrace(std::move(lines), options) {
    put_back(std::move(first));
  }
  const char* format() const override { return "Orrery JSON Lines"; }

 private:
  bool parse(std::string_view line, TraceRequest& request) override;
  bool parse_field(Key key, ondemand::value value, TraceRequest& request);
  bool parse_hash_ids(ondemand::value value, TraceRequest& request);
  bool parse_images(ondemand::value value, TraceRequest& request);
  bool parse_image(ondemand::value value, ImageSize& image);
  bool parse_image_field(unsigned key, ondemand::value value, ImageSize& image);
  bool parse_session(ondemand::value value, TraceRequest& request);
  bool parse_timestamp(ondemand::value value, TraceRequest& request);
  bool parse_patience(ondemand::value value, std::string_view key, SimDuration& out);
  bool integer(ondemand::value value, std::string_view key, std::int64_t low, std::int64_t high,
               std::int64_t& out);
  bool check(unsigned seen, TraceRequest& request);
  bool unknown_key(std::size_t byte, std::string_view key);
  bool bad_json(simdjson::error_code code, std::size_t byte);

  std::size_t byte_of(std::string_view token) const {
    return static_cast<std::size_t>(token.data() - buffer_.data());
  }
  bool wrong(std::string_view token, std::string_view key, const std::string& expected) {
    while (!token.empty() && token.back() <= ' ') token.remove_suffix(1);
    return fail(byte_of(token), std::string(key),
                "expected " + expected + ", found " + std::string(quote(token)));
  }

  ondemand::parser parser_;
  std::vector<char> buffer_;  // the line and simdjson's padding behind it
  bool has_max_output_ = false;
};

bool JsonlReader::parse(std::string_view line, TraceRequest& request) {
  if (buffer_.size() < line.size() + simdjson::SIMDJSON_PADDING) {
    buffer_.resize(2 * line.size() + simdjson::SIMDJSON_PADDING);
  }
  std::memcpy(buffer_.data(), line.data(), line.size());
  // Whitespace behind the line, so that a cut-off number cannot run into the line that was here before.
  std::memset(buffer_.data() + line.size(), ' ', simdjson::SIMDJSON_PADDING);
  request.hash_ids.clear();
  request.images.clear();
  request.tenant.clear();
  request.hash_block_size = 512;
  request.session = 0;
  request.priority = no_priority;
  request.timeout = request.cancel_after = SimDuration(0);
  has_max_output_ = false;

  ondemand::document document;
  if (const auto code = parser_.iterate(buffer_.data(), line.size(), buffer_.size()).get(document)) {
    return bad_json(code, 0);
  }
  ondemand::object object;
  if (const auto code = document.get_object().get(object)) return bad_json(code, 0);
  unsigned seen = 0;
  std::size_t at = 0;
  for (auto item : object) {
    ondemand::field field;
    if (const auto code = std::move(item).get(field)) return bad_json(code, at);
    at = static_cast<std::size_t>(field.key().raw() - 1 - buffer_.data());
    std::string_view name;
    if (const auto code = unescaped_key(field).get(name)) return bad_json(code, at);
    unsigned key = 0;
    while (key < kKeyCount && kKeyNames[key] != name) ++key;
    if (key == kKeyCount) return unknown_key(at, name);
    if ((seen & (1u << key)) != 0) {
      return fail(at, std::string(name), "the key stands twice in this line; keep one");
    }
    seen |= 1u << key;
    if (!parse_field(static_cast<Key>(key), field.value(), request)) return false;
  }
  const char* rest = nullptr;
  if (document.current_location().get(rest) == simdjson::SUCCESS) {
    return fail(static_cast<std::size_t>(rest - buffer_.data()), "",
                "text after the object; expected one object a line");
  }
  return check(seen, request);
}

bool JsonlReader::parse_field(Key key, ondemand::value value, TraceRequest& request) {
  std::int64_t number = 0;
  switch (key) {
    case kTimestamp: return parse_timestamp(value, request);
    case kHashIds: return parse_hash_ids(value, request);
    case kImages: return parse_images(value, request);
    case kSession: return parse_session(value, request);
    case kInputLength:
      if (!integer(value, kKeyNames[key], 1, kMaxTokens, number)) return false;
      request.prompt_tokens = static_cast<std::int32_t>(number);
      return true;
    case kOutputLength:
      if (!integer(value, kKeyNames[key], 1, kMaxTokens, number)) return false;
      request.output_tokens = static_cast<std::int32_t>(number);
      return true;
    case kHashBlockSize:
      if (!integer(value, kKeyNames[key], 1, kMaxTokens, number)) return false;
      request.hash_block_size = static_cast<std::int32_t>(number);
      return true;
    case kMaxOutputTokens:
      if (!integer(value, kKeyNames[key], 1, kMaxTokens, number)) return false;
      request.max_output_tokens = static_cast<std::int32_t>(number);
      has_max_output_ = true;
      return true;
    case kPriority:
      if (!integer(value, kKeyNames[key], no_priority + 1, INT32_MAX, number)) return false;
      request.priority = static_cast<std::int32_t>(number);
      return true;
    case kTimeout: return parse_patience(value, kKeyNames[key], request.timeout);
    case kCancelAfter: return parse_patience(value, kKeyNames[key], request.cancel_after);
    case kTenant: {
      const std::string_view token = value.raw_json_token();
      std::string_view text;
      if (value.get_string().get(text)) return wrong(token, "tenant", "a text in quotes");
      request.tenant.assign(text);
      return true;
    }
    case kKeyCount: break;
  }
  return false;
}

bool JsonlReader::integer(ondemand::value value, std::string_view key, std::int64_t low, std::int64_t high,
                          std::int64_t& out) {
  const std::string_view token = value.raw_json_token();
  if (!value.get_int64().get(out) && out >= low && out <= high) return true;
  if (low == 1) return wrong(token, key, "a whole number of at least 1 and at most " + std::to_string(high));
  return wrong(token, key, "a whole number from " + std::to_string(low) + " to " + std::to_string(high));
}

// How long a client waits before it gives up.
bool JsonlReader::parse_patience(ondemand::value value, std::string_view key, SimDuration& out) {
  const std::string_view token = value.raw_json_token();
  double ms = 0;
  if (value.get_double().get(ms) || !(ms >= 1e-6) || ms > kMaxTimestampMs) {
    return wrong(token, key, "milliseconds after the request was sent: a number above 0 and at most 2e12");
  }
  out = SimDuration(round_half_even(ms * 1e6));
  return true;
}

bool JsonlReader::parse_timestamp(ondemand::value value, TraceRequest& request) {
  const std::string_view token = value.raw_json_token();
  double ms = 0;
  if (value.get_double().get(ms) || !(ms >= 0) || ms > kMaxTimestampMs) {
    return wrong(token, "timestamp",
                 "milliseconds from the start of the trace: a number of at least 0 and at most 2e12");
  }
  request.arrival = SimTime(round_half_even(ms * 1e6));
  return true;
}

bool JsonlReader::parse_hash_ids(ondemand::value value, TraceRequest& request) {
  const std::string_view list_token = value.raw_json_token();
  ondemand::array array;
  if (value.get_array().get(array)) return wrong(list_token, "hash_ids", "a list of whole numbers");
  for (auto item : array) {
    ondemand::value element;
    if (const auto code = std::move(item).get(element)) return bad_json(code, byte_of(list_token));
    const std::string_view token = element.raw_json_token();
    std::uint64_t id = 0;
    if (element.get_uint64().get(id)) return wrong(token, "hash_ids", "a whole number of at least 0");
    request.hash_ids.push_back(id);
  }
  return true;
}

bool JsonlReader::parse_images(ondemand::value value, TraceRequest& request) {
  const std::string_view list_token = value.raw_json_token();
  ondemand::array array;
  if (value.get_array().get(array))
    return wrong(list_token, "images", "a list of {\"width\": …, \"height\": …}");
  for (auto item : array) {
    ondemand::value element;
    if (const auto code = std::move(item).get(element)) return bad_json(code, byte_of(list_token));
    ImageSize image;
    if (!parse_image(element, image)) return false;
    request.images.push_back(image);
  }
  return true;
}

// Any whole number names an image, 0 too: the reader's 0 means that nobody named it.
bool JsonlReader::parse_image_field(unsigned key, ondemand::value value, ImageSize& image) {
  if (key == 2) {
    const std::string_view token = value.raw_json_token();
    std::uint64_t id = 0;
    if (value.get_uint64().get(id) || id == UINT64_MAX)
      return wrong(token, "images", "a whole number of at least 0 that equal images share");
    image.id = id + 1;
    return true;
  }
  std::int64_t number = 0;
  if (!integer(value, "images", key == 3 ? 0 : 1, key == 3 ? kMaxTokens : 1'000'000, number)) return false;
  (key == 0 ? image.width : key == 1 ? image.height : image.position) = static_cast<std::int32_t>(number);
  return true;
}

bool JsonlReader::parse_image(ondemand::value value, ImageSize& image) {
  const std::string_view token = value.raw_json_token();
  unsigned seen = 0;
  ondemand::object object;
  if (value.get_object().get(object)) return wrong(token, "images", "{\"width\": …, \"height\": …}");
  for (auto item : object) {
    ondemand::field field;
    if (const auto code = std::move(item).get(field)) return bad_json(code, byte_of(token));
    const auto at = static_cast<std::size_t>(field.key().raw() - 1 - buffer_.data());
    std::string_view name;
    if (const auto code = unescaped_key(field).get(name)) return bad_json(code, at);
    const auto known = std::find(std::begin(kImageKeys), std::end(kImageKeys), name);
    if (known == std::end(kImageKeys)) {
      return fail(at, "images",
                  "unknown key " + quote(name) +
                      did_you_mean(name, {std::begin(kImageKeys), std::end(kImageKeys)}) +
                      "; expected width, height (pixels), and if need be id, position");
    }
    const auto key = static_cast<unsigned>(known - std::begin(kImageKeys));
    if ((seen & (1u << key)) != 0)
      return fail(at, "images", "the key " + quote(name) + " stands twice in this image; keep one");
    seen |= 1u << key;
    if (!parse_image_field(key, field.value(), image)) return false;
  }
  if (image.width == 0 || image.height == 0) {
    return fail(byte_of(token), "images", "an image needs both width and height, in pixels");
  }
  return true;
}

// A number is the session itself; a text (as other tools write) is named by its hash.
bool JsonlReader::parse_session(ondemand::value value, TraceRequest& request) {
  const std::string_view token = value.raw_json_token();
  if (!token.empty() && token.front() == '"') {
    std::string_view text;
    if (value.get_string().get(text)) return wrong(token, "session", "a whole number or a text");
    Digest digest;
    digest.add_text(std::string(text));
    request.session = digest.value() | 1;  // never 0, which means "no session"
    return true;
  }
  if (value.get_uint64().get(request.session)) {
    return wrong(token, "session", "a whole number of at least 0, or a text");
  }
  return true;
}

bool JsonlReader::check(unsigned seen, TraceRequest& request) {
  for (const Key key : {kTimestamp, kInputLength, kOutputLength}) {
    if ((seen & (1u << key)) == 0) {
      return fail(
          kNoColumn, std::string(kKeyNames[key]),
          "the key is missing; a request needs timestamp (ms), input_length and output_length (tokens)");
    }
  }
  if (!has_max_output_) {
    request.max_output_tokens = request.output_tokens;
  } else if (request.max_output_tokens < request.output_tokens) {
    return fail(kNoColumn, "max_output_tokens",
                std::to_string(request.max_output_tokens) + " is less than output_length " +
                    std::to_string(request.output_tokens) + "; a client cannot get more than it asked for");
  }
  if ((seen & (1u << kHashIds)) != 0) {
    const std::int64_t block = request.hash_block_size;
    const auto needed = static_cast<std::size_t>((request.prompt_tokens + block - 1) / block);
    if (request.hash_ids.size() < needed) {
      return fail(kNoColumn, "hash_ids",
                  std::to_string(request.hash_ids.size()) +
                      " ids are too few: " + std::to_string(request.prompt_tokens) + " tokens in blocks of " +
                      std::to_string(block) + " need " + std::to_string(needed) +
                      "; complete the list, correct hash_block_size, or leave hash_ids out (no sharing)");
    }
    request.hash_ids.resize(needed);
  }
  return true;
}

bool JsonlReader::unknown_key(std::size_t byte, std::string_view key) {
  if (const char* feature = unmodelled_feature(key)) {
    return fail(byte, std::string(key),
                "Orrery does not model " + std::string(feature) +
                    "; remove the key to replay the request without it");
  }
  const std::vector<std::string> names(kKeyNames.begin(), kKeyNames.end());
  return fail(byte, std::string(key),
              "unknown key" + did_you_mean(key, names) + "; expected " + join(names, ", "));
}

bool JsonlReader::bad_json(simdjson::error_code code, std::size_t byte) {
  // simdjson finds some mistakes before it has read any key; the first column would then mislead.
  return fail(
      byte == 0 ? kNoColumn : byte, "",
      std::string("not a complete JSON object (") + simdjson::error_message(code) +
          "); expected {\"timestamp\": ms, \"input_length\": tokens, \"output_length\": tokens, …} on "
          "one line; is the line cut off, or does text follow the object?");
}

}  // namespace

std::unique_ptr<TraceReader> make_jsonl_reader(LineReader lines, std::string first,
                                               TraceReadOptions options) {
  return std::make_unique<JsonlReader>(std::move(lines), std::move(first), options);
}

}  // namespace orrery

#include "cli/commands/cost_steps.h"

#include <charconv>
#include <limits>

#include "base/json.h"
#include "base/text.h"

namespace orrery {

namespace {

constexpr std::int64_t most_tokens = std::numeric_limits<std::int32_t>::max() / 64;  // of one chunk or batch
constexpr std::int64_t most_context = std::int64_t{1} << 40;

std::string_view trim(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

Error bad_step(std::string_view term, const std::string& reason) {
  return make_error(ErrorKind::usage,
                    "in " + quote(term) + ": " + reason +
                        "; expected for example \"prefill 2048@0 + prefill 512@4096 + decode 64@1024\" "
                        "(new tokens @ context, sequences @ mean context)",
                    {}, "--step");
}

bool read_integer(std::string_view text, std::int64_t low, std::int64_t high, std::int64_t& out) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  return error == std::errc{} && end == text.data() + text.size() && out >= low && out <= high;
}

// One term of the sum.
Status parse_term(std::string_view term, StepRequest& step) {
  const std::size_t space = term.find_first_of(" \t");
  const std::string_view kind = term.substr(0, space);
  if (term.empty()) return bad_step(term, "an empty term");
  if (kind != "prefill" && kind != "decode") return bad_step(term, "a term begins with prefill or decode");
  const std::string_view numbers = space == std::string_view::npos ? "" : trim(term.substr(space));
  const std::size_t at = numbers.find('@');
  std::int64_t count = 0, context = 0;
  if (!read_integer(trim(numbers.substr(0, at)), 1, most_tokens, count)) {
    return bad_step(term, "a whole number of at least 1 and at most " + std::to_string(most_tokens) +
                              " must follow " + std::string(kind));
  }
  if (at == std::string_view::npos) return bad_step(term, "\"@ context\" is missing (0 for a fresh prompt)");
  if (!read_integer(trim(numbers.substr(at + 1)), 0, most_context / count, context)) {
    return bad_step(term, "the context after @ must be a whole number of at least 0");
  }
  if (kind == "prefill") {
    step.chunks.push_back({static_cast<std::int32_t>(count), context});
    return ok_status();
  }
  if (step.shape.decode_sequences + count > most_tokens) return bad_step(term, "too many decodes");
  step.shape.decode_sequences += static_cast<std::int32_t>(count);
  step.shape.decode_context_tokens += count * context;
  return ok_status();
}

// Collects what is wrong with one row; fields are integers in a range.
class RowReader {
 public:
  RowReader(const std::string& file, std::int64_t line) : where_{file, static_cast<int>(line), 0} {}

  std::int64_t integer(const Json& value, const std::string& key, std::int64_t low, std::int64_t high) {
    const bool fits = value.is_number_unsigned()
                          ? value.get<std::uint64_t>() <= static_cast<std::uint64_t>(high)
                          : value.is_number_integer() && value.get<std::int64_t>() <= high;
    if (fits && value.get<std::int64_t>() >= low) return value.get<std::int64_t>();
    fail(key, "must be a whole number from " + std::to_string(low) + " to " + std::to_string(high) +
                  ", not " + value.dump());
    return low;
  }

  void chunks(const Json& list, std::vector<PrefillChunk>& out) {
    if (!list.is_array()) return fail("prefill", "must be a list of [new tokens, context]");
    for (const Json& item : list) {
      if (!item.is_array() || item.size() != 2) return fail("prefill", "each item is [new tokens, context]");
      out.push_back({static_cast<std::int32_t>(integer(item[0], "prefill", 1, most_tokens)),
                     integer(item[1], "prefill", 0, most_context)});
    }
  }

  void decode(const Json& object, StepRequest& step) {
    StepShape& shape = step.shape;
    if (!object.is_object()) return fail("decode", "must be {\"sequences\": n, \"context_tokens\": sum}");
    for (const auto& item : object.items()) {
      if (item.key() == "sequences") {
        shape.decode_sequences =
            static_cast<std::int32_t>(integer(item.value(), "decode.sequences", 0, most_tokens));
      } else if (item.key() == "context_tokens") {
        shape.decode_context_tokens = integer(item.value(), "decode.context_tokens", 0, most_context);
      } else if (item.key() == "drafts") {
        shape.draft_tokens =
            static_cast<std::int32_t>(integer(item.value(), "decode.drafts", 0, most_tokens));
        step.drafts_given = true;
      } else {
        fail("decode." + item.key(),
             "unknown key" + did_you_mean(item.key(), {"sequences", "context_tokens", "drafts"}));
      }
    }
    if (!object.contains("sequences")) fail("decode.sequences", "missing");
    if (!object.contains("context_tokens"))
      fail("decode.context_tokens", "missing (the sum over the decodes)");
    if (shape.decode_sequences == 0 && shape.draft_tokens != 0)
      fail("decode.drafts", "must be 0 without sequences");
    if (shape.decode_sequences == 0 && shape.decode_context_tokens != 0) {
      fail("decode.context_tokens", "must be 0 without sequences");
    }
  }

  void fail(const std::string& key, const std::string& message) {
    errors_.push_back(invalid_input(message, where_, key));
  }
  const Errors& errors() const { return errors_; }

 private:
  SourceLocation where_;
  Errors errors_;
};

}  // namespace

Result<StepRequest> parse_step(const std::string& text) {
  StepRequest step;
  std::string_view rest = text;
  for (bool more = true; more;) {
    const std::size_t plus = rest.find('+');
    ORRERY_TRY_STATUS(parse_term(trim(rest.substr(0, plus)), step));
    more = plus != std::string_view::npos;
    if (more) rest.remove_prefix(plus + 1);
  }
  return step;
}

Result<StepRequest> parse_step_row(std::string_view row, const std::string& file, std::int64_t line) {
  auto parsed = parse_json(std::string(row), file);
  if (!parsed.ok()) {
    Errors errors = parsed.errors();
    for (Error& error : errors) error.where.line = static_cast<int>(line);
    return errors;
  }
  RowReader reader(file, line);
  StepRequest step;
  if (!parsed->is_object()) {
    return invalid_input("expected an object with \"prefill\" and \"decode\"",
                         {file, static_cast<int>(line), 0});
  }
  for (const auto& item : parsed->items()) {
    const std::string& key = item.key();
    if (key == "prefill") {
      reader.chunks(item.value(), step.chunks);
    } else if (key == "decode") {
      reader.decode(item.value(), step);
    } else if (key == "new_requests") {
      step.shape.new_requests = static_cast<std::int32_t>(reader.integer(item.value(), key, 0, most_tokens));
    } else if (key == "running") {
      step.shape.running = static_cast<std::int32_t>(reader.integer(item.value(), key, 0, most_tokens));
    } else {
      reader.fail(key, "unknown key" + did_you_mean(key, {"prefill", "decode", "new_requests", "running"}));
    }
  }
  if (reader.errors().empty() && step.chunks.empty() && step.shape.decode_sequences == 0) {
    reader.fail("", "an empty step: no prefill chunk and no decode");
  }
  if (!reader.errors().empty()) return reader.errors();
  return step;
}

std::string to_text(const StepRequest& step) {
  std::vector<std::string> terms;
  for (const PrefillChunk& chunk : step.chunks) {
    terms.push_back("prefill " + std::to_string(chunk.new_tokens) + "@" + std::to_string(chunk.context));
  }
  if (const std::int64_t n = step.shape.decode_sequences; n > 0) {
    terms.push_back("decode " + std::to_string(n) + "@" +
                    std::to_string(step.shape.decode_context_tokens / n));
  }
  return join(terms, " + ");
}

}  // namespace orrery

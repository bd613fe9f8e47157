#include "live/http_reader.h"

#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <optional>
#include <utility>

namespace orrery {

namespace http = boost::beast::http;

namespace {

template <bool is_request>
using Parser = http::parser<is_request, http::string_body>;

}  // namespace

struct HttpReader::State {
  Kind kind = Kind::request;
  std::uint64_t body_limit = 0;
  std::optional<Parser<true>> request;
  std::optional<Parser<false>> response;
  std::string left;  // bytes that the parser has not taken: those from `place`
  std::size_t place = 0;
  std::string error;
  bool started = false;

  template <class F>
  auto with(F f) {
    return kind == Kind::request ? f(*request) : f(*response);
  }
  void reset() {
    request.reset();
    response.reset();
    if (kind == Kind::request)
      request.emplace();
    else
      response.emplace();
    with([&](auto& parser) {
      parser.eager(true);
      // boost::none is a limit of 0 to Beast 1.74 where a length is given.
      parser.body_limit(body_limit > 0 ? body_limit : std::uint64_t{1} << 62);
    });
    started = false;
  }
  bool fail(const boost::system::error_code& ec) {
    error = ec.message();
    return false;
  }
  bool parse() {
    return with([&](auto& parser) {
      while (place < left.size() && !parser.is_done()) {
        started = true;
        boost::system::error_code ec;
        const std::size_t taken =
            parser.put(boost::asio::const_buffer(left.data() + place, left.size() - place), ec);
        place += taken;
        if (ec == http::error::need_more) return true;
        if (ec) return fail(ec);
        if (taken == 0) return true;
      }
      return true;
    });
  }
};

HttpReader::HttpReader(Kind kind, std::uint64_t body_limit) : state_(std::make_unique<State>()) {
  state_->kind = kind;
  state_->body_limit = body_limit;
  state_->reset();
}
HttpReader::~HttpReader() = default;
HttpReader::HttpReader(HttpReader&&) noexcept = default;
HttpReader& HttpReader::operator=(HttpReader&&) noexcept = default;

bool HttpReader::feed(std::string_view bytes) {
  if (!state_->error.empty()) return false;
  state_->left.erase(0, std::exchange(state_->place, 0));
  state_->left.append(bytes);
  return state_->parse();
}

bool HttpReader::close() {
  if (!state_->error.empty()) return false;
  if (!state_->started || done()) return true;
  boost::system::error_code ec;
  state_->with([&](auto& parser) { parser.put_eof(ec); });
  if (ec) state_->fail(ec);
  return !ec;
}

const std::string& HttpReader::error() const { return state_->error; }
std::size_t HttpReader::ahead() const { return state_->left.size() - state_->place; }
bool HttpReader::started() const { return state_->started; }
bool HttpReader::has_header() const {
  return state_->with([](auto& parser) { return parser.is_header_done(); });
}
bool HttpReader::done() const {
  return state_->with([](auto& parser) { return parser.is_done(); });
}
int HttpReader::status() const { return static_cast<int>(state_->response->get().result_int()); }
std::string HttpReader::method() const { return std::string(state_->request->get().method_string()); }
std::string HttpReader::target() const { return std::string(state_->request->get().target()); }
std::string HttpReader::header(std::string_view name) const {
  return state_->with([&](auto& parser) {
    return std::string(parser.get()[boost::beast::string_view(name.data(), name.size())]);
  });
}
bool HttpReader::keeps_alive() const {
  return state_->with([](auto& parser) { return parser.keep_alive(); });
}
std::string HttpReader::take_body() {
  return state_->with([](auto& parser) { return std::exchange(parser.get().body(), {}); });
}

void HttpReader::next() {
  state_->reset();
  state_->parse();
}

}  // namespace orrery

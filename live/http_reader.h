// HTTP/1.1 messages out of a connection's bytes, however they are cut. Boost.Beast parses; nothing of it
// shows here, because it takes long to compile.
#pragma once

#include <memory>
#include <string>
#include <string_view>

namespace orrery {

class HttpReader {
 public:
  enum class Kind { request, response };
  // `body_limit`: bytes of a body, above which the message is malformed; 0 = none.
  explicit HttpReader(Kind kind, std::uint64_t body_limit = 0);
  ~HttpReader();
  HttpReader(HttpReader&&) noexcept;
  HttpReader& operator=(HttpReader&&) noexcept;

  // False: malformed, and the connection is of no more use. Bytes behind the message are kept.
  bool feed(std::string_view bytes);
  // The peer has closed. True when that ended a message properly (a body without a length), or when there was
  // none.
  bool close();
  const std::string& error() const;

  std::size_t ahead() const;  // bytes behind the present message
  bool started() const;       // of the present message some byte has come
  bool has_header() const;
  bool done() const;
  int status() const;                               // of a response
  std::string method() const, target() const;       // of a request
  std::string header(std::string_view name) const;  // "" when it has none
  bool keeps_alive() const;
  std::string take_body();  // what has come of it since the last call
  void next();              // of a message that is done: on to the next one

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace orrery

// Errors as values. A loader returns Result<T>; an Error carries place, reason and remedy. One file
// can have many errors, so the failure side is a list. No exception of ours crosses a module border.
#pragma once

#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "base/check.h"

namespace orrery {

// Why something failed; decides the exit code (cli/exit_code.h).
enum class ErrorKind {
  invalid_input,  // file, key, value: exit code 3
  usage,          // wrong command line: 2
  infeasible,     // does not fit: 4
  no_deployment,  // no deployment meets the objective: 5
  unavailable,    // device or endpoint not available: 6
  check_failed,   // replay differs, validation outside its bar: 7
  internal,       // 70
  interrupted,    // 130
};

struct SourceLocation {
  std::string file;
  int line = 0;    // from 1; 0 = unknown
  int column = 0;  // from 1; 0 = unknown
};

struct Error {
  ErrorKind kind = ErrorKind::invalid_input;
  SourceLocation where;
  std::string key;      // path of the key, as "deployment.parallel.tp"; empty when it has none
  std::string message;  // what was wrong, what was expected, what to do

  // "file:line:column: key: message", leaving out what is unknown.
  std::string to_string() const;
};

using Errors = std::vector<Error>;
std::string to_string(const Errors& errors);  // one a line, in order

inline Error make_error(ErrorKind kind, std::string message, SourceLocation where = {},
                        std::string key = {}) {
  return Error{kind, std::move(where), std::move(key), std::move(message)};
}
inline Error invalid_input(std::string message, SourceLocation where = {}, std::string key = {}) {
  return make_error(ErrorKind::invalid_input, std::move(message), std::move(where), std::move(key));
}

struct Unit {};

template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::move(value)) {}              // NOLINT: implicit by design
  Result(Error error) : state_(Errors{std::move(error)}) {}  // NOLINT
  Result(Errors errors) : state_(std::move(errors)) {        // NOLINT
    ORRERY_CHECK(!std::get<Errors>(state_).empty(), "a failed Result needs an error");
  }
  bool ok() const { return std::holds_alternative<T>(state_); }
  explicit operator bool() const { return ok(); }
  T& value() & {
    check();
    return std::get<T>(state_);
  }
  const T& value() const& {
    check();
    return std::get<T>(state_);
  }
  T&& value() && {
    check();
    return std::get<T>(std::move(state_));
  }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  const Errors& errors() const {
    ORRERY_CHECK(!ok(), "no error in a good Result");
    return std::get<Errors>(state_);
  }

 private:
  void check() const { ORRERY_CHECK(ok(), "value of a failed Result"); }
  std::variant<T, Errors> state_;
};

using Status = Result<Unit>;
inline Status ok_status() { return Status(Unit{}); }

}  // namespace orrery

// Early return: `ORRERY_TRY(trace, open_trace(path));` declares `trace` or returns the errors.
#define ORRERY_TRY_CONCAT_(a, b) a##b
#define ORRERY_TRY_CONCAT(a, b) ORRERY_TRY_CONCAT_(a, b)
#define ORRERY_TRY(name, expression) \
  ORRERY_TRY_IMPL(ORRERY_TRY_CONCAT(orrery_try_, __LINE__), name, expression)
#define ORRERY_TRY_IMPL(holder, name, expression) \
  auto holder = (expression);                     \
  if (!holder.ok()) return holder.errors();       \
  auto name = std::move(holder).value()
#define ORRERY_TRY_STATUS(expression)                                                              \
  do {                                                                                             \
    if (auto orrery_status = (expression); !orrery_status.ok()) { return orrery_status.errors(); } \
  } while (0)

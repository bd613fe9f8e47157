// Server-sent events out of a body's bytes, however they are cut (WHATWG HTML, "Interpreting an event
// stream").
#pragma once

#include <string>
#include <string_view>

namespace orrery {

class SseReader {
 public:
  explicit SseReader(std::size_t limit = 4u << 20) : limit_(limit) {}
  // Takes bytes; next() then says the events that are complete. False: an event is longer than the limit.
  bool feed(std::string_view bytes);
  bool next(std::string& data);  // data lines joined by \n; events without data are passed over
  bool inside() const { return place_ < buffer_.size() || has_data_; }  // of an event that has begun

 private:
  bool take_line(std::string_view& line);
  std::size_t limit_, place_ = 0;
  std::string buffer_, data_;
  bool has_data_ = false, after_return_ = false, at_start_ = true;
};

}  // namespace orrery

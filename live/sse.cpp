#include "live/sse.h"

namespace orrery {

bool SseReader::feed(std::string_view bytes) {
  if (place_ == buffer_.size()) {
    buffer_.clear();
    place_ = 0;
  }
  buffer_ += bytes;
  return buffer_.size() - place_ + data_.size() <= limit_;
}

// Lines end in \r\n, \n or \r; the \n of a pair may come with later bytes.
bool SseReader::take_line(std::string_view& line) {
  if (after_return_ && place_ < buffer_.size()) {
    if (buffer_[place_] == '\n') ++place_;
    after_return_ = false;
  }
  const std::size_t end = buffer_.find_first_of("\r\n", place_);
  if (end == std::string::npos) return false;
  line = std::string_view(buffer_).substr(place_, end - place_);
  after_return_ = buffer_[end] == '\r';
  place_ = end + 1;
  return true;
}

bool SseReader::next(std::string& data) {
  std::string_view line;
  while (take_line(line)) {
    if (at_start_ && line.starts_with("\xEF\xBB\xBF")) line.remove_prefix(3);
    at_start_ = false;
    if (line.empty()) {
      if (!has_data_) continue;
      data.swap(data_);
      data_.clear();
      has_data_ = false;
      return true;
    }
    const std::size_t colon = line.find(':');
    if (line.substr(0, colon) != "data") continue;  // comments, event, id and retry say nothing here
    std::string_view value = colon == std::string_view::npos ? std::string_view() : line.substr(colon + 1);
    if (value.starts_with(' ')) value.remove_prefix(1);
    if (has_data_) data_ += '\n';
    data_ += value;
    has_data_ = true;
  }
  if (place_ > 0) {
    buffer_.erase(0, place_);
    place_ = 0;
  }
  return false;
}

}  // namespace orrery

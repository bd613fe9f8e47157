// Files that a test writes, and shorthand for reading them.
#pragma once

#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "workloads/trace_reader.h"

namespace orrery::test {

class TempFolder {
 public:
  TempFolder() {
    static int count = 0;
    path_ = std::filesystem::temp_directory_path() /
            ("orrery-test-" + std::to_string(getpid()) + "-" + std::to_string(++count));
    std::filesystem::create_directories(path_);
  }
  ~TempFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  std::string file(const std::string& name) const { return (path_ / name).string(); }
  std::string write(const std::string& name, std::string_view text) const {
    std::ofstream(file(name), std::ios::binary) << text;
    return file(name);
  }

 private:
  std::filesystem::path path_;
};

inline std::string read_bytes(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

inline std::string fixture(const std::string& name) {
  return std::string(ORRERY_SOURCE_DIR) + "/tests/workloads/fixtures/" + name;
}

struct Read {
  std::vector<TraceRequest> requests;
  std::string error;  // "" when all went well, else "line:column: key: message" without the path
  SourceLocation where;
  std::string key, message;
  std::uint64_t dropped = 0;
};

inline void note(Read& read, const Error& error) {
  read.where = error.where;
  read.key = error.key;
  read.message = error.message;
  read.error = error.to_string();
}

inline Read drain(RequestSource& source) {
  Read read;
  TraceRequest request;
  while (source.next(request)) read.requests.push_back(request);
  if (source.error() != nullptr) note(read, *source.error());
  return read;
}

inline Read read_trace(const std::string& path, TraceReadOptions options = {}) {
  auto reader = open_trace(path, options);
  if (!reader.ok()) {
    Read read;
    note(read, reader.errors().front());
    return read;
  }
  Read read = drain(**reader);
  read.dropped = (*reader)->dropped();
  return read;
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace orrery::test

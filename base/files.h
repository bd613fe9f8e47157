// Files: whole-file reading with limits, line streaming through gzip and zstd, and outputs that are
// written under a temporary name and renamed, so that nobody ever sees half a file.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace orrery {

// Whole text file. Errors: missing (with the nearest existing name), directory, unreadable, larger than
// `limit` bytes, contains NUL ("binary").
Result<std::string> read_text_file(const std::string& path, std::uint64_t limit = 64u << 20);

// Streams lines of a plain, .gz or .zst file (recognised by magic bytes, not by name) in bounded memory.
class LineReader {
 public:
  static Result<LineReader> open(const std::string& path, std::size_t line_limit = 16u << 20);
  LineReader(LineReader&&) noexcept;
  LineReader& operator=(LineReader&&) noexcept;
  ~LineReader();
  // False at the end or on an error (then error() is set: damaged stream, line too long, NUL byte).
  // The line is without its end ("\n" or "\r\n") and valid until the next call. A UTF-8 BOM is dropped.
  bool next(std::string_view& line);
  const Error* error() const;
  std::int64_t line_number() const;  // of the last line returned, from 1
  const std::string& path() const;

 private:
  struct State;
  explicit LineReader(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// A file that appears at `path` only when commit() succeeds; otherwise the temporary is removed.
class AtomicFile {
 public:
  static Result<AtomicFile> create(const std::string& path);
  AtomicFile(AtomicFile&&) noexcept;
  AtomicFile& operator=(AtomicFile&&) noexcept;
  ~AtomicFile();
  void write(std::string_view text);  // buffered; a failure is kept and reported by commit
  Status commit();                    // flush, fsync, rename

 private:
  struct State;
  explicit AtomicFile(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};
Status write_file_atomically(const std::string& path, std::string_view text);

// A directory of outputs that appears as a whole: files are written into `<path>.partial-<pid>`, and commit()
// puts them in place. An existing `path` is replaced file by file (files of other names stay). Without a
// commit nothing stays, not even the parents that had to be made.
class AtomicDirectory {
 public:
  static Result<AtomicDirectory> create(const std::string& path);
  AtomicDirectory(AtomicDirectory&&) noexcept;
  AtomicDirectory& operator=(AtomicDirectory&&) noexcept;
  ~AtomicDirectory();                               // removes the temporary directory unless committed
  std::string file(const std::string& name) const;  // path inside the temporary directory
  const std::string& final_path() const;
  // Removes first what an earlier run left of `superseded`: a stale file would pass for one of this run.
  Status commit(const std::vector<std::string>& superseded = {});

 private:
  struct State;
  explicit AtomicDirectory(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// Where the project's data folders are: $ORRERY_DATA_DIR, else beside the source tree it was built from, else
// <prefix>/share/orrery relative to the binary.
std::string data_directory();

}  // namespace orrery

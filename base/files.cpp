#include "base/files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <vector>

#include "base/check.h"
#include "base/text.h"

namespace orrery {

namespace fs = std::filesystem;

namespace {

std::string system_error() { return std::strerror(errno); }

// Why open() refused `path` with `code`, with the nearest existing name when it is missing.
Error cannot_open(const std::string& path, int code) {
  std::error_code ec;
  const SourceLocation where{path, 0, 0};
  if (code == ENOENT || code == ENOTDIR) {
    fs::path folder = fs::path(path).parent_path();
    if (folder.empty()) folder = ".";
    std::vector<std::string> names;
    for (fs::directory_iterator it(folder, ec), end; !ec && it != end && names.size() < 2000;
         it.increment(ec)) {
      names.push_back(it->path().filename().string());
    }
    std::sort(names.begin(), names.end());
    return invalid_input("no such file" + did_you_mean(fs::path(path).filename().string(), names), where);
  }
  return invalid_input("cannot be read: " + std::string(std::strerror(code)), where);
}

bool is_regular_or_pipe(int descriptor, std::string& problem) {
  struct stat info {};
  if (fstat(descriptor, &info) != 0) {
    problem = system_error();
    return false;
  }
  if (S_ISDIR(info.st_mode)) {
    problem = "is a directory; a file was expected";
    return false;
  }
  if (S_ISREG(info.st_mode) || S_ISFIFO(info.st_mode) || S_ISSOCK(info.st_mode)) return true;
  problem = "is a device; a regular file was expected";
  return false;
}

}  // namespace

Result<std::string> read_text_file(const std::string& path, std::uint64_t limit) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return cannot_open(path, errno);
  const SourceLocation where{path, 0, 0};
  std::string problem, text;
  if (!is_regular_or_pipe(descriptor, problem)) {
    ::close(descriptor);
    return invalid_input(problem, where);
  }
  std::vector<char> buffer(1u << 16);
  for (;;) {
    const ssize_t n = ::read(descriptor, buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) problem = "cannot be read: " + system_error();
    if (n <= 0) break;
    text.append(buffer.data(), static_cast<std::size_t>(n));
    if (text.size() > limit) {
      problem =
          "is larger than " + human_bytes(static_cast<double>(limit)) + ", the limit for this kind of file";
      break;
    }
  }
  ::close(descriptor);
  if (!problem.empty()) return invalid_input(problem, where);
  const std::size_t nul = text.find('\0');
  if (nul != std::string::npos) {
    return invalid_input("is binary (a NUL byte at offset " + std::to_string(nul) + "); text was expected",
                         where);
  }
  return text;
}

// ------------------------------------------------------------------------------------------------ LineReader

struct LineReader::State {
  enum class Format { plain, gzip, zstd } format = Format::plain;
  std::string path;
  std::size_t line_limit = 0;
  int descriptor = -1;
  std::vector<char> raw = std::vector<char>(1u << 17);
  std::size_t raw_begin = 0, raw_end = 0;
  bool raw_eof = false, eof = false;
  bool pending_output = false;  // the decoder holds text that did not fit into the last buffer
  bool mid_stream = false;      // inside a compressed frame: an end of file here is a truncation
  z_stream gzip{};
  bool gzip_ready = false;
  ZSTD_DStream* zstd = nullptr;
  std::string text;  // decoded, not yet handed out
  std::size_t begin = 0, scanned = 0;
  std::int64_t line = 0;
  Error error;
  bool failed = false;

  ~State() {
    if (gzip_ready) inflateEnd(&gzip);
    if (zstd != nullptr) ZSTD_freeDStream(zstd);
    if (descriptor >= 0) ::close(descriptor);
  }

  bool fail(const std::string& message) {
    error = invalid_input(message, {path, static_cast<int>(std::min<std::int64_t>(line + 1, 2147483647)), 0});
    failed = true;
    return false;
  }

  bool fill_raw() {
    if (raw_eof) return true;
    raw_begin = 0;
    ssize_t n = 0;
    do { n = ::read(descriptor, raw.data(), raw.size()); } while (n < 0 && errno == EINTR);
    if (n < 0) return fail("cannot be read: " + system_error());
    raw_end = static_cast<std::size_t>(n);
    raw_eof = n == 0;
    return true;
  }

  // The first four bytes, which a pipe may give one by one, and whatever comes with them.
  bool fill_magic() {
    while (raw_end < 4 && !raw_eof) {
      const ssize_t n = ::read(descriptor, raw.data() + raw_end, raw.size() - raw_end);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return fail("cannot be read: " + system_error());
      raw_end += static_cast<std::size_t>(n);
      raw_eof = n == 0;
    }
    return true;
  }

  // Appends more decoded text, or sets eof; false after an error.
  bool decode() {
    if (raw_begin == raw_end && !pending_output && !fill_raw()) return false;
    if (raw_begin == raw_end && !pending_output && raw_eof) {
      if (mid_stream) return fail("is truncated: the compressed stream ends in the middle");
      eof = true;
      return true;
    }
    if (format == Format::plain) {
      text.append(raw.data() + raw_begin, raw_end - raw_begin);
      raw_begin = raw_end;
      return true;
    }
    return format == Format::gzip ? decode_gzip() : decode_zstd();
  }

  bool decode_gzip() {
    char out[1u << 16];
    gzip.next_in = reinterpret_cast<Bytef*>(raw.data() + raw_begin);
    gzip.avail_in = static_cast<uInt>(raw_end - raw_begin);
    gzip.next_out = reinterpret_cast<Bytef*>(out);
    gzip.avail_out = sizeof out;
    const int rc = inflate(&gzip, Z_NO_FLUSH);
    raw_begin = raw_end - gzip.avail_in;
    text.append(out, sizeof out - gzip.avail_out);
    pending_output = gzip.avail_out == 0 && rc == Z_OK;
    if (rc == Z_STREAM_END) {
      mid_stream = false;
      inflateReset(&gzip);
    } else if (rc == Z_OK || rc == Z_BUF_ERROR) {
      mid_stream = true;
    } else {
      return fail("is not valid gzip data: " +
                  std::string(gzip.msg == nullptr ? "unknown problem" : gzip.msg));
    }
    return true;
  }

  bool decode_zstd() {
    char out[1u << 16];
    ZSTD_inBuffer input{raw.data(), raw_end, raw_begin};
    ZSTD_outBuffer output{out, sizeof out, 0};
    const std::size_t rc = ZSTD_decompressStream(zstd, &output, &input);
    raw_begin = input.pos;
    text.append(out, output.pos);
    pending_output = output.pos == output.size && rc != 0;
    if (ZSTD_isError(rc) != 0) return fail("is not valid zstd data: " + std::string(ZSTD_getErrorName(rc)));
    mid_stream = rc != 0;
    return true;
  }
};

LineReader::LineReader(std::unique_ptr<State> state) : state_(std::move(state)) {}
LineReader::LineReader(LineReader&&) noexcept = default;
LineReader& LineReader::operator=(LineReader&&) noexcept = default;
LineReader::~LineReader() = default;

Result<LineReader> LineReader::open(const std::string& path, std::size_t line_limit) {
  auto s = std::make_unique<State>();
  s->path = path;
  s->line_limit = line_limit;
  s->descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (s->descriptor < 0) return cannot_open(path, errno);
  std::string problem;
  if (!is_regular_or_pipe(s->descriptor, problem)) return invalid_input(problem, {path, 0, 0});
  if (!s->fill_magic()) return s->error;
  const auto magic = [&](std::initializer_list<unsigned char> bytes) {
    if (s->raw_end < bytes.size()) return false;
    std::size_t i = 0;
    for (const unsigned char b : bytes) {
      if (static_cast<unsigned char>(s->raw[i++]) != b) return false;
    }
    return true;
  };
  if (magic({0x1F, 0x8B})) {
    s->format = State::Format::gzip;
    if (inflateInit2(&s->gzip, 15 + 16) != Z_OK)
      return make_error(ErrorKind::internal, "zlib cannot be initialised");
    s->gzip_ready = true;
    s->mid_stream = true;
  } else if (magic({0x28, 0xB5, 0x2F, 0xFD})) {
    s->format = State::Format::zstd;
    s->zstd = ZSTD_createDStream();
    s->mid_stream = true;
  }
  return LineReader(std::move(s));
}

bool LineReader::next(std::string_view& line) {
  State& s = *state_;
  if (s.failed) return false;
  for (;;) {
    const std::size_t end = s.text.find('\n', s.scanned);
    const bool last = end == std::string::npos;
    if (!last || (s.eof && s.begin < s.text.size())) {
      const std::size_t stop = last ? s.text.size() : end;
      std::string_view found(s.text.data() + s.begin, stop - s.begin);
      s.begin = s.scanned = last ? stop : stop + 1;
      if (found.size() > s.line_limit) break;
      if (s.line == 0 && found.substr(0, 3) == "\xEF\xBB\xBF") found.remove_prefix(3);
      if (!found.empty() && found.back() == '\r') found.remove_suffix(1);
      if (found.find('\0') != std::string_view::npos) {
        return s.fail("is binary (a NUL byte in the line); text was expected");
      }
      ++s.line;
      line = found;
      return true;
    }
    if (s.eof) return false;
    s.scanned = s.text.size();
    if (s.text.size() - s.begin > s.line_limit) break;
    if (s.begin > 0) {
      s.text.erase(0, s.begin);
      s.scanned -= s.begin;
      s.begin = 0;
    }
    if (!s.decode()) return false;
  }
  return s.fail("the line is longer than " + human_bytes(static_cast<double>(s.line_limit)) + ", the limit");
}

const Error* LineReader::error() const { return state_->failed ? &state_->error : nullptr; }
std::int64_t LineReader::line_number() const { return state_->line; }
const std::string& LineReader::path() const { return state_->path; }

// ------------------------------------------------------------------------------------------------ AtomicFile

struct AtomicFile::State {
  std::string path, temporary, problem;
  std::FILE* file = nullptr;
  bool committed = false;
  ~State() {
    if (file != nullptr) std::fclose(file);
    if (!committed && !temporary.empty()) ::unlink(temporary.c_str());
  }
};

AtomicFile::AtomicFile(std::unique_ptr<State> state) : state_(std::move(state)) {}
AtomicFile::AtomicFile(AtomicFile&&) noexcept = default;
AtomicFile& AtomicFile::operator=(AtomicFile&&) noexcept = default;
AtomicFile::~AtomicFile() = default;

Result<AtomicFile> AtomicFile::create(const std::string& path) {
  auto s = std::make_unique<State>();
  s->path = path;
  std::error_code ec;
  if (fs::is_directory(path, ec))
    return invalid_input("is a directory; a file name was expected", {path, 0, 0});
  s->temporary = path + ".partial-" + std::to_string(::getpid());
  s->file = std::fopen(s->temporary.c_str(), "wb");
  if (s->file == nullptr) {
    const std::string why = system_error();
    s->temporary.clear();
    return invalid_input("cannot be written: " + why, {path, 0, 0});
  }
  std::setvbuf(s->file, nullptr, _IOFBF, 1u << 18);
  return AtomicFile(std::move(s));
}

void AtomicFile::write(std::string_view text) {
  if (!state_->problem.empty()) return;
  if (std::fwrite(text.data(), 1, text.size(), state_->file) != text.size()) state_->problem = system_error();
}

Status AtomicFile::commit() {
  State& s = *state_;
  ORRERY_CHECK(s.file != nullptr, "an output file is committed once");
  if (s.problem.empty() && std::fflush(s.file) != 0) s.problem = system_error();
  if (s.problem.empty() && ::fsync(::fileno(s.file)) != 0 && errno != EINVAL) s.problem = system_error();
  if (std::fclose(s.file) != 0 && s.problem.empty()) s.problem = system_error();
  s.file = nullptr;
  if (s.problem.empty() && std::rename(s.temporary.c_str(), s.path.c_str()) != 0) s.problem = system_error();
  if (!s.problem.empty()) return invalid_input("cannot be written: " + s.problem, {s.path, 0, 0});
  s.committed = true;
  return ok_status();
}

Status write_file_atomically(const std::string& path, std::string_view text) {
  ORRERY_TRY(file, AtomicFile::create(path));
  file.write(text);
  return file.commit();
}

// ------------------------------------------------------------------------------------------- AtomicDirectory

struct AtomicDirectory::State {
  std::string path, temporary;
  std::vector<fs::path> made_parents;  // outermost first
  bool committed = false;
  ~State() {
    std::error_code ec;
    if (committed) return;
    if (!temporary.empty()) fs::remove_all(temporary, ec);
    // remove() spares a folder that somebody else has put something into meanwhile.
    for (auto it = made_parents.rbegin(); it != made_parents.rend(); ++it) fs::remove(*it, ec);
  }
  void make_parents() {
    std::error_code ec;
    std::vector<fs::path> missing;
    for (fs::path p = fs::path(path).parent_path(); !p.empty() && !fs::exists(p, ec); p = p.parent_path())
      missing.push_back(p);
    for (auto it = missing.rbegin(); it != missing.rend(); ++it) {
      if (fs::create_directory(*it, ec)) made_parents.push_back(*it);
    }
  }
};

AtomicDirectory::AtomicDirectory(std::unique_ptr<State> state) : state_(std::move(state)) {}
AtomicDirectory::AtomicDirectory(AtomicDirectory&&) noexcept = default;
AtomicDirectory& AtomicDirectory::operator=(AtomicDirectory&&) noexcept = default;
AtomicDirectory::~AtomicDirectory() = default;

Result<AtomicDirectory> AtomicDirectory::create(const std::string& path) {
  auto s = std::make_unique<State>();
  s->path = path;
  while (s->path.size() > 1 && s->path.back() == '/') s->path.pop_back();
  std::error_code ec;
  if (fs::exists(s->path, ec) && !fs::is_directory(s->path, ec)) {
    return invalid_input("exists and is not a directory", {path, 0, 0});
  }
  s->make_parents();
  const std::string temporary = s->path + ".partial-" + std::to_string(::getpid());
  fs::remove_all(temporary, ec);
  if (!fs::create_directory(temporary, ec)) {
    return invalid_input("cannot be written: " + (ec ? ec.message() : std::string("already exists")),
                         {path, 0, 0});
  }
  s->temporary = temporary;
  return AtomicDirectory(std::move(s));
}

std::string AtomicDirectory::file(const std::string& name) const { return state_->temporary + "/" + name; }
const std::string& AtomicDirectory::final_path() const { return state_->path; }

Status AtomicDirectory::commit(const std::vector<std::string>& superseded) {
  State& s = *state_;
  std::error_code ec;
  for (const std::string& name : superseded) {
    if (!ec) fs::remove(fs::path(s.path) / name, ec);
  }
  if (!fs::exists(s.path, ec)) {
    fs::rename(s.temporary, s.path, ec);
  } else {
    std::vector<fs::path> files;
    for (fs::directory_iterator it(s.temporary, ec), end; !ec && it != end; it.increment(ec))
      files.push_back(it->path());
    std::sort(files.begin(), files.end());
    for (const fs::path& file : files) {
      if (!ec) fs::rename(file, fs::path(s.path) / file.filename(), ec);
    }
    if (!ec) fs::remove(s.temporary, ec);
  }
  if (ec) return invalid_input("cannot be written: " + ec.message(), {s.path, 0, 0});
  s.committed = true;
  return ok_status();
}

std::string data_directory() {
  if (const char* given = std::getenv("ORRERY_DATA_DIR"); given != nullptr && *given != '\0') return given;
  std::error_code ec;
#ifdef ORRERY_SOURCE_DATA_DIR
  if (fs::is_directory(std::string(ORRERY_SOURCE_DATA_DIR) + "/hardware_profiles", ec))
    return ORRERY_SOURCE_DATA_DIR;
#endif
  const fs::path self = fs::read_symlink("/proc/self/exe", ec);
  return (self.parent_path() / ".." / "share" / "orrery").lexically_normal().string();
}

}  // namespace orrery

#include "live/tape_file.h"

#include <filesystem>
#include <fstream>
#include <iterator>

#include "base/digest.h"
#include "base/json.h"
#include "live/tape_codec.h"

namespace orrery {

namespace {

constexpr std::string_view magic = "orrery tape 1\n";

std::uint32_t chained(std::uint32_t before, std::string_view bytes) {
  Digest digest;
  digest.add(std::uint64_t{before});
  while (bytes.size() >= 8) {
    std::uint64_t word = 0;
    for (int i = 7; i >= 0; --i)
      word = word << 8 | static_cast<unsigned char>(bytes[static_cast<std::size_t>(i)]);
    digest.add(word);
    bytes.remove_prefix(8);
  }
  for (const char c : bytes) digest.add(std::uint64_t{static_cast<unsigned char>(c)} + 1);
  return static_cast<std::uint32_t>(digest.value() ^ digest.value() >> 32);
}

}  // namespace

Result<TapeWriter> TapeWriter::create(const std::string& path, const TapeHeader& header) {
  ORRERY_TRY(file, AtomicFile::create(path));
  TapeWriter writer(std::move(file));
  writer.file_.write(magic);
  writer.frame(canonical_json({{"version", header.version},
                               {"cell", header.cell},
                               {"file", header.file},
                               {"stretches", header.stretches},
                               {"scenario", header.scenario}}));
  return writer;
}

void TapeWriter::frame(std::string_view bytes) {
  TapeOut length;
  length.number(bytes.size());
  file_.write(length.bytes());
  file_.write(bytes);
  check_ = chained(check_, bytes);
  char check[4];
  for (int i = 0; i < 4; ++i) check[i] = static_cast<char>(check_ >> (8 * i));
  file_.write({check, 4});
}

Status TapeWriter::finish(const TapeEnd& end) {
  TapeOut out;
  out.word(TapeWord::end);
  for (const std::uint64_t n : {end.readings, end.steps, end.requests, end.digest}) out.number(n);
  frame(out.bytes());
  return file_.commit();
}

Result<TapeReader> TapeReader::open(const std::string& path) {
  std::error_code ec;
  if (!std::filesystem::exists(path, ec)) return invalid_input("there is no such file", {path, 0, 0});
  std::ifstream in(path, std::ios::binary);
  if (std::filesystem::is_directory(path, ec) || !in)
    return invalid_input("cannot be read; expected a tape, as `orrery simulate --tape` writes it",
                         {path, 0, 0});
  TapeReader reader;
  reader.path_ = path;
  reader.bytes_.assign(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
  if (!std::string_view(reader.bytes_).starts_with(magic))
    return invalid_input("is no tape of this version; expected a file that begins with \"orrery tape 1\"",
                         {path, 0, 0});
  reader.place_ = magic.size();
  std::string_view header;
  if (!reader.take(header)) return invalid_input("is a tape whose header is damaged", {path, 0, 0});
  ORRERY_TRY(json, parse_json(std::string(header), path));
  TapeHeader& h = reader.header_;
  if (!json.is_object() || !json.value("scenario", Json()).is_string())
    return invalid_input("is a tape whose header names no scenario", {path, 0, 0});
  h.version = json.value("version", "");
  h.cell = json.value("cell", "");
  h.file = json.value("file", "");
  h.scenario = json.value("scenario", "");
  h.stretches = json.value("stretches", true);
  return reader;
}

void TapeReader::broken(const std::string& what) {
  if (damage_.empty()) damage_ = what + " (byte " + std::to_string(place_) + ")";
}

bool TapeReader::take(std::string_view& frame) {
  const std::string_view left = std::string_view(bytes_).substr(place_);
  if (left.empty()) {
    broken("the tape is cut off: it ends without the frame that says that the run ended");
    return false;
  }
  TapeIn in(left.substr(0, 10));
  const std::uint64_t length = in.number();
  std::size_t digits = 1;
  while (digits < left.size() && digits < 10 && (left[digits - 1] & 0x80) != 0) ++digits;
  if (in.failed() || length > left.size() - digits || left.size() - digits - length < 4) {
    broken("the tape is cut off, or damaged: a frame goes on behind its end");
    return false;
  }
  const std::string_view bytes = left.substr(digits, static_cast<std::size_t>(length));
  const std::uint32_t expected = chained(check_, bytes);
  for (std::size_t i = 0; i < 4; ++i) {
    if (left[digits + bytes.size() + i] == static_cast<char>(expected >> (8 * i))) continue;
    broken("the tape is damaged: a frame does not have its checksum");
    return false;
  }
  check_ = expected;
  place_ += digits + bytes.size() + 4;
  frame = bytes;
  return true;
}

bool TapeReader::at_end() const {
  if (ended_) return true;
  std::size_t place = place_;
  while (place < bytes_.size() && (bytes_[place] & 0x80) != 0) ++place;
  return place + 1 < bytes_.size() && bytes_[place + 1] == static_cast<char>(TapeWord::end);
}

bool TapeReader::read_end(std::string_view frame) {
  TapeIn in(frame);
  if (!in.take(TapeWord::end)) return false;
  for (std::uint64_t* n : {&end_.readings, &end_.steps, &end_.requests, &end_.digest}) *n = in.number();
  if (in.failed() || !in.empty())
    broken("the tape is damaged: its last frame says too little");
  else if (place_ != bytes_.size())
    broken("the tape is damaged: something follows its last frame");
  return true;
}

TapeReader::Found TapeReader::next(std::string_view& frame) {
  if (!damage_.empty()) return Found::damaged;
  if (ended_) return Found::end;
  if (!take(frame)) return Found::damaged;
  if (!read_end(frame)) return Found::frame;
  ended_ = damage_.empty();
  return ended_ ? Found::end : Found::damaged;
}

}  // namespace orrery

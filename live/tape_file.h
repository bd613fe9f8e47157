// The file of a tape: a line that says what it is, frames of bytes with checksums, and a last one that says
// that the run ended. A frame's checksum holds all frames before it as well, so that a lost, doubled or
// exchanged frame is found like a changed byte.
//
//   "orrery tape 1\n"
//   frame   length (variable-length), bytes, 4 bytes of checksum (little-endian)
//   first frame: the header, JSON; last frame: TapeWord::end and what the run came to
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/files.h"
#include "base/result.h"

namespace orrery {

struct TapeHeader {
  std::string version;    // of the program that recorded it
  std::string cell;       // simulation, wall clock, mock server: for people, nothing is decided by it
  std::string file;       // name of the scenario
  std::string scenario;   // its document as used
  bool stretches = true;  // whether steps were taken many at a time (RunOptions::stretches)
};

struct TapeEnd {
  std::uint64_t readings = 0, steps = 0, requests = 0, digest = 0;  // requests: that ended, however
};

class TapeWriter {
 public:
  static Result<TapeWriter> create(const std::string& path, const TapeHeader& header);
  void frame(std::string_view bytes);
  Status finish(const TapeEnd& end);  // and puts the file in place

 private:
  explicit TapeWriter(AtomicFile file) : file_(std::move(file)) {}
  AtomicFile file_;
  std::uint32_t check_ = 0;
};

class TapeReader {
 public:
  // Errors: no such file, no tape, another version of the format, a header that is damaged.
  static Result<TapeReader> open(const std::string& path);
  const TapeHeader& header() const { return header_; }
  enum class Found { frame, end, damaged };
  // The next frame; after `end` or `damaged` the same again. Views are valid as long as the reader.
  Found next(std::string_view& frame);
  bool at_end() const;                                   // the next one is a good last frame
  const TapeEnd& end() const { return end_; }            // after Found::end
  const std::string& damage() const { return damage_; }  // after Found::damaged: what is wrong, and where

 private:
  void broken(const std::string& what);
  bool take(std::string_view& frame);
  bool read_end(std::string_view frame);

  std::string bytes_, path_, damage_;
  std::size_t place_ = 0;
  std::uint32_t check_ = 0;
  TapeHeader header_;
  TapeEnd end_;
  bool ended_ = false;
};

}  // namespace orrery

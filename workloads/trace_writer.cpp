#include "workloads/trace_writer.h"

#include <zlib.h>
#include <zstd.h>

#include <string_view>
#include <utility>
#include <vector>

#include "base/files.h"
#include "base/json.h"
#include "workloads/priority.h"

namespace orrery {

namespace {

constexpr std::size_t kChunk = 1 << 20;

bool ends_with(std::string_view text, std::string_view end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

// Feeds text through a compressor into a file. finish() must be called once, at the end.
class Compressor {
 public:
  virtual ~Compressor() = default;
  virtual bool write(std::string_view text, bool last, AtomicFile& file) = 0;
};

class PlainWriter final : public Compressor {
 public:
  bool write(std::string_view text, bool, AtomicFile& file) override {
    file.write(text);
    return true;
  }
};

class GzipWriter final : public Compressor {
 public:
  // 15 + 16: largest window, gzip header (which zlib writes without name and time).
  GzipWriter() { ready_ = deflateInit2(&stream_, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) == Z_OK; }
  ~GzipWriter() override { deflateEnd(&stream_); }
  GzipWriter(const GzipWriter&) = delete;
  GzipWriter& operator=(const GzipWriter&) = delete;
  bool write(std::string_view text, bool last, AtomicFile& file) override {
    if (!ready_) return false;
    stream_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));  // zlib's interface lacks
                                                                                 // const
    stream_.avail_in = static_cast<uInt>(text.size());
    int state = Z_OK;
    do {
      stream_.next_out = out_.data();
      stream_.avail_out = static_cast<uInt>(out_.size());
      state = deflate(&stream_, last ? Z_FINISH : Z_NO_FLUSH);
      if (state == Z_STREAM_ERROR) return false;
      file.write({reinterpret_cast<const char*>(out_.data()), out_.size() - stream_.avail_out});
    } while (stream_.avail_out == 0 || (last && state != Z_STREAM_END));
    return true;
  }

 private:
  z_stream stream_{};
  bool ready_ = false;
  std::vector<Bytef> out_ = std::vector<Bytef>(kChunk);
};

class ZstdWriter final : public Compressor {
 public:
  ZstdWriter() : context_(ZSTD_createCCtx()) {
    ZSTD_CCtx_setParameter(context_, ZSTD_c_compressionLevel, 9);
    ZSTD_CCtx_setParameter(context_, ZSTD_c_checksumFlag, 1);
  }
  ~ZstdWriter() override { ZSTD_freeCCtx(context_); }
  ZstdWriter(const ZstdWriter&) = delete;
  ZstdWriter& operator=(const ZstdWriter&) = delete;
  bool write(std::string_view text, bool last, AtomicFile& file) override {
    ZSTD_inBuffer in{text.data(), text.size(), 0};
    while (true) {
      ZSTD_outBuffer out{out_.data(), out_.size(), 0};
      const std::size_t left = ZSTD_compressStream2(context_, &out, &in, last ? ZSTD_e_end : ZSTD_e_continue);
      if (ZSTD_isError(left) != 0) return false;
      file.write({out_.data(), out.pos});
      if (last ? left == 0 : in.pos == in.size) return true;
    }
  }

 private:
  ZSTD_CCtx* context_;
  std::vector<char> out_ = std::vector<char>(kChunk);
};

// Integer nanoseconds as milliseconds, exactly and without trailing zeros: 4314579000 → "4314.579".
void append_milliseconds(std::string& text, SimTime time) {
  const std::int64_t ns = time.ns();
  text += std::to_string(ns / 1'000'000);
  const std::int64_t rest = ns % 1'000'000;
  if (rest == 0) return;
  std::string digits = std::to_string(1'000'000 + rest).substr(1);
  digits.erase(digits.find_last_not_of('0') + 1);
  text += '.';
  text += digits;
}

void append_number(std::string& text, const char* key, std::uint64_t value) {
  text += ", \"";
  text += key;
  text += "\": ";
  text += std::to_string(value);
}

}  // namespace

void append_trace_line(std::string& text, const TraceRequest& request) {
  text += "{\"timestamp\": ";
  append_milliseconds(text, request.arrival);
  append_number(text, "input_length", static_cast<std::uint64_t>(request.prompt_tokens));
  append_number(text, "output_length", static_cast<std::uint64_t>(request.output_tokens));
  if (request.max_output_tokens != request.output_tokens) {
    append_number(text, "max_output_tokens", static_cast<std::uint64_t>(request.max_output_tokens));
  }
  if (!request.hash_ids.empty()) {
    text += ", \"hash_ids\": [";
    for (std::size_t i = 0; i < request.hash_ids.size(); ++i) {
      if (i != 0) text += ", ";
      text += std::to_string(request.hash_ids[i]);
    }
    text += ']';
    if (request.hash_block_size != 512) {
      append_number(text, "hash_block_size", static_cast<std::uint64_t>(request.hash_block_size));
    }
  }
  if (request.session != 0) append_number(text, "session", request.session);
  const auto append_patience = [&](const char* key, SimDuration patience) {
    if (patience.ns() == 0) return;
    text += std::string(", \"") + key + "\": ";
    append_milliseconds(text, SimTime(patience.ns()));
  };
  append_patience("timeout_ms", request.timeout);
  append_patience("cancel_after_ms", request.cancel_after);
  if (request.priority != no_priority) text += ", \"priority\": " + std::to_string(request.priority);
  if (!request.images.empty()) {
    text += ", \"images\": [";
    for (std::size_t i = 0; i < request.images.size(); ++i) {
      text += i == 0 ? "{\"width\": " : ", {\"width\": ";
      text += std::to_string(request.images[i].width);
      const ImageSize& image = request.images[i];
      append_number(text, "height", static_cast<std::uint64_t>(image.height));
      if (image.id != 0) append_number(text, "id", image.id - 1);
      if (image.position != 0) append_number(text, "position", static_cast<std::uint64_t>(image.position));
      text += '}';
    }
    text += ']';
  }
  if (!request.tenant.empty()) text += ", \"tenant\": " + Json(request.tenant).dump();
  text += '}';
}

struct TraceWriter::State {
  AtomicFile file;
  std::unique_ptr<Compressor> compressor;
  std::string path;
  std::string buffer;
  bool failed = false;

  void flush(bool last) {
    failed = failed || !compressor->write(buffer, last, file);
    buffer.clear();
  }
};

TraceWriter::TraceWriter(std::unique_ptr<State> state) : state_(std::move(state)) {}
TraceWriter::TraceWriter(TraceWriter&&) noexcept = default;
TraceWriter& TraceWriter::operator=(TraceWriter&&) noexcept = default;
TraceWriter::~TraceWriter() = default;

Result<TraceWriter> TraceWriter::create(const std::string& path) {
  ORRERY_TRY(file, AtomicFile::create(path));
  std::unique_ptr<Compressor> compressor;
  if (ends_with(path, ".gz")) {
    compressor = std::make_unique<GzipWriter>();
  } else if (ends_with(path, ".zst")) {
    compressor = std::make_unique<ZstdWriter>();
  } else {
    compressor = std::make_unique<PlainWriter>();
  }
  std::unique_ptr<State> state(new State{std::move(file), std::move(compressor), path, {}});
  return TraceWriter(std::move(state));
}

void TraceWriter::add(const TraceRequest& request) {
  append_trace_line(state_->buffer, request);
  state_->buffer += '\n';
  if (state_->buffer.size() >= kChunk) state_->flush(false);
}

Status TraceWriter::commit() {
  state_->flush(true);
  if (state_->failed)
    return make_error(ErrorKind::internal, "compression failed", SourceLocation{state_->path, 0, 0});
  return state_->file.commit();
}

}  // namespace orrery

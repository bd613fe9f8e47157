#include <sys/stat.h>
#include <zlib.h>
#include <zstd.h>

#include <chrono>
#include <thread>

#include "base/files.h"
#include "base/random.h"
#include "catch.h"
#include "support.h"

using namespace orrery;
using namespace orrery::test;

namespace {

struct Lines {
  std::vector<std::string> lines;
  std::string error;  // "" at a good end
};

Lines read_lines(const std::string& path, std::size_t limit = 16u << 20) {
  Lines out;
  auto reader = LineReader::open(path, limit);
  if (!reader.ok()) {
    out.error = to_string(reader.errors());
    return out;
  }
  std::string_view line;
  while (reader->next(line)) {
    out.lines.emplace_back(line);
    CHECK(reader->line_number() == static_cast<std::int64_t>(out.lines.size()));
  }
  if (reader->error() != nullptr) out.error = reader->error()->to_string();
  CHECK_FALSE(reader->next(line));  // an end stays an end
  return out;
}

std::string gzip(const std::string& text) {
  z_stream z{};
  REQUIRE(deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) == Z_OK);
  std::string out(deflateBound(&z, text.size()) + 64, '\0');
  std::string in = text;
  z.next_in = reinterpret_cast<Bytef*>(in.data());
  z.avail_in = static_cast<uInt>(in.size());
  z.next_out = reinterpret_cast<Bytef*>(out.data());
  z.avail_out = static_cast<uInt>(out.size());
  REQUIRE(deflate(&z, Z_FINISH) == Z_STREAM_END);
  out.resize(z.total_out);
  deflateEnd(&z);
  return out;
}

std::string zstd(const std::string& text) {
  std::string out(ZSTD_compressBound(text.size()), '\0');
  const std::size_t n = ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 3);
  REQUIRE(ZSTD_isError(n) == 0);
  out.resize(n);
  return out;
}

using Packer = std::string (*)(const std::string&);
const std::vector<std::pair<std::string, Packer>> packers = {
    {"plain", [](const std::string& text) { return text; }}, {"gzip", gzip}, {"zstd", zstd}};

}  // namespace

TEST_CASE("lines come out alike from plain, gzip and zstd files of any name") {
  RandomStream random(4, RandomPurpose::property_test);
  std::vector<std::string> expected;
  std::string text;
  for (int i = 0; i < 20'000; ++i) {  // several buffers; compresses badly enough for several reads as well
    std::string line;
    for (std::uint64_t n = random.below(60); n > 0; --n) line += static_cast<char>('!' + random.below(90));
    text += line + (i % 3 == 0 ? "\r\n" : "\n");
    expected.push_back(line);
  }
  const TempFolder folder;
  for (const auto& [name, pack] : packers) {
    INFO(name);
    const Lines read = read_lines(folder.write(name + ".txt", pack(text)));
    CHECK(read.error == "");
    CHECK(read.lines == expected);
  }
}

TEST_CASE("ends of lines and files") {
  const TempFolder folder;
  const std::vector<std::pair<std::string, std::vector<std::string>>> cases = {
      {"", {}},
      {"\n", {""}},
      {"a", {"a"}},
      {"a\n", {"a"}},
      {"a\nb", {"a", "b"}},
      {"a\r\nb\r\n", {"a", "b"}},
      {"a\r", {"a"}},
      {"a\rb\n", {"a\rb"}},
      {"\n\na\n", {"", "", "a"}},
      {"\xEF\xBB\xBF"
       "a\n\xEF\xBB\xBF"
       "b\n",
       {"a",
        "\xEF\xBB\xBF"
        "b"}},
      {"\xEF\xBB\xBF", {""}},
      {"\x1f", {"\x1f"}},
  };
  for (const auto& [text, expected] : cases) {
    for (const auto& [name, pack] : packers) {
      INFO(name << ": " << text);
      const Lines read = read_lines(folder.write("t", pack(text)));
      CHECK(read.error == "");
      CHECK(read.lines == expected);
    }
  }
}

TEST_CASE("joined compressed streams read as one") {
  const TempFolder folder;
  CHECK(read_lines(folder.write("g", gzip("a\nb") + gzip("c\nd\n"))).lines ==
        std::vector<std::string>{"a", "bc", "d"});
  CHECK(read_lines(folder.write("z", zstd("a\nb") + zstd("c\nd\n"))).lines ==
        std::vector<std::string>{"a", "bc", "d"});
}

TEST_CASE("a truncated stream is an error wherever it is cut") {
  RandomStream random(5, RandomPurpose::property_test);
  std::string text;
  for (int i = 0; i < 3000; ++i) text += std::to_string(random.bits()) + "\n";
  const TempFolder folder;
  for (std::size_t k = 1; k < packers.size(); ++k) {
    const std::string whole = packers[k].second(text);
    for (const std::size_t kept : {std::size_t{5}, std::size_t{20}, whole.size() / 2, whole.size() - 1}) {
      const std::string path = folder.write("cut", whole.substr(0, kept));
      INFO(packers[k].first << " cut to " << kept << " of " << whole.size());
      const Lines read = read_lines(path);
      CHECK(contains(read.error, "is truncated: the compressed stream ends in the middle"));
      CHECK(contains(read.error, path + ":" + std::to_string(read.lines.size() + 1) + ": "));
      for (std::size_t i = 0; i < read.lines.size(); i += 100) {  // what came before is right
        const std::size_t at = text.find(read.lines[i] + "\n");
        CHECK(at != std::string::npos);
      }
    }
  }
}

TEST_CASE("a damaged stream is an error, not text") {
  const TempFolder folder;
  std::string text;
  for (int i = 0; i < 3000; ++i) text += "line " + std::to_string(i * 7919) + "\n";
  std::string damaged = gzip(text);
  damaged[damaged.size() - 6] = static_cast<char>(damaged[damaged.size() - 6] ^ 1);  // the checksum
  CHECK(contains(read_lines(folder.write("g", damaged)).error, "is not valid gzip data"));
  CHECK(contains(read_lines(folder.write("h", gzip("a\n") + "garbage")).error, "is not valid gzip data"));
  damaged = zstd(text);
  damaged[8] = static_cast<char>(damaged[8] ^ 0x5A);
  damaged[damaged.size() / 2] = static_cast<char>(damaged[damaged.size() / 2] ^ 0x5A);
  const std::string problem = read_lines(folder.write("z", damaged)).error;
  CHECK((contains(problem, "is not valid zstd data") || contains(problem, "is truncated")));
}

TEST_CASE("a line over the limit ends the reading at that line") {
  const TempFolder folder;
  for (const auto& [name, pack] : packers) {
    INFO(name);
    const Lines good = read_lines(folder.write("g", pack("a\n" + std::string(1000, 'x') + "\nb\n")), 1000);
    CHECK(good.error == "");
    CHECK(good.lines.size() == 3);
    const std::string path = folder.write("b", pack("a\n" + std::string(1001, 'x') + "\nb\n"));
    const Lines bad = read_lines(path, 1000);
    CHECK(bad.lines == std::vector<std::string>{"a"});
    CHECK(bad.error == path + ":2: the line is longer than 1.0 kB, the limit");
  }
}

TEST_CASE("an endless line in a small compressed file stays within bounded memory") {
  const TempFolder folder;
  const std::string bomb = zstd(std::string(200u << 20, 'x'));  // 200 MB in some 20 kB
  REQUIRE(bomb.size() < 100'000);
  struct rusage_probe {
    static long resident_kb() {
      std::ifstream statm("/proc/self/statm");
      long total = 0, resident = 0;
      statm >> total >> resident;
      return resident * (sysconf(_SC_PAGESIZE) / 1024);
    }
  };
  const std::string path = folder.write("bomb", bomb);
  const long before = rusage_probe::resident_kb();
  auto reader = LineReader::open(path, 1u << 20);
  REQUIRE(reader.ok());
  std::string_view line;
  CHECK_FALSE(reader->next(line));
  CHECK(contains(reader->error()->to_string(), "the line is longer than"));
  CHECK(rusage_probe::resident_kb() - before < 50'000);
}

TEST_CASE("a NUL byte is an error with its line") {
  const TempFolder folder;
  const std::string path = folder.write("t", std::string_view("a\nb\0c\nd\n", 8));
  const Lines read = read_lines(path);
  CHECK(read.lines == std::vector<std::string>{"a"});
  CHECK(read.error == path + ":2: is binary (a NUL byte in the line); text was expected");
}

TEST_CASE("what cannot be opened says why") {
  const TempFolder folder;
  folder.write("trace.jsonl", "");
  CHECK(
      contains(read_lines(folder.file("trace.json")).error, "no such file (did you mean \"trace.jsonl\"?)"));
  CHECK(contains(read_lines(folder.path()).error, "is a directory"));
  CHECK(contains(read_lines("/dev/zero").error, "is a device"));
}

TEST_CASE("a pipe that gives one byte at a time is recognised as compressed") {
  const TempFolder folder;
  const std::string path = folder.file("pipe");
  REQUIRE(mkfifo(path.c_str(), 0600) == 0);
  const std::string bytes = gzip("a\nb\n");
  std::thread writer([&] {
    std::FILE* pipe = std::fopen(path.c_str(), "wb");
    for (const char c : bytes) {
      std::fputc(c, pipe);
      std::fflush(pipe);
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    std::fclose(pipe);
  });
  const Lines read = read_lines(path);
  writer.join();
  CHECK(read.error == "");
  CHECK(read.lines == std::vector<std::string>{"a", "b"});
}

TEST_CASE("a reader can be moved while reading") {
  const TempFolder folder;
  auto first = LineReader::open(folder.write("t", "a\nb\n"));
  REQUIRE(first.ok());
  std::string_view line;
  REQUIRE(first->next(line));
  LineReader second = std::move(first).value();
  REQUIRE(second.next(line));
  CHECK(line == "b");
  CHECK(second.line_number() == 2);
}

#include <sys/resource.h>

#include "base/files.h"
#include "catch.h"
#include "support.h"

using namespace orrery;
using namespace orrery::test;

namespace {

template <class T>
std::string error_of(const Result<T>& result) {
  return result.ok() ? "no error" : to_string(result.errors());
}

// Root may write anywhere, so a folder without write permission needs another user for a while.
class WithoutRoot {
 public:
  WithoutRoot() : was_root_(geteuid() == 0) { dropped_ = !was_root_ || seteuid(65534) == 0; }
  ~WithoutRoot() {
    if (was_root_ && dropped_) CHECK(seteuid(0) == 0);
  }
  bool dropped() const { return dropped_; }

 private:
  bool was_root_, dropped_;
};

// Writing beyond the size fails with EFBIG, as a full disk would with ENOSPC.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    getrlimit(RLIMIT_FSIZE, &before_);
    rlimit limit = before_;
    limit.rlim_cur = bytes;
    setrlimit(RLIMIT_FSIZE, &limit);
    handler_ = std::signal(SIGXFSZ, SIG_IGN);
  }
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }

 private:
  rlimit before_{};
  void (*handler_)(int) = nullptr;
};

}  // namespace

TEST_CASE("an output file is not there before its commit and whole after it") {
  const TempFolder folder;
  const std::string path = folder.file("out.json"), big(1'000'000, 'x');
  auto file = AtomicFile::create(path);
  REQUIRE(file.ok());
  file->write(big);
  file->write("end");
  CHECK_FALSE(std::filesystem::exists(path));
  CHECK(folder.names() == std::vector<std::string>{"out.json.partial-" + std::to_string(getpid())});
  REQUIRE(file->commit().ok());
  CHECK(read_bytes(path) == big + "end");
  CHECK(folder.names() == std::vector<std::string>{"out.json"});
}

TEST_CASE("an output that is given up leaves what was there") {
  const TempFolder folder;
  const std::string path = folder.write("out", "old");
  {
    auto file = AtomicFile::create(path);
    REQUIRE(file.ok());
    file->write("new");
    AtomicFile moved = std::move(file).value();
    moved.write("er");
    CHECK(read_bytes(path) == "old");
  }
  CHECK(read_bytes(path) == "old");
  CHECK(folder.names() == std::vector<std::string>{"out"});
  REQUIRE(write_file_atomically(path, "new").ok());
  CHECK(read_bytes(path) == "new");
}

TEST_CASE("a second commit is a mistake of the caller") {
  const TempFolder folder;
  CHECK(aborts([&] {
    auto file = AtomicFile::create(folder.file("x"));
    (void)file->commit();
    (void)file->commit();
  }));
}

TEST_CASE("outputs that cannot be written say why and leave nothing") {
  const TempFolder folder;
  CHECK(error_of(AtomicFile::create(folder.path())) ==
        folder.path() + ": is a directory; a file name was expected\n");
  CHECK(contains(error_of(AtomicFile::create(folder.file("none/out"))), "cannot be written: No such file"));
  CHECK(contains(error_of(AtomicDirectory::create("/proc/orrery-out")),
                 "/proc/orrery-out: cannot be written: "));
  folder.write("file", "");
  CHECK(contains(error_of(AtomicDirectory::create(folder.file("file"))), "exists and is not a directory"));
  CHECK(contains(error_of(AtomicDirectory::create(folder.file("file/below"))), "cannot be written: "));
  CHECK(folder.names() == std::vector<std::string>{"file"});
}

TEST_CASE("a folder without write permission refuses outputs") {
  const TempFolder folder;
  std::filesystem::permissions(folder.path(), std::filesystem::perms(0555));
  const WithoutRoot user;
  if (!user.dropped()) {
    WARN("skipped: this process is root and may not become another user");
    return;
  }
  CHECK(contains(error_of(AtomicFile::create(folder.file("out"))), "cannot be written: Permission denied"));
  CHECK(contains(error_of(AtomicDirectory::create(folder.file("out"))),
                 "cannot be written: Permission denied"));
  CHECK(folder.names().empty());
}

TEST_CASE("a file without read permission is not called missing") {
  const TempFolder folder;
  const std::string path = folder.write("secret", "x");
  std::filesystem::permissions(path, std::filesystem::perms(0));
  const WithoutRoot user;
  if (!user.dropped()) {
    WARN("skipped: this process is root and may not become another user");
    return;
  }
  CHECK(contains(error_of(read_text_file(path)), "cannot be read: Permission denied"));
}

TEST_CASE("a write that fails is reported by commit, and the old file stays") {
  const TempFolder folder;
  const std::string path = folder.write("out", "old");
  std::string error;
  {
    auto file = AtomicFile::create(path);
    REQUIRE(file.ok());
    const FileSizeLimit limit(4096);
    file->write(std::string(1'000'000, 'x'));
    file->write("more");
    error = error_of(file->commit());
  }
  CHECK(contains(error, "out: cannot be written: File too large"));
  CHECK(read_bytes(path) == "old");
  CHECK(folder.names() == std::vector<std::string>{"out"});
}

TEST_CASE("an output directory appears as a whole") {
  const TempFolder folder;
  const std::string path = folder.file("deep/er/run");
  auto directory = AtomicDirectory::create(path + "/");
  REQUIRE(directory.ok());
  CHECK(directory->final_path() == path);
  REQUIRE(write_file_atomically(directory->file("a.json"), "1").ok());
  REQUIRE(write_file_atomically(directory->file("b.csv"), "2").ok());
  CHECK_FALSE(std::filesystem::exists(path));
  REQUIRE(directory->commit().ok());
  CHECK(read_bytes(path + "/a.json") == "1");
  CHECK(read_bytes(path + "/b.csv") == "2");
  const auto siblings = std::filesystem::directory_iterator(folder.file("deep/er"));
  CHECK(std::distance(begin(siblings), end(siblings)) == 1);
}

TEST_CASE("a directory that is given up leaves nothing, or what was there") {
  const TempFolder folder;
  {
    auto directory = AtomicDirectory::create(folder.file("run"));
    REQUIRE(directory.ok());
    REQUIRE(write_file_atomically(directory->file("a"), "1").ok());
    const AtomicDirectory moved = std::move(directory).value();
  }
  CHECK(folder.names().empty());
}

TEST_CASE("an existing directory is replaced file by file, others stay") {
  const TempFolder folder;
  std::filesystem::create_directory(folder.file("run"));
  folder.write("run/a", "old");
  folder.write("run/mine", "kept");
  auto directory = AtomicDirectory::create(folder.file("run"));
  REQUIRE(directory.ok());
  REQUIRE(write_file_atomically(directory->file("a"), "new").ok());
  REQUIRE(write_file_atomically(directory->file("b"), "new").ok());
  CHECK(read_bytes(folder.file("run/a")) == "old");
  REQUIRE(directory->commit().ok());
  CHECK(read_bytes(folder.file("run/a")) == "new");
  CHECK(read_bytes(folder.file("run/b")) == "new");
  CHECK(read_bytes(folder.file("run/mine")) == "kept");
  CHECK(folder.names() == std::vector<std::string>{"run"});
}

TEST_CASE("a directory that is given up takes the parents that were made for it along") {
  const TempFolder folder;
  std::filesystem::create_directory(folder.file("kept"));
  { REQUIRE(AtomicDirectory::create(folder.file("kept/new/er/run")).ok()); }
  CHECK(folder.names() == std::vector<std::string>{"kept"});
  CHECK(std::filesystem::is_empty(folder.file("kept")));
}

TEST_CASE("files that a commit supersedes are gone, others stay") {
  const TempFolder folder;
  std::filesystem::create_directory(folder.file("run"));
  folder.write("run/old.csv", "old");
  folder.write("run/mine.txt", "mine");
  auto directory = AtomicDirectory::create(folder.file("run"));
  REQUIRE(directory.ok());
  REQUIRE(write_file_atomically(directory->file("new.csv"), "new").ok());
  REQUIRE(directory->commit({"old.csv", "none.csv", "new.csv"}).ok());
  CHECK_FALSE(std::filesystem::exists(folder.file("run/old.csv")));
  CHECK(read_bytes(folder.file("run/mine.txt")) == "mine");
  CHECK(read_bytes(folder.file("run/new.csv")) == "new");
}

TEST_CASE("a stale partial directory of a dead process with our id does not matter") {
  const TempFolder folder;
  const std::string stale = folder.file("run.partial-" + std::to_string(getpid()));
  std::filesystem::create_directory(stale);
  std::ofstream(stale + "/old") << "x";
  auto directory = AtomicDirectory::create(folder.file("run"));
  REQUIRE(directory.ok());
  REQUIRE(directory->commit().ok());
  CHECK(std::filesystem::is_empty(folder.file("run")));
}

#include "base/files.h"

#include <cstdlib>

#include "catch.h"
#include "support.h"

using namespace orrery;
using namespace orrery::test;

namespace {

std::string error_of(const std::string& path, std::uint64_t limit = 64u << 20) {
  const auto text = read_text_file(path, limit);
  return text.ok() ? "no error" : to_string(text.errors());
}

}  // namespace

TEST_CASE("a text file is read whole, up to the limit") {
  const TempFolder folder;
  const std::string text = std::string(200'000, 'x') + "\r\nä";
  const std::string path = folder.write("t", text);
  REQUIRE(read_text_file(path).ok());
  CHECK(*read_text_file(path) == text);
  CHECK(read_text_file(path, text.size()).ok());
  CHECK(error_of(path, text.size() - 1) ==
        path + ": is larger than 200.0 kB, the limit for this kind of file\n");
  CHECK(*read_text_file(folder.write("empty", "")) == "");
}

TEST_CASE("what is not a readable text file says so by name") {
  const TempFolder folder;
  folder.write("scenario.yaml", "");
  CHECK(error_of(folder.file("scenaro.yaml")) ==
        folder.file("scenaro.yaml") + ": no such file (did you mean \"scenario.yaml\"?)\n");
  CHECK(error_of(folder.file("other")) == folder.file("other") + ": no such file\n");
  CHECK(contains(error_of(folder.file("no/such/folder")), "no such file"));
  CHECK(contains(error_of(folder.file("scenario.yaml/below")), "no such file"));
  CHECK(error_of(folder.path()) == folder.path() + ": is a directory; a file was expected\n");
  CHECK(contains(error_of("/dev/zero"), "is a device"));
  CHECK(contains(error_of(folder.write("b", std::string_view("ab\0c", 4))),
                 "is binary (a NUL byte at offset 2)"));
  CHECK(contains(error_of(folder.file(std::string(300, 'n'))), "cannot be read: "));
}

TEST_CASE("the data directory is the one given, else the source tree") {
  ::setenv("ORRERY_DATA_DIR", "/somewhere", 1);
  CHECK(data_directory() == "/somewhere");
  ::setenv("ORRERY_DATA_DIR", "", 1);
  CHECK(std::filesystem::is_directory(data_directory() + "/hardware_profiles"));
  ::unsetenv("ORRERY_DATA_DIR");
  CHECK(std::filesystem::is_directory(data_directory() + "/hardware_profiles"));
}

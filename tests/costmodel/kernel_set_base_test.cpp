// A set of tables over another set of the part (`base` of table.yaml).
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "catch.h"
#include "costmodel/hardware.h"
#include "costmodel/kernel_set.h"

using namespace orrery;
namespace fs = std::filesystem;

namespace {

// A data directory of its own with one set; others are written beside it.
class Sets {
 public:
  explicit Sets(const std::string& name) : root_(fs::temp_directory_path() / "orrery_kernel_set_base_test") {
    fs::remove_all(root_);
    setenv("ORRERY_DATA_DIR", root_.c_str(), 1);
    describe(name, "");
  }
  ~Sets() {
    unsetenv("ORRERY_DATA_DIR");
    fs::remove_all(root_);
  }
  void describe(const std::string& name, const std::string& more) const {
    write(name, "table.yaml",
          "hardware: h200\nkernels: " + name + "\nkind: published\nsource: \"a test\"\n" + more);
  }
  void write(const std::string& name, const std::string& file, const std::string& text) const {
    const fs::path folder = root_ / "hardware_profiles/tables/h200" / name;
    fs::create_directories(folder);
    std::ofstream(folder / file) << text;
  }

 private:
  fs::path root_;
};

}  // namespace

TEST_CASE("a set over another has that one's files but for its own, and names a set that is there") {
  const auto h200 = load_hardware("h200");
  REQUIRE(h200.ok());
  const Sets sets("below");
  sets.write("below", "gemm.csv", "dtype,n,k,kernel,1,64\nbf16,6144,4096,x,0.5,0.6\n");
  sets.write("below", "experts.csv",
             "dtype,hidden,intermediate,experts,per_token,kernel,1,2\nbf16,2048,768,128,8,x,0.1,0.2\n");
  sets.write("over", "gemm.csv", "dtype,n,k,kernel,1\nbf16,6144,4096,x,0.25\n");
  sets.describe("over", "base: below\n");
  const auto set = KernelSet::load(*h200, "over");
  REQUIRE(set.ok());
  CHECK((*set)->points("gemm") == 1);
  CHECK((*set)->points("experts") == 2);
  sets.describe("over", "base: nobodys\n");
  const auto missing = KernelSet::load(*h200, "over");
  REQUIRE_FALSE(missing.ok());
  CHECK(to_string(missing.errors()).find("names no set of this part") != std::string::npos);
}

// Without it the choice of experts of such a set would be counted beside layers that hold it.
TEST_CASE(
    "a set over another was timed with the choice of experts as that one was, unless it says so itself") {
  const auto h200 = load_hardware("h200");
  REQUIRE(h200.ok());
  const Sets sets("below");
  sets.describe("below", "choice_inside: [bf16, mxfp4]\n");
  sets.describe("over", "base: below\n");
  const auto over = KernelSet::load(*h200, "over");
  REQUIRE(over.ok());
  CHECK((*over)->experts_hold_choice("mxfp4"));
  sets.describe("over", "base: below\nchoice_inside: [bf16]\n");
  const auto own = KernelSet::load(*h200, "over");
  REQUIRE(own.ok());
  CHECK((*own)->experts_hold_choice("bf16"));
  CHECK_FALSE((*own)->experts_hold_choice("mxfp4"));
}

TEST_CASE("a set stands over one with files of its own only, and is not carried from another part") {
  const auto h200 = load_hardware("h200");
  REQUIRE(h200.ok());
  const std::string words = "must be a set with files of its own";
  const Sets sets("below");
  sets.describe("over", "base: below\n");
  sets.describe("third", "base: over\n");
  const auto third = KernelSet::load(*h200, "third");
  REQUIRE_FALSE(third.ok());
  CHECK(to_string(third.errors()).find("table.yaml:5") != std::string::npos);
  CHECK(to_string(third.errors()).find(words) != std::string::npos);
  sets.describe("below", "from: h100\n");
  const auto carried = KernelSet::load(*h200, "over");
  REQUIRE_FALSE(carried.ok());
  CHECK(to_string(carried.errors()).find(words) != std::string::npos);
}

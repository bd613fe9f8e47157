// The library that programs link: it must start without a driver or NVIDIA's libraries and say what is
// missing. With a GPU, every case of a small shape runs and agrees with its reference.
#include "kernels/device.h"

#include <algorithm>

#include "catch.h"
#include "kernels/block_gemm.h"
#include "kernels/case_table.h"
#include "kernels/specs.h"
#include "kernels/vendor_library.h"

using namespace orrery::kernels;

TEST_CASE("devices are listed, or their absence has a reason", "[kernels]") {
  std::string why;
  const auto found = devices(why);
  if (found.empty()) CHECK(!why.empty());
  for (const auto& device : found) {
    CHECK(!device->info().name.empty());
    CHECK(device->info().compute_units > 0);
  }
}

TEST_CASE("every case runs and is timed where there is a device", "[kernels]") {
  std::string why;
  for (const auto& device : devices(why)) {
    for (const CaseEntry& entry : case_table()) {
      CAPTURE(entry.op, device->info().name);
      const auto kernel = make_case(small_spec(entry.op), why);
      if (kernel == nullptr) continue;  // an operator that a small spec does not describe
      const bool prepared = kernel->prepare(device->memory(), 2, why);
      const bool alone = why.find("ranks need as many devices") != std::string::npos;
      if (!prepared && (!entry.simulated || alone)) {  // a library, a second device or wgmma is missing
        WARN(entry.op << ": " << why);
        device->memory().release_all();
        continue;
      }
      REQUIRE(prepared);
      CHECK(device->run([&](Stream stream) { kernel->launch(0, stream); }, why));
      CHECK(kernel->check(device->memory()).detail == "");
      CHECK(device->memory().guards_intact(why));
      std::vector<double> ns;
      CHECK(device->time([&](int i, Stream stream) { kernel->launch(i % 2, stream); }, 20, 10, ns, why));
      CHECK(ns.size() == 10);
      for (const double t : ns) CHECK(t > 0);
      device->memory().release_all();
    }
  }
}

TEST_CASE("block_gemm_wgmma chooses among the tiles that exist", "[kernels]") {
  const auto tiles = block_gemm_tiles();
  for (std::size_t i = 0; i < tiles.size(); ++i) {
    CHECK(std::find(tiles.begin() + static_cast<std::ptrdiff_t>(i) + 1, tiles.end(), tiles[i]) ==
          tiles.end());
  }
  if (tiles.empty()) return;  // built without a toolkit
  for (const std::int32_t m : {1, 16, 17, 64, 65, 128, 200, 256, 1000, 8192, 40000}) {
    for (const auto& [n, k] :
         {std::pair{8, 4096}, {1000, 25600}, {2112, 7168}, {4096, 12288}, {51200, 4096}}) {
      for (const auto layout : {BlockGemmExperts::none, BlockGemmExperts::contiguous}) {
        for (const bool by_channel : {false, true}) {
          BlockGemm p;
          p.rows = m;
          p.n = n;
          p.k = k;
          p.layout = layout;
          p.experts = layout == BlockGemmExperts::none ? 1 : 64;
          p.by_channel = by_channel;
          for (const std::int32_t units : {78, 132}) {
            CAPTURE(m, p.n, p.k, by_channel, units);
            const BlockGemmTile tile = block_gemm_tile(p, units);
            CHECK(std::find(tiles.begin(), tiles.end(), tile) != tiles.end());
            const bool large = tile.rows * tile.columns == 256 * 128;  // one form for each kind of scales
            CHECK((!large || (tile.rows == 128) == by_channel));
            // Features in are shared out where there are too few tiles for the part, and nowhere else.
            if (tile.splits > 1) CHECK(p.n / tile.columns < units);
            if (p.n == 2112 && m <= 16 && p.experts == 1) CHECK(tile.splits > 1);
          }
        }
      }
    }
  }
}

TEST_CASE("a vendor's library is loaded or says why not", "[kernels]") {
  const VendorLibrary& nvml = vendor_library(Vendor::nvml);
  CHECK(nvml.loaded() == nvml.why().empty());
  CHECK(nvml.symbol("no_such_function") == nullptr);
  CHECK(find_case("no_such_operator") == nullptr);
}

#include "costmodel/moe_tiles.h"

#include <filesystem>

#include "base/files.h"
#include "catch.h"
#include "costmodel/step_pricer.h"
#include "costmodel/weight_format.h"
#include "read_instance.h"

using namespace orrery;
namespace fs = std::filesystem;

namespace {

struct Part {
  explicit Part(const std::string& name)
      : hardware(load_hardware(name).value()), roofline(Roofline::create(hardware).value()) {}
  MoeShape shape(std::int64_t held = 64) const {
    MoeShape s;
    s.experts = held;
    s.inner = 768;
    s.hidden = 2048;
    s.of_model = 128;
    s.per_token = 8;
    s.ranks = 128 / held;
    s.format = named_weight_format("fp8-block", roofline).value();
    return s;
  }
  HardwareProfile hardware;
  Roofline roofline;
};

MoeTile tile(std::int64_t rows, std::int64_t columns = 128) {
  MoeTile t;
  t.rows = rows;
  t.columns = columns;
  return t;
}

class Folder {
 public:
  explicit Folder(const char* name) : path_(fs::temp_directory_path() / name) {
    fs::remove_all(path_);
    fs::create_directories(path_);
  }
  ~Folder() { fs::remove_all(path_); }
  std::string file(const std::string& name) const { return (path_ / name).string(); }
  std::string path() const { return path_.string(); }

 private:
  fs::path path_;
};

std::string deployment(const std::string& more) {
  return "hardware: r9700\nmodel: qwen3-30b-a3b-fp8\nengine: vllm-0.24\nparallel: {tp: 2, ep: 2}\n" + more;
}

}  // namespace

TEST_CASE("without a file an engine's tile is that of get_default_config") {
  const Part r9700("r9700");
  MoeShape blocks = r9700.shape();
  // vLLM 0.24 fused_moe.py, by hand: blocks of scales.
  for (const auto& [tokens, rows, group] : std::vector<std::array<std::int64_t, 3>>{
           {1, 16, 1}, {16, 16, 1}, {17, 16, 32}, {64, 16, 32}, {65, 64, 32}}) {
    const MoeTile t = default_moe_tile(tokens, blocks, true);
    CHECK(t.rows == rows);
    CHECK(t.group == group);
    CHECK(t.columns == 128);
    CHECK(t.depth == 128);
    CHECK(t.stages == 2);
  }
  CHECK(default_moe_tile(65, blocks, false).stages == 3);
  blocks.format = named_weight_format("bf16", r9700.roofline).value();
  CHECK(default_moe_tile(32, blocks, false) == MoeTile{16, 64, 128, 1, 4, 4});
  CHECK(default_moe_tile(96, blocks, false) == MoeTile{32, 128, 64, 1, 4, 3});
  CHECK(default_moe_tile(512, blocks, false) == MoeTile{64, 128, 64, 1, 8, 3});
  CHECK(default_moe_tile(64 * 129, blocks, true) == MoeTile{128, 128, 64, 16, 8, 2});
}

TEST_CASE("files are named as vLLM looks for them") {
  const Part r9700("r9700");
  MoeShape shape = r9700.shape();
  CHECK(moe_tile_file_name(shape, vllm_device_name("r9700")) ==
        "E=64,N=768,device_name=AMD_Radeon_R9700,dtype=fp8_w8a8,block_shape=[128,128].json");
  shape.format = named_weight_format("bf16", r9700.roofline).value();
  CHECK(moe_tile_file_name(shape, "NVIDIA_H200") == "E=64,N=768,device_name=NVIDIA_H200.json");
  CHECK(vllm_device_name("a100").empty());
}

TEST_CASE("the nearest key of a file serves, the smaller of two as near") {
  const Folder folder("orrery_moe_tiles_nearest");
  const std::string path = folder.file("tiles.json");
  REQUIRE(write_file_atomically(path, R"({"triton_version": "3.6.0", "16": {"BLOCK_SIZE_M": 16},
    "64": {"BLOCK_SIZE_M": 32, "BLOCK_SIZE_N": 256, "num_warps": 8}, "128": {"BLOCK_SIZE_M": 128}})")
              .ok());
  const Part r9700("r9700");
  MoeTiles tiles(r9700.shape(), true);
  REQUIRE(tiles.read(path).ok());
  CHECK(tiles.at(1).rows == 16);
  CHECK(tiles.at(40).rows == 16);  // as near to 64
  CHECK(tiles.at(41).rows == 32);
  CHECK(tiles.at(64).columns == 256);
  CHECK(tiles.at(64).depth == 128);  // what an entry leaves out is the default's
  CHECK(tiles.at(96).rows == 32);
  CHECK(tiles.at(5000).rows == 128);
  for (const char* wrong : {"[]", "{}", R"({"x": {"BLOCK_SIZE_M": 16}})", R"({"16": {"BLOCK_SIZE_N": 16}})",
                            R"({"16": {"BLOCK_SIZE_M": 0}})", R"({"016": {"BLOCK_SIZE_M": 16}})"}) {
    REQUIRE(write_file_atomically(path, wrong).ok());
    CAPTURE(wrong);
    CHECK_FALSE(MoeTiles(r9700.shape(), true).read(path).ok());
  }
  // What Triton would not take.
  for (const char* wrong : {R"({"16": {"BLOCK_SIZE_M": 8}})", R"({"16": {"BLOCK_SIZE_M": 48}})",
                            R"({"16": {"BLOCK_SIZE_M": 16, "BLOCK_SIZE_K": 96}})",
                            R"({"16": {"BLOCK_SIZE_M": 16, "num_warps": 3}})"}) {
    REQUIRE(write_file_atomically(path, wrong).ok());
    CAPTURE(wrong);
    const Status read = MoeTiles(r9700.shape(), true).read(path);
    REQUIRE_FALSE(read.ok());
    CHECK(read.errors().front().message.find("power of two") != std::string::npos);
  }
}

TEST_CASE("the tile law: padding, waves, and operands that small tiles read again") {
  const Part r9700("r9700");
  const MoeShape shape = r9700.shape();
  // 128 tokens: 8 rows an expert. A tile of 64 rows multiplies eight times as many, one of 16 twice.
  CHECK(moe_tile_ns(r9700.roofline, shape, tile(64), 128) >
        moe_tile_ns(r9700.roofline, shape, tile(16), 128));
  // 4,096 tokens: 256 rows an expert, so padding is little; a tile of 16 rows reads weights 16 times from the
  // cache, one of 64 four times.
  CHECK(moe_tile_ns(r9700.roofline, shape, tile(16), 4096) >
        moe_tile_ns(r9700.roofline, shape, tile(64), 4096));
  // A token or two: weights from memory decide, whatever the tile.
  CHECK(moe_tile_ns(r9700.roofline, shape, tile(16), 1) ==
        Approx(moe_tile_ns(r9700.roofline, shape, tile(32), 1)));
}

TEST_CASE("a search never loses to the default, fits the part and is the same every time") {
  for (const char* name : {"r9700", "mi300x", "l40s", "h200"}) {
    const Part part(name);
    const MoeShape shape = part.shape();
    const bool rocm = part.hardware.vendor == "amd";
    MoeTiles tuned(shape, rocm), again(shape, rocm);
    tuned.search(part.roofline, part.hardware);
    again.search(part.roofline, part.hardware);
    CHECK(tuned.entries() == again.entries());
    CHECK(tuned.entries().size() == moe_tile_keys().size());
    for (const auto& [tokens, t] : tuned.entries()) {
      CAPTURE(name, tokens, t.text());
      CHECK(moe_tile_ns(part.roofline, shape, t, tokens) <=
            moe_tile_ns(part.roofline, shape, default_moe_tile(tokens, shape, rocm), tokens));
      if (!(t == default_moe_tile(tokens, shape, rocm)))
        CHECK((rocm ? t.stages - 1 : t.stages) * (t.rows + t.columns) * t.depth <=
              shared_memory_bytes(part.hardware));
    }
  }
}

TEST_CASE("a deployment says which tiles its experts have") {
  const auto price = [](const std::string& tiles, std::int32_t tokens) {
    const Read r = read(deployment(tiles));
    REQUIRE(r.errors.empty());
    auto pricer = StepPricer::create(r.spec);
    REQUIRE(pricer.ok());
    StepShape shape;
    shape.decode_sequences = tokens;
    shape.decode_context_tokens = tokens * 100;
    return pricer->summarize(shape).device_ns;
  };
  CHECK(price("tiles: tuned", 128) < price("tiles: default", 128));
  CHECK(price("tiles: tuned", 16) == price("tiles: default", 16));  // the default is as good there
  // A folder: its file, or silently the default, as the engine does.
  const Folder folder("orrery_moe_tiles_deployment");
  const std::string key = "tiles: \"" + folder.path() + "\"";
  CHECK(price(key, 128) == price("tiles: default", 128));
  REQUIRE(
      write_file_atomically(
          folder.file("E=64,N=768,device_name=AMD_Radeon_R9700,dtype=fp8_w8a8,block_shape=[128,128].json"),
          R"({"128": {"BLOCK_SIZE_M": 16}})")
          .ok());
  CHECK(price(key, 128) < price("tiles: default", 128));
  REQUIRE(
      write_file_atomically(
          folder.file("E=64,N=768,device_name=AMD_Radeon_R9700,dtype=fp8_w8a8,block_shape=[128,128].json"),
          "{}")
          .ok());
  const Read empty = read(deployment(key));
  REQUIRE_FALSE(empty.errors.empty());
  CHECK(empty.errors.front().message.find("has no batch size (E=64,N=768") == 0);
}

TEST_CASE("beside our own tables tiles choose whose rows price the experts") {
  const auto price = [](const std::string& tiles) {
    const Read r =
        read("hardware: h200\nmodel: qwen3-30b-a3b-fp8\nengine: vllm-0.24\nkernels: orrery\n" + tiles);
    REQUIRE(r.errors.empty());
    StepShape shape;
    shape.decode_sequences = 64;  // 512 rows over 128 experts: a batch that was searched
    shape.decode_context_tokens = 64 * 100;
    return StepPricer::create(r.spec).value().summarize(shape).device_ns;
  };
  CHECK(price("tiles: tuned") < price("tiles: default"));
  const Read other =
      read("hardware: h100\nmodel: qwen3-30b-a3b-fp8\nengine: vllm-0.24\nkernels: orrery\ntiles: tuned\n");
  REQUIRE_FALSE(other.errors.empty());
  CHECK(other.errors.front().message.find("calibrate --tune") != std::string::npos);
}

TEST_CASE("tiles are refused by name where nothing knows them") {
  const auto refused = [](const std::string& text) {
    const Read r = read(text);
    REQUIRE_FALSE(r.errors.empty());
    return r.errors.front().message;
  };
  CHECK(refused("hardware: r9700\nmodel: qwen3-8b\nengine: vllm-0.24\ntiles: tuned\n").find("no experts") !=
        std::string::npos);
  CHECK(refused("hardware: r9700\nmodel: qwen3-30b-a3b\nengine: sglang-0.5\ntiles: tuned\n")
            .find("rules of its own") != std::string::npos);
  CHECK(
      refused("hardware: h200\nmodel: qwen3-30b-a3b\nengine: vllm-0.24\ntiles: tuned\n").find("as a whole") !=
      std::string::npos);
  // Beside our own set as elsewhere: a dense model, formats that it has not timed.
  const std::string ours = "hardware: h200\nkernels: orrery\ntiles: default\n";
  CHECK(refused(ours + "model: qwen3-8b\nengine: vllm-0.24\n").find("no experts") != std::string::npos);
  CHECK(refused(ours + "model: gpt-oss-20b\nengine: sglang-0.5\n").find("rules of its own") !=
        std::string::npos);
  CHECK(refused(ours + "model: gpt-oss-20b\nengine: vllm-0.24\n").find("kernels of their own") !=
        std::string::npos);
  CHECK(refused(deployment("tiles: /nonexistent\n")).find("/nonexistent") != std::string::npos);
}

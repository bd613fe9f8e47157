// Worked examples of every image rule, by hand from the processors' source (costmodel/image_tokens.cpp names
// it), and the sizes that engines plan for.
#include "costmodel/image_tokens.h"

#include "../catch.h"
#include "costmodel/model_spec.h"
#include "read_instance.h"

using namespace orrery;

namespace {

ModelSpec model(const char* name) { return load_model(name, ".", "", "auto").value(); }

VisionSpec gemma() {
  VisionSpec v;
  v.rule = ImageRule::gemma3;
  v.patch = 14;
  v.image_size = 896;
  v.tokens_per_image = 256;
  return v;
}

}  // namespace

TEST_CASE("Qwen2.5-VL: sides to multiples of 28, the area between 3,136 and 12,845,056 pixels") {
  const ModelSpec m = model("qwen2.5-vl-7b");
  const auto tokens = [&](std::int64_t w, std::int64_t h) {
    return lay_out_image(*m.vision, w, h).value().tokens;
  };
  CHECK(tokens(1024, 768) == 37 * 27);        // 36.57 → 37, 27.43 → 27
  CHECK(tokens(1920, 1080) == 69 * 39);       // 68.57 → 69, 38.57 → 39
  CHECK(tokens(28 * 4 + 14, 280) == 4 * 10);  // 4.5 goes to the even 4
  CHECK(tokens(28 * 5 + 14, 280) == 6 * 10);  // 5.5 goes to the even 6
  CHECK(tokens(28, 28) == 4);                 // enlarged to 56 × 56
  CHECK(tokens(8000, 6000) == 147 * 110);     // ÷ √(48e6 / 12,845,056), rounded down
  const ImageLayout hd = lay_out_image(*m.vision, 1920, 1080).value();
  CHECK(hd.columns == 138);
  CHECK(hd.rows == 78);
  CHECK(hd.pixels == 1932 * 1092);
  CHECK(hd.embeddings == hd.tokens);
  CHECK_FALSE(lay_out_image(*m.vision, 2010, 10).ok());  // more than 200 to 1
  CHECK(lay_out_image(*m.vision, 2000, 10).ok());
  CHECK_FALSE(lay_out_image(*m.vision, 0, 10).ok());
}

TEST_CASE("Qwen3-VL: multiples of 32, at least 65,536 pixels") {
  const ModelSpec m = model("qwen3-vl-8b");
  CHECK(lay_out_image(*m.vision, 1024, 768).value().tokens == 32 * 24);
  CHECK(lay_out_image(*m.vision, 100, 100).value().tokens == 64);  // enlarged to 256 × 256
}

TEST_CASE("LLaVA-1.5: 576 tokens, whatever the image") {
  const ModelSpec m = model("llava-1.5-7b");
  for (const std::int64_t side : {1, 336, 4000}) {
    const ImageLayout layout = lay_out_image(*m.vision, side, 2 * side).value();
    CHECK(layout.tokens == 576);
    CHECK(layout.rows * layout.columns == 576);
  }
  CHECK(m.vision->layers == 23);  // the last of 24 is not used (vision_feature_layer −2)
}

TEST_CASE("Pixtral: patches of the image within 1024 pixels, and a break or end after every row") {
  const ModelSpec m = model("pixtral-12b");
  const ImageLayout square = lay_out_image(*m.vision, 1024, 1024).value();
  CHECK(square.embeddings == 64 * 64);
  CHECK(square.tokens == 64 * 65);
  const ImageLayout wide = lay_out_image(*m.vision, 2048, 1024).value();  // halved
  CHECK(wide.embeddings == 64 * 32);
  CHECK(wide.tokens == 65 * 32);
  const ImageLayout small = lay_out_image(*m.vision, 500, 300).value();  // 31.25 → 32, 18.75 → 19
  CHECK(small.embeddings == 32 * 19);
  CHECK(small.tokens == 33 * 19);
}

TEST_CASE("Gemma 3: 256 embeddings a picture, crops by pan and scan when asked for") {
  VisionSpec v = gemma();
  CHECK(lay_out_image(v, 1000, 2000).value().embeddings == 256);
  CHECK(lay_out_image(v, 1000, 2000).value().tokens == 260);
  v.pan_and_scan = true;
  const ImageLayout tall = lay_out_image(v, 1000, 2000).value();
  CHECK(tall.tiles == 3);  // the whole and two crops of 1000 × 1000
  CHECK(tall.embeddings == 3 * 256);
  CHECK(lay_out_image(v, 1000, 1100).value().tiles == 1);  // 1.1 is not worth it
  CHECK(lay_out_image(v, 400, 200).value().tiles == 1);    // crops would be narrower than 256
  CHECK(lay_out_image(v, 6000, 1000).value().tiles == 5);  // at most four crops
}

// transformers_utils/processors/internvl.py of vLLM 0.24 gives the same numbers for these sizes.
TEST_CASE("InternVL: the grid of up to twelve tiles that is nearest to the image's shape, and the whole") {
  const ModelSpec m = model("internvl3-8b");
  const auto tiles = [&](std::int64_t w, std::int64_t h) {
    return lay_out_image(*m.vision, w, h).value().tiles;
  };
  CHECK(tiles(448, 448) == 1);  // no picture of the whole beside it
  CHECK(tiles(100, 100) == 1);
  CHECK(tiles(700, 700) == 5);     // 2 × 2: the image has more than half its pixels
  CHECK(tiles(1000, 1000) == 10);  // 3 × 3: more than half of 1,806,336
  CHECK(tiles(1920, 1080) == 9);   // 16:9 is nearest to 2:1, of which 4 × 2 is covered by half
  CHECK(tiles(800, 600) == 13);    // 4:3, of which only 4 × 3 exists, however small the image is
  CHECK(tiles(300, 6000) == 13);   // at most 1 × 12
  CHECK(tiles(1200, 400) == 4);    // 3:1; 6 × 2 would be covered by less than half
  CHECK(tiles(333, 517) == 7);     // 0.64 is nearest to 2:3
  const ImageLayout one = lay_out_image(*m.vision, 448, 448).value();
  CHECK(one.embeddings == 256);  // (448 / 14)² / 4
  CHECK(one.tokens == 258);      // <img> and </img>
  CHECK(one.lead == 1);
  CHECK(one.rows * one.columns == 1024);
  CHECK(lay_out_image(*m.vision, 1600, 1200).value().embeddings == 13 * 256);
  CHECK(largest_image(*m.vision).embeddings == 13 * 256);
  // A video of one tile a frame beside it: (32,768 − 3,328) / 256 frames.
  CHECK(largest_video_tokens(*m.vision, m.architecture, 32768) == 115 * 256);
}

// multimodal/processors/internvl.py of SGLang 0.5.23, `dynamic_preprocess`: of grids of one shape the one
// with most tiles, however small the image.
TEST_CASE("InternVL on SGLang: a square is nine tiles and the whole, whatever its size") {
  VisionSpec v = *model("internvl3-8b").vision;
  v.thumbnail = true;
  v.least_tiles = most_of_equals;
  const auto tiles = [&](std::int64_t w, std::int64_t h) { return lay_out_image(v, w, h).value().tiles; };
  CHECK(tiles(448, 448) == 10);
  CHECK(tiles(1000, 1000) == 10);
  CHECK(tiles(1200, 400) == 13);  // 6 × 2
  CHECK(tiles(1920, 1080) == 9);  // 16:9 is nearest to 2:1: 4 × 2
  CHECK(tiles(800, 600) == 13);
  CHECK(tiles(333, 517) == 7);
}

// llava_next.py of vLLM 0.24 and transformers' select_best_resolution give the same numbers.
TEST_CASE("LLaVA-NeXT: the whole, and a grid without its padding, a line break after every row") {
  const ModelSpec m = model("llava-v1.6-mistral-7b");
  const auto layout = [&](std::int64_t w, std::int64_t h) { return lay_out_image(*m.vision, w, h).value(); };
  // 672 × 672: 48 rows of 48 and a break each beside 576.
  CHECK(layout(672, 672).tokens == 576 + 48 * 49);
  CHECK(layout(672, 672).tiles == 5);
  // 1024 × 768 in 672 × 672: 36 of 48 rows are the image's.
  CHECK(layout(1024, 768).tokens == 576 + 36 * 49);
  // 1920 × 1080: 27 rows of 48; half of 21 is 10 on either side, so one row of padding stays.
  CHECK(layout(1920, 1080).tokens == 576 + 28 * 49);
  // 1000 × 300 is wide: 1008 × 336, 24 rows of 72 of which 21.6 are filled.
  CHECK(layout(1000, 300).tokens == 576 + 22 * 73);
  CHECK(layout(1000, 300).tiles == 4);
  CHECK(layout(333, 517).tokens == 576 + 38 * 25);  // 336 × 672 padded above and below
  CHECK(layout(100, 100).tokens == 576 + 24 * 25);  // of sizes that waste as much the first
  // 300 × 1000: 21.6 of 24 columns, of which 22 stay.
  CHECK(layout(300, 1000).tokens == 576 + 72 * 22 + 72);
  CHECK(layout(1024, 768).embeddings == layout(1024, 768).tokens);
  CHECK(largest_image(*m.vision).embeddings == 576 + 48 * 49);
  CHECK(largest_video_tokens(*m.vision, m.architecture, 32768) == 0);
}

TEST_CASE("What vLLM plans for: the largest image, and the longest video that fits the context") {
  const ModelSpec two = model("qwen2.5-vl-7b");
  CHECK(largest_image(*two.vision).tokens == 16384);
  CHECK(largest_video_tokens(*two.vision, two.architecture, 128000) == 7 * 16384);  // 14 frames in pairs
  CHECK(largest_video_tokens(*two.vision, two.architecture, 32768) == 2 * 16384);
  CHECK(largest_video_tokens(*two.vision, two.architecture, 20000) == 16384);
  const ModelSpec three = model("qwen3-vl-8b");
  CHECK(largest_image(*three.vision).tokens == 16384);
  CHECK(largest_video_tokens(*three.vision, three.architecture, 262144) == 12288);
  CHECK(largest_image(*model("pixtral-12b").vision).embeddings == 4096);
}

TEST_CASE("An engine without a model file for an image rule refuses it; the others take it") {
  const auto errors = [](const std::string& name, const std::string& engine) {
    return to_string(read("hardware: h200\nmodel: " + name + "\nengine: " + engine + "\n").errors);
  };
  const std::string tiles = "internvl3-8b", grid = "llava-v1.6-mistral-7b";
  CHECK(errors(tiles, "vllm-0.24") == "");
  CHECK(errors(grid, "vllm-0.24") == "");
  CHECK(errors(tiles, "sglang-0.5") == "");
  CHECK(errors(grid, "tensorrt-llm-1.2") == "");
  CHECK(errors(grid, "sglang-0.5").find("no model file") != std::string::npos);
  CHECK(errors(tiles, "tensorrt-llm-1.2").find("no model file") != std::string::npos);
}

TEST_CASE("The encoders are as large as published") {
  // Qwen2.5-VL-7B: 8.29 B parameters in the checkpoint, of which 0.68 B in the encoder; Qwen3-VL-8B 8.77 B;
  // LLaVA-1.5-7B 7.06 B; Pixtral-12B 12.68 B.
  const auto billions = [](const char* name) { return static_cast<double>(model(name).parameters()) * 1e-9; };
  CHECK(billions("qwen2.5-vl-7b") == Approx(8.29).epsilon(0.005));
  CHECK(billions("qwen3-vl-8b") == Approx(8.77).epsilon(0.005));
  CHECK(billions("llava-1.5-7b") == Approx(7.06).epsilon(0.005));
  CHECK(billions("pixtral-12b") == Approx(12.68).epsilon(0.005));
  // InternVL3-8B 7.94 B, of which InternViT 0.304 B; LLaVA-v1.6-Mistral-7B 7.57 B.
  CHECK(billions("internvl3-8b") == Approx(7.94).epsilon(0.005));
  CHECK(billions("llava-v1.6-mistral-7b") == Approx(7.57).epsilon(0.005));
  CHECK(model("qwen3-8b").vision == nullptr);
}

// Worked examples of every image rule, by hand from the processors' source (costmodel/image_tokens.cpp names
// it), and the sizes that engines plan for.
#include "costmodel/image_tokens.h"

#include "../catch.h"
#include "costmodel/model_spec.h"

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

TEST_CASE("The encoders are as large as published") {
  // Qwen2.5-VL-7B: 8.29 B parameters in the checkpoint, of which 0.68 B in the encoder; Qwen3-VL-8B 8.77 B;
  // LLaVA-1.5-7B 7.06 B; Pixtral-12B 12.68 B.
  const auto billions = [](const char* name) { return static_cast<double>(model(name).parameters()) * 1e-9; };
  CHECK(billions("qwen2.5-vl-7b") == Approx(8.29).epsilon(0.005));
  CHECK(billions("qwen3-vl-8b") == Approx(8.77).epsilon(0.005));
  CHECK(billions("llava-1.5-7b") == Approx(7.06).epsilon(0.005));
  CHECK(billions("pixtral-12b") == Approx(12.68).epsilon(0.005));
  CHECK(model("qwen3-8b").vision == nullptr);
}

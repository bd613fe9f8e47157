// Multimodal requests through the whole simulator: what images change, what they do not, and that nothing is
// lost on the way.
#include "../catch.h"
#include "costmodel/image_tokens.h"
#include "sim/costed/image_processor.h"
#include "world.h"

using namespace orrery;
using namespace orrery::world;

namespace {

// Shape of a small Qwen2.5-VL: 28 × 28 pixels a token.
VisionSpec vision() {
  VisionSpec v;
  v.layers = 16;
  v.hidden = 1024;
  v.heads = 16;
  v.head_dim = 64;
  v.intermediate = 4096;
  v.frames = 2;
  v.merge = 2;
  v.out_hidden = 4096;
  v.merger_hidden = 4096;
  v.min_pixels = 3136;
  v.max_pixels = 28 * 28 * 1024;
  return v;
}

struct ImageWorld {
  World world;
  std::unique_ptr<EncoderPricer> encoder;
  std::unique_ptr<ModelImages> images;

  explicit ImageWorld(std::int64_t cache = 4096, World base = {}) : world(std::move(base)) {
    world.spec.model.vision = std::make_shared<const VisionSpec>(vision());
    world.spec.hardware.pcie_bandwidth = hand::figure<BytesPerSecond>(50e9);
    EncoderSettings& s = world.spec.engine.settings.encoder;
    s.compute_budget = s.cache_size = cache;
    world.spec.engine.image_costs.per_image = hand::us(1000);
    world.spec.engine.image_costs.per_megapixel = hand::us(10000);
    world.spec.engine.image_costs.per_prepared_megapixel = hand::us(30000);
    world.config.encoder = {.compute_budget = cache, .cache_size = cache};
    encoder = std::make_unique<EncoderPricer>(EncoderPricer::create(world.spec).value());
    images = std::make_unique<ModelImages>(world.spec, 1.0);
    world.encoder = encoder.get();
    world.images = images.get();
  }
};

TraceRequest with_image(TraceRequest r, std::int32_t width, std::int32_t height, std::uint64_t id = 0,
                        std::int32_t position = 0) {
  r.images.push_back({width, height, id, position});
  return r;
}

std::vector<RequestRecord> records_of(World w, std::vector<TraceRequest> requests) {
  Records records;
  w.sink = &records;
  run(w, std::move(requests));
  return records.all;
}

// A random world whose requests have images: some equal, some in sessions, some behind text.
struct RandomImages {
  ImageWorld images;
  std::vector<TraceRequest> requests;
};
RandomImages random_images(std::uint64_t seed) {
  RandomWorld base = random_world(seed);
  RandomStream r(seed, RandomPurpose::property_test, 41);
  const std::int64_t cache = 1024 + static_cast<std::int64_t>(r.below(2048));
  RandomImages out{ImageWorld(cache, base.world), std::move(base.requests)};
  out.images.world.config.encoder.disable_chunked_input =
      r.below(3) == 0 && out.images.world.config.max_num_batched_tokens >= 1024;
  for (TraceRequest& q : out.requests) {
    const std::uint64_t count = r.below(3);
    for (std::uint64_t i = 0; i < count; ++i) {
      const auto width = static_cast<std::int32_t>(28 * (2 + r.below(20)));
      const auto height = static_cast<std::int32_t>(28 * (2 + r.below(20)));
      const std::uint64_t id = r.below(2) == 0 ? 0 : 1 + r.below(5);
      const auto position = static_cast<std::int32_t>(r.below(2) == 0 ? 0 : r.below(50));
      // Equal names are equal images: their size follows from the name.
      const auto side = static_cast<std::int32_t>(28 * (3 + 3 * id));
      q.images.push_back(
          {id == 0 ? width : side, id == 0 ? height : side, id, std::min(position, q.prompt_tokens)});
    }
  }
  return out;
}

}  // namespace

TEST_CASE("An image lengthens the prompt by its tokens, and the wait by its preparation and its encoding") {
  ImageWorld w;
  const auto plain = records_of(w.world, {request(0, 0, 100 + 20 * 15, 8)});
  const auto seen = records_of(w.world, {with_image(request(0, 0, 100, 8), 560, 420)});
  REQUIRE(seen.size() == 1);
  CHECK(seen[0].prompt_tokens == 400);
  CHECK(plain[0].prompt_tokens == 400);
  const double pixels = 560 * 420;
  const auto prepare = static_cast<std::int64_t>(1e6 + pixels * 10 + pixels * 30);
  CHECK(seen[0].queue.ns() == Approx(static_cast<double>(plain[0].queue.ns() + prepare)).epsilon(1e-6));
  const EncoderImage image{30, 40, 1};
  const EncoderTiming encode = w.encoder->price({&image, 1});
  const std::int64_t more = (seen[0].ttft - seen[0].queue).ns() - (plain[0].ttft - plain[0].queue).ns();
  CHECK(more >= encode.busy);
  CHECK(more <= encode.busy + encode.launch);
}

TEST_CASE("Blocks loaded while a step runs cover its encoder: the step ends with the later of both") {
  const ImageWorld w;
  const StepPricer pricer = StepPricer::create(w.world.spec).value();
  const EncodeWork image{.request = RequestId(0), .rows = 30, .columns = 40, .tiles = 1, .embeddings = 300};
  const PrefillWork prompt{.sequence = SequenceId(0), .request = RequestId(0), .new_tokens = 400};
  constexpr double blocks_per_s = 1e6;
  const auto end = [&](std::int64_t blocks) {
    OutputLengths oracle;
    CostModelExecutor executor({&pricer}, oracle, {}, w.encoder.get());
    executor.add_host_links(HostLink(1, blocks_per_s));
    StepPlan plan;
    plan.prefill = std::span(&prompt, 1);
    plan.prefill_tokens = 400;
    plan.running = 1;
    plan.encode = std::span(&image, 1);
    plan.load_blocks = blocks;
    executor.submit(StepId(0), InstanceId(0), plan, SimTime(0));
    Outcomes outcomes;
    while (outcomes.steps.empty()) executor.collect(executor.next_event(), outcomes);
    return outcomes.steps.front().last_stamp.device_end;
  };
  const SimTime alone = end(0);
  const std::int64_t hidden = alone.ns() / 1000 - 1;  // a block is a microsecond
  CHECK(end(hidden) == alone);
  for (const std::int64_t more : {2, 100, 100000}) CHECK(end(hidden + more).ns() == (hidden + more) * 1000);
}

TEST_CASE("Requests without images run as they would on a text-only model, to the last decision") {
  for (std::uint64_t seed = 1; seed <= 10; ++seed) {
    const RandomWorld base = random_world(seed);
    const ImageWorld images(4096, base.world);
    CHECK(run(images.world, base.requests).digest == run(base.world, base.requests).digest);
  }
}

TEST_CASE("Nothing is lost with images: every request ends once, with its tokens") {
  std::uint64_t encoded = 0, found = 0, preemptions = 0, cached = 0;
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    RandomImages w = random_images(seed);
    Records records;
    w.images.world.sink = &records;
    const RunResult r = run(w.images.world, w.requests);
    REQUIRE(records.all.size() == w.requests.size());
    for (const RequestRecord& q : records.all) {
      const TraceRequest& asked = w.requests[q.request];
      std::int64_t prompt = asked.prompt_tokens;
      for (const ImageSize& image : asked.images) prompt += w.images.images->lay_out(image).value().tokens;
      REQUIRE(q.prompt_tokens == prompt);
      if (prompt >= w.images.world.config.max_model_len) {
        REQUIRE(q.status == RequestStatus::rejected);
        continue;
      }
      REQUIRE(q.status == RequestStatus::completed);
      REQUIRE(q.output_tokens ==
              std::min<std::int64_t>(asked.output_tokens, w.images.world.config.max_model_len - prompt));
      cached += q.cached_tokens > 0 ? 1 : 0;
    }
    CHECK(r.images.cache_peak <= r.images.cache_size);
    encoded += r.images.encoded;
    found += r.images.found;
    preemptions += r.preemptions;
  }
  CHECK(encoded > 500);
  CHECK(found > 100);
  CHECK(preemptions > 50);
  CHECK(cached > 50);
}

TEST_CASE("Stretches, single steps and shuffled events decide alike with images") {
  for (std::uint64_t seed = 1; seed <= 25; ++seed) {
    RandomImages w = random_images(seed);
    const std::uint64_t digest = run(w.images.world, w.requests).digest;
    CHECK(run(w.images.world, w.requests, seed).digest == digest);
    World single = w.images.world;
    single.config.stretches = false;
    CHECK(run(single, w.requests).digest == digest);
  }
}

namespace {
void draft_two(World& world, const AcceptanceOracle& oracle, bool network) {
  world.acceptance = &oracle;
  world.config.speculation = {.tokens = 2, .lookahead = network ? 2 : 0, .drops_last_hit = network};
  world.spec.engine.settings.draft_tokens = world.spec.speculation.tokens = 2;
  world.spec.speculation.method = network ? SpeculationMethod::eagle : SpeculationMethod::ngram;
  world.spec.speculation.draft.intermediate = 12288;
  world.spec.engine.host.ngram_token = hand::us(0.001);
}
}  // namespace

TEST_CASE("Nothing is lost with images beside drafts, in whatever order events are handed over") {
  std::uint64_t encoded = 0, accepted = 0, preemptions = 0;
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    RandomImages w = random_images(seed);
    World& world = w.images.world;
    const bool network = seed % 3 != 0;
    const SampledAcceptance oracle(seed, {0.7, 0.5}, 1);
    draft_two(world, oracle, network);
    if (!network) world.spec.engine.steps_in_flight = 1;
    Records records;
    world.sink = &records;
    CAPTURE(seed, network);
    const RunResult r = run(world, w.requests);
    REQUIRE(records.all.size() == w.requests.size());
    for (const RequestRecord& q : records.all) {
      const TraceRequest& asked = w.requests[q.request];
      if (q.prompt_tokens >= world.config.max_model_len) {
        REQUIRE(q.status == RequestStatus::rejected);
        continue;
      }
      REQUIRE(q.status == RequestStatus::completed);
      REQUIRE(q.output_tokens ==
              std::min<std::int64_t>(asked.output_tokens, world.config.max_model_len - q.prompt_tokens));
    }
    CHECK(r.images.cache_peak <= r.images.cache_size);
    world.sink = nullptr;
    if (seed % 4 == 0) CHECK(run(world, w.requests, seed).digest == r.digest);
    encoded += r.images.encoded;
    accepted += r.speculation.accepted;
    preemptions += r.preemptions;
  }
  CHECK(encoded > 300);
  CHECK(accepted > 1000);
  CHECK(preemptions > 10);
}

TEST_CASE("Equal images are encoded once, and their tokens are shared by the prefix cache") {
  ImageWorld w;
  const auto ask = [](std::uint64_t index, double at, std::uint64_t id) {
    return with_image(request(index, at, 100, 4), 560, 560, id);
  };
  const RunResult equal = run(w.world, {ask(0, 0, 7), ask(1, 5, 7), ask(2, 10, 7)});
  CHECK(equal.images.encoded == 1);
  CHECK(equal.cached_tokens == 2 * 400);  // 20 × 20 tokens in front, whole blocks
  const RunResult unlike = run(w.world, {ask(0, 0, 0), ask(1, 5, 0), ask(2, 10, 0)});
  CHECK(unlike.images.encoded == 3);
  CHECK(unlike.cached_tokens == 0);
  // The same image behind other text is encoded once, but its keys and values are other ones.
  auto behind = [&](std::uint64_t index, double at) {
    return with_image(request(index, at, 100, 4), 560, 560, 7, 32);
  };
  const RunResult later_on = run(w.world, {behind(0, 0), behind(1, 5)});
  CHECK(later_on.images.encoded == 1);
  CHECK(later_on.images.found == 1);
  CHECK(later_on.cached_tokens == 0);
}

TEST_CASE("In a session earlier images stand where they stood") {
  ImageWorld w;
  TraceRequest first = with_image(request(0, 0, 100, 60), 560, 560);
  TraceRequest second = with_image(with_image(request(1, 5, 300, 4), 560, 560), 280, 280);
  first.session = second.session = 3;
  const auto all = records_of(w.world, {first, second});
  // 400 image tokens, 100 of text and 60 of answer, the last of which has no keys yet: 559, in blocks of 16.
  CHECK(all[1].cached_tokens == 559 / 16 * 16);
  CHECK(all[1].prompt_tokens == 300 + 400 + 100);
}

TEST_CASE("Images are prepared one after another in the API process") {
  ImageWorld w;
  const auto at_once = records_of(
      w.world, {with_image(request(0, 0, 50, 2), 560, 560), with_image(request(1, 0, 50, 2), 560, 560)});
  const auto one = static_cast<std::int64_t>(1e6 + 560 * 560 * 40.0);
  CHECK((at_once[1].queue - at_once[0].queue).ns() >= one);
}

// v1/serial_utils.py and ZeroMQ; images in the processor's cache stay where they are.
TEST_CASE("Prepared images travel to the engine, once, beside the preparation of the next") {
  ImageWorld w;
  const std::vector<TraceRequest> requests = {with_image(request(0, 0, 50, 2), 560, 560, 7),
                                              with_image(request(1, 0, 50, 2), 560, 560, 8),
                                              with_image(request(2, 1000, 50, 2), 560, 560, 7)};
  const auto at_once = records_of(w.world, requests);
  w.world.spec.engine.image_costs.send = hand::figure<BytesPerSecond>(1e9);
  w.world.spec.engine.settings.encoder.processor_cache_bytes = std::int64_t{1} << 30;
  w.images = std::make_unique<ModelImages>(w.world.spec, 1.0);
  w.world.images = w.images.get();
  const auto sent = records_of(w.world, requests);
  const auto way = w.images->prepared_bytes(w.images->lay_out({560, 560, 7, 0}).value());  // ns: 1 GB/s
  CHECK(way == 40 * 40 * 2 * 14 * 14 * 3 * 2);
  CHECK((sent[0].queue - at_once[0].queue).ns() == way);
  CHECK((sent[1].queue - at_once[1].queue).ns() == way);  // the first one's way is beside its preparation
  CHECK(sent[2].queue < at_once[2].queue);                // kept: neither prepared nor sent
}

// renderers/base.py: one pool of threads for both.
TEST_CASE("Text waits for images that are prepared before it, where one pool takes both in") {
  ImageWorld w;
  const std::vector<TraceRequest> requests = {with_image(request(0, 0, 50, 2), 560, 560),
                                              request(1, 0.001, 50, 2), request(2, 0.4, 50, 2)};
  const auto beside = records_of(w.world, requests);
  w.world.spec.engine.image_costs.text_waits = true;
  w.images = std::make_unique<ModelImages>(w.world.spec, 1.0);
  w.world.images = w.images.get();
  const auto behind = records_of(w.world, requests);
  const auto find = [](const std::vector<RequestRecord>& all, std::uint64_t id) {
    return *std::find_if(all.begin(), all.end(), [&](const RequestRecord& r) { return r.request == id; });
  };
  const auto preparation = static_cast<std::int64_t>(1e6 + 560 * 560 * 40.0);
  CHECK(find(beside, 1).queue.ns() < preparation / 2);
  CHECK(find(behind, 1).queue.ns() >= preparation - 1'000'000);  // it came a millisecond later
  CHECK(find(behind, 2).queue == find(beside, 2).queue);         // nothing is prepared any more
  CHECK(find(behind, 0).queue == find(beside, 0).queue);
}

// Gemma 3: images in a model of five windowed groups to a full one.
TEST_CASE("Nothing is lost with images beside sliding windows, and single steps decide as stretches do") {
  std::uint64_t encoded = 0, stretches = 0, preemptions = 0;
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    RandomImages w = random_images(seed);
    SchedulerConfig& c = w.images.world.config;
    c.kv_groups = {.full = 1, .windowed = 5, .window = seed % 2 == 0 ? 128 : 512};
    c.num_gpu_blocks = (c.num_gpu_blocks + 80) * c.kv_groups.count();
    Records records;
    w.images.world.sink = &records;
    const RunResult r = run(w.images.world, w.requests);
    REQUIRE(records.all.size() == w.requests.size());
    c.stretches = false;
    w.images.world.sink = nullptr;
    REQUIRE(run(w.images.world, w.requests).digest == r.digest);
    encoded += r.images.encoded;
    stretches += r.stretches;
    preemptions += r.preemptions;
  }
  CHECK(encoded > 300);
  CHECK(stretches > 100);
  CHECK(preemptions > 0);
}

TEST_CASE("SGLang and TensorRT-LLM encode what a chunk touches, and keep what their caches hold") {
  const auto ask = [](std::uint64_t index, double at) {
    return with_image(request(index, at, 100, 4), 560, 560, 7, 32);
  };
  const std::vector<TraceRequest> equal{ask(0, 0), ask(1, 5), ask(2, 10)};
  ImageWorld w;
  w.world.scheduler = "sglang";
  w.world.config.block_size = 1;
  CHECK(run(w.world, equal).images.encoded == 1);
  w.world.config.encoder.cache_size = 399;  // an image of 400 does not fit
  const RunResult forgetful = run(w.world, equal);
  CHECK(forgetful.images.encoded == 3);
  w.world.config.options.set("chunked_prefill_size", std::int64_t{256});
  CHECK(run(w.world, equal).images.encoded == 6);  // each of the two chunks of every prompt
  ImageWorld t;
  t.world.scheduler = "tensorrt-llm";
  t.world.config.block_size = 32;
  CHECK(run(t.world, equal).images.encoded == 3);
}

TEST_CASE("Nothing is lost with images under the other engines") {
  for (const char* scheduler : {"sglang", "tensorrt-llm"}) {
    std::uint64_t encoded = 0;
    for (std::uint64_t seed = 1; seed <= 15; ++seed) {
      RandomImages w = random_images(seed);
      w.images.world.scheduler = scheduler;
      w.images.world.config.num_gpu_blocks *= 4;
      Records records;
      w.images.world.sink = &records;
      const RunResult r = run(w.images.world, w.requests);
      encoded += r.images.encoded;
      REQUIRE(records.all.size() == w.requests.size());
      CHECK(run(w.images.world, w.requests, seed).digest == r.digest);
    }
    CHECK(encoded > 100);
  }
}

TEST_CASE("Nothing is lost with images beside drafts on SGLang") {
  std::uint64_t encoded = 0, accepted = 0;
  for (std::uint64_t seed = 1; seed <= 30; ++seed) {
    RandomImages w = random_images(seed);
    World& world = w.images.world;
    world.scheduler = "sglang";
    const bool network = seed % 3 != 0;
    const SampledAcceptance oracle(seed, {0.7, 0.5}, 1);
    world.config.num_gpu_blocks += 64;  // slots for two verifications
    draft_two(world, oracle, network);
    Records records;
    world.sink = &records;
    CAPTURE(seed, network);
    const RunResult r = run(world, w.requests);
    REQUIRE(records.all.size() == w.requests.size());
    for (const RequestRecord& q : records.all) {
      if (q.status != RequestStatus::completed) continue;
      const TraceRequest& asked = w.requests[q.request];
      REQUIRE(q.output_tokens ==
              std::min<std::int64_t>(asked.output_tokens, world.config.max_model_len - q.prompt_tokens));
    }
    world.sink = nullptr;
    if (seed % 4 == 0) CHECK(run(world, w.requests, seed).digest == r.digest);
    encoded += r.images.encoded;
    accepted += r.speculation.accepted;
  }
  CHECK(encoded > 200);
  CHECK(accepted > 500);
}

TEST_CASE("A text-only model that is given images says where") {
  const World w;
  auto pricer = StepPricer::create(w.spec).value();
  OutputLengths oracle;
  TraceRequest r = with_image(request(0, 0, 100, 4), 10, 10);
  r.where = {"trace.jsonl", 12, 0};
  TraceInbox inbox(std::make_unique<Requests>(std::vector<TraceRequest>{r}), pricer.input_delay(), 0, oracle);
  REQUIRE(inbox.error() != nullptr);
  CHECK(inbox.error()->where.line == 12);
  CHECK(inbox.error()->message.find("vision encoder") != std::string::npos);
  CHECK(inbox.next().is_never());
}

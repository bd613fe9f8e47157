// Rows to experts and back by point-to-point kernels: bytes by hand, published timings, plans, and what two
// halves of a step hide of one another.
#include <algorithm>
#include <array>
#include <cmath>

#include "base/files.h"
#include "base/random.h"
#include "catch.h"
#include "costmodel/expert_exchange.h"
#include "costmodel/memory_plan.h"
#include "costmodel/read_instance.h"
#include "costmodel/two_batches.h"

using namespace orrery;

namespace {

ExchangeShape shape_of(const char* part, std::int32_t ranks, bool dispatch, bool low_latency) {
  const HardwareProfile hardware = load_hardware(part).value();
  ExchangeShape s;
  s.table = std::make_shared<ExchangeTable>(load_exchange("deepep", hardware).value());
  s.dispatch = dispatch;
  s.low_latency = low_latency;
  s.ranks = ranks;
  s.experts = 256;
  s.experts_per_token = 8;
  s.row_bytes = dispatch ? 7168 + 7168 / 128 * 4 : 2 * 7168;
  s.links = exchange_links(hardware, ranks);
  return s;
}

std::string vllm(const std::string& plan, const std::string& args, const std::string& model = "deepseek-v3") {
  return "hardware: h200\nmodel: " + model + "\nengine: vllm-0.24\nparallel: " + plan + "\nengine_args: {" +
         args + "}\n";
}
std::string sglang(const std::string& plan, const std::string& args) {
  return "hardware: h200\nmodel: deepseek-v3\nengine: sglang-0.5\nparallel: " + plan + "\nengine_args: {" +
         args + "}\n";
}

StepPricer pricer_of(const std::string& text) {
  Read r = read(text);
  if (!r.errors.empty()) FAIL(to_string(r.errors));
  return StepPricer::create(r.spec).value();
}

StepShape decodes(std::int32_t sequences, std::int64_t context) {
  StepShape s;
  s.decode_sequences = sequences;
  s.decode_context_tokens = sequences * context;
  return s;
}

std::int64_t line_ns(const StepBreakdown& b, const std::string& name) {
  for (const OpLine& line : b.ops) {
    if (line.name == name) return line.time_ns;
  }
  return 0;
}

bool fails_at(const Read& r, const std::string& key, const std::string& part) {
  return std::any_of(r.errors.begin(), r.errors.end(), [&](const Error& e) {
    return e.key.find(key) != std::string::npos && e.message.find(part) != std::string::npos;
  });
}

}  // namespace

TEST_CASE("distinct ranks of k distinct experts: enumerated, sampled, and in the limits") {
  // Four experts on two ranks, two of them chosen: six pairs, two of which stay on one rank.
  CHECK(expected_distinct_groups(2, 4, 2) == Approx((4 * 2 + 2 * 1) / 6.0));
  CHECK(expected_distinct_groups(8, 64, 1) == Approx(1));
  CHECK(expected_distinct_groups(1, 64, 8) == Approx(1));
  CHECK(expected_distinct_groups(64, 64, 8) == Approx(8));  // a rank an expert: every choice is another rank
  RandomStream random(3, RandomPurpose::property_test, 1);
  double seen = 0;
  const int tokens = 4000;
  for (int t = 0; t < tokens; ++t) {
    std::array<bool, 256> taken{};
    std::array<bool, 16> rank{};
    for (int i = 0; i < 8;) {
      const auto e = static_cast<std::size_t>(random.below(256));
      if (taken[e]) continue;
      taken[e] = true;
      rank[e / 16] = true;
      ++i;
    }
    seen += static_cast<double>(std::count(rank.begin(), rank.end(), true));
  }
  CHECK(expected_distinct_groups(16, 256, 8) == Approx(seen / tokens).epsilon(0.01));
}

TEST_CASE("bytes of a token: a message an expert, or a row a distinct rank and node") {
  const ExchangeBytes low = exchange_bytes(shape_of("h200", 16, true, true));
  CHECK(low.near == Approx(7392 * 8 * 7.0 / 16));  // 7 of 16 ranks are others of the node
  CHECK(low.far == Approx(7392 * 8 * 8.0 / 16));
  const ExchangeBytes normal = exchange_bytes(shape_of("h200", 16, true, false));
  CHECK(normal.far == Approx(7392 * expected_distinct_groups(2, 256, 8) / 2));
  CHECK(normal.far < low.far / 4 * 1.01);  // one row at most, not eight of which half leave
  CHECK(normal.near == Approx(7392 * expected_distinct_groups(16, 256, 8) * 15 / 16));
  const ExchangeBytes one = exchange_bytes(shape_of("h200", 8, false, false));
  CHECK(one.far == 0);
}

// deepseek-ai/DeepEP @0297fc8, docs/legacy.md: 128 tokens, 7168 wide, top 8 of 256; nothing was fitted to it.
// Its one-node figures are of an H800, whose links are slower.
TEST_CASE("DeepEP's own low-latency timings over nodes are met within 10 %") {
  struct Point {
    std::int32_t ranks;
    double dispatch_us, combine_us;
  };
  constexpr std::array<Point, 5> published{
      {{16, 118, 195}, {32, 155, 273}, {64, 173, 314}, {128, 192, 369}, {256, 194, 360}}};
  for (const Point& p : published) {
    INFO(p.ranks << " ranks");
    const double dispatch = exchange_time(shape_of("h200", p.ranks, true, true), 128).ns() / 1e3;
    const double combine = exchange_time(shape_of("h200", p.ranks, false, true), 128).ns() / 1e3;
    CHECK(dispatch == Approx(p.dispatch_us).epsilon(p.ranks == 16 ? 0.19 : 0.10));
    CHECK(combine == Approx(p.combine_us).epsilon(0.10));
  }
}

TEST_CASE("more rows, more nodes and slower links never take less time") {
  for (const bool dispatch : {true, false}) {
    for (const bool low : {true, false}) {
      double before = 0;
      for (double rows = 1; rows < 5000; rows *= 2) {
        const double ns = exchange_time(shape_of("h200", 8, dispatch, low), rows).ns();
        CHECK(ns > before);
        before = ns;
        CHECK(exchange_time(shape_of("h200", 16, dispatch, low), rows).ns() > ns);
      }
    }
  }
  HardwareProfile half = load_hardware("h200").value();
  half.name = "another";
  half.link_bandwidth.value = half.link_bandwidth.value * 0.5;
  const ExchangeTable carried = load_exchange("deepep", half).value();
  CHECK(carried.link_ratio == Approx(0.5));
  CHECK(carried.more_error == exchange_transport_error);
  // A profile of one's own with half the network: over nodes what the network carries takes twice as long, no
  // more.
  HardwareProfile slow = load_hardware("h200").value();
  slow.nic_bandwidth.value = slow.nic_bandwidth.value * 0.5;
  ExchangeShape over = shape_of("h200", 16, true, true), inside = shape_of("h200", 8, true, true);
  const ExchangeTime usual = exchange_time(over, 128);
  const double node = exchange_time(inside, 128).ns();
  over.table = inside.table = std::make_shared<ExchangeTable>(load_exchange("deepep", slow).value());
  CHECK(exchange_time(over, 128).far == Approx(2 * usual.far));
  CHECK(exchange_time(over, 128).fixed == usual.fixed);
  CHECK(exchange_time(inside, 128).ns() == node);
  CHECK(load_exchange("deepep", load_hardware("h100").value()).value().own());
  CHECK_FALSE(load_exchange("deepep", load_hardware("l40s").value()).ok());
  CHECK_FALSE(load_exchange("deepep", load_hardware("mi300x").value()).ok());
}

TEST_CASE("in a mesh fewer peers mean fewer links, through a switch they do not") {
  CHECK(exchange_links(load_hardware("h200").value(), 2) == 1);
  const HardwareProfile mesh = load_hardware("mi300x").value();
  CHECK(exchange_links(mesh, 8) == Approx(1).epsilon(0.02));
  CHECK(exchange_links(mesh, 2) == Approx(1 / 7.0).epsilon(0.02));
}

TEST_CASE("vLLM's back ends: what a layer issues, graphs, the step's tokens and the memory of buffers") {
  const std::string plan = "{dp: 8, ep: 8}";
  const Read low = read(vllm(plan, "all2all_backend: deepep_low_latency"));
  REQUIRE(low.errors.empty());
  CHECK(low.spec.engine.settings.max_num_batched_tokens == 256);
  CHECK_FALSE(low.spec.engine.settings.cudagraph_sizes.empty());
  const Read normal = read(vllm(plan, "all2all_backend: deepep_high_throughput"));
  REQUIRE(normal.errors.empty());
  CHECK(normal.spec.engine.settings.cudagraph_sizes.empty());
  const Read gathered = read(vllm(plan, "all2all_backend: allgather_reducescatter"));
  REQUIRE(gathered.errors.empty());
  CHECK(gathered.spec.exchange == nullptr);

  const StepBreakdown b = StepPricer::create(low.spec).value().explain(decodes(64, 2000));
  const std::int64_t layers = 58;  // of 61
  const double dispatch = exchange_time(shape_of("h200", 8, true, true), 64).ns();
  CHECK(static_cast<double>(line_ns(b, "ep_dispatch")) == Approx(dispatch * layers).epsilon(1e-6));
  CHECK(line_ns(b, "dp_dispatch") == 0);
  CHECK(line_ns(b, "moe_permute") == 0);
  const StepBreakdown eager = StepPricer::create(normal.spec).value().explain(decodes(64, 2000));
  CHECK(eager.graph_mode == "none");
  CHECK(line_ns(eager, "ep_dispatch_normal") > line_ns(b, "ep_dispatch"));  // its start alone is more
  CHECK(line_ns(eager, "moe_permute") > 0);

  // 1 GiB for the node's links and twice 256 experts · 256 tokens · (2 · 14,336 + 16) bytes.
  const double buffers = 1024.0 * 1024 * 1024 + 2.0 * 256 * 256 * (2 * 14336 + 16);
  Read without = low;
  without.spec.exchange = nullptr;
  const MemoryPlan with = plan_memory(low.spec).value(), bare = plan_memory(without.spec).value();
  CHECK(with.residue.value() - bare.residue.value() == Approx(buffers));
}

TEST_CASE("beside others on its links an exchange takes its bytes at what they leave, where that is longer") {
  const Read low = read(vllm("{dp: 8, ep: 8}", "all2all_backend: deepep_low_latency"));
  const StepPricer pricer = StepPricer::create(low.spec).value();
  const std::vector<StepShape> ranks(8, decodes(64, 2000));
  for (const double slowdown : {1.0, 2.0, 4.0}) {
    LinkPace pace;
    pace.inside.slowdown = slowdown;
    pace.inside.most_ns = 1e12;  // the others have much left
    double more = 0, full = 0;
    for (const bool dispatch : {true, false}) {
      const ExchangeShape shape = shape_of("h200", 8, dispatch, true);
      const ExchangeTime time = exchange_time(shape, 64);
      const double raw = 64 * exchange_bytes(shape).near / 450e9 * 1e9;
      more += 58 * (std::max(time.ns(), time.fixed + slowdown * raw) - time.ns());
      full += 58 * raw;
    }
    const LinkUse use = pricer.link_use(ranks, pace);
    CHECK(use.more_ns == Approx(more).margin(1e-6));
    CHECK(use.inside_ns == Approx(full));
    CHECK((slowdown == 1) == (more == 0));
    pace.inside.most_ns = 1000;  // they are gone soon
    CHECK(pricer.link_use(ranks, pace).more_ns <= 1000);
  }
}

TEST_CASE(
    "SGLang: normal kernels in steps with a prompt, low latency in the others; dense layers still gather") {
  const StepPricer pricer =
      pricer_of(sglang("{dp: 8, ep: 8}", "moe_a2a_backend: deepep, context_length: 16384"));
  const StepBreakdown decode = pricer.explain(decodes(32, 2000));
  CHECK(line_ns(decode, "ep_dispatch") > 0);
  CHECK(line_ns(decode, "ep_dispatch_normal") == 0);
  CHECK(line_ns(decode, "dp_all_gather") > 0);
  const PrefillChunk chunk{1024, 0};
  StepShape prompt;
  prompt.prefill = std::span(&chunk, 1);
  const StepBreakdown prefill = pricer.explain(prompt);
  CHECK(line_ns(prefill, "ep_dispatch") == 0);
  CHECK(line_ns(prefill, "ep_combine_normal") > 0);
  for (const OpLine& line : decode.ops) {
    if (line.name == "dp_all_gather") CHECK(line.count == 3);  // the dense layers'
    if (line.name == "shared_down_proj") CHECK(line.shape.find("k=2048") != std::string::npos);  // whole
  }
  const Read only_normal = read(sglang("{dp: 8, ep: 8}", "moe_a2a_backend: deepep, deepep_mode: normal"));
  REQUIRE(only_normal.errors.empty());
  CHECK(only_normal.spec.engine.settings.cudagraph_sizes.empty());
  CHECK(only_normal.spec.engine.settings.prefill_graph_sizes.empty());
  // `reserve_for_deepep_a2a_mb` and the prefill graphs' share: 3 GiB less of the fraction.
  const Read deepep = read(sglang("{dp: 8, ep: 8}", "moe_a2a_backend: deepep")),
             none = read(sglang("{dp: 8, ep: 8}", ""));
  const double less =
      none.spec.engine.settings.gpu_memory_utilization - deepep.spec.engine.settings.gpu_memory_utilization;
  const double total = deepep.spec.hardware.memory_total.value.value();
  CHECK(less == Approx(3.0 * 1024 * 1024 * 1024 / total).margin(0.0011));
}

// Four attention ranks of two GPUs: rows for experts are halved inside a rank, so the exchange of a layer is
// that of eight ranks with half the rows each, and a rank's rows are gathered again instead of reduced.
TEST_CASE("vLLM's ranks of several GPUs split their rows for whole experts") {
  const StepPricer wide = pricer_of(vllm("{tp: 2, dp: 4, ep: 8}", "all2all_backend: deepep_low_latency"));
  const StepBreakdown b = wide.explain(decodes(64, 2000));
  const double dispatch = exchange_time(shape_of("h200", 8, true, true), 32).ns();
  CHECK(static_cast<double>(line_ns(b, "ep_dispatch")) == Approx(dispatch * 58).epsilon(1e-6));
  CHECK(line_ns(b, "moe_all_reduce") == 0);
  CHECK(line_ns(b, "attention_all_reduce") > 0);
  const std::string shorter = "max_model_len: 32768";  // beside graphs' sums of 128 heads
  const Read gathering = read(vllm("{tp: 2, dp: 4, ep: 8}", shorter));
  REQUIRE(gathering.errors.empty());
  const StepBreakdown g = StepPricer::create(gathering.spec).value().explain(decodes(64, 2000));
  for (const OpLine& line : g.ops) {
    // 256 rows of the four ranks, 7,168 values in 8 bits with scales and eight bytes a choice, to all eight
    // GPUs.
    if (line.name == "dp_dispatch")
      CHECK(line.shape == "bytes=" + std::to_string(256 * (7168 + 224 + 64)) + " ranks=8");
    if (line.name == "moe_rows_all_gather")
      CHECK(line.shape == "bytes=" + std::to_string(64 * 7168 * 2) + " ranks=2");
    if (line.name == "shared_down_proj") CHECK(line.shape.rfind("m=32 n=7168 k=2048", 0) == 0);
  }
  CHECK(line_ns(g, "moe_rows_all_gather") > 0);
  // Weights: shared experts whole on every GPU, attention in halves.
  const Read one = read(vllm("{dp: 8, ep: 8}", shorter));
  CHECK(plan_memory(gathering.spec).value().weights < plan_memory(one.spec).value().weights);
}

TEST_CASE("SGLang over many ranks: dense MLPs and the head whole on every GPU, no rows gathered") {
  const std::string args =
      "moe_a2a_backend: deepep, context_length: 16384, moe_dense_tp_size: 1, enable_dp_lm_head: true";
  CHECK(fails_at(read(sglang("{dp: 32, ep: 32}", "moe_a2a_backend: deepep")), "", "MLP width"));  // 18,432 /
                                                                                                  // 32 = 576
  const Read r = read(sglang("{dp: 32, ep: 32}", args));
  REQUIRE(r.errors.empty());
  const StepBreakdown b = StepPricer::create(r.spec).value().explain(decodes(64, 2000));
  for (const OpLine& line : b.ops) {
    INFO(line.name);
    CHECK(line.name.rfind("dp_", 0) != 0);
    if (line.name == "down_proj") CHECK(line.shape.rfind("m=64 n=7168 k=18432", 0) == 0);
    if (line.name == "lm_head") CHECK(line.shape.rfind("m=64 n=129280 k=7168", 0) == 0);
  }
  CHECK(line_ns(b, "logits_all_gather") == 0);
  // Whole instead of an eighth: three dense layers of 3 · 7,168 · 18,432 bytes, a head of 129,280 · 7,168
  // · 2.
  const Read spread = read(sglang("{dp: 8, ep: 8}", "moe_a2a_backend: deepep")),
             whole = read(sglang("{dp: 8, ep: 8}", args));
  const double more =
      plan_memory(whole.spec).value().weights.value() - plan_memory(spread.spec).value().weights.value();
  CHECK(more == Approx(7.0 / 8 * (3 * 3.0 * 7168 * 18432 + 2.0 * 129280 * 7168)).epsilon(0.001));
}

TEST_CASE("what kernels or timings do not cover is refused at the argument") {
  CHECK(fails_at(read(vllm("{dp: 8, ep: 8}", "all2all_backend: nixl_ep")), "all2all_backend", "timings"));
  CHECK(fails_at(read(vllm("{dp: 12, ep: 12}", "all2all_backend: deepep_low_latency", "qwen3-235b-a22b")),
                 "all2all_backend", "multiple"));
  CHECK(fails_at(read(sglang("{tp: 8, ep: 8}", "moe_a2a_backend: deepep")), "moe_a2a_backend", "ep: N"));
  CHECK(fails_at(read(sglang("{dp: 8, ep: 8}", "moe_a2a_backend: mooncake")), "moe_a2a_backend", "deepep"));
  CHECK(fails_at(read(sglang("{dp: 2, ep: 2}", "moe_a2a_backend: deepep, deepep_mode: low_latency")),
                 "moe_a2a_backend", "1024"));
  CHECK(fails_at(read(vllm("{dp: 8, ep: 8}", "enable_dbo: true")), "enable_dbo", "all2all_backend"));
  const std::string fused = "compilation_config: {pass_config: {fuse_allreduce_rms: ";
  CHECK(read(vllm("{tp: 8}", fused + "false}}")).errors.empty());
  CHECK(read(vllm("{tp: 8}", fused + "true}}")).errors.empty());
  CHECK(fails_at(read(vllm("{tp: 8}", "compilation_config: {pass_config: {enable_sp: true}}")), "enable_sp",
                 "pass"));
  CHECK(fails_at(read(sglang("{dp: 8, ep: 8}", "enable_two_batch_overlap: true")), "enable_two_batch_overlap",
                 "moe_a2a_backend"));
}

// ------------------------------------------------------------------------------------------- two batches

TEST_CASE("two halves by hand: one layer of each order") {
  HalfLayer h;
  h.attention = 10;
  h.experts = 20;
  h.dispatch = {0, 6};
  h.combine = {0, 6};
  // a: 0–10, b: 10–20; a's rows travel 10–16, so its experts run 20–40, b's (20–26) 40–60; a's outputs travel
  // 40–46, b's 60–66, which nothing is left to hide.
  CHECK(two_batches_ns({h, h}, 1, BatchOrder::at_exchanges) == 66);
  // Two layers: a's second attention 60–70 behind b's combine, b's 70–80, experts 80–120, the last combine
  // 126.
  CHECK(two_batches_ns({h, h}, 2, BatchOrder::at_exchanges) == 126);
  // Traffic that is longer than the work sets the pace: a 10–40, b 40–70, a's outputs 70–100 (experts 40–60),
  // b's 100–130.
  h.dispatch = h.combine = {0, 30};
  CHECK(two_batches_ns({h, h}, 1, BatchOrder::at_exchanges) == 130);
  // What kernels spend on the stream itself hides nothing.
  h.dispatch = h.combine = {3, 0};
  CHECK(two_batches_ns({h, h}, 1, BatchOrder::at_exchanges) == 2 * (10 + 20 + 6));
}

TEST_CASE("two halves: between the larger of work and traffic and their sum, and longer with every part") {
  RandomStream random(11, RandomPurpose::property_test, 2);
  const auto some = [&] { return static_cast<double>(random.below(100)); };
  for (int i = 0; i < 400; ++i) {
    std::array<HalfLayer, 2> halves;
    for (HalfLayer& h : halves) h = {some(), some(), some(), some(), {some(), some()}, {some(), some()}};
    const auto layers = static_cast<std::int64_t>(1 + random.below(6));
    const double n = static_cast<double>(layers);
    const double work = n * (halves[0].work() + halves[1].work());
    const double traffic = n * (halves[0].traffic() + halves[1].traffic());
    for (const BatchOrder order : {BatchOrder::at_exchanges, BatchOrder::at_exchanges_shared_later,
                                   BatchOrder::in_stages, BatchOrder::in_stages_with_pause}) {
      const double ns = two_batches_ns(halves, layers, order);
      CHECK(ns >= std::max(work, traffic) - 1e-9);
      CHECK(ns <= work + traffic + 1e-9);
      std::array<HalfLayer, 2> longer = halves;
      longer[random.below(2)].dispatch.behind += 1;
      CHECK(two_batches_ns(longer, layers, order) >= ns);
    }
  }
}

TEST_CASE("two batches in a step: thresholds, the sum of the lines, gain over nodes and loss inside one") {
  const std::string args = "all2all_backend: deepep_low_latency, max_num_seqs: 256";
  for (const int ranks : {8, 32}) {
    const std::string plan = "{dp: " + std::to_string(ranks) + ", ep: " + std::to_string(ranks) + "}";
    const StepPricer one = pricer_of(vllm(plan, args)),
                     two = pricer_of(vllm(plan, args + ", enable_dbo: true"));
    // Below dbo_decode_token_threshold, 32.
    CHECK(two.price(decodes(31, 4000)).busy == one.price(decodes(31, 4000)).busy);
    const StepShape step = decodes(128, 4000);
    const StepBreakdown b = two.explain(step);
    std::int64_t sum = 0;
    for (const OpLine& line : b.ops) sum += line.time_ns;
    CHECK(sum == b.timing.busy);
    const std::int64_t hidden = -line_ns(b, "two_batches");
    const std::int64_t traffic = line_ns(b, "ep_dispatch") + line_ns(b, "ep_combine");
    INFO(ranks << " ranks: one " << one.price(step).busy << " two " << b.timing.busy << " hidden " << hidden);
    CHECK(hidden <= traffic);
    // All of it is stores to peers by the stream's own kernels; lines know the context, the line of prices
    // knots.
    if (ranks == 8) CHECK(std::abs(hidden) < b.timing.busy / 100'000);
    if (ranks == 32) CHECK(hidden > traffic / 2);
  }
  // Half of a short step is padding alone: 33 tokens in a graph of 40, and 20 tokens elsewhere.
  const StepPricer two =
      pricer_of(vllm("{dp: 8, ep: 8}", args + ", enable_dbo: true, dbo_decode_token_threshold: 1"));
  std::vector<StepShape> ranks(8, decodes(33, 100));
  const std::int64_t all = two.price_joint(ranks).busy;
  ranks[3] = decodes(20, 100);
  CHECK(two.price_joint(ranks).busy != all);
}

// 20 of 132 multiprocessors: what runs in halves takes 132/112 as long, and a long prompt hides most of its
// rows' way.
TEST_CASE("all-reduces fused with norms save in each half of a step what they save of its rows") {
  const std::string args =
      "all2all_backend: deepep_low_latency, compilation_config: {pass_config: {fuse_allreduce_rms: true}}";
  const StepPricer one = pricer_of(vllm("{tp: 2, dp: 4, ep: 8}", args, "qwen3-30b-a3b")),
                   two =
                       pricer_of(vllm("{tp: 2, dp: 4, ep: 8}", args + ", enable_dbo: true", "qwen3-30b-a3b"));
  const auto saved = [](const StepBreakdown& b) {
    double ns = 0;
    for (const OpLine& line : b.ops)
      if (line.name == "fused_all_reduce") ns -= static_cast<double>(line.time_ns);
    return ns;
  };
  for (const std::int32_t half : {32, 64, 200}) {
    CAPTURE(half);
    const double of_half = saved(one.explain(decodes(half, 1000)));
    CHECK(of_half > 0);
    // Of 49 norms that behind the embedding runs over the whole step.
    CHECK(saved(two.explain(decodes(2 * half, 1000))) == Approx(2 * of_half).epsilon(1.0 / 49));
  }
}

TEST_CASE("normal kernels in two batches take multiprocessors from the rest") {
  const std::string args = "all2all_backend: deepep_high_throughput", plan = "{dp: 16, ep: 16}";
  const StepPricer one = pricer_of(vllm(plan, args)),
                   two = pricer_of(vllm(plan, args + ", enable_dbo: true"));
  const PrefillChunk chunk{4096, 0};
  StepShape prompt;
  prompt.prefill = std::span(&chunk, 1);
  const StepBreakdown whole = one.explain(prompt), halves = two.explain(prompt);
  std::int64_t sum = 0;
  for (const OpLine& line : halves.ops) sum += line.time_ns;
  CHECK(sum == halves.timing.busy);
  const auto traffic = [](const StepBreakdown& b) {
    return line_ns(b, "ep_dispatch_normal") + line_ns(b, "ep_combine_normal");
  };
  const std::int64_t hidden = -line_ns(halves, "two_batches");
  CHECK(hidden > traffic(halves) / 2);
  CHECK(hidden < traffic(halves));
  CHECK(halves.timing.busy < whole.timing.busy);
  const auto work = static_cast<double>(whole.timing.busy - traffic(whole));
  CHECK(static_cast<double>(halves.timing.busy) > work);
  // Router products of both halves, slower by the share that the exchange has: more than once as many rows at
  // once.
  CHECK(static_cast<double>(line_ns(halves, "router")) >
        132.0 / 112 * 0.99 * static_cast<double>(line_ns(whole, "router")));
  CHECK(halves.timing.launch > whole.timing.launch * 3 / 2);  // kernel by kernel, both halves
}

TEST_CASE("MoRI on an MI300X: inside a node, in graphs, and by rows of 8 bits") {
  const std::string text = "hardware: mi300x\nmodel: qwen3-235b-a22b-fp8\nengine: vllm-0.24\nparallel: ";
  const Read r = read(text + "{dp: 8, ep: 8}\nengine_args: {all2all_backend: mori_high_throughput}\n");
  REQUIRE(r.errors.empty());
  CHECK_FALSE(r.spec.engine.settings.cudagraph_sizes.empty());
  const StepBreakdown b = StepPricer::create(r.spec).value().explain(decodes(64, 2000));
  // 25 us of start, then 64 rows of 4,096 + 128 bytes to 8 · (1 − C(112,8)/C(128,8)) ranks but its own, at
  // 314 GB/s.
  const double rows = 64.0 * (4096 + 128) * expected_distinct_groups(8, 128, 8) * 7 / 8 / 314;
  CHECK(static_cast<double>(line_ns(b, "ep_dispatch_normal")) / 94 == Approx(24940 + rows).epsilon(0.03));
  CHECK(fails_at(read(text + "{dp: 16, ep: 16}\nengine_args: {all2all_backend: mori_high_throughput}\n"),
                 "all2all_backend", "several nodes"));
  CHECK(fails_at(read(text + "{dp: 8, ep: 8}\nengine_args: {all2all_backend: deepep_low_latency}\n"),
                 "all2all_backend", "gfx942"));
}

TEST_CASE("decodes in two batches keep to a line, and stretches to single steps") {
  const StepPricer pricer = pricer_of(sglang(
      "{dp: 16, ep: 16}", "moe_a2a_backend: deepep, enable_two_batch_overlap: true, context_length: 16384"));
  const StepShape step = decodes(64, 3000);
  const std::vector<StepShape> ranks(16, step);
  const std::vector<DecodeLine> lines = pricer.joint_decode_lines(ranks);
  const StepTiming price = pricer.price_joint(ranks);
  CHECK(lines.front().busy(step.decode_context_tokens) == price.busy);
  StepShape later = step;
  later.decode_context_tokens = lines.front().high;
  CHECK(lines.front().busy(later.decode_context_tokens) == pricer.price(later).busy);
  CHECK(pricer.price(later).busy >= price.busy);
}

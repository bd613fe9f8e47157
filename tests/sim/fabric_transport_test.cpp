// KV between instances on the fabric: times and bytes by hand, and whole scenarios.
#include "sim/costed/fabric_transport.h"

#include <map>

#include "catch.h"
#include "sim/costed/disaggregation.h"
#include "sim/costed/run.h"
#include "sim/fabric/presets.h"

using namespace orrery;

namespace {

constexpr std::int64_t block_bytes = 4'500'000;  // 10 µs at 450 GB/s
const SimDuration way = SimDuration(600);        // two links of 300 ns

fabric::Topology hopper(std::int32_t nodes = 1) {
  return fabric::build_preset(
      {.preset = "hopper-8", .nodes = nodes, .nics_per_node = nodes > 1 ? 8 : 0, .nic_gbps = 400});
}

// Instances of `widths` GPUs, one after another.
std::vector<FabricTransport::Seat> seats(const fabric::Topology& t, const std::vector<std::size_t>& widths,
                                         std::int64_t bytes = block_bytes) {
  std::vector<FabricTransport::Seat> all;
  std::size_t next = 0;
  for (const std::size_t width : widths) {
    FabricTransport::Seat seat{.gpus = {}, .bytes_per_block = bytes};
    for (std::size_t i = 0; i < width; ++i) seat.gpus.push_back(t.gpus()[next++]);
    all.push_back(std::move(seat));
  }
  return all;
}

std::map<std::uint64_t, SimTime> drain(FabricTransport& transport) {
  std::map<std::uint64_t, SimTime> ends;
  std::vector<KvPullDone> done;
  while (!transport.next_event().is_never()) {
    const SimTime now = transport.next_event();
    done.clear();
    transport.collect(now, done);
    for (const KvPullDone& d : done) {
      CHECK(d.at == now);
      ends[d.request.value()] = d.at;
    }
  }
  return ends;
}

KvPull pull(std::uint64_t request, std::uint32_t from, std::uint32_t to, std::int64_t blocks) {
  return {RequestId(request), InstanceId(from), InstanceId(to), blocks};
}

}  // namespace

TEST_CASE("a pull on idle links takes bytes over bandwidth, the way, and the floor [transport]") {
  const fabric::Topology t = hopper();
  FabricTransport transport(t, seats(t, {1, 1}), {.kv_heads = 8}, microseconds(10));
  transport.begin(pull(1, 0, 1, 100), SimTime(0) + milliseconds(3));
  // 100 · 4.5 MB / 450 GB/s = 1 ms
  CHECK(drain(transport).at(1) == SimTime(0) + milliseconds(4) + way + microseconds(10));
}

TEST_CASE("two pulls into one GPU share its link; into two GPUs they do not [transport]") {
  const fabric::Topology t = hopper();
  for (const bool shared : {true, false}) {
    FabricTransport transport(t, seats(t, {1, 1, 1, 1}), {.kv_heads = 8}, SimDuration(0));
    transport.begin(pull(1, 0, 2, 100), SimTime(0));
    transport.begin(pull(2, 1, shared ? 2 : 3, 100), SimTime(0));
    const auto ends = drain(transport);
    const SimTime expected = SimTime(0) + milliseconds(shared ? 2 : 1) + way;
    CHECK(ends.at(1) == expected);
    CHECK(ends.at(2) == expected);
  }
  // The second begins when the first is half done: it has half the link until 1.5 ms, and ends at 2 ms.
  FabricTransport transport(t, seats(t, {1, 1, 1}), {.kv_heads = 8}, SimDuration(0));
  transport.begin(pull(1, 0, 2, 100), SimTime(0));
  transport.begin(pull(2, 1, 2, 100), SimTime(0) + microseconds(500));
  const auto ends = drain(transport);
  CHECK(ends.at(1) == SimTime(0) + microseconds(1500) + way);
  CHECK(ends.at(2) == SimTime(0) + milliseconds(2) + way);
}

TEST_CASE("between nodes the NIC is the narrow place [transport]") {
  const fabric::Topology t = hopper(2);
  FabricTransport transport(t, seats(t, {8, 8}, block_bytes / 8), {.kv_heads = 8}, SimDuration(0));
  transport.begin(pull(1, 0, 1, 1000), SimTime(0));
  // Every rank has a NIC of 50 GB/s of its own: 1000 · 562.5 kB / 50 GB/s = 11.25 ms; some µs of ways.
  const double ms = drain(transport).at(1).seconds() * 1e3;
  CHECK(ms > 11.25);
  CHECK(ms < 11.26);
}

TEST_CASE("rank pairs by hand where widths differ [transport]") {
  using Pairs = std::vector<RankPair>;
  CHECK(rank_pairs(2, 2, 8, false) == Pairs{{0, 0, 1}, {1, 1, 1}});
  // Decode is wider: two decode ranks read different heads of one prefill rank.
  CHECK(rank_pairs(2, 4, 8, false) == Pairs{{0, 0, 1}, {0, 1, 1}, {1, 2, 1}, {1, 3, 1}});
  // Prefill is wider: a decode rank's heads stand on two prefill ranks, half on each.
  CHECK(rank_pairs(4, 2, 8, false) == Pairs{{0, 0, 2}, {1, 0, 2}, {2, 1, 2}, {3, 1, 2}});
  // Two heads on eight ranks, four copies of each: a decode rank reads each head once.
  CHECK(rank_pairs(8, 1, 2, false) == Pairs{{0, 0, 2}, {4, 0, 2}});
  // A latent: every decode rank its own copy, from one rank.
  CHECK(rank_pairs(8, 2, 1, true) == Pairs{{0, 0, 1}, {4, 1, 1}});
  CHECK(rank_pairs(1, 4, 1, true) == Pairs{{0, 0, 1}, {0, 1, 1}, {0, 2, 1}, {0, 3, 1}});
}

TEST_CASE("bytes moved are what the decode ranks keep, whatever the prefill width [transport]") {
  const fabric::Topology t = hopper();
  for (const std::size_t prefill : {std::size_t{1}, std::size_t{2}, std::size_t{4}}) {
    auto places = seats(t, {prefill, 2});
    FabricTransport transport(t, std::move(places), {.kv_heads = 8}, SimDuration(0));
    transport.begin(pull(1, 0, 1, 10), SimTime(0));
    drain(transport);
    KvTransferResult r;
    transport.report(seconds(1), r);
    CHECK(r.bytes == 2 * 10 * block_bytes);
    CHECK(r.pulls == 1);
    REQUIRE(r.links.size() == 1);            // the NVSwitch's
    CHECK(r.links[0].bytes == 2 * r.bytes);  // up and down
  }
}

namespace {

std::string pool(const std::string& keys) {
  return "{hardware: h200, model: qwen3-8b, engine: vllm-0.24, " + keys + "}";
}

Result<Scenario> load(const std::string& prefill, const std::string& decode,
                      const std::string& topology = ", topology: {preset: hopper-8}",
                      std::vector<std::string> more = {}) {
  ScenarioOptions options;
  options.overrides = {"deployment={pools: [" + pool("name: p, role: prefill" + prefill) + ", " +
                           pool("name: d, role: decode" + decode) + "]" + topology + "}",
                       "workload.limit={requests: 200}", "workload.time_scale=8"};
  options.overrides.insert(options.overrides.end(), more.begin(), more.end());
  return load_scenario(std::string(ORRERY_SOURCE_DIR) + "/examples/qwen3-8b-h200.yaml", options);
}

std::string error_of(const Result<Scenario>& loaded) {
  REQUIRE(!loaded.ok());
  std::string all;
  for (const Error& e : loaded.errors()) all += e.key + ": " + e.message + "\n";
  return all;
}

struct Prompts final : RecordSink {
  std::int64_t blocks = 0;
  void on_request(const RequestRecord& r) override { blocks += (r.prompt_tokens + 15) / 16; }
};

}  // namespace

TEST_CASE(
    "a scenario: bytes moved are the KV of all prompts, and the digest is that of single steps [transport]") {
  for (const std::string decode :
       {", engine_args: {enable_prefix_caching: false}",
        ", parallel: {tp: 2}, replicas: 2, engine_args: {enable_prefix_caching: false}"}) {
    const Scenario s = load(", replicas: 2", decode).value();
    Prompts prompts;
    RunOptions options;
    options.sink = &prompts;
    const RunResult r = run_scenario(s, options).value();
    CHECK(r.completed == 200);
    CHECK(r.transfers.on);
    CHECK(r.transfers.pulls == 200);
    CHECK(r.transfers.bytes == prompts.blocks * 16 * 147456);  // Qwen3-8B, bf16, whatever the width
    CHECK(r.transfers.transfer.count == 200);
    CHECK(r.transfers.transfer.p50 > 10000);  // the floor
    RunOptions single;
    single.stretches = false;
    CHECK(run_scenario(s, single).value().digest == r.digest);
    CHECK(run_scenario(s).value().digest == r.digest);
  }
}

TEST_CASE("what MoRIIO does not do is refused whether its transfer is named or not [transport]") {
  const auto windows = [](const std::string& pd) {
    const std::string keys = "hardware: h200, model: gemma-3-27b-it, engine: vllm-0.24, ";
    ScenarioOptions options;
    options.overrides = {"deployment={topology: {preset: hopper-8}, pd: {" + pd + "}, pools: [{" + keys +
                         "name: p, role: prefill}, {" + keys + "name: d, role: decode}]}"};
    return load_scenario(std::string(ORRERY_SOURCE_DIR) + "/examples/qwen3-8b-h200.yaml", options);
  };
  CHECK(windows("transfer: whole").ok());
  for (const char* pd : {"transfer: layerwise", "connector: moriio", "transfer: whole, connector: moriio"})
    CHECK(error_of(windows(pd)).find("SupportsHMA") != std::string::npos);
  for (const char* pd : {"transfer: layerwise", "connector: moriio", "transfer: whole, connector: moriio"})
    CHECK(error_of(load("", "",
                        ", topology: {preset: hopper-8}, pd: {kv_load_failure_policy: recompute, " +
                            std::string(pd) + "}"))
              .find("expected fail") != std::string::npos);
}

TEST_CASE("pools apart that do not fit together are refused at their keys [transport]") {
  CHECK(error_of(load("", "", "")).find("topology: {preset: hopper-8}") != std::string::npos);
  CHECK(error_of(load(", replicas: 9", "", "")).find("nodes: 2") != std::string::npos);
  CHECK(error_of(load(", replicas: 8", "")).find("too few for instance 8") != std::string::npos);
  CHECK(error_of(load("", "", ", topology: {preset: mi300x-8}")).find("deployment.topology.preset") !=
        std::string::npos);
  CHECK(error_of(load("", ", kv_cache_dtype: fp8")).find("blocks travel as they are") != std::string::npos);
  CHECK(error_of(load("", ", engine_args: {block_size: 32}")).find("block size") != std::string::npos);
  CHECK(load("", ", engine_args: {scheduling_policy: priority}").ok());
  const auto with_pd = [](const std::string& pd, const std::string& decode = "") {
    return load("", decode, ", topology: {preset: hopper-8}, pd: {" + pd + "}");
  };
  CHECK(error_of(with_pd("transfer: layerwise", ", parallel: {tp: 2}")).find("give both sides one tp") !=
        std::string::npos);
  CHECK(error_of(with_pd("transfer: chunkwise")).find("vLLM has no connector that sends chunks") !=
        std::string::npos);
  CHECK(error_of(with_pd("transfer: layerwise, kv_load_failure_policy: recompute")).find("expected fail") !=
        std::string::npos);
  for (const char* pd : {"transfer: whole, retry: 1", "transfer: layerwise, retry: 3", "local_below: 100",
                         "kv_load_failure_policy: recompute"})
    CHECK(with_pd(pd).ok());
  const auto pools = [](const std::string& list) {
    ScenarioOptions options;
    options.overrides = {"deployment={topology: {preset: hopper-8}, pools: [" + list + "]}"};
    return load_scenario(std::string(ORRERY_SOURCE_DIR) + "/examples/qwen3-8b-h200.yaml", options);
  };
  CHECK(error_of(pools(pool("name: p, role: prefill"))).find("needs a decode pool") != std::string::npos);
  CHECK(error_of(pools(pool("name: p, role: prefill") + ", " + pool("name: d, role: decode") + ", " +
                       pool("name: m")))
            .find("needs deployment.pd.local_below") != std::string::npos);
  CHECK(pools(pool("name: m")).ok());  // instances may just stand somewhere
  CHECK(error_of(pools("{hardware: h200, model: qwen3-8b, engine: sglang-0.5, name: p, role: prefill}, " +
                       pool("name: d, role: decode")))
            .find("the engine must be that of pool \"p\" (sglang)") != std::string::npos);
  const auto sglang = [&](const std::string& pd, const std::string& args = "") {
    const std::string keys = "hardware: h200, model: qwen3-8b, engine: sglang-0.5" + args;
    ScenarioOptions options;
    options.overrides = {"deployment={topology: {preset: hopper-8}, pd: {" + pd + "}, pools: [{" + keys +
                         ", name: p, role: prefill}, {" + keys + ", name: d, role: decode}]}"};
    return load_scenario(std::string(ORRERY_SOURCE_DIR) + "/examples/qwen3-8b-h200.yaml", options);
  };
  CHECK(sglang("transfer: chunkwise").ok());
  const auto contexts = [&](const std::string& pd, const std::string& overlap) {
    const std::string keys = "hardware: h200, model: qwen3-8b, engine: tensorrt-llm-1.2";
    ScenarioOptions options;
    options.overrides = {"deployment={topology: {preset: hopper-8}, pd: {" + pd + "}, pools: [{" + keys +
                         ", name: p, role: prefill, engine_args: {disable_overlap_scheduler: " + overlap +
                         "}}, {" + keys + ", name: d, role: decode}]}"};
    return load_scenario(std::string(ORRERY_SOURCE_DIR) + "/examples/qwen3-8b-h200.yaml", options);
  };
  CHECK(contexts("retry: 0", "true").ok());
  CHECK(error_of(contexts("retry: 0", "false")).find("without overlap") != std::string::npos);
  CHECK(error_of(contexts("transfer: layerwise", "true")).find("expected whole") != std::string::npos);
  CHECK(error_of(sglang("transfer: whole")).find("expected chunkwise") != std::string::npos);
  CHECK(error_of(sglang("transfer: layerwise")).find("expected chunkwise") != std::string::npos);
  CHECK(error_of(sglang("local_below: 100")).find("compute no prompts") != std::string::npos);
  CHECK(error_of(sglang("kv_load_failure_policy: recompute")).find("expected fail") != std::string::npos);
  CHECK(sglang("retry: 1", ", engine_args: {enable_mixed_chunk: true}").ok());
  CHECK(error_of(sglang("retry: 1", ", engine_args: {rules_of_0_5_17: true}")).find("rules_of_0_5_17") !=
        std::string::npos);
}

TEST_CASE(
    "layers, chunks and whole prompts carry the same bytes, each once; layers expose less [transport]") {
  std::map<std::string, RunResult> runs;
  for (const std::string kind : {"whole", "layerwise", "chunkwise"}) {
    CAPTURE(kind);
    const std::string keys = "hardware: h200, model: qwen3-8b, engine: " +
                             std::string(kind == "chunkwise" ? "sglang-0.5" : "vllm-0.24") +
                             ", engine_args: " +
                             (kind == "chunkwise" ? "{disable_radix_cache: true, page_size: 16}"
                                                  : "{enable_prefix_caching: false}");
    ScenarioOptions options;
    options.overrides = {
        "deployment={topology: {preset: hopper-8, nodes: 2, nics_per_node: 1, nic_gbps: 100}, "
        "pd: {transfer: " +
            kind + "}, pools: [{" + keys + ", name: p, role: prefill, replicas: 8}, {" + keys +
            ", name: d, role: decode, replicas: 8}]}",
        "workload.limit={requests: 200}"};
    const Scenario s =
        load_scenario(std::string(ORRERY_SOURCE_DIR) + "/examples/qwen3-8b-h200.yaml", options).value();
    Prompts prompts;
    RunOptions run;
    run.sink = &prompts;
    const RunResult r = run_scenario(s, run).value();
    CHECK(r.completed == 200);
    CHECK(r.transfers.pulls == 200);
    CHECK(r.transfers.failed == 0);
    CHECK(r.transfers.bytes == prompts.blocks * 16 * 147456);
    run.stretches = false;
    CHECK(run_scenario(s, run).value().digest == r.digest);
    runs[kind] = r;
  }
  CHECK(runs["layerwise"].transfers.transfer.mean < 0.9 * runs["whole"].transfers.transfer.mean);
}

// ------------------------------------------------------------------------------------- descriptors (NIXL)

namespace {
// 2 ms + 1.65 µs a descriptor up to 4,608, then 3.4; there after 2 ms + 3.6 µs each.
NixlFigures nixl_by_hand() {
  const auto s = [](double value) { return Figure<Seconds>{Seconds(value), {}, "by hand"}; };
  const NixlReads reads{.post_start = s(2e-3),
                        .post_each = s(1.65e-6),
                        .post_queued = s(3.4e-6),
                        .queue = {4608, {}, "by hand"},
                        .read_start = s(2e-3),
                        .read_each = s(3.6e-6)};
  return {.in_node = reads, .between_nodes = reads, .idle_notice = s(2.5e-3)};
}
const NixlFigures by_hand = nixl_by_hand();

FabricTransport reading(const fabric::Topology& t, const std::vector<std::size_t>& widths,
                        std::int32_t regions) {
  std::vector<FabricTransport::Seat> all = seats(t, widths, 1000);  // bytes that take no time
  for (FabricTransport::Seat& seat : all) {
    seat.regions = regions;
    seat.nixl = &by_hand;
  }
  return FabricTransport(t, std::move(all), {.kv_heads = 8}, microseconds(0));
}
}  // namespace

TEST_CASE("descriptors of a pull: posted in one time, there in another, whatever their size [transport]") {
  const fabric::Topology t = hopper();
  FabricTransport transport = reading(t, {1, 1}, 72);
  // 64 blocks of 36 layers, keys and values: 4,608 descriptors; 2 ms + 1.65 µs each, and 2 ms + 3.6 µs each.
  CHECK(transport.posting(pull(1, 0, 1, 64)) == microseconds(2000) + SimDuration(4608 * 1650));
  // Beyond what the queue takes, 3.4 µs each.
  CHECK(transport.posting(pull(1, 0, 1, 128)) == microseconds(2000) + SimDuration(4608 * 1650 + 4608 * 3400));
  transport.begin(pull(1, 0, 1, 64), SimTime(0));
  const auto ends = drain(transport);
  CHECK(ends.at(1) == SimTime(0) + microseconds(2000) + SimDuration(4608 * 3600));
}

// mlaCacheFormatter.cpp, `needSendCache`: of the context's ranks, which all keep the latent, rank d modulo 8
// sends to rank d of a generation server with attention data parallelism.
TEST_CASE("copies of a latent are read in turn where the engine does so [transport]") {
  const fabric::Topology t = hopper(2);
  for (const bool in_turn : {true, false}) {
    std::vector<FabricTransport::Seat> all = seats(t, {8, 8});
    all[1].ranks = 8;
    FabricTransport transport(t, std::move(all), {.kv_heads = 1, .latent = true, .copies_in_turn = in_turn},
                              microseconds(0));
    for (std::int32_t rank = 0; rank < 2; ++rank) {
      KvPull one = pull(static_cast<std::uint64_t>(rank), 0, 1, 100);
      one.to_rank = rank;
      transport.begin(one, SimTime(0));
    }
    const auto ends = drain(transport);
    // 450 MB over a NIC of 50 GB/s: each its own, or both that of the first GPU.
    CHECK((ends.at(1) - SimTime(0)).seconds() == Approx(in_turn ? 0.009 : 0.018).epsilon(0.01));
  }
}

TEST_CASE("a decode instance's pulls follow each other, two instances' do not [transport]") {
  const fabric::Topology t = hopper();
  FabricTransport transport = reading(t, {1, 1, 1}, 72);
  const SimDuration one = microseconds(2000) + SimDuration(72 * 10 * 3600);
  transport.begin(pull(1, 0, 1, 10), SimTime(0));
  KvPull second = pull(2, 0, 1, 10);
  second.posted_from = SimTime(0) + microseconds(500);
  transport.begin(second, SimTime(0));
  transport.begin(pull(3, 0, 2, 10), SimTime(0));
  const auto ends = drain(transport);
  CHECK(ends.at(1) == SimTime(0) + one);
  CHECK(ends.at(2) == SimTime(0) + one + one);
  CHECK(ends.at(3) == SimTime(0) + one);
}

TEST_CASE(
    "a decode rank reads as between nodes where one of its prefill ranks stands on another [transport]") {
  const fabric::Topology t = hopper(2);
  NixlFigures figures = nixl_by_hand();
  figures.between_nodes.read_start = {Seconds(5e-3), {}, "by hand"};
  figures.between_nodes.post_start = {Seconds(3e-3), {}, "by hand"};
  // Prefill on GPUs 6 to 9, two of each node; decode on 4 and 5 or on 8 and 9.
  const auto read = [&](std::size_t prefill, std::size_t decode) {
    std::vector<FabricTransport::Seat> all(2);
    for (std::size_t i = 0; i < 4; ++i) all[0].gpus.push_back(t.gpus()[prefill + i]);
    for (std::size_t i = 0; i < 2; ++i) all[1].gpus.push_back(t.gpus()[decode + i]);
    for (FabricTransport::Seat& seat : all) {
      seat.bytes_per_block = 1000;
      seat.regions = 72;
      seat.nixl = &figures;
    }
    FabricTransport transport(t, std::move(all), {.kv_heads = 8}, SimDuration(0));
    const SimDuration posted = transport.posting(pull(1, 0, 1, 10));
    transport.begin(pull(1, 0, 1, 10), SimTime(0));
    return std::pair(posted, drain(transport).at(1));
  };
  // Two prefill ranks each: 1,440 descriptors.
  const SimDuration posting(1440 * 1650), reading(1440 * 3600);
  CHECK(read(0, 4) == std::pair(milliseconds(2) + posting, SimTime(0) + milliseconds(2) + reading));
  // The first decode rank's stand in its node, the second's on the other.
  CHECK(read(6, 4) == std::pair(milliseconds(3) + posting, SimTime(0) + milliseconds(5) + reading));
  CHECK(read(6, 10) == std::pair(milliseconds(3) + posting, SimTime(0) + milliseconds(5) + reading));
}

TEST_CASE(
    "a decode rank that reads from two prefill ranks posts twice as many; two ranks as many each "
    "[transport]") {
  const fabric::Topology t = hopper();
  const FabricTransport from_two = reading(t, {2, 1}, 72), to_two = reading(t, {1, 2}, 72),
                        alike = reading(t, {2, 2}, 72), one = reading(t, {1, 1}, 72);
  CHECK(from_two.posting(pull(1, 0, 1, 10)) == one.posting(pull(1, 0, 1, 20)));
  CHECK(to_two.posting(pull(1, 0, 1, 10)) == one.posting(pull(1, 0, 1, 10)));
  CHECK(alike.posting(pull(1, 0, 1, 10)) == one.posting(pull(1, 0, 1, 10)));
  CHECK(one.posting(pull(1, 0, 1, 0)) == SimDuration(0));  // only word that nothing is wanted
}

TEST_CASE(
    "larger blocks are fewer descriptors: first token earlier, running decodes held up less [transport]") {
  const auto run = [](const std::string& size) {
    const std::string block = ", engine_args: {block_size: " + size + "}";
    return run_scenario(
               load(block, block, ", topology: {preset: hopper-8}",
                    {"workload={generator: {requests: 60, arrivals: {process: fixed, rate: 4}, input: "
                     "{distribution: fixed, value: 4096}, output: {distribution: fixed, value: 64}}}"})
                   .value())
        .value();
  };
  const auto small = run("16"), large = run("128");
  // 4,096 tokens: 18,432 descriptors or 2,304. They are there after 2 ms + 3.6 µs each: 58 ms between the
  // two. A running sequence meets one transfer or two, which hold it up by 56.6 and 5.8 ms, spread over 63
  // steps.
  const double ttft = 1e-6 * (small.ttft.mean - large.ttft.mean);
  const double tpot = 1e-6 * (small.tpot.mean - large.tpot.mean);
  CHECK(ttft > 50);
  CHECK(ttft < 66);
  CHECK(tpot > 0.5 * 50.8 / 63);
  CHECK(tpot < 2.2 * 50.8 / 63);
}

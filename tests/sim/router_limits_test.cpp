// Routers in front of single servers: limits of queueing theory, and what late information costs.
#include "catch.h"
#include "single_servers.h"

using namespace orrery;
using namespace orrery::single_server;

namespace {

constexpr double service_s = 1000 * ns_per_token * 1e-9;

// Each request by a draw of its own.
class RandomRouter final : public Router {
 public:
  InstanceId choose(const Request& request, std::span<const InstanceView> instances) override {
    RandomStream draw(7, RandomPurpose::property_test, 1000 + request.id.value());
    return InstanceId(static_cast<std::uint32_t>(draw.below(instances.size())));
  }
};

std::vector<std::int64_t> alike(std::size_t servers) {
  return std::vector<std::int64_t>(servers, ns_per_token);
}

// Waits in a system where request i goes to server `choose(present by server)`, by hand.
template <class Choose>
std::vector<SimDuration> waits_by_hand(const std::vector<TraceRequest>& requests, std::size_t servers,
                                       Choose choose) {
  std::vector<std::vector<SimTime>> ends(servers);
  std::vector<SimDuration> waits;
  for (const TraceRequest& r : requests) {
    std::vector<std::size_t> present(servers);
    for (std::size_t s = 0; s < servers; ++s) {
      std::erase_if(ends[s], [&](SimTime end) { return end <= r.arrival; });
      present[s] = ends[s].size();
    }
    std::vector<SimTime>& chosen = ends[choose(present)];
    const SimTime begin = chosen.empty() ? r.arrival : chosen.back();
    waits.push_back(begin - r.arrival);
    chosen.push_back(begin + SimDuration(r.prompt_tokens * ns_per_token));
  }
  return waits;
}

double central_queue_wait_s(const std::vector<TraceRequest>& requests, std::size_t servers) {
  std::vector<SimTime> free(servers);
  double sum = 0;
  for (const TraceRequest& r : requests) {
    SimTime& first = *std::min_element(free.begin(), free.end());
    const SimTime begin = later(r.arrival, first);
    sum += (begin - r.arrival).seconds();
    first = begin + SimDuration(r.prompt_tokens * ns_per_token);
  }
  return sum / static_cast<double>(requests.size());
}

}  // namespace

TEST_CASE("random splitting makes c queues M/D/1, and M/M/1 with exponential services [router]") {
  const std::size_t servers = 3;
  const double load = 0.7, rate = load * static_cast<double>(servers) / service_s;
  for (const bool exponential : {false, true}) {
    RandomRouter router;
    const auto records =
        run({.ns_per_token = alike(servers), .router = &router}, poisson(60000, rate, exponential));
    REQUIRE(records.size() == 60000);
    const double expected = load * service_s / (1 - load) * (exponential ? 1 : 0.5);  // Pollaczek-Khinchine
    CAPTURE(exponential, mean_wait_s(records), expected);
    CHECK(mean_wait_s(records) == Approx(expected).epsilon(0.06));
  }
}

TEST_CASE("exact least-loaded is join-the-shortest-queue, request by request [router]") {
  const std::size_t servers = 4;
  for (const bool exponential : {false, true}) {
    const auto requests = poisson(8000, 0.85 * static_cast<double>(servers) / service_s, exponential);
    const auto by_hand = waits_by_hand(requests, servers, [](const std::vector<std::size_t>& present) {
      return static_cast<std::size_t>(std::min_element(present.begin(), present.end()) - present.begin());
    });
    const auto router = make_least_loaded();
    const auto records = run({.ns_per_token = alike(servers), .router = router.get()}, requests);
    for (std::size_t i = 0; i < requests.size(); ++i) REQUIRE(records[i].queue == by_hand[i]);
    // Between one queue for all servers and queues that nobody chooses among.
    RandomRouter random;
    CHECK(central_queue_wait_s(requests, servers) <= mean_wait_s(records));
    CHECK(mean_wait_s(records) <
          0.5 * mean_wait_s(run({.ns_per_token = alike(servers), .router = &random}, requests)));
  }
}

TEST_CASE("constant services: one queue for all, round robin and the shortest queue by hand [router]") {
  // Four servers, arrivals every quarter of a service: nobody ever waits under any of them but by chance.
  std::vector<TraceRequest> even;
  for (std::size_t i = 0; i < 400; ++i)
    even.push_back(world::request(i, 0.25e-3 * static_cast<double>(i), 1000, 1));
  const auto turns = make_round_robin();
  for (const RequestRecord& r : run({.ns_per_token = alike(4), .router = turns.get()}, even))
    REQUIRE(r.queue == SimDuration(0));
  const auto least = make_least_loaded();
  for (const RequestRecord& r : run({.ns_per_token = alike(4), .router = least.get()}, even))
    REQUIRE(r.queue == SimDuration(0));
}

TEST_CASE("late information is never better than exact, and the later the worse [router]") {
  const std::size_t servers = 4;
  const auto requests = poisson(20000, 0.9 * static_cast<double>(servers) / service_s, false, 3);
  const auto wait = [&](Telemetry telemetry) {
    const auto router = make_least_loaded();
    return mean_wait_s(
        run({.ns_per_token = alike(servers), .router = router.get(), .telemetry = telemetry}, requests));
  };
  const SimDuration service = duration_from_seconds(service_s), none(0);
  double before = wait({});
  for (const std::int64_t times : {1, 4, 16}) {
    const double later = wait({.period = service * times, .delay = none});
    CAPTURE(times, before, later);
    CHECK(later > before);
    before = later;
  }
  before = wait({});
  for (const std::int64_t times : {1, 4, 16}) {
    const double later = wait({.period = none, .delay = service * times});
    CAPTURE(times, before, later);
    CHECK(later > before);
    before = later;
  }
}

TEST_CASE("telemetry says what was, and when [router]") {
  // The router sees the views that telemetry leaves it.
  struct Watching final : Router {
    std::vector<std::vector<std::int32_t>> seen;
    InstanceId choose(const Request&, std::span<const InstanceView> instances) override {
      seen.emplace_back();
      for (const InstanceView& view : instances) seen.back().push_back(view.outstanding);
      return InstanceId(0);
    }
  };
  // Services of 1 ms; arrivals at 0.0, 0.4, 2.0, 2.4, 3.0 ms at server 0: ends at 1, 2, 3, 4 and 5 ms.
  std::vector<TraceRequest> requests;
  for (const double ms : {0.0, 0.4, 2.0, 2.4, 3.0})
    requests.push_back(world::request(requests.size(), ms * 1e-3, 1000, 1));
  const auto seen = [&](std::int64_t period_us, std::int64_t delay_us) {
    Watching router;
    run({.ns_per_token = alike(1),
         .router = &router,
         .telemetry = {.period = SimDuration(period_us * 1000), .delay = SimDuration(delay_us * 1000)}},
        requests);
    std::vector<std::int32_t> counts;
    for (const auto& views : router.seen) counts.push_back(views[0]);
    return counts;
  };
  using Counts = std::vector<std::int32_t>;
  CHECK(seen(0, 0) == Counts{0, 1, 0, 1, 1});
  // Half a millisecond late: at 2.4 the end at 2.0 is not known yet, at 3.0 the one at 3.0 is not.
  CHECK(seen(0, 500) == Counts{0, 0, 1, 1, 2});
  // Reports at whole milliseconds: that of 2.0 has the end at 2.0, not who is routed then.
  CHECK(seen(1000, 0) == Counts{0, 0, 0, 0, 1});
  CHECK(seen(1000, 300) == Counts{0, 0, 1, 0, 0});
}

TEST_CASE("servers of different speed: weights keep the slow one from holding the fast one up [router]") {
  // One server twice as fast as the other. Weighed, nobody joins the slow one while the fast one is not twice
  // as full; unweighed, an equal number goes to both.
  const std::vector<std::int64_t> speeds{2 * ns_per_token, ns_per_token};
  const auto requests = poisson(20000, 0.85 * 1.5 / service_s, false, 5);
  const auto wait = [&](std::vector<RoutedInstance> instances) {
    const auto router = make_least_loaded({.instances = std::move(instances)});
    const auto records = run({.ns_per_token = speeds, .router = router.get()}, requests);
    double sum = 0;
    std::size_t fast = 0;
    for (const RequestRecord& r : records) {
      sum += r.e2e.seconds();
      fast += r.instance == InstanceId(1) ? 1 : 0;
    }
    return std::pair(sum / static_cast<double>(records.size()),
                     static_cast<double>(fast) / static_cast<double>(records.size()));
  };
  const auto [plain, plain_share] = wait({});
  const auto [weighed, share] = wait({{.weight = 2}, {.weight = 1}});
  CAPTURE(plain, weighed, plain_share, share);
  CHECK(weighed < plain);
  CHECK(share > plain_share);
  CHECK(share == Approx(2.0 / 3.0).margin(0.08));  // with the work, as the load nears 1
  const auto [equal, equal_share] = wait({{.weight = 9}, {.weight = 9}});
  CHECK(equal == plain);
  CHECK(equal_share == plain_share);
}

TEST_CASE("what arrives within a window goes on shortest prompt first, and all of it [router]") {
  std::vector<TraceRequest> requests;
  RandomStream r(3, RandomPurpose::property_test, 31);
  double at = 0;
  for (std::size_t i = 0; i < 500; ++i) {
    at += r.exponential(0.5e-3);
    requests.push_back(world::request(i, at, 1 + static_cast<std::int32_t>(r.below(2000)), 1));
  }
  const SimDuration window = milliseconds(3);
  const auto router = make_least_loaded();
  const auto records = run({.ns_per_token = alike(1), .router = router.get(), .batch = window}, requests);
  REQUIRE(records.size() == requests.size());
  // Batches by hand; within one, on one server, services are in order of length.
  std::size_t batches = 0;
  for (std::size_t first = 0; first < requests.size(); ++batches) {
    std::size_t end = first;
    while (end < requests.size() && requests[end].arrival <= requests[first].arrival + window) ++end;
    std::vector<std::size_t> order;
    for (std::size_t i = first; i < end; ++i) order.push_back(i);
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
      return requests[a].prompt_tokens < requests[b].prompt_tokens;
    });
    SimTime before(0);
    for (const std::size_t i : order) {
      const SimTime begin = requests[i].arrival + records[i].queue;
      REQUIRE(begin > before);
      REQUIRE(begin >= requests[first].arrival + window);
      before = begin;
    }
    first = end;
  }
  CHECK(batches > 50);
}

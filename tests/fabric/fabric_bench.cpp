// Flow events a second: 512 GPUs on leaves and spines, 10,000 flows held. bench_fabric [seconds per case]
//
// An event is a flow's end together with the start that replaces it: one end and one add, two changes of the
// flow set. It is counted once.
#include <cstdio>
#include <cstdlib>
#include <ctime>

#include "base/random.h"
#include "sim/fabric/flows.h"
#include "sim/fabric/presets.h"

using namespace orrery;
using namespace orrery::fabric;

namespace {

enum class Traffic { node_local, all_to_all, one_spine };

FlowSpec draw(const Topology& t, RandomStream& random, Traffic traffic, std::uint64_t key) {
  const std::uint64_t count = t.gpus().size();
  const std::uint64_t a = random.below(count);
  std::uint64_t b = traffic == Traffic::node_local ? a / 8 * 8 + random.below(8) : random.below(count);
  if (a == b) b = a % 8 == 7 ? a - 7 : a + 1;
  return {t.gpus()[a], t.gpus()[b], static_cast<std::int64_t>(1'000'000 + random.below(100'000'000)), key};
}

void measure(const char* name, Traffic traffic, double seconds) {
  PresetOptions o;
  o.preset = "hopper-8", o.nodes = 64, o.nics_per_node = 8, o.nic_gbps = 400;
  if (traffic == Traffic::one_spine) o.spines = 1, o.oversubscription = 64;
  const Topology t = build_preset(o);
  Flows flows(t);
  RandomStream random(1, RandomPurpose::property_test, 77);
  std::uint64_t key = 0, events = 0;
  for (int i = 0; i < 10'000; ++i)
    ORRERY_CHECK(flows.add(draw(t, random, traffic, ++key), SimTime(0)).ok(),
                 "a flow on a whole topology has a way");
  flows.next_end();
  const std::uint64_t touched = flows.touched();
  const std::clock_t start = std::clock();
  double spent = 0;
  while (spent < seconds) {
    for (int i = 0; i < 64; ++i) {
      const SimTime now = flows.next_end();
      flows.advance(now);
      while (flows.active_count() < 10'000) {
        ORRERY_CHECK(flows.add(draw(t, random, traffic, ++key), now).ok(),
                     "a flow on a whole topology has a way");
        ++events;
      }
    }
    spent = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
  }
  const auto n = static_cast<double>(events);
  std::printf("%-34s %9.0f events/min  %8.2f us/event  %7.0f flows touched/event\n", name, n / spent * 60,
              spent / n * 1e6, static_cast<double>(flows.touched() - touched) / n);
}

}  // namespace

int main(int count, char** arguments) {
  const double seconds = count > 1 ? std::atof(arguments[1]) : 5;
  measure("node-local", Traffic::node_local, seconds);
  measure("all to all, no oversubscription", Traffic::all_to_all, seconds);
  measure("one spine, 64 times oversubscribed", Traffic::one_spine, seconds);
  return 0;
}

// Copies to and from host memory as flows: alone, beside one another, and those that a step waits for.
#include "sim/costed/host_copies.h"

#include <vector>

#include "catch.h"
#include "links_desk.h"

using namespace orrery;
using namespace links;

namespace {

// The desk's first instance copies over the fabric.
void copies(Desk& desk, std::size_t width, double block, double rate) {
  std::vector<HostCopies::Seat> seats(2);
  fabric::Routes routes(desk.topology);
  seats[0] = {.gpus = gpus(desk.topology, 0, width),
              .hosts = hosts_of(routes, desk.topology, gpus(desk.topology, 0, width)),
              .bytes_per_block = block,
              .bytes_per_second = rate};
  desk.transport.share_copies(std::move(seats));
  desk.executor->copy_over_fabric();
  desk.executor->add_host_links(HostLink(block, rate));
}

}  // namespace

TEST_CASE("a copy to host memory: as long as the host link alone, or as the links make it [host_copies]") {
  constexpr double block = 1e6, rate = 55.4e9;
  const auto ends = [](Desk& desk) {
    std::vector<TransferDone> done;
    while (done.size() < 3) {
      Outcomes outcomes;
      desk.executor->collect(desk.executor->next_event(), outcomes);
      done.insert(done.end(), outcomes.transfers.begin(), outcomes.transfers.end());
    }
    return done;
  };
  using Direction = TransferWork::Direction;
  const std::vector<TransferWork> work{{.direction = Direction::to_device, .id = 0, .blocks = 997},
                                       {.direction = Direction::to_device, .id = 1, .blocks = 1000},
                                       {.direction = Direction::to_host, .id = 2, .blocks = 5000}};
  // Without limits, and on a board whose PCIe is wider than what was measured: to the nanosecond.
  for (const bool limits : {false, true}) {
    Desk desk(limits ? board() : boundless(), plan_of(1), 4, true);
    copies(desk, 1, block, rate);
    desk.executor->transfer(InstanceId(0), work, SimTime(0));
    HostLink alone(block, rate);
    for (const TransferDone& done : ends(desk)) CHECK(done.at == alone.end_of(work[done.id], SimTime(0)));
  }
  // Two GPUs of one PCIe switch share its way up and down.
  Desk two(board(), plan_of(2), 2, true);
  copies(two, 2, block, rate);
  two.executor->transfer(InstanceId(0), work, SimTime(0));
  const auto done = ends(two);
  CHECK(static_cast<double>(done[0].at.ns()) == Approx(997e6 / (pcie / 2) * 1e9).epsilon(1e-4));
  CHECK(static_cast<double>(done[1].at.ns()) == Approx(1997e6 / (pcie / 2) * 1e9).epsilon(1e-4));
  CHECK(done[2].id == 2);
  CHECK(static_cast<double>(done[2].at.ns()) == Approx(5000e6 / (pcie / 2) * 1e9).epsilon(1e-4));
  // What a step waits for.
  CHECK(two.transport.copy_slowdown(0, true, done[2].at) == Approx(rate / (pcie / 2)));
}

TEST_CASE("a copy that a step waits for and queued ones are one queue on one link [host_copies]") {
  constexpr double block = 1e6, rate = 55.4e9;
  using Direction = TransferWork::Direction;
  const auto work = [](std::uint64_t id, std::int64_t blocks) {
    return TransferWork{.direction = Direction::to_host, .id = id, .blocks = blocks};
  };
  for (const bool on_fabric : {false, true}) {
    for (const std::size_t width : {1u, 2u}) {  // two share their PCIe switch's way up
      CAPTURE(on_fabric, width);
      Desk desk(board(), plan_of(static_cast<std::int32_t>(width)), 2, true);
      desk.executor->add_host_links(HostLink(block, rate));
      if (on_fabric) copies(desk, width, block, rate);
      const double per_block = block / (on_fabric && width == 2 ? pcie / 2 : rate) * 1e9;
      const auto near = [&](SimTime at, std::int64_t blocks) {
        CHECK(static_cast<double>(at.ns()) == Approx(static_cast<double>(blocks) * per_block).epsilon(1e-4));
      };
      desk.executor->transfer(InstanceId(0), std::vector{work(0, 2000), work(1, 1000)}, SimTime(0));
      StepPlan plan;  // the core thread stores 500 blocks before it launches (SGLang's write_back)
      PrefillWork prefill{.sequence = SequenceId(0), .request = RequestId(0), .new_tokens = 16};
      plan.prefill = std::span(&prefill, 1);
      plan.prefill_tokens = 16;
      plan.running = 1;
      plan.blocking_store_blocks = 500;
      desk.executor->submit(StepId(0), InstanceId(0), plan, SimTime(0));
      desk.executor->transfer(InstanceId(0), std::vector{work(2, 300)}, SimTime(0));
      std::vector<TransferDone> done;
      SimTime scheduled = SimTime::never();
      while (done.size() < 3 || scheduled.is_never()) {
        Outcomes outcomes;
        desk.executor->collect(desk.executor->next_event(), outcomes);
        done.insert(done.end(), outcomes.transfers.begin(), outcomes.transfers.end());
        for (const StepOutcome& step : outcomes.steps) scheduled = step.last_stamp.schedule_begin;
      }
      REQUIRE(done.size() == 3);
      near(done[0].at, 2000);
      near(done[1].at, 3000);
      near(scheduled, 3500);
      CHECK(done[2].id == 2);
      near(done[2].at, 3800);
    }
  }
}

#include "reports/fleet_summary.h"

#include "base/text.h"

namespace orrery {

namespace {
constexpr std::size_t most_listed = 1000;  // of each list; counts are of all
}

Json fleet_json(const FleetResult& f) {
  if (!f.on) return nullptr;
  Json stays = Json::array(), scalings = Json::array();
  for (const FleetResult::Stay& s : f.stays) {
    if (stays.size() == most_listed) break;
    stays.push_back({{"instance", s.instance.value()},
                     {"state", to_string(s.state)},
                     {"from_s", s.begin.seconds()},
                     {"to_s", s.end.seconds()}});
  }
  for (const FleetResult::Scaling& s : f.scalings) {
    if (scalings.size() == most_listed) break;
    scalings.push_back({{"at_s", s.at.seconds()}, {"pool", s.pool}, {"from", s.from}, {"to", s.to}});
  }
  return {{"faults", f.faults},
          {"instances_lost", f.instances_lost},
          {"restarts", f.restarts},
          {"instances_updated", f.updated},
          {"requests_lost", f.requests_lost},
          {"retries", f.retries},
          {"requests_failed", f.requests_failed},
          {"transfers_lost", f.transfers_lost},
          {"lost_tokens", {{"prompt", f.lost_prompt_tokens}, {"output", f.lost_output_tokens}}},
          {"availability", f.availability},
          {"instance_up_s", f.instance_up_s},
          {"gpu_hours", f.gpu_hours},
          {"scale_events", f.scalings.size()},
          {"scalings", scalings},
          {"not_up", stays}};
}

std::string fleet_text(const FleetResult& f) {
  if (!f.on) return "";
  const auto count = [](std::uint64_t n) { return human_count(static_cast<double>(n)); };
  return "fleet       " + count(f.faults) + " faults took " + count(f.instances_lost) + " instances and " +
         count(f.requests_lost) + " requests with " + count(f.lost_prompt_tokens) + " + " +
         count(f.lost_output_tokens) + " tokens; " + count(f.retries) + " sent again, " +
         count(f.requests_failed) + " failed; " + count(f.restarts) + " starts, " + count(f.scalings.size()) +
         " scale events; availability " + format_fixed(100 * f.availability, 2) + " %, " +
         format_fixed(f.gpu_hours, 3) + " GPU-hours\n";
}

}  // namespace orrery

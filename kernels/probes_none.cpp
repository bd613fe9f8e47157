// Where the build has no CUDA toolkit.
#include "kernels/probes.h"

namespace orrery::kernels {

namespace {
bool absent(std::string& why) {
  why = "built without a CUDA toolkit: nothing to probe";
  return false;
}
}  // namespace

bool probe_bandwidth(Device&, std::int64_t, std::vector<BandwidthPoint>&, std::string& why) {
  return absent(why);
}
bool probe_host_copies(Device&, std::int64_t, std::vector<HostCopyPoint>&, std::string& why) {
  return absent(why);
}
bool probe_launches(Device&, LaunchCosts&, std::string& why) { return absent(why); }
bool probe_sustained(Device&, double, SustainedLoad&, std::string& why) { return absent(why); }

}  // namespace orrery::kernels

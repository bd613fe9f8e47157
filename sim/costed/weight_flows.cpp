// Loads of weights as flows, beside KV of requests.
#include <algorithm>

#include "base/check.h"
#include "sim/costed/fabric_transport.h"

namespace orrery {

namespace {
// Between keys of moves (2^62 and an instance) and of copies (2^63).
constexpr std::uint64_t load_keys = (std::uint64_t{1} << 62) + (std::uint64_t{1} << 61);
constexpr std::uint64_t gpus_of_instance = 1 << 16;
}  // namespace

bool FabricTransport::is_load(std::uint64_t key) {
  return key >= load_keys && key < load_keys + (std::uint64_t{1} << 61);
}

void FabricTransport::load_from(std::vector<WeightLoads::Plan> plans) {
  loads_.emplace(topology_, std::move(plans));
}

void FabricTransport::load(InstanceId instance, InstanceId peer, SimTime now) {
  ORRERY_CHECK(loads_ && !loads_->open.contains(instance.value()), "one load at a time");
  pump(now);
  loads_->open[instance.value()].peer = peer;
  const WeightLoads::Plan& plan = loads_->plans[instance.value()];
  for (std::size_t g = 0; g < plan.gpus.size(); ++g)
    load_gpu(instance, {static_cast<std::int32_t>(g), plan.bytes_per_gpu}, now);
}

void FabricTransport::load_gpu(InstanceId instance, const WeightLoads::Rest& rest, SimTime now) {
  WeightLoads::Load& load = loads_->open.at(instance.value());
  const WeightLoads::Plan& plan = loads_->plans[instance.value()];
  const auto g = static_cast<std::size_t>(rest.gpu);
  const DeviceId gpu = plan.gpus[g];
  fabric::FlowSpec spec{.from = {}, .to = gpu, .bytes = rest.bytes};
  spec.key = load_keys + instance.value() * gpus_of_instance + g;
  if (load.peer.is_none()) {
    for (const DeviceId start : plan.starts[g]) {  // the shortest way that is left, the first of those
      std::vector<fabric::LinkId> way = loads_->routes.find(start, gpu, spec.key);
      if (!way.empty() && (spec.links.empty() || way.size() < spec.links.size())) spec.links = std::move(way);
    }
    const bool way = !spec.links.empty() && !loads_->routes.failed(plan.source[g]);
    if (!way) return load.stuck.push_back(rest);
    spec.links.push_back(plan.source[g]);
  } else {
    spec.from = loads_->plans[load.peer.value()].gpus[g];
  }
  const auto flow = flows_.add(spec, now);
  if (!flow.ok()) return load.stuck.push_back(rest);
  ++load.flows;
  others_[spec.key] = flow.value();
  if (shared_) meet(flow.value(), now);
}

void FabricTransport::load_arrived(std::uint64_t key, SimTime now) {
  const InstanceId instance(static_cast<std::uint32_t>((key - load_keys) / gpus_of_instance));
  WeightLoads::Load& load = loads_->open.at(instance.value());
  if (--load.flows > 0 || !load.stuck.empty()) return;
  loads_->open.erase(instance.value());
  loads_->done.push_back({now, instance});
}

// It goes on over another way, or when there is one again.
void FabricTransport::load_cut(std::uint64_t key, std::int64_t left, SimTime now) {
  const InstanceId instance(static_cast<std::uint32_t>((key - load_keys) / gpus_of_instance));
  --loads_->open.at(instance.value()).flows;
  load_gpu(instance, {static_cast<std::int32_t>(key % gpus_of_instance), left}, now);
}

void FabricTransport::links_of_loads(fabric::LinkId link, bool cut, SimTime now) {
  if (!loads_) return;
  for (const fabric::LinkId l : {link, fabric::Topology::reverse(link)})
    cut ? loads_->routes.fail(l) : loads_->routes.restore(l);
  if (cut) return;
  for (auto& [instance, load] : loads_->open) {
    std::vector<WeightLoads::Rest> stuck;
    stuck.swap(load.stuck);
    for (const WeightLoads::Rest& rest : stuck) load_gpu(InstanceId(instance), rest, now);
  }
}

void FabricTransport::drop_load(InstanceId instance, SimTime now) {
  if (!loads_) return;
  std::erase_if(loads_->done, [&](const WeightLoads::Done& d) { return d.instance == instance; });
  if (loads_->open.erase(instance.value()) == 0) return;
  pump(now);
  const std::uint64_t first = load_keys + instance.value() * gpus_of_instance;
  for (auto it = others_.lower_bound(first); it != others_.end() && it->first < first + gpus_of_instance;) {
    flows_.remove(it->second, now);
    if (shared_) part(it->second, now);
    it = others_.erase(it);
  }
}

bool FabricTransport::load_stuck(InstanceId instance) const {
  if (!loads_) return false;
  const auto load = loads_->open.find(instance.value());
  return load != loads_->open.end() && !load->second.stuck.empty();
}

bool FabricTransport::load_way(InstanceId instance, InstanceId peer) {
  const std::vector<DeviceId>&to = loads_->plans[instance.value()].gpus,
        &from = loads_->plans[peer.value()].gpus;
  for (std::size_t g = 0; g < to.size(); ++g)
    if (loads_->routes.find(from[g], to[g], load_keys + g).empty()) return false;
  return true;
}

SimTime FabricTransport::next_load() {
  if (!loads_) return SimTime::never();
  SimTime next = loads_->open.empty() ? SimTime::never() : flows_.next_end();
  for (const WeightLoads::Done& d : loads_->done) next = earlier(next, d.at);
  return next;
}

void FabricTransport::take_loaded(SimTime now, std::vector<InstanceId>& done) {
  if (!loads_ || (loads_->open.empty() && loads_->done.empty())) return;
  pump(now);
  for (const WeightLoads::Done& d : loads_->done) done.push_back(d.instance);
  std::sort(done.begin(), done.end());
  loads_->done.clear();
}

}  // namespace orrery

#include "sim/costed/faults.h"

#include <algorithm>

#include "base/digest.h"
#include "base/text.h"
#include "sim/costed/pool_spec.h"

namespace orrery {

namespace {

constexpr double most_s = 1e9;  // of simulated time: thirty years

void read_start(const Yaml& node, PoolSpec& pool) {
  if (!node.present()) return;
  if (const Yaml engine = node.optional("engine_s")) pool.start.engine_s = engine.number(0, 0, most_s);
  if (const Yaml load = node.optional("load_gb_per_s")) pool.start.load_gb_per_s = load.number(1, 1e-3, 1e6);
  if (const Yaml from = node.optional("from"); from.present())
    pool.start.from = static_cast<WeightSource>(from.choice({"own", "storage", "host", "peer"}));
}

// As many as `autoscale.max` are laid out; `replicas` of them are there at first.
void read_autoscale(const Yaml& node, const Yaml& replicas, PoolSpec& pool) {
  AutoscaleSpec a;
  a.by_queue =
      node.optional("metric").present() && node.optional("metric").choice({"outstanding", "waiting"}) == 1;
  a.target = node.require("target").number(1, 1e-6, 1e9);
  a.least = static_cast<std::int32_t>(node.optional("min").integer(1, 1, 100000));
  a.most = static_cast<std::int32_t>(node.require("max").integer(1, 1, 100000));
  a.interval_s = node.optional("interval_s").number(15, 1e-3, most_s);
  a.cooldown_s = node.optional("cooldown_s").number(300, 0, most_s);
  if (a.least > a.most) node.optional("min").fail("must not be above max, " + std::to_string(a.most));
  a.at_first = replicas.present() ? pool.replicas : a.least;
  if (a.at_first < a.least || a.at_first > a.most)
    replicas.fail("the pool begins with so many; autoscale allows " + std::to_string(a.least) + " to " +
                  std::to_string(a.most));
  pool.replicas = std::max(a.most, a.least);
  pool.autoscale = a;
}

}  // namespace

void read_changes(const Yaml& node, PoolSpec& pool) {
  const Yaml start = node.optional("start"), scale = node.optional("autoscale");
  const Yaml update = node.optional("rolling_update");
  read_start(start, pool);
  if (scale.present()) read_autoscale(scale, node.optional("replicas"), pool);
  if (update.present()) pool.update_at_s = update.require("at_s").number(0, 0, most_s);
  if (scale.present() && update.present())
    update.fail("beside autoscale a rolling update is not modelled; leave one of them out");
  for (const Yaml& key : {scale, update}) {
    if (key.present() && pool.instance.engines > 1)
      key.fail(
          "is not modelled for the engines of a dense model behind one front end (dp on vLLM); use "
          "replicas");
  }
}

// Where a lost instance leaves requests that have been encoded, or wait for it, is not modelled.
void refuse_changes_of_three(const Yaml& root, const std::vector<FaultSpec>& faults,
                             const std::vector<const PoolSpec*>& pools) {
  const auto has = [&](PoolRole role) {
    return std::any_of(pools.begin(), pools.end(), [&](const PoolSpec* p) { return p->role == role; });
  };
  if (!has(PoolRole::encoder) || !has(PoolRole::prefill) || !has_changes(faults, pools)) return;
  const Yaml at = root.optional("faults");
  (at.present() ? at : root.optional("deployment").optional("pools"))
      .fail(
          "faults, rolling updates and autoscaling are not modelled with encoder, prefill and decode pools");
}

bool has_changes(const std::vector<FaultSpec>& faults, const std::vector<const PoolSpec*>& pools) {
  return !faults.empty() || std::any_of(pools.begin(), pools.end(), [](const PoolSpec* pool) {
    return pool->autoscale.has_value() || pool->update_at_s >= 0;
  });
}

StartTimes start_times(const PoolSpec& pool) {
  const std::optional<StartCosts>& costs = pool.instance.engine.start;
  const bool fp8_block = pool.instance.model.quantization == Quantization::fp8_block;
  double engine = pool.start.engine_s, load = pool.start.load_gb_per_s * 1e9;
  if (engine < 0) engine = (fp8_block ? costs->engine_fp8_block : costs->engine).value.value();
  if (load < 0) load = costs->load.value.value();
  const double bytes = pool.memory.weights.value() * static_cast<double>(pool.instance.plan.gpus());
  return {engine, bytes / load};
}

SimDuration start_time(const PoolSpec& pool) {
  const StartTimes start = start_times(pool);
  return duration_from_seconds(start.engine_s + start.load_s);
}

// -------------------------------------------------------------------------------------------------- targets

namespace {

struct Reader {
  const std::vector<const PoolSpec*>& pools;
  const fabric::Topology* topology;

  std::int32_t instances() const {
    std::int32_t sum = 0;
    for (const PoolSpec* pool : pools) sum += pool->engines();
    return sum;
  }
  std::int32_t gpus_of(std::int32_t instance) const {
    for (const PoolSpec* pool : pools) {
      if (instance < pool->engines()) return pool->instance.plan.gpus();
      instance -= pool->engines();
    }
    return 0;
  }

  static std::int32_t number(const Yaml& node, const char* what, std::int32_t count) {
    const std::int64_t n = node.integer(0);
    if (n >= 0 && n < count) return static_cast<std::int32_t>(n);
    node.fail("there is no " + std::string(what) + " " + std::to_string(n) + "; expected 0 to " +
              std::to_string(count - 1));
    return 0;
  }

  FaultSpec gpu_at(FaultSpec fault, std::int32_t instance, std::int32_t gpu) const {
    fault.gpu = {InstanceId(static_cast<std::uint32_t>(instance)), gpu};
    fault.target = gpu;
    for (std::int32_t i = 0; i < instance; ++i) fault.target += gpus_of(i);
    fault.name = "gpu " + std::to_string(instance) + "." + std::to_string(gpu);
    return fault;
  }

  // {instance, gpu} or {pool, replica, gpu}; the GPUs of a replica are those of all its engines.
  void read_gpu(const Yaml& node, const FaultSpec& fault, std::vector<FaultSpec>& out) const {
    if (node.is_scalar() && node.scalar_text() == "all") {
      node.text();
      for (std::int32_t i = 0; i < instances(); ++i)
        for (std::int32_t g = 0; g < gpus_of(i); ++g) out.push_back(gpu_at(fault, i, g));
      return;
    }
    const char* const forms =
        "name a GPU as {instance: I, gpu: G} or {pool: NAME, replica: R, gpu: G}, or say all";
    if (!node.is_map()) {
      if (node.is_list()) node.items();
      return node.fail(forms);
    }
    const Yaml instance = node.optional("instance"), pool = node.optional("pool");
    if (instance.present()) {
      for (const char* key : {"pool", "replica"})
        if (node.optional(key).present()) node.optional(key).fail("beside `instance` this says it twice");
      const std::int32_t i = number(instance, "instance", instances());
      return out.push_back(gpu_at(fault, i, number(node.optional("gpu"), "GPU", gpus_of(i))));
    }
    if (!pool.present() && pools.size() > 1) return node.fail(forms);
    std::vector<std::string> names;
    for (const PoolSpec* one : pools) names.push_back(one->name);
    const std::size_t chosen = pool.present() ? pool.choice(names) : 0;
    const PoolSpec& in = *pools[chosen];
    std::int32_t first = 0;
    for (std::size_t p = 0; p < chosen; ++p) first += pools[p]->engines();
    const std::int32_t engines = in.instance.engines, width = in.instance.plan.gpus();
    const std::int32_t replica = number(node.optional("replica"), "replica", in.replicas);
    const std::int32_t gpu = number(node.optional("gpu"), "GPU", engines * width);
    out.push_back(gpu_at(fault, first + replica * engines + gpu / width, gpu % width));
  }

  void read_node(const Yaml& node, const FaultSpec& fault, std::vector<FaultSpec>& out) const {
    std::int32_t from = 0, to = topology->nodes() - 1;
    if (!(node.is_scalar() && node.scalar_text() == "all"))
      from = to = number(node, "node", topology->nodes());
    if (from != to) node.text();
    for (std::int32_t n = from; n <= to; ++n) {
      out.push_back(fault);
      out.back().target = n;
      out.back().name = "node " + std::to_string(n);
    }
  }

  DeviceId device(const Yaml& node, const std::string& name) const {
    const DeviceId id = topology->find(name);
    if (!id.is_none()) return id;
    std::vector<std::string> names;
    for (std::size_t i = 0; i < topology->device_count(); ++i)
      names.push_back(topology->device(DeviceId(static_cast<std::uint32_t>(i))).name);
    node.fail("topology " + topology->name + " has no device " + quote(name) + did_you_mean(name, names) +
              "; devices of presets are called node0.gpu0, node0.nic0, leaf0 and so on");
    return id;
  }

  void add_links(FaultSpec& fault, DeviceId a, DeviceId b) const {
    for (std::size_t i = 0; i < topology->link_count(); ++i) {
      const fabric::LinkId id(static_cast<std::uint32_t>(i));
      const fabric::Link& link = topology->link(id);
      const bool of_nic = b.is_none() && (link.from == a || link.to == a);
      if (of_nic || (link.from == a && link.to == b) || (link.from == b && link.to == a))
        fault.links.push_back(id.value());
    }
  }

  void read_nic(const Yaml& node, const FaultSpec& fault, std::vector<FaultSpec>& out) const {
    const std::string name = node.text();
    std::vector<DeviceId> nics;
    for (std::size_t i = 0; i < topology->device_count() && name == "all"; ++i) {
      const DeviceId id(static_cast<std::uint32_t>(i));
      if (topology->device(id).kind == fabric::DeviceKind::nic) nics.push_back(id);
    }
    if (name != "all") nics.push_back(device(node, name));
    if (nics.empty()) node.fail("topology " + topology->name + " has no NIC");
    for (const DeviceId nic : nics) {
      if (nic.is_none()) return;
      if (topology->device(nic).kind != fabric::DeviceKind::nic)
        return node.fail(quote(name) + " is a " + to_string(topology->device(nic).kind) +
                         "; a NIC was expected, for example node0.nic0");
      out.push_back(fault);
      out.back().target = static_cast<std::int32_t>(nic.value());
      out.back().name = "nic " + topology->device(nic).name;
      add_links(out.back(), nic, DeviceId::none());
    }
  }

  // "a–b" (en dash), or [a, b].
  void read_link(const Yaml& node, const FaultSpec& fault, std::vector<FaultSpec>& out) const {
    std::vector<std::string> ends;
    if (node.is_list()) {
      for (const Yaml& end : node.items()) ends.push_back(end.text());
    } else {
      const std::string text = node.text(), dash = "–";
      if (const std::size_t at = text.find(dash); at != std::string::npos)
        ends = {text.substr(0, at), text.substr(at + dash.size())};
    }
    if (ends.size() != 2) return node.fail("a link is named by its two devices: \"a–b\" or [a, b]");
    const DeviceId a = device(node, ends[0]), b = device(node, ends[1]);
    if (a.is_none() || b.is_none()) return;
    out.push_back(fault);
    FaultSpec& made = out.back();
    made.name = "link " + ends[0] + "–" + ends[1];
    add_links(made, a, b);
    if (made.links.empty())
      return node.fail("no link of topology " + topology->name + " joins " + ends[0] + " and " + ends[1]);
    made.target = static_cast<std::int32_t>(made.links.front() / 2);
  }
};

void read_times(const Yaml& node, FaultSpec& fault) {
  if (const Yaml factor = node.optional("factor")) {
    fault.factor = factor.number(0, 0, 1);
    if (fault.factor == 1)
      factor.fail("leaves everything as it is; below 1 was expected, or 0 for a failure");
  }
  const Yaml at = node.optional("at_s"), lasts = node.optional("for_s");
  const Yaml mtbf = node.optional("mtbf_h"), repair = node.optional("repair_s");
  if (mtbf.present() == at.present())
    node.fail(
        "says neither or both of at_s (and for_s) and mtbf_h (with repair_s); one of them was expected");
  if (at.present() && repair.present()) repair.fail("belongs to mtbf_h; with at_s say for_s");
  if (mtbf.present() && lasts.present()) lasts.fail("belongs to at_s; with mtbf_h say repair_s");
  if (at.present()) fault.at_s = at.number(0, 0, most_s);
  if (lasts.present()) fault.for_s = lasts.number(1, 1e-9, most_s);
  if (!mtbf.present()) return;
  fault.mtbf_h = mtbf.number(1, 1e-6, 1e6);
  fault.for_s = node.require("repair_s").number(1, 1e-3, most_s);
}

void read_recovery(const Yaml& node, bool used, RecoverySpec& recovery) {
  if (!node.present()) return;
  if (!used)
    node.fail(
        "says what happens to requests when `faults` take their instance, and there are none; "
        "leave it out");
  if (node.is_scalar()) {
    recovery.retry = node.choice({"retry", "fail"}) == 0;
    return;
  }
  recovery.retry =
      !node.optional("policy").present() || node.optional("policy").choice({"retry", "fail"}) == 0;
  recovery.retries = static_cast<std::int32_t>(node.optional("retries").integer(3, 0, 1000));
  recovery.detection_s = node.optional("detection_s").number(5, 0, most_s);
  if (!recovery.retry && node.optional("retries").present())
    node.optional("retries").fail("has no effect with policy: fail");
}

// Elements that say the same of the same target have streams of their own; others do not shift them.
void name_streams(std::vector<FaultSpec>& faults) {
  for (std::size_t i = 0; i < faults.size(); ++i) {
    const auto same = [&](const FaultSpec& f) {
      return f.kind == faults[i].kind && f.target == faults[i].target && f.mtbf_h > 0;
    };
    Digest name;
    name.add(static_cast<std::uint64_t>(faults[i].kind));
    name.add(std::int64_t{faults[i].target});
    name.add(static_cast<std::uint64_t>(
        std::count_if(faults.begin(), faults.begin() + static_cast<std::ptrdiff_t>(i), same)));
    faults[i].entity = name.value();
  }
}

// Whoever may start in the run needs figures for it, and `start` is for them alone.
void check_starts(const Yaml& root, const std::vector<const PoolSpec*>& pools,
                  const fabric::Topology* topology, bool faults) {
  const Yaml deployment = root.optional("deployment"), list = deployment.optional("pools");
  const std::vector<Yaml> nodes = list.present() ? list.items() : std::vector<Yaml>{deployment};
  for (std::size_t i = 0; i < pools.size() && i < nodes.size(); ++i) {
    const PoolSpec& pool = *pools[i];
    const bool starts = faults || pool.autoscale || pool.update_at_s >= 0;
    const Yaml start = nodes[i].optional("start");
    if (pool.start.from != WeightSource::own && topology == nullptr)
      start.optional("from").fail(
          "weights over links need deployment.topology; give one, or leave it out (own)");
    if (!starts && start.present())
      start.fail("no instance starts in this run (faults, autoscale, rolling_update); leave it out");
    if (starts && !pool.instance.engine.start && !pool.instance.engine.name.empty() &&
        (pool.start.engine_s < 0 || pool.start.load_gb_per_s < 0))
      nodes[i].optional("engine").fail(
          "the engine profile has no `start` figures; give it some, or say "
          "start: {engine_s: …, load_gb_per_s: …}");
  }
}

}  // namespace

void read_faults(const Yaml& root, const std::vector<const PoolSpec*>& pools,
                 const fabric::Topology* topology, std::vector<FaultSpec>& faults, RecoverySpec& recovery) {
  const Yaml list = root.optional("faults");
  const Reader reader{.pools = pools, .topology = topology};
  const std::vector<Yaml> nodes = list.present() ? list.items() : std::vector<Yaml>{};
  for (const Yaml& node : nodes) {
    FaultSpec fault;
    fault.kind = static_cast<FaultKind>(node.require("kind").choice({"gpu", "node", "nic", "link"}));
    read_times(node, fault);
    const Yaml target = node.require("target");
    if (!target.present()) continue;
    if (fault.kind == FaultKind::gpu) {
      reader.read_gpu(target, fault, faults);
    } else if (topology == nullptr) {
      node.optional("kind").fail(
          "nodes, NICs and links are those of deployment.topology, and there is none; "
          "name GPUs of instances, or give a topology");
      if (target.is_list()) target.items();
    } else if (fault.kind == FaultKind::node) {
      reader.read_node(target, fault, faults);
    } else {
      fault.kind == FaultKind::nic ? reader.read_nic(target, fault, faults)
                                   : reader.read_link(target, fault, faults);
    }
  }
  name_streams(faults);
  refuse_changes_of_three(root, faults, pools);
  read_recovery(root.optional("deployment").optional("on_failure"), list.present(), recovery);
  check_starts(root, pools, topology, list.present());
}

FleetPlan fleet_plan(const std::vector<FaultSpec>& faults, const RecoverySpec& recovery,
                     const std::vector<const PoolSpec*>& pools,
                     const std::vector<FabricTransport::Seat>& seats, const fabric::Topology* topology) {
  FleetPlan plan;
  for (const FaultSpec& f : faults) {
    FaultPlan& p = plan.faults.emplace_back();
    p.name = f.name;
    p.factor = f.factor;
    p.at = SimTime(0) + duration_from_seconds(f.at_s);
    if (f.for_s >= 0) p.lasts = duration_from_seconds(f.for_s);
    p.mtbf_s = f.mtbf_h * 3600;
    p.entity = f.entity;
    if (f.kind == FaultKind::gpu) p.gpus.push_back(f.gpu);
    p.links = f.links;
    for (std::size_t i = 0; i < seats.size() && f.kind == FaultKind::node; ++i)
      for (std::size_t g = 0; g < seats[i].gpus.size(); ++g)
        if (topology->device(seats[i].gpus[g]).node == f.target)
          p.gpus.push_back({InstanceId(static_cast<std::uint32_t>(i)), static_cast<std::int32_t>(g)});
  }
  plan.recovery = {.retry = recovery.retry,
                   .retries = recovery.retries,
                   .detection = duration_from_seconds(recovery.detection_s)};
  for (const PoolSpec* pool : pools) {
    PoolPlan& p = plan.pools.emplace_back();
    const bool known = pool->instance.engine.start.has_value() ||
                       (pool->start.engine_s >= 0 && pool->start.load_gb_per_s >= 0);
    if (known) {
      const StartTimes start = start_times(*pool);
      p.loads = pool->start.from != WeightSource::own;
      p.from_peer = pool->start.from == WeightSource::peer;
      p.start = duration_from_seconds(start.engine_s + (p.loads ? 0 : start.load_s));
      p.load_alone = duration_from_seconds(start.load_s);
    }
    p.gpus = pool->instance.plan.gpus();
    p.rolls = pool->update_at_s >= 0;
    if (p.rolls) p.update_at = SimTime(0) + duration_from_seconds(pool->update_at_s);
    if (!pool->autoscale) continue;
    const AutoscaleSpec& a = *pool->autoscale;
    p.scale = {.on = true,
               .by_queue = a.by_queue,
               .target = a.target,
               .least = a.least,
               .at_first = a.at_first,
               .interval = duration_from_seconds(a.interval_s),
               .cooldown = duration_from_seconds(a.cooldown_s)};
  }
  return plan;
}

}  // namespace orrery

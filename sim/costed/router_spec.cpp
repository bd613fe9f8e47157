#include "sim/costed/router_spec.h"

#include <algorithm>

#include "base/text.h"
#include "costmodel/step_pricer.h"
#include "sim/costed/pool_spec.h"

namespace orrery {

namespace {

std::string policy_of(const Yaml& node) {
  std::vector<std::string> names;
  names.reserve(router_policies.size());
  for (const RouterPolicy& policy : router_policies) names.emplace_back(policy.name);
  return names[node.choice(names)];
}

SimDuration milliseconds(const Yaml& node) {
  return SimDuration(round_half_even(node.number(0, 0, 1e9) * 1e6));
}

// A key that the policy does not read is a mistake, whatever it says.
Yaml take(const Yaml& map, const char* key, bool taken, const std::string& policy) {
  const Yaml node = map.optional(key);
  if (node.present() && !taken)
    node.fail("router " + policy + " does not take this key; leave it out (docs/routers.md says which do)");
  if (node.is_map() && !taken) node.entries();
  return taken ? node : Yaml();
}

void read_speed(const Yaml& node, RouterSpec& router) {
  if (!node.present()) return;
  if (!node.is_map()) {
    router.speed = node.choice({"alike", "price"}) == 1 ? RouterSpec::Speed::price : RouterSpec::Speed::alike;
    return;
  }
  router.speed = RouterSpec::Speed::stated;
  for (const auto& [pool, value] : node.entries())
    router.speeds.emplace_back(pool, value.number(1, 1e-3, 1e3));
}

}  // namespace

RouterSpec read_router(const Yaml& node) {
  RouterSpec router;
  if (!node.is_map()) {
    router.policy = policy_of(node);
    if (router.gathers_batches())
      node.fail("needs batch_ms, how long a batch of arrivals is gathered; for example {policy: " +
                router.policy + ", batch_ms: 20}");
    return router;
  }
  router.policy = policy_of(node.require("policy"));
  const RouterKeys& keys = find_router(router.policy)->keys;
  router.period = milliseconds(take(node, "period_ms", keys.telemetry, router.policy));
  router.delay = milliseconds(take(node, "delay_ms", keys.telemetry, router.policy));
  router.overlap_weight = take(node, "overlap_weight", keys.overlap, router.policy).number(1, 0, 1e9);
  if (const Yaml load = take(node, "load", keys.overlap, router.policy); load.present())
    router.load_in_blocks = load.choice({"blocks", "requests"}) == 0;
  read_speed(take(node, "speed", keys.speed, router.policy), router);
  const Yaml batch = take(node, "batch_ms", keys.batch, router.policy);
  if (keys.batch && !batch.present()) node.require("batch_ms");
  router.batch = milliseconds(batch);
  return router;
}

namespace {

bool has_window(const ModelSpec& model) {
  return std::any_of(model.layer_kinds.begin(), model.layer_kinds.end(),
                     [](const LayerKind& kind) { return kind.sliding_window > 0; });
}

void check_caches(const Yaml& router, const PoolSpec& pool) {
  const EngineProfile& engine = pool.instance.engine;
  const auto refuse = [&](const std::string& what) {
    router.fail("router kv-aware " + what + "; take another router");
  };
  if (engine.engine != "vllm" && engine.engine != "sglang")
    refuse("reads the KV events of vllm and sglang; those of " + engine.engine + " are not modelled");
  if (!engine.settings.enable_prefix_caching)
    refuse("needs prefix caches, which pool " + quote(pool.name) + " has not");
  if (has_window(pool.instance.model)) refuse("beside layers with a sliding window is not modelled");
  if (pool.instance.model.state.present()) refuse("beside layers with a state is not modelled");
  if (engine.settings.kv_offload_bytes > 0) refuse("beside KV blocks in host memory is not modelled");
  if (engine.engine == "sglang" && pool.role == PoolRole::decode)
    refuse("needs prefix caches, which SGLang's decode servers have not");
  if (engine.engine == "sglang" && pool.instance.speculation.on())
    refuse("beside speculation on sglang is not modelled");
}

void check_books(const Yaml& at, const PoolSpec& pool, const RouterSpec& router) {
  if (pool.instance.plan.dp == 1 && pool.instance.engines == 1) return;
  at.fail("router " + router.policy +
          " keeps books of instances, not of the ranks behind one front end (dp above 1); take least-loaded, "
          "prefix-aware or round-robin");
}

void check_speed(const Yaml& router, const PoolSpec& pool, const std::vector<const PoolSpec*>& pools) {
  if (pool.router.speed == RouterSpec::Speed::alike) return;
  const Yaml speed = router.optional("speed");
  std::vector<std::string> names;
  for (const PoolSpec* other : pools)
    if (other->role == pool.role) names.push_back(other->name);
  if (names.size() == 1)
    return speed.fail("there is one pool of this role, whose instances are alike; leave it out");
  if (pool.router.speed == RouterSpec::Speed::price) {
    const bool ranks = std::any_of(pools.begin(), pools.end(), [&](const PoolSpec* other) {
      return other->role == pool.role && other->instance.plan.dp > 1;
    });
    if (ranks || pool.role == PoolRole::encoder)
      speed.fail(
          "no reference step is priced for encoder pools and pools with dp above 1; state speeds, for "
          "example {" +
          names[0] + ": 1, " + names[1] + ": 2}");
    return;
  }
  const auto& given = pool.router.speeds;
  for (const std::string& name : names) {
    if (std::none_of(given.begin(), given.end(), [&](const auto& s) { return s.first == name; }))
      speed.fail("pool " + quote(name) + " stands behind this router and has no speed; give every one some");
  }
  for (const auto& [name, value] : given) {
    if (std::find(names.begin(), names.end(), name) == names.end())
      speed.fail("no pool " + quote(name) + " stands behind this router; those are " + join(names, ", "));
  }
}

}  // namespace

void check_routers(const std::vector<Yaml>& nodes, const std::vector<const PoolSpec*>& pools) {
  if (nodes.size() != pools.size()) return;  // an empty list, which has been reported
  for (std::size_t i = 0; i < pools.size(); ++i) {
    const PoolSpec& pool = *pools[i];
    const auto first = std::find_if(pools.begin(), pools.end(),
                                    [&](const PoolSpec* other) { return other->role == pool.role; });
    const RouterSpec& router = (*first)->router;  // of a pool that names none, too
    const Yaml own = nodes[i].optional("router"), at = own.present() ? own : nodes[i].optional("name");
    if (own.present() && router != pool.router) {
      own.fail("pools of one role stand behind one router, and that of " + quote((*first)->name) + " is " +
               router.policy + (pool.router.policy == router.policy ? " with other keys" : ""));
      continue;
    }
    const bool keeps_books = router.policy == "kv-aware" || router.policy == "slots";
    if (router.policy == "kv-aware") check_caches(at, pool);
    const bool encoders = std::any_of(pools.begin(), pools.end(),
                                      [](const PoolSpec* p) { return p->role == PoolRole::encoder; });
    if (router.gathers_batches() && encoders && pool.role == PoolRole::mixed)
      at.fail(
          "requests with images come from the encoder pool one by one, not in batches; take another router "
          "for the language instances");
    if (keeps_books) check_books(at, pool, router);
    if (router.gathers_batches() && pool.role == PoolRole::decode)
      at.fail(
          "a decode pool is sent what prefill instances have answered, which does not arrive in batches; "
          "take least-loaded or slots");
    if (keeps_books && pool.role == PoolRole::encoder)
      at.fail("an encoder pool keeps no KV; take least-loaded or round-robin");
    if (*first == pools[i]) check_speed(at, pool, pools);
  }
}

namespace {

// Nanoseconds of the reference request.
std::int64_t reference_time(const PricedPool& pool) {
  constexpr std::int64_t prompt = 1024, output = 128, batch = 64;
  std::int64_t time = 0;
  if (pool.spec->role != PoolRole::decode) {
    const PrefillChunk chunk{.new_tokens = prompt, .context = 0};
    StepShape shape;
    shape.prefill = {&chunk, 1};
    time += pool.pricer->explain(shape).step_ns;
  }
  if (pool.spec->role != PoolRole::prefill) {
    StepShape shape;
    shape.decode_sequences = batch;
    shape.decode_context_tokens = batch * (prompt + output / 2);
    time += pool.pricer->explain(shape).step_ns * output / batch;
  }
  return std::max<std::int64_t>(1, time);
}

std::int64_t weight_of(const RouterSpec& router, const PricedPool& pool) {
  if (router.speed == RouterSpec::Speed::price) return reference_time(pool);
  for (const auto& [name, speed] : router.speeds)
    if (name == pool.spec->name) return round_half_even(1e6 / speed);
  return 1;
}

}  // namespace

RouterConfig router_config(const RouterSpec& router, const std::vector<PricedPool>& pools) {
  RouterConfig config{.overlap_weight = router.overlap_weight, .load_in_blocks = router.load_in_blocks};
  for (const PricedPool& pool : pools) {
    const SchedulerConfig scheduler = pool.spec->scheduler_config();
    const RoutedInstance one{.weight = weight_of(router, pool),
                             .kv_tokens = pool.spec->memory.kv_tokens(),
                             .max_sequences = scheduler.max_num_seqs,
                             .block_size = scheduler.block_size};
    config.instances.insert(config.instances.end(), static_cast<std::size_t>(pool.spec->replicas), one);
  }
  return config;
}

}  // namespace orrery

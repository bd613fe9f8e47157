#include "costmodel/typed_pools.h"

#include "base/json.h"
#include "costmodel/instance_spec.h"
#include "costmodel/memory_plan.h"

namespace orrery {

// SGLang's FlashAttention alone; its Triton reads what is stored.
bool copies_latents(const InstanceSpec& spec) {
  return spec.engine.engine == "sglang" && spec.engine.latent.name == "FlashAttention 3" &&
         bytes_per_element(spec.model.kv_dtype) < 2;
}

namespace {

Error infeasible(const std::string& message) {
  return make_error(ErrorKind::infeasible, message, {}, "deployment");
}

std::int64_t latents_of_layer(const InstanceSpec& spec, const MemoryPlan& plan) {
  return plan.kv_blocks * plan.block_size * (spec.model.latent.rank + spec.model.latent.rotary_dim);
}

// The copy stands beside the pool while a layer runs: what the engine leaves out of its pools must hold it.
Status check_copied_latents(const InstanceSpec& spec, const MemoryPlan& plan) {
  if (!copies_latents(spec)) return ok_status();
  const double copy = 2.0 * static_cast<double>(latents_of_layer(spec, plan));
  const double left = plan.total.value() - plan.weights.value() -
                      plan.kv_bytes_per_token.value() * static_cast<double>(plan.kv_blocks * plan.block_size);
  if (copy <= left) return ok_status();
  constexpr double gib = 1024.0 * 1024 * 1024;
  return infeasible("attention over 8-bit latents copies a layer's pool to 16 bits, which takes " +
                    format_fixed(copy / gib, 2) + " GiB, and the pools leave " + format_fixed(left / gib, 2) +
                    " GiB; a lower mem_fraction_static or max_total_tokens, or kv_cache_dtype: bf16");
}

}  // namespace

// Pools too small to start.
Status check_pools_of_typed(const InstanceSpec& spec, const MemoryPlan& plan) {
  const bool windowed = plan.windowed_pool_tokens > 0;
  if (windowed && plan.groups.window - 1 + plan.block_size >= plan.windowed_pool_tokens)
    return infeasible("the pool of the layers with a sliding window has " +
                      std::to_string(plan.windowed_pool_tokens) +
                      " tokens, which is not one window; raise swa_full_tokens_ratio or max_total_tokens");
  ORRERY_TRY_STATUS(check_copied_latents(spec, plan));
  return ok_status();
}

std::int64_t copied_latents(const InstanceSpec& spec) {
  const Result<MemoryPlan> plan = plan_memory(spec);
  return plan.ok() ? latents_of_layer(spec, plan.value()) : 0;
}

}  // namespace orrery

// Which scenarios run on kernels.
#include "live/kernel_run.h"

namespace orrery {

namespace {

class Refusals {
 public:
  Refusals(const Scenario& scenario, bool waits) : s_(scenario), waits_(waits) {}

  Errors take() {
    const std::vector<const PoolSpec*> pools = s_.pools();
    const bool apart =
        pools.size() == 2 && pools[0]->role == PoolRole::prefill && pools[1]->role == PoolRole::decode;
    refuse(pools.size() > 1 && !apart, "deployment.pools",
           "of several pools one of prefill and one of decode, in this order, run on kernels");
    refuse(pools.size() == 1 && pools.front()->role != PoolRole::mixed, "deployment.pools",
           "a pool by itself runs on kernels as a mixed one");
    for (const PoolSpec* pool : pools) {
      check_instance(pool->instance);
      check_pool(*pool);
      if (!apart) continue;
      refuse(pool->engines() > 1, "deployment.pools",
             "prefill and decode pools run on kernels as one instance each");
      refuse(pool->instance.plan.gpus() > 1, "deployment.pools",
             "prefill and decode pools run on kernels as one GPU each");
    }
    refuse(!s_.faults.empty(), "faults", "instances on kernels do not come and go");
    refuse(s_.is_what_if, "overrides.op_scale", "a what-if has no kernels");
    refuse(waits_ && s_.workload.openai_frontend, "workload.frontend", "the live engine has no API server");
    return std::move(errors_);
  }

 private:
  void refuse(bool wrong, const char* key, const std::string& why) {
    if (wrong) errors_.push_back(invalid_input(why + " (docs/limits.md)", {s_.file, 0, 0}, key));
  }

  void check_pool(const PoolSpec& pool) {
    const SchedulerConfig config = pool.scheduler_config();
    refuse(config.kv_groups.count() > 1 || config.kv_groups.states > 0, "deployment.model",
           "layers with windows or states do not run on kernels");
    refuse(config.offload.blocks > 0, "deployment.engine_args",
           "a tier of KV in host memory does not run on kernels");
    refuse(config.block_size != kernel_block, "deployment.engine_args.block_size",
           "kernels read KV blocks of 16 tokens");
    refuse(pool.router.policy == "kv-aware", "deployment.router",
           "kv-aware listens to what kernels' blocks are placed by");
    refuse(pool.first_request_effects, "deployment.first_request_effects",
           "what a first use takes is not modelled beside real kernels");
    refuse(pool.autoscale || pool.update_at_s >= 0, "faults", "instances on kernels do not come and go");
    refuse(waits_ && pool.engines() > 1, "deployment.replicas",
           "one GPU is one instance in real time; --clock virtual lets it stand for several");
  }

  void check_instance(const InstanceSpec& i) {
    const ParallelPlan& plan = i.plan;
    refuse(plan.gpus() > plan.tp || plan.tp > 2, "deployment.parallel",
           "kernels run on one GPU an instance, or on two that share out its layers (tp: 2) and, where ep: 2 "
           "says so, its experts");
    refuse(i.engine.scheduler != "vllm-v1", "deployment.engine",
           "only the rules of vLLM's scheduler run on kernels (engine: orrery, or a vLLM)");
    refuse(i.speculation.on(), "deployment.speculation", "drafts do not run on kernels");
    refuse(i.experts.eplb.policy != BalancingSpec::Policy::off, "deployment.experts.eplb",
           "experts stay where they are on kernels: nothing moves their weights");
  }

  const Scenario& s_;
  bool waits_;
  Errors errors_;
};

}  // namespace

Status check_kernel_scenario(const Scenario& scenario, bool waits) {
  Errors errors = Refusals(scenario, waits).take();
  if (!errors.empty()) return errors;
  return ok_status();
}

}  // namespace orrery

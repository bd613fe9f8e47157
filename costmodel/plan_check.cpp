#include "costmodel/plan_check.h"

#include <algorithm>

namespace orrery {

namespace {

class PlanCheck {
 public:
  PlanCheck(const InstanceSpec& spec, const Roofline& roofline)
      : spec_(spec), model_(spec.model), roofline_(roofline), tp_(spec.plan.tp),
        mlp_ranks_(spec.plan.mlp_ranks()), dense_ranks_(spec.dense_ranks()) {}

  Errors run() {
    if (tp_ < 1) {
      fail("must be at least 1", "parallel.tp");
      return std::move(errors_);
    }
    check_heads();
    for (const LayerKind& kind : model_.layer_kinds) check_layer(kind);
    check_part();
    if (spec_.speculation.has_network()) check_draft();
    return std::move(errors_);
  }

 private:
  void fail(const std::string& message, const std::string& key) {
    errors_.push_back(invalid_input(message, {}, key));
  }

  void check_divides(std::int64_t value, const std::string& what) {
    if (value % tp_ != 0) {
      fail(what + " (" + std::to_string(value) + ") is not divisible by tp = " + std::to_string(tp_),
           "parallel.tp");
    }
  }

  void check_spreads(std::int64_t value, std::int64_t ranks, const std::string& what) {
    if (ranks == tp_) return check_divides(value, what);
    if (value % ranks != 0) {
      fail(what + " (" + std::to_string(value) + ") is not divisible by the " + std::to_string(ranks) +
               " GPUs (tp x dp) that it is spread over",
           "parallel.dp");
    }
  }

  void check_heads() {
    check_divides(model_.heads, "number of attention heads");
    if (model_.kv_heads % tp_ != 0 && tp_ % std::max<std::int64_t>(1, model_.kv_heads) != 0) {
      fail("KV heads (" + std::to_string(model_.kv_heads) + ") and tp = " + std::to_string(tp_) +
               " do not divide one another",
           "parallel.tp");
    }
  }

  void check_layer(const LayerKind& kind) {
    if (kind.mixer == Mixer::state) {
      check_divides(model_.state.key_heads, "number of key heads (groups) of the layers with a state");
      check_divides(model_.state.value_heads, "number of value heads of the layers with a state");
    }
    if (!kind.feeds_forward) return;
    if (!kind.moe) return check_spreads(model_.intermediate, spec_.dense_mlp_ranks(), "MLP width");
    check_spreads(model_.expert_intermediate * spec_.plan.ep, mlp_ranks_, "expert width");
    check_spreads(model_.shared_expert_intermediate, spec_.shared_expert_ranks(),
                  "width of the shared experts");
    if (model_.experts % spec_.plan.ep != 0) {
      fail("number of experts (" + std::to_string(model_.experts) +
               ") is not divisible by ep = " + std::to_string(spec_.plan.ep),
           "parallel.ep");
    }
  }

  void check_draft() {
    const SpeculationSpec& s = spec_.speculation;
    if (model_.output_norms)
      fail("a drafting network of " + model_.architecture + " is not modelled; use method: ngram, or off",
           "speculation.method");
    if (draft_layer(s, model_).moe) return;
    check_divides(s.method == SpeculationMethod::eagle ? s.draft.intermediate : model_.intermediate,
                  "MLP width of the drafting layer");
  }

  void check_part() {
    const DType attention = model_.activation_dtype == DType::fp16 ? DType::fp16 : DType::bf16;
    if (!roofline_.has_math(attention)) {
      fail(
          spec_.hardware.name + " has no matrix rate for " + to_string(attention) + ", which attention needs",
          "hardware");
    }
    if (spec_.plan.gpus() > 1 && !roofline_.has_link())
      fail("the part has no scale-up link figures, which tp, pp and dp > 1 need", "parallel.tp");
  }

  const InstanceSpec& spec_;
  const ModelSpec& model_;
  const Roofline& roofline_;
  std::int64_t tp_, mlp_ranks_, dense_ranks_;
  Errors errors_;
};

}  // namespace

Errors check_plan(const InstanceSpec& spec, const Roofline& roofline) {
  return PlanCheck(spec, roofline).run();
}

}  // namespace orrery

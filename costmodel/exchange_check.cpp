#include "costmodel/exchange_check.h"

#include <algorithm>
#include <array>

#include "costmodel/expert_exchange.h"

namespace orrery {

namespace {

// Widths that DeepEP's low-latency kernels are compiled for (prepare_finalize/deepep_ll.py of vLLM 0.24.0).
constexpr std::array<std::int64_t, 8> low_latency_widths{2048, 2560, 3072, 4096, 5120, 6144, 7168, 8192};
constexpr std::int64_t most_low_latency_tokens = 1024;  // layers/moe/token_dispatcher/deepep.py of SGLang
                                                        // 0.5.23

class ExchangeCheck {
 public:
  ExchangeCheck(const InstanceSpec& spec, const ExchangeTable& table, const Yaml& place)
      : spec_(spec), joint_(spec.engine.settings.joint), table_(table), place_(place) {}

  void run() {
    const ModelSpec& m = spec_.model;
    const std::int32_t ranks = spec_.plan.ep;
    if (ranks > gpus_of_node && ranks % gpus_of_node != 0)
      place_.fail("ranks stand in nodes of " + std::to_string(gpus_of_node) +
                  "; expected a multiple of them, not " + std::to_string(ranks));
    if (ranks > gpus_of_node && !table_.normal.dispatch.network.present())
      place_.fail("timings of " + table_.library + " on " + table_.name +
                  " over several nodes are not in its table; "
                  "expected at most " +
                  std::to_string(gpus_of_node) + " ranks");
    if (m.experts < table_.least_experts)
      place_.fail("timings of " + table_.library + " are of at least " +
                  std::to_string(table_.least_experts) +
                  " experts, and those with fewer do not follow them; " + m.name + " has " +
                  std::to_string(m.experts));
    check_formats();
    if (joint_.exchange != ExpertExchange::normal) check_low_latency();
    if (joint_.two_batches.on && joint_.exchange_library == "mori")
      place_.fail("two batches are not run over MoRI (vLLM asserts it); use enable_dbo: false");
  }

 private:
  // Other formats are sent in 16 bits and quantised where they arrive, with padding that nobody timed.
  void check_formats() const {
    const Quantization q = spec_.model.quantization;
    const bool channels = q == Quantization::fp8_channel && joint_.exchange_library == "mori";
    if (q != Quantization::none && q != Quantization::fp8_block && !channels)
      place_.fail(
          "is modelled for experts in bf16 or in 8 bits with scales of 128 x 128 blocks; use "
          "deployment.quantization accordingly");
  }

  void check_low_latency() const {
    if (!table_.low_latency.dispatch.rate.present())
      return place_.fail("low-latency kernels of " + table_.library + " are not in the table of " +
                         table_.name);
    const auto& widths = low_latency_widths;
    if (std::find(widths.begin(), widths.end(), spec_.model.hidden) == widths.end())
      place_.fail("low-latency kernels are not compiled for rows of " + std::to_string(spec_.model.hidden) +
                  " values");
    const SchedulerSettings& s = spec_.engine.settings;
    const bool all_steps = joint_.exchange == ExpertExchange::low_latency;
    if (spec_.engine.engine == "sglang" && all_steps && s.max_num_batched_tokens > most_low_latency_tokens)
      place_.fail("low-latency kernels take at most " + std::to_string(most_low_latency_tokens) +
                  " tokens of a rank, and a step may have " + std::to_string(s.max_num_batched_tokens) +
                  "; lower chunked_prefill_size and max_running_requests, or use deepep_mode: auto");
  }

  const InstanceSpec& spec_;
  const JointSettings& joint_;
  const ExchangeTable& table_;
  const Yaml place_;
};

}  // namespace

void read_exchange(InstanceSpec& spec, const Yaml& args, Errors& errors) {
  const Yaml vllm = args.optional("all2all_backend"), sglang = args.optional("moe_a2a_backend");
  const Yaml place = vllm.present() ? vllm : sglang;
  auto loaded = load_exchange(spec.engine.settings.joint.exchange_library, spec.hardware);
  if (!loaded.ok()) {
    for (const Error& error : loaded.errors()) {
      if (error.where.file.empty())
        place.fail(error.message);
      else
        errors.push_back(error);
    }
    return;
  }
  spec.exchange = std::make_shared<ExchangeTable>(std::move(loaded).value());
  ExchangeCheck(spec, *spec.exchange, place).run();
}

}  // namespace orrery

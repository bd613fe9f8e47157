// Instances written down by hand for the cost model's laws: round figures of a Hopper-like part, so that a
// test does not change when a profile learns a better number. Source of every figure: "test".
#pragma once

#include <initializer_list>
#include <utility>

#include "costmodel/step_pricer.h"

namespace orrery::hand {

template <class Q>
Figure<Q> figure(double value) {
  return {Q(value), FigureKind::assumed, "test"};
}
inline Figure<double> plain(double value) { return {value, FigureKind::assumed, "test"}; }
inline Figure<Seconds> us(double value) { return figure<Seconds>(value * 1e-6); }

inline HardwareProfile hardware() {
  HardwareProfile h;
  h.name = "testpart";
  h.matrix_rate[DType::bf16] = figure<FlopsPerSecond>(1000e12);
  h.matrix_rate[DType::fp16] = figure<FlopsPerSecond>(1000e12);
  h.matrix_rate[DType::fp8] = figure<FlopsPerSecond>(2000e12);
  h.vector_rate = figure<FlopsPerSecond>(60e12);
  h.memory_total = figure<Bytes>(140e9);
  h.memory_bandwidth = figure<BytesPerSecond>(5e12);
  h.l2 = h.last_level_cache = figure<Bytes>(50e6);
  h.compute_units = plain(132);
  h.clock_peak = figure<Hertz>(1.8e9);
  h.kernel_floor = us(1.3);
  h.link_bandwidth = h.link_pair_bandwidth = figure<BytesPerSecond>(450e9);
  h.link_efficiency = plain(0.75);
  h.collective_latency = us(3.5);
  const std::initializer_list<std::pair<const char*, double>> efficiencies{
      {"gemm_bf16", 0.75},        {"gemm_fp8", 0.6},         {"grouped_gemm_bf16", 0.5},
      {"attention_prefill", 0.6}, {"attention_decode", 0.8}, {"memory", 0.9}};
  for (const auto& [name, value] : efficiencies) h.efficiency[name] = Efficiency{plain(value), 0.1};
  h.fp8_format = "ocp";
  return h;
}

inline EngineProfile engine() {
  EngineProfile e;
  e.name = "test-engine";
  e.steps_in_flight = 2;
  e.settings.cudagraph_sizes = {1, 2, 4};
  for (std::int64_t size = 8; size < 256; size += 8) e.settings.cudagraph_sizes.push_back(size);
  for (std::int64_t size = 256; size <= 512; size += 16) e.settings.cudagraph_sizes.push_back(size);
  e.host.schedule_base = us(100);
  e.host.schedule_per_sequence = us(7);
  e.host.schedule_per_new_request = us(50);
  e.host.prepare_base = us(500);
  e.host.prepare_per_sequence = us(3);
  e.host.prepare_rpc = us(150);
  e.host.launch_graph = us(300);
  e.host.launch_piece = us(50);
  e.host.launch_kernel = us(5);
  e.host.launch_experts = us(40);
  e.host.launch_collective = us(20);
  e.host.stream_gap = us(1);
  e.host.step_gap = us(0);
  e.host.launch_jitter_median.value = 1;
  e.host.prepare_per_sequence_v1 = us(6);
  e.host.copy = us(100);
  e.host.update_base = us(70);
  e.host.update_per_sequence = us(5);
  e.host.loop_gap = us(50);
  e.host.input_delay = us(200);
  e.host.input_per_request = us(0);
  e.host.input_per_token = us(0);
  e.host.core_wake = us(0);
  e.host.output_delay = us(300);
  e.interval_host_error = 0.3;
  return e;
}

inline WeightTensor tensor(const char* name, std::int64_t rows, std::int64_t columns,
                           DType dtype = DType::bf16, std::int64_t copies = 1) {
  WeightTensor t;
  t.name = name;
  t.rows = rows;
  t.columns = columns;
  t.copies = copies;
  t.dtype = dtype;
  return t;
}

// Shape of Qwen3-8B.
inline ModelSpec dense(DType weights = DType::bf16) {
  ModelSpec m;
  m.name = "dense";
  m.layers = 36;
  m.hidden = 4096;
  m.heads = 32;
  m.kv_heads = 8;
  m.head_dim = 128;
  m.intermediate = 12288;
  m.vocabulary = 151936;
  m.qk_norm = true;
  m.quantization = weights == DType::fp8 ? Quantization::fp8_block : Quantization::none;
  LayerKind kind;
  kind.count = m.layers;
  kind.weights = {tensor("q_proj", 4096, 4096, weights),     tensor("k_proj", 1024, 4096, weights),
                  tensor("v_proj", 1024, 4096, weights),     tensor("o_proj", 4096, 4096, weights),
                  tensor("gate_proj", 12288, 4096, weights), tensor("up_proj", 12288, 4096, weights),
                  tensor("down_proj", 4096, 12288, weights)};
  m.layer_kinds = {kind};
  m.global_weights = {tensor("embed_tokens", 151936, 4096), tensor("lm_head", 151936, 4096)};
  return m;
}

// Shape of Qwen3-30B-A3B.
inline ModelSpec mixture(DType weights = DType::bf16) {
  ModelSpec m;
  m.name = "mixture";
  m.layers = 48;
  m.hidden = 2048;
  m.heads = 32;
  m.kv_heads = 4;
  m.head_dim = 128;
  m.vocabulary = 151936;
  m.experts = 128;
  m.experts_per_token = 8;
  m.expert_intermediate = 768;
  m.quantization = weights == DType::fp8 ? Quantization::fp8_block : Quantization::none;
  LayerKind kind;
  kind.count = m.layers;
  kind.moe = true;
  kind.weights = {tensor("q_proj", 4096, 2048, weights),
                  tensor("k_proj", 512, 2048, weights),
                  tensor("v_proj", 512, 2048, weights),
                  tensor("o_proj", 2048, 4096, weights),
                  tensor("router", 128, 2048),
                  tensor("experts.gate_up", 1536, 2048, weights, 128),
                  tensor("experts.down", 2048, 768, weights, 128)};
  m.layer_kinds = {kind};
  m.global_weights = {tensor("embed_tokens", 151936, 2048), tensor("lm_head", 151936, 2048)};
  return m;
}

inline InstanceSpec instance(ModelSpec model, std::int32_t tp = 1) {
  InstanceSpec spec;
  spec.hardware = hardware();
  spec.model = std::move(model);
  spec.plan.tp = tp;
  spec.engine = engine();
  return spec;
}

inline StepShape decode(std::int32_t sequences, std::int64_t context_sum) {
  StepShape shape;
  shape.decode_sequences = sequences;
  shape.decode_context_tokens = context_sum;
  return shape;
}

inline StepShape prefill(std::span<const PrefillChunk> chunks) {
  StepShape shape;
  shape.prefill = chunks;
  return shape;
}

}  // namespace orrery::hand

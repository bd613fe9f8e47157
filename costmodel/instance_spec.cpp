#include "costmodel/instance_spec.h"

#include "base/text.h"
#include "costmodel/engine_loader.h"
#include "costmodel/profile_folder.h"

namespace orrery {

namespace {

// Errors of a file of ours keep their place; "unknown name" errors get the place of the key that named it.
void report(const Errors& found, const Yaml& node, Errors& errors) {
  for (Error e : found) {
    if (e.where.file.empty()) {
      e.where = node.where();
      e.key = node.path();
    }
    errors.push_back(std::move(e));
  }
}

void check_divisible(const Yaml& deployment, const InstanceSpec& s) {
  const ModelSpec& m = s.model;
  const std::int64_t tp = s.plan.tp;
  const Yaml place = deployment.optional("parallel").present() ? deployment.optional("parallel") : deployment;
  const auto need = [&](std::int64_t what, const char* name) {
    if (what > 0 && what % tp != 0) {
      place.fail("tp = " + std::to_string(tp) + " does not divide the model's " + name + " (" + std::to_string(what) + ")");
    }
  };
  need(m.heads, "attention heads");
  if (m.kv_heads % tp != 0 && tp % m.kv_heads != 0) need(m.kv_heads, "KV heads");
  if (m.experts == 0) need(m.intermediate, "intermediate size");
  need(m.expert_intermediate, "expert width");
  need(m.vocabulary, "vocabulary");
  if (m.quantization == Quantization::fp8_block && m.expert_intermediate > 0 &&
      m.expert_intermediate / tp % m.quantization_block != 0) {
    place.fail("tp = " + std::to_string(tp) + " leaves experts of width " + std::to_string(m.expert_intermediate / tp) +
               ", which is no multiple of the weight block " + std::to_string(m.quantization_block));
  }
}

}  // namespace

InstanceSpec read_instance_spec(const Yaml& node, const std::string& folder, Errors& errors) {
  InstanceSpec spec;
  bool complete = true;
  const Yaml hardware = node.require("hardware"), model = node.require("model"), engine = node.require("engine");
  const std::string hardware_name = hardware.text(), model_name = model.text(), engine_name = engine.text();
  std::string quantization, kv_dtype = "auto";
  if (const Yaml q = node.optional("quantization"); q.present()) {
    const std::vector<std::string> names = {"bf16", "fp8-block", "fp8-tensor", "fp8-channel", "w4a8", "w4a16", "int4", "mxfp4"};
    quantization = names[q.choice(names)];
  }
  if (const Yaml kv = node.optional("kv_cache_dtype"); kv.present()) {
    const std::vector<std::string> names = {"auto", "fp8"};
    kv_dtype = names[kv.choice(names)];
  }
  spec.plan = read_parallel_plan(node.optional("parallel"));
  const Yaml args = node.optional("engine_args");

  if (hardware.present() && !hardware_name.empty()) {
    if (auto h = load_hardware(hardware_name); h.ok()) spec.hardware = std::move(h).value();
    else { report(h.errors(), hardware, errors); complete = false; }
  }
  if (model.present() && !model_name.empty()) {
    if (auto m = load_model(model_name, folder, quantization, kv_dtype); m.ok()) spec.model = std::move(m).value();
    else { report(m.errors(), model, errors); complete = false; }
  }
  complete &= hardware.present() && model.present() && engine.present();
  if (engine.present() && !engine_name.empty()) {
    auto e = load_engine(engine_name);
    if (e.ok()) {
      spec.engine = resolve_engine(e.value(), args, spec.hardware.memory_total.value, spec.model.architecture, spec.model.max_positions);
    } else {
      report(e.errors(), engine, errors);
      complete = false;
      if (args.is_map()) args.entries();
    }
  }
  if (complete) check_divisible(node, spec);
  return spec;
}

Result<std::vector<ListEntry>> list_hardware() {
  std::vector<ListEntry> out;
  for (const std::string& name : profile_names("hardware_profiles")) {
    ORRERY_TRY(h, load_hardware(name));
    std::string rates;
    for (const auto& [dtype, rate] : h.matrix_rate) {
      rates += std::string(rates.empty() ? "" : ", ") + to_string(dtype) + " " + human_count(rate.value.value() * 1e-12);
    }
    out.push_back({name,
                   h.description + ", " + human_bytes(h.memory_total.value.value()) + " at " +
                       human_bytes(h.memory_bandwidth.value.value()) + "/s",
                   "TFLOP/s " + rates + " (" + to_string(h.memory_bandwidth.kind) + "); prices: roofline with class efficiencies"});
  }
  return out;
}

Result<std::vector<ListEntry>> list_models() {
  std::vector<ListEntry> out;
  for (const std::string& name : profile_names("model_profiles")) {
    ORRERY_TRY(m, load_model(name, ".", "", "auto"));
    out.push_back({name,
                   m.architecture + ", " + human_count(static_cast<double>(m.parameters())) + " parameters, " +
                       to_string(m.quantization) + ", " + human_bytes(m.weight_bytes().value()),
                   "published: Hugging Face config.json"});
  }
  return out;
}

Result<std::vector<ListEntry>> list_engines() {
  std::vector<ListEntry> out;
  for (const std::string& name : profile_names("engine_profiles")) {
    ORRERY_TRY(e, load_engine(name));
    out.push_back({name, e.description, "rules from the engine's source; host costs published or assumed"});
  }
  return out;
}

}  // namespace orrery

#include "costmodel/model_spec.h"

#include <filesystem>

#include "base/text.h"
#include "costmodel/engine_profile.h"
#include "costmodel/model_config.h"
#include "costmodel/multimodal_config.h"
#include "costmodel/profile_folder.h"
#include "costmodel/profile_reader.h"
#include "costmodel/quantization.h"

namespace orrery {

namespace fs = std::filesystem;

namespace {

struct ModelFile {
  std::string path, name;
  bool is_profile = false;  // ours, with the config's fields under `config:`
};

Result<ModelFile> find_model(const std::string& name_or_path, const std::string& folder) {
  const bool path_like = name_or_path.find('/') != std::string::npos || name_or_path.ends_with(".json");
  if (!path_like) {
    const auto found = find_profile("model_profiles", name_or_path, "model");
    if (found.ok()) return ModelFile{found.value(), name_or_path, true};
    return invalid_input(found.errors()[0].message + "; or a path to a Hugging Face config.json", {},
                         "model");
  }
  fs::path path = name_or_path;
  if (path.is_relative()) path = fs::path(folder) / path;
  std::error_code ec;
  if (fs::is_directory(path, ec)) path /= "config.json";
  path = path.lexically_normal();
  std::string name = path.stem().string();  // "…/Qwen3-8B/config.json" is called after its folder
  if (name.ends_with("_config")) name.resize(name.size() - 7);
  if (name == "config" && path.has_parent_path()) name = path.parent_path().filename().string();
  return ModelFile{path.string(), name, false};
}

struct ReadModel {
  ModelSpec model;
  QuantizationPlan plan;
};

// Some exporters put the quantisation beside config.json; taking such a model for bf16 would be silently
// wrong.
void refuse_quantization_beside(const Yaml& config, const ModelFile& file, const std::string& wanted) {
  const fs::path path = file.path;
  std::string name = path.filename().string();
  if (!wanted.empty() || config.optional("quantization_config").present() || !name.ends_with("config.json"))
    return;
  name.insert(name.size() - std::string("config.json").size(), "hf_quant_");
  std::error_code ec;
  if (!fs::exists(path.parent_path() / name, ec)) return;
  config.fail("the weights are quantised as " + name +
              " beside this file says, which Orrery does not read; say it by "
              "deployment.quantization (bf16 for weights that are not)");
}

// Kimi-K2.5: the decoder of a multimodal model whose encoder is not modelled. Its other fields are accepted:
// they describe the encoder and placeholders of images, which a scenario cannot send to a model without one.
Yaml text_only(const Yaml& root) {
  const Yaml list = root.is_map() ? root.optional("architectures") : Yaml{};
  if (!list.present() || !list.is_list()) return {};
  const std::vector<Yaml> items = list.items();
  if (items.size() != 1 || items[0].scalar_text() != "KimiK25ForConditionalGeneration") return {};
  const Yaml text = root.require("text_config");
  for (const auto& [key, value] : root.entries()) {
    if (key != "text_config") accept_all(value);
  }
  return text;
}

ReadModel read_document(const Yaml& root, const ModelFile& file) {
  ReadModel read;
  Yaml config = root;
  if (file.is_profile) {
    check_profile_name(root.require("name"), file.name);
    root.require("description").text();
    root.require("kind").choice({"published", "assumed"});
    const Yaml source = root.require("source");
    if (source.present() && source.text().empty()) source.fail("say where the config was published");
    config = root.require("config");
  }
  if (!config.present()) return read;
  const VisionArchitecture* multimodal = vision_architecture_of(config);
  if (const Yaml text = text_only(config); text.present()) {
    read.model = read_model_config(text, "DeepseekV3ForCausalLM", config);
    config = text;  // holds the quantisation
  } else {
    read.model =
        multimodal != nullptr ? read_multimodal_config(config, *multimodal) : read_model_config(config);
  }
  if (!read.model.layer_kinds.empty())
    read.plan = read_quantization_config(config.optional("quantization_config"), read.model.layers);
  else
    accept_all(config.optional("quantization_config"));
  return read;
}

// What the scenario asks for replaces what the config says; its list of kept modules stays.
Status override_quantization(const std::string& wanted, QuantizationPlan& plan) {
  if (wanted.empty()) return ok_status();
  Quantization scheme = Quantization::none;
  if (!named_quantization(wanted, scheme)) {
    const std::vector<std::string> names = quantization_names();
    return invalid_input("unknown quantisation " + quote(wanted) + did_you_mean(wanted, names) +
                             "; known: " + join(names, ", "),
                         {}, "quantization");
  }
  if (scheme == plan.scheme) return ok_status();
  plan.scheme = scheme;
  plan.block = 128;
  plan.experts_only = false;
  return ok_status();
}

Status set_kv_dtype(const std::string& wanted, const QuantizationPlan& plan, ModelSpec& model) {
  model.kv_dtype = model.activation_dtype;
  if (wanted.empty() || wanted == "auto") {
    if (plan.fp8_kv_cache) model.kv_dtype = DType::fp8;
    return ok_status();
  }
  if (wanted == "fp8" || wanted == "fp8_e4m3" || wanted == "fp8_e5m2") {
    model.kv_dtype = DType::fp8;
    return ok_status();
  }
  if (wanted == "bf16" || wanted == "bfloat16") {
    model.kv_dtype = DType::bf16;
    return ok_status();
  }
  const std::vector<std::string> names = {"auto", "fp8", "fp8_e4m3", "fp8_e5m2", "bf16", "bfloat16"};
  return invalid_input("unknown KV cache type " + quote(wanted) + did_you_mean(wanted, names) +
                           "; known: " + join(names, ", "),
                       {}, "kv_cache_dtype");
}

void append(Errors& errors, const Status& status) {
  if (!status.ok()) errors.insert(errors.end(), status.errors().begin(), status.errors().end());
}

std::int64_t sum(const std::vector<WeightTensor>& tensors) {
  std::int64_t total = 0;
  for (const WeightTensor& t : tensors) total += t.parameters();
  return total;
}

}  // namespace

Bytes WeightTensor::bytes() const {
  const double copy = static_cast<double>(rows * columns) * bytes_per_element(dtype) + scales.value();
  return Bytes(copy * static_cast<double>(copies));
}

std::int64_t ModelSpec::parameters() const {
  std::int64_t total = sum(global_weights);
  for (const LayerKind& kind : layer_kinds) total += kind.count * sum(kind.weights);
  if (vision != nullptr) total += vision->parameters();
  return total;
}

std::int64_t ModelSpec::active_parameters() const {
  std::int64_t total = sum(global_weights);
  for (const LayerKind& kind : layer_kinds) {
    for (const WeightTensor& t : kind.weights) {
      const bool expert = t.name.starts_with("experts.");
      total += kind.count * (expert ? t.parameters() / t.copies * experts_per_token : t.parameters());
    }
  }
  return total;
}

Bytes ModelSpec::weight_bytes() const {
  Bytes total;
  for (const WeightTensor& t : global_weights) total += t.bytes();
  for (const LayerKind& kind : layer_kinds) {
    for (const WeightTensor& t : kind.weights) total += t.bytes() * static_cast<double>(kind.count);
  }
  return total;
}

std::int64_t ModelSpec::attention_layers() const {
  std::int64_t count = layers;
  for (const LayerKind& kind : layer_kinds) count -= kind.mixer == Mixer::attention ? 0 : kind.count;
  return count;
}

std::int64_t ModelSpec::state_layers() const {
  std::int64_t count = 0;
  for (const LayerKind& kind : layer_kinds) count += kind.mixer == Mixer::state ? kind.count : 0;
  return count;
}

double ModelSpec::kv_layer_bytes(std::int64_t tp) const {
  const double elements = static_cast<double>(kv_elements(tp)) * bytes_per_element(kv_dtype);
  if (!sparse.present()) return elements;
  // vLLM 0.24: the indexer's key in 8 bits with an fp32 scale; an 8-bit latent is packed as fp8_ds_mla, a
  // scale for every 128 elements and the rotary key in 16 bits (656 bytes of DeepSeek-V3.2;
  // flashmla_sparse.py).
  const double index = static_cast<double>(sparse.dim) + 4;
  const double packed = static_cast<double>(latent.rank + latent.rank / 128 * 4 + 2 * latent.rotary_dim);
  return (kv_dtype == DType::fp8 ? packed : elements) + index;
}

Bytes ModelSpec::kv_bytes_per_token() const {
  return Bytes(static_cast<double>(attention_layers()) * kv_layer_bytes(1));
}

bool serves_image_prefixes(const ModelSpec& model, const EngineProfile& engine) {
  return engine.engine == "vllm" && model.architecture == "Gemma3ForConditionalGeneration";
}

Result<ModelSpec> load_model(const std::string& name_or_path, const std::string& folder,
                             const std::string& quantization, const std::string& kv_cache_dtype) {
  ORRERY_TRY(file, find_model(name_or_path, folder));
  ORRERY_TRY(document, YamlDocument::load(file.path));
  ReadModel read = read_document(document.root(), file);
  if (!file.is_profile) refuse_quantization_beside(document.root(), file, quantization);
  document.finish();
  Errors errors = document.errors();
  append(errors, override_quantization(quantization, read.plan));
  append(errors, set_kv_dtype(kv_cache_dtype, read.plan, read.model));
  if (!errors.empty()) return errors;
  read.model.name = file.name;
  read.model.source = file.path;
  apply_quantization(read.plan, read.model);
  return read.model;
}

}  // namespace orrery

// Which backend an engine serves latent attention with, by the part and the type of the cache.
#include "base/text.h"
#include "costmodel/engine_profile.h"
#include "costmodel/hardware.h"
#include "costmodel/model_spec.h"
#include "costmodel/profile_reader.h"

namespace orrery {

void read_latent_backends(const Yaml& node, EngineProfile& engine) {
  if (!node.present()) return;
  node.require("source").text();
  for (const Yaml& row : node.require("backends").items()) {
    LatentBackend b;
    b.name = row.require("backend").text();
    b.architecture = row.optional("architecture").text();
    b.kv_bytes = row.optional("kv_bytes").integer(0, 0, 2);
    b.block_size = row.optional("block_size").integer(0, 0, 4096);
    b.absorbed_chunk = row.optional("absorbed_chunk").integer(0, 0, 1'000'000);
    b.absorbed_graphs = row.optional("absorbed_graphs").boolean(false);
    b.sparse = row.optional("sparse").boolean(false);
    b.refused = row.optional("refused").text();
    engine.latent_backends.push_back(std::move(b));
  }
}

// The first that fits. Its blocks become the default; `check_latent_blocks` looks at what was asked for.
void choose_latent_backend(EngineProfile& engine, const HardwareProfile& hardware, const ModelSpec& model,
                           const Yaml& place) {
  if (!model.latent.present()) return;
  for (const LatentBackend& b : engine.latent_backends) {
    if (b.sparse != model.sparse.present()) continue;
    if (!b.architecture.empty() && b.architecture != hardware.architecture) continue;
    if (b.kv_bytes > 0 && static_cast<double>(b.kv_bytes) != bytes_per_element(model.kv_dtype)) continue;
    engine.latent = b;
    break;
  }
  const LatentBackend& chosen = engine.latent;
  if (model.sparse.present() && chosen.name.empty())
    place.fail("sparse attention of " + model.architecture +
               " is modelled on vllm-0.24 and Hopper parts only, not on " + engine.name + " and " +
               hardware.name);
  if (!chosen.refused.empty())
    place.fail(engine.name + " serves " + to_string(model.kv_dtype) + " latents on " + hardware.name +
               " with " + chosen.name + ", which is not modelled: " + chosen.refused);
  if (chosen.block_size > 0) engine.settings.block_size = chosen.block_size;
}

void check_latent_blocks(const EngineProfile& engine, const Yaml& place) {
  const LatentBackend& b = engine.latent;
  if (b.block_size == 0 || engine.settings.block_size % b.block_size == 0) return;
  place.fail("blocks of " + std::to_string(engine.settings.block_size) +
             " tokens: this cache is served with " + b.name + ", whose blocks are multiples of " +
             std::to_string(b.block_size) +
             "; what the engine would run instead is not priced; leave the argument out");
}

}  // namespace orrery

#include "reports/casebook/measured_model.h"

#include <algorithm>

#include "costmodel/kv_groups.h"
#include "costmodel/profile_folder.h"

namespace orrery {

KvGroups kv_groups_of_model(const std::string& name) {
  std::string profile = name.substr(name.find_last_of('/') + 1);
  std::transform(profile.begin(), profile.end(), profile.begin(),
                 [](unsigned char c) { return static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c); });
  const std::vector<std::string> known = profile_names("model_profiles");
  if (std::find(known.begin(), known.end(), profile) == known.end()) return {};
  const auto model = load_model(profile, "", "", "auto");
  if (!model.ok()) return {};
  EngineProfile engine;
  engine.engine = "vllm";
  const KvCacheGroups groups = kv_cache_groups(*model, engine);
  return {.full = static_cast<std::int32_t>(groups.full),
          .windowed = static_cast<std::int32_t>(groups.windowed),
          .window = static_cast<std::int32_t>(groups.window),
          .states = static_cast<std::int32_t>(groups.states)};
}

}  // namespace orrery

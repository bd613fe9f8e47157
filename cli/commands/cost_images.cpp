#include "cli/commands/cost_images.h"

#include <array>

#include "base/json.h"
#include "base/text.h"
#include "costmodel/encoder_pricer.h"
#include "sim/costed/image_processor.h"

namespace orrery {

Result<std::string> image_table(const Scenario& scenario) {
  const InstanceSpec& instance = scenario.pool.instance;
  if (!takes_images(instance)) return std::string();
  ORRERY_TRY(encoder, EncoderPricer::create(instance, scenario.what_if));
  const ModelImages images(instance, scenario.what_if.host);
  TextTable table({"image alone in its step", "tokens", "preparation (CPU), ms", "encoder (device), ms",
                   "encoder (launches), ms"});
  const auto ms = [](std::int64_t ns) { return format_fixed(static_cast<double>(ns) * 1e-6, 2); };
  constexpr std::array<std::array<std::int32_t, 2>, 5> sizes{
      {{224, 224}, {512, 512}, {1024, 768}, {1920, 1080}, {4096, 3072}}};
  for (const auto& [width, height] : sizes) {
    const ImageSize size{width, height};
    ORRERY_TRY(placed, images.lay_out(size));
    const EncoderImage image{placed.rows, placed.columns, placed.tiles};
    const EncoderTiming timing = encoder.price({&image, 1});
    const SimDuration prepare = images.handle_time() + images.prepare_time(size, placed);
    table.add({std::to_string(width) + " x " + std::to_string(height), std::to_string(placed.tokens),
               ms(prepare.ns()), ms(timing.busy), ms(timing.launch)});
  }
  const EncoderSettings& s = instance.engine.settings.encoder;
  return table.to_string() + "encoder cache: " + std::to_string(s.cache_size) +
         " embeddings; in one step at most " + std::to_string(s.compute_budget) + "\n";
}

}  // namespace orrery

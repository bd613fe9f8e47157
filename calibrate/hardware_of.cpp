#include "calibrate/hardware_of.h"

#include <array>
#include <cctype>

#include "base/text.h"

namespace orrery::calibrate {

namespace {

struct KnownDevice {
  const char* word;      // of the driver's name, whole: H200 is not an H20
  const char* also;      // another word that must stand beside it; empty = none
  const char* hardware;  // profile
};
// "H100 80GB HBM3" is the SXM part; "H100 PCIe" and "H100 NVL" have other memories and clocks, and no
// profile.
constexpr std::array<KnownDevice, 7> known{{{"H200", "", "h200"},
                                            {"H100", "HBM3", "h100"},
                                            {"H20", "", "h20"},
                                            {"L40S", "", "l40s"},
                                            {"MI300X", "", "mi300x"},
                                            {"MI325X", "", "mi325x"},
                                            {"R9700", "", "r9700"}}};

bool has_word(std::string_view text, std::string_view word) {
  const auto letter = [&](std::size_t i) {
    return i < text.size() && std::isalnum(static_cast<unsigned char>(text[i])) != 0;
  };
  for (std::size_t at = text.find(word); at != std::string_view::npos; at = text.find(word, at + 1)) {
    if ((at == 0 || !letter(at - 1)) && !letter(at + word.size())) return true;
  }
  return word.empty();
}

}  // namespace

Result<std::string> hardware_of(std::string_view device_name) {
  // The H20 with 141 GB is a part of its own (h20-3e), the H200 NVL too.
  const bool variant = has_word(device_name, "NVL") || has_word(device_name, "PCIe") ||
                       device_name.find("H20-3e") != std::string_view::npos;
  for (const KnownDevice& device : known) {
    if (!variant && has_word(device_name, device.word) && has_word(device_name, device.also))
      return std::string(device.hardware);
  }
  return make_error(ErrorKind::unavailable, "no hardware profile is known for the device " +
                                                quote(device_name) +
                                                "; name one with --hardware (orrery list hardware)");
}

}  // namespace orrery::calibrate

// Without a GPU toolkit there are no devices.
#include "kernels/device.h"

namespace orrery::kernels {

std::vector<std::unique_ptr<Device>> devices(std::string& why) {
  why = "this binary was built without a GPU toolkit: nvcc was not found";
  return {};
}

}  // namespace orrery::kernels

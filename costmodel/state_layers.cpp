#include "costmodel/state_layers.h"

namespace orrery {

double StateLayers::bytes(std::int64_t tp, DType activation, std::int64_t drafts) const {
  const DType state = dtype_of_model ? activation : dtype;
  return static_cast<double>(conv_elements(tp, drafts)) * bytes_per_element(activation) +
         static_cast<double>(state_elements(tp)) * bytes_per_element(state);
}

}  // namespace orrery

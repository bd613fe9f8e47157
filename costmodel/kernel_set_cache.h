// Tables read once for many scenarios: a search over deployments names the same few sets thousands of times,
// and one set takes megabytes and tens of milliseconds.
#pragma once

#include <memory>
#include <string>

#include "costmodel/kernel_set.h"

namespace orrery {

// While one lives, shared_kernel_set reads each set once; files that change meanwhile are not seen. Several
// may live at once.
class KernelSetCache {
 public:
  KernelSetCache();
  ~KernelSetCache();
  KernelSetCache(const KernelSetCache&) = delete;
  KernelSetCache& operator=(const KernelSetCache&) = delete;
};

// As KernelSet::load, which it is where no cache lives. May be called from several threads at once.
Result<std::shared_ptr<const KernelSet>> shared_kernel_set(const HardwareProfile& hardware,
                                                           const std::string& name, bool tuned);

}  // namespace orrery

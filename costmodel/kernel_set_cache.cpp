#include "costmodel/kernel_set_cache.h"

#include <map>
#include <mutex>

#include "base/files.h"
#include "base/json.h"

namespace orrery {

namespace {

struct Shelf {
  std::mutex mutex;
  int users = 0;
  std::map<std::string, std::shared_ptr<const KernelSet>> sets;
};

Shelf& shelf() {
  static Shelf one;
  return one;
}

// Two profiles of one name may have other figures, and utilisation is against them.
std::string key_of(const HardwareProfile& hardware, const std::string& name, bool tuned) {
  const PartRates rates = PartRates::of(hardware);
  std::string key = data_directory() + "|" + hardware.name + "|" + name + (tuned ? "|tuned" : "|");
  for (const double rate : rates.matrix) key += "|" + format_number(rate);
  for (const double rate : {rates.bandwidth, rates.link, rates.units}) key += "|" + format_number(rate);
  return key;
}

}  // namespace

KernelSetCache::KernelSetCache() {
  const std::scoped_lock lock(shelf().mutex);
  ++shelf().users;
}

KernelSetCache::~KernelSetCache() {
  const std::scoped_lock lock(shelf().mutex);
  if (--shelf().users == 0) shelf().sets.clear();
}

Result<std::shared_ptr<const KernelSet>> shared_kernel_set(const HardwareProfile& hardware,
                                                           const std::string& name, bool tuned) {
  Shelf& s = shelf();
  std::unique_lock lock(s.mutex);
  if (s.users == 0) {
    lock.unlock();
    return KernelSet::load(hardware, name, tuned);
  }
  const std::string key = key_of(hardware, name, tuned);
  if (const auto known = s.sets.find(key); known != s.sets.end()) return known->second;
  ORRERY_TRY(loaded, KernelSet::load(hardware, name, tuned));
  s.sets.emplace(key, loaded);
  return loaded;
}

}  // namespace orrery

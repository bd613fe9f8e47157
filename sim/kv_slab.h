// Records of one kind in one array, named by index and reused last in, first out: no allocation per record
// in the steady state, and ids that do not depend on addresses.
#pragma once

#include <cstdint>
#include <vector>

namespace orrery::kv {

using Id = std::uint32_t;
inline constexpr Id kNone = 0xFFFFFFFFu;

template <class T>
class Slab {
 public:
  // Invalidates references to records.
  Id make(const T& value) {
    if (free_.empty()) {
      records_.push_back(value);
      return static_cast<Id>(records_.size() - 1);
    }
    const Id id = free_.back();
    free_.pop_back();
    records_[id] = value;
    return id;
  }
  void drop(Id id) { free_.push_back(id); }

  T& operator[](Id id) { return records_[id]; }
  const T& operator[](Id id) const { return records_[id]; }
  std::size_t live() const { return records_.size() - free_.size(); }
  std::size_t slots() const { return records_.size(); }  // ids are below this

 private:
  std::vector<T> records_;
  std::vector<Id> free_;
};

}  // namespace orrery::kv

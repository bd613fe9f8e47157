// Outputs of the vision encoder that an instance keeps, as vLLM 0.24 counts them
// (v1/core/encoder_cache_manager.py, EncoderCacheManager): in embeddings, by image, shared by all requests
// that have the image. An entry that no request refers to stays until its room is needed, the one that lost
// its last reference first goes first.
#pragma once

#include <cstdint>
#include <list>
#include <unordered_map>
#include <vector>

#include "sim/images.h"

namespace orrery {

class EncoderCache {
 public:
  using Holder = std::uint32_t;  // slot of a sequence

  explicit EncoderCache(std::int64_t size) : size_(size), free_(size), freeable_(size) {}

  // True when the image is here; the holder then refers to it. `index`: among the holder's images.
  bool refer(Holder holder, std::int32_t index, const PlacedImage& image);
  // Room for an image beside `others` embeddings that the same request is to store in this step. Drops what
  // nobody refers to when that makes room; false when even that would not, or `compute_budget` is short.
  bool make_room(std::int64_t embeddings, std::int64_t compute_budget, std::int64_t others);
  // Precondition: make_room() said yes.
  void store(Holder holder, std::int32_t index, const PlacedImage& image);
  // The holder's reference by way of its image `index` is over. As in the engine a holder is in an entry's
  // set once, however many of its images are equal: the first of them to pass ends it for all.
  void release(Holder holder, std::int32_t index, const PlacedImage& image);
  void release_all(Holder holder, const std::vector<PlacedImage>& images);
  const std::vector<std::int32_t>& held(Holder holder) const;  // indices, in order of reference

  std::int64_t size() const { return size_; }
  std::int64_t free() const { return free_; }          // never used or dropped
  std::int64_t freeable() const { return freeable_; }  // and what nobody refers to
  std::int64_t referenced() const { return size_ - freeable_; }
  std::int64_t peak() const { return peak_; }  // most embeddings that were stored at once
  void check_invariants() const;               // O(everything), for tests

 private:
  struct Entry {
    std::int64_t embeddings = 0;
    std::vector<Holder> holders;                      // in order of reference
    std::list<std::uint64_t>::iterator unreferenced;  // valid without holders
  };
  void drop_oldest();

  std::int64_t size_, free_, freeable_, peak_ = 0;
  std::unordered_map<std::uint64_t, Entry> entries_;  // by image id; looked up, never iterated outside tests
  std::list<std::uint64_t> unreferenced_;             // oldest first
  std::vector<std::vector<std::int32_t>> held_;       // by holder
};

}  // namespace orrery

// A running 64-bit digest of decisions. Not cryptographic: it answers "did two runs decide the same?".
// One chain per actor, combined in actor order (rule D8), so that the interleaving of actors that do
// not touch each other cannot show.
#pragma once

#include <cstdint>
#include <string>

namespace orrery {

class Digest {
 public:
  // One multiply and a fold per value (wyhash's mixing step, public domain): about a nanosecond.
  void add(std::uint64_t value) {
    __extension__ using Wide = unsigned __int128;
    const Wide product = static_cast<Wide>(state_ ^ value) * 0x9E3779B97F4A7C15ull;
    state_ = static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64) ^ (value << 1);
  }
  void add(std::int64_t value) { add(static_cast<std::uint64_t>(value)); }
  void add_text(const std::string& text) {
    for (const char c : text) add(static_cast<std::uint64_t>(static_cast<unsigned char>(c)));
    add(static_cast<std::uint64_t>(text.size()));
  }
  std::uint64_t value() const { return state_; }
  friend bool operator==(const Digest&, const Digest&) = default;

 private:
  std::uint64_t state_ = 0x243F6A8885A308D3ull;
};

// Three numbers as one: the name of a piece of content.
inline std::uint64_t digest_of(std::uint64_t a, std::uint64_t b, std::uint64_t c) {
  Digest d;
  d.add(a);
  d.add(b);
  d.add(c);
  return d.value();
}

std::string digest_text(std::uint64_t value);  // 16 lower-case hex digits

}  // namespace orrery

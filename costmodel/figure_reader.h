// Reads figures from profiles: value, unit, kind and source, each missing or wrong one a located error.
#pragma once

#include <string>

#include "base/yaml_reader.h"
#include "costmodel/figure.h"

namespace orrery {

// The unit says what the number is; the quantity asked for decides which units are accepted. Decimal and binary
// prefixes and bits and bytes are distinct: GB ≠ GiB, GB/s ≠ Gb/s.
Figure<FlopsPerSecond> read_rate(const Yaml& node);
Figure<BytesPerSecond> read_bandwidth(const Yaml& node);
Figure<Bytes> read_bytes(const Yaml& node);
Figure<Seconds> read_time(const Yaml& node);
Figure<Hertz> read_frequency(const Yaml& node);
Figure<Watts> read_power(const Yaml& node);
Figure<double> read_number(const Yaml& node);  // no unit
FigureKind read_kind(const Yaml& node);        // of the map that holds `kind`
std::string read_source(const Yaml& node);     // of the map that holds `source`; empty is an error

}  // namespace orrery

#include "costmodel/data_parallel.h"

#include "costmodel/profile_reader.h"

namespace orrery {

DataParallelRules read_data_parallel(const Yaml& node) {
  DataParallelRules r;
  static const std::vector<std::string> rules{"sglang"};
  r.rule = static_cast<JointRule>(node.require("rule").choice(rules));
  r.sync = read_figure<Seconds>(node.require("sync"), true);
  r.largest_custom_all_reduce = read_figure<Bytes>(node.require("largest_custom_all_reduce"));
  r.conservativeness = read_number_figure(node.require("conservativeness"), Dimension::ratio);
  r.per_decode_slot = read_figure<Bytes>(node.require("per_decode_slot"), true);
  r.per_decode_slot_of_many = read_figure<Bytes>(node.require("per_decode_slot_of_many"), true);
  r.many_slots = read_number_figure(node.require("many_slots"), Dimension::count);
  return r;
}

}  // namespace orrery

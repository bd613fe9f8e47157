// An engine whose arguments the profile describes one by one: type, default, limits. Which of them is the
// context length, the page, the step's tokens … is said by `roles`; the others go to the engine's scheduler
// by their own names. Memory is shared out by a fraction that the engine computes from a table (SGLang:
// ../shared/reference/sglang_0_5.md §5).
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/named_options.h"
#include "base/yaml_reader.h"
#include "costmodel/figure.h"

namespace orrery {

struct EngineProfile;
struct HardwareProfile;
struct InstanceSpec;
struct MemoryPlan;
struct ModelSpec;
struct ParallelPlan;

struct TypedArgument {
  enum class Type : std::uint8_t { integer, number, boolean, choice };
  // fixed: `value`; by_device: the column of that name in the table of devices; by_model: the model's
  // context; open: none until the memory plan, or never
  enum class Default : std::uint8_t { fixed, by_device, by_model, open };
  std::string name;
  Type type = Type::integer;
  Default fallback = Default::fixed;
  OptionValue value;
  double least = 0, most = 0;
  std::vector<std::string> choices;
  // A flag that is refused unless another argument has one of these values.
  std::string needs;
  std::vector<std::string> among;
};

struct GraphSizes {
  struct Range {
    std::int64_t from = 0, to = 0, step = 0;  // to 0 = the limit
  };
  std::vector<std::int64_t> dense;
  std::vector<Range> ranges;
  bool append_limit = false;         // the limit itself is captured too
  std::vector<std::string> vendors;  // of devices that capture them; empty = all
  std::vector<std::int64_t> up_to(std::int64_t limit) const;
};

// Reserved for activations and graphs: constant + per_token·max(step tokens, least_tokens) + per_gpu·GPUs +
// per_decode_slot·largest decode graph + per_prefill_graph·prefill graphs, at least `floor` on a device with
// more than floor_above. The rest, as a fraction rounded to `digits`, is for weights and KV.
struct StaticFraction {
  Figure<Bytes> before_load;  // context and communicators, gone before the engine looks
  Figure<Bytes> driver_more;  // what the driver reports above the framework's total
  Figure<Bytes> constant, per_token, per_gpu, per_decode_slot, per_prefill_graph, floor, floor_above;
  Figure<double> least_tokens;
  // Running requests: min(clamp(per_context·tokens ÷ context, least, most), tokens ÷ share).
  Figure<double> sequences_per_context, least_sequences, most_sequences, tokens_per_sequence;
};

struct TypedProfile {
  std::vector<TypedArgument> arguments;
  std::map<std::string, std::string> roles;  // role → argument
  struct Device {
    Bytes memory_below;                                       // 0 = any
    std::map<std::string, std::vector<std::int64_t>> values;  // one, or two: below and from wide_from_tp
  };
  std::vector<Device> devices;  // least memory first
  std::int64_t wide_from_tp = 4;
  GraphSizes decode_graphs, prefill_graphs;
  GraphSizes speculating_graphs;           // decode graphs with speculation
  std::int64_t speculating_sequences = 0;  // running requests unless said, with speculation
  double widest_padding = 0;  // a prefill graph of more than so many times the tokens is not used
  StaticFraction memory;
  NamedOptions constants;
};

TypedProfile read_typed_profile(const Yaml& root);
void read_typed_arguments(const Yaml& effective, TypedProfile& profile);

// As resolve_engine, for a profile with `typed`.
void resolve_typed(EngineProfile& engine, const HardwareProfile& hardware, ModelSpec& model,
                   const ParallelPlan& plan, const Yaml& args, const Yaml& place);

// KV tokens and running requests under a static fraction; weights and bytes a token are in the plan already.
void share_by_fraction(const InstanceSpec& spec, MemoryPlan& plan);

}  // namespace orrery

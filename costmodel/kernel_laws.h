// Kernels of an engine version whose time follows from how their work is cut, where that leaves a part mostly
// idle: no roofline sees it. A law is data of the engine profile (`kernel_laws`), for parts of one
// architecture.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/yaml_reader.h"
#include "costmodel/figure.h"

namespace orrery {

// A product cut into tiles rows × columns, each made by one unit that walks through all of k: it takes as
// long whether one unit is busy or all are.
//   ns = ⌈tiles ÷ units⌉ · (start + ⌈k ÷ depth⌉ · step)
// Where weights may come too slowly for that (`read`), a step takes no less than a while of its own and their
// way from memory:
//   ns ≥ start + ⌈k ÷ depth⌉ · (gap + ⌈n ÷ columns⌉ · columns · depth · bytes ÷ read)
// Without a `step` it is what a tile takes of a unit's matrix rate at its peak, and the law is the least: a
// product takes its own price where that is more.
struct TileLaw {
  std::string format;  // of the weights, as tables name it: "fp8-block"
  std::int64_t rows = 0, columns = 0, depth = 0;
  std::int64_t up_to = 0;  // rows of a product that it holds for at most; 0: any
  Figure<Seconds> start, step;
  bool least = false;
  Figure<Seconds> gap;
  Figure<BytesPerSecond> read;  // absent: weights are always there in time
  double error = 0;             // one standard deviation of log(time)

  // Of a part's units, which reach so many FLOP/s together.
  void resolve(std::int64_t units, double flops_per_second);
  bool holds(const std::string& weights, std::int64_t m) const {
    return format == weights && (up_to == 0 || m <= up_to);
  }
  double ns(std::int64_t units, std::int64_t m, std::int64_t n, std::int64_t k,
            double bytes_per_weight = 0) const;
};

// Decode attention in which a thread block serves one query head of one sequence alone, key after key (vLLM's
// paged_attention_v1). How many blocks a unit holds follows from the scores that each keeps in shared memory.
//   ns = (blocks · start + keys · heads · key) ÷ (units · resident) + bytes ÷ bandwidth
struct BlockAttentionLaw {
  std::int64_t above_blocks = 0;  // sequences · heads; up to here the engine runs another kernel
  std::int64_t longest = 0;       // tokens whose scores are kept at most
  Figure<Bytes> unit_shared;      // of a unit
  Figure<Seconds> start, key;
  Figure<double> further;  // what each further resident block adds to a unit's speed
  double error = 0;
  double resident = 1;  // resolved by `longest_sequence`

  void resolve(std::int64_t longest_sequence);
  bool holds(std::int64_t sequences, std::int64_t heads) const { return sequences * heads > above_blocks; }
  double ns(std::int64_t units, std::int64_t sequences, std::int64_t heads, double keys) const;
};

// Decode attention in which a thread block walks one share of a sequence's keys for up to `heads` query heads
// of one KV head, iteration after iteration (SGLang's Triton kernel, `_decode_grouped_att_m_fwd`): what waits
// is the walk, not memory, as long as few blocks share a unit.
//   ns = keys ÷ splits · key · (1 + further · max(0, blocks ÷ units − 1))
struct SplitAttentionLaw {
  struct Width {
    std::int64_t head_dim = 0;
    Figure<Seconds> key;  // of one block alone on its unit
  };
  std::int64_t splits = 0;  // shares of a sequence at most
  std::int64_t heads = 0;
  std::vector<Width> widths;
  Figure<double> further;
  double error = 0;

  const Width* of(std::int64_t head_dim) const;
  // `keys` of all sequences together.
  double ns(std::int64_t units, std::int64_t sequences, std::int64_t query_heads, std::int64_t kv_heads,
            std::int64_t head_dim, double keys) const;
};

// Latent attention where an engine version has no kernel of its own for a part: PyTorch's single operations,
// counted in its source, each a dependent kernel.
struct LatentSteps {
  std::int64_t rotary = 0;          // of the rotary embedding of q and k; 0: the engine's one kernel
  std::int64_t concatenations = 0;  // of absorbed queries and of keys with their rotary parts
  std::int64_t weight_casts = 0;    // of both absorbing matrices, to 16 bits and times their scale
  std::int64_t copies = 0;          // of heads' outputs into rows
};

struct KernelLaws {
  std::string architecture;      // of the parts that they hold for
  std::string timed_on;          // the part whose timings they are from; on another they are carried over
  Figure<Seconds> kernel_floor;  // least duration of a dependent kernel in a graph, in place of the part's;
                                 // absent
  std::optional<TileLaw> product;
  std::optional<BlockAttentionLaw> decode;
  std::optional<SplitAttentionLaw> split_decode;
  // Rows of the matrix tile to which the query heads of a KV head are padded in decode attention, in place of
  // the smallest instruction's; 0: those.
  std::int64_t decode_rows = 0;
  LatentSteps latent;
  // The shared expert runs as one more of the routed ones, which every token chooses.
  bool shared_among_routed = false;
};

// `kernel_laws` of an engine profile (docs/cost_model.md): one, or a list of one for each architecture;
// absent: none.
std::vector<KernelLaws> read_kernel_laws(const Yaml& node);

}  // namespace orrery

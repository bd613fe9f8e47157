// Timings of a set of kernels on a part, as data: hardware_profiles/tables/<part>/<set>/. A set is an
// engine's kernels ("vllm-0.24") or our own ("orrery"). docs/calibration.md says what stands in its files,
// how they were made and what the errors mean.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "costmodel/hardware.h"
#include "costmodel/utilisation.h"

namespace orrery {

// A part's data-sheet rates, operations and bytes per nanosecond; 0 where it has none. What tables measure
// utilisation against is made of these and nothing else.
struct PartRates {
  std::array<double, static_cast<std::size_t>(DType::count)> matrix{};
  double bandwidth = 0, link = 0;
  double units = 0;  // SMs or CUs
  static PartRates of(const HardwareProfile& hardware);
  double bound_ns(double flops, DType math, double bytes) const;
};

// What a table says about one static shape: utilisation along the operator's moving axis.
struct FittedCurve {
  UtilisationCurve curve;
  std::string kernel;        // "cublaslt.gemm", "vllm_flash_attn_fa3"
  bool shape_known = false;  // the shape itself was timed; else it is blended from its neighbours
};

// Attention: utilisation over sequences at several lengths, as one function of both.
class FittedSurface {
 public:
  struct Line {
    double length = 0;  // keys or new tokens per sequence
    UtilisationCurve over_sequences;
  };
  // One configuration of heads with its weight in the blend.
  struct Part {
    const std::vector<Line>* lines = nullptr;  // ascending length
    double weight = 1;
  };
  // Over sequences a monotone cubic. Over lengths a cubic too (`smooth_lengths`, prompts) or a power law.
  // `fold`: a sequence asked for stands for so many of the timed ones.
  FittedSurface(std::vector<Part> parts, std::string kernel, bool shape_known, bool smooth_lengths,
                double fold = 1);
  double at(double sequences, double length) const;
  Hit hit(double sequences, double length) const;
  const std::string& kernel() const { return kernel_; }
  bool shape_known() const { return shape_known_; }

 private:
  std::vector<Part> parts_;
  static double log_at(const std::vector<Line>& lines, double sequences, double length, bool smooth);

  std::string kernel_;
  bool shape_known_, smooth_lengths_;
  double fold_;
};

// Heads of one rank, as attention tables name them.
struct AttentionShape {
  std::int64_t heads = 0, kv_heads = 0, head_dim = 0, window = 0;
  std::string kv_dtype = "bf16";
  // Latent attention: width of a head's values; head_dim is that of its keys with the rotary part, kv_heads
  // is 1. Else 0.
  std::int64_t value_dim = 0;
};

// Of one head: latent, key without rotary part, value.
struct LatentWidths {
  std::int64_t latent = 0, key = 0, value = 0;
};

// Name and row width of a kernel in tables of row-wise kernels; an empty name: none has it. `choices`:
// experts a token where the kernel's work depends on them; `format` of what it writes ("fp8-block"), where a
// set tells formats apart.
struct RowTable {
  RowTable() = default;
  RowTable(std::string its_name, std::int64_t its_width, std::int64_t its_choices = 0,
           std::string its_format = {})
      : name(std::move(its_name)), width(its_width), choices(its_choices), format(std::move(its_format)) {}
  std::string name;
  std::int64_t width = 0;
  std::int64_t choices = 0;
  std::string format;
};

struct ExpertShape {
  std::int64_t hidden = 0, intermediate = 0, experts = 0, per_token = 0;  // of one rank
};

// One standard deviation of log(time), by leaving points out and by leaving whole shapes out.
struct TableError {
  double points = 0, shapes = 0;
};

class KernelSet {
 public:
  // Unknown names are an error that lists the sets of this part. Every row that is wrong is reported with its
  // line. Utilisation of timed samples is computed here, against the part's data sheet. `tuned`: where a file
  // <operator>_tuned.csv has what the fastest tile takes, that in place of the kernel's own choice.
  static Result<std::shared_ptr<const KernelSet>> load(const HardwareProfile& hardware,
                                                       const std::string& name, bool tuned = false);
  static std::vector<std::string> names(const std::string& hardware);  // sorted; empty when it has none

  const std::string& name() const { return name_; }
  const std::string& source() const { return source_; }
  bool tuned() const { return tuned_; }    // some of its figures are those of tuned rows, as was asked
  Rung rung(const std::string& op) const;  // an operator may stand on another rung than its set

  // Null when the set says nothing about the operator, or nothing near the shape.
  // gemm: axis = rows m. `format` as in interfaces §7. grouped: axis = rows per expert that has any.
  std::optional<FittedCurve> gemm(const std::string& format, std::int64_t n, std::int64_t k) const;
  std::optional<FittedCurve> grouped_gemm(const std::string& format, std::int64_t n, std::int64_t k,
                                          double distinct) const;
  bool has_grouped(const std::string& format) const { return shapes_.contains("grouped_gemm/" + format); }
  // The whole of a fused expert layer; axis = tokens of the batch, spread evenly.
  std::optional<FittedCurve> experts(const std::string& format, const ExpertShape& shape) const;
  // Whether those timings hold the choice of experts (softmax and top-k of the router's scores).
  bool experts_hold_choice(const std::string& format) const;
  std::optional<FittedSurface> attention_prefill(const AttentionShape& shape) const;
  // Chunks behind a context, of sets that timed some: axes = keys per row, tiles (lengths); utilisation of
  // ChunkTiles' bound.
  std::optional<FittedSurface> attention_chunks(const AttentionShape& shape) const;
  std::optional<FittedSurface> attention_decode(const AttentionShape& shape) const;
  // Latent attention, with the latent as key and value ("absorbed") or, of prompts, expanded: by its widths.
  std::optional<FittedSurface> mla_decode(const AttentionShape& shape) const;
  std::optional<FittedSurface> mla_prefill(const AttentionShape& shape) const;
  // Both products of an absorbed row; axis = tokens.
  std::optional<FittedCurve> mla_absorb(std::int64_t heads, const LatentWidths& widths) const;
  std::optional<FittedCurve> collective(const std::string& op, std::int64_t ranks) const;  // axis = bytes
  std::optional<FittedCurve> row_wise(const RowTable& table) const;                        // axis = rows
  std::optional<FittedCurve> copy() const;  // axis = bytes read

  // What the engine's steps take relative to the tables, by operator class (corrections.csv); 1 where it says
  // nothing. Axes: gemm, experts, attention_prefill: tokens; attention_decode: sequences · KV heads;
  // attention_decode_mixed: the same, in a launch that also serves prompt chunks. "op/format" goes before
  // "op".
  double correction(const std::string& op, const std::string& format, double x) const;
  // The name under which a head's attention is corrected: its own where the set has one.
  std::string corrected_as(const std::string& op, std::int64_t head_dim) const;

  TableError error(const std::string& op, const std::string& format, double x) const;
  std::size_t points(const std::string& op) const;  // figures that the table holds; 0 = none

 private:
  friend class KernelSetReader;
  struct Shape {
    LogShape logs{};
    UtilisationCurve curve;
    std::string kernel;
  };
  struct AttentionTable {
    AttentionShape shape;
    std::string kernel;
    std::vector<FittedSurface::Line> lines;
  };
  struct Region {
    std::string op, format;
    double low = 0, high = 0;
    TableError error;
  };
  using Shapes = std::map<std::string, std::vector<Shape>>;  // by "op/format"

  std::optional<FittedCurve> find(const std::string& key, const LogShape& logs) const;
  double narrowest(const std::string& key, std::size_t axis) const;  // logarithm
  double widest(const std::string& key, std::size_t axis) const;     // logarithm
  static double fold_of(const std::vector<AttentionTable>& tables, const AttentionShape& shape);
  static std::optional<FittedSurface> find(const std::vector<AttentionTable>& tables,
                                           const AttentionShape& shape, bool smooth_lengths);

  std::string name_, source_;
  std::vector<std::string> choice_inside_;  // formats
  bool tuned_ = false;
  PartRates rates_;  // utilisation is against these
  Rung rung_ = Rung::published;
  std::map<std::string, Rung> rungs_;
  Shapes shapes_;
  std::vector<AttentionTable> prefill_, chunks_, decode_, mla_prefill_, mla_decode_;
  std::vector<Region> regions_;
  std::map<std::string, UtilisationCurve> corrections_;
  std::map<std::string, std::size_t> points_;
};

// Chunks of one launch as a prefill kernel cuts them: rows are new tokens × query heads of a KV head, 128 to
// a tile; a tile multiplies its rows with all keys that they see, and a unit works on one tile at a time: the
// bound is that of whole waves of tiles.
struct ChunkTiles {
  static constexpr std::int64_t rows = 128;
  double tiles = 0;  // of one KV head
  double keys = 0;   // per row, their mean over tiles; 0 when there are none
  void add(double fresh, double context, double group);
  double bound_ns(const PartRates& rates, const AttentionShape& shape) const;  // 0 without matrix units
};

// Names of the formats below, those that tables of experts have.
const std::vector<std::string>& expert_formats();

// Bounds of single operators. Formats as in interfaces §7; 0 for one that the part cannot multiply or that no
// table knows. Keys are counted once: those that a window hides are not among them.
double gemm_bound_ns(const PartRates& rates, const std::string& format, double m, double n, double k);
double experts_bound_ns(const PartRates& rates, const std::string& format, const ExpertShape& shape,
                        double rows, double distinct);
// What a launch that took `ns` under `bound` takes under `other`: the bounds' difference is credited in
// proportion to how near its bound it ran, in full from 0.7 on. A kernel far from memory's rate waits for
// something else (a start, a reduction, the matrix units) that fewer or faster bytes do not shorten. By
// published H100 and H200 timings of equal launches (reports/results/transport.md) what is saved rises from
// 0.2 of the difference at a utilisation of 0.15 over 0.55 at 0.35 and 0.8 at 0.55 to 1.0 at 0.75.
double under_other_bound(double ns, double bound, double other);
double decode_bound_ns(const PartRates& rates, const AttentionShape& shape, double sequences, double keys);
double prefill_bound_ns(const PartRates& rates, const AttentionShape& shape, double tokens, double pairs);
// Latent attention multiplies in 16 bits whatever its cache holds. Prompts: queries and outputs alone count
// as bytes, pairs as multiplied without padding. Absorbing: both products of `tokens` rows.
double mla_decode_bound_ns(const PartRates& rates, const AttentionShape& shape, double sequences,
                           double keys);
double mla_prefill_bound_ns(const PartRates& rates, const AttentionShape& shape, double tokens, double pairs);
double mla_absorb_bound_ns(const PartRates& rates, std::int64_t heads, const LatentWidths& widths,
                           double tokens);

}  // namespace orrery

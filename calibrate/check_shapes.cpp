#include "calibrate/check_shapes.h"

#include <algorithm>
#include <array>

#include "calibrate/point.h"
#include "calibrate/routing.h"

namespace orrery::calibrate {

namespace {

using kernels::CaseSpec;
using kernels::Fill;

constexpr std::array fills{Fill::random, Fill::zeros, Fill::saturating, Fill::with_nan};
constexpr std::array types{"bf16", "fp8-tensor", "fp8-channel", "fp8-block"};
constexpr std::array expert_types{"bf16", "fp8-block", "w4a8", "w4a16"};

struct Matrix {
  std::int64_t m, n, k;
};
// One row; a prime of rows; rows one past a tile; odd widths (bf16 only: eight-bit types ask for multiples of
// 16, blocks of 128); tall and flat.
constexpr std::array<Matrix, 9> matrices{{{1, 4096, 4096},
                                          {1, 128, 128},
                                          {13, 384, 512},
                                          {127, 1536, 640},
                                          {129, 256, 4096},
                                          {257, 1024, 256},
                                          {61, 1037, 523},
                                          {1024, 128, 7168},
                                          {2053, 2048, 128}}};

struct Rows {
  std::int64_t m, n;
};
// Widths of models, of one odd tile, and a prime; rows from one to a prime past a wave.
constexpr std::array<Rows, 8> row_shapes{
    {{1, 4096}, {1, 8}, {3, 128}, {37, 1536}, {257, 2048}, {64, 5120}, {127, 2880}, {5, 16384}}};

struct Heads {
  std::int64_t heads, kv_heads, head_dim;
};
// The longest contexts take the reference gigabytes: only with few KV heads.
constexpr std::int64_t most_long_heads = 4, long_context = 65536;

bool too_long(const Heads& h, std::int64_t context) {
  return context > long_context && h.kv_heads * h.head_dim > most_long_heads * 128;
}

constexpr std::array<Heads, 5> head_layouts{
    {{32, 8, 128}, {8, 8, 128}, {64, 4, 128}, {8, 1, 64}, {5, 1, 128}}};

void add_gemm(std::vector<CaseSpec>& out, CaseSpec s) {
  for (const char* dtype : types) {
    s.dtype = dtype;
    for (const Matrix& x : matrices) {
      s.m = x.m;
      s.n = x.n;
      s.k = x.k;
      out.push_back(s);
    }
  }
}

template <class Types>
void add_grouped(std::vector<CaseSpec>& out, CaseSpec s, const Types& dtypes) {
  const std::vector<std::vector<std::int64_t>> patterns{{1, 0, 0, 0, 0, 0, 0, 0},
                                                        {0, 0, 0, 0, 0, 0, 0, 1},
                                                        {0, 0, 131, 0},
                                                        {3, 0, 9, 4, 1, 0, 17, 64},
                                                        {127, 128, 129, 0, 1, 255},
                                                        expert_rows(RowPattern::routed, 128, 8, 64),
                                                        expert_rows(RowPattern::one_hot, 32, 4, 97),
                                                        expert_rows(RowPattern::zipf, 64, 8, 200)};
  for (const char* dtype : dtypes) {
    s.dtype = dtype;
    for (const auto& rows : patterns) {
      s.rows = rows;
      s.experts = static_cast<std::int64_t>(rows.size());
      for (const auto& [n, k] : {std::pair<std::int64_t, std::int64_t>{256, 512}, {1536, 256}}) {
        s.n = n;
        s.k = k;
        out.push_back(s);
      }
    }
  }
}

// Dense, rows of experts one after the other, and in slots.
void add_block(std::vector<CaseSpec>& out, CaseSpec s) {
  add_gemm(out, s);
  add_grouped(out, s, types);
  const std::vector<std::int64_t> rows{5, 0, 33, 64, 1, 127, 128};
  for (const char* dtype : {"fp8-block", "fp8-channel"}) {
    for (const std::int64_t slots : {std::int64_t{128}, std::int64_t{200}}) {
      CaseSpec masked = s;
      masked.dtype = dtype;
      masked.rows = rows;
      masked.slots = slots;
      masked.n = 1536;
      masked.k = 640;
      out.push_back(masked);
    }
  }
}

void add_decode(std::vector<CaseSpec>& out, CaseSpec s) {
  const std::vector<std::vector<std::int64_t>> batches{
      {1},    {2, 1, 17},  {15, 16, 17, 33, 1, 127, 128, 129},
      {4096}, {1, 131072}, std::vector<std::int64_t>(67, 211)};
  for (const char* kv : {"bf16", "fp8"}) {
    s.kv_dtype = kv;
    for (const Heads& h : head_layouts) {
      s.heads = h.heads;
      s.kv_heads = h.kv_heads;
      s.head_dim = h.head_dim;
      for (const auto& contexts : batches) {
        if (too_long(h, *std::max_element(contexts.begin(), contexts.end()))) continue;
        s.contexts = contexts;
        out.push_back(s);
      }
    }
  }
}

void add_prefill(std::vector<CaseSpec>& out, CaseSpec s) {
  const std::vector<std::vector<std::pair<std::int64_t, std::int64_t>>> prompts{
      {{1, 0}},      {{17, 0}},     {{128, 0}, {1, 5}, {67, 131}},  {{257, 0}}, {{64, 4096}},
      {{5, 131067}}, {{1, 131071}}, {{384, 0}, {384, 0}, {384, 0}}, {{1024, 0}}};
  for (const char* kv : {"bf16", "fp8"}) {
    s.kv_dtype = kv;
    for (const Heads& h : head_layouts) {
      s.heads = h.heads;
      s.kv_heads = h.kv_heads;
      s.head_dim = h.head_dim;
      for (const auto& sequences : prompts) {
        if (too_long(h, sequences.front().second)) continue;
        s.sequences = sequences;
        out.push_back(s);
      }
    }
  }
}

// Heads of one and two tiles, blocks of any size, tokens of one tile, one more, and a prime.
void add_latent(std::vector<CaseSpec>& out, CaseSpec s) {
  const std::vector<std::vector<std::int64_t>> batches{
      {1}, {63, 64, 65, 1, 129}, {4096, 17}, {32768}, std::vector<std::int64_t>(67, 211)};
  constexpr std::array<std::int64_t, 6> heads{16, 128, 1, 64, 17, 32};
  constexpr std::array<std::int64_t, 5> blocks{64, 16, 1, 128, 24};
  s.top_k = s.op.starts_with("mla_sparse") ? 2048 : 0;
  for (const char* kv : {"bf16", "fp8", "fp8_ds_mla"}) {
    s.kv_dtype = kv;
    for (std::size_t b = 0; b < batches.size(); ++b) {
      for (std::size_t h = 0; h < heads.size(); ++h) {
        s.contexts = batches[b];
        s.heads = heads[h];
        s.block_size = blocks[(b + h) % blocks.size()];
        out.push_back(s);
      }
    }
  }
}

void add_latent_prompts(std::vector<CaseSpec>& out, CaseSpec s) {
  const std::vector<std::vector<std::pair<std::int64_t, std::int64_t>>> prompts{
      {{1, 0}}, {{128, 0}, {1, 5}, {67, 131}}, {{257, 0}}, {{64, 4096}}, {{384, 0}, {384, 0}}, {{1024, 0}}};
  for (const std::int64_t heads : {1, 16}) {
    s.heads = heads;
    for (const auto& sequences : prompts) {
      s.sequences = sequences;
      out.push_back(s);
    }
  }
}

void add_index(std::vector<CaseSpec>& out, CaseSpec s) {
  const std::vector<std::vector<std::int64_t>> batches{
      {1}, {2047, 2048, 2049, 15, 16, 17}, {65536, 3}, std::vector<std::int64_t>(67, 4099)};
  s.block_size = 64;
  for (const std::int64_t heads : {32, 64}) {
    s.heads = heads;
    s.top_k = heads == 32 ? 2048 : 100;
    for (const auto& contexts : batches) {
      s.contexts = contexts;
      out.push_back(s);
    }
  }
}

void add_bytes(std::vector<CaseSpec>& out, CaseSpec s) {
  s.ranks = is_collective(s.op) ? 2 : 1;
  for (const std::int64_t bytes :
       {std::int64_t{1024}, std::int64_t{4112}, std::int64_t{1} << 20, std::int64_t{3} << 22}) {
    s.bytes = bytes;
    out.push_back(s);
  }
}

// Row-wise operators read what they name: width, experts, heads. Every field is set; the factory takes its
// own and refuses what it does not offer.
void add_row_wise(std::vector<CaseSpec>& out, CaseSpec s) {
  struct Router {
    std::int64_t experts, top_k, groups, top_groups;
  };
  constexpr std::array<Router, 4> routers{{{128, 8, 8, 4}, {8, 2, 2, 1}, {32, 4, 1, 1}, {160, 8, 8, 3}}};
  const bool many_types = s.op.find("quantize") != std::string::npos;
  for (const char* dtype : types) {
    if (!many_types && dtype != types.front()) continue;
    s.dtype = dtype;
    for (std::size_t i = 0; i < row_shapes.size(); ++i) {
      s.m = row_shapes[i].m;
      s.n = row_shapes[i].n;
      s.k = 1021;  // of a table that rows are gathered from
      const Heads& h = head_layouts[i % head_layouts.size()];
      const Router& r = routers[i % routers.size()];
      s.heads = h.heads;
      s.kv_heads = h.kv_heads;
      s.head_dim = h.head_dim;
      s.experts = r.experts;
      s.top_k = r.top_k;
      s.groups = r.groups;
      s.top_groups = r.top_groups;
      s.ranks = 2 << i % 3;     // of a reduction
      s.bytes = 5 * r.experts;  // of a packet
      s.kv_dtype = i % 2 == 0 ? "bf16" : "fp8";
      out.push_back(s);
    }
  }
}

// Blocks of a cache: short ones, those of models, one longer than a warp's piece.
void add_transfer(std::vector<CaseSpec>& out, CaseSpec s) {
  s.ranks = 2;
  for (const Matrix& x : {Matrix{1, 16, 1}, {37, 4096, 3}, {61, 2064, 2}, {128, 32768, 4}, {3, 1048576, 1}}) {
    s.m = x.m;
    s.n = x.n;
    s.k = x.k;
    out.push_back(s);
  }
}

}  // namespace

std::span<const kernels::Fill> check_fills() { return fills; }

const char* to_string(kernels::Fill fill) {
  switch (fill) {
    case Fill::random: return "random";
    case Fill::zeros: return "zeros";
    case Fill::saturating: return "saturating";
    case Fill::with_nan: return "with_nan";
  }
  return "?";
}

std::vector<kernels::CaseSpec> check_shapes(const std::string& op) {
  std::vector<CaseSpec> out;
  CaseSpec s;
  s.op = op;
  s.seed = 7;
  if (op == "gemm")
    add_gemm(out, s);
  else if (op.starts_with("grouped_gemm"))
    add_grouped(out, s, expert_types);
  else if (op.starts_with("block_gemm"))
    add_block(out, s);
  else if (op.starts_with("attention_decode"))
    add_decode(out, s);
  else if (op.starts_with("attention_prefill"))
    add_prefill(out, s);
  else if (op.starts_with("mla_prefill"))
    add_latent_prompts(out, s);
  else if (op.starts_with("mla_"))
    add_latent(out, s);
  else if (op.starts_with("index_"))
    add_index(out, s);
  else if (is_collective(op) || is_probe(op))
    add_bytes(out, s);
  else if (op.starts_with("kv_transfer"))
    add_transfer(out, s);
  else
    add_row_wise(out, s);
  return out;
}

}  // namespace orrery::calibrate

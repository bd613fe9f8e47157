// How the wgmma form of latent attention lays out a block's shared memory, and the warpgroup that brings
// tokens into it: by tensor copies, block by block of a paged bf16 cache; row by row by cp.async where blocks
// do not divide tiles or tokens were picked; and through registers, from eight bits to bf16, elsewhere.
// Included by mla_decode_wgmma.cu.
#pragma once

#include "kernels/latent_rows.h"
#include "kernels/mla_decode.h"
#include "kernels/tensor_map.h"
#include "kernels/wgmma.h"

namespace orrery::kernels {
namespace mla_wgmma {  // named: on sm_89 much of it is unused, which the compiler reports of unnamed ones

enum class Source : std::uint8_t { boxes, rows, fp8, packed };

constexpr int tile_tokens = 64, parts = latent_key / 64, stages = 2, threads = 3 * 128;
constexpr int part_bytes = 64 * 128, tile_bytes = parts * part_bytes;  // 64 dimensions of 64 rows
constexpr int keys_offset = tile_bytes;                                // behind the queries, as large
constexpr int weights_offset = keys_offset + stages * tile_bytes;      // 64 × 64 bf16
constexpr int factors_offset = weights_offset + part_bytes;            // a float a head
constexpr int barriers_offset = factors_offset + 64 * 4, shared_bytes = barriers_offset + 2 * stages * 8;
enum Meeting : int { scorers = 1, weights_ready, weights_taken };

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

struct Ring {
  SharedAddress base;
  unsigned slot = 0, parity = 0;

  GPU_DEVICE_MEMBER explicit Ring(SharedAddress shared) : base(shared) {}
  GPU_DEVICE_MEMBER SharedAddress tile() const { return base + keys_offset + slot * tile_bytes; }
  GPU_DEVICE_MEMBER SharedAddress filled() const { return base + barriers_offset + slot * 16; }
  GPU_DEVICE_MEMBER SharedAddress emptied() const { return filled() + 8; }
  GPU_DEVICE_MEMBER void advance() {
    if (++slot == stages) {
      slot = 0;
      parity ^= 1U;
    }
  }
};

struct Place {
  DecodePiece piece;
  int first_head, heads, tokens, tiles;
};

GPU_DEVICE SharedAddress chunk_address(SharedAddress tile, unsigned row, unsigned chunk) {
  return tile + chunk / 8 * part_bytes + swizzled_128(row, chunk % 8);
}

// By one warp: a box of 64 dimensions of the rows of a block of the cache that lie together.
GPU_DEVICE void bring_boxes(const CUtensorMap* map, const MlaDecode& p, const Place& at, Ring ring) {
  const int box_rows = p.kv.block_size < tile_tokens ? p.kv.block_size : tile_tokens;
  const int boxes = tile_tokens / box_rows * parts;
  for (int tile = 0; tile < at.tiles; tile++) {
    if (gpu_lane() == 0) {
      barrier_wait(ring.emptied(), ring.parity ^ 1U);
      barrier_expect(ring.filled(), tile_bytes);
    }
    warp_sync();
    for (int i = static_cast<int>(gpu_lane()); i < boxes; i += GPU_WARP) {
      const int part = i % parts, row = i / parts * box_rows,
                token = at.piece.first + tile * tile_tokens + row;
      // Behind the last block any will do: scores there are masked and values cleared.
      const bool there = token < at.piece.end;
      const std::int64_t from = latent_row(p.kv, at.piece.sequence, there ? token : at.piece.first);
      copy_box(ring.tile() + static_cast<unsigned>(part * part_bytes + row * 128), map, part * 64,
               static_cast<int>(from), ring.filled());
    }
    ring.advance();
  }
}

// Eight threads a row, 16 rows at a time; −1 behind the last token.
struct RowsOfThread {
  std::int32_t row[4];

  GPU_DEVICE_MEMBER void find(const MlaDecode& p, const Place& at, int tile, int first) {
    GPU_UNROLL for (int i = 0; i < 4; i++) {
      const int token = at.piece.first + tile * tile_tokens + first + 16 * i;
      row[i] =
          token < at.piece.end ? static_cast<std::int32_t>(latent_row(p.kv, at.piece.sequence, token)) : -1;
    }
  }
  GPU_DEVICE_MEMBER bool valid(int i) const { return row[i] >= 0; }
  template <LatentFormat Format>
  GPU_DEVICE_MEMBER const unsigned char* address(const LatentKv& kv, int i) const {
    return static_cast<const unsigned char*>(kv.rows) +
           std::int64_t{valid(i) ? row[i] : 0} * latent_bytes<Format>;
  }
};

GPU_DEVICE void arrive_when_copied(SharedAddress barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}

GPU_DEVICE void bring_rows(const MlaDecode& p, const Place& at, Ring ring) {
  const unsigned thread = threadIdx.x % 128, first = thread / 8, lane = thread % 8;
  RowsOfThread next;
  next.find(p, at, 0, static_cast<int>(first));
  for (int tile = 0; tile < at.tiles; tile++) {
    const RowsOfThread rows = next;
    if (tile + 1 < at.tiles) next.find(p, at, tile + 1, static_cast<int>(first));
    barrier_wait(ring.emptied(), ring.parity ^ 1U);
    GPU_UNROLL for (unsigned i = 0; i < 4; i++) {
      const unsigned char* from = rows.address<LatentFormat::bf16>(p.kv, static_cast<int>(i)) + lane * 16;
      const SharedAddress to = ring.tile() + swizzled_128(first + 16 * i, lane);
      GPU_UNROLL for (unsigned part = 0; part < parts; part++) {
        copy_async(to + part * part_bytes, from + part * 128, rows.valid(static_cast<int>(i)));
      }
    }
    arrive_when_copied(ring.filled());
    ring.advance();
  }
}

// A row of the eight that a thread has a share of: of each 128 elements 16, with their scale, and eight
// rotary ones.
template <Source From>
struct StoredShare {
  static constexpr int chunks = From == Source::packed ? 4 : 5;
  GpuBytes16 eights[chunks], rotary, scales;

  GPU_DEVICE_MEMBER void load(const unsigned char* row, unsigned lane, bool valid) {
    GPU_UNROLL for (unsigned i = 0; i < 4; i++) eights[i] = load_or_zeros(row + (lane + 8 * i) * 16, valid);
    if constexpr (From == Source::packed) {
      scales = load_or_zeros(row + latent_scales_at, valid);
      rotary = load_or_zeros(row + latent_rotary_at + lane * 16, valid);
    } else {
      eights[4] = load_or_zeros(row + latent_width + lane % 4 * 16, valid);
    }
  }
  GPU_DEVICE_MEMBER void lay_down(unsigned char* tile, unsigned row, unsigned lane) const {
    GPU_UNROLL for (unsigned i = 0; i < chunks; i++) {
      if (i == 4 && lane >= 4) break;
      const float scale = From == Source::packed ? gpu_bit_cast<float>(scales.word[i % 4]) : 1.0F;
      const LatentSixteen sixteen = unpack_latent(eights[i], scale);
      GPU_UNROLL for (unsigned half = 0; half < 2; half++) {
        gpu_store(tile + chunk_address(0, row, 2 * (lane + 8 * i) + half), 0, sixteen.half[half]);
      }
    }
    if constexpr (From == Source::packed) {
      gpu_store(tile + chunk_address(0, row, latent_width / 8 + lane), 0, rotary);
    }
  }
};

GPU_DEVICE void prefetch(const void* line) { asm volatile("prefetch.global.L2 [%0];" ::"l"(line)); }

template <Source From>
GPU_DEVICE void bring_eight_bits(const MlaDecode& p, const Place& at, unsigned char* shared, Ring ring) {
  constexpr LatentFormat format = From == Source::packed ? LatentFormat::packed : LatentFormat::fp8;
  const unsigned thread = threadIdx.x % 128, first = thread / 8, lane = thread % 8;
  RowsOfThread rows, next;
  next.find(p, at, 0, static_cast<int>(first));
  StoredShare<From> share, after;
  share.load(next.address<format>(p.kv, 0), lane, next.valid(0));
  for (int tile = 0; tile < at.tiles; tile++) {
    rows = next;
    if (tile + 1 < at.tiles) {
      next.find(p, at, tile + 1, static_cast<int>(first));
      // Registers hold a row ahead; the rest of the next tile waits in L2.
      GPU_UNROLL for (int i = 0; i < 4; i++) {
        if (lane * 128 < latent_bytes<format>) prefetch(next.address<format>(p.kv, i) + lane * 128);
      }
    }
    barrier_wait(ring.emptied(), ring.parity ^ 1U);
    unsigned char* to = shared + (ring.tile() - ring.base);
    GPU_UNROLL for (int i = 0; i < 4; i++) {
      const RowsOfThread& of = i < 3 ? rows : next;
      after.load(of.address<format>(p.kv, (i + 1) % 4), lane, of.valid((i + 1) % 4));
      share.lay_down(to, first + 16 * static_cast<unsigned>(i), lane);
      share = after;
    }
    async_proxy_fence();
    barrier_arrive(ring.filled());
    ring.advance();
  }
}

#endif

}  // namespace mla_wgmma
}  // namespace orrery::kernels

// How the wgmma form of latent attention lays out a block's shared memory, and the warpgroup that brings
// tokens into it: by tensor copies, block by block of a paged bf16 cache; row by row by cp.async where blocks
// do not divide tiles or tokens were picked; and through registers where they are stored in eight bits. e4m3
// with one scale for everything become fp16, exactly and by an instruction for two, and so do queries and
// weights; with scales of their own, bf16, which takes six.
// Included by mla_decode_wgmma.cu.
#pragma once

#include "kernels/cluster.h"
#include "kernels/latent_rows.h"
#include "kernels/mla_decode.h"
#include "kernels/tensor_map.h"
#include "kernels/wgmma.h"

namespace orrery::kernels {
namespace mla_wgmma {  // named: on sm_89 much of it is unused, which the compiler reports of unnamed ones

enum class Source : std::uint8_t { boxes, rows, fp8, packed };
// Rows with scales of their own take a warpgroup longer to convert than the other two to multiply.
__host__ __device__ constexpr int groups_of_bringers(Source from) { return from == Source::packed ? 2 : 1; }
__host__ __device__ constexpr int threads_of(Source from) { return 128 * (2 + groups_of_bringers(from)); }
// Of those that all threads are launched with: no more can be asked for, which would wait for ever.
__host__ __device__ constexpr int registers_of_bringers(Source from) {
  if (from == Source::boxes) return 56;
  if (from == Source::packed) return 64;
  return from == Source::rows ? 88 : 104;  // rows that wait
}
__host__ __device__ constexpr int registers_of_multipliers(Source from) {
  const int bringers = groups_of_bringers(from), all = (2 + bringers) * (bringers == 1 ? 168 : 128);
  return (all - bringers * registers_of_bringers(from)) / 2 / 8 * 8;
}

constexpr int tile_tokens = 64, parts = latent_key / 64, stages = 2;
constexpr int part_bytes = 64 * 128, tile_bytes = parts * part_bytes;  // 64 dimensions of 64 rows
constexpr int keys_offset = tile_bytes;                                // behind the queries, as large
constexpr int weights_offset = keys_offset + stages * tile_bytes;      // 64 × 64 bf16
constexpr int factors_offset = weights_offset + part_bytes;            // a float a head
constexpr int query_factors_offset = factors_offset + 64 * 4;          // the same, of queries in fp16
constexpr int barriers_offset = query_factors_offset + 64 * 4,
              shared_bytes = barriers_offset + 4 * stages * 8;
enum Meeting : int { scorers = 1, weights_ready, weights_taken };

// A stage is filled and emptied by halves, each with the values of one warpgroup: what the first is through
// with comes anew while the second still multiplies.
enum Half : int { left, right };
constexpr int left_parts = 4;  // the right half has the rotary key too
__host__ __device__ constexpr int first_part(int half) { return half == left ? 0 : left_parts; }
__host__ __device__ constexpr int parts_of(int half) {
  return half == left ? left_parts : parts - left_parts;
}

// Of the cache: boxes of 64 dimensions of the rows that lie together, and of four times as many where those
// are a whole tile: ordering a copy takes about a hundred clocks.
struct CacheMaps {
  CUtensorMap part, four_parts;
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

// Where a tile of tokens lies, its barriers, and the phase of them in which it is there.
struct Stage {
  SharedAddress tile, barriers;
  unsigned parity;

  GPU_DEVICE_MEMBER Stage(SharedAddress base, int number) {
    const unsigned slot = static_cast<unsigned>(number) % stages;
    tile = base + keys_offset + slot * tile_bytes;
    barriers = base + barriers_offset + slot * 32;
    parity = static_cast<unsigned>(number) / stages % 2;
  }
  GPU_DEVICE_MEMBER SharedAddress filled(int half) const {
    return barriers + 16U * static_cast<unsigned>(half);
  }
  GPU_DEVICE_MEMBER SharedAddress emptied(int half) const { return filled(half) + 8; }
  GPU_DEVICE_MEMBER void wait_filled(int half) const { barrier_wait(filled(half), parity); }
  GPU_DEVICE_MEMBER void wait_emptied(int half) const { barrier_wait(emptied(half), parity ^ 1U); }
  // By every warp that multiplied this half's values; to both blocks where they share copies.
  GPU_DEVICE_MEMBER void give_back(int half, unsigned blocks) const {
    const unsigned lane = gpu_lane();
    if (blocks == 1) {
      if (lane == 0) barrier_arrive(emptied(half));
    } else if (lane < blocks) {
      barrier_arrive_at(emptied(half), lane);
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

// By one warp. Of two blocks of threads with the same tokens each brings its share, to both.
struct Boxes {
  const CacheMaps& maps;
  const MlaDecode& p;
  const Place& at;
  unsigned blocks, rank;
  int rows;  // of a box; at least eight

  // First rows of a tile's boxes, one a lane, over and over. Looked up a tile ahead: the table is in memory.
  GPU_DEVICE_MEMBER int look_up(int tile) const {
    const int boxes = tile_tokens / rows;
    const int token = at.piece.first + tile * tile_tokens + static_cast<int>(gpu_lane()) % boxes * rows;
    // Behind the last block any will do: scores there are masked and values cleared.
    const bool there = token < at.piece.end;
    return static_cast<int>(latent_row(p.kv, at.piece.sequence, there ? token : at.piece.first));
  }
  template <int Half>
  GPU_DEVICE_MEMBER void bring(const Stage& stage, int rows_of_lanes) const {
    constexpr int first = first_part(Half), across = parts_of(Half);
    const SharedAddress filled = stage.filled(Half);
    if (gpu_lane() == 0) {
      stage.wait_emptied(Half);
      barrier_expect(filled, across * part_bytes);
      if (rows == tile_tokens) {
        const SharedAddress to = stage.tile + first * part_bytes, rest = to + 4 * part_bytes;
        if (blocks == 1) {
          copy_box(to, &maps.four_parts, 0, rows_of_lanes, first, filled);
          if (across > 4) copy_box(rest, &maps.part, (first + 4) * 64, rows_of_lanes, filled);
        } else if (rank == Half) {
          copy_box_to_all(to, &maps.four_parts, 0, rows_of_lanes, first, filled, 3);
        } else if (across > 4) {
          copy_box_to_all(rest, &maps.part, (first + 4) * 64, rows_of_lanes, filled, 3);
        }
      }
    }
    warp_sync();
    if (rows == tile_tokens) return;
    const int boxes = tile_tokens / rows, step = static_cast<int>(blocks) * GPU_WARP;
    for (int start = 0; start < boxes * across; start += step) {
      const int i = start + static_cast<int>(rank + blocks * gpu_lane());
      const int part = first + i % across, box = i / across;
      const int from = gpu_shuffle(rows_of_lanes, static_cast<unsigned>(box) % GPU_WARP);
      if (box >= boxes) continue;
      const SharedAddress to = stage.tile + static_cast<unsigned>(part * part_bytes + box * rows * 128);
      if (blocks == 1) {
        copy_box(to, &maps.part, part * 64, from, filled);
      } else {
        copy_box_to_all(to, &maps.part, part * 64, from, filled, 3);
      }
    }
  }
};

GPU_DEVICE void bring_boxes(const Boxes& boxes, SharedAddress base) {
  int rows = boxes.look_up(0);
  for (int tile = 0; tile < boxes.at.tiles; tile++) {
    const int next = boxes.look_up(tile + 1);
    const Stage stage(base, tile);
    boxes.bring<right>(stage, rows);
    boxes.bring<left>(stage, rows);
    rows = next;
  }
}

// Eight threads a row, AtOnce rows at a time, so as many of a tile a warp as its first lanes look up. −1
// behind the last token.
template <int AtOnce>
struct RowsOfWarp {
  std::int32_t own;

  GPU_DEVICE_MEMBER void find(const MlaDecode& p, const Place& at, int tile, int first) {
    const int lane = static_cast<int>(gpu_lane());
    const int token = at.piece.first + tile * tile_tokens + first / 4 * 4 + lane % 4 +
                      AtOnce * (lane / 4 % (tile_tokens / AtOnce));
    own = token < at.piece.end ? static_cast<std::int32_t>(latent_row(p.kv, at.piece.sequence, token)) : -1;
  }
  // This thread's in the tile's i-th AtOnce rows, by all lanes.
  GPU_DEVICE_MEMBER std::int32_t row(int i) const {
    return gpu_shuffle(own, gpu_lane() / 8 + 4U * static_cast<unsigned>(i));
  }
};
template <LatentFormat Format>
GPU_DEVICE const unsigned char* row_address(const LatentKv& kv, std::int32_t row) {
  return static_cast<const unsigned char*>(kv.rows) + std::int64_t{row < 0 ? 0 : row} * latent_bytes<Format>;
}

GPU_DEVICE void arrive_when_copied(SharedAddress barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}

GPU_DEVICE void bring_rows(const MlaDecode& p, const Place& at, SharedAddress base) {
  const unsigned thread = threadIdx.x % 128, first = thread / 8, lane = thread % 8;
  RowsOfWarp<16> next;
  next.find(p, at, 0, static_cast<int>(first));
  for (int tile = 0; tile < at.tiles; tile++) {
    std::int32_t rows[4];
    GPU_UNROLL for (int i = 0; i < 4; i++) rows[i] = next.row(i);
    if (tile + 1 < at.tiles) next.find(p, at, tile + 1, static_cast<int>(first));
    const Stage stage(base, tile);
    GPU_UNROLL for (int half = right; half >= left; half--) {
      stage.wait_emptied(half);
      GPU_UNROLL for (unsigned i = 0; i < 4; i++) {
        const unsigned char* from = row_address<LatentFormat::bf16>(p.kv, rows[i]) + lane * 16;
        const SharedAddress to = stage.tile + swizzled_128(first + 16 * i, lane);
        GPU_UNROLL for (int j = 0; j < parts_of(half); j++) {
          const auto part = static_cast<unsigned>(first_part(half) + j);
          copy_async(to + part * part_bytes, from + part * 128, rows[i] >= 0);
        }
      }
      arrive_when_copied(stage.filled(half));
    }
  }
}

// Where in a tile a thread's sixteen elements go, of the first 128 of its first row, and eight rotary ones.
// Four of a row's eight threads write the even places of 16 bytes while the others write the odd ones behind
// them: all in banks of their own.
struct SharePlaces {
  unsigned sixteen[2], rotary;
  bool turn, has_rotary;

  GPU_DEVICE_MEMBER SharePlaces(unsigned row, unsigned lane) : turn(lane >= 4), has_rotary(lane < 4) {
    GPU_UNROLL for (unsigned half = 0; half < 2; half++) {
      sixteen[half] = chunk_address(0, row, 2 * lane + (half ^ lane / 4));
    }
    rotary = chunk_address(0, row, latent_width / 8 + lane);
  }
  GPU_DEVICE_MEMBER GpuBytes16 turned(const GpuBytes16& in) const {
    return {{turn ? in.word[2] : in.word[0], turn ? in.word[3] : in.word[1], turn ? in.word[0] : in.word[2],
             turn ? in.word[1] : in.word[3]}};
  }
};

// Sixteen e4m3 as fp16.
GPU_DEVICE LatentSixteen f16_of_latent(const GpuBytes16& stored) {
  LatentSixteen out;
  GPU_UNROLL for (int i = 0; i < 8; i++) {
    out.half[i / 4].word[i % 4] = f16_of_e4m3(stored.word[i / 2] >> (16 * (i % 2)) & 0xFFFFU);
  }
  return out;
}

// A row of the eight that a thread has a share of: of each 128 elements 16, with their scale, and eight
// rotary ones.
template <Source From>
struct StoredShare {
  static constexpr int chunks = From == Source::packed ? 4 : 5;
  GpuBytes16 eights[chunks], rotary;
  float scale;  // of the 128 elements with this lane's number modulo four; the row's other lanes ask for it

  GPU_DEVICE_MEMBER void load(const unsigned char* row, unsigned lane, bool valid) {
    GPU_UNROLL for (unsigned i = 0; i < 4; i++) eights[i] = load_or_zeros(row + (lane + 8 * i) * 16, valid);
    if constexpr (From == Source::packed) {
      scale = valid ? gpu_load<float>(row + latent_scales_at, lane % 4) : 0.0F;
      rotary = load_or_zeros(row + latent_rotary_at + lane * 16, valid);
    } else {
      eights[4] = load_or_zeros(row + latent_width + lane % 4 * 16, valid);
    }
  }
  GPU_DEVICE_MEMBER void lay_down(unsigned char* row, const SharePlaces& places) const {
    GPU_UNROLL for (unsigned i = 0; i < chunks; i++) {
      if (i == 4 && !places.has_rotary) break;
      const GpuBytes16 turned = places.turned(eights[i]);
      LatentSixteen sixteen;
      if constexpr (From == Source::packed) {
        sixteen = unpack_scaled_latent(turned, gpu_shuffle(scale, gpu_lane() / 8 * 8 + i));
      } else {
        sixteen = f16_of_latent(turned);
      }
      GPU_UNROLL for (unsigned half = 0; half < 2; half++) {
        gpu_store(row + places.sixteen[half] + i * 2 * part_bytes, 0, sixteen.half[half]);
      }
    }
    if constexpr (From == Source::packed) gpu_store(row + places.rotary, 0, rotary);
  }
};

GPU_DEVICE void prefetch(const void* line) { asm volatile("prefetch.global.L2 [%0];" ::"l"(line)); }

// A thread's next rows wait in registers, all of the tile after in L2, and the places of the one after
// that are being looked up.
template <Source From>
GPU_DEVICE void bring_eight_bits(const MlaDecode& p, const Place& at, unsigned char* shared) {
  constexpr LatentFormat format = From == Source::packed ? LatentFormat::packed : LatentFormat::fp8;
  constexpr int at_once = 16 * groups_of_bringers(From), rounds = tile_tokens / at_once;
  const unsigned thread = threadIdx.x - 2 * 128, first = thread / 8, lane = thread % 8;
  const SharedAddress base = shared_address(shared);
  RowsOfWarp<at_once> rows, next, later;
  next.find(p, at, 0, static_cast<int>(first));
  later.find(p, at, 1, static_cast<int>(first));
  const SharePlaces places(first, lane);
  StoredShare<From> share[rounds];
  const auto load = [&](int i, std::int32_t row) {
    share[i].load(row_address<format>(p.kv, row), lane, row >= 0);
  };
  constexpr int waiting = From == Source::packed ? 1 : 2;  // as many as there are registers for
  GPU_UNROLL for (int i = 0; i < waiting; i++) load(i, next.row(i));
  for (int tile = 0; tile < at.tiles; tile++) {
    rows = next;
    next = later;
    GPU_UNROLL for (int i = 0; i < rounds; i++) {
      const std::int32_t row = next.row(i);
      if (lane * 128 < latent_bytes<format> && row >= 0)
        prefetch(row_address<format>(p.kv, row) + lane * 128);
    }
    later.find(p, at, tile + 2, static_cast<int>(first));
    const Stage stage(base, tile);
    stage.wait_emptied(right);
    stage.wait_emptied(left);
    unsigned char* to = shared + (stage.tile - base);
    GPU_UNROLL for (int i = 0; i < rounds; i++) {
      const int ahead = (i + waiting) % rounds;
      load(ahead, (i + waiting < rounds ? rows : next).row(ahead));
      share[i].lay_down(to + at_once * 128 * i, places);
    }
    async_proxy_fence();
    warp_sync();
    if (gpu_lane() == 0) {
      barrier_arrive(stage.filled(right));
      barrier_arrive(stage.filled(left));
    }
  }
}

#endif

}  // namespace mla_wgmma
}  // namespace orrery::kernels

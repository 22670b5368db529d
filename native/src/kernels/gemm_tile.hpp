// The inner kernel of matrix multiplication: a tile of C held in registers while k goes by.
#pragma once

#include <array>
#include <utility>

#include "../simd.hpp"

namespace howdah::HOWDAH_ISA {

/**
 * Tile sizes: rows and vectors of columns that fit the register file with B's vectors and one broadcast of A, and the
 * words of k per block, so that the panels in use stay in L1 and L2.
 */
struct Tile {
  int rows, vectors, block;
};
#if HOWDAH_AVX512
// On Zen 4, 12 x 32, 14 x 32 and 6 x 64 with blocks of 384 to 768 words are within 3 % of one another; 8 x 48 loses a
// third at sizes such as 64.
constexpr Tile tile_f32{12, 2, 512}, tile_bf16{12, 2, 512};
#elif HOWDAH_AVX2
constexpr Tile tile_f32{6, 2, 384}, tile_bf16 = tile_f32;
#elif HOWDAH_NEON
constexpr Tile tile_f32{8, 3, 384}, tile_bf16 = tile_f32;
#else
constexpr Tile tile_f32{4, 2, 256}, tile_bf16 = tile_f32;
#endif

template <bool BF>
constexpr Tile tile_of = BF ? tile_bf16 : tile_f32;

/** Words between two rows of A as pack_rows lays them: room for a block rounded up to W, and an odd number of cache lines. */
template <bool BF>
constexpr int row_stride = ((tile_of<BF>.block + W + 31) / 32 * 32) + 16;

/** How A lies: rows of words `lda` apart (packed: row_stride), or a panel [kd][rows of a full tile]. */
enum class ALayout { rows, panel };

HOWDAH_INLINE vf multiply_add(vf a, vf b, vf sum, std::false_type) { return fma(a, b, sum); }
#if HOWDAH_BF16_DOT
/** sum + a0 b0 + a1 b1 per lane, where a word is the pair (x0, x1) of bf16. */
HOWDAH_INLINE vf multiply_add(vf a, vf b, vf sum, std::true_type) {
  return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}
#endif

/**
 * What is wanted in L1 by the end of a tile: rows of lines, of C and what its finish reads, and of the next tile's A. Asked for little by little
 * while the tile multiplies: all at once, they would take every place for a miss that the core has, and the tile would wait behind them.
 */
struct Wanted {
  static constexpr int most = 5;
  struct Rows {
    const char* at;
    int64_t ld; // bytes from row to row
    int lines;
  } rows[most];
  int count = 0;
  // A run that later tiles read: so many lines with every row, into L2.
  const char* later = nullptr;
  int later_lines = 0;

  void add(const void* at, int64_t ld, int64_t bytes) {
    const int before = (int)((uintptr_t)at % 64);
    rows[count++] = {(const char*)at - before, ld, (int)((before + bytes + 63) / 64)};
  }
  inline __attribute__((always_inline)) void ask(int row) const {
    for (int l = 0; l < later_lines; l++) __builtin_prefetch(later + 64 * ((int64_t)row * later_lines + l), 0, 2);
    for (int i = 0; i < count; i++) {
      const char* const at = rows[i].at + row * rows[i].ld;
      for (int l = 0; l < rows[i].lines; l++) __builtin_prefetch(at + 64 * l, 1);
    }
  }
};

/**
 * C (M rows, V vectors of columns) = A B, or += with `add`. B's words lie in rows `ldb` apart. M is the number of rows, at
 * most that of a full tile; columns come in full tiles only (a narrower rest goes through a buffer of the caller).
 */
template <bool BF, ALayout layout, int M, int V>
static __attribute__((noinline)) void multiply_tile(int kd, const float* a, [[maybe_unused]] int64_t lda, const float* b, int64_t ldb, float* c,
                                                    int64_t ldc, bool add, const Wanted& wanted) {
  constexpr int full = tile_of<BF>.rows;
  // Three rows to a pointer: one, two strides from it are addresses that a load can name.
  constexpr int together = 3, pointers = layout == ALayout::rows ? (M + together - 1) / together : 1;
  const float* rows[pointers];
  HOWDAH_UNROLL for (int p = 0; p < pointers; p++) rows[p] = a + p * together * lda;
  vf sum[M][V];
  HOWDAH_UNROLL for (int i = 0; i < M; i++) HOWDAH_UNROLL for (int j = 0; j < V; j++) sum[i][j] = zero();
  const int each = kd / M;
  for (int row = 0, left = kd; left > 0; row++) {
    if (row < M) wanted.ask(row);
    const int steps = row < M ? each : left;
    left -= steps;
    for (int q = 0; q < steps; q++) {
      vf bv[V];
      HOWDAH_UNROLL for (int j = 0; j < V; j++) bv[j] = load(b + j * W);
      HOWDAH_UNROLL for (int i = 0; i < M; i++) {
        const vf av = splat(layout == ALayout::rows ? rows[i / together][i % together * lda] : rows[0][i]);
        HOWDAH_UNROLL for (int j = 0; j < V; j++)
          sum[i][j] = multiply_add(av, bv[j], sum[i][j], std::bool_constant<BF>{});
      }
      HOWDAH_UNROLL for (int p = 0; p < pointers; p++) rows[p] += layout == ALayout::rows ? 1 : full;
      b += ldb;
    }
  }
  if (add) {
    HOWDAH_UNROLL for (int i = 0; i < M; i++)
        HOWDAH_UNROLL for (int j = 0; j < V; j++) sum[i][j] = sum[i][j] + load(c + i * ldc + j * W);
  }
  HOWDAH_UNROLL for (int i = 0; i < M; i++)
      HOWDAH_UNROLL for (int j = 0; j < V; j++) store(c + i * ldc + j * W, sum[i][j]);
}

using TileFunction = void (*)(int kd, const float* a, int64_t lda, const float* b, int64_t ldb, float* c, int64_t ldc, bool add, const Wanted& wanted);

/** The kernels for 1 .. rows rows, at index rows - 1. */
template <bool BF, ALayout layout>
constexpr auto tile_functions = []<size_t... I>(std::index_sequence<I...>) {
  return std::array<TileFunction, sizeof...(I)>{multiply_tile<BF, layout, (int)I + 1, tile_of<BF>.vectors>...};
}(std::make_index_sequence<tile_of<BF>.rows>{});

} // namespace howdah::HOWDAH_ISA

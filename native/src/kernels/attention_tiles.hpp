// What the forward and backward passes of attention share: small matrix products on tiles, packing, and which keys a query
// sees. Included by kernel files only.
#pragma once

#include "nn_common.hpp"
#include "philox.hpp"

namespace howdah::HOWDAH_ISA {

// A register tile: kTileRows rows by kTileVectors vectors of columns.
#if HOWDAH_AVX512 || HOWDAH_NEON
constexpr int kTileRows = 6, kTileVectors = 4;
#elif HOWDAH_AVX2
constexpr int kTileRows = 6, kTileVectors = 2;
#else
constexpr int kTileRows = 4, kTileVectors = 2;
#endif

constexpr int64_t pad(int64_t n) { return (n + W - 1) / W * W; }

/**
 * C (R, V*W) = [C +] A (R, k) B (k, V*W). B and C are row-major with leading dimensions ldb and ldc. A is row-major with
 * leading dimension lda, or, when Transposed, stored as (k, R).
 */
template <int R, int V, bool Transposed>
void tile_product(const float* a, int64_t lda, const float* b, int64_t ldb, int64_t k, float* c, int64_t ldc, bool add) {
  vf sum[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) {
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) sum[r][v] = add ? load(c + r * ldc + v * W) : zero();
  }
  for (int64_t i = 0; i < k; i++) {
    vf row[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) row[v] = load(b + v * W);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      const vf x = splat(Transposed ? a[r] : a[r * lda]);
#pragma GCC unroll 4
      for (int v = 0; v < V; v++) sum[r][v] = fma(x, row[v], sum[r][v]);
    }
    a += Transposed ? lda : 1;
    b += ldb;
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) {
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) store(c + r * ldc + v * W, sum[r][v]);
  }
}

using TileProduct = void (*)(const float*, int64_t, const float*, int64_t, int64_t, float*, int64_t, bool);

template <bool Transposed, int R, int V>
constexpr TileProduct pick_tile(int rows, int vectors) {
  if constexpr (R > 1) {
    if (rows < R) return pick_tile<Transposed, R - 1, V>(rows, vectors);
  }
  if constexpr (V > 1) {
    if (vectors < V) return pick_tile<Transposed, R, V - 1>(rows, vectors);
  }
  return tile_product<R, V, Transposed>;
}

template <bool Transposed>
struct TileTable {
  TileProduct entry[kTileRows + 1][kTileVectors + 1] = {};
  constexpr TileTable() {
    for (int r = 1; r <= kTileRows; r++)
      for (int v = 1; v <= kTileVectors; v++) entry[r][v] = pick_tile<Transposed, kTileRows, kTileVectors>(r, v);
  }
};
template <bool Transposed>
inline constexpr TileTable<Transposed> tile_table;

/** The product above for at most kTileRows rows and any number of columns that is a multiple of W. */
template <bool Transposed>
HOWDAH_INLINE void strip_product(int rows, int64_t columns, const float* a, int64_t lda, const float* b, int64_t ldb, int64_t k,
                                 float* c, int64_t ldc, bool add) {
  for (int64_t j = 0; j < columns; j += kTileVectors * W) {
    const int vectors = static_cast<int>(std::min<int64_t>(kTileVectors, (columns - j) / W));
    tile_table<Transposed>.entry[rows][vectors](a, lda, b + j, ldb, k, c + j, ldc, add);
  }
}

// ---- Packing ----

/** `rows` rows of `width` at `stride` become rows of pad(width), times `factor`, zeros behind. */
inline void pack_rows(const float* from, int64_t stride, int64_t rows, int64_t width, float factor, float* to) {
  const int64_t padded = pad(width);
  const vf f = splat(factor);
  for (int64_t r = 0; r < rows; r++) {
    int64_t i = 0;
    for (; i + W <= width; i += W) store(to + r * padded + i, load(from + r * stride + i) * f);
    if (i < width) store(to + r * padded + i, load_n(from + r * stride + i, width - i) * f);
  }
}

typedef float v4 __attribute__((vector_size(16)));

/** `rows` rows of `width` at `stride` become (width, ld): columns [rows, ld) are zeros. ld is a multiple of 4. */
inline void pack_transposed(const float* from, int64_t stride, int64_t rows, int64_t width, float* to, int64_t ld) {
  const int64_t whole_rows = rows / 4 * 4, whole_width = width / 4 * 4;
  for (int64_t r = 0; r < whole_rows; r += 4) {
    const float* x = from + r * stride;
    for (int64_t i = 0; i < whole_width; i += 4) {
      v4 a, b, c, d;
      std::memcpy(&a, x + i, 16);
      std::memcpy(&b, x + stride + i, 16);
      std::memcpy(&c, x + 2 * stride + i, 16);
      std::memcpy(&d, x + 3 * stride + i, 16);
      const v4 ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5), ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
      const v4 cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5), cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
      const v4 rows4[4] = {
          __builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5), __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7),
          __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5), __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7)};
      for (int j = 0; j < 4; j++) std::memcpy(to + (i + j) * ld + r, &rows4[j], 16);
    }
  }
  for (int64_t i = 0; i < width; i++) {
    for (int64_t r = i < whole_width ? whole_rows : 0; r < rows; r++) to[i * ld + r] = from[r * stride + i];
    for (int64_t r = rows; r < ld; r++) to[i * ld + r] = 0;
  }
}

// ---- Visibility ----

/** The keys [first, end) that query i of batch b sees, and the end that ALiBi counts from. */
struct Visible {
  int32_t first, end;
};

inline Visible visible(const AttentionArgs& a, int64_t b, int64_t i) {
  const int64_t natural = a.causal ? i + 1 + (a.keys - a.queries) : a.keys;
  const int64_t end = std::clamp<int64_t>(a.end ? a.end[b * a.queries + i] : natural, 0, a.keys);
  const int64_t first = std::clamp<int64_t>(a.first ? a.first[b * a.queries + i] : 0, 0, end);
  return {static_cast<int32_t>(first), static_cast<int32_t>(end)};
}

// ---- Dropout ----

/** Probabilities whose random word is below this are dropped: rate in units of 2^-32. */
inline uint32_t drop_threshold(float rate) {
  const double units = static_cast<double>(rate) * 4294967296.0;
  return units >= 4294967295.0 ? 4294967295u : static_cast<uint32_t>(units);
}

/** factor[j] = 1/(1-rate) where the element is kept, else 0, for n elements of the stream from `start`. */
inline void keep_factors(const AttentionArgs& a, int64_t start, int64_t n, float* factor) {
  random_words(reinterpret_cast<const uint32_t*>(a.dropout_key), start, n, reinterpret_cast<uint32_t*>(factor));
  const uint32_t threshold = drop_threshold(a.dropout);
  const float kept = a.dropout < 1 ? 1.0f / (1.0f - a.dropout) : 0.0f;
  for (int64_t j = 0; j < n; j++) {
    uint32_t word;
    std::memcpy(&word, factor + j, 4);
    factor[j] = word >= threshold ? kept : 0.0f;
  }
}

} // namespace howdah::HOWDAH_ISA

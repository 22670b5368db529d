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
 * How operands of the products lie in memory, in 32-bit words. Whole: a word is an f32. Half: a word is two bf16 that are
 * neighbours along the summed dimension (the "depth"), low half first, which is what the dot product instruction takes.
 */
template <bool Half>
struct Form {
  static constexpr int64_t per_word = Half ? 2 : 1;
  /** Words of depth that hold n numbers. */
  static constexpr int64_t depth(int64_t n) { return (n + per_word - 1) / per_word; }
};

/**
 * C (R, V*W) = [C +] A (R, k) B (k, V*W), C in f32, k in words. B and C are row-major with leading dimensions ldb and ldc. A is
 * row-major with leading dimension lda, or, when Transposed, stored as (k, R).
 */
template <int R, int V, bool Transposed, bool Half>
void tile_product(const float* a, int64_t lda, const float* b, int64_t ldb, int64_t k, float* c, int64_t ldc, bool add) {
  vf sum[R][V];
  if (add) {
    const float* from = c;
HOWDAH_UNROLL
    for (int r = 0; r < R; r++) {
HOWDAH_UNROLL
      for (int v = 0; v < V; v++) sum[r][v] = load(from + v * W);
      from += ldc;
      asm("" : "+r"(from)); // else the compiler keeps every row's address, on the stack
    }
  } else {
HOWDAH_UNROLL
    for (int r = 0; r < R; r++) {
HOWDAH_UNROLL
      for (int v = 0; v < V; v++) sum[r][v] = zero();
    }
  }
  for (int64_t i = 0; i < k; i++) {
    vf row[V];
HOWDAH_UNROLL
    for (int v = 0; v < V; v++) row[v] = load(b + v * W);
HOWDAH_UNROLL
    for (int r = 0; r < R; r++) {
      const float* x = a + (Transposed ? r : r * lda);
      if constexpr (Half) {
#if HOWDAH_BF16_DOT
        int32_t word;
        std::memcpy(&word, x, 4);
        const vi pair = splat_i(word);
HOWDAH_UNROLL
        for (int v = 0; v < V; v++) sum[r][v] = (vf)_mm512_dpbf16_ps((__m512)sum[r][v], (__m512bh)pair, (__m512bh)row[v]);
#endif
      } else {
        const vf number = splat(*x);
HOWDAH_UNROLL
        for (int v = 0; v < V; v++) sum[r][v] = fma(number, row[v], sum[r][v]);
      }
    }
    a += Transposed ? lda : 1;
    b += ldb;
  }
HOWDAH_UNROLL
  for (int r = 0; r < R; r++) {
HOWDAH_UNROLL
    for (int v = 0; v < V; v++) store(c + v * W, sum[r][v]);
    c += ldc;
    asm("" : "+r"(c));
  }
}

using TileProduct = void (*)(const float*, int64_t, const float*, int64_t, int64_t, float*, int64_t, bool);

template <bool Transposed, bool Half, int R, int V>
constexpr TileProduct pick_tile(int rows, int vectors) {
  if constexpr (R > 1) {
    if (rows < R) return pick_tile<Transposed, Half, R - 1, V>(rows, vectors);
  }
  if constexpr (V > 1) {
    if (vectors < V) return pick_tile<Transposed, Half, R, V - 1>(rows, vectors);
  }
  return tile_product<R, V, Transposed, Half>;
}

template <bool Transposed, bool Half>
struct TileTable {
  TileProduct entry[kTileRows + 1][kTileVectors + 1] = {};
  constexpr TileTable() {
    for (int r = 1; r <= kTileRows; r++)
      for (int v = 1; v <= kTileVectors; v++) entry[r][v] = pick_tile<Transposed, Half, kTileRows, kTileVectors>(r, v);
  }
};
template <bool Transposed, bool Half>
inline constexpr TileTable<Transposed, Half> tile_table;

/** The product above for at most kTileRows rows and any number of columns that is a multiple of W. */
template <bool Transposed, bool Half>
HOWDAH_INLINE void strip_product(int rows, int64_t columns, const float* a, int64_t lda, const float* b, int64_t ldb, int64_t k,
                                 float* c, int64_t ldc, bool add) {
  for (int64_t j = 0; j < columns; j += kTileVectors * W) {
    const int vectors = static_cast<int>(std::min<int64_t>(kTileVectors, (columns - j) / W));
    tile_table<Transposed, Half>.entry[rows][vectors](a, lda, b + j, ldb, k, c + j, ldc, add);
  }
}

// ---- Packing: `from` is f32 or bf16, `rows` rows of `width` at `stride`; results are words of the form, padding is zeros ----

#if HOWDAH_BF16_DOT
/** Lanes of 16 bits in the order 0, 16, 1, 17, ... */
HOWDAH_INLINE __m512i interleave() {
  return _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
}
#endif

/** The vector of words (low, high), each number rounded to bf16. */
HOWDAH_INLINE vf pair_words(vf low, vf high) {
#if HOWDAH_BF16_DOT
  return (vf)_mm512_permutexvar_epi16(interleave(), (__m512i)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low));
#elif HOWDAH_AVX512
  const __m512i a = _mm512_cvtepu16_epi32((__m256i)f32_to_bf16(low)), b = _mm512_cvtepu16_epi32((__m256i)f32_to_bf16(high));
  return (vf)_mm512_or_si512(a, _mm512_slli_epi32(b, 16));
#else
  (void)high; // only processors with bf16 dot products use words of two numbers
  return low;
#endif
}

/** f(the elements of `x` from (b, time, head) on, f32 or bf16) */
template <class F>
HOWDAH_INLINE void with_elements(const HeadTensor& x, int64_t b, int64_t time, int64_t head, F&& f) {
  const int64_t at = b * x.batch + time * x.time + head * x.head;
  if (x.bf16) f(reinterpret_cast<const bf16_t*>(x.data) + at);
  else f(static_cast<const float*>(x.data) + at);
}

/** At most W elements from p on, zeros beyond. */
template <class T>
HOWDAH_INLINE vf load_some(const T* p, int64_t n) {
  return n >= W ? load_lanes(p, Full{}) : load_lanes(p, static_cast<int>(std::max<int64_t>(n, 0)));
}

/** Rows with the depth along the row: (rows, pad(width) / per_word) words, times `factor`. */
template <bool Half, class T>
void pack_rows(const T* from, int64_t stride, int64_t rows, int64_t width, float factor, float* to) {
  const int64_t padded = pad(width);
  if constexpr (Half && std::is_same_v<T, bf16_t>) {
    if (factor == 1 && padded == width) { // the very bits
      for (int64_t r = 0; r < rows; r++) std::memcpy(reinterpret_cast<bf16_t*>(to) + r * width, from + r * stride, static_cast<size_t>(width) * 2);
      return;
    }
  }
  const vf f = splat(factor);
  for (int64_t r = 0; r < rows; r++) {
    for (int64_t i = 0; i < padded; i += W) {
      const vf x = load_some(from + i, width - i) * f;
      if constexpr (Half) store_bf16(reinterpret_cast<bf16_t*>(to) + i, x);
      else store(to + i, x);
    }
    from += stride;
    to += padded / Form<Half>::per_word;
  }
}

/** Rows with the depth across rows: (depth(rows), pad(width)) words, times `factor`. */
template <bool Half, class T>
void pack_across(const T* from, int64_t stride, int64_t rows, int64_t width, float factor, float* to) {
  if constexpr (!Half) {
    pack_rows<false>(from, stride, rows, width, factor, to);
  } else {
    const vf f = splat(factor);
    for (int64_t r = 0; r < rows; r += 2) {
      const T* x = from + r * stride;
#if HOWDAH_BF16_DOT
      if constexpr (std::is_same_v<T, bf16_t>) {
        if (factor == 1 && width % W == 0 && r + 1 < rows) { // the very bits
          for (int64_t i = 0; i < width; i += W) {
            const __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512((__m256i)load_h(x + i)), (__m256i)load_h(x + stride + i), 1);
            store(to + i, (vf)_mm512_permutexvar_epi16(interleave(), both));
          }
          to += width;
          continue;
        }
      }
#endif
      for (int64_t i = 0; i < pad(width); i += W) {
        const vf low = load_some(x + i, width - i), high = r + 1 < rows ? load_some(x + stride + i, width - i) : zero();
        store(to + i, pair_words(low * f, high * f));
      }
      to += pad(width);
    }
  }
}

typedef float v4 __attribute__((vector_size(16)));

/** `rows` rows of `width` words at `stride` become (width, ld) words, ld a multiple of 4. */
inline void transpose_words(const float* from, int64_t stride, int64_t rows, int64_t width, float* to, int64_t ld) {
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
    for (int64_t r = i < whole_width ? whole_rows : 0; r < rows; r++) std::memcpy(to + i * ld + r, from + r * stride + i, 4);
    for (int64_t r = rows; r < ld; r++) to[i * ld + r] = 0;
  }
}

/** Columns with the depth along the row of `from`: (depth(width), ld) words. `spare` holds rows * pad(width) words. */
template <bool Half, class T>
void pack_columns(const T* from, int64_t stride, int64_t rows, int64_t width, float* to, int64_t ld, float* spare) {
  if constexpr (Half || !std::is_same_v<T, float>) {
    pack_rows<Half>(from, stride, rows, width, 1, spare);
    transpose_words(spare, pad(width) / Form<Half>::per_word, rows, Form<Half>::depth(width), to, ld);
  } else {
    transpose_words(from, stride, rows, width, to, ld);
  }
}

/** A row of n f32 (a multiple of W) becomes a row of words in place. */
template <bool Half>
HOWDAH_INLINE void row_to_words(float* row, int64_t n) {
  if constexpr (Half) {
    for (int64_t j = 0; j < n; j += W) store_bf16(reinterpret_cast<bf16_t*>(row) + j, load(row + j));
  }
}

// ---- Fetching ahead ----

/**
 * Rows that the work after this one will want, fetched into the second-level cache a few at a time beside products: a head's rows lie too far
 * apart for the processor to fetch them by itself.
 */
class RowsAhead {
 public:
  /** `rows` rows of `width` of x from (b, time, head) on. */
  void add(const HeadTensor& x, int64_t b, int64_t time, int64_t head, int64_t rows, int64_t width) {
    const int64_t size = x.bf16 ? 2 : 4;
    const char* const at = reinterpret_cast<const char*>(x.data) + (b * x.batch + time * x.time + head * x.head) * size;
    const int before = static_cast<int>(reinterpret_cast<uintptr_t>(at) % 64);
    runs[count++] = {at - before, x.time * size, rows, static_cast<int>((before + width * size + 63) / 64)};
    left += rows;
  }
  int64_t rows() const { return left; }
  /** At most n rows more. */
  inline __attribute__((always_inline)) void fetch(int64_t n) {
    if (left == 0) return;
    for (; n > 0 && left > 0; n--, left--) {
      Run& r = runs[run];
      for (int i = 0; i < r.lines; i++) __builtin_prefetch(r.at + 64 * i, 0, 2);
      r.at += r.stride;
      if (--r.rows == 0) run++;
    }
  }

 private:
  struct Run {
    const char* at;
    int64_t stride; // bytes
    int64_t rows;
    int lines;
  } runs[4];
  int count = 0, run = 0;
  int64_t left = 0;
};

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

/** What the queries of one tile see, as vectors of W of them; `Lanes` is how many the tile has room for. */
template <int64_t Lanes>
struct Sight {
  int32_t first[Lanes], end[Lanes]; // of each query; (0, 0) if it sees nothing
  int32_t low[Lanes / W], high[Lanes / W]; // of each vector: the keys that any of its queries sees; low >= high if there are none
  int32_t last_first[Lanes / W], first_end[Lanes / W]; // between them lie the keys that all of its queries see

  /** Visible(i) for i in [0, count); the rest of the last vector sees what its last query sees. */
  template <class F>
  void look(int64_t count, F&& see) {
    for (int64_t v = 0; v * W < count; v++) {
      int32_t lowest = INT32_MAX, highest = 0;
      last_first[v] = 0, first_end[v] = INT32_MAX;
      for (int64_t i = v * W; i < (v + 1) * W; i++) {
        if (i < count) {
          const Visible seen = see(i);
          const bool none = seen.first >= seen.end;
          first[i] = none ? 0 : seen.first, end[i] = none ? 0 : seen.end;
        } else {
          first[i] = first[i - 1], end[i] = end[i - 1];
        }
        if (first[i] < end[i]) lowest = std::min(lowest, first[i]), highest = std::max(highest, end[i]);
        last_first[v] = std::max(last_first[v], first[i]), first_end[v] = std::min(first_end[v], end[i]);
      }
      low[v] = lowest, high[v] = highest;
    }
  }

  /** Vector v has queries that see some of the keys [from, to). */
  bool meets(int64_t v, int64_t from, int64_t to) const { return low[v] < high[v] && low[v] < to && high[v] > from; }

  /** Not all queries of vector v see all keys [from, to). */
  bool cuts(int64_t v, int64_t from, int64_t to) const { return last_first[v] > from || first_end[v] < to; }

  /** The vectors [from, to) that meet the keys [key, last), and what lies between them. */
  struct Range {
    int64_t from, to;
  };
  Range meeting(int64_t vectors, int64_t key, int64_t last) const {
    int64_t from = 0, to = vectors;
    while (from < to && !meets(from, key, last)) from++;
    while (from < to && !meets(to - 1, key, last)) to--;
    return {from, to};
  }

  /** The keys that any of the queries [i, i + n) sees; from >= to if there are none. */
  Range keys(int64_t i, int64_t n) const {
    Range r{INT32_MAX, 0};
    for (int64_t j = i; j < i + n; j++) {
      if (first[j] < end[j]) r = {std::min<int64_t>(r.from, first[j]), std::max<int64_t>(r.to, end[j])};
    }
    return r;
  }

  /** x where the queries of vector v see key j, else `other`. */
  vf only_seen(int64_t v, int64_t j, vf x, vf other) const {
    const vi key = splat_i(static_cast<int32_t>(j));
    return select(mask_and(le(load(first + v * W), key), lt(key, load(end + v * W))), x, other);
  }
};

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

/**
 * Those factors for keys [key0, key0 + n) of `count` queries, whose streams start at `row` and are a.keys apart, as (n, ld). `spare` holds
 * count * pad(n).
 */
inline void keep_columns(const AttentionArgs& a, int64_t row, int64_t count, int64_t key0, int64_t n, float* spare, float* to, int64_t ld) {
  for (int64_t i = 0; i < count; i++) keep_factors(a, row + i * a.keys + key0, n, spare + i * pad(n));
  transpose_words(spare, pad(n), count, n, to, ld);
}

} // namespace howdah::HOWDAH_ISA

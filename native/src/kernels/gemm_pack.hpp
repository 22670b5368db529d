// Rearranging operands for the tile of gemm_tile.hpp, converting their type on the way.
//
// The tile works on "words" of 32 bits: an f32, or a pair of bf16 neighbours along k (BF). A block of kc values of k has
// kd words: kc, or (kc + 1) / 2 with a zero in the odd half. Buffers are typed float* and hold such words.
#pragma once

#include <algorithm>

#include "../gemm.hpp"
#include "../simd.hpp"

namespace howdah::HOWDAH_ISA {

constexpr int words(int k, bool bf) { return bf ? (k + 1) / 2 : k; }
constexpr int k_per_word(bool bf) { return bf ? 2 : 1; }

// ---- Reading W words ----

/** W words that lie along k: the first n values of k (of W or 2 W) exist, the rest are zeros. */
template <bool BF>
HOWDAH_INLINE vi words_along_k(const float* p, int n) {
  if constexpr (!BF) return n >= W ? load((const int32_t*)p) : load_n((const int32_t*)p, n);
#if HOWDAH_BF16_DOT
  else return (vi)_mm512_cvtne2ps_pbh(n >= 2 * W ? load(p + W) : load_n(p + W, n - W), n >= W ? load(p) : load_n(p, n));
#endif
}
template <bool BF>
HOWDAH_INLINE vi words_along_k(const bf16_t* p, int n) {
  if constexpr (!BF) return (vi)(n >= W ? load_bf16(p) : load_bf16_n(p, n));
#if HOWDAH_BF16_DOT
  else return n >= 2 * W ? load((const int32_t*)p) : (vi)_mm512_maskz_loadu_epi16(n <= 0 ? 0 : (1u << n) - 1, p);
#endif
}

/** W words that lie side by side across k: `p` is the row of the word's k, `next` the row of k + 1 (null: zeros). */
template <bool BF>
HOWDAH_INLINE vi words_across_k(const float* p, [[maybe_unused]] const float* next, int n) {
  if constexpr (!BF) {
    return n >= W ? load((const int32_t*)p) : load_n((const int32_t*)p, n);
  } else {
#if HOWDAH_BF16_DOT
    const vf low = n >= W ? load(p) : load_n(p, n), high = !next ? zero() : n >= W ? load(next) : load_n(next, n);
    // The conversion puts `low` in the lower 256 bits: interleave the two halves.
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21,
                                           5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return (vi)_mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(high, low));
#endif
  }
}
template <bool BF>
HOWDAH_INLINE vi words_across_k(const bf16_t* p, [[maybe_unused]] const bf16_t* next, int n) {
  if constexpr (!BF) {
    return (vi)(n >= W ? load_bf16(p) : load_bf16_n(p, n));
  } else {
#if HOWDAH_BF16_DOT
    const __m512i low = _mm512_cvtepu16_epi32((__m256i)(n >= W ? load_h(p) : load_h_n(p, n)));
    if (!next) return (vi)low;
    const __m512i high = _mm512_cvtepu16_epi32((__m256i)(n >= W ? load_h(next) : load_h_n(next, n)));
    return (vi)_mm512_or_si512(low, _mm512_slli_epi32(high, 16));
#endif
  }
}

// ---- W x W words transposed ----

#if HOWDAH_AVX512
HOWDAH_INLINE void transpose(vi (&rows)[W]) {
  __m512i r[16], t[16];
  HOWDAH_UNROLL for (int i = 0; i < 16; i++) r[i] = (__m512i)rows[i];
  HOWDAH_UNROLL for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
  HOWDAH_UNROLL for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  // Quarter q of r[4 g + c] is column 4 q + c of rows 4 g .. 4 g + 3: transpose the 4 x 4 grid of quarters.
  HOWDAH_UNROLL for (int c = 0; c < 4; c++) {
    t[c] = _mm512_shuffle_i32x4(r[c], r[c + 4], 0x88);           // quarters 0 and 2 of groups 0 and 1
    t[c + 4] = _mm512_shuffle_i32x4(r[c], r[c + 4], 0xdd);       // quarters 1 and 3
    t[c + 8] = _mm512_shuffle_i32x4(r[c + 8], r[c + 12], 0x88);  // the same of groups 2 and 3
    t[c + 12] = _mm512_shuffle_i32x4(r[c + 8], r[c + 12], 0xdd);
  }
  HOWDAH_UNROLL for (int c = 0; c < 4; c++) {
    rows[c] = (vi)_mm512_shuffle_i32x4(t[c], t[c + 8], 0x88);
    rows[c + 8] = (vi)_mm512_shuffle_i32x4(t[c], t[c + 8], 0xdd);
    rows[c + 4] = (vi)_mm512_shuffle_i32x4(t[c + 4], t[c + 12], 0x88);
    rows[c + 12] = (vi)_mm512_shuffle_i32x4(t[c + 4], t[c + 12], 0xdd);
  }
}
#elif HOWDAH_AVX2
HOWDAH_INLINE void transpose(vi (&rows)[W]) {
  __m256i r[8], t[8];
  HOWDAH_UNROLL for (int i = 0; i < 8; i++) r[i] = (__m256i)rows[i];
  HOWDAH_UNROLL for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm256_unpackhi_epi32(r[i], r[i + 1]);
  }
  HOWDAH_UNROLL for (int i = 0; i < 8; i += 4) {
    r[i] = _mm256_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm256_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm256_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm256_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  HOWDAH_UNROLL for (int c = 0; c < 4; c++) {
    rows[c] = (vi)_mm256_permute2x128_si256(r[c], r[c + 4], 0x20);
    rows[c + 4] = (vi)_mm256_permute2x128_si256(r[c], r[c + 4], 0x31);
  }
}
#else
HOWDAH_INLINE void transpose(vi (&rows)[W]) {
  vi t[W];
  HOWDAH_UNROLL for (int i = 0; i < W; i++) HOWDAH_UNROLL for (int j = 0; j < W; j++) t[j][i] = rows[i][j];
  HOWDAH_UNROLL for (int i = 0; i < W; i++) rows[i] = t[i];
}
#endif

// ---- Packing ----

/** Rows of `k` contiguous values to rows of words, `stride` words apart (at least kd rounded up to W). */
template <bool BF, class T>
static void pack_rows(const T* source, int64_t ld, int rows, int k, float* to, int64_t stride) {
  constexpr int step = W * k_per_word(BF);
  for (int i = 0; i < rows; i++) {
    const T* s = source + i * ld;
    int32_t* d = (int32_t*)(to + i * stride);
    int k0 = 0;
    for (; k0 + step <= k; k0 += step, d += W) store(d, words_along_k<BF>(s + k0, step));
    if (k0 < k) store(d, words_along_k<BF>(s + k0, k - k0));
  }
}

/**
 * Rows of contiguous k to one panel of `width` columns (a multiple of W), each row becoming a column: to[kd][width].
 * Columns from `rows` on are zeros.
 */
template <bool BF, class T>
static void pack_panel_transposed(const T* source, int64_t ld, int rows, int k, int width, float* to) {
  constexpr int step = W * k_per_word(BF);
  const int kd = words(k, BF);
  for (int w = 0; w < width; w += W) {
    const int n = rows - w;
    const T* s = source + w * ld;
    int q = 0;
    for (; n >= W && q + W <= kd && (q + W) * k_per_word(BF) <= k; q += W) {
      vi block[W];
      HOWDAH_UNROLL for (int i = 0; i < W; i++) block[i] = words_along_k<BF>(s + i * ld + q * k_per_word(BF), step);
      transpose(block);
      int32_t* d = (int32_t*)(to + (int64_t)q * width + w);
      HOWDAH_UNROLL for (int i = 0; i < W; i++) store(d + i * width, block[i]);
    }
    for (; q < kd; q += W) {
      const int k0 = q * k_per_word(BF);
      vi block[W];
      for (int i = 0; i < W; i++) block[i] = i < n ? words_along_k<BF>(s + i * ld + k0, k - k0) : vi{};
      transpose(block);
      int32_t* d = (int32_t*)(to + (int64_t)q * width + w);
      for (int i = 0; i < W && q + i < kd; i++) store(d + i * width, block[i]);
    }
  }
}

/**
 * The same for a panel of Width columns that need be no multiple of W, as A's are: to[kd][Width], and W words of slack behind it. Columns from `rows`
 * on hold zeros.
 */
template <bool BF, int Width, class T>
static void pack_panel_narrow(const T* source, int64_t ld, int rows, int k, float* to) {
  // A vector that reaches over the end of its row of words is overwritten by the next row; with several vectors to a row that would be too late.
  static_assert(Width <= W || Width % W == 0);
  constexpr int step = W * k_per_word(BF);
  const int kd = words(k, BF);
  for (int w = 0; w < Width; w += W) {
    constexpr int most = std::min(Width, W);
    const int n = std::min(most, rows - w);
    const T* s = source + w * ld;
    for (int q = 0; q < kd; q += W) {
      const int k0 = q * k_per_word(BF);
      vi block[W] = {};
      if (n == most && k - k0 >= step) {
        HOWDAH_UNROLL for (int i = 0; i < most; i++) block[i] = words_along_k<BF>(s + i * ld + k0, step);
      } else {
        for (int i = 0; i < n; i++) block[i] = words_along_k<BF>(s + i * ld + k0, k - k0);
      }
      transpose(block);
      int32_t* d = (int32_t*)(to + (int64_t)q * Width + w);
      if (q + W <= kd) {
        HOWDAH_UNROLL for (int i = 0; i < W; i++) store(d + i * Width, block[i]);
      } else {
        for (int i = 0; q + i < kd; i++) store(d + i * Width, block[i]);
      }
    }
  }
}

/** How far pack_panels fetches ahead: with long k, it waits for memory more than anything else. */
constexpr int prefetch_rows = 16;

/**
 * k rows of `columns` contiguous values to panels [kd][width], `stride` words apart; columns beyond the last are zeros.
 * Where the width is no multiple of W, a panel needs W words of slack behind it. When summing, sums[column] becomes the sum over k.
 */
template <bool BF, class T, bool summing = false>
static void pack_panels(const T* source, int64_t ld, int columns, int k, int width, float* to, int64_t stride,
                        [[maybe_unused]] float* sums = nullptr) {
  const int kd = words(k, BF);
  for (int q = 0; q < kd; q++) {
    const int k0 = q * k_per_word(BF);
    const T* s = source + k0 * ld;
    const T* next = BF && k0 + 1 < k ? s + ld : nullptr;
    // Runs of a row are too short for the processor's own prefetching.
    const T* ahead = s + (k0 + prefetch_rows < k ? prefetch_rows * ld : 0);
    float* panel = to + (int64_t)q * width;
    for (int c = 0; c < columns; c += width, panel += stride)
      for (int w = 0; w < width; w += W) {
        // The store may reach over the end of this row of words: what it hits is written later, or slack.
        const int at = c + w, left = columns - at;
        __builtin_prefetch(ahead + at);
        if (BF) __builtin_prefetch(ahead + ld + at);
        vi v{};
        if (left > 0) v = words_across_k<BF>(s + at, next ? next + at : nullptr, left);
        store((int32_t*)(panel + w), v);
        if constexpr (summing) {
          if (left <= 0) continue;
          vf sum = (vf)words_across_k<false>(s + at, nullptr, left);
          if (next) sum = sum + (vf)words_across_k<false>(next + at, nullptr, left);
          store_n(sums + at, q ? load_n(sums + at, left) + sum : sum, left);
        }
      }
  }
}

} // namespace howdah::HOWDAH_ISA

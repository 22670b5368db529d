// Products with few rows or few columns (decoding: a handful of tokens times a weight matrix). Each word of the large
// matrix is used only a few times, so it is read once, in its own order, and never packed.
#pragma once

#include "../pool.hpp"
#include "gemm_finish.hpp"
#include "gemm_pack.hpp"
#include "gemm_tile.hpp"

namespace howdah::HOWDAH_ISA {

/** At most this many rows (or columns) count as thin. */
constexpr int thin_limit = 8;

/**
 * out[r * T + t] = sum over k of w[r, k] x[t, k], R rows of w at once. x: T vectors of words, `ldx` apart, zero-padded to
 * whole vectors.
 */
template <bool BF, int R, int T, class TW>
HOWDAH_INLINE void thin_dot(const TW* w, int64_t ldw, int64_t k, const float* x, int64_t ldx, float* out) {
  constexpr int step = W * k_per_word(BF);
  // A chain of dependent multiply-adds is slow: with few sums, each is split in U.
  constexpr int U = R * T >= 8 ? 1 : R * T >= 4 ? 2 : 4;
  vf sum[U][R][T];
  HOWDAH_UNROLL for (int u = 0; u < U; u++) HOWDAH_UNROLL for (int r = 0; r < R; r++)
      HOWDAH_UNROLL for (int t = 0; t < T; t++) sum[u][r][t] = zero();
  int64_t k0 = 0;
  for (; k0 + U * step <= k; k0 += U * step) {
    HOWDAH_UNROLL for (int u = 0; u < U; u++) HOWDAH_UNROLL for (int r = 0; r < R; r++) {
      const vf wv = (vf)words_along_k<BF>(w + r * ldw + k0 + u * step, step);
      HOWDAH_UNROLL for (int t = 0; t < T; t++) {
        const vf xv = load(x + t * ldx + k0 / k_per_word(BF) + u * W);
        sum[u][r][t] = multiply_add(wv, xv, sum[u][r][t], std::bool_constant<BF>{});
      }
    }
  }
  for (; k0 < k; k0 += step) {
    const int n = k - k0 < step ? (int)(k - k0) : step;
    HOWDAH_UNROLL for (int r = 0; r < R; r++) {
      const vf wv = (vf)words_along_k<BF>(w + r * ldw + k0, n);
      HOWDAH_UNROLL for (int t = 0; t < T; t++)
        sum[0][r][t] = multiply_add(wv, load(x + t * ldx + k0 / k_per_word(BF)), sum[0][r][t], std::bool_constant<BF>{});
    }
  }
  HOWDAH_UNROLL for (int r = 0; r < R; r++) HOWDAH_UNROLL for (int t = 0; t < T; t++) {
    vf s = sum[0][r][t];
    HOWDAH_UNROLL for (int u = 1; u < U; u++) s = s + sum[u][r][t];
    out[r * T + t] = reduce_add(s);
  }
}

/** One row of w at a time for few vectors (one stream from memory), two or more once multiplying is the limit. */
template <bool BF, int T, class TW>
static void thin_dot_rows(const TW* w, int64_t ldw, int64_t rows, int64_t k, const float* x, int64_t ldx, float* out) {
  // R may not change a row's sum: the same U for every R in use.
  constexpr int R = T >= 8 && W == 16 ? 2 : 1;
  int64_t r = 0;
  for (; r + R <= rows; r += R) thin_dot<BF, R, T>(w + r * ldw, ldw, k, x, ldx, out + r * T);
  for (; r < rows; r++) thin_dot<BF, 1, T>(w + r * ldw, ldw, k, x, ldx, out + r * T);
}

/** W values of a row of w, rounded to bf16 and back when products are to be those of bf16. */
template <bool BF, class T>
HOWDAH_INLINE vf row_values(const T* p, int n) {
  const vf v = (vf)words_across_k<false>(p, nullptr, n);
  if constexpr (BF && sizeof(T) == 4) return bf16_to_f32(f32_to_bf16(v));
  else return v;
}

/**
 * out[t][n] = sum over k of x[k, t] w[k, n] for `columns` columns of w (k rows, `ldw` apart); x: k rows of T. The sums of
 * K rows at a time go through out, so that w is read in long runs.
 */
template <bool BF, int T, class TW>
static void thin_axpy(const TW* w, int64_t ldw, int64_t columns, int64_t k, const float* x, float* out, int64_t ldo) {
  constexpr int K = 8;
  for (int64_t k0 = 0; k0 < k; k0 += K) {
    const int rows = k - k0 < K ? (int)(k - k0) : K;
    const TW* wk = w + k0 * ldw;
    const float* xk = x + k0 * T;
    for (int64_t c = 0; c < columns; c += W) {
      const int n = columns - c < W ? (int)(columns - c) : W;
      vf sum[T];
      HOWDAH_UNROLL for (int t = 0; t < T; t++) sum[t] = k0 ? load(out + t * ldo + c) : zero();
      if (rows == K && n == W) {
        HOWDAH_UNROLL for (int i = 0; i < K; i++) {
          const vf wv = row_values<BF>(wk + i * ldw + c, W);
          HOWDAH_UNROLL for (int t = 0; t < T; t++) sum[t] = fma(splat(xk[i * T + t]), wv, sum[t]);
        }
      } else {
        for (int i = 0; i < rows; i++) {
          const vf wv = row_values<BF>(wk + i * ldw + c, n);
          HOWDAH_UNROLL for (int t = 0; t < T; t++) sum[t] = fma(splat(xk[i * T + t]), wv, sum[t]);
        }
      }
      HOWDAH_UNROLL for (int t = 0; t < T; t++) store(out + t * ldo + c, sum[t]);
    }
  }
}

} // namespace howdah::HOWDAH_ISA

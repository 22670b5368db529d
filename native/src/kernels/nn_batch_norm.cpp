// Batch normalisation in training (Ioffe and Szegedy 2015): statistics per channel over all rows, with the residual and the rectifier that
// follow it in a residual block (He et al. 2016) in the same pass.
#include "nn_common.hpp"

namespace howdah::HOWDAH_ISA {

namespace {

/** Rows per block of partial statistics: by shape alone, at most 64 blocks. */
int64_t rows_per_block(int64_t rows, int64_t columns) {
  return std::max<int64_t>({1, (rows + 63) / 64, kTaskSize / std::max<int64_t>(1, columns)});
}

/** body(first column, lanes in use) over the columns. */
template <class F>
HOWDAH_INLINE void for_columns(int64_t n, F&& body) {
  int64_t c = 0;
  for (; c + W <= n; c += W) body(c, Full{});
  if (c < n) body(c, static_cast<int>(n - c));
}

/** body(first column, lanes in use, vectors side by side): several where there are, so that long runs of a row are read at a time. */
template <class F>
HOWDAH_INLINE void for_wide_columns(int64_t n, F&& body) {
  constexpr int most = W == 16 ? 4 : 2;
  int64_t c = 0;
  for (; c + most * W <= n; c += most * W) body(c, Full{}, std::integral_constant<int, most>{});
  if constexpr (most == 4)
    for (; c + 2 * W <= n; c += 2 * W) body(c, Full{}, std::integral_constant<int, 2>{});
  for (; c + W <= n; c += W) body(c, Full{}, std::integral_constant<int, 1>{});
  if (c < n) body(c, static_cast<int>(n - c), std::integral_constant<int, 1>{});
}
#define HOWDAH_EACH_VECTOR HOWDAH_UNROLL for (int v = 0; v < V; v++)

/** Vectors of a matrix. Which type it has is the same for all of a loop, so that asking costs next to nothing. */
template <class Lanes>
HOWDAH_INLINE vf get(const Matrix& m, int64_t at, Lanes lanes) {
  return m.half ? load_lanes((const bf16_t*)m.data + at, lanes) : load_lanes((const float*)m.data + at, lanes);
}
template <class Lanes>
HOWDAH_INLINE void put(const MutableMatrix& m, int64_t at, vf v, Lanes lanes) {
  if (m.half) store_lanes((bf16_t*)m.data + at, v, lanes);
  else store_lanes((float*)m.data + at, v, lanes);
}

} // namespace

void batch_norm(const BatchNormArgs& a) {
  const int64_t n = a.columns, block = rows_per_block(a.rows, n), blocks = (a.rows + block - 1) / block;
  // Per block: the mean and the sum of squared distances from it, exact within the block.
  float* partial = scratch(0, static_cast<size_t>(2 * blocks * n) * 4);
  parallel_for(blocks, [&](int64_t b, int) {
    const int64_t first = b * block, last = std::min(a.rows, first + block);
    const vf share = splat(1.0f / static_cast<float>(last - first));
    for_wide_columns(n, [&](int64_t c, auto lanes, auto vectors) {
      constexpr int V = vectors;
      vf sum[4][V], mean[V], square[4][V];
      const auto add = [&](int64_t r, int j) {
        HOWDAH_EACH_VECTOR sum[j][v] = sum[j][v] + get(a.x, r * n + c + v * W, lanes);
      };
      const auto add_square = [&](int64_t r, int j) {
        HOWDAH_EACH_VECTOR {
          const vf d = get(a.x, r * n + c + v * W, lanes) - mean[v];
          square[j][v] = fma(d, d, square[j][v]);
        }
      };
      HOWDAH_UNROLL for (int j = 0; j < 4; j++) HOWDAH_EACH_VECTOR sum[j][v] = square[j][v] = zero();
      int64_t r = first;
      for (; r + 4 <= last; r += 4) HOWDAH_UNROLL for (int j = 0; j < 4; j++) add(r + j, j);
      for (; r < last; r++) add(r, 0);
      HOWDAH_EACH_VECTOR mean[v] = ((sum[0][v] + sum[1][v]) + (sum[2][v] + sum[3][v])) * share;
      for (r = first; r + 4 <= last; r += 4) HOWDAH_UNROLL for (int j = 0; j < 4; j++) add_square(r + j, j);
      for (; r < last; r++) add_square(r, 0);
      HOWDAH_EACH_VECTOR store_lanes(partial + 2 * b * n + c + v * W, mean[v], lanes);
      HOWDAH_EACH_VECTOR store_lanes(partial + (2 * b + 1) * n + c + v * W, (square[0][v] + square[1][v]) + (square[2][v] + square[3][v]), lanes);
    });
  });
  // Joined in order (Chan, Golub and LeVeque 1979).
  float* factors = scratch(1, static_cast<size_t>(2 * n) * 4);
  for_columns(n, [&](int64_t c, auto lanes) {
    vf mean = zero(), squares = zero();
    float count = 0;
    for (int64_t b = 0; b < blocks; b++) {
      const float rows = static_cast<float>(std::min(a.rows, (b + 1) * block) - b * block), sum = count + rows;
      const vf d = load_lanes(partial + 2 * b * n + c, lanes) - mean;
      squares = squares + load_lanes(partial + (2 * b + 1) * n + c, lanes) + d * d * splat(count * rows / sum);
      mean = fma(d, splat(rows / sum), mean);
      count = sum;
    }
    const vf variance = squares * splat(1.0f / static_cast<float>(a.rows));
    store_lanes(a.mean + c, mean, lanes);
    store_lanes(a.variance + c, variance, lanes);
    const vf factor = load_lanes(a.scale + c, lanes) / sqrt(variance + splat(a.epsilon));
    store_lanes(factors + c, factor, lanes);
    store_lanes(factors + n + c, load_lanes(a.bias + c, lanes) - mean * factor, lanes);
  });
  parallel_rows(a.rows, n, [&](int64_t first, int64_t last) {
    for_wide_columns(n, [&](int64_t c, auto lanes, auto vectors) {
      constexpr int V = vectors;
      vf factor[V], shift[V];
      HOWDAH_EACH_VECTOR factor[v] = load_lanes(factors + c + v * W, lanes);
      HOWDAH_EACH_VECTOR shift[v] = load_lanes(factors + n + c + v * W, lanes);
      for (int64_t r = first; r < last; r++)
        HOWDAH_EACH_VECTOR {
          const int64_t at = r * n + c + v * W;
          vf y = fma(get(a.x, at, lanes), factor[v], shift[v]);
          if (a.residual.data) y = y + get(a.residual, at, lanes);
          if (a.relu) y = max(y, zero());
          put(a.y, at, y, lanes);
        }
    });
  });
}

void batch_norm_grad(const BatchNormGradArgs& a) {
  const int64_t n = a.columns, block = rows_per_block(a.rows, n), blocks = (a.rows + block - 1) / block;
  float* partial = scratch(0, static_cast<size_t>(2 * blocks * n) * 4);
  float* rstd = scratch(1, static_cast<size_t>(2 * n) * 4);
  for_columns(n, [&](int64_t c, auto lanes) {
    store_lanes(rstd + c, splat(1.0f) / sqrt(load_lanes(a.variance + c, lanes) + splat(a.epsilon)), lanes);
  });
  // What reaches the sum before the rectifier.
  const auto gradient = [&](int64_t at, auto lanes) {
    const vf g = get(a.dy, at, lanes);
    return a.y.data ? select(gt(get(a.y, at, lanes), zero()), g, zero()) : g;
  };
  parallel_for(blocks, [&](int64_t b, int) {
    const int64_t first = b * block, last = std::min(a.rows, first + block);
    for_wide_columns(n, [&](int64_t c, auto lanes, auto vectors) {
      constexpr int V = vectors;
      vf center[V], sum[2][V], product[2][V];
      HOWDAH_EACH_VECTOR center[v] = load_lanes(a.mean + c + v * W, lanes);
      HOWDAH_UNROLL for (int j = 0; j < 2; j++) HOWDAH_EACH_VECTOR sum[j][v] = product[j][v] = zero();
      const auto row = [&](int64_t r, int j) {
        HOWDAH_EACH_VECTOR {
          const int64_t at = r * n + c + v * W;
          const vf g = gradient(at, lanes);
          if (a.dresidual) store_lanes(a.dresidual + at, g, lanes);
          sum[j][v] = sum[j][v] + g;
          product[j][v] = fma(g, get(a.x, at, lanes) - center[v], product[j][v]);
        }
      };
      int64_t r = first;
      for (; r + 2 <= last; r += 2) {
        row(r, 0);
        row(r + 1, 1);
      }
      if (r < last) row(r, 0);
      HOWDAH_EACH_VECTOR store_lanes(partial + 2 * b * n + c + v * W, sum[0][v] + sum[1][v], lanes);
      HOWDAH_EACH_VECTOR {
        const vf spread = load_lanes(rstd + c + v * W, lanes);
        store_lanes(partial + (2 * b + 1) * n + c + v * W, (product[0][v] + product[1][v]) * spread, lanes);
      }
    });
  });
  for_columns(n, [&](int64_t c, auto lanes) {
    vf sum = zero(), product = zero();
    for (int64_t b = 0; b < blocks; b++) {
      sum = sum + load_lanes(partial + 2 * b * n + c, lanes);
      product = product + load_lanes(partial + (2 * b + 1) * n + c, lanes);
    }
    store_lanes(a.dbias + c, sum, lanes);
    store_lanes(a.dscale + c, product, lanes);
  });
  // dx = scale rstd (g - mean(g) - z mean(g z)), z = (x - mean) rstd
  const vf share = splat(1.0f / static_cast<float>(a.rows));
  parallel_rows(a.rows, n, [&](int64_t first, int64_t last) {
    for_wide_columns(n, [&](int64_t c, auto lanes, auto vectors) {
      constexpr int V = vectors;
      vf factor[V], slope[V], shift[V];
      HOWDAH_EACH_VECTOR {
        const int64_t at = c + v * W;
        const vf spread = load_lanes(rstd + at, lanes);
        factor[v] = load_lanes(a.scale + at, lanes) * spread;
        slope[v] = load_lanes(a.dscale + at, lanes) * share * spread * factor[v];
        shift[v] = fma(load_lanes(a.mean + at, lanes), slope[v], zero() - load_lanes(a.dbias + at, lanes) * share * factor[v]);
      }
      for (int64_t r = first; r < last; r++)
        HOWDAH_EACH_VECTOR {
          const int64_t at = r * n + c + v * W;
          const vf g = a.dresidual ? load_lanes(a.dresidual + at, lanes) : gradient(at, lanes);
          put(a.dx, at, fma(g, factor[v], shift[v] - get(a.x, at, lanes) * slope[v]), lanes);
        }
    });
  });
}

#undef HOWDAH_EACH_VECTOR

} // namespace howdah::HOWDAH_ISA

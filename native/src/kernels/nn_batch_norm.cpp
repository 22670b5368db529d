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

} // namespace

void batch_norm(const BatchNormArgs& a) {
  const int64_t n = a.columns, block = rows_per_block(a.rows, n), blocks = (a.rows + block - 1) / block;
  // Per block: the mean and the sum of squared distances from it, exact within the block.
  float* partial = scratch(0, static_cast<size_t>(2 * blocks * n) * 4);
  parallel_for(blocks, [&](int64_t b, int) {
    const int64_t first = b * block, last = std::min(a.rows, first + block);
    const vf share = splat(1.0f / static_cast<float>(last - first));
    for_columns(n, [&](int64_t c, auto lanes) {
      vf sum[4] = {zero(), zero(), zero(), zero()};
      int64_t r = first;
      for (; r + 4 <= last; r += 4)
        HOWDAH_UNROLL for (int j = 0; j < 4; j++) sum[j] = sum[j] + load_lanes(a.x + (r + j) * n + c, lanes);
      for (; r < last; r++) sum[0] = sum[0] + load_lanes(a.x + r * n + c, lanes);
      const vf mean = ((sum[0] + sum[1]) + (sum[2] + sum[3])) * share;
      vf square[4] = {zero(), zero(), zero(), zero()};
      for (r = first; r + 4 <= last; r += 4)
        HOWDAH_UNROLL for (int j = 0; j < 4; j++) {
          const vf d = load_lanes(a.x + (r + j) * n + c, lanes) - mean;
          square[j] = fma(d, d, square[j]);
        }
      for (; r < last; r++) {
        const vf d = load_lanes(a.x + r * n + c, lanes) - mean;
        square[0] = fma(d, d, square[0]);
      }
      store_lanes(partial + 2 * b * n + c, mean, lanes);
      store_lanes(partial + (2 * b + 1) * n + c, (square[0] + square[1]) + (square[2] + square[3]), lanes);
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
    for_columns(n, [&](int64_t c, auto lanes) {
      const vf factor = load_lanes(factors + c, lanes), shift = load_lanes(factors + n + c, lanes);
      for (int64_t r = first; r < last; r++) {
        const int64_t at = r * n + c;
        vf y = fma(load_lanes(a.x + at, lanes), factor, shift);
        if (a.residual) y = y + load_lanes(a.residual + at, lanes);
        if (a.relu) y = max(y, zero());
        store_lanes(a.y + at, y, lanes);
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
    const vf g = load_lanes(a.dy + at, lanes);
    return a.y ? select(gt(load_lanes(a.y + at, lanes), zero()), g, zero()) : g;
  };
  parallel_for(blocks, [&](int64_t b, int) {
    const int64_t first = b * block, last = std::min(a.rows, first + block);
    for_columns(n, [&](int64_t c, auto lanes) {
      const vf center = load_lanes(a.mean + c, lanes);
      vf sum[2] = {zero(), zero()}, product[2] = {zero(), zero()};
      const auto row = [&](int64_t r, int j) {
        const int64_t at = r * n + c;
        const vf g = gradient(at, lanes);
        if (a.dresidual) store_lanes(a.dresidual + at, g, lanes);
        sum[j] = sum[j] + g;
        product[j] = fma(g, load_lanes(a.x + at, lanes) - center, product[j]);
      };
      int64_t r = first;
      for (; r + 2 <= last; r += 2) {
        row(r, 0);
        row(r + 1, 1);
      }
      if (r < last) row(r, 0);
      store_lanes(partial + 2 * b * n + c, sum[0] + sum[1], lanes);
      store_lanes(partial + (2 * b + 1) * n + c, (product[0] + product[1]) * load_lanes(rstd + c, lanes), lanes);
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
    for_columns(n, [&](int64_t c, auto lanes) {
      const vf spread = load_lanes(rstd + c, lanes), factor = load_lanes(a.scale + c, lanes) * spread;
      const vf slope = load_lanes(a.dscale + c, lanes) * share * spread * factor;
      const vf shift = fma(load_lanes(a.mean + c, lanes), slope, zero() - load_lanes(a.dbias + c, lanes) * share * factor);
      for (int64_t r = first; r < last; r++) {
        const int64_t at = r * n + c;
        const vf g = a.dresidual ? load_lanes(a.dresidual + at, lanes) : gradient(at, lanes);
        store_lanes(a.dx + at, fma(g, factor, shift - load_lanes(a.x + at, lanes) * slope), lanes);
      }
    });
  });
}

} // namespace howdah::HOWDAH_ISA

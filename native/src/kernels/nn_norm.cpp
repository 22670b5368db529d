// Layer norm (Ba et al. 2016), RMS norm (Zhang and Sennrich 2019) and their gradients.
#include "nn_common.hpp"

namespace howdah::HOWDAH_ISA {

namespace {

/** Rows per block of partial parameter gradients: by shape alone, at most 64 blocks. */
int64_t rows_per_block(int64_t rows, int64_t columns) {
  return std::max<int64_t>({1, (rows + 63) / 64, kTaskSize / std::max<int64_t>(1, columns)});
}

/** out[c] = sum over blocks, in order, of partial[block * stride + c]. */
void sum_blocks(const float* partial, int64_t blocks, int64_t stride, int64_t columns, float* out) {
  for_vectors(columns, [&](int64_t c, auto lanes, auto) {
    vf sum = zero();
    for (int64_t b = 0; b < blocks; b++) sum = sum + load_lanes(partial + b * stride + c, lanes);
    store_lanes(out + c, sum, lanes);
  });
}

template <class Y>
void layer_norm_to(const LayerNormArgs& a) {
  const int64_t n = a.columns;
  parallel_rows(a.rows, n, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; r++) {
      const float* x = a.x + r * n;
      Y* y = static_cast<Y*>(a.y) + r * n;
      Chains sum = chains(0);
      for_vectors(n, [&](int64_t i, auto lanes, auto j) { sum.lane[j] = sum.lane[j] + load_lanes(x + i, lanes); });
      const float mean = total(sum) / static_cast<float>(n);
      const vf center = splat(mean);
      Chains squares = chains(0);
      for_vectors(n, [&](int64_t i, auto lanes, auto j) {
        const vf d = only_lanes(load_lanes(x + i, lanes) - center, zero(), lanes);
        squares.lane[j] = fma(d, d, squares.lane[j]);
      });
      const float rstd = 1.0f / std::sqrt(total(squares) / static_cast<float>(n) + a.epsilon);
      const vf factor = splat(rstd);
      for_vectors(n, [&](int64_t i, auto lanes, auto) {
        vf z = (load_lanes(x + i, lanes) - center) * factor;
        if (a.scale) z = z * load_lanes(a.scale + i, lanes);
        if (a.bias) z = z + load_lanes(a.bias + i, lanes);
        store_lanes(y + i, z, lanes);
      });
      if (a.mean) a.mean[r] = mean;
      if (a.rstd) a.rstd[r] = rstd;
    }
  });
}

template <class Y>
void rms_norm_to(const RmsNormArgs& a) {
  const int64_t n = a.columns;
  parallel_rows(a.rows, n, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; r++) {
      const float* x = a.x + r * n;
      Y* y = static_cast<Y*>(a.y) + r * n;
      Chains squares = chains(0);
      for_vectors(n, [&](int64_t i, auto lanes, auto j) {
        const vf v = load_lanes(x + i, lanes);
        squares.lane[j] = fma(v, v, squares.lane[j]);
      });
      const float rstd = 1.0f / std::sqrt(total(squares) / static_cast<float>(n) + a.epsilon);
      const vf factor = splat(rstd);
      for_vectors(n, [&](int64_t i, auto lanes, auto) {
        vf z = load_lanes(x + i, lanes) * factor;
        if (a.scale) z = z * load_lanes(a.scale + i, lanes);
        store_lanes(y + i, z, lanes);
      });
      if (a.rstd) a.rstd[r] = rstd;
    }
  });
}

} // namespace

void layer_norm(const LayerNormArgs& a) {
  if (a.y_type == DType::bf16) return layer_norm_to<bf16_t>(a);
  layer_norm_to<float>(a);
}

void layer_norm_grad(const LayerNormGradArgs& a) {
  const int64_t n = a.columns;
  const int64_t block = rows_per_block(a.rows, n), blocks = (a.rows + block - 1) / block;
  float* partial = scratch(0, static_cast<size_t>(2 * blocks * n) * 4);
  parallel_for(blocks, [&](int64_t b, int) {
    float* dscale = partial + 2 * b * n;
    float* dbias = dscale + n;
    std::fill_n(dscale, 2 * n, 0.0f);
    for (int64_t r = b * block; r < std::min(a.rows, (b + 1) * block); r++) {
      const float* x = a.x + r * n;
      const float* dy = a.dy + r * n;
      const vf center = splat(a.mean[r]), factor = splat(a.rstd[r]);
      Chains sum = chains(0), product = chains(0);
      for_vectors(n, [&](int64_t i, auto lanes, auto j) {
        const vf z = (load_lanes(x + i, lanes) - center) * factor;
        vf g = load_lanes(dy + i, lanes);
        const vf gz = g * z;
        store_lanes(dscale + i, load_lanes(dscale + i, lanes) + gz, lanes);
        store_lanes(dbias + i, load_lanes(dbias + i, lanes) + g, lanes);
        // Lanes past the end hold dy = 0.
        const vf w = a.scale ? load_lanes(a.scale + i, lanes) : splat(1.0f);
        sum.lane[j] = fma(g, w, sum.lane[j]);
        product.lane[j] = fma(gz, w, product.lane[j]);
      });
      if (!a.dx) continue;
      // dx = rstd (g - mean(g) - z mean(g z)), g = dy scale
      const vf mean_g = splat(total(sum) / static_cast<float>(n)), mean_gz = splat(total(product) / static_cast<float>(n));
      float* dx = a.dx + r * n;
      for_vectors(n, [&](int64_t i, auto lanes, auto) {
        const vf z = (load_lanes(x + i, lanes) - center) * factor;
        vf g = load_lanes(dy + i, lanes);
        if (a.scale) g = g * load_lanes(a.scale + i, lanes);
        store_lanes(dx + i, factor * (g - fma(z, mean_gz, mean_g)), lanes);
      });
    }
  });
  if (a.dscale) sum_blocks(partial, blocks, 2 * n, n, a.dscale);
  if (a.dbias) sum_blocks(partial + n, blocks, 2 * n, n, a.dbias);
}

void rms_norm(const RmsNormArgs& a) {
  if (a.y_type == DType::bf16) return rms_norm_to<bf16_t>(a);
  rms_norm_to<float>(a);
}

void rms_norm_grad(const RmsNormGradArgs& a) {
  const int64_t n = a.columns;
  const int64_t block = rows_per_block(a.rows, n), blocks = (a.rows + block - 1) / block;
  float* partial = scratch(0, static_cast<size_t>(blocks * n) * 4);
  parallel_for(blocks, [&](int64_t b, int) {
    float* dscale = partial + b * n;
    std::fill_n(dscale, n, 0.0f);
    for (int64_t r = b * block; r < std::min(a.rows, (b + 1) * block); r++) {
      const float* x = a.x + r * n;
      const float* dy = a.dy + r * n;
      const vf factor = splat(a.rstd[r]);
      Chains product = chains(0);
      for_vectors(n, [&](int64_t i, auto lanes, auto j) {
        const vf gz = load_lanes(dy + i, lanes) * (load_lanes(x + i, lanes) * factor);
        store_lanes(dscale + i, load_lanes(dscale + i, lanes) + gz, lanes);
        const vf w = a.scale ? load_lanes(a.scale + i, lanes) : splat(1.0f);
        product.lane[j] = fma(gz, w, product.lane[j]);
      });
      if (!a.dx) continue;
      // dx = rstd (g - z mean(g z)), g = dy scale
      const vf mean_gz = splat(total(product) / static_cast<float>(n));
      float* dx = a.dx + r * n;
      for_vectors(n, [&](int64_t i, auto lanes, auto) {
        const vf z = load_lanes(x + i, lanes) * factor;
        vf g = load_lanes(dy + i, lanes);
        if (a.scale) g = g * load_lanes(a.scale + i, lanes);
        store_lanes(dx + i, factor * (g - z * mean_gz), lanes);
      });
    }
  });
  if (a.dscale) sum_blocks(partial, blocks, n, n, a.dscale);
}

} // namespace howdah::HOWDAH_ISA

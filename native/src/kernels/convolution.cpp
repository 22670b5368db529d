// Convolution with channels last. "Words" are those of gemm_pack.hpp: an f32, or a pair of bf16 neighbours (BF).
#include "../convolution.hpp"

#include <algorithm>
#include <array>
#include <utility>

#include "../isa.hpp"
#include "../pool.hpp"
#include "gemm_pack.hpp"
#include "gemm_tile.hpp"

namespace howdah::HOWDAH_ISA {

extern const ConvolutionTable convolution_table;

namespace {

/** Places times vectors of features held in registers, for one vector and for two. */
constexpr int kPlaces1 = W == 16 ? 16 : 8, kPlaces2 = W == 16 ? 8 : 4;
/** Channels times vectors of features of the kernel's gradient held in registers. */
constexpr int kChannels1 = W == 16 ? 16 : 8, kChannels2 = W == 16 ? 8 : 4;
/** What the copied rows of one task may take: part of a second-level cache. */
constexpr int64_t kRowsBytes = 192 << 10;
/** Parts into which the images are cut for the kernel's gradient. */
constexpr int64_t kParts = 16;

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// ---- Rows of the input, padded ----

/** Which input position a padded position is, or -1. */
int64_t source_of(const WindowAxis& axis, int64_t padded) {
  const int64_t position = padded - axis.low;
  // The usual case without a division, which would cost as much as multiplying with the values found there.
  if (axis.dilation == 1) return position >= 0 && position < axis.input ? position : -1;
  if (position < 0 || position % axis.dilation != 0) return -1;
  return position / axis.dilation < axis.input ? position / axis.dilation : -1;
}

/** n channels as words: pairs of neighbours when BF. */
template <bool BF>
HOWDAH_INLINE void put_channels(const float* from, int64_t n, float* to) {
  constexpr int step = W * k_per_word(BF);
  const int64_t count = words((int)n, BF);
  int32_t* out = (int32_t*)to;
  for (int64_t c = 0; c < n; c += step) {
    const vi v = words_along_k<BF>(from + c, (int)std::min<int64_t>(step, n - c));
    const int64_t at = c / k_per_word(BF);
    if (at + W <= count) store(out + at, v);
    else store_n(out + at, v, count - at);
  }
}

/** Rows first .. first + rows of the padded input as words: [row][column][word of channels]. */
template <bool BF>
void copy_rows(const DirectConvolutionArgs& a, const float* image, int64_t first, int64_t rows, int64_t columns, int64_t depth, float* to) {
  for (int64_t r = 0; r < rows; r++) {
    const int64_t source = source_of(a.height, first + r);
    float* row = to + r * columns * depth;
    if (source < 0) {
      std::fill_n(row, columns * depth, 0.0f);
      continue;
    }
    const float* from = image + source * a.x_row;
    const bool whole = a.width.dilation == 1 && a.x_column == a.channels && depth * k_per_word(BF) == a.channels;
    if (whole) {
      const int64_t low = std::clamp<int64_t>(a.width.low, 0, columns), start = std::max<int64_t>(0, -a.width.low);
      const int64_t length = std::clamp<int64_t>(a.width.input - start, 0, columns - low);
      std::fill_n(row, low * depth, 0.0f);
      if (length > 0) put_channels<BF>(from + start * a.x_column, length * a.channels, row + low * depth);
      std::fill_n(row + (low + length) * depth, (columns - low - length) * depth, 0.0f);
      continue;
    }
    for (int64_t c = 0; c < columns; c++) {
      const int64_t at = source_of(a.width, c);
      if (at < 0) std::fill_n(row + c * depth, depth, 0.0f);
      else put_channels<BF>(from + at * a.x_column, a.channels, row + c * depth);
    }
  }
}

// ---- Forward, and the input's gradient ----

/** P places by V vectors of features: `rows` window rows of `run` words each. Places lie `place` words apart, window rows `x_row`. */
template <bool BF, int P, int V>
static __attribute__((noinline)) void places_tile(int64_t rows, int64_t run, const float* x, int64_t place, int64_t x_row, const float* w, float* y,
                                                  int64_t y_place, int64_t features) {
  vf sum[P][V];
  HOWDAH_UNROLL for (int i = 0; i < P; i++) HOWDAH_UNROLL for (int j = 0; j < V; j++) sum[i][j] = zero();
  constexpr int groups = (P + 3) / 4;
  for (int64_t r = 0; r < rows; r++, x += x_row) {
    const float* from[groups];
    HOWDAH_UNROLL for (int g = 0; g < groups; g++) from[g] = x + 4 * g * place;
    for (int64_t q = 0; q < run; q++, w += V * W) {
      vf wv[V];
      HOWDAH_UNROLL for (int j = 0; j < V; j++) wv[j] = load(w + j * W);
      HOWDAH_UNROLL for (int i = 0; i < P; i++) {
        const vf xv = splat(from[i / 4][(i % 4) * place]);
        HOWDAH_UNROLL for (int j = 0; j < V; j++) sum[i][j] = multiply_add(xv, wv[j], sum[i][j], std::bool_constant<BF>{});
      }
      HOWDAH_UNROLL for (int g = 0; g < groups; g++) from[g]++;
    }
  }
  if (features >= V * W) {
    HOWDAH_UNROLL for (int i = 0; i < P; i++) HOWDAH_UNROLL for (int j = 0; j < V; j++) store(y + i * y_place + j * W, sum[i][j]);
  } else {
    HOWDAH_UNROLL for (int i = 0; i < P; i++)
        HOWDAH_UNROLL for (int j = 0; j < V; j++) store_n(y + i * y_place + j * W, sum[i][j], std::max<int64_t>(0, features - j * W));
  }
}

using PlacesTile = void (*)(int64_t, int64_t, const float*, int64_t, int64_t, const float*, float*, int64_t, int64_t);
template <bool BF, int V>
constexpr auto places_tiles = []<size_t... I>(std::index_sequence<I...>) {
  return std::array<PlacesTile, sizeof...(I)>{places_tile<BF, (int)I + 1, V>...};
}(std::make_index_sequence<V == 1 ? kPlaces1 : kPlaces2>{});

template <bool BF, int V>
void convolve(const DirectConvolutionArgs& a) {
  constexpr int64_t group = V * W, most = V == 1 ? kPlaces1 : kPlaces2;
  const int64_t depth = words((int)a.channels, BF), groups = ceil_div(a.features, group);
  const int64_t run = a.width.window * depth, kernel = a.height.window * run * group; // words of one group of features

  // The kernel as [group of features][window row][window column][word of channels][feature].
  float* packed = scratch(0, size_t(groups * kernel) * 4);
  parallel_for(groups * a.height.window * a.width.window, [&](int64_t task, int) {
    const int64_t tap = task % (a.height.window * a.width.window), g = task / (a.height.window * a.width.window);
    const float* from = a.w + tap / a.width.window * a.w_row + tap % a.width.window * a.w_column;
    float* to = packed + g * kernel + tap * depth * group;
    alignas(64) float rows[2][group];
    for (int64_t q = 0; q < depth; q++, to += group) {
      for (int half = 0; half < k_per_word(BF); half++) {
        const int64_t c = q * k_per_word(BF) + half;
        for (int64_t f = 0; f < group; f++) {
          const int64_t feature = g * group + f;
          rows[half][f] = c < a.channels && feature < a.features ? from[feature * a.w_feature + c * a.w_channel] : 0;
        }
      }
      HOWDAH_UNROLL for (int j = 0; j < V; j++) store((int32_t*)to + j * W, words_across_k<BF>(rows[0] + j * W, rows[1] + j * W, W));
    }
  });

  const int64_t columns = (a.width.output - 1) * a.width.stride + a.width.window;
  const int64_t row_bytes = columns * depth * 4;
  const int64_t fit = (kRowsBytes / row_bytes - a.height.window) / a.height.stride + 1;
  const int64_t bands = ceil_div(a.height.output, std::clamp<int64_t>(fit, 1, a.height.output)), band = ceil_div(a.height.output, bands);
  const int64_t tiles = ceil_div(a.width.output, most), tile = ceil_div(a.width.output, tiles);
  parallel_for(a.batch * bands, [&](int64_t task, int) {
    const int64_t image = task / bands, first = task % bands * band, last = std::min(a.height.output, first + band);
    if (first >= last) return;
    const int64_t rows = (last - first - 1) * a.height.stride + a.height.window;
    float* x = scratch(1, size_t(rows * columns * depth) * 4);
    copy_rows<BF>(a, a.x + image * a.x_batch, first * a.height.stride, rows, columns, depth, x);
    for (int64_t g = 0; g < groups; g++)
      for (int64_t i = first; i < last; i++) {
        const float* from = x + (i - first) * a.height.stride * columns * depth;
        float* to = a.y + image * a.y_batch + i * a.y_row + g * group;
        for (int64_t j = 0; j < a.width.output; j += tile) {
          const int64_t count = std::min(tile, a.width.output - j);
          places_tiles<BF, V>[size_t(count - 1)](a.height.window, run, from + j * a.width.stride * depth, a.width.stride * depth, columns * depth,
                                                 packed + g * kernel, to + j * a.y_column, a.y_column, a.features - g * group);
        }
      }
  });
}

/** The taps that meet input at places phase, phase + d, ... of an axis whose input has d - 1 zeros between neighbours. */
struct Phase {
  WindowAxis axis;   // of the input without the zeros
  int64_t tap = 0;   // the first of every d-th tap
};
Phase phase_of(const WindowAxis& whole, int64_t phase) {
  const int64_t d = whole.dilation, tap = ((whole.low - phase) % d + d) % d;
  WindowAxis axis = whole;
  axis.dilation = 1;
  axis.output = whole.output > phase ? ceil_div(whole.output - phase, d) : 0;
  axis.window = whole.window > tap ? ceil_div(whole.window - tap, d) : 0;
  axis.low = (whole.low - phase - tap) / d;
  return {axis, tap};
}

/** With zeros between the places of the input (the gradient of a strided convolution), a convolution for each phase, none of which sees the zeros. */
template <bool BF, int V>
void convolve_phases(const DirectConvolutionArgs& a) {
  const int64_t dh = a.height.dilation, dw = a.width.dilation;
  for (int64_t i = 0; i < dh; i++)
    for (int64_t j = 0; j < dw; j++) {
      const Phase height = phase_of(a.height, i), width = phase_of(a.width, j);
      if (height.axis.output == 0 || width.axis.output == 0) continue;
      DirectConvolutionArgs part = a;
      part.height = height.axis, part.width = width.axis;
      part.w += height.tap * a.w_row + width.tap * a.w_column;
      part.w_row *= dh, part.w_column *= dw;
      part.y += i * a.y_row + j * a.y_column;
      part.y_row *= dh, part.y_column *= dw;
      if (height.axis.window > 0 && width.axis.window > 0) {
        convolve<BF, V>(part);
        continue;
      }
      parallel_for(a.batch, [&](int64_t image, int) {
        for (int64_t row = 0; row < height.axis.output; row++)
          for (int64_t column = 0; column < width.axis.output; column++)
            std::fill_n(part.y + image * part.y_batch + row * part.y_row + column * part.y_column, a.features, 0.0f);
      });
    }
}

// ---- The kernel's gradient ----

/**
 * C channels by V vectors of features of one tap, added to `sum` [channel][feature]: over `rows` rows of `run` words of places. RUN is `run` where the
 * compiler knows it: the end of a short loop of unknown length is mispredicted for every row.
 */
template <bool BF, int C, int V, int RUN = 0>
static __attribute__((noinline)) void channels_tile(int64_t rows, [[maybe_unused]] int64_t any_run, const float* x, int64_t x_step, int64_t x_row, const float* g,
                                                    int64_t g_step, int64_t g_row, float* to, int64_t ld) {
  const int64_t run = RUN ? RUN : any_run;
  vf sum[C][V];
  HOWDAH_UNROLL for (int i = 0; i < C; i++) HOWDAH_UNROLL for (int j = 0; j < V; j++) sum[i][j] = load(to + i * ld + j * W);
  for (int64_t r = 0; r < rows; r++, x += x_row, g += g_row) {
    const float *xp = x, *gp = g;
    for (int64_t q = 0; q < run; q++, xp += x_step, gp += g_step) {
      vf gv[V];
      HOWDAH_UNROLL for (int j = 0; j < V; j++) gv[j] = load(gp + j * W);
      HOWDAH_UNROLL for (int i = 0; i < C; i++) {
        const vf xv = splat(xp[i]);
        HOWDAH_UNROLL for (int j = 0; j < V; j++) sum[i][j] = multiply_add(xv, gv[j], sum[i][j], std::bool_constant<BF>{});
      }
    }
  }
  HOWDAH_UNROLL for (int i = 0; i < C; i++) HOWDAH_UNROLL for (int j = 0; j < V; j++) store(to + i * ld + j * W, sum[i][j]);
}

using ChannelsTile = void (*)(int64_t, int64_t, const float*, int64_t, int64_t, const float*, int64_t, int64_t, float*, int64_t);
template <bool BF, int V>
constexpr auto channels_tiles = []<size_t... I>(std::index_sequence<I...>) {
  return std::array<ChannelsTile, sizeof...(I)>{channels_tile<BF, (int)I + 1, V>...};
}(std::make_index_sequence<V == 1 ? kChannels1 : kChannels2>{});

template <bool BF, int V>
ChannelsTile channels_tile_of(int64_t channels, int64_t run) {
  constexpr int most = V == 1 ? kChannels1 : kChannels2;
  if (channels == most && run == 4) return channels_tile<BF, most, V, 4>;
  if (channels == most && run == 8) return channels_tile<BF, most, V, 8>;
  if (channels == most && run == 16) return channels_tile<BF, most, V, 16>;
  return channels_tiles<BF, V>[size_t(channels - 1)];
}

/** n words from two rows of values: the first in the low halves when BF, else the first alone. `from` and `next` may be null: zeros. */
template <bool BF>
HOWDAH_INLINE void put_pair(const float* from, const float* next, int64_t n, float* to) {
  if constexpr (!BF) {
    if (from) std::copy_n(from, n, to);
    else std::fill_n(to, n, 0.0f);
  } else {
    if (!from && !next) return (void)std::fill_n(to, n, 0.0f);
    alignas(64) static const float zeros[W] = {};
    for (int64_t c = 0; c < n; c += W) {
      const int left = (int)std::min<int64_t>(W, n - c);
      const vi v = words_across_k<BF>(from ? from + c : zeros, next ? next + c : zeros, left);
      if (left == W) store((int32_t*)to + c, v);
      else store_n((int32_t*)to + c, v, left);
    }
  }
}

template <bool BF, int V>
void sum_kernel(const KernelGradientArgs& a) {
  constexpr int64_t group = V * W, most = V == 1 ? kChannels1 : kChannels2;
  const int64_t groups = ceil_div(a.features, group), padded = groups * group;
  const int64_t taps = a.height.window * a.width.window, total = taps * a.channels * padded;
  const int64_t parts = std::min(a.batch, kParts);
  float* partial = scratch(0, size_t(parts * total) * 4);
  // Words of a row of places: pairs of places when BF.
  const int64_t run = words((int)a.width.output, BF), per_word = k_per_word(BF);
  const int64_t columns = (run * per_word - 1) * a.width.stride + a.width.window;
  const int64_t row_bytes = (columns * a.channels * a.height.stride + run * padded) * 4;
  const int64_t bands = ceil_div(a.height.output, std::clamp<int64_t>(kRowsBytes / row_bytes, 1, a.height.output)), band = ceil_div(a.height.output, bands);
  const int64_t tiles = ceil_div(a.channels, most), tile = ceil_div(a.channels, tiles);
  parallel_for(parts, [&](int64_t part, int) {
    float* sum = partial + part * total;
    std::fill_n(sum, total, 0.0f);
    for (int64_t image = part * a.batch / parts; image < (part + 1) * a.batch / parts; image++)
      for (int64_t first = 0; first < a.height.output; first += band) {
        const int64_t last = std::min(a.height.output, first + band), count = last - first;
        const int64_t rows = (count - 1) * a.height.stride + a.height.window;
        float* x = scratch(1, size_t(rows * columns * a.channels) * 4);
        float* g = scratch(2, size_t(count * run * padded) * 4);
        for (int64_t r = 0; r < rows; r++) {
          const int64_t source = source_of(a.height, first * a.height.stride + r);
          float* row = x + r * columns * a.channels;
          if (source < 0) {
            std::fill_n(row, columns * a.channels, 0.0f);
            continue;
          }
          const float* from = a.x + image * a.x_batch + source * a.x_row;
          const auto at = [&](int64_t column) -> const float* {
            const int64_t c = source_of(a.width, column);
            return c < 0 ? nullptr : from + c * a.x_column;
          };
          // The word of a column holds the place under it and the next place, `stride` further on.
          for (int64_t c = 0; c < columns; c++) put_pair<BF>(at(c), at(c + a.width.stride), a.channels, row + c * a.channels);
        }
        for (int64_t i = 0; i < count; i++) {
          const float* from = a.g + image * a.g_batch + (first + i) * a.g_row;
          for (int64_t j = 0; j < run; j++) {
            float* to = g + (i * run + j) * padded;
            put_pair<BF>(from + j * per_word * a.g_column,
                         BF && j * 2 + 1 < a.width.output ? from + (j * 2 + 1) * a.g_column : nullptr, a.features, to);
            std::fill(to + a.features, to + padded, 0.0f);
          }
        }
        for (int64_t tap = 0; tap < taps; tap++)
          for (int64_t f = 0; f < groups; f++)
            for (int64_t c = 0; c < a.channels; c += tile) {
              const int64_t channels = std::min(tile, a.channels - c);
              const float* from = x + (tap / a.width.window * columns + tap % a.width.window) * a.channels + c;
              channels_tile_of<BF, V>(channels, run)(count, run, from, per_word * a.width.stride * a.channels,
                                                     a.height.stride * columns * a.channels, g + f * group, padded, run * padded,
                                                     sum + (tap * a.channels + c) * padded + f * group, padded);
            }
      }
  });
  parallel_for(taps, [&](int64_t tap, int) {
    float* to = a.dw + tap / a.width.window * a.w_row + tap % a.width.window * a.w_column;
    for (int64_t c = 0; c < a.channels; c++)
      for (int64_t f = 0; f < a.features; f += W) {
        vf s = zero();
        for (int64_t part = 0; part < parts; part++) s = s + load(partial + part * total + (tap * a.channels + c) * padded + f);
        for (int i = 0; i < W && f + i < a.features; i++) to[(f + i) * a.w_feature + c * a.w_channel] = s[i];
      }
  });
}

template <class F>
void choose(bool bf16, int64_t features, F&& body) {
  const bool wide = features > W;
#if HOWDAH_BF16_DOT
  if (bf16) {
    if (wide) return body(std::true_type{}, std::integral_constant<int, 2>{});
    return body(std::true_type{}, std::integral_constant<int, 1>{});
  }
#else
  (void)bf16;
#endif
  if (wide) return body(std::false_type{}, std::integral_constant<int, 2>{});
  return body(std::false_type{}, std::integral_constant<int, 1>{});
}

void direct_convolution(const DirectConvolutionArgs& a) {
  const bool phases = (a.height.dilation > 1 || a.width.dilation > 1) && a.height.stride == 1 && a.width.stride == 1;
  choose(a.bf16_compute, a.features, [&](auto bf, auto vectors) {
    if (phases) convolve_phases<bf, vectors>(a);
    else convolve<bf, vectors>(a);
  });
}

void kernel_gradient(const KernelGradientArgs& a) {
  choose(a.bf16_compute, a.features, [&](auto bf, auto vectors) { sum_kernel<bf, vectors>(a); });
}

} // namespace

const ConvolutionTable convolution_table = {direct_convolution, kernel_gradient};

} // namespace howdah::HOWDAH_ISA

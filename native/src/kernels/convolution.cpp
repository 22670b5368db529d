// Convolution with channels last. "Words" are those of gemm_pack.hpp: an f32, or a pair of bf16 neighbours (BF).
#include "convolution_common.hpp"

namespace howdah::HOWDAH_ISA {

extern const ConvolutionTable convolution_table;

namespace {

/** Places times vectors of features held in registers, for one vector and for two. */
constexpr int kPlaces1 = W == 16 ? 16 : 8, kPlaces2 = W == 16 ? 8 : 4;
/** What the copied rows of one task may take: part of a second-level cache. */
constexpr int64_t kRowsBytes = 192 << 10;

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
template <bool BF, class T>
HOWDAH_INLINE void put_channels(const T* from, int64_t n, float* to) {
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
template <bool BF, class T>
void copy_rows(const DirectConvolutionArgs& a, const T* image, int64_t first, int64_t rows, int64_t columns, int64_t depth, float* to) {
  for (int64_t r = 0; r < rows; r++) {
    const int64_t source = source_of(a.height, first + r);
    float* row = to + r * columns * depth;
    if (source < 0) {
      std::fill_n(row, columns * depth, 0.0f);
      continue;
    }
    const T* from = image + source * a.x_row;
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

/** Where a tile puts its places: `place` numbers apart, f32 or bf16, of each at most so many features. */
struct Places {
  void* y;
  int64_t place, features;
  bool half;
};

/** Sums of P places and V vectors of features. */
template <int P, int V>
HOWDAH_INLINE void put_places(const vf (&sum)[P][V], const Places& out) {
  const auto put = [&](auto* y) {
    if (out.features >= V * W) {
      HOWDAH_UNROLL for (int i = 0; i < P; i++) HOWDAH_UNROLL for (int j = 0; j < V; j++) store_lanes(y + i * out.place + j * W, sum[i][j], Full{});
    } else {
      HOWDAH_UNROLL for (int i = 0; i < P; i++)
          HOWDAH_UNROLL for (int j = 0; j < V; j++)
              store_lanes(y + i * out.place + j * W, sum[i][j], (int)std::max<int64_t>(0, out.features - j * W));
    }
  };
  if (out.half) put((bf16_t*)out.y);
  else put((float*)out.y);
}
/** Brings what a tile will write into the cache while it multiplies. */
template <int P, int V>
HOWDAH_INLINE void fetch_places(const Places& out) {
  const char* y = (const char*)out.y;
  const int64_t size = out.half ? 2 : 4, place = out.place * size;
  HOWDAH_UNROLL for (int i = 0; i < P; i++) HOWDAH_UNROLL for (int j = 0; j < V; j++) __builtin_prefetch(y + i * place + j * W * size, 1);
}

/** P places by V vectors of features: `rows` window rows of `run` words each. Places lie `place` words apart, window rows `x_row`. */
template <bool BF, int P, int V>
static __attribute__((noinline)) void places_tile(int64_t rows, int64_t run, const float* x, int64_t place, int64_t x_row, const float* w,
                                                  const Places& out) {
  vf sum[P][V];
  HOWDAH_UNROLL for (int i = 0; i < P; i++) HOWDAH_UNROLL for (int j = 0; j < V; j++) sum[i][j] = zero();
  fetch_places<P, V>(out);
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
  put_places(sum, out);
}

/**
 * The same for neighbouring places, a vector of features and a window of K columns: a word of the input serves all places that see it, with one load.
 * Weights lie as [window column][word of channels].
 */
template <bool BF, int P, int K>
static __attribute__((noinline)) void strip_tile(int64_t rows, int64_t depth, const float* x, int64_t x_row, const float* w, const Places& out) {
  vf sum[P][1];
  HOWDAH_UNROLL for (int i = 0; i < P; i++) sum[i][0] = zero();
  fetch_places<P, 1>(out);
  constexpr int seen = P + K - 1, groups = (seen + 3) / 4;
  for (int64_t r = 0; r < rows; r++, x += x_row, w += K * depth * W) {
    const float* from[groups];
    HOWDAH_UNROLL for (int g = 0; g < groups; g++) from[g] = x + 4 * g * depth;
    const float* wp = w;
    for (int64_t q = 0; q < depth; q++, wp += W) {
      vf wv[K];
      HOWDAH_UNROLL for (int t = 0; t < K; t++) wv[t] = load(wp + t * depth * W);
      HOWDAH_UNROLL for (int i = 0; i < seen; i++) {
        const vf xv = splat(from[i / 4][(i % 4) * depth]);
        HOWDAH_UNROLL for (int t = 0; t < K; t++)
          if (i - t >= 0 && i - t < P) sum[i - t][0] = multiply_add(xv, wv[t], sum[i - t][0], std::bool_constant<BF>{});
      }
      HOWDAH_UNROLL for (int g = 0; g < groups; g++) from[g]++;
    }
  }
  put_places(sum, out);
}

using PlacesTile = void (*)(int64_t, int64_t, const float*, int64_t, int64_t, const float*, const Places&);
template <bool BF, int V>
constexpr auto places_tiles = []<size_t... I>(std::index_sequence<I...>) {
  return std::array<PlacesTile, sizeof...(I)>{places_tile<BF, (int)I + 1, V>...};
}(std::make_index_sequence<V == 1 ? kPlaces1 : kPlaces2>{});

using StripTile = void (*)(int64_t, int64_t, const float*, int64_t, const float*, const Places&);
template <bool BF>
constexpr auto strip_tiles = []<size_t... I>(std::index_sequence<I...>) {
  return std::array<StripTile, sizeof...(I)>{strip_tile<BF, (int)I + 1, 3>...};
}(std::make_index_sequence<kPlaces1>{});

template <bool BF, int V, class T>
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
  const bool strip = V == 1 && a.width.stride == 1 && a.width.window == 3;
  parallel_for(a.batch * bands, [&](int64_t task, int) {
    const int64_t image = task / bands, first = task % bands * band, last = std::min(a.height.output, first + band);
    if (first >= last) return;
    const int64_t rows = (last - first - 1) * a.height.stride + a.height.window;
    float* x = scratch(1, size_t(rows * columns * depth) * 4);
    // While these rows are multiplied, those that this thread probably copies next are fetched, a few lines with every tile.
    const int64_t next = task + thread_count(), next_row = std::min(a.height.input, next % bands * band * a.height.stride);
    const char* ahead = (const char*)((const T*)a.x.data + next / bands * a.x_batch + next_row * a.x_row);
    const int64_t fetched = next < a.batch * bands ? ceil_div((last - first) * a.height.stride * a.x_row * int64_t(sizeof(T)), kLine) : 0;
    const int64_t lines = ceil_div(fetched, groups * (last - first) * tiles);
    copy_rows<BF>(a, (const T*)a.x.data + image * a.x_batch, first * a.height.stride, rows, columns, depth, x);
    for (int64_t g = 0; g < groups; g++)
      for (int64_t i = first; i < last; i++) {
        const float* from = x + (i - first) * a.height.stride * columns * depth;
        const int64_t to = image * a.y_batch + i * a.y_row + g * group;
        for (int64_t j = 0; j < a.width.output; j += tile) {
          const int64_t count = std::min(tile, a.width.output - j);
          for (int64_t l = 0; l < lines; l++, ahead += kLine) __builtin_prefetch(ahead, 0, 2);
          const Places out{(char*)a.y + (to + j * a.y_column) * (a.y_half ? 2 : 4), a.y_column, a.features - g * group, a.y_half};
          if (strip) {
            strip_tiles<BF>[size_t(count - 1)](a.height.window, depth, from + j * depth, columns * depth, packed + g * kernel, out);
            continue;
          }
          places_tiles<BF, V>[size_t(count - 1)](a.height.window, run, from + j * a.width.stride * depth, a.width.stride * depth, columns * depth,
                                                 packed + g * kernel, out);
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
template <bool BF, int V, class T>
void convolve_phases(const DirectConvolutionArgs& a) {
  const int64_t dh = a.height.dilation, dw = a.width.dilation, size = a.y_half ? 2 : 4;
  for (int64_t i = 0; i < dh; i++)
    for (int64_t j = 0; j < dw; j++) {
      const Phase height = phase_of(a.height, i), width = phase_of(a.width, j);
      if (height.axis.output == 0 || width.axis.output == 0) continue;
      DirectConvolutionArgs part = a;
      part.height = height.axis, part.width = width.axis;
      part.w += height.tap * a.w_row + width.tap * a.w_column;
      part.w_row *= dh, part.w_column *= dw;
      part.y = (char*)a.y + (i * a.y_row + j * a.y_column) * size;
      part.y_row *= dh, part.y_column *= dw;
      if (height.axis.window > 0 && width.axis.window > 0) {
        convolve<BF, V, T>(part);
        continue;
      }
      parallel_for(a.batch, [&](int64_t image, int) {
        for (int64_t row = 0; row < height.axis.output; row++)
          for (int64_t column = 0; column < width.axis.output; column++)
            std::memset((char*)part.y + (image * part.y_batch + row * part.y_row + column * part.y_column) * size, 0, size_t(a.features * size));
      });
    }
}

void direct_convolution(const DirectConvolutionArgs& a) {
  const bool phases = (a.height.dilation > 1 || a.width.dilation > 1) && a.height.stride == 1 && a.width.stride == 1;
  choose(a.bf16_compute, a.features, [&](auto bf, auto vectors) {
    with_type(a.x, [&](auto x) {
      if (phases) convolve_phases<bf, vectors, decltype(x)>(a);
      else convolve<bf, vectors, decltype(x)>(a);
    });
  });
}

} // namespace

const ConvolutionTable convolution_table = {direct_convolution};

} // namespace howdah::HOWDAH_ISA

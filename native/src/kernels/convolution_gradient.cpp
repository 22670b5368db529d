// The gradient of a convolution's kernel, channels last. "Words" are those of gemm_pack.hpp: an f32, or a pair of bf16 neighbours (BF), here of places.
#include "convolution_common.hpp"

namespace howdah::HOWDAH_ISA {

extern const KernelGradientTable kernel_gradient_table;

namespace {

/** Channels that the kernel's gradient holds in registers beside one, two or three vectors. */
constexpr int kChannels[] = {W == 16 ? 16 : 8, W == 16 ? 12 : 5, W == 16 ? 8 : 4};
/** What the copied rows of one band of the kernel's gradient may take: a tile should sum long runs, from a part of a second-level cache. */
constexpr int64_t kGradientBytes = 128 << 10;
/** Parts into which the images are cut for the kernel's gradient. */
constexpr int64_t kParts = 16;

/** Where a tile of the kernel's gradient reads: `images` times `rows` rows of `run` words of places. */
struct GradientRows {
  int64_t images, rows, run;
  int64_t x_step, x_row, x_image, g_step, g_row, g_image;
  /** Lines of memory that are fetched beside each row, for what comes next. */
  int64_t lines;
};

/**
 * C channels by V vectors, each of the features of some tap, added to `to`[vector][channel]. RUN is `run` where the compiler knows it: the end of a short
 * loop of unknown length is mispredicted for every row.
 */
template <bool BF, int C, int V, int RUN = 0>
static __attribute__((noinline)) void channels_tile(const GradientRows& a, const float* x, const float* const* g, float* const* to, const char* ahead) {
  const int64_t run = RUN ? RUN : a.run, g_step = a.g_step, x_step = a.x_step;
  vf sum[C][V];
  HOWDAH_UNROLL for (int i = 0; i < C; i++) HOWDAH_UNROLL for (int j = 0; j < V; j++) sum[i][j] = load(to[j] + i * W);
  for (int64_t n = 0; n < a.images; n++)
    for (int64_t r = 0; r < a.rows; r++) {
      for (int64_t l = 0; l < a.lines; l++, ahead += kLine) __builtin_prefetch(ahead, 0, 2);
      const float *xp = x + n * a.x_image + r * a.x_row, *gp[V];
      HOWDAH_UNROLL for (int j = 0; j < V; j++) gp[j] = g[j] + n * a.g_image + r * a.g_row;
      for (int64_t q = 0; q < run; q++, xp += x_step) {
        vf gv[V];
        HOWDAH_UNROLL for (int j = 0; j < V; j++) gv[j] = load(gp[j]);
        HOWDAH_UNROLL for (int j = 0; j < V; j++) gp[j] += g_step;
        HOWDAH_UNROLL for (int i = 0; i < C; i++) {
          const vf xv = splat(xp[i]);
          HOWDAH_UNROLL for (int j = 0; j < V; j++) sum[i][j] = multiply_add(xv, gv[j], sum[i][j], std::bool_constant<BF>{});
        }
      }
    }
  HOWDAH_UNROLL for (int i = 0; i < C; i++) HOWDAH_UNROLL for (int j = 0; j < V; j++) store(to[j] + i * W, sum[i][j]);
}

using ChannelsTile = void (*)(const GradientRows&, const float*, const float* const*, float* const*, const char*);
template <bool BF, int V>
constexpr auto channels_tiles = []<size_t... I>(std::index_sequence<I...>) {
  return std::array<ChannelsTile, sizeof...(I)>{channels_tile<BF, (int)I + 1, V>...};
}(std::make_index_sequence<kChannels[V - 1]>{});

template <bool BF, int V>
ChannelsTile channels_tile_of(int64_t channels, int64_t run) {
  constexpr int most = kChannels[V - 1];
  if (channels == most && run == 4) return channels_tile<BF, most, V, 4>;
  if (channels == most && run == 8) return channels_tile<BF, most, V, 8>;
  if (channels == most && run == 16) return channels_tile<BF, most, V, 16>;
  return channels_tiles<BF, V>[size_t(channels - 1)];
}
template <bool BF>
ChannelsTile channels_tile_of(int64_t channels, int64_t vectors, int64_t run) {
  return vectors == 1 ? channels_tile_of<BF, 1>(channels, run) : vectors == 2 ? channels_tile_of<BF, 2>(channels, run) : channels_tile_of<BF, 3>(channels, run);
}

/** Words made of the places of a row: word k of place first + k * step and, when BF, of the place `partner` further on. */
struct WordPlaces {
  int64_t first, step, partner, words;
};

/**
 * Words of n channels, `block` of them side by side: `to`[block][word][channel of the block], blocks `apart`. The row's places are `column` apart. Zeros
 * follow the last channel where its block has room for a vector.
 */
template <bool BF, class T>
void put_words(const WordPlaces& w, const T* row, int64_t places, int64_t column, int64_t n, int64_t block, int64_t apart, float* to) {
  alignas(64) static const T zeros[W] = {};
  // A step of 0 stays with zeros.
  const auto put = [&](const T* low, int64_t low_step, const T* high, int64_t high_step, int64_t k) {
    int32_t* out = (int32_t*)to + k * block;
    for (int64_t c = 0, at = 0; c < n; c += W, low += low_step, high += high_step) {
      if (c + W <= n) store(out + at, words_across_k<BF>(low, high, W));
      else store_n(out + at, words_across_k<BF>(low, high, (int)(n - c)), block - at);
      if ((at += W) >= block) at = 0, out += apart;
    }
  };
  const int64_t partner = BF ? w.partner : 0;
  for (int64_t k = 0; k < w.words; k++) {
    const int64_t low = w.first + k * w.step, high = low + partner;
    const T* from = row + low * column;
    if (low >= 0 && high < places) {
      put(from, W, from + partner * column, W, k);
    } else {
      const bool low_there = low >= 0 && low < places, high_there = high >= 0 && high < places;
      put(low_there ? from : zeros, low_there ? W : 0, high_there ? from + partner * column : zeros, high_there ? W : 0, k);
    }
  }
}

/**
 * Each part of the images has sums of its own, [vector of features][tap][channel]. A word is a pair of places when BF. With stride 1 the input lies in words
 * of places 2 m and 2 m + 1, and the gradient in words that begin at every place: the taps of a window row see the same input beside gradients that are
 * shifted, so that a tile takes several taps. With longer strides the words of the input begin at every place, and what the taps of a window row see lies
 * side by side. Operands lie in blocks as narrow as a tile reads them, lest rows that it reads crowd a few sets of the cache.
 */
template <bool BF, class X, class G>
void sum_kernel(const KernelGradientArgs& a) {
  constexpr int64_t most_vectors = 3, most_lanes = 16, per_word = k_per_word(BF);
  const int64_t groups = ceil_div(a.features, W), window = a.width.window, low = a.width.low;
  const int64_t taps = a.height.window * window, total = groups * taps * a.channels * W;
  const int64_t parts = std::min(a.batch, kParts);
  float* partial = scratch(0, size_t(parts * total) * 4);
  const bool together = a.width.stride == 1;
  const int64_t run = ceil_div(together ? a.width.input : a.width.output, per_word);
  const int64_t x_words = together ? run : (run * per_word - 1) * a.width.stride + window, g_words = together ? (run - 1) * per_word + window : run;
  const int64_t block = together ? std::min(a.channels, most_lanes) : a.channels, blocks = ceil_div(a.channels, block);
  const int64_t x_row = x_words * block, g_row = g_words * W;
  // Bands of rows, or several images.
  const int64_t fit = kGradientBytes / ((x_row * blocks * a.height.stride + g_row * groups) * 4);
  const int64_t bands = ceil_div(a.height.output, std::clamp<int64_t>(fit, 1, a.height.output)), band = ceil_div(a.height.output, bands);
  const int64_t at_once = bands > 1 ? 1 : std::clamp<int64_t>(fit / a.height.output, 1, 8);
  const int64_t band_rows = std::min(a.height.input, (band - 1) * a.height.stride + a.height.window);
  const int64_t x_block = at_once * band_rows * x_row, g_block = at_once * band * g_row;
  // What a tile takes: vectors of features (of several taps where they see the same input) and lanes, which are channels (of several taps where those lie
  // side by side).
  const int64_t vectors = together ? groups * window : groups, chunk = ceil_div(vectors, ceil_div(vectors, most_vectors));
  const int64_t lanes = together ? a.channels : window * a.channels, block_lanes = together ? block : lanes;
  const int64_t tile = ceil_div(block_lanes, ceil_div(block_lanes, kChannels[chunk - 1]));
  const int64_t tiles = ceil_div(vectors, chunk) * ceil_div(lanes, tile);

  const WordPlaces x_places = together ? WordPlaces{0, per_word, 1, x_words} : WordPlaces{-low, 1, a.width.stride, x_words};
  const WordPlaces g_places = together ? WordPlaces{low - (window - 1), 1, 1, g_words} : WordPlaces{0, per_word, 1, g_words};
  const X* all_x = (const X*)a.x.data;
  const G* all_g = (const G*)a.g.data;
  parallel_for(parts, [&](int64_t part, int) {
    float* sum = partial + part * total;
    std::fill_n(sum, total, 0.0f);
    float* x = scratch(1, size_t(blocks * x_block) * 4);
    float* g = scratch(2, size_t(groups * g_block) * 4);
    const int64_t end = (part + 1) * a.batch / parts;
    for (int64_t image = part * a.batch / parts; image < end; image += at_once)
      for (int64_t first = 0; first < a.height.output; first += band) {
        const int64_t images = std::min(at_once, end - image), last = std::min(a.height.output, first + band);
        const int64_t x_first = std::clamp<int64_t>(first * a.height.stride - a.height.low, 0, a.height.input);
        const int64_t x_last = std::clamp<int64_t>((last - 1) * a.height.stride + a.height.window - a.height.low, x_first, a.height.input);
        for (int64_t n = 0; n < images; n++) {
          for (int64_t i = x_first; i < x_last; i++)
            put_words<BF>(x_places, all_x + (image + n) * a.x_batch + i * a.x_row, a.width.input, a.x_column, a.channels, block, x_block,
                          x + (n * band_rows + i - x_first) * x_row);
          for (int64_t i = first; i < last; i++)
            put_words<BF>(g_places, all_g + (image + n) * a.g_batch + i * a.g_row, a.width.output, a.g_column, a.features, W, g_block,
                          g + (n * band + i - first) * g_row);
        }
        // While this band is multiplied, the next one is fetched: first of the input, then of the gradient.
        const int64_t new_rows = images * (last - first), slots = new_rows * a.height.window * tiles;
        const char* ahead = (const char*)(all_x + (image + images - 1) * a.x_batch + x_last * a.x_row);
        const char* x_end = ahead + new_rows * a.height.stride * a.x_row * int64_t(sizeof(X));
        const char* g_next = (const char*)(all_g + (image + images - 1) * a.g_batch + last * a.g_row);
        const int64_t lines = ceil_div(ceil_div(new_rows * (a.height.stride * a.x_row * int64_t(sizeof(X)) + a.g_row * int64_t(sizeof(G))), kLine), slots);
        for (int64_t r = 0; r < a.height.window; r++) {
          // Places whose window has this row of the input.
          const int64_t offset = r - a.height.low, begin = std::max(first, offset < 0 ? ceil_div(-offset, a.height.stride) : 0);
          const int64_t stop = std::min(last, offset < a.height.input ? (a.height.input - 1 - offset) / a.height.stride + 1 : 0);
          if (begin >= stop) continue;
          const GradientRows rows{images, stop - begin, run, together ? block : per_word * a.width.stride * block, a.height.stride * x_row,
                                  band_rows * x_row, together ? per_word * W : W, g_row, band * g_row, lines};
          const float* x_from = x + (begin * a.height.stride + offset - x_first) * x_row;
          const float* g_from = g + (begin - first) * g_row;
          for (int64_t v = 0; v < vectors; v += chunk) {
            const int64_t count = std::min(chunk, vectors - v);
            const float* g_at[most_vectors];
            float* sums[most_vectors];
            for (int64_t j = 0; j < count; j++) {
              const int64_t tap = together ? (v + j) % window : 0, f = together ? (v + j) / window : v + j;
              g_at[j] = g_from + f * g_block + (together ? (window - 1 - tap) * W : 0);
              sums[j] = sum + (f * taps + r * window + tap) * a.channels * W;
            }
            for (int64_t l = 0; l < lanes;) {
              const int64_t at = l % block_lanes, taken = std::min({tile, block_lanes - at, lanes - l});
              channels_tile_of<BF>(taken, count, run)(rows, x_from + l / block_lanes * x_block + at, g_at, sums, ahead);
              ahead += images * (stop - begin) * lines * kLine;
              if (x_end && ahead >= x_end) ahead = g_next, x_end = nullptr;
              for (int64_t j = 0; j < count; j++) sums[j] += taken * W;
              l += taken;
            }
          }
        }
      }
  });
  parallel_for(groups * taps, [&](int64_t task, int) {
    const int64_t f = task / taps * W, tap = task % taps;
    float* to = a.dw + tap / window * a.w_row + tap % window * a.w_column;
    for (int64_t c = 0; c < a.channels; c++) {
      vf s = zero();
      for (int64_t part = 0; part < parts; part++) s = s + load(partial + part * total + (task * a.channels + c) * W);
      for (int i = 0; i < W && f + i < a.features; i++) to[(f + i) * a.w_feature + c * a.w_channel] = s[i];
    }
  });
}

void kernel_gradient(const KernelGradientArgs& a) {
  choose(a.bf16_compute, a.features, [&](auto bf, auto) {
    with_type(a.x, [&](auto x) { with_type(a.g, [&](auto g) { sum_kernel<bf, decltype(x), decltype(g)>(a); }); });
  });
}

} // namespace

const KernelGradientTable kernel_gradient_table = {kernel_gradient};

} // namespace howdah::HOWDAH_ISA

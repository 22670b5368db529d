// Linear maps by packed weights (src/quantized.hpp), for one row of x as for many.
#include "../quantized.hpp"

#include <algorithm>
#include <cmath>

#include "nn_common.hpp"

namespace howdah::HOWDAH_ISA {

namespace {

/** Vectors in a panel's 16 rows. */
constexpr int V = static_cast<int>(kPanelRows) / W;
/** Rows of x and panels of weights in the largest tile: as many sums as fit the registers. */
#if HOWDAH_AVX512
constexpr int kTileRows = 6, kTilePanels = 2;
#elif HOWDAH_AVX2 || HOWDAH_NEON
constexpr int kTileRows = 3, kTilePanels = 1;
#else
constexpr int kTileRows = 2, kTilePanels = 1;
#endif

/** acc + the products of 4 unsigned bytes of w with 4 signed bytes of x, per lane. */
HOWDAH_INLINE vi dot4(vi acc, vi w, int32_t x) {
#if HOWDAH_AVX512
  return (vi)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)w, _mm512_set1_epi32(x));
#elif HOWDAH_AVX2
  // Bytes at even and at odd places by themselves: their products in 16 bits could overflow, sums of two in 32 cannot.
  const __m256i xv = _mm256_set1_epi32(x), wv = (__m256i)w;
  const __m256i even = _mm256_madd_epi16(_mm256_and_si256(wv, _mm256_set1_epi16(255)), _mm256_srai_epi16(_mm256_slli_epi16(xv, 8), 8));
  const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(wv, 8), _mm256_srai_epi16(xv, 8));
  return acc + (vi)_mm256_add_epi32(even, odd);
#else
  acc += (w & 255) * splat_i((int8_t)x);
  acc += ((w >> 8) & 255) * splat_i((int8_t)(x >> 8));
  acc += ((w >> 16) & 255) * splat_i((int8_t)(x >> 16));
  return acc + shift_right_logical(w, 24) * splat_i(x >> 24);
#endif
}

/** int4 levels as unsigned bytes. */
struct Levels {
  alignas(64) uint8_t byte[64];
};
constexpr Levels levels_of() {
  Levels l{};
  for (int i = 0; i < 64; i++) l.byte[i] = static_cast<uint8_t>(kInt4Levels[i % 16] + 128);
  return l;
}
constexpr Levels kLevels = levels_of();

/** The level + 128 for each byte of `index`, all below 16. */
HOWDAH_INLINE vi level_of(vi index) {
#if HOWDAH_AVX512
  return (vi)_mm512_shuffle_epi8(_mm512_load_si512(kLevels.byte), (__m512i)index);
#elif HOWDAH_AVX2
  return (vi)_mm256_shuffle_epi8(_mm256_load_si256(reinterpret_cast<const __m256i*>(kLevels.byte)), (__m256i)index);
#elif HOWDAH_NEON
  return (vi)vqtbl1q_u8(vld1q_u8(kLevels.byte), (uint8x16_t)index);
#else
  uint8_t bytes[sizeof(vi)];
  std::memcpy(bytes, &index, sizeof bytes);
  for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = kLevels.byte[bytes[i]];
  std::memcpy(&index, bytes, sizeof bytes);
  return index;
#endif
}

/** acc + the products of 2 bf16 numbers of w with pair `j` of x, per lane. */
#if HOWDAH_BF16_DOT
typedef bf16_t Activation;
HOWDAH_INLINE vf dot2(vf acc, vi w, const Activation* x, int64_t j) {
  int32_t pair;
  std::memcpy(&pair, x + 2 * j, 4);
  return (vf)_mm512_dpbf16_ps((__m512)acc, (__m512bh)(__m512i)w, (__m512bh)_mm512_set1_epi32(pair));
}
#else
typedef float Activation;
HOWDAH_INLINE vf dot2(vf acc, vi w, const Activation* x, int64_t j) {
  acc = fma(from_bits(w << 16), splat(x[2 * j]), acc);
  return fma(from_bits(w & (int32_t)0xffff0000), splat(x[2 * j + 1]), acc);
}
#endif

/** Everything a tile needs to know. */
struct Work {
  const QuantizedLinearArgs* args;
  int64_t groups, panel_bytes;
  /** Padded inputs. */
  int64_t width;
  std::byte* words;
  float* scales;   // (rows, groups)
  int32_t* starts; // (rows, groups): minus the weights' zero point times the sum of x
};

template <WeightFormat F>
constexpr int64_t word_bytes = F == WeightFormat::bf16 ? sizeof(Activation) : 1;

/** out[p][r][16]: R rows of x times P panels. */
template <WeightFormat F, int R, int P>
static void tile(const Work& k, int64_t panel, int64_t row, float* out) {
  const std::byte* packed = static_cast<const std::byte*>(k.args->weights.packed) + panel * k.panel_bytes;
  const std::byte* x[R];
  HOWDAH_UNROLL for (int r = 0; r < R; r++) x[r] = k.words + (row + r) * k.width * word_bytes<F>;
  if constexpr (F == WeightFormat::bf16) {
    // Two chains per sum: one alone would wait for each product.
    vf sum[2][R][P][V];
    HOWDAH_UNROLL for (int u = 0; u < 2; u++) HOWDAH_UNROLL for (int r = 0; r < R; r++) HOWDAH_UNROLL for (int p = 0; p < P; p++)
        HOWDAH_UNROLL for (int v = 0; v < V; v++) sum[u][r][p][v] = zero();
    const int64_t pairs = k.groups;
    auto step = [&](int64_t j, auto chain) __attribute__((always_inline)) {
      HOWDAH_UNROLL for (int p = 0; p < P; p++) HOWDAH_UNROLL for (int v = 0; v < V; v++) {
        const vi w = load(reinterpret_cast<const int32_t*>(packed + p * k.panel_bytes + j * 64) + v * W);
        HOWDAH_UNROLL for (int r = 0; r < R; r++)
          sum[chain][r][p][v] = dot2(sum[chain][r][p][v], w, reinterpret_cast<const Activation*>(x[r]), j);
      }
    };
    int64_t j = 0;
    for (; j + 2 <= pairs; j += 2) {
      step(j, std::integral_constant<int, 0>{});
      step(j + 1, std::integral_constant<int, 1>{});
    }
    if (j < pairs) step(j, std::integral_constant<int, 0>{});
    HOWDAH_UNROLL for (int p = 0; p < P; p++) HOWDAH_UNROLL for (int r = 0; r < R; r++) HOWDAH_UNROLL for (int v = 0; v < V; v++)
        store(out + (p * R + r) * kPanelRows + v * W, sum[0][r][p][v] + sum[1][r][p][v]);
  } else {
    constexpr int steps = F == WeightFormat::int8 ? 16 : 4; // of 64 bytes, in a group
    const uint16_t* weight_scales = k.args->weights.scales + panel * k.groups * kPanelRows;
    vf sum[R][P][V];
    HOWDAH_UNROLL for (int r = 0; r < R; r++) HOWDAH_UNROLL for (int p = 0; p < P; p++)
        HOWDAH_UNROLL for (int v = 0; v < V; v++) sum[r][p][v] = zero();
    for (int64_t g = 0; g < k.groups; g++) {
      vi acc[R][P][V];
      HOWDAH_UNROLL for (int r = 0; r < R; r++) HOWDAH_UNROLL for (int p = 0; p < P; p++) HOWDAH_UNROLL for (int v = 0; v < V; v++)
          acc[r][p][v] = splat_i(k.starts[(row + r) * k.groups + g]);
      const std::byte* w = packed + g * steps * 64;
      HOWDAH_UNROLL for (int j = 0; j < steps; j++) HOWDAH_UNROLL for (int p = 0; p < P; p++) {
#if HOWDAH_AVX512
        if (F == WeightFormat::int4 && R == 1) _mm_prefetch(reinterpret_cast<const char*>(w + p * k.panel_bytes + j * 64 + 4096), _MM_HINT_T0);
#endif
        HOWDAH_UNROLL for (int v = 0; v < V; v++) {
          const vi wv = load(reinterpret_cast<const int32_t*>(w + p * k.panel_bytes + j * 64) + v * W);
          vi low, high;
          if constexpr (F == WeightFormat::int4) {
            low = level_of(wv & 0x0f0f0f0f);
            high = level_of(shift_right_logical(wv, 4) & 0x0f0f0f0f);
          }
          HOWDAH_UNROLL for (int r = 0; r < R; r++) {
            int32_t xw[2];
            if constexpr (F == WeightFormat::int8) {
              std::memcpy(xw, x[r] + g * 64 + j * 4, 4);
              acc[r][p][v] = dot4(acc[r][p][v], wv, xw[0]);
            } else {
              std::memcpy(xw, x[r] + g * 32 + j * 8, 8);
              acc[r][p][v] = dot4(acc[r][p][v], low, xw[0]);
              acc[r][p][v] = dot4(acc[r][p][v], high, xw[1]);
            }
          }
        }
      }
      HOWDAH_UNROLL for (int p = 0; p < P; p++) HOWDAH_UNROLL for (int v = 0; v < V; v++) {
        const vf s = load_bf16(weight_scales + (p * k.groups + g) * kPanelRows + v * W);
        HOWDAH_UNROLL for (int r = 0; r < R; r++)
          sum[r][p][v] = fma(to_float(acc[r][p][v]), s * splat(k.scales[(row + r) * k.groups + g]), sum[r][p][v]);
      }
    }
    HOWDAH_UNROLL for (int p = 0; p < P; p++) HOWDAH_UNROLL for (int r = 0; r < R; r++) HOWDAH_UNROLL for (int v = 0; v < V; v++)
        store(out + (p * R + r) * kPanelRows + v * W, sum[r][p][v]);
  }
}

/** Tiles of up to R rows and both panels of a pair, or one after the other. */
template <WeightFormat F, int R>
static void tiles(const Work& k, int64_t panel, int panels, int64_t row, int rows, float* out) {
  if constexpr (R > 1) {
    if (rows < R) return tiles<F, R - 1>(k, panel, panels, row, rows, out);
  }
  if constexpr (kTilePanels == 2 && R > 1) { // one stream from memory is faster for one row
    if (panels == 2) return tile<F, R, 2>(k, panel, row, out);
  }
  for (int p = 0; p < panels; p++) tile<F, R, 1>(k, panel + p, row, out + p * R * kPanelRows);
}

/** Activation, residual, and out to y. out: [panels][rows][16]. */
static void finish(const QuantizedLinearArgs& a, int64_t pair, int panels, int64_t row, int rows, const float* out) {
  const int64_t columns = a.weights.out;
  for (int r = 0; r < rows; r++) {
    float* y = a.y + (row + r) * columns;
    const float* residual = a.residual ? a.residual + (row + r) * columns : nullptr;
    auto put = [&](int64_t column, vf value) __attribute__((always_inline)) {
      const int64_t n = columns - column;
      if (n <= 0) return;
      if (residual) value = value + (n >= W ? load(residual + column) : load_n(residual + column, n));
      if (n >= W) store(y + column, value);
      else store_n(y + column, value, n);
    };
    const float* first = out + r * kPanelRows;
    const float* second = out + (rows + r) * kPanelRows;
    if (a.weights.gated) {
      HOWDAH_UNROLL for (int v = 0; v < V; v++)
        put(pair * kPanelRows + v * W, silu(load(first + v * W)) * load(second + v * W));
    } else {
      HOWDAH_UNROLL for (int v = 0; v < V; v++) put(2 * pair * kPanelRows + v * W, load(first + v * W));
      if (panels == 2) HOWDAH_UNROLL for (int v = 0; v < V; v++) put((2 * pair + 1) * kPanelRows + v * W, load(second + v * W));
    }
  }
}

template <WeightFormat F>
static void run_pairs(const Work& k, int64_t first, int64_t last, int64_t row, int64_t end) {
  alignas(64) float out[2 * kTileRows * kPanelRows];
  const int64_t panels = k.args->weights.panels();
  for (int64_t pair = first; pair < last; pair++) {
    const int count = 2 * pair + 1 < panels ? 2 : 1;
    for (int64_t r = row; r < end; r += kTileRows) {
      const int rows = static_cast<int>(std::min<int64_t>(kTileRows, end - r));
      tiles<F, kTileRows>(k, 2 * pair, count, r, rows, out);
      finish(*k.args, pair, count, r, rows, out);
    }
  }
}

/** One row of x, normed and rounded. */
template <WeightFormat F>
static void prepare(const Work& k, int64_t row) {
  const QuantizedLinearArgs& a = *k.args;
  const int64_t n = a.weights.in;
  const float* x = a.x + row * n;
  vf factor = splat(1.0f);
  if (a.norm) {
    Chains squares = chains(0);
    for_vectors(n, [&](int64_t i, auto lanes, auto j) {
      const vf v = load_lanes(x + i, lanes);
      squares.lane[j] = fma(v, v, squares.lane[j]);
    });
    factor = splat(1.0f / std::sqrt(total(squares) / static_cast<float>(n) + a.epsilon));
  }
  auto value = [&](int64_t i) __attribute__((always_inline)) {
    const int64_t left = n - i;
    if (!a.norm) return left >= W ? load(x + i) : load_n(x + i, left);
    return left >= W ? load(x + i) * factor * load(a.norm + i) : load_n(x + i, left) * factor * load_n(a.norm + i, left);
  };
  std::byte* words = k.words + row * k.width * word_bytes<F>;
  if constexpr (F == WeightFormat::bf16) {
    Activation* to = reinterpret_cast<Activation*>(words);
    for (int64_t i = 0; i < n; i += W) {
      const int64_t left = k.width - i;
#if HOWDAH_BF16_DOT
      store_bf16_n(to + i, value(i), left);
#else
      store_n(to + i, bf16_to_f32(f32_to_bf16(value(i))), left);
#endif
    }
  } else {
    constexpr int64_t group = group_size(F);
    constexpr int32_t zero_point = 128;
    int8_t* to = reinterpret_cast<int8_t*>(words);
    for (int64_t g = 0; g < k.groups; g++) {
      vf v[group / W];
      vf most = zero();
      HOWDAH_UNROLL for (int i = 0; i < group / W; i++) {
        v[i] = value(g * group + i * W);
        most = max(most, abs(v[i]));
      }
      const float peak = reduce_max(most);
      const vf inverse = splat(peak == 0 ? 0.0f : 127.0f / peak);
      vi sum = vi{};
      HOWDAH_UNROLL for (int i = 0; i < group / W; i++) {
        const vi q = to_int(round_even(v[i] * inverse));
        sum += q;
        int8_t* p = to + g * group + i * W;
#if HOWDAH_AVX512
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8((__m512i)q));
#else
        for (int l = 0; l < W; l++) p[l] = static_cast<int8_t>(q[l]);
#endif
      }
      int32_t all = 0;
#if HOWDAH_AVX512
      all = _mm512_reduce_add_epi32((__m512i)sum);
#else
      for (int l = 0; l < W; l++) all += sum[l];
#endif
      k.scales[row * k.groups + g] = peak * (1.0f / 127.0f);
      k.starts[row * k.groups + g] = -zero_point * all;
    }
  }
}

/** Rows of x up to which a product waits for its weights. */
constexpr int64_t kFewRows = 4;

template <WeightFormat F>
static void linear_of(const QuantizedLinearArgs& a) {
  Work k;
  k.args = &a;
  k.groups = a.weights.groups();
  k.panel_bytes = a.weights.panel_bytes();
  k.width = k.groups * group_size(F);
  k.words = a.workspace;
  const int64_t words = (a.rows * k.width * (F == WeightFormat::bf16 ? 4 : 1) + 63) / 64 * 64;
  k.scales = reinterpret_cast<float*>(a.workspace + words);
  k.starts = reinterpret_cast<int32_t*>(k.scales + a.rows * k.groups);

  constexpr int64_t prepared = 8; // rows in a task
  if (a.rows <= prepared)
    for (int64_t r = 0; r < a.rows; r++) prepare<F>(k, r);
  else
    parallel_for((a.rows + prepared - 1) / prepared, [&](int64_t task, int) {
      for (int64_t r = task * prepared; r < std::min(a.rows, (task + 1) * prepared); r++) prepare<F>(k, r);
    });

  const int64_t pairs = (a.weights.panels() + 1) / 2;
  // Rows of x that stay in a core's cache; a task that reads its weights once is as short as waking a thread allows.
  const int64_t chunk = std::clamp<int64_t>((256 << 10) / std::max<int64_t>(1, k.width * word_bytes<F>) / kTileRows * kTileRows, 4 * kTileRows, 384);
  const int64_t row_chunks = (a.rows + chunk - 1) / chunk;
  const int64_t task_bytes = (64 << 10) / std::min<int64_t>(std::max<int64_t>(a.rows / 4, 1), 8);
  // With few rows the weights stream past once: each thread reads one long run of them.
  if (a.rows <= kFewRows) {
    const int64_t grain = std::clamp<int64_t>((16 << 10) / (2 * k.panel_bytes), 1, pairs);
    return parallel_runs(pairs, grain, [&](int64_t first, int64_t last) { run_pairs<F>(k, first, last, 0, a.rows); });
  }
  const int64_t per_task = std::clamp<int64_t>(task_bytes / (2 * k.panel_bytes), 1, pairs);
  const int64_t tasks = (pairs + per_task - 1) / per_task;
  parallel_for(row_chunks * tasks, [&](int64_t task, int) {
    const int64_t row = task / tasks * chunk, first = task % tasks * per_task;
    run_pairs<F>(k, first, std::min(pairs, first + per_task), row, std::min(a.rows, row + chunk));
  });
}

void linear(const QuantizedLinearArgs& a) {
  if (a.rows == 0 || a.weights.out == 0) return;
  switch (a.weights.format) {
    case WeightFormat::bf16: return linear_of<WeightFormat::bf16>(a);
    case WeightFormat::int8: return linear_of<WeightFormat::int8>(a);
    case WeightFormat::int4: return linear_of<WeightFormat::int4>(a);
  }
}

void embedding(const QuantizedEmbeddingArgs& a) {
  const PackedWeights& t = a.table;
  const int64_t groups = t.groups();
  parallel_rows(a.rows, t.in, [&](int64_t first, int64_t last) {
    for (int64_t n = first; n < last; n++) {
      const int64_t id = std::clamp<int64_t>(a.ids[n], 0, t.out - 1), panel = id / kPanelRows, lane = id % kPanelRows;
      const std::byte* packed = static_cast<const std::byte*>(t.packed) + panel * t.panel_bytes();
      float* y = a.y + n * t.in;
      if (t.format == WeightFormat::bf16) {
        const bf16_t* w = reinterpret_cast<const bf16_t*>(packed) + lane * 2;
        for (int64_t i = 0; i < t.in; i++) y[i] = bf16_to_f32(w[i / 2 * 32 + i % 2]);
        continue;
      }
      const uint8_t* w = reinterpret_cast<const uint8_t*>(packed) + lane * 4;
      const bf16_t* scales = t.scales + panel * groups * kPanelRows + lane;
      const int64_t group = group_size(t.format);
      for (int64_t i = 0; i < t.in; i++) {
        const float s = bf16_to_f32(scales[i / group * kPanelRows]);
        int q;
        if (t.format == WeightFormat::int8) q = w[i / 4 * 64 + i % 4] - 128;
        else {
          const uint8_t byte = w[i / 8 * 64 + i % 4];
          q = kInt4Levels[i % 8 < 4 ? byte & 15 : byte >> 4];
        }
        y[i] = static_cast<float>(q) * s;
      }
    }
  });
}

/** Stored bytes from 0 and the scale of one row's group, as `quantize` in src/tensor/ops/quantized.ts. */
template <WeightFormat F>
static bf16_t quantize(const float* w, uint8_t* stored) {
  constexpr int n = static_cast<int>(group_size(F));
  float high = w[0], low = w[0];
  for (int i = 1; i < n; i++) high = std::max(high, w[i]), low = std::min(low, w[i]);
  if constexpr (F == WeightFormat::int8) {
    const bf16_t rounded = f32_to_bf16(std::max(high, -low) * (1.0f / 127.0f));
    const float scale = bf16_to_f32(rounded);
    for (int i = 0; i < n; i++) {
      const float whole = scale == 0 ? 0.0f : std::nearbyint(w[i] / scale);
      stored[i] = static_cast<uint8_t>(static_cast<int>(std::clamp(whole, -127.0f, 127.0f)) + 128);
    }
    return rounded;
  } else {
    const float peak = high >= -low ? high : low;
    constexpr int vectors = n / W;
    vf x[vectors], u[vectors];
    HOWDAH_UNROLL for (int i = 0; i < vectors; i++) x[i] = load(w + i * W);
    const auto divide = [&](float start) __attribute__((always_inline)) {
      const vf by = splat(start == 0 ? 1.0f : start);
      HOWDAH_UNROLL for (int i = 0; i < vectors; i++) u[i] = start == 0 ? zero() : x[i] / by;
    };
    const auto border = [](int l) { return splat(static_cast<float>(kInt4Levels[l] + kInt4Levels[l - 1]) / 2); };
    float best_start = 0, best_error = 0;
    bf16_t best{};
    for (int r = 0; r < 13; r++) {
      const float start = peak * static_cast<float>(1.0 / static_cast<double>(kInt4Reach[r]));
      divide(start);
      vf codes[vectors];
      HOWDAH_UNROLL for (int i = 0; i < vectors; i++) codes[i] = splat(kInt4Levels[0]);
      for (int l = 1; l < 16; l++) {
        const vf at = border(l), step = splat(static_cast<float>(kInt4Levels[l] - kInt4Levels[l - 1]));
        HOWDAH_UNROLL for (int i = 0; i < vectors; i++) codes[i] = codes[i] + select(gt(u[i], at), step, zero());
      }
      vf product = zero(), square = zero(), wrong = zero();
      HOWDAH_UNROLL for (int i = 0; i < vectors; i++) product = product + x[i] * codes[i], square = square + codes[i] * codes[i];
      const float squares = reduce_add(square);
      const bf16_t rounded = f32_to_bf16(squares == 0 ? 0.0f : reduce_add(product) / squares);
      const vf scale = splat(bf16_to_f32(rounded));
      HOWDAH_UNROLL for (int i = 0; i < vectors; i++) {
        const vf d = codes[i] * scale - x[i];
        wrong = wrong + d * d;
      }
      const float error = reduce_add(wrong);
      if (r == 0 || error < best_error) best_start = start, best_error = error, best = rounded;
    }
    divide(best_start);
    vi number[vectors] = {};
    for (int l = 1; l < 16; l++) {
      const vf at = border(l);
      HOWDAH_UNROLL for (int i = 0; i < vectors; i++) number[i] = number[i] + select(gt(u[i], at), splat_i(1), splat_i(0));
    }
    int32_t numbers[n];
    HOWDAH_UNROLL for (int i = 0; i < vectors; i++) store(numbers + i * W, number[i]);
    for (int i = 0; i < n; i++) stored[i] = static_cast<uint8_t>(numbers[i]);
    return best;
  }
}

template <WeightFormat F>
static void pack_of(const PackWeightArgs& a) {
  const PackedWeights& t = a.weights;
  const int64_t groups = t.groups(), panels = t.panels();
  constexpr int64_t n = group_size(F);
  parallel_rows(panels, kPanelRows * t.in * 16, [&](int64_t first, int64_t last) {
    for (int64_t panel = first; panel < last; panel++)
      for (int64_t lane = 0; lane < kPanelRows; lane++) {
        const int64_t row = panel * kPanelRows + lane;
        std::byte* const to = static_cast<std::byte*>(a.packed) + panel * t.panel_bytes();
        for (int64_t g = 0; g < groups; g++) {
          float w[n];
          const int64_t here = row < t.out ? std::min(n, t.in - g * n) : 0;
          for (int64_t i = 0; i < n; i++) w[i] = i < here ? a.w[row * t.in + g * n + i] : 0.0f;
          if constexpr (F == WeightFormat::bf16) {
            bf16_t* pair = reinterpret_cast<bf16_t*>(to) + (g * kPanelRows + lane) * 2;
            pair[0] = f32_to_bf16(w[0]), pair[1] = f32_to_bf16(w[1]);
          } else {
            uint8_t stored[n];
            a.scales[(panel * groups + g) * kPanelRows + lane] = quantize<F>(w, stored);
            uint8_t* const bytes = reinterpret_cast<uint8_t*>(to) + g * (F == WeightFormat::int8 ? 1024 : 256) + lane * 4;
            for (int64_t i = 0; i < n; i += F == WeightFormat::int8 ? 4 : 8)
              for (int64_t j = 0; j < 4; j++) {
                if constexpr (F == WeightFormat::int8) bytes[i / 4 * 64 + j] = stored[i + j];
                else bytes[i / 8 * 64 + j] = static_cast<uint8_t>(stored[i + j] + stored[i + 4 + j] * 16);
              }
          }
        }
      }
  });
}

void pack(const PackWeightArgs& a) {
  switch (a.weights.format) {
    case WeightFormat::bf16: return pack_of<WeightFormat::bf16>(a);
    case WeightFormat::int8: return pack_of<WeightFormat::int8>(a);
    case WeightFormat::int4: return pack_of<WeightFormat::int4>(a);
  }
}

} // namespace

extern const QuantizedTable quantized_table;
const QuantizedTable quantized_table = {linear, embedding, pack};

} // namespace howdah::HOWDAH_ISA

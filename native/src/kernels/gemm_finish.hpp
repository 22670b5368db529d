// What happens to sums on their way into C: scale, accumulate, bias, activation, residual, rounding.
#pragma once

#include <utility>

#include "../gemm.hpp"
#include "../simd.hpp"
#include "../simd_math.hpp"

namespace howdah::HOWDAH_ISA {

/** activation(s), or with a gradient s * activation'(x). */
template <Activation activation, bool gradient>
HOWDAH_INLINE vf activate(vf s, [[maybe_unused]] vf x) {
  if constexpr (gradient) {
    if constexpr (activation == Activation::gelu_tanh) return gelu_tanh_grad(s, x);
    if constexpr (activation == Activation::gelu_erf) return gelu_grad(s, x);
    if constexpr (activation == Activation::silu) return silu_grad(s, x);
    if constexpr (activation == Activation::relu) return select(lt(zero(), x), s, zero());
  } else {
    if constexpr (activation == Activation::gelu_tanh) return gelu_tanh(s);
    if constexpr (activation == Activation::gelu_erf) return gelu(s);
    if constexpr (activation == Activation::silu) return silu(s);
    if constexpr (activation == Activation::relu) return select(lt(s, zero()), zero(), s); // NaN stays NaN
  }
  return s;
}

/** Where the sums of a k block stand: the first one takes beta * C with it, the last one the epilogue. */
struct Turn {
  bool first, last;
};

HOWDAH_INLINE vf load_typed(const void* p, Type type, int64_t at, int64_t n) {
  return type == Type::f32 ? load_n((const float*)p + at, n) : load_bf16_n((const bf16_t*)p + at, n);
}
HOWDAH_INLINE void store_typed(void* p, Type type, int64_t at, vf x, int64_t n) {
  if (type == Type::f32) store_n((float*)p + at, x, n);
  else store_bf16_n((bf16_t*)p + at, x, n);
}

/** Vectors that go through the stages together, so that one branch decides for several. */
constexpr int finish_vectors = 2;

/** One row's `n` sums, at most finish_vectors vectors. `full` promises that all of them are there. */
template <Activation activation, bool gradient, bool full>
HOWDAH_INLINE void finish_part(const GemmArgs& g, int64_t i, int64_t j, int64_t n, const float* sums, float* partial, Turn turn, float* total) {
  const GemmEpilogue& e = g.epilogue;
  const int64_t at = i * g.ldc + j;
  vf s[finish_vectors];
  // Lanes in use of vector v; a constant when all are there.
#define HOWDAH_FINISH_EACH HOWDAH_UNROLL for (int v = 0; v < finish_vectors; v++)
  const auto lanes = [&](int v) { return full ? (int64_t)W : n - v * W; };
  HOWDAH_FINISH_EACH s[v] = load_n(sums + v * W, lanes(v));
  if (g.alpha != 1) HOWDAH_FINISH_EACH s[v] = splat(g.alpha) * s[v];
  if (!turn.first) HOWDAH_FINISH_EACH s[v] = s[v] + load_n(partial + v * W, lanes(v));
  else if (g.beta != 0) HOWDAH_FINISH_EACH s[v] = s[v] + load_typed(g.c, g.tc, at + v * W, lanes(v));
  if (!turn.last) {
    HOWDAH_FINISH_EACH store_n(partial + v * W, s[v], lanes(v));
    return;
  }
  if (e.bias) HOWDAH_FINISH_EACH s[v] = s[v] + load_n(e.bias + j + v * W, lanes(v));
  if constexpr (gradient) {
    HOWDAH_FINISH_EACH s[v] = activate<activation, true>(s[v], load_typed(e.gradient_at, e.gradient_type, at + v * W, lanes(v)));
  } else {
    if (e.pre_activation) HOWDAH_FINISH_EACH store_typed(e.pre_activation, e.pre_type, at + v * W, s[v], lanes(v));
    // The activation is that of the value which is kept, so that computing it again gives the same.
    if (e.pre_activation && e.pre_type == Type::bf16) HOWDAH_FINISH_EACH s[v] = bf16_to_f32(f32_to_bf16(s[v]));
    HOWDAH_FINISH_EACH s[v] = activate<activation, false>(s[v], s[v]);
  }
  if (e.residual) HOWDAH_FINISH_EACH s[v] = s[v] + load_n(e.residual + i * e.ldr + j + v * W, lanes(v));
  if (total) HOWDAH_FINISH_EACH store_n(total + v * W, load_n(total + v * W, lanes(v)) + s[v], lanes(v));
  HOWDAH_FINISH_EACH store_typed(g.c, g.tc, at + v * W, s[v], lanes(v));
#undef HOWDAH_FINISH_EACH
}

template <Activation activation, bool gradient>
static __attribute__((noinline)) void finish_rows_of(const GemmArgs& g, int64_t i, int rows, int64_t j, int64_t n, const float* sums,
                                                     int64_t ld, float* partial, int64_t partial_ld, Turn turn, float* totals) {
  constexpr int64_t step = finish_vectors * W;
  for (int r = 0; r < rows; r++) {
    const float* s = sums + r * ld;
    float* p = partial ? partial + r * partial_ld : nullptr;
    int64_t x = 0;
    const auto part = [&](auto full, int64_t count) {
      finish_part<activation, gradient, full()>(g, i + r, j + x, count, s + x, p ? p + x : p, turn, totals ? totals + x : totals);
    };
    for (; x + step <= n; x += step) part(std::true_type{}, step);
    for (; x < n; x += step) part(std::false_type{}, n - x);
  }
}

/**
 * Adds `n` products of `rows` rows from row i, column j on to what is there. `sums` holds A B of this block of k; `partial` is where
 * the sums of the blocks before lie and those of all but the last go (ignored when the turn is first and last). `totals`, if there is one,
 * grows by the finished values of each column.
 */
static void finish_rows(const GemmArgs& g, int64_t i, int rows, int64_t j, int64_t n, const float* sums, int64_t ld, float* partial,
                        int64_t partial_ld, Turn turn, float* totals = nullptr) {
  const bool gradient = g.epilogue.gradient_at != nullptr;
  const auto run = [&](auto kind) {
    if (gradient) finish_rows_of<kind(), true>(g, i, rows, j, n, sums, ld, partial, partial_ld, turn, totals);
    else finish_rows_of<kind(), false>(g, i, rows, j, n, sums, ld, partial, partial_ld, turn, totals);
  };
  switch (turn.last ? g.epilogue.activation : Activation::none) {
    case Activation::none: return finish_rows_of<Activation::none, false>(g, i, rows, j, n, sums, ld, partial, partial_ld, turn, totals);
    case Activation::gelu_tanh: return run(std::integral_constant<Activation, Activation::gelu_tanh>{});
    case Activation::gelu_erf: return run(std::integral_constant<Activation, Activation::gelu_erf>{});
    case Activation::silu: return run(std::integral_constant<Activation, Activation::silu>{});
    case Activation::relu: return run(std::integral_constant<Activation, Activation::relu>{});
  }
}

// ---- Whole tiles of a product that has a single block of k: every choice is made before the loop ----

/** Finishes `rows` rows of V whole vectors from row i, column j; `sums` lies V * W apart. `totals` as in finish_rows. */
using FinishWhole = void (*)(const GemmArgs& g, int64_t i, int rows, int64_t j, const float* sums, float* totals);

enum FinishPart { finish_bias = 1, finish_pre = 2, finish_residual = 4, finish_rounds = 8, finish_gradient = 16, finish_totals = 32 };

/** `parts`: what there is to do, a sum of FinishPart. The value before an activation, and what it is needed for, are bf16 here. */
template <int V, Activation activation, int parts>
static __attribute__((noinline)) void finish_whole(const GemmArgs& g, int64_t i, int rows, int64_t j, const float* sums,
                                                   [[maybe_unused]] float* totals) {
  const GemmEpilogue& e = g.epilogue;
  vf bias[V];
  [[maybe_unused]] vf total[V];
  if constexpr (parts & finish_totals) HOWDAH_UNROLL for (int v = 0; v < V; v++) total[v] = load(totals + v * W);
  if constexpr (parts & finish_bias) HOWDAH_UNROLL for (int v = 0; v < V; v++) bias[v] = load(e.bias + j + v * W);
  for (int r = 0; r < rows; r++, sums += V * W) {
    const int64_t at = (i + r) * g.ldc + j;
    HOWDAH_UNROLL for (int v = 0; v < V; v++) {
      vf s = load(sums + v * W);
      if constexpr (parts & finish_bias) s = s + bias[v];
      if constexpr (parts & finish_gradient) {
        s = activate<activation, true>(s, load_bf16((const bf16_t*)e.gradient_at + at + v * W));
      } else {
        if constexpr (parts & finish_pre) {
          store_bf16((bf16_t*)e.pre_activation + at + v * W, s);
          s = bf16_to_f32(f32_to_bf16(s));
        }
        s = activate<activation, false>(s, s);
      }
      if constexpr (parts & finish_residual) s = s + load(e.residual + (i + r) * e.ldr + j + v * W);
      if constexpr (parts & finish_totals) total[v] = total[v] + s;
      if constexpr (parts & finish_rounds) store_bf16((bf16_t*)g.c + at + v * W, s);
      else store((float*)g.c + at + v * W, s);
    }
  }
  if constexpr (parts & finish_totals) HOWDAH_UNROLL for (int v = 0; v < V; v++) store(totals + v * W, total[v]);
}

template <int V, Activation activation, int... parts>
FinishWhole find_finish(int wanted, std::integer_sequence<int, parts...>) {
  FinishWhole found = nullptr;
  ((parts == wanted ? void(found = finish_whole<V, activation, parts>) : void()), ...);
  return found;
}

/** The function for a product's epilogue, or null: then finish_rows does it. */
template <int V>
FinishWhole finish_whole_of(const GemmArgs& g) {
  const GemmEpilogue& e = g.epilogue;
  if (g.alpha != 1 || g.beta != 0) return nullptr;
  if ((e.pre_activation && e.pre_type != Type::bf16) || (e.gradient_at && e.gradient_type != Type::bf16)) return nullptr;
  const int parts = (e.bias ? finish_bias : 0) | (e.pre_activation ? finish_pre : 0) | (e.residual ? finish_residual : 0) |
                    (g.tc == Type::bf16 ? finish_rounds : 0) | (e.gradient_at ? finish_gradient : 0) | (e.result_sums ? finish_totals : 0);
  using Plain = std::integer_sequence<int, 0, 1, 4, 5, 8, 9, 12, 13>;
  using Active = std::integer_sequence<int, 0, 1, 2, 3, 8, 9, 10, 11, 16, 24, 48, 56>;
  switch (e.activation) {
    case Activation::none: return find_finish<V, Activation::none>(parts, Plain{});
    case Activation::gelu_tanh: return find_finish<V, Activation::gelu_tanh>(parts, Active{});
    case Activation::gelu_erf: return find_finish<V, Activation::gelu_erf>(parts, Active{});
    case Activation::silu: return find_finish<V, Activation::silu>(parts, Active{});
    case Activation::relu: return find_finish<V, Activation::relu>(parts, Active{});
  }
  return nullptr;
}

/** One row of it. */
static void finish_row(const GemmArgs& g, int64_t i, int64_t j, int64_t n, const float* sums, float* partial, Turn turn) {
  finish_rows(g, i, 1, j, n, sums, n, partial, 0, turn);
}

} // namespace howdah::HOWDAH_ISA

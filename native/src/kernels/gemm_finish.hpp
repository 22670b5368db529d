// What happens to sums on their way into C: scale, accumulate, bias, activation, residual, rounding.
#pragma once

#include "../gemm.hpp"
#include "../simd.hpp"
#include "../simd_math.hpp"

namespace howdah::HOWDAH_ISA {

HOWDAH_INLINE vf activate(Activation activation, vf x) {
  switch (activation) {
    case Activation::none: return x;
    case Activation::gelu_tanh: return gelu_tanh(x);
    case Activation::gelu_erf: return gelu(x);
    case Activation::silu: return silu(x);
    case Activation::relu: return select(lt(x, zero()), zero(), x); // NaN stays NaN
  }
  return x;
}

/** Where the sums of a k block stand: the first one takes beta * C with it, the last one the epilogue. */
struct Turn {
  bool first, last;
};

/**
 * Adds `n` products of row i from column j on to what is there. `sums` holds A B of this block of k; `partial` is where
 * the sums of the blocks before lie and those of all but the last go (ignored when the turn is first and last).
 */
static void finish_row(const GemmArgs& g, int64_t i, int64_t j, int64_t n, const float* sums, float* partial, Turn turn) {
  const GemmEpilogue& e = g.epilogue;
  const int64_t at = i * g.ldc + j;
  const vf alpha = splat(g.alpha);
  float* cf = (float*)g.c + at;
  bf16_t* ch = (bf16_t*)g.c + at;
  for (int64_t x = 0; x < n; x += W) {
    const int64_t left = n - x;
    vf s = alpha * load_n(sums + x, left);
    if (!turn.first) s = s + load_n(partial + x, left);
    else if (g.beta != 0) s = s + (g.tc == Type::f32 ? load_n(cf + x, left) : load_bf16_n(ch + x, left));
    if (!turn.last) {
      store_n(partial + x, s, left);
      continue;
    }
    if (e.bias) s = s + load_n(e.bias + j + x, left);
    if (e.pre_activation) store_n(e.pre_activation + at + x, s, left);
    s = activate(e.activation, s);
    if (e.residual) s = s + load_n(e.residual + i * e.ldr + j + x, left);
    if (g.tc == Type::f32) store_n(cf + x, s, left);
    else store_bf16_n(ch + x, s, left);
  }
}

} // namespace howdah::HOWDAH_ISA

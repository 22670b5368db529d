// Elementary functions on vectors of f32. Included by kernel files only, inside no namespace.
//
// The polynomials were fitted for these intervals (least maximum error by iteratively reweighted least squares on
// Chebyshev nodes); native/test/nn_test.cpp measures every function against double precision and holds the bounds below.
// Largest errors, in units in the last place of the result (measured):
//   exp 1.4, exp2 1.5, expm1 1.4, log 0.8, log1p 0.9, tanh 2.5, erf 2.1, sine and cosine 1.6, logistic 3.
#pragma once

#include "simd.hpp"

namespace howdah::HOWDAH_ISA {

/** Sums of words that wrap around, as garbage lanes (of NaN, say) may. */
HOWDAH_INLINE vi add_words(vi a, vi b) { return (vi)((vu)a + (vu)b); }
HOWDAH_INLINE vi subtract_words(vi a, vi b) { return (vi)((vu)a - (vu)b); }

/** A polynomial by Horner's rule, lowest coefficient first. */
template <int N>
HOWDAH_INLINE vf polynomial(vf x, const float (&c)[N]) {
  vf sum = splat(c[N - 1]);
HOWDAH_UNROLL
  for (int i = N - 2; i >= 0; i--) sum = fma(sum, x, splat(c[i]));
  return sum;
}

constexpr float kLog2e = 1.44269504088896341f;
// ln 2 in two parts; the first has few bits, so that n * kLn2High is exact.
constexpr float kLn2High = 0.693359375f;
constexpr float kLn2Low = -2.12194440e-4f;
// Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits of the word.
constexpr float kRound = 12582912.0f;

constexpr float kExpTail[] = {0.49999999f, 0.166665181f, 0.0416684225f, 0.00836906303f, 0.00138138805f};
constexpr float kExpm1Tail[] = {0.5f, 0.16666666f, 0.041666355f, 0.0083333906f, 0.0013941133f, 0.00019845918f};

/** exp(x) for x <= 88.3 (not checked above); 0 below -87.3, where the result would be denormal. NaN gives NaN. */
HOWDAH_INLINE vf exp_bounded(vf x) {
  const vf rounded = fma(x, splat(kLog2e), splat(kRound));
  const vf n = rounded - splat(kRound);
  vf r = fma(n, splat(-kLn2High), x);
  r = fma(n, splat(-kLn2Low), r);
  const vf p = fma(r * r, polynomial(r, kExpTail), r + splat(1.0f));
  const vi power = add_words(bits(rounded) << 23, splat_i(0x3f800000));
  return select(lt(x, splat(-87.3f)), splat(0.0f), p * from_bits(power));
}

// (2^r - 1) / r for |r| <= 1/2.
constexpr float kExp2Tail[] = {0.693147004f, 0.240222424f, 0.0555073358f, 0.00967151299f, 0.00132647261f};

/** 2^x for x <= 127 (not checked above); 0 where that would be denormal, and for -inf. Largest error 1.5 units in the last place. */
HOWDAH_INLINE vf exp2_bounded(vf x) {
#if HOWDAH_AVX512
  const vf r = (vf)_mm512_reduce_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); // 0 for -inf
  const vf n = x - r;
  return (vf)_mm512_scalef_ps((__m512)fma(polynomial(r, kExp2Tail), r, splat(1.0f)), (__m512)n);
#else
  const vf rounded = x + splat(kRound);
  const vf r = x - (rounded - splat(kRound));
  const vf p = fma(polynomial(r, kExp2Tail), r, splat(1.0f));
  const vi power = add_words(bits(rounded) << 23, splat_i(0x3f800000));
  return select(lt(x, splat(-126.0f)), zero(), p * from_bits(power));
#endif
}

/** 2^-x, at most 2^126: beyond it 1 / (1 + it) is 0 for every purpose, and products with it stay finite. NaN stays NaN. */
HOWDAH_INLINE vf exp2_negated(vf x) { return exp2_bounded(min(splat(126.0f), -x)); }

/** exp(x) for any x. */
HOWDAH_INLINE vf exp(vf x) {
  const vf clamped = min(max(x, splat(-104.0f)), splat(89.0f));
  const vf rounded = fma(clamped, splat(kLog2e), splat(kRound));
  const vf n = rounded - splat(kRound);
  vf r = fma(n, splat(-kLn2High), clamped);
  r = fma(n, splat(-kLn2Low), r);
  const vf p = fma(r * r, polynomial(r, kExpTail), r + splat(1.0f));
  // Two factors: 2^n alone may lie outside the range of a float.
  const vi word = bits(rounded) - splat_i(0x4b400000);
  const vi half = word >> 1;
  const vf low = from_bits((half + splat_i(127)) << 23);
  const vf high = from_bits((word - half + splat_i(127)) << 23);
  return select(eq(x, x), p * low * high, x);
}

/** exp(x) - 1 without cancellation. */
HOWDAH_INLINE vf expm1(vf x) {
  const vf clamped = min(max(x, splat(-40.0f)), splat(89.0f));
  const vf rounded = fma(clamped, splat(kLog2e), splat(kRound));
  const vf n = rounded - splat(kRound);
  vf r = fma(n, splat(-kLn2High), clamped);
  r = fma(n, splat(-kLn2Low), r);
  const vf p = fma(r * r, polynomial(r, kExpm1Tail), r); // expm1(r)
  // 2^n p + 2^n - 1 with t = 2^(n-1), doubled at the end so that n = 128 stays in range.
  const vf t = from_bits((bits(rounded) - splat_i(0x4b400000) + splat_i(126)) << 23);
  const vf result = fma(t, p, t - splat(0.5f)) * splat(2.0f);
  // Tiny arguments keep their own value (and the sign of zero).
  return select(eq(n, splat(0.0f)), select(eq(x, splat(0.0f)), x, p), select(eq(x, x), result, x));
}

constexpr float kLogTail[] = {0.333333135f, -0.25000009f,  0.200021341f,  -0.166680068f, 0.142192245f,
                              -0.124051355f, 0.118903242f, -0.116796531f, 0.0674659684f};

/** Splits x into 2^exponent * (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)); x positive, finite and normal. */
HOWDAH_INLINE vf split_exponent(vf x, vf& exponent) {
  const vi word = subtract_words(bits(x), splat_i(0x3f3504f3)); // the word of sqrt(1/2)
  exponent = to_float(word >> 23);
  const vi mantissa = (word & splat_i(0x007fffff)) + splat_i(0x3f3504f3);
  return from_bits(mantissa) - splat(1.0f);
}

/** log(1 + f) + exponent * ln 2 + correction. */
HOWDAH_INLINE vf log_sum(vf f, vf exponent, vf correction) {
  const vf f2 = f * f;
  vf tail = fma(polynomial(f, kLogTail), f * f2, correction);
  tail = fma(exponent, splat(kLn2Low), tail);
  tail = fma(f2, splat(-0.5f), tail);
  return fma(exponent, splat(kLn2High), f + tail);
}

/** Results of log at the ends of its domain: -inf at 0, NaN below, inf at inf. */
HOWDAH_INLINE vf log_edges(vf x, vf result) {
  result = select(eq(x, splat(0.0f)), splat(-__builtin_inff()), result);
  result = select(lt(x, splat(0.0f)), splat(__builtin_nanf("")), result);
  return select(lt(x, splat(__builtin_inff())), result, x);
}

HOWDAH_INLINE vf log(vf x) {
  const vm tiny = lt(x, splat(1.17549435e-38f)); // denormals, where the processor keeps them
  const vf scaled = select(tiny, x * splat(8388608.0f), x);
  vf exponent;
  const vf f = split_exponent(scaled, exponent);
  exponent = exponent + select(tiny, splat(-23.0f), splat(0.0f));
  return log_edges(x, log_sum(f, exponent, splat(0.0f)));
}

/** log(1 + x). */
HOWDAH_INLINE vf log1p(vf x) {
  const vf u = x + splat(1.0f);
  vf exponent;
  const vf f = split_exponent(u, exponent);
  const vf lost = (x - (u - splat(1.0f))) / u; // what rounding 1 + x dropped
  const vf result = log_edges(u, log_sum(f, exponent, lost));
  // For |x| < 2^-12, x - x^2/2 has the full precision.
  return select(lt(abs(x), splat(2.44140625e-4f)), fma(x * splat(-0.5f), x, x), select(lt(u, splat(__builtin_inff())), result, u));
}

HOWDAH_INLINE vf tanh(vf x) {
  const vf t = expm1(abs(x) * splat(-2.0f));
  return copysign(-t / (t + splat(2.0f)), x);
}

/** 1 / (1 + exp(-x)). */
HOWDAH_INLINE vf logistic(vf x) { return splat(1.0f) / (splat(1.0f) + exp(-x)); }

// erf(x)/x - 1 in powers of x^2 for |x| < 1.
constexpr float kErfNear[] = {0.128379226f, -0.376126379f, 0.112837821f, -0.0268654004f, 0.00522094546f, -0.000848282885f, 0.000112569491f, -9.64151968e-6f};
// -log(erfc(a)) for a in [0.98, 4].
constexpr float kErfFar[] = {-0.000188468621f, 1.12958026f, 0.633216381f, 0.108422108f, -0.0252103433f, 0.00420528604f, -0.000441472861f, 2.16976296e-5f};

HOWDAH_INLINE vf erf(vf x) {
  const vf a = min(abs(x), splat(4.0f));
  const vf near = fma(x, polynomial(x * x, kErfNear), x);
  const vf far = splat(1.0f) - exp_bounded(-polynomial(a, kErfFar));
  const vf result = select(lt(a, splat(1.0f)), near, copysign(far, x));
  return select(eq(x, x), result, x);
}

constexpr float kSineTail[] = {-0.166666672f, 0.00833332911f, -0.000198392969f, 2.71797126e-6f};
constexpr float kCosineTail[] = {0.0416666679f, -0.00138888834f, 2.47994431e-5f, -2.72043366e-7f};
// pi/2 in parts for the reduction, and the largest argument it is good for; beyond, the C library's functions are taken.
#if HOWDAH_AVX512 || HOWDAH_AVX2 || HOWDAH_NEON
constexpr float kHalfPi[] = {1.57079625f, 7.54978942e-8f, 5.39030253e-15f};
constexpr float kTrigonometricLimit = 1e5f;
#else
// Without fused multiply-adds a part times the quadrant must be exact: parts of 11 bits, quadrants of 13.
constexpr float kHalfPi[] = {1.5703125f, 0.000483751297f, 7.54953362e-08f, 2.56334415e-12f};
constexpr float kTrigonometricLimit = 1e4f;
#endif

/** sin(x + quarter * pi/2). */
HOWDAH_INLINE vf sine_quarter(vf x, int quarter) {
  if (!all(le(abs(x), splat(kTrigonometricLimit)))) [[unlikely]] {
    float lane[W];
    store(lane, x);
    for (float& value : lane) value = quarter ? __builtin_cosf(value) : __builtin_sinf(value);
    return load(lane);
  }
  const vf rounded = fma(x, splat(0.636619772f), splat(kRound));
  const vf n = rounded - splat(kRound);
  vf r = x;
  for (float part : kHalfPi) r = fma(n, splat(-part), r);
  const vi quadrant = bits(rounded) + splat_i(quarter);
  const vf z = r * r;
  const vf sine = select(eq(x, zero()), x, fma(r * z, polynomial(z, kSineTail), r)); // keeps -0
  const vf cosine = fma(z * z, polynomial(z, kCosineTail), fma(z, splat(-0.5f), splat(1.0f)));
  const vf picked = select(eq(quadrant & splat_i(1), splat_i(0)), sine, cosine);
  return from_bits(bits(picked) ^ ((quadrant & splat_i(2)) << 30));
}
HOWDAH_INLINE vf sine(vf x) { return sine_quarter(x, 0); }
HOWDAH_INLINE vf cosine(vf x) { return sine_quarter(x, 1); }

// ---------------------------------------------------------------------------------------------------------------------
// Activations and their derivatives

constexpr float kGeluTanhScale = 0.797884560802865f; // sqrt(2 / pi)
constexpr float kGeluTanhCubic = 0.044715f;
constexpr float kInverseSqrtTwoPi = 0.398942280401433f;

// The bounds below keep squares and products of huge arguments finite; beyond them the results have long become x, 1 or 0.
// The order of min and max operands lets NaN through.

// 2u log2(e) of gelu_tanh in powers of x: 0.5 (1 + tanh u) = 1 / (1 + exp(-2u)) = 1 / (1 + 2^-v).
constexpr float kGeluTanhLinear = 2 * kGeluTanhScale * kLog2e, kGeluTanhThird = kGeluTanhLinear * kGeluTanhCubic;

HOWDAH_INLINE vf gelu_tanh(vf x) {
  x = max(splat(-100.0f), x);
  const vf v = x * fma(x * x, splat(kGeluTanhThird), splat(kGeluTanhLinear));
  return x / (splat(1.0f) + exp2_negated(v));
}

HOWDAH_INLINE vf gelu_tanh_grad(vf dy, vf x) {
  x = max(splat(-30.0f), min(splat(30.0f), x));
  const vf square = x * x;
  const vf v = x * fma(square, splat(kGeluTanhThird), splat(kGeluTanhLinear));
  const vf slope = fma(square, splat(6 * kGeluTanhScale * kGeluTanhCubic), splat(2 * kGeluTanhScale)); // d(2u)/dx
  const vf e = exp2_negated(v);
  const vf s = splat(1.0f) / (splat(1.0f) + e);
  const vf complement = e * s; // 1 - s
  return dy * s * fma(x * slope, complement, splat(1.0f));
}

// (1 - Phi(a))^(1/8) for a in [0, 6]: a root falls slowly enough for a short polynomial, and squaring it three times keeps the tail's own precision.
constexpr float kTailRoot[] = {0.917004049f,    -0.0914574564f,  -0.0319286771f,  -0.000669820292f, 0.00150154706f,
                               3.61364037e-05f, -6.0894643e-05f, 7.59082832e-06f, -3.03591833e-07f};
/** From here on gelu takes the tail for 0; it is 1e-9. */
constexpr float kTailEnd = 6.0f;

/** 1 - Phi(a), the normal distribution's tail, for a in [0, kTailEnd]; relative error 7e-7 at 0, 1e-5 at 4, 1e-3 at 5. */
HOWDAH_INLINE vf normal_tail(vf a) {
  vf tail = polynomial(a, kTailRoot);
  tail = tail * tail;
  tail = tail * tail;
  return tail * tail;
}

/** x Phi(x) = max(x, 0) - |x| (1 - Phi(|x|)). Largest error 1.6e-7 max(1, |x|). */
HOWDAH_INLINE vf gelu(vf x) {
  const vf a = abs(x);
  return max(zero(), x) - select(lt(a, splat(kTailEnd)), a * normal_tail(a), zero());
}

HOWDAH_INLINE vf gelu_grad(vf dy, vf x) {
  const vf a = abs(x), tail = select(lt(a, splat(kTailEnd)), normal_tail(a), zero());
  const vf distribution = select(lt(x, zero()), tail, splat(1.0f) - tail);
  const vf density = exp(x * x * splat(-0.5f)) * splat(kInverseSqrtTwoPi);
  return dy * fma(x, density, distribution);
}

HOWDAH_INLINE vf silu(vf x) {
  x = max(splat(-100.0f), x);
  return x / (splat(1.0f) + exp2_negated(x * splat(kLog2e)));
}

HOWDAH_INLINE vf silu_grad(vf dy, vf x) {
  x = max(splat(-87.0f), min(splat(87.0f), x));
  const vf e = exp2_negated(x * splat(kLog2e));
  const vf s = splat(1.0f) / (splat(1.0f) + e);
  return dy * s * fma(x, e * s, splat(1.0f));
}

} // namespace howdah::HOWDAH_ISA

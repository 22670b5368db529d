// A thin vector type over the instruction set that a kernel file is compiled for. Include it only from src/kernels/*.cpp,
// which CMake compiles once per instruction set with HOWDAH_ISA set to its name.
//
//   vf  W lanes of f32      vi  W lanes of i32      vm  W lanes of true or false (what comparisons give)
//
// vf and vi are the compiler's vector types, so + - * / and, for vi, & | ^ ~ << work as written (>> on vi keeps the sign;
// + - * wrap around, since kernels are compiled with -fwrapv).
// Function names are the same for both where the meaning is. Suffix _n: only the first n lanes, 0 <= n; lanes beyond
// are zero when loaded and untouched when stored; n >= W means all.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#ifndef HOWDAH_ISA
#error "simd.hpp is for kernel files, which are compiled with HOWDAH_ISA"
#endif

#define HOWDAH_INLINE static inline __attribute__((always_inline))
/** Before a loop with a constant number of turns: unroll it, so that an array it indexes can live in registers. */
#if defined(__SANITIZE_ADDRESS__)
#define HOWDAH_UNROLL _Pragma("GCC unroll 1") // or the checks at every address make the compiler take minutes
#elif defined(__clang__)
#define HOWDAH_UNROLL _Pragma("clang loop unroll(full)")
#else
#define HOWDAH_UNROLL _Pragma("GCC unroll 32")
#endif

// Which set of intrinsics to write for. `portable` uses the compiler's vector types alone.
#if defined(HOWDAH_ISA_avx512) || defined(HOWDAH_ISA_avx512bf16)
#define HOWDAH_AVX512 1
#elif defined(HOWDAH_ISA_avx2)
#define HOWDAH_AVX2 1
#elif defined(HOWDAH_ISA_neon)
#define HOWDAH_NEON 1
#endif
#ifdef HOWDAH_ISA_avx512bf16
#define HOWDAH_BF16_DOT 1
#endif

namespace howdah::HOWDAH_ISA {

#if HOWDAH_AVX512
constexpr int W = 16;
#elif HOWDAH_AVX2
constexpr int W = 8;
#else
constexpr int W = 4;
#endif

typedef float vf __attribute__((vector_size(W * 4)));
typedef int32_t vi __attribute__((vector_size(W * 4)));
typedef uint32_t vu __attribute__((vector_size(W * 4)));
#if HOWDAH_AVX512
typedef __mmask16 vm;
#else
typedef vi vm; // all ones or all zeros per lane
#endif

typedef uint16_t bf16_t; // the upper half of an f32
typedef uint16_t f16_t;  // IEEE half

// ---- Constants and reinterpretation ----

HOWDAH_INLINE vf splat(float x) { return x - vf{}; }
HOWDAH_INLINE vi splat_i(int32_t x) { return x - vi{}; }
HOWDAH_INLINE vf zero() { return vf{}; }
HOWDAH_INLINE vi bits(vf x) { return (vi)x; }
HOWDAH_INLINE vf from_bits(vi x) { return (vf)x; }
/** 0, 1, 2, ... */
HOWDAH_INLINE vi iota() {
  vi r;
  for (int i = 0; i < W; i++) r[i] = i;
  return r;
}

// ---- Masks ----

#if HOWDAH_AVX512
HOWDAH_INLINE vm first_n(int64_t n) { return n >= W ? (vm)0xffff : n <= 0 ? (vm)0 : (vm)((1u << n) - 1); }
HOWDAH_INLINE vm lt(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
HOWDAH_INLINE vm le(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ); }
HOWDAH_INLINE vm gt(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
HOWDAH_INLINE vm ge(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
HOWDAH_INLINE vm eq(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
HOWDAH_INLINE vm ne(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_NEQ_UQ); }
HOWDAH_INLINE vm lt(vi a, vi b) { return _mm512_cmp_epi32_mask((__m512i)a, (__m512i)b, _MM_CMPINT_LT); }
HOWDAH_INLINE vm le(vi a, vi b) { return _mm512_cmp_epi32_mask((__m512i)a, (__m512i)b, _MM_CMPINT_LE); }
HOWDAH_INLINE vm gt(vi a, vi b) { return _mm512_cmp_epi32_mask((__m512i)a, (__m512i)b, _MM_CMPINT_NLE); }
HOWDAH_INLINE vm ge(vi a, vi b) { return _mm512_cmp_epi32_mask((__m512i)a, (__m512i)b, _MM_CMPINT_NLT); }
HOWDAH_INLINE vm eq(vi a, vi b) { return _mm512_cmp_epi32_mask((__m512i)a, (__m512i)b, _MM_CMPINT_EQ); }
HOWDAH_INLINE vm ne(vi a, vi b) { return _mm512_cmp_epi32_mask((__m512i)a, (__m512i)b, _MM_CMPINT_NE); }
HOWDAH_INLINE vm mask_and(vm a, vm b) { return (vm)(a & b); }
HOWDAH_INLINE vm mask_or(vm a, vm b) { return (vm)(a | b); }
HOWDAH_INLINE vm mask_not(vm a) { return (vm)~a; }
HOWDAH_INLINE bool any(vm a) { return a != 0; }
HOWDAH_INLINE bool all(vm a) { return a == (vm)0xffff; }
/** Lane i of the mask is bit i. */
HOWDAH_INLINE uint32_t mask_bits(vm a) { return a; }
/** Per lane: m ? a : b. */
HOWDAH_INLINE vf select(vm m, vf a, vf b) { return _mm512_mask_blend_ps(m, b, a); }
HOWDAH_INLINE vi select(vm m, vi a, vi b) { return (vi)_mm512_mask_blend_epi32(m, (__m512i)b, (__m512i)a); }
#else
HOWDAH_INLINE vm first_n(int64_t n) { return iota() < splat_i((int32_t)(n > W ? W : n)); }
HOWDAH_INLINE vm lt(vf a, vf b) { return a < b; }
HOWDAH_INLINE vm le(vf a, vf b) { return a <= b; }
HOWDAH_INLINE vm gt(vf a, vf b) { return a > b; }
HOWDAH_INLINE vm ge(vf a, vf b) { return a >= b; }
HOWDAH_INLINE vm eq(vf a, vf b) { return a == b; }
HOWDAH_INLINE vm ne(vf a, vf b) { return a != b; }
HOWDAH_INLINE vm lt(vi a, vi b) { return a < b; }
HOWDAH_INLINE vm le(vi a, vi b) { return a <= b; }
HOWDAH_INLINE vm gt(vi a, vi b) { return a > b; }
HOWDAH_INLINE vm ge(vi a, vi b) { return a >= b; }
HOWDAH_INLINE vm eq(vi a, vi b) { return a == b; }
HOWDAH_INLINE vm ne(vi a, vi b) { return a != b; }
HOWDAH_INLINE vm mask_and(vm a, vm b) { return a & b; }
HOWDAH_INLINE vm mask_or(vm a, vm b) { return a | b; }
HOWDAH_INLINE vm mask_not(vm a) { return ~a; }
HOWDAH_INLINE uint32_t mask_bits(vm a) {
#if HOWDAH_AVX2
  return (uint32_t)_mm256_movemask_ps((__m256)a);
#else
  uint32_t r = 0;
  for (int i = 0; i < W; i++) r |= (a[i] & 1u) << i;
  return r;
#endif
}
HOWDAH_INLINE bool any(vm a) { return mask_bits(a) != 0; }
HOWDAH_INLINE bool all(vm a) { return mask_bits(a) == (1u << W) - 1; }
HOWDAH_INLINE vi select(vm m, vi a, vi b) { return (a & m) | (b & ~m); }
HOWDAH_INLINE vf select(vm m, vf a, vf b) { return (vf)select(m, (vi)a, (vi)b); }
#endif

// ---- Memory: no alignment needed ----

HOWDAH_INLINE vf load(const float* p) {
  vf r;
  std::memcpy(&r, p, sizeof r);
  return r;
}
HOWDAH_INLINE vi load(const int32_t* p) {
  vi r;
  std::memcpy(&r, p, sizeof r);
  return r;
}
HOWDAH_INLINE void store(float* p, vf x) { std::memcpy(p, &x, sizeof x); }
HOWDAH_INLINE void store(int32_t* p, vi x) { std::memcpy(p, &x, sizeof x); }
#if HOWDAH_AVX512
HOWDAH_INLINE vf load_n(const float* p, int64_t n) { return _mm512_maskz_loadu_ps(first_n(n), p); }
HOWDAH_INLINE vi load_n(const int32_t* p, int64_t n) { return (vi)_mm512_maskz_loadu_epi32(first_n(n), p); }
HOWDAH_INLINE void store_n(float* p, vf x, int64_t n) { _mm512_mask_storeu_ps(p, first_n(n), x); }
HOWDAH_INLINE void store_n(int32_t* p, vi x, int64_t n) { _mm512_mask_storeu_epi32(p, first_n(n), (__m512i)x); }
#elif HOWDAH_AVX2
HOWDAH_INLINE vf load_n(const float* p, int64_t n) { return _mm256_maskload_ps(p, (__m256i)first_n(n)); }
HOWDAH_INLINE vi load_n(const int32_t* p, int64_t n) { return (vi)_mm256_maskload_epi32(p, (__m256i)first_n(n)); }
HOWDAH_INLINE void store_n(float* p, vf x, int64_t n) { _mm256_maskstore_ps(p, (__m256i)first_n(n), x); }
HOWDAH_INLINE void store_n(int32_t* p, vi x, int64_t n) {
  _mm256_maskstore_epi32(p, (__m256i)first_n(n), (__m256i)x);
}
#else
HOWDAH_INLINE vf load_n(const float* p, int64_t n) {
  vf r{};
  for (int i = 0; i < W && i < n; i++) r[i] = p[i];
  return r;
}
HOWDAH_INLINE vi load_n(const int32_t* p, int64_t n) {
  vi r{};
  for (int i = 0; i < W && i < n; i++) r[i] = p[i];
  return r;
}
HOWDAH_INLINE void store_n(float* p, vf x, int64_t n) {
  for (int i = 0; i < W && i < n; i++) p[i] = x[i];
}
HOWDAH_INLINE void store_n(int32_t* p, vi x, int64_t n) {
  for (int i = 0; i < W && i < n; i++) p[i] = x[i];
}
#endif

// ---- Arithmetic ----

/** a * b + c, rounded once where the processor has it (the portable build may round twice). */
HOWDAH_INLINE vf fma(vf a, vf b, vf c) {
#if HOWDAH_AVX512
  return _mm512_fmadd_ps(a, b, c);
#elif HOWDAH_AVX2
  return _mm256_fmadd_ps(a, b, c);
#elif HOWDAH_NEON
  return (vf)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  return a * b + c;
#endif
}
/** c - a * b */
HOWDAH_INLINE vf fnma(vf a, vf b, vf c) { return fma(-a, b, c); }
/** a < b ? a : b; so b where either is NaN. */
HOWDAH_INLINE vf min(vf a, vf b) {
#if HOWDAH_AVX512
  return _mm512_min_ps(a, b);
#elif HOWDAH_AVX2
  return _mm256_min_ps(a, b);
#else
  return select(lt(a, b), a, b);
#endif
}
/** a > b ? a : b; so b where either is NaN. */
HOWDAH_INLINE vf max(vf a, vf b) {
#if HOWDAH_AVX512
  return _mm512_max_ps(a, b);
#elif HOWDAH_AVX2
  return _mm256_max_ps(a, b);
#else
  return select(gt(a, b), a, b);
#endif
}
HOWDAH_INLINE vi min(vi a, vi b) { return select(lt(a, b), a, b); }
HOWDAH_INLINE vi max(vi a, vi b) { return select(gt(a, b), a, b); }
HOWDAH_INLINE vf abs(vf a) { return from_bits(bits(a) & 0x7fffffff); }
/** The magnitude of a with the sign of b. */
HOWDAH_INLINE vf copysign(vf a, vf b) { return from_bits((bits(a) & 0x7fffffff) | (bits(b) & (int32_t)0x80000000)); }
HOWDAH_INLINE vi shift_right_logical(vi a, int n) { return (vi)((vu)a >> (uint32_t)n); }

HOWDAH_INLINE vf sqrt(vf a) {
#if HOWDAH_AVX512
  return _mm512_sqrt_ps(a);
#elif HOWDAH_AVX2
  return _mm256_sqrt_ps(a);
#elif HOWDAH_NEON
  return (vf)vsqrtq_f32((float32x4_t)a);
#else
  for (int i = 0; i < W; i++) a[i] = std::sqrt(a[i]);
  return a;
#endif
}

#if HOWDAH_AVX512
HOWDAH_INLINE vf floor(vf a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }
HOWDAH_INLINE vf ceil(vf a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC); }
/** To the nearest whole number, ties to even. */
HOWDAH_INLINE vf round_even(vf a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
#elif HOWDAH_AVX2
HOWDAH_INLINE vf floor(vf a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }
HOWDAH_INLINE vf ceil(vf a) { return _mm256_round_ps(a, _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC); }
HOWDAH_INLINE vf round_even(vf a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
#elif HOWDAH_NEON
HOWDAH_INLINE vf floor(vf a) { return (vf)vrndmq_f32((float32x4_t)a); }
HOWDAH_INLINE vf ceil(vf a) { return (vf)vrndpq_f32((float32x4_t)a); }
HOWDAH_INLINE vf round_even(vf a) { return (vf)vrndnq_f32((float32x4_t)a); }
#else
/** To the nearest whole number, ties to even. */
HOWDAH_INLINE vf round_even(vf a) {
  // Adding and taking away 2^23 leaves no bits for a fraction. Beyond 2^23 (and for NaN) a is whole already.
  const vf magic = copysign(splat(8388608.0f), a);
  volatile vf sum = a + magic; // keeps the compiler from simplifying the pair away under -ffp-contract
  const vf r = copysign((vf)sum - magic, a);
  return select(lt(abs(a), splat(8388608.0f)), r, a);
}
HOWDAH_INLINE vf floor(vf a) {
  const vf r = round_even(a);
  return copysign(select(gt(r, a), r - 1.0f, r), a);
}
HOWDAH_INLINE vf ceil(vf a) {
  const vf r = round_even(a);
  return copysign(select(lt(r, a), r + 1.0f, r), a);
}
#endif

/** Rounded to nearest; ints beyond 2^24 lose bits. */
HOWDAH_INLINE vf to_float(vi a) { return __builtin_convertvector(a, vf); }
/** Towards zero; values outside of i32 give the lowest i32 on x86 (saturate on ARM). */
HOWDAH_INLINE vi to_int(vf a) {
#if HOWDAH_AVX512
  return (vi)_mm512_cvttps_epi32(a);
#elif HOWDAH_AVX2
  return (vi)_mm256_cvttps_epi32(a);
#elif defined(__SSE2__)
  return (vi)_mm_cvttps_epi32((__m128)a);
#elif defined(__aarch64__)
  return (vi)vcvtq_s32_f32((float32x4_t)a);
#else
  return __builtin_convertvector(a, vi);
#endif
}

// ---- Across lanes: halves are combined again and again, so the order is fixed for a given W ----

#if HOWDAH_AVX512
HOWDAH_INLINE __m256 lower_half(vf a) { return _mm512_castps512_ps256(a); }
HOWDAH_INLINE __m256 upper_half(vf a) { return _mm512_extractf32x8_ps(a, 1); }
#endif
#if HOWDAH_AVX512 || HOWDAH_AVX2
HOWDAH_INLINE float reduce_add_256(__m256 a) {
  __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  b = _mm_add_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}
HOWDAH_INLINE float reduce_max_256(__m256 a) {
  __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  b = _mm_max_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_max_ss(b, _mm_movehdup_ps(b)));
}
HOWDAH_INLINE float reduce_min_256(__m256 a) {
  __m128 b = _mm_min_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  b = _mm_min_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_min_ss(b, _mm_movehdup_ps(b)));
}
#endif
#if HOWDAH_AVX512
HOWDAH_INLINE float reduce_add(vf a) { return reduce_add_256(_mm256_add_ps(lower_half(a), upper_half(a))); }
HOWDAH_INLINE float reduce_max(vf a) { return reduce_max_256(_mm256_max_ps(lower_half(a), upper_half(a))); }
HOWDAH_INLINE float reduce_min(vf a) { return reduce_min_256(_mm256_min_ps(lower_half(a), upper_half(a))); }
#elif HOWDAH_AVX2
HOWDAH_INLINE float reduce_add(vf a) { return reduce_add_256(a); }
HOWDAH_INLINE float reduce_max(vf a) { return reduce_max_256(a); }
HOWDAH_INLINE float reduce_min(vf a) { return reduce_min_256(a); }
#else
HOWDAH_INLINE float reduce_add(vf a) { return (a[0] + a[2]) + (a[1] + a[3]); }
HOWDAH_INLINE float reduce_max(vf a) {
  const float x = a[0] > a[2] ? a[0] : a[2], y = a[1] > a[3] ? a[1] : a[3];
  return x > y ? x : y;
}
HOWDAH_INLINE float reduce_min(vf a) {
  const float x = a[0] < a[2] ? a[0] : a[2], y = a[1] < a[3] ? a[1] : a[3];
  return x < y ? x : y;
}
#endif

// ---- bf16 and f16: W numbers of 16 bits each. Rounded to nearest, ties to even; NaN stays NaN ----

typedef uint16_t vh __attribute__((vector_size(W * 2)));

HOWDAH_INLINE vh load_h(const uint16_t* p) {
  vh r;
  std::memcpy(&r, p, sizeof r);
  return r;
}
HOWDAH_INLINE void store_h(uint16_t* p, vh x) { std::memcpy(p, &x, sizeof x); }
HOWDAH_INLINE vh load_h_n(const uint16_t* p, int64_t n) {
#if HOWDAH_AVX512
  return (vh)_mm256_maskz_loadu_epi16(first_n(n), p);
#else
  vh r{};
  std::memcpy(&r, p, 2 * (size_t)(n > W ? W : n < 0 ? 0 : n));
  return r;
#endif
}
HOWDAH_INLINE void store_h_n(uint16_t* p, vh x, int64_t n) {
#if HOWDAH_AVX512
  _mm256_mask_storeu_epi16(p, first_n(n), (__m256i)x);
#else
  std::memcpy(p, &x, 2 * (size_t)(n > W ? W : n < 0 ? 0 : n));
#endif
}

HOWDAH_INLINE vf bf16_to_f32(vh x) {
#if HOWDAH_AVX512
  return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)x), 16);
#elif HOWDAH_AVX2
  return (vf)_mm256_slli_epi32(_mm256_cvtepu16_epi32((__m128i)x), 16);
#else
  return (vf)(__builtin_convertvector(x, vu) << 16);
#endif
}

HOWDAH_INLINE vh f32_to_bf16(vf x) {
#if HOWDAH_BF16_DOT
  return (vh)_mm512_cvtneps_pbh(x);
#else
  const vu b = (vu)x;
  const vu rounded = (b + 0x7fff + ((b >> 16) & 1)) >> 16;
  const vu nan = (b >> 16) | 0x40;
  const vi r = select(ne(x, x), (vi)nan, (vi)rounded);
#if HOWDAH_AVX512
  return (vh)_mm512_cvtepi32_epi16((__m512i)r);
#elif HOWDAH_AVX2
  return (vh)_mm_packus_epi32(_mm256_castsi256_si128((__m256i)r), _mm256_extracti128_si256((__m256i)r, 1));
#else
  return __builtin_convertvector(r, vh);
#endif
#endif
}

HOWDAH_INLINE float bf16_to_f32(bf16_t x) {
  const uint32_t b = (uint32_t)x << 16;
  float r;
  std::memcpy(&r, &b, 4);
  return r;
}
HOWDAH_INLINE bf16_t f32_to_bf16(float x) {
  uint32_t b;
  std::memcpy(&b, &x, 4);
  if ((b & 0x7fffffff) > 0x7f800000) return (bf16_t)(b >> 16 | 0x40);
  return (bf16_t)((b + 0x7fff + (b >> 16 & 1)) >> 16);
}

HOWDAH_INLINE float f16_to_f32(f16_t x) {
  // Exponent and fraction shifted into place, then the exponent's bias corrected by a multiplication, which also
  // normalises half denormals (their f32 value is normal, and so is the operand 2^112 away: no flush to zero on the way
  // because the intermediate is built from an exponent of 113 or more).
  const uint32_t magnitude = x & 0x7fffu, sign = (uint32_t)(x & 0x8000u) << 16;
  uint32_t b;
  if (magnitude >= 0x7c00u) {
    b = sign | 0x7f800000u | (magnitude & 0x3ffu) << 13;
    if (magnitude > 0x7c00u) b |= 0x400000u;
  } else if (magnitude >= 0x400u) {
    b = sign | ((magnitude << 13) + (112u << 23));
  } else {
    float f = (float)(int32_t)magnitude * 0x1p-24f;
    std::memcpy(&b, &f, 4);
    b |= sign;
  }
  float r;
  std::memcpy(&r, &b, 4);
  return r;
}
HOWDAH_INLINE f16_t f32_to_f16(float x) {
  uint32_t b;
  std::memcpy(&b, &x, 4);
  const uint32_t sign = b >> 16 & 0x8000u, magnitude = b & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return (f16_t)(sign | 0x7e00u);
  if (magnitude >= 0x47800000u) return (f16_t)(sign | 0x7c00u);
  if (magnitude < 0x38800000u) {
    // A half denormal counts units of 2^-24: adding 0.5, whose last bit is worth that much, rounds to them.
    float f;
    std::memcpy(&f, &magnitude, 4);
    volatile float sum = f + 0.5f;
    const float s = sum;
    uint32_t u;
    std::memcpy(&u, &s, 4);
    return (f16_t)(sign | (u - 0x3f000000u));
  }
  return (f16_t)(sign | (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13);
}

HOWDAH_INLINE vf f16_to_f32(vh x) {
#if HOWDAH_AVX512
  return (vf)_mm512_cvtph_ps((__m256i)x);
#elif HOWDAH_AVX2
  return (vf)_mm256_cvtph_ps((__m128i)x);
#elif HOWDAH_NEON
  return (vf)vcvt_f32_f16((float16x4_t)x);
#else
  vf r;
  for (int i = 0; i < W; i++) r[i] = f16_to_f32((f16_t)x[i]);
  return r;
#endif
}
HOWDAH_INLINE vh f32_to_f16(vf x) {
#if HOWDAH_AVX512
  return (vh)_mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif HOWDAH_AVX2
  return (vh)_mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif HOWDAH_NEON
  return (vh)vcvt_f16_f32((float32x4_t)x);
#else
  vh r;
  for (int i = 0; i < W; i++) r[i] = f32_to_f16(x[i]);
  return r;
#endif
}

HOWDAH_INLINE vf load_bf16(const bf16_t* p) { return bf16_to_f32(load_h(p)); }
HOWDAH_INLINE vf load_bf16_n(const bf16_t* p, int64_t n) { return bf16_to_f32(load_h_n(p, n)); }
HOWDAH_INLINE void store_bf16(bf16_t* p, vf x) { store_h(p, f32_to_bf16(x)); }
HOWDAH_INLINE void store_bf16_n(bf16_t* p, vf x, int64_t n) { store_h_n(p, f32_to_bf16(x), n); }
HOWDAH_INLINE vf load_f16(const f16_t* p) { return f16_to_f32(load_h(p)); }
HOWDAH_INLINE vf load_f16_n(const f16_t* p, int64_t n) { return f16_to_f32(load_h_n(p, n)); }
HOWDAH_INLINE void store_f16(f16_t* p, vf x) { store_h(p, f32_to_f16(x)); }
HOWDAH_INLINE void store_f16_n(f16_t* p, vf x, int64_t n) { store_h_n(p, f32_to_f16(x), n); }

} // namespace howdah::HOWDAH_ISA

// The ceilings of one core: multiply-adds in registers, and reading.
#include "../probe.hpp"

#include "../simd.hpp"

namespace howdah::HOWDAH_ISA {

extern const ProbeTable probe_table;

namespace {

/** Enough independent sums to hide the latency of a multiply-add on two ports, few enough for 16 registers. */
constexpr int sums = 12;

/** The compiler may not look through this: what is computed has to be computed, and equal sums are not one sum. */
HOWDAH_INLINE void keep(vf& x) {
#if defined(__x86_64__) || defined(_M_X64)
  __asm__ volatile("" : "+x"(x));
#elif defined(__aarch64__)
  __asm__ volatile("" : "+w"(x));
#else
  __asm__ volatile("" : "+m"(x));
#endif
}

int64_t multiply_f32(int64_t turns) {
  vf sum[sums], a = splat(1.0f), b = splat(1e-9f);
  HOWDAH_UNROLL for (int i = 0; i < sums; i++) keep(sum[i] = zero());
  keep(a);
  keep(b);
  for (int64_t turn = 0; turn < turns; turn++) {
    HOWDAH_UNROLL for (int i = 0; i < sums; i++) sum[i] = fma(a, b, sum[i]);
  }
  HOWDAH_UNROLL for (int i = 0; i < sums; i++) keep(sum[i]);
  return turns * sums * W * 2;
}

int64_t multiply_bf16([[maybe_unused]] int64_t turns) {
#if HOWDAH_BF16_DOT
  vf sum[sums], a = splat(1.0f), b = splat(1e-9f);
  HOWDAH_UNROLL for (int i = 0; i < sums; i++) keep(sum[i] = zero());
  keep(a);
  keep(b);
  for (int64_t turn = 0; turn < turns; turn++) {
    HOWDAH_UNROLL for (int i = 0; i < sums; i++) sum[i] = _mm512_dpbf16_ps(sum[i], (__m512bh)a, (__m512bh)b);
  }
  HOWDAH_UNROLL for (int i = 0; i < sums; i++) keep(sum[i]);
  return turns * sums * W * 4; // each lane multiplies and adds two pairs
#else
  return 0;
#endif
}

void read(const float* data, int64_t count) {
  constexpr int streams = 8;
  vf sum[streams];
  HOWDAH_UNROLL for (int i = 0; i < streams; i++) sum[i] = zero();
  for (int64_t at = 0; at + streams * W <= count; at += streams * W) {
    HOWDAH_UNROLL for (int i = 0; i < streams; i++) sum[i] = sum[i] + load(data + at + i * W);
  }
  HOWDAH_UNROLL for (int i = 0; i < streams; i++) keep(sum[i]);
}

} // namespace

const ProbeTable probe_table = {multiply_f32, multiply_bf16, read};

} // namespace howdah::HOWDAH_ISA

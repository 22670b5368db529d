// The element-wise tile machine: interprets an EwPlan over tiles of a few hundred lanes that stay in the first-level cache.
// Each step is one vectorised loop over a tile; operands that lie in memory as 32-bit words are read in place.
// Included by kernels/elementwise.cpp only.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>

#include "elementwise_plan.hpp"
#include "philox.hpp"
#include "pool.hpp"
#include "simd_math.hpp"

namespace howdah::HOWDAH_ISA {

namespace {

/** Elements that one task of the pool works on. */
constexpr int64_t kTaskElements = 16384;

// ---- Steps: dst[i] = f(a[i], b[i], c[i]) for i < n; dst may be an operand ----

using Loop = void (*)(float* dst, const float* a, const float* b, const float* c, int64_t n);

HOWDAH_INLINE const int32_t* ints(const float* p) { return reinterpret_cast<const int32_t*>(p); }
HOWDAH_INLINE int32_t* ints(float* p) { return reinterpret_cast<int32_t*>(p); }

// Operand and result kinds are those of F's signature: vf or vi.
template <class V>
HOWDAH_INLINE V take(const float* p, int64_t i) {
  if constexpr (std::is_same_v<V, vf>) return load(p + i);
  else return load(ints(p) + i);
}
template <class V>
HOWDAH_INLINE V take_n(const float* p, int64_t i, int64_t n) {
  if constexpr (std::is_same_v<V, vf>) return load_n(p + i, n);
  else return load_n(ints(p) + i, n);
}
HOWDAH_INLINE void put(float* p, int64_t i, vf x) { store(p + i, x); }
HOWDAH_INLINE void put(float* p, int64_t i, vi x) { store(ints(p) + i, x); }
HOWDAH_INLINE void put_n(float* p, int64_t i, vf x, int64_t n) { store_n(p + i, x, n); }
HOWDAH_INLINE void put_n(float* p, int64_t i, vi x, int64_t n) { store_n(ints(p) + i, x, n); }

template <class A, auto F>
void unary(float* dst, const float* a, const float*, const float*, int64_t n) {
  int64_t i = 0;
#pragma GCC unroll 2
  for (; i + W <= n; i += W) put(dst, i, F(take<A>(a, i)));
  if (i < n) put_n(dst, i, F(take_n<A>(a, i, n - i)), n - i);
}

template <class A, auto F>
void binary(float* dst, const float* a, const float* b, const float*, int64_t n) {
  int64_t i = 0;
#pragma GCC unroll 4
  for (; i + W <= n; i += W) put(dst, i, F(take<A>(a, i), take<A>(b, i)));
  if (i < n) put_n(dst, i, F(take_n<A>(a, i, n - i), take_n<A>(b, i, n - i)), n - i);
}

template <class A, class B, auto F>
void ternary(float* dst, const float* a, const float* b, const float* c, int64_t n) {
  int64_t i = 0;
#pragma GCC unroll 2
  for (; i + W <= n; i += W) put(dst, i, F(take<A>(a, i), take<B>(b, i), take<B>(c, i)));
  if (i < n) put_n(dst, i, F(take_n<A>(a, i, n - i), take_n<B>(b, i, n - i), take_n<B>(c, i, n - i)), n - i);
}

/** Ops without a vector form: one lane at a time. */
template <class T, auto F>
void scalar(float* dst, const float* a, const float* b, const float*, int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    T x, y;
    std::memcpy(&x, a + i, 4);
    std::memcpy(&y, b + i, 4);
    const T z = F(x, y);
    std::memcpy(dst + i, &z, 4);
  }
}

int32_t wrap(int64_t x) { return static_cast<int32_t>(static_cast<uint32_t>(x)); }

/** Division by zero gives -1 and leaves the dividend as remainder, as XLA has it. */
int32_t divide_int(int32_t a, int32_t b) { return b == 0 ? -1 : wrap(int64_t{a} / b); }
int32_t remainder_int(int32_t a, int32_t b) { return b == 0 ? a : wrap(int64_t{a} % b); }
int32_t power_int(int32_t base, int32_t exponent) {
  if (exponent < 0) return base == 1 ? 1 : base == -1 ? (exponent & 1 ? -1 : 1) : 0;
  uint32_t result = 1, square = static_cast<uint32_t>(base);
  for (uint32_t e = static_cast<uint32_t>(exponent); e; e >>= 1) {
    if (e & 1) result *= square;
    square *= square;
  }
  return static_cast<int32_t>(result);
}

HOWDAH_INLINE vi truth(vm m) { return select(m, splat_i(1), splat_i(0)); }
HOWDAH_INLINE vf maximum(vf a, vf b) { return select(ne(a, a), a, max(a, b)); } // NaN from either side
HOWDAH_INLINE vf minimum(vf a, vf b) { return select(ne(a, a), a, min(a, b)); }

vi saturate_int(vf x) {
  const vf number = select(eq(x, x), x, zero());
  const vi truncated = to_int(max(min(number, splat(2147483520.0f)), splat(-2147483648.0f)));
  return select(ge(number, splat(2147483648.0f)), splat_i(INT32_MAX), truncated);
}
template <int Low, int High>
vi saturate_byte(vf x) {
  const vf number = select(eq(x, x), x, zero());
  return to_int(max(min(number, splat(High)), splat(Low)));
}

vi shift_in_range(vi a, vi count, vi shifted) {
  (void)a;
  const vm inside = mask_and(ge(count, splat_i(0)), lt(count, splat_i(32)));
  return select(inside, shifted, splat_i(0));
}

Loop loop_of(int code) {
  // Lambdas without captures are compile-time constants, so each entry is one tight loop.
#define FLOAT1(op, body) \
  case 2 * int(Ew::op): return unary<vf, [](vf x) { return (body); }>;
#define INT1(op, body) \
  case 2 * int(Ew::op) + 1: return unary<vi, [](vi x) { return (body); }>;
#define FLOAT2(op, body) \
  case 2 * int(Ew::op): return binary<vf, [](vf x, vf y) { return (body); }>;
#define INT2(op, body) \
  case 2 * int(Ew::op) + 1: return binary<vi, [](vi x, vi y) { return (body); }>;
  switch (code) {
    FLOAT1(negate, -x)
    INT1(negate, (vi)(-(vu)x))
    FLOAT1(abs, abs(x))
    INT1(abs, max(x, (vi)(-(vu)x)))
    FLOAT1(sign, select(gt(x, zero()), splat(1.0f), select(lt(x, zero()), splat(-1.0f), x)))
    INT1(sign, select(gt(x, splat_i(0)), splat_i(1), select(lt(x, splat_i(0)), splat_i(-1), x)))
    FLOAT1(exponential, exp(x))
    FLOAT1(exponential_minus_one, expm1(x))
    FLOAT1(log, log(x))
    FLOAT1(log_plus_one, log1p(x))
    FLOAT1(sqrt, sqrt(x))
    FLOAT1(rsqrt, splat(1.0f) / sqrt(x))
    FLOAT1(sine, sine(x))
    FLOAT1(cosine, cosine(x))
    FLOAT1(tanh, tanh(x))
    FLOAT1(logistic, logistic(x))
    FLOAT1(erf, erf(x))
    FLOAT1(floor, floor(x))
    FLOAT1(ceil, ceil(x))
    FLOAT1(round_nearest_even, round_even(x))
    FLOAT1(is_finite, truth(lt(abs(x), splat(__builtin_inff()))))
    INT1(logical_not, ~x)
    FLOAT1(gelu, gelu(x))
    FLOAT1(gelu_tanh, gelu_tanh(x))
    FLOAT1(silu, silu(x))
    FLOAT2(add, x + y)
    INT2(add, (vi)((vu)x + (vu)y))
    FLOAT2(subtract, x - y)
    INT2(subtract, (vi)((vu)x - (vu)y))
    FLOAT2(multiply, x * y)
    INT2(multiply, (vi)((vu)x * (vu)y))
    FLOAT2(divide, x / y)
    case 2 * int(Ew::divide) + 1: return scalar<int32_t, divide_int>;
    FLOAT2(maximum, maximum(x, y))
    INT2(maximum, max(x, y))
    FLOAT2(minimum, minimum(x, y))
    INT2(minimum, min(x, y))
    case 2 * int(Ew::power): return scalar<float, [](float x, float y) { return std::pow(x, y); }>;
    case 2 * int(Ew::power) + 1: return scalar<int32_t, power_int>;
    case 2 * int(Ew::remainder): return scalar<float, [](float x, float y) { return std::fmod(x, y); }>;
    case 2 * int(Ew::remainder) + 1: return scalar<int32_t, remainder_int>;
    case 2 * int(Ew::atan2): return scalar<float, [](float x, float y) { return std::atan2(x, y); }>;
    INT2(bit_and, x & y)
    INT2(bit_or, x | y)
    INT2(bit_xor, x ^ y)
    // Counts are taken modulo 32 for the shift itself (a larger count is undefined), then counts outside give 0 or the sign.
    INT2(shift_left, shift_in_range(x, y, (vi)((vu)x << (vu)(y & 31))))
    INT2(shift_right_logical, shift_in_range(x, y, (vi)((vu)x >> (vu)(y & 31))))
    INT2(shift_right_arithmetic, x >> (select(mask_and(ge(y, splat_i(0)), lt(y, splat_i(32))), y, splat_i(31))))
    FLOAT2(compare_eq, truth(eq(x, y)))
    INT2(compare_eq, truth(eq(x, y)))
    FLOAT2(compare_ne, truth(ne(x, y)))
    INT2(compare_ne, truth(ne(x, y)))
    FLOAT2(compare_lt, truth(lt(x, y)))
    INT2(compare_lt, truth(lt(x, y)))
    FLOAT2(compare_le, truth(le(x, y)))
    INT2(compare_le, truth(le(x, y)))
    FLOAT2(compare_gt, truth(gt(x, y)))
    INT2(compare_gt, truth(gt(x, y)))
    FLOAT2(compare_ge, truth(ge(x, y)))
    INT2(compare_ge, truth(ge(x, y)))
    FLOAT2(gelu_grad, gelu_grad(x, y))
    FLOAT2(gelu_tanh_grad, gelu_tanh_grad(x, y))
    FLOAT2(silu_grad, silu_grad(x, y))
    case 2 * int(Ew::select):
      return ternary<vi, vi, [](vi p, vi x, vi y) { return select(ne(p, splat_i(0)), x, y); }>;
    case 2 * int(Ew::clamp):
      return ternary<vf, vf, [](vf low, vf x, vf high) { return minimum(maximum(x, low), high); }>;
    case 2 * int(Ew::clamp) + 1:
      return ternary<vi, vi, [](vi low, vi x, vi high) { return min(max(x, low), high); }>;
    case int(EwStep::round_bf16): return unary<vf, [](vf x) { return bf16_to_f32(f32_to_bf16(x)); }>;
    case int(EwStep::round_f16): return unary<vf, [](vf x) { return f16_to_f32(f32_to_f16(x)); }>;
    case int(EwStep::wrap_u8): return unary<vi, [](vi x) { return x & 0xff; }>;
    case int(EwStep::wrap_i8): return unary<vi, [](vi x) { return ((x << 24) >> 24); }>;
    case int(EwStep::float_to_i32): return unary<vf, saturate_int>;
    case int(EwStep::float_to_u8): return unary<vf, saturate_byte<0, 255>>;
    case int(EwStep::float_to_i8): return unary<vf, saturate_byte<-128, 127>>;
    case int(EwStep::nonzero_float): return unary<vf, [](vf x) { return truth(ne(x, zero())); }>;
    case int(EwStep::nonzero_int): return unary<vi, [](vi x) { return truth(ne(x, splat_i(0))); }>;
    case int(EwStep::int_to_float): return unary<vi, [](vi x) { return to_float(x); }>;
    default: return nullptr;
  }
#undef FLOAT1
#undef INT1
#undef FLOAT2
#undef INT2
}

struct LoopTable {
  Loop loops[static_cast<int>(EwStep::count)];
  LoopTable() {
    for (int code = 0; code < static_cast<int>(EwStep::count); code++) loops[code] = loop_of(code);
  }
};

// ---- Between memory and registers ----

/** reg[i] = word of source[offset + i * stride] for i < n. */
void collect(float* reg, const void* source, DType type, int64_t offset, int64_t stride, int64_t n) {
  const auto fill = [&](auto* to, const auto* from, auto word) {
    if (stride == 0) {
      std::fill_n(to, n, word(from[offset]));
    } else if (stride == 1) {
      for (int64_t i = 0; i < n; i++) to[i] = word(from[offset + i]);
    } else {
      for (int64_t i = 0; i < n; i++) to[i] = word(from[offset + i * stride]);
    }
  };
  switch (type) {
    case DType::f32:
    case DType::i32: {
      const float* from = static_cast<const float*>(source);
      if (stride == 1) std::memcpy(reg, from + offset, static_cast<size_t>(n) * 4);
      else fill(ints(reg), ints(from), [](int32_t x) { return x; });
      break;
    }
    case DType::bf16:
    case DType::f16: {
      const uint16_t* from = static_cast<const uint16_t*>(source);
      const bool brain = type == DType::bf16;
      if (stride == 1) {
        from += offset;
        int64_t i = 0;
        for (; i + W <= n; i += W) store(reg + i, brain ? load_bf16(from + i) : load_f16(from + i));
        if (i < n) store_n(reg + i, brain ? load_bf16_n(from + i, n - i) : load_f16_n(from + i, n - i), n - i);
      } else if (brain) {
        fill(reg, from, [](uint16_t x) { return bf16_to_f32(x); });
      } else {
        fill(reg, from, [](uint16_t x) { return f16_to_f32(x); });
      }
      break;
    }
    case DType::u8:
    case DType::boolean:
      fill(ints(reg), static_cast<const uint8_t*>(source), [](uint8_t x) { return int32_t{x}; });
      break;
    case DType::i8:
      fill(ints(reg), static_cast<const int8_t*>(source), [](int8_t x) { return int32_t{x}; });
      break;
  }
}

void deposit(void* target, DType type, int64_t offset, const float* reg, int64_t n) {
  switch (type) {
    case DType::f32:
    case DType::i32:
      std::memmove(static_cast<float*>(target) + offset, reg, static_cast<size_t>(n) * 4);
      break;
    case DType::bf16:
    case DType::f16: {
      uint16_t* to = static_cast<uint16_t*>(target) + offset;
      const bool brain = type == DType::bf16;
      int64_t i = 0;
      for (; i + W <= n; i += W) brain ? store_bf16(to + i, load(reg + i)) : store_f16(to + i, load(reg + i));
      if (i < n) brain ? store_bf16_n(to + i, load_n(reg + i, n - i), n - i) : store_f16_n(to + i, load_n(reg + i, n - i), n - i);
      break;
    }
    case DType::boolean: {
      uint8_t* to = static_cast<uint8_t*>(target) + offset;
      for (int64_t i = 0; i < n; i++) to[i] = ints(reg)[i] != 0;
      break;
    }
    default: {
      uint8_t* to = static_cast<uint8_t*>(target) + offset;
      for (int64_t i = 0; i < n; i++) to[i] = static_cast<uint8_t>(ints(reg)[i]);
    }
  }
}

/** One task's registers. */
class Machine {
 public:
  Machine(const EwRunArgs& args, int64_t longest_tile) : plan_(*args.plan), in_(args.inputs), out_(args.outputs) {
    const size_t pointers = (static_cast<size_t>(plan_.registers) * sizeof(float*) + 63) & ~size_t{63};
    char* memory = reinterpret_cast<char*>(scratch(0, pointers + static_cast<size_t>(plan_.buffers * plan_.lanes) * 4));
    reg_ = reinterpret_cast<float**>(memory);
    for (int i = 0; i < plan_.buffers; i++) reg_[i] = reinterpret_cast<float*>(memory + pointers) + i * plan_.lanes;
    for (const EwPlan::Constant& constant : plan_.constants) {
      if (constant.reg >= 0) std::fill_n(ints(reg_[constant.reg]), longest_tile, static_cast<int32_t>(constant.word));
    }
    for (const EwPlan::Input& input : plan_.inputs) {
      if (input.access != EwPlan::Access::uniform || input.reg < 0) continue;
      if (input.source == EwPlan::Source::iota) std::fill_n(ints(reg_[input.reg]), longest_tile, 0);
      else collect(reg_[input.reg], in_[input.argument], input.type, 0, 0, longest_tile);
    }
  }

  /** Computes elements [start, start + n) and stores the outputs that are not reduced. */
  void tile(int64_t start, int64_t n) {
    static const LoopTable table;
    for (const EwPlan::Output& output : plan_.outputs) {
      if (output.in_place) reg_[output.reg] = static_cast<float*>(out_[&output - plan_.outputs.data()]) + start;
    }
    for (const EwMicro& step : plan_.steps) {
      if (step.code == static_cast<uint16_t>(EwStep::load)) {
        fetch(plan_.inputs[step.immediate], start, n);
      } else if (step.code == 2 * static_cast<int>(Ew::random_bits) + 1) {
        const EwPlan::Input& key = plan_.inputs[step.immediate];
        random_words(static_cast<const uint32_t*>(in_[key.argument]), start, n, reinterpret_cast<uint32_t*>(reg_[step.dst]));
      } else {
        const auto operand = [&](int i) { return step.operand[i] < 0 ? nullptr : reg_[step.operand[i]]; };
        table.loops[step.code](reg_[step.dst], operand(0), operand(1), operand(2), n);
      }
    }
    for (const EwPlan::Output& output : plan_.outputs) {
      if (output.reduce != EwReduce::none || output.in_place) continue;
      deposit(out_[&output - plan_.outputs.data()], output.type, start, reg_[output.reg], n);
    }
  }

  const float* result(const EwPlan::Output& output) const { return reg_[output.reg]; }

 private:
  void fetch(const EwPlan::Input& input, int64_t start, int64_t n) {
    const bool counts = input.source == EwPlan::Source::iota;
    const void* source = counts ? nullptr : in_[input.argument];
    if (input.linear && !counts) {
      if (input.access == EwPlan::Access::direct) {
        // Operands are only read, whatever the register's type says.
        reg_[input.reg] = const_cast<float*>(static_cast<const float*>(source)) + start;
      } else {
        collect(reg_[input.reg], source, input.type, start, 1, n);
      }
      return;
    }
    // Where the tile begins.
    int64_t index[kEwMaxDims];
    int64_t rest = start, offset = 0;
    for (int d = plan_.dims - 1; d >= 0; d--) {
      index[d] = rest % plan_.shape[d];
      rest /= plan_.shape[d];
      offset += index[d] * input.strides[d];
    }
    const int inner = plan_.dims - 1;
    if (input.access == EwPlan::Access::direct) {
      reg_[input.reg] = const_cast<float*>(static_cast<const float*>(source)) + offset;
      return;
    }
    float* to = reg_[input.reg];
    const int64_t stride = input.strides[inner];
    for (int64_t done = 0;;) {
      const int64_t run = std::min(plan_.shape[inner] - index[inner], n - done);
      if (counts) {
        for (int64_t i = 0; i < run; i++) ints(to)[done + i] = static_cast<int32_t>(offset + i * stride);
      } else {
        collect(to + done, source, input.type, offset, stride, run);
      }
      done += run;
      if (done == n) break;
      // To the start of the next row.
      offset -= index[inner] * stride;
      index[inner] = 0;
      for (int d = inner - 1; d >= 0; d--) {
        offset += input.strides[d];
        if (++index[d] < plan_.shape[d]) break;
        offset -= index[d] * input.strides[d];
        index[d] = 0;
      }
    }
  }

  const EwPlan& plan_;
  const void* const* in_;
  void* const* out_;
  float** reg_;
};

/** The tile that starts at `start` must end by this element. */
int64_t tile_end(const EwPlan& plan, int64_t start, int64_t end) {
  if (plan.row > 1) end = std::min(end, (start / plan.row + 1) * plan.row);
  return std::min(end, start + plan.lanes);
}

} // namespace

} // namespace howdah::HOWDAH_ISA

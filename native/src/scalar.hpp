#pragma once
// Single elements of any dtype, for kernels that are not worth vector code. bf16 and f16 are rounded to nearest, ties to even.
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "nn.hpp"

namespace howdah {

inline float bf16_to_float(uint16_t bits) { return std::bit_cast<float>(uint32_t(bits) << 16); }

inline uint16_t float_to_bf16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return uint16_t(bits >> 16 | 0x40u);
  return uint16_t((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

inline float f16_to_float(uint16_t bits) {
  const uint32_t sign = uint32_t(bits & 0x8000u) << 16, exponent = bits >> 10 & 31u, fraction = bits & 1023u;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | fraction << 13);
  if (exponent == 0) {
    const float magnitude = float(fraction) * 0x1p-24f;
    return sign ? -magnitude : magnitude;
  }
  return std::bit_cast<float>(sign | (exponent + 112) << 23 | fraction << 13);
}

inline uint16_t float_to_f16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return uint16_t(sign | 0x7e00u);
  if (magnitude >= 0x47800000u) return uint16_t(sign | 0x7c00u);
  // Below the smallest normal half, values are multiples of 2^-24; nearbyint rounds ties to even.
  if (magnitude < 0x38800000u) return uint16_t(sign | uint32_t(std::nearbyint(std::bit_cast<float>(magnitude) * 0x1p24f)));
  return uint16_t(sign | (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13);
}

/** Towards zero; NaN is 0, and what does not fit becomes the nearest that does. */
template <class T>
T saturate(double x, double low, double high) {
  if (!(x == x)) return 0;
  return T(x < low ? low : x > high ? high : std::trunc(x));
}

inline void store_scalar(void* to, DType type, double x) {
  auto put = [&](auto value) { std::memcpy(to, &value, sizeof value); };
  switch (type) {
    case DType::f32: return put(float(x));
    case DType::bf16: return put(float_to_bf16(float(x)));
    case DType::f16: return put(float_to_f16(float(x)));
    case DType::i32: return put(saturate<int32_t>(x, -2147483648.0, 2147483647.0));
    case DType::u8: return put(saturate<uint8_t>(x, 0, 255));
    case DType::i8: return put(saturate<int8_t>(x, -128, 127));
    case DType::boolean: return put(uint8_t(x != 0));
  }
}

/** Calls body(x) with a zero of the C++ type that holds `type` in memory (bf16 and f16 as their bits). */
template <class F>
auto with_storage(DType type, F&& body) {
  switch (type) {
    case DType::f32: return body(float{});
    case DType::i32: return body(int32_t{});
    case DType::i8: return body(int8_t{});
    case DType::bf16:
    case DType::f16: return body(uint16_t{});
    default: return body(uint8_t{});
  }
}

/**
 * How an element computes: `Value` is float for the floating types and int32 for the others; `get` and `put` convert. Integers wrap
 * around when they are stored.
 */
template <DType type>
struct Element;
template <>
struct Element<DType::f32> {
  using Memory = float;
  using Value = float;
  static Value get(Memory x) { return x; }
  static Memory put(Value x) { return x; }
};
template <>
struct Element<DType::bf16> {
  using Memory = uint16_t;
  using Value = float;
  static Value get(Memory x) { return bf16_to_float(x); }
  static Memory put(Value x) { return float_to_bf16(x); }
};
template <>
struct Element<DType::f16> {
  using Memory = uint16_t;
  using Value = float;
  static Value get(Memory x) { return f16_to_float(x); }
  static Memory put(Value x) { return float_to_f16(x); }
};
template <>
struct Element<DType::i32> {
  using Memory = int32_t;
  using Value = int32_t;
  static Value get(Memory x) { return x; }
  static Memory put(Value x) { return x; }
};
template <>
struct Element<DType::u8> {
  using Memory = uint8_t;
  using Value = int32_t;
  static Value get(Memory x) { return x; }
  static Memory put(Value x) { return Memory(x); }
};
template <>
struct Element<DType::i8> {
  using Memory = int8_t;
  using Value = int32_t;
  static Value get(Memory x) { return x; }
  static Memory put(Value x) { return Memory(x); }
};
template <>
struct Element<DType::boolean> {
  using Memory = uint8_t;
  using Value = int32_t;
  static Value get(Memory x) { return x != 0; }
  static Memory put(Value x) { return x != 0; }
};

/** Calls body(Element<type>{}). */
template <class F>
auto with_element(DType type, F&& body) {
  switch (type) {
    case DType::f32: return body(Element<DType::f32>{});
    case DType::bf16: return body(Element<DType::bf16>{});
    case DType::f16: return body(Element<DType::f16>{});
    case DType::i32: return body(Element<DType::i32>{});
    case DType::u8: return body(Element<DType::u8>{});
    case DType::i8: return body(Element<DType::i8>{});
    default: return body(Element<DType::boolean>{});
  }
}

/** How two values are combined. Sums of integers wrap around; NaN wins a maximum and a minimum. */
enum class Combine : uint8_t { add, multiply, maximum, minimum, logical_and, logical_or, set };

template <Combine kind, class V>
V combine(V a, V b) {
  if constexpr (kind == Combine::add) {
    if constexpr (std::is_integral_v<V>) return V(uint32_t(a) + uint32_t(b));
    else return a + b;
  } else if constexpr (kind == Combine::multiply) {
    if constexpr (std::is_integral_v<V>) return V(uint32_t(a) * uint32_t(b));
    else return a * b;
  } else if constexpr (kind == Combine::maximum) {
    return a > b || a != a ? a : b;
  } else if constexpr (kind == Combine::minimum) {
    return a < b || a != a ? a : b;
  } else if constexpr (kind == Combine::logical_and) {
    if constexpr (std::is_integral_v<V>) return a & b;
    else return V(a != 0 && b != 0);
  } else if constexpr (kind == Combine::logical_or) {
    if constexpr (std::is_integral_v<V>) return a | b;
    else return V(a != 0 || b != 0);
  } else {
    return b;
  }
}

/** The value that changes nothing when combined: what an empty reduction gives. */
double identity_of(Combine kind, DType type);


/** Calls body(std::integral_constant<Combine, kind>{}). */
template <class F>
auto with_combine(Combine kind, F&& body) {
  switch (kind) {
    case Combine::add: return body(std::integral_constant<Combine, Combine::add>{});
    case Combine::multiply: return body(std::integral_constant<Combine, Combine::multiply>{});
    case Combine::maximum: return body(std::integral_constant<Combine, Combine::maximum>{});
    case Combine::minimum: return body(std::integral_constant<Combine, Combine::minimum>{});
    case Combine::logical_and: return body(std::integral_constant<Combine, Combine::logical_and>{});
    case Combine::logical_or: return body(std::integral_constant<Combine, Combine::logical_or>{});
    default: return body(std::integral_constant<Combine, Combine::set>{});
  }
}

}  // namespace howdah

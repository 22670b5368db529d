// Inner loops of reductions. The order in which elements are combined depends on the shape and the vector width alone.
#include "../reduce.hpp"

#include <algorithm>
#include <type_traits>

#include "../simd.hpp"

namespace howdah::HOWDAH_ISA {
namespace {

template <DType type>
struct Lanes {
  static vf load(const void* p, int64_t i) { return HOWDAH_ISA::load(static_cast<const float*>(p) + i); }
  static vf load_n(const void* p, int64_t i, int64_t n) { return HOWDAH_ISA::load_n(static_cast<const float*>(p) + i, n); }
};
template <>
struct Lanes<DType::bf16> {
  static vf load(const void* p, int64_t i) { return load_bf16(static_cast<const bf16_t*>(p) + i); }
  static vf load_n(const void* p, int64_t i, int64_t n) { return load_bf16_n(static_cast<const bf16_t*>(p) + i, n); }
};
template <>
struct Lanes<DType::f16> {
  static vf load(const void* p, int64_t i) { return load_f16(static_cast<const f16_t*>(p) + i); }
  static vf load_n(const void* p, int64_t i, int64_t n) { return load_f16_n(static_cast<const f16_t*>(p) + i, n); }
};

template <Combine kind>
HOWDAH_INLINE vf fold(vf a, vf x) {
  if constexpr (kind == Combine::add) return a + x;
  else if constexpr (kind == Combine::multiply) return a * x;
  // The second operand wins where one is NaN, so a NaN in `a` stays; one in `x` is put in by hand.
  else if constexpr (kind == Combine::maximum) return select(ne(x, x), x, max(x, a));
  else return select(ne(x, x), x, min(x, a));
}

template <Combine kind>
float identity() {
  if constexpr (kind == Combine::add) return 0;
  else if constexpr (kind == Combine::multiply) return 1;
  else if constexpr (kind == Combine::maximum) return -__builtin_inff();
  else return __builtin_inff();
}

template <DType type, Combine kind>
void fold_all_float(const FoldArgs& args) {
  using L = Lanes<type>;
  const vf none = splat(identity<kind>());
  vf a0 = none, a1 = none, a2 = none, a3 = none;
  for (int64_t r = 0; r < args.rows; ++r) {
    const int64_t base = r * args.row_stride;
    int64_t i = 0;
    for (; i + 4 * W <= args.columns; i += 4 * W) {
      a0 = fold<kind>(a0, L::load(args.in, base + i));
      a1 = fold<kind>(a1, L::load(args.in, base + i + W));
      a2 = fold<kind>(a2, L::load(args.in, base + i + 2 * W));
      a3 = fold<kind>(a3, L::load(args.in, base + i + 3 * W));
    }
    for (; i + W <= args.columns; i += W) a0 = fold<kind>(a0, L::load(args.in, base + i));
    if (const int64_t n = args.columns - i; n > 0) a1 = fold<kind>(a1, select(first_n(n), L::load_n(args.in, base + i, n), none));
  }
  const vf all = fold<kind>(fold<kind>(a0, a1), fold<kind>(a2, a3));
  float lanes[W];
  store(lanes, all);
  float sum = lanes[0];
  for (int i = 1; i < W; ++i) sum = combine<kind>(sum, lanes[i]);
  float* out = static_cast<float*>(args.out);
  *out = args.start ? sum : combine<kind>(*out, sum);
}

/** `rows` rows added into `out`, one vector of columns after the other, so that memory is read along the rows. */
template <DType type, Combine kind, int rows>
HOWDAH_INLINE void fold_rows(const FoldArgs& args, int64_t r, float* out) {
  using L = Lanes<type>;
  const int64_t base = r * args.row_stride;
  int64_t i = 0;
  for (; i + W <= args.columns; i += W) {
    vf a = load(out + i);
    for (int k = 0; k < rows; ++k) a = fold<kind>(a, L::load(args.in, base + k * args.row_stride + i));
    store(out + i, a);
  }
  if (const int64_t n = args.columns - i; n > 0) {
    vf a = load_n(out + i, n);
    for (int k = 0; k < rows; ++k) a = fold<kind>(a, L::load_n(args.in, base + k * args.row_stride + i, n));
    store_n(out + i, a, n);
  }
}

template <DType type, Combine kind>
void fold_columns_float(const FoldArgs& args) {
  float* out = static_cast<float*>(args.out);
  if (args.start) std::fill_n(out, args.columns, identity<kind>());
  int64_t r = 0;
  for (; r + 8 <= args.rows; r += 8) fold_rows<type, kind, 8>(args, r, out);
  for (; r < args.rows; ++r) fold_rows<type, kind, 1>(args, r, out);
}

/** Integers: order does not matter, so the compiler vectorises plain loops. */
template <DType type, Combine kind>
void fold_all_integer(const FoldArgs& args) {
  const auto* in = static_cast<const typename Element<type>::Memory*>(args.in);
  int32_t sum = int32_t(identity_of(kind, type));
  for (int64_t r = 0; r < args.rows; ++r) {
    const auto* row = in + r * args.row_stride;
    for (int64_t i = 0; i < args.columns; ++i) sum = combine<kind>(sum, Element<type>::get(row[i]));
  }
  int32_t* out = static_cast<int32_t*>(args.out);
  *out = args.start ? sum : combine<kind>(*out, sum);
}

template <DType type, Combine kind>
void fold_columns_integer(const FoldArgs& args) {
  const auto* in = static_cast<const typename Element<type>::Memory*>(args.in);
  int32_t* out = static_cast<int32_t*>(args.out);
  if (args.start) std::fill_n(out, args.columns, int32_t(identity_of(kind, type)));
  for (int64_t r = 0; r < args.rows; ++r) {
    const auto* row = in + r * args.row_stride;
    for (int64_t i = 0; i < args.columns; ++i) out[i] = combine<kind>(out[i], Element<type>::get(row[i]));
  }
}

template <bool all>
void run(const FoldArgs& args) {
  auto with_float = [&]<DType type>() {
    with_combine(args.kind, [&](auto kind) {
      if constexpr (kind.value <= Combine::minimum) {
        if constexpr (all) fold_all_float<type, kind.value>(args);
        else fold_columns_float<type, kind.value>(args);
      }
    });
  };
  auto with_integer = [&]<DType type>() {
    with_combine(args.kind, [&](auto kind) {
      if constexpr (kind.value != Combine::set) {
        if constexpr (all) fold_all_integer<type, kind.value>(args);
        else fold_columns_integer<type, kind.value>(args);
      }
    });
  };
  switch (args.type) {
    case DType::f32: return with_float.template operator()<DType::f32>();
    case DType::bf16: return with_float.template operator()<DType::bf16>();
    case DType::f16: return with_float.template operator()<DType::f16>();
    case DType::i32: return with_integer.template operator()<DType::i32>();
    case DType::u8: return with_integer.template operator()<DType::u8>();
    case DType::i8: return with_integer.template operator()<DType::i8>();
    case DType::boolean: return with_integer.template operator()<DType::boolean>();
  }
}

}  // namespace

extern const ReduceTable reduce_table;
const ReduceTable reduce_table = {run<true>, run<false>};

}  // namespace howdah::HOWDAH_ISA

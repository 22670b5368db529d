// What the fused kernels share: walking a row of floats by vectors, and cutting rows into tasks.
#pragma once

#include <algorithm>
#include <type_traits>

#include "nn.hpp"
#include "pool.hpp"
#include "simd_math.hpp"

namespace howdah::HOWDAH_ISA {

/** Elements that one task of the pool works on: some 10 microseconds at memory bandwidth. */
constexpr int64_t kTaskSize = 16384;

/** body(first row, last row) over blocks of rows of that length. */
template <class F>
HOWDAH_INLINE void parallel_rows(int64_t rows, int64_t columns, F&& body) {
  const int64_t per_task = std::max<int64_t>(1, kTaskSize / std::max<int64_t>(1, columns));
  parallel_for((rows + per_task - 1) / per_task,
               [&](int64_t task, int) { body(task * per_task, std::min(rows, (task + 1) * per_task)); });
}

/** How many lanes of a vector are in use: W, known at compile time, except at the end of a row. */
using Full = std::integral_constant<int, W>;

/** body(offset, lanes in use), the whole vectors first, each call with an index j = 0, 1, 2, 3, 0, ... for a chain of its own. */
template <class F>
HOWDAH_INLINE void for_vectors(int64_t n, F&& body) {
  int64_t i = 0;
  for (; i + 4 * W <= n; i += 4 * W) {
    body(i, Full{}, std::integral_constant<int, 0>{});
    body(i + W, Full{}, std::integral_constant<int, 1>{});
    body(i + 2 * W, Full{}, std::integral_constant<int, 2>{});
    body(i + 3 * W, Full{}, std::integral_constant<int, 3>{});
  }
  for (; i + W <= n; i += W) body(i, Full{}, std::integral_constant<int, 0>{});
  if (i < n) body(i, static_cast<int>(n - i), std::integral_constant<int, 1>{});
}

HOWDAH_INLINE vf load_lanes(const float* p, Full) { return load(p); }
HOWDAH_INLINE vf load_lanes(const float* p, int n) { return load_n(p, n); }
HOWDAH_INLINE void store_lanes(float* p, vf x, Full) { store(p, x); }
HOWDAH_INLINE void store_lanes(float* p, vf x, int n) { store_n(p, x, n); }
HOWDAH_INLINE vf load_lanes(const bf16_t* p, Full) { return load_bf16(p); }
HOWDAH_INLINE vf load_lanes(const bf16_t* p, int n) { return load_bf16_n(p, n); }
HOWDAH_INLINE void store_lanes(bf16_t* p, vf x, Full) { store_bf16(p, x); }
HOWDAH_INLINE void store_lanes(bf16_t* p, vf x, int n) { store_bf16_n(p, x, n); }
/** x, and `other` in the lanes beyond those in use. */
HOWDAH_INLINE vf only_lanes(vf x, vf, Full) { return x; }
HOWDAH_INLINE vf only_lanes(vf x, vf other, int n) { return select(first_n(n), x, other); }

/** Four running sums or maxima, so that one addition need not wait for the one before. */
struct Chains {
  vf lane[4];
};
HOWDAH_INLINE Chains chains(float start) { return {{splat(start), splat(start), splat(start), splat(start)}}; }
HOWDAH_INLINE float total(const Chains& c) { return reduce_add((c.lane[0] + c.lane[1]) + (c.lane[2] + c.lane[3])); }
HOWDAH_INLINE float largest(const Chains& c) { return reduce_max(max(max(c.lane[0], c.lane[1]), max(c.lane[2], c.lane[3]))); }

} // namespace howdah::HOWDAH_ISA

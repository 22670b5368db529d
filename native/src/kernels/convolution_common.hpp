// What both convolution kernels share: words, and choosing how to compute.
#pragma once

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "../convolution.hpp"
#include "../isa.hpp"
#include "../pool.hpp"
#include "gemm_pack.hpp"
#include "gemm_tile.hpp"
#include "nn_common.hpp"

namespace howdah::HOWDAH_ISA {

/** Bytes that memory hands over at a time. */
constexpr int64_t kLine = 64;

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/** body(whether words are pairs of bf16, vectors of features that a tile should take) */
template <class F>
void choose(bool bf16, int64_t features, F&& body) {
  const bool wide = features > W;
#if HOWDAH_BF16_DOT
  if (bf16) {
    if (wide) return body(std::true_type{}, std::integral_constant<int, 2>{});
    return body(std::true_type{}, std::integral_constant<int, 1>{});
  }
#else
  (void)bf16;
#endif
  if (wide) return body(std::false_type{}, std::integral_constant<int, 2>{});
  return body(std::false_type{}, std::integral_constant<int, 1>{});
}

/** body(of the type that lies in memory) */
template <class F>
void with_type(const Numbers& x, F&& body) {
  if (x.half) body(bf16_t{});
  else body(0.0f);
}

} // namespace howdah::HOWDAH_ISA

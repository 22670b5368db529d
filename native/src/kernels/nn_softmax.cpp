// Softmax and log-softmax over the last axis, and their gradients.
#include "nn_common.hpp"

namespace howdah::HOWDAH_ISA {

namespace {

float row_max(const float* x, int64_t n) {
  Chains best = chains(-__builtin_inff());
  for_vectors(n, [&](int64_t i, auto lanes, auto j) {
    best.lane[j] = max(best.lane[j], only_lanes(load_lanes(x + i, lanes), splat(-__builtin_inff()), lanes));
  });
  return largest(best);
}

} // namespace

void softmax(const SoftmaxArgs& a) {
  const int64_t n = a.columns;
  parallel_rows(a.rows, n, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; r++) {
      const float* x = a.x + r * n;
      float* y = a.y + r * n;
      const vf top = splat(row_max(x, n));
      Chains sum = chains(0);
      for_vectors(n, [&](int64_t i, auto lanes, auto j) {
        const vf e = only_lanes(exp_bounded(load_lanes(x + i, lanes) - top), zero(), lanes);
        store_lanes(y + i, e, lanes);
        sum.lane[j] = sum.lane[j] + e;
      });
      const vf factor = splat(1.0f / total(sum));
      for_vectors(n, [&](int64_t i, auto lanes, auto) { store_lanes(y + i, load_lanes(y + i, lanes) * factor, lanes); });
    }
  });
}

void softmax_grad(const SoftmaxGradArgs& a) {
  const int64_t n = a.columns;
  parallel_rows(a.rows, n, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; r++) {
      const float* y = a.y + r * n;
      const float* dy = a.dy + r * n;
      float* dx = a.dx + r * n;
      Chains sum = chains(0);
      for_vectors(n, [&](int64_t i, auto lanes, auto j) {
        sum.lane[j] = fma(load_lanes(y + i, lanes), load_lanes(dy + i, lanes), sum.lane[j]);
      });
      const vf mean = splat(total(sum));
      for_vectors(n, [&](int64_t i, auto lanes, auto) {
        store_lanes(dx + i, load_lanes(y + i, lanes) * (load_lanes(dy + i, lanes) - mean), lanes);
      });
    }
  });
}

void log_softmax(const SoftmaxArgs& a) {
  const int64_t n = a.columns;
  parallel_rows(a.rows, n, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; r++) {
      const float* x = a.x + r * n;
      float* y = a.y + r * n;
      const float top = row_max(x, n);
      Chains sum = chains(0);
      for_vectors(n, [&](int64_t i, auto lanes, auto j) {
        sum.lane[j] = sum.lane[j] + only_lanes(exp_bounded(load_lanes(x + i, lanes) - splat(top)), zero(), lanes);
      });
      const vf most = splat(top), log_sum = splat(std::log(total(sum)));
      for_vectors(n, [&](int64_t i, auto lanes, auto) {
        store_lanes(y + i, (load_lanes(x + i, lanes) - most) - log_sum, lanes);
      });
    }
  });
}

void log_softmax_grad(const SoftmaxGradArgs& a) {
  const int64_t n = a.columns;
  parallel_rows(a.rows, n, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; r++) {
      const float* y = a.y + r * n;
      const float* dy = a.dy + r * n;
      float* dx = a.dx + r * n;
      Chains sum = chains(0);
      for_vectors(n, [&](int64_t i, auto lanes, auto j) { sum.lane[j] = sum.lane[j] + load_lanes(dy + i, lanes); });
      const vf all = splat(total(sum));
      for_vectors(n, [&](int64_t i, auto lanes, auto) {
        store_lanes(dx + i, load_lanes(dy + i, lanes) - exp_bounded(load_lanes(y + i, lanes)) * all, lanes);
      });
    }
  });
}

} // namespace howdah::HOWDAH_ISA

// What the tests of the fused kernels share.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "isa.hpp"
#include "nn.hpp"
#include "pool.hpp"
#include "test.hpp"

namespace howdah::test {

inline std::mt19937 engine(7);
inline float uniform(float low = -1, float high = 1) { return std::uniform_real_distribution<float>(low, high)(engine); }
inline float normal() { return std::normal_distribution<float>()(engine); }
inline int64_t pick(int64_t n) { return static_cast<int64_t>(engine() % static_cast<uint64_t>(n)); }

using Floats = std::vector<float>;
using Doubles = std::vector<double>;

inline Floats normals(int64_t n) {
  Floats x(static_cast<size_t>(n));
  for (float& v : x) v = normal();
  return x;
}
inline Doubles widen(const Floats& x) { return Doubles(x.begin(), x.end()); }

/** Largest |a - b| over the largest |b| (at least `floor`). */
inline double relative(const Floats& a, const Doubles& b, double floor = 1e-30) {
  double scale = floor, worst = 0;
  if (a.size() != b.size()) return INFINITY;
  for (double x : b)
    if (std::isfinite(x)) scale = std::max(scale, std::fabs(x));
  for (size_t i = 0; i < a.size(); i++) {
    if (!std::isfinite(b[i]) || !std::isfinite(a[i])) {
      if (!(a[i] == b[i] || (std::isnan(a[i]) && std::isnan(b[i])))) return INFINITY;
    } else {
      worst = std::max(worst, std::fabs(a[i] - b[i]));
    }
  }
  return worst / scale;
}

#define CHECK_CLOSE(a, b, tolerance)                                                                                              \
  do {                                                                                                                            \
    const double error_ = relative(a, b);                                                                                         \
    CHECK_MESSAGE(error_ <= (tolerance), std::string(#a " differs by ") + std::to_string(error_ * 1e6) + "e-6 of its largest");   \
  } while (0)

/** Runs `compute` on one thread, then on all, and checks that `results` are the same bits. */
inline void on_any_threads(const std::function<void()>& compute, const std::vector<Floats*>& results) {
  limit_threads(1);
  compute();
  std::vector<Floats> alone;
  for (Floats* r : results) {
    alone.push_back(*r);
    std::fill(r->begin(), r->end(), 12345.0f);
  }
  limit_threads(64);
  compute();
  for (size_t i = 0; i < results.size(); i++) {
    CHECK_MESSAGE(alone[i].empty() || std::memcmp(alone[i].data(), results[i]->data(), alone[i].size() * 4) == 0,
                  "result " + std::to_string(i) + " depends on the number of threads");
  }
}

/** d loss / d x by central differences of a double function. */
inline Doubles differences(Doubles x, const std::function<double(const Doubles&)>& loss, double h = 1e-5) {
  Doubles g(x.size());
  for (size_t i = 0; i < x.size(); i++) {
    const double keep = x[i];
    x[i] = keep + h;
    const double up = loss(x);
    x[i] = keep - h;
    const double down = loss(x);
    x[i] = keep;
    g[i] = (up - down) / (2 * h);
  }
  return g;
}

inline double dot(const Doubles& a, const Floats& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); i++) sum += a[i] * b[i];
  return sum;
}

} // namespace howdah::test

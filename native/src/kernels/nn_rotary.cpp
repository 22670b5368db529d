// Rotary position embedding (Su et al. 2021).
#include "nn_common.hpp"

namespace howdah::HOWDAH_ISA {

void rotary(const RotaryArgs& a) {
  const int64_t half = a.rotated / 2;
  const float sign = a.inverse ? -1.0f : 1.0f;
  parallel_rows(a.batch * a.time, a.heads * a.width, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; r++) {
      const int64_t b = r / a.time, t = r % a.time;
      const float* cosine = a.cosine + b * a.angle_batch + t * half;
      const float* sine = a.sine + b * a.angle_batch + t * half;
      for (int64_t h = 0; h < a.heads; h++) {
        const float* x = a.x + b * a.x_batch + t * a.x_time + h * a.x_head;
        float* y = a.y + b * a.y_batch + t * a.y_time + h * a.y_head;
        if (a.interleaved) {
          for (int64_t i = 0; i < half; i++) {
            const float u = x[2 * i], v = x[2 * i + 1], c = cosine[i], s = sign * sine[i];
            y[2 * i] = u * c - v * s;
            y[2 * i + 1] = v * c + u * s;
          }
        } else {
          for_vectors(half, [&](int64_t i, auto lanes, auto) {
            const vf u = load_lanes(x + i, lanes), v = load_lanes(x + half + i, lanes);
            const vf c = load_lanes(cosine + i, lanes), s = load_lanes(sine + i, lanes) * splat(sign);
            store_lanes(y + i, fnma(v, s, u * c), lanes);
            store_lanes(y + half + i, fma(u, s, v * c), lanes);
          });
        }
        if (x != y) {
          for (int64_t i = a.rotated; i < a.width; i++) y[i] = x[i];
        }
      }
    }
  });
}

} // namespace howdah::HOWDAH_ISA

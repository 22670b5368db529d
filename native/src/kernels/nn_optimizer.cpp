// AdamW over many tensors in one pass, and the norm of many tensors.
#include <vector>

#include "nn_common.hpp"

namespace howdah::HOWDAH_ISA {

namespace {

/** Cuts a list of tensors into pieces of at most kTaskSize elements that never straddle two of them. */
class Pieces {
 public:
  template <class Size>
  Pieces(int64_t count, Size&& size_of) : first_(static_cast<size_t>(count) + 1, 0) {
    for (int64_t t = 0; t < count; t++) first_[t + 1] = first_[t] + (size_of(t) + kTaskSize - 1) / kTaskSize;
  }
  int64_t count() const { return first_.back(); }
  /** The tensor of a piece, and where in it the piece starts. */
  int64_t tensor(int64_t piece, int64_t& start) const {
    const int64_t t = std::upper_bound(first_.begin(), first_.end(), piece) - first_.begin() - 1;
    start = (piece - first_[t]) * kTaskSize;
    return t;
  }

 private:
  std::vector<int64_t> first_; // first piece of each tensor
};

typedef double vd __attribute__((vector_size(W * 8)));

} // namespace

void adamw(const AdamWArgs& a) {
  const Pieces pieces(a.count, [&](int64_t t) { return a.tensors[t].size; });
  parallel_for(pieces.count(), [&](int64_t piece, int) {
    int64_t start;
    const AdamWTensor& t = a.tensors[pieces.tensor(piece, start)];
    const int64_t n = std::min(kTaskSize, t.size - start);
    const float* p = t.p + start;
    const float* m = t.m + start;
    const float* v = t.v + start;
    float* p_out = (t.p_out ? t.p_out : t.p) + start;
    float* m_out = (t.m_out ? t.m_out : t.m) + start;
    float* v_out = (t.v_out ? t.v_out : t.v) + start;
    const vf clip = splat(a.gradient_scale), b1 = splat(static_cast<float>(a.beta1)), b2 = splat(static_cast<float>(a.beta2));
    const vf one_less_b1 = splat(static_cast<float>(1 - a.beta1)), one_less_b2 = splat(static_cast<float>(1 - a.beta2));
    // lr (m/c1) / (sqrt(v/c2) + eps) = (lr/c1) m / (sqrt(v) / sqrt(c2) + eps)
    const vf step = splat(a.learning_rate / a.correction1), root = splat(1.0f / std::sqrt(a.correction2));
    const vf epsilon = splat(static_cast<float>(a.epsilon));
    const vf decay = splat(t.decay ? static_cast<float>(a.learning_rate * a.weight_decay) : 0.0f);
    const auto update = [&](auto* g) {
      for_vectors(n, [&](int64_t i, auto lanes, auto) {
        const vf gradient = load_lanes(g + i, lanes) * clip;
        const vf first = fma(b1, load_lanes(m + i, lanes), one_less_b1 * gradient);
        const vf second = fma(b2, load_lanes(v + i, lanes), one_less_b2 * gradient * gradient);
        const vf change = step * first / fma(sqrt(second), root, epsilon);
        store_lanes(m_out + i, first, lanes);
        store_lanes(v_out + i, second, lanes);
        const vf weight = load_lanes(p + i, lanes);
        store_lanes(p_out + i, fnma(weight, decay, weight) - change, lanes);
      });
    };
    if (t.g_type == DType::bf16) update(static_cast<const bf16_t*>(t.g) + start);
    else update(static_cast<const float*>(t.g) + start);
  });
}

void global_norm(const GlobalNormArgs& a) {
  const Pieces pieces(a.count, [&](int64_t t) { return a.sizes[t]; });
  double* partial = reinterpret_cast<double*>(scratch(0, static_cast<size_t>(pieces.count()) * sizeof(double)));
  parallel_for(pieces.count(), [&](int64_t piece, int) {
    int64_t start;
    const int64_t t = pieces.tensor(piece, start);
    vd sum[4] = {};
    const auto add = [&](auto* x) {
      for_vectors(std::min(kTaskSize, a.sizes[t] - start), [&](int64_t i, auto lanes, auto j) {
        const vd wide = __builtin_convertvector(load_lanes(x + i, lanes), vd);
        sum[j] += wide * wide;
      });
    };
    if (a.types && a.types[t] == DType::bf16) add(static_cast<const bf16_t*>(a.tensors[t]) + start);
    else add(static_cast<const float*>(a.tensors[t]) + start);
    const vd all = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    double result = 0;
    for (int i = 0; i < W; i++) result += all[i];
    partial[piece] = result;
  });
  double sum = 0;
  for (int64_t i = 0; i < pieces.count(); i++) sum += partial[i];
  *a.out = static_cast<float>(std::sqrt(sum));
}

} // namespace howdah::HOWDAH_ISA

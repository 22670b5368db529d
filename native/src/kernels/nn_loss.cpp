// Cross-entropy from logits, and from hidden states without the whole of the logits.
#include <vector>

#include "gemm.hpp"
#include "nn_common.hpp"

namespace howdah::HOWDAH_ISA {

namespace {

/** log(sum(exp(x))) of a row. */
float log_sum_exp(const float* x, int64_t n) {
  Chains best = chains(-__builtin_inff());
  for_vectors(n, [&](int64_t i, auto lanes, auto j) {
    best.lane[j] = max(best.lane[j], only_lanes(load_lanes(x + i, lanes), splat(-__builtin_inff()), lanes));
  });
  const float top = largest(best);
  Chains sum = chains(0);
  for_vectors(n, [&](int64_t i, auto lanes, auto j) {
    sum.lane[j] = sum.lane[j] + only_lanes(exp_bounded(load_lanes(x + i, lanes) - splat(top)), zero(), lanes);
  });
  return top + std::log(total(sum));
}

/** dx = (exp(x - lse) - onehot(target)) * dloss, f32 or bf16; dx may be x, or begin where x begins. */
template <class Out>
void softmax_minus_target(const float* x, int64_t n, float lse, int64_t target, float dloss, Out* dx) {
  const vf shift = splat(lse), factor = splat(dloss);
  const float at_target = (std::exp(x[target] - lse) - 1.0f) * dloss;
  for_vectors(n, [&](int64_t i, auto lanes, auto) {
    const vf g = exp_bounded(load_lanes(x + i, lanes) - shift) * factor;
    if constexpr (std::is_same_v<Out, float>) store_lanes(dx + i, g, lanes);
    else if constexpr (std::is_same_v<decltype(lanes), Full>) store_bf16(dx + i, g);
    else store_bf16_n(dx + i, g, lanes);
  });
  if constexpr (std::is_same_v<Out, float>) dx[target] = at_target;
  else dx[target] = f32_to_bf16(at_target);
}

/** Rows whose target counts. */
std::vector<int64_t> counted_rows(const int32_t* targets, int64_t rows) {
  std::vector<int64_t> result;
  result.reserve(static_cast<size_t>(rows));
  for (int64_t r = 0; r < rows; r++)
    if (targets[r] >= 0) result.push_back(r);
  return result;
}

/** What the forward and backward passes over chunks of rows share. */
class LogitChunks {
 public:
  LogitChunks(int64_t rows, int64_t channels, int64_t classes, const float* h, const float* w, const int32_t* targets, bool bf16)
      : channels(channels), classes(classes), rows(counted_rows(targets, rows)), h_(h), w_(w), bf16_(bf16) {
    leading = (classes + 15) / 16 * 16;
    // A chunk of logits of 8 MB stays in the outer cache, but too few rows make slow matrix products.
    const int64_t fitting = (int64_t{8} << 20) / 4 / std::max<int64_t>(1, leading) / 64 * 64;
    chunk = std::min<int64_t>(std::max<int64_t>(fitting, 256), std::max<int64_t>(1, count()));
    const int64_t chunks = (count() + chunk - 1) / chunk;
    if (chunks > 0) chunk = (count() + chunks - 1) / chunks; // chunks of one size
    logits = scratch(3, static_cast<size_t>(chunk * leading) * 4);
    dense_ = count() == rows ? nullptr : scratch(4, static_cast<size_t>(chunk * channels) * 4);
  }
  int64_t count() const { return static_cast<int64_t>(rows.size()); }
  bool dense() const { return !dense_; }

  /** Logits of counted rows [first, first + n); returns their hidden states, (n, channels). */
  const float* compute(int64_t first, int64_t n) {
    const float* hidden = h_ + first * channels;
    if (dense_) {
      parallel_rows(n, channels, [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; r++) {
          std::memcpy(dense_ + r * channels, h_ + rows[static_cast<size_t>(first + r)] * channels, static_cast<size_t>(channels) * 4);
        }
      });
      hidden = dense_;
    }
    GemmArgs g;
    g.m = n, g.n = classes, g.k = channels;
    g.a = hidden, g.lda = channels;
    g.b = w_, g.ldb = channels, g.trans_b = true;
    g.c = logits, g.ldc = leading;
    g.bf16_compute = bf16_;
    gemm(g);
    return hidden;
  }

  int64_t channels, classes;
  int64_t leading; // of the logits, padded to whole vectors
  int64_t chunk;   // rows
  float* logits;
  std::vector<int64_t> rows; // those that count

 private:
  const float* h_;
  const float* w_;
  bool bf16_;
  float* dense_; // hidden states of the chunk when some rows do not count
};

} // namespace

void cross_entropy(const CrossEntropyArgs& a) {
  const int64_t n = a.classes;
  parallel_rows(a.rows, n, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; r++) {
      const int64_t target = a.targets[r];
      const float lse = target < 0 ? 0 : log_sum_exp(a.logits + r * n, n);
      if (a.lse) a.lse[r] = lse;
      a.loss[r] = target < 0 ? 0 : lse - a.logits[r * n + target];
    }
  });
}

void cross_entropy_grad(const CrossEntropyGradArgs& a) {
  const int64_t n = a.classes;
  parallel_rows(a.rows, n, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; r++) {
      const int64_t target = a.targets[r];
      if (target < 0) std::fill_n(a.dlogits + r * n, n, 0.0f);
      else softmax_minus_target(a.logits + r * n, n, a.lse[r], target, a.dloss[r], a.dlogits + r * n);
    }
  });
}

void linear_cross_entropy(const LinearCrossEntropyArgs& a) {
  LogitChunks chunks(a.rows, a.channels, a.classes, a.h, a.w, a.targets, a.bf16_compute);
  if (!chunks.dense()) {
    std::fill_n(a.loss, a.rows, 0.0f);
    if (a.lse) std::fill_n(a.lse, a.rows, 0.0f);
  }
  for (int64_t first = 0; first < chunks.count(); first += chunks.chunk) {
    const int64_t n = std::min(chunks.chunk, chunks.count() - first);
    chunks.compute(first, n);
    parallel_rows(n, a.classes, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) {
        const int64_t r = chunks.rows[static_cast<size_t>(first + i)];
        const float* logits = chunks.logits + i * chunks.leading;
        const float lse = log_sum_exp(logits, a.classes);
        a.loss[r] = lse - logits[a.targets[r]];
        if (a.lse) a.lse[r] = lse;
      }
    });
  }
}

void linear_cross_entropy_grad(const LinearCrossEntropyGradArgs& a) {
  LogitChunks chunks(a.rows, a.channels, a.classes, a.h, a.w, a.targets, a.bf16_compute);
  const bool narrow = a.bf16_compute; // the gradient of the logits is a matmul operand, so rounded anyway
  if (!chunks.dense()) {
    if (a.dh) std::fill_n(a.dh, a.rows * a.channels, 0.0f);
    if (!a.lse && a.loss) std::fill_n(a.loss, a.rows, 0.0f);
    if (!a.lse && a.lse_out) std::fill_n(a.lse_out, a.rows, 0.0f);
  }
  if (chunks.count() == 0 && a.dw) std::fill_n(a.dw, a.classes * a.channels, 0.0f);
  float* dense_dh = a.dh && !chunks.dense() ? scratch(5, static_cast<size_t>(chunks.chunk * a.channels) * 4) : nullptr;
  for (int64_t first = 0; first < chunks.count(); first += chunks.chunk) {
    const int64_t n = std::min(chunks.chunk, chunks.count() - first);
    const float* hidden = chunks.compute(first, n);
    parallel_rows(n, a.classes, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) {
        const int64_t r = chunks.rows[static_cast<size_t>(first + i)];
        const int64_t target = a.targets[r];
        float* logits = chunks.logits + i * chunks.leading;
        float lse;
        if (a.lse) {
          lse = a.lse[r];
        } else {
          lse = log_sum_exp(logits, a.classes);
          if (a.loss) a.loss[r] = lse - logits[target];
          if (a.lse_out) a.lse_out[r] = lse;
        }
        if (narrow) softmax_minus_target(logits, a.classes, lse, target, a.dloss[r], reinterpret_cast<bf16_t*>(logits));
        else softmax_minus_target(logits, a.classes, lse, target, a.dloss[r], logits);
      }
    });
    GemmArgs g;
    g.a = chunks.logits;
    g.ta = narrow ? Type::bf16 : Type::f32;
    g.lda = narrow ? 2 * chunks.leading : chunks.leading;
    g.bf16_compute = a.bf16_compute;
    if (a.dh) { // dlogits (n, classes) w (classes, channels)
      g.m = n, g.n = a.channels, g.k = a.classes;
      g.b = a.w, g.ldb = a.channels;
      g.c = dense_dh ? dense_dh : a.dh + first * a.channels;
      g.ldc = a.channels;
      gemm(g);
      for (int64_t i = 0; dense_dh && i < n; i++) {
        std::memcpy(a.dh + chunks.rows[static_cast<size_t>(first + i)] * a.channels, dense_dh + i * a.channels,
                    static_cast<size_t>(a.channels) * 4);
      }
    }
    if (a.dw) { // += dlogits^T h
      g.m = a.classes, g.n = a.channels, g.k = n;
      g.trans_a = true;
      g.b = hidden, g.ldb = a.channels;
      g.c = a.dw, g.ldc = a.channels;
      g.beta = first == 0 ? 0 : 1;
      gemm(g);
    }
  }
}

} // namespace howdah::HOWDAH_ISA

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
  /** With `by_blocks` the logits of a chunk are never there as a whole, only numbers of half their size. */
  LogitChunks(int64_t rows, int64_t channels, int64_t classes, const float* h, const float* w, const int32_t* targets, float* logits, bool bf16, bool by_blocks = false)
      : channels(channels), classes(classes), logits(logits), rows(counted_rows(targets, rows)), h_(h), w_(w), bf16_(bf16) {
    leading = (classes + 15) / 16 * 16;
    chunk = logit_rows(count(), classes, by_blocks);
    const int64_t chunks = (count() + chunk - 1) / chunk;
    if (chunks > 0) chunk = (count() + chunks - 1) / chunks; // chunks of one size
    dense_ = count() == rows ? nullptr : scratch(4, static_cast<size_t>(chunk * channels) * 4);
  }
  int64_t count() const { return static_cast<int64_t>(rows.size()); }
  bool dense() const { return !dense_; }

  /** Logits of counted rows [first, first + n); returns their hidden states, (n, channels). */
  const float* compute(int64_t first, int64_t n) {
    const float* hidden = gather(first, n);
    multiply(hidden, n, 0, classes, logits, leading);
    return hidden;
  }

  /** Hidden states of counted rows [first, first + n), (n, channels). */
  const float* gather(int64_t first, int64_t n) {
    const float* hidden = h_ + first * channels;
    if (dense_) {
      parallel_rows(n, channels, [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; r++) {
          std::memcpy(dense_ + r * channels, h_ + rows[static_cast<size_t>(first + r)] * channels, static_cast<size_t>(channels) * 4);
        }
      });
      hidden = dense_;
    }
    return hidden;
  }

  /** Logits of those n rows for `count` classes from class `first` on. */
  void multiply(const float* hidden, int64_t n, int64_t first, int64_t count, float* to, int64_t ld) const {
    GemmArgs g;
    g.m = n, g.n = count, g.k = channels;
    g.a = hidden, g.lda = channels;
    g.b = w_ + first * channels, g.ldb = channels, g.trans_b = true;
    g.c = to, g.ldc = ld;
    g.bf16_compute = bf16_;
    gemm(g);
  }

  int64_t channels, classes;
  int64_t leading; // of the logits, padded to whole vectors
  int64_t chunk;   // rows
  float* const logits;
  std::vector<int64_t> rows; // those that count

 private:
  const float* h_;
  const float* w_;
  bool bf16_;
  float* dense_; // hidden states of the chunk when some rows do not count
};

constexpr int64_t kClassBlock = 2048; // classes whose logits are there at one time: some MB for all rows of a chunk

/** One row on its walk over the classes: sum is of exp(logit) / 2^power. */
struct RowSum {
  float power, sum, at_target;
};

/** A power of two below which numbers of a row may lie by 40 bits before its scale is changed. */
float power_above(float top) { return std::isfinite(top) ? std::ceil(top) : 0; }

/**
 * exp(logit) / 2^power of `n` classes as bf16, from class `first` on: to[first ...]. A power of two leaves the digits alone, so the first block chooses
 * one and those before are changed only where later logits outgrow it.
 */
void exponentials(const float* logits, int64_t first, int64_t n, int64_t target, RowSum& row, bf16_t* to) {
  Chains best = chains(-__builtin_inff());
  for_vectors(n, [&](int64_t i, auto lanes, auto j) {
    best.lane[j] = max(best.lane[j], only_lanes(load_lanes(logits + i, lanes), splat(-__builtin_inff()), lanes));
  });
  const float top = largest(best) * kLog2e;
  if (first == 0) {
    row = {power_above(top), 0, 0};
  } else if (top > row.power + 40) {
    const float power = power_above(top), factor = std::exp2(row.power - power);
    row.power = power;
    row.sum *= factor;
    for_vectors(first, [&](int64_t i, auto lanes, auto) { store_lanes(to + i, load_lanes(to + i, lanes) * splat(factor), lanes); });
  }
  if (target >= first && target < first + n) row.at_target = logits[target - first];
  const vf shift = splat(-row.power), log2e = splat(kLog2e);
  Chains sum = chains(0);
  for_vectors(n, [&](int64_t i, auto lanes, auto j) {
    const vf x = only_lanes(exp2_bounded(fma(load_lanes(logits + i, lanes), log2e, shift)), zero(), lanes);
    sum.lane[j] = sum.lane[j] + x;
    store_lanes(to + first + i, x, lanes);
  });
  row.sum += total(sum);
}

/**
 * The gradient with bf16 products and many classes. With q = exp(logit) / 2^power, s its sum over the classes, the gradient of a row's logits is
 * dloss / s (q - s onehot(target)): what stands in brackets is rounded to bf16 once and multiplied, the factor goes to dh's row and, for dw, to h's.
 * So no logits are kept in f32, twice the rows fit, and w and dw are walked over half as often.
 */
void linear_cross_entropy_grad_by_blocks(const LinearCrossEntropyGradArgs& a, LogitChunks& chunks, float* dense_dh) {
  const int64_t block_rows = chunks.chunk, channels = a.channels;
  float* const block = scratch(6, static_cast<size_t>(block_rows * (kClassBlock + channels + 4)) * 4);
  float* const scaled = block + block_rows * kClassBlock; // h times the row's factor
  RowSum* const sums = reinterpret_cast<RowSum*>(scaled + block_rows * channels);
  bf16_t* const gradient = reinterpret_cast<bf16_t*>(chunks.logits);
  for (int64_t first = 0; first < chunks.count(); first += chunks.chunk) {
    const int64_t n = std::min(chunks.chunk, chunks.count() - first);
    const float* hidden = chunks.gather(first, n);
    const auto row_of = [&](int64_t i) { return chunks.rows[static_cast<size_t>(first + i)]; };
    for (int64_t c = 0; c < a.classes; c += kClassBlock) {
      const int64_t count = std::min(kClassBlock, a.classes - c);
      chunks.multiply(hidden, n, c, count, block, kClassBlock);
      parallel_rows(n, count, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++)
          exponentials(block + i * kClassBlock, c, count, a.targets[row_of(i)], sums[i], gradient + i * chunks.leading);
      });
    }
    const auto factor = [&](int64_t i) { return a.dloss[row_of(i)] / sums[i].sum; };
    for (int64_t i = 0; i < n; i++) {
      const RowSum& row = sums[i];
      const int64_t r = row_of(i), target = a.targets[r];
      gradient[i * chunks.leading + target] = f32_to_bf16(std::exp2(row.at_target * kLog2e - row.power) - row.sum);
      const float lse = static_cast<float>(row.power * 0.693147180559945 + std::log(static_cast<double>(row.sum)));
      if (!a.lse && a.loss) a.loss[r] = lse - row.at_target;
      if (!a.lse && a.lse_out) a.lse_out[r] = lse;
    }
    const auto scale_rows = [&](const float* from, const auto& to_row) {
      parallel_rows(n, channels, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++) {
          const vf f = splat(factor(i));
          float* const to = to_row(i);
          for_vectors(channels, [&](int64_t c, auto lanes, auto) { store_lanes(to + c, load_lanes(from + i * channels + c, lanes) * f, lanes); });
        }
      });
    };
    GemmArgs g;
    g.a = gradient, g.ta = Type::bf16, g.lda = chunks.leading;
    g.bf16_compute = true;
    if (a.dh) { // (n, classes) w (classes, channels)
      g.m = n, g.n = channels, g.k = a.classes;
      g.b = a.w, g.ldb = channels;
      float* const dh = dense_dh ? dense_dh : a.dh + first * channels;
      g.c = dh, g.ldc = channels;
      gemm(g);
      scale_rows(dh, [&](int64_t i) { return a.dh + row_of(i) * channels; });
    }
    if (a.dw) { // += (n, classes)^T (factor h)
      scale_rows(hidden, [&](int64_t i) { return scaled + i * channels; });
      g.m = a.classes, g.n = channels, g.k = n;
      g.trans_a = true;
      g.b = scaled, g.ldb = channels;
      g.c = a.dw, g.ldc = channels;
      g.beta = first == 0 ? 0 : 1;
      gemm(g);
    }
  }
}

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
  LogitChunks chunks(a.rows, a.channels, a.classes, a.h, a.w, a.targets, a.logits, a.bf16_compute);
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
  const bool narrow = a.bf16_compute; // the gradient of the logits is a matmul operand, so rounded anyway
  const bool by_blocks = a.by_blocks();
  LogitChunks chunks(a.rows, a.channels, a.classes, a.h, a.w, a.targets, a.logits, a.bf16_compute, by_blocks);
  if (!chunks.dense()) {
    if (a.dh) std::fill_n(a.dh, a.rows * a.channels, 0.0f);
    if (!a.lse && a.loss) std::fill_n(a.loss, a.rows, 0.0f);
    if (!a.lse && a.lse_out) std::fill_n(a.lse_out, a.rows, 0.0f);
  }
  if (chunks.count() == 0 && a.dw) std::fill_n(a.dw, a.classes * a.channels, 0.0f);
  float* dense_dh = a.dh && !chunks.dense() ? scratch(5, static_cast<size_t>(chunks.chunk * a.channels) * 4) : nullptr;
  if (by_blocks) return linear_cross_entropy_grad_by_blocks(a, chunks, dense_dh);
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

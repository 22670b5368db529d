// Choosing the next token (src/sample.hpp). Scores are f64 and summed in order, so that choices do not depend on the processor.
#include "../sample.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "nn_common.hpp"
#include "philox.hpp"

namespace howdah::HOWDAH_ISA {

namespace {

/** exp(x) for x <= 0, within 2 units in the last place; 0 below -708. One expression, so that the compiler makes vectors of it. */
HOWDAH_INLINE double exp_negative(double x) {
  const double bounded = x < -708 ? -708 : x;
  // Adding 1.5 * 2^52 rounds to a whole number and leaves it in the low bits of the word.
  constexpr double magic = 6755399441055744.0;
  const double shifted = bounded * 1.4426950408889634 + magic;
  const double n = shifted - magic;
  const double r = (bounded - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10;
  // Taylor: |r| <= 0.347, so the term after the last is below 2^-56.
  double p = 1.0 / 6227020800.0;
  p = p * r + 1.0 / 479001600.0;
  p = p * r + 1.0 / 39916800.0;
  p = p * r + 1.0 / 3628800.0;
  p = p * r + 1.0 / 362880.0;
  p = p * r + 1.0 / 40320.0;
  p = p * r + 1.0 / 5040.0;
  p = p * r + 1.0 / 720.0;
  p = p * r + 1.0 / 120.0;
  p = p * r + 1.0 / 24.0;
  p = p * r + 1.0 / 6.0;
  p = p * r + 0.5;
  p = p * r + 1.0;
  p = p * r + 1.0;
  const double power = std::bit_cast<double>((std::bit_cast<int64_t>(shifted) << 52) + 0x3ff0000000000000);
  return x < -708 ? 0.0 : p * power;
}

double number(const int32_t* words) {
  const uint64_t low = static_cast<uint32_t>(words[0]), high = static_cast<uint32_t>(words[1]);
  return std::bit_cast<double>(low | high << 32);
}

/** In [0, 1), 53 random bits. */
double uniform_at(const int32_t* settings, int32_t position) {
  // One block of Philox with a counter of (position, stream, 0, 0).
  uint32_t c0 = static_cast<uint32_t>(position), c1 = static_cast<uint32_t>(settings[SampleSettings::stream]), c2 = 0, c3 = 0;
  uint32_t k0 = static_cast<uint32_t>(settings[SampleSettings::seed]), k1 = static_cast<uint32_t>(settings[SampleSettings::seed + 1]);
  for (int round = 0; round < 10; round++) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c0, p1 = uint64_t{0xCD9E8D57u} * c2;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<uint32_t>(p1);
    c3 = static_cast<uint32_t>(p0);
    k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
  }
  return (static_cast<double>(c0 >> 5) * 67108864.0 + static_cast<double>(c1 >> 6)) / 9007199254740992.0;
}

struct Highest {
  int32_t token; // -1: not finite
  double score;
};

/** The highest score, of equals the first. */
Highest highest(const double* scores, int64_t n) {
  double most = -std::numeric_limits<double>::infinity(), sum = 0;
  for (int64_t i = 0; i < n; i++) {
    sum += scores[i];
    most = scores[i] > most ? scores[i] : most;
  }
  if (std::isnan(sum) || std::isinf(most)) return {-1, 0};
  return {static_cast<int32_t>(std::find(scores, scores + n, most) - scores), most};
}

/** The same of logits as they are, without a copy. */
int32_t greedy(const float* logits, int64_t n) {
  // A NaN passes every comparison unseen, but not a sum of differences from itself.
  vf most[4], odd[4];
  for (int j = 0; j < 4; j++) most[j] = splat(-std::numeric_limits<float>::infinity()), odd[j] = zero();
  for_vectors(n, [&](int64_t i, auto lanes, auto j) {
    const vf x = only_lanes(load_lanes(logits + i, lanes), splat(-std::numeric_limits<float>::infinity()), lanes);
    most[j] = max(x, most[j]);
    odd[j] = select(ne(x, x), splat(1.0f), odd[j]);
  });
  const float best = reduce_max(max(max(most[0], most[1]), max(most[2], most[3])));
  if (reduce_add((odd[0] + odd[1]) + (odd[2] + odd[3])) != 0 || std::isinf(best)) return -1;
  return static_cast<int32_t>(std::find(logits, logits + n, best) - logits);
}

/** The k-th highest score, by a heap of the k highest so far whose root is the lowest of them. */
double kth_highest(const double* scores, int64_t n, int64_t k, std::vector<double>& heap) {
  heap.assign(scores, scores + k);
  const auto later = std::greater<double>();
  std::make_heap(heap.begin(), heap.end(), later);
  constexpr int64_t block = 64;
  for (int64_t from = k; from < n; from += block) {
    const int64_t to = std::min(n, from + block);
    double most = scores[from];
    for (int64_t i = from + 1; i < to; i++) most = scores[i] > most ? scores[i] : most;
    if (most <= heap.front()) continue;
    for (int64_t i = from; i < to; i++) {
      if (scores[i] <= heap.front()) continue;
      std::pop_heap(heap.begin(), heap.end(), later);
      heap.back() = scores[i];
      std::push_heap(heap.begin(), heap.end(), later);
    }
  }
  return heap.front();
}

struct Kept {
  int32_t token;
  double weight;
};

/**
 * Tokens in order of likelihood, as far as anybody asks: they lie in buckets by the leading bits of their weights, and only buckets in which a
 * question is decided are sorted. A nucleus of most of the vocabulary costs as little as one of ten tokens.
 */
class Ranking {
 public:
  /** @param weights at most 1 each @param scores below `lowest` do not count */
  void fill(const double* weights, const double* scores, double lowest, int64_t n) {
    weights_ = weights;
    keys_.resize(static_cast<size_t>(n));
    std::fill_n(sum_, kBuckets, 0.0);
    total_ = 0;
    for (int64_t i = 0; i < n; i++) {
      const int64_t key = scores[i] < lowest ? kNone : std::min<int64_t>((one - std::bit_cast<int64_t>(weights[i])) >> shift, kBuckets - 1);
      keys_[static_cast<size_t>(i)] = static_cast<uint16_t>(key);
      if (key == kNone) continue;
      sum_[key] += weights[i];
      total_ += weights[i];
    }
  }
  double total() const { return total_; }

  struct Found {
    int32_t token = -1; // none
    double weight = 0;
    double sum = 0; // of all up to this one
  };
  /** The first token for which done(weight, sum of all up to it) holds, or else the last one there is. */
  template <class Done>
  Found first(Done&& done) {
    Found last;
    double sum = 0;
    for (int b = 0; b < kBuckets; b++) {
      if (sum_[b] == 0) continue;
      // The smallest weight that the bucket can hold decides with the whole sum whether the answer may be inside.
      if (b < kBuckets - 1 && !done(lightest(b), (sum + sum_[b]) * (1 + 1e-12))) {
        sum += sum_[b];
        last = {-1, 0, sum};
        continue;
      }
      for (const Kept& k : sorted(b)) {
        if (k.weight == 0) break;
        sum += k.weight;
        last = {k.token, k.weight, sum};
        if (done(k.weight, sum)) return last;
      }
    }
    return last.token >= 0 ? last : least(last.sum);
  }

 private:
  static constexpr int kBuckets = 4096;
  static constexpr uint16_t kNone = 0xffff;
  static constexpr int64_t one = 0x3ff0000000000000;
  static constexpr int shift = 46; // 64 buckets between a weight and half of it

  static double lightest(int bucket) { return std::bit_cast<double>(one - ((int64_t{bucket} + 1) << shift)); }

  const std::vector<Kept>& sorted(int bucket) {
    list_.clear();
    const int64_t n = static_cast<int64_t>(keys_.size());
    for (int64_t i = 0; i < n; i++)
      if (keys_[static_cast<size_t>(i)] == bucket) list_.push_back({static_cast<int32_t>(i), weights_[i]});
    std::sort(list_.begin(), list_.end(), [](const Kept& a, const Kept& b) { return a.weight > b.weight || (a.weight == b.weight && a.token < b.token); });
    return list_;
  }

  /** The least likely token that has a weight. */
  Found least(double sum) {
    for (int b = kBuckets - 1; b >= 0; b--) {
      if (sum_[b] == 0) continue;
      Found last{-1, 0, sum};
      for (const Kept& k : sorted(b))
        if (k.weight > 0) last = {k.token, k.weight, sum};
      return last;
    }
    return {};
  }

  const double* weights_ = nullptr;
  std::vector<uint16_t> keys_;
  std::vector<Kept> list_;
  double sum_[kBuckets];
  double total_ = 0;
};

/** Working memory, kept between calls. Kernels run on one thread at a time, and this one calls nothing in parallel. */
struct Memory {
  std::vector<double> scores, weights, heap;
  std::vector<int32_t> met;
  std::vector<Kept> kept;
  Ranking ranking;
};

int32_t choose(const SampleArgs& a, int64_t row, float* measures) {
  thread_local Memory memory;
  const int64_t n = a.classes;
  const float* logits = a.logits + row * n;
  const int32_t* settings = a.settings + row * SampleSettings::words;
  const double temperature = number(settings + SampleSettings::temperature), top_p = number(settings + SampleSettings::top_p),
               min_p = number(settings + SampleSettings::min_p);
  const double penalty = a.history ? number(settings + SampleSettings::penalty) : 1;
  const int64_t top_k = settings[SampleSettings::top_k];
  const bool measure = settings[SampleSettings::measure] != 0;
  if (temperature == 0 && penalty == 1 && !measure) return greedy(logits, n);

  memory.scores.resize(static_cast<size_t>(n));
  memory.weights.resize(static_cast<size_t>(n));
  double* scores = memory.scores.data();
  double* weights = memory.weights.data();
  const double scale = temperature == 0 ? 1 : 1 / temperature;
  for (int64_t i = 0; i < n; i++) scores[i] = static_cast<double>(logits[i]) * scale;
  /** exp of each score less the highest, and their sum from first to last. */
  auto weigh = [&](double top) {
    for (int64_t i = 0; i < n; i++) weights[i] = exp_negative(scores[i] - top);
    double total = 0;
    for (int64_t i = 0; i < n; i++) total += weights[i];
    return total;
  };
  Highest best{-1, 0};
  double total = 0, log_sum = 0;
  if (measure) {
    best = highest(scores, n);
    if (best.token < 0) return -1;
    total = weigh(best.score);
    double weighted = 0;
    for (int64_t i = 0; i < n; i++) weighted += weights[i] > 0 ? weights[i] * (scores[i] - best.score) : 0;
    log_sum = best.score + std::log(total);
    measures[1] = static_cast<float>(std::log(total) - weighted / total);
  }
  if (penalty != 1) {
    const int64_t seen = std::min<int64_t>(a.position[row] + 1, a.longest);
    memory.met.assign(a.history_out + row * a.longest, a.history_out + row * a.longest + std::max<int64_t>(seen, 0));
    std::sort(memory.met.begin(), memory.met.end());
    memory.met.erase(std::unique(memory.met.begin(), memory.met.end()), memory.met.end());
    for (const int32_t id : memory.met)
      if (id >= 0 && id < n) scores[id] = scores[id] < 0 ? scores[id] * penalty : scores[id] / penalty;
  }
  if (!measure || penalty != 1) {
    best = highest(scores, n);
    if (best.token < 0) return -1;
    total = -1;
  }
  int32_t token = best.token;
  if (temperature != 0) {
    const double uniform = uniform_at(settings, a.position[row] + 1 - settings[SampleSettings::start]);
    const bool filtered = (top_k > 0 && top_k < n) || top_p < 1 || min_p > 0;
    if (!filtered) {
      if (total < 0) total = weigh(best.score);
      double left = uniform * total;
      for (int64_t i = 0; i < n; i++) {
        if (weights[i] == 0) continue;
        token = static_cast<int32_t>(i);
        left -= weights[i];
        if (left < 0) break;
      }
    } else {
      if (total < 0) weigh(best.score);
      const double lowest = top_k > 0 && top_k < n ? kth_highest(scores, n, top_k, memory.heap) : -std::numeric_limits<double>::infinity();
      if (top_p < 1) {
        // The nucleus, and of that what is likely enough beside the most likely token; then the draw from it, in order of likelihood.
        Ranking& ranking = memory.ranking;
        ranking.fill(weights, scores, lowest, n);
        const double wanted = top_p * ranking.total();
        Ranking::Found end = ranking.first([&](double weight, double sum) { return sum >= wanted || weight < min_p; });
        if (end.weight < min_p) end.sum -= end.weight; // the first that is too unlikely
        const double target = uniform * end.sum;
        token = ranking.first([&](double, double sum) { return sum > target; }).token;
      } else {
        std::vector<Kept>& kept = memory.kept;
        kept.clear();
        total = 0;
        for (int64_t i = 0; i < n; i++) {
          if (scores[i] < lowest) continue;
          kept.push_back({static_cast<int32_t>(i), weights[i]});
          total += weights[i];
        }
        if (min_p > 0) {
          std::erase_if(kept, [&](const Kept& k) { return k.weight < min_p; });
          total = 0;
          for (const Kept& k : kept) total += k.weight;
        }
        double left = uniform * total;
        for (const Kept& k : kept) {
          if (k.weight == 0) continue;
          token = k.token;
          left -= k.weight;
          if (left < 0) break;
        }
      }
    }
  }
  if (measure) measures[0] = static_cast<float>(static_cast<double>(logits[token]) * scale - log_sum);
  return token;
}

void sample(const SampleArgs& a) {
  if (a.history && a.history_out != a.history) std::copy_n(a.history, a.rows * a.longest, a.history_out);
  // A row is a task: most rows are done before another thread is awake, those with draws are not.
  parallel_for(a.rows, [&](int64_t row, int) {
    const int32_t token = a.token[row], position = a.position[row];
    float measures[2] = {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::quiet_NaN()};
    int32_t next = -1;
    if (token >= 0) {
      if (a.history && position >= 0 && position < a.longest) a.history_out[row * a.longest + position] = token;
      next = choose(a, row, measures);
    }
    a.measures[2 * row] = measures[0], a.measures[2 * row + 1] = measures[1];
    a.next_position[row] = token >= 0 ? position + 1 : position;
    a.next[row] = next;
  });
}

} // namespace

extern const SampleTable sample_table;
const SampleTable sample_table = {sample};

} // namespace howdah::HOWDAH_ISA

// The k largest of each row.
#include <bit>
#include <vector>

#include "nn_common.hpp"

namespace howdah::HOWDAH_ISA {

namespace {

/** One candidate. Keys order as the numbers do: -0 equals 0, NaN comes below all. */
struct Candidate {
  int32_t key;
  int32_t index;
};

/** Larger first; equal keys in order of index. */
bool before(Candidate a, Candidate b) { return a.key != b.key ? a.key > b.key : a.index < b.index; }

HOWDAH_INLINE vi keys_of(vf x) {
  const vi word = bits(x + splat(0.0f)); // -0 + 0 is 0
  const vi ordered = word ^ ((word >> 31) & splat_i(INT32_MAX));
  return select(eq(x, x), ordered, splat_i(INT32_MIN));
}

/**
 * The k best of x[begin, end) into `best`, in no particular order: a heap whose top is the worst one kept. Whole vectors
 * that hold nothing better are passed over, which is nearly all of them.
 */
void select_best(const float* x, int64_t begin, int64_t end, int64_t k, std::vector<Candidate>& best) {
  best.clear();
  for (int64_t i = begin; i < end; i += W) {
    const int64_t n = std::min<int64_t>(W, end - i);
    const vi keys = keys_of(n == W ? load(x + i) : load_n(x + i, n));
    uint32_t candidates = n == W ? (1u << W) - 1 : (1u << n) - 1;
    if (static_cast<int64_t>(best.size()) == k) candidates &= mask_bits(gt(keys, splat_i(best.front().key)));
    while (candidates) {
      const int lane = std::countr_zero(candidates);
      candidates &= candidates - 1;
      const Candidate c{keys[lane], static_cast<int32_t>(i + lane)};
      if (static_cast<int64_t>(best.size()) < k) {
        best.push_back(c);
        std::push_heap(best.begin(), best.end(), before);
      } else if (before(c, best.front())) {
        std::pop_heap(best.begin(), best.end(), before);
        best.back() = c;
        std::push_heap(best.begin(), best.end(), before);
      }
    }
  }
}

void write_best(const TopKArgs& a, int64_t row, const std::vector<Candidate>& best) {
  for (int64_t i = 0; i < a.k; i++) {
    const int32_t index = best[static_cast<size_t>(i)].index;
    if (a.values) a.values[row * a.k + i] = a.x[row * a.columns + index];
    if (a.indices) a.indices[row * a.k + i] = index;
  }
}

} // namespace

void top_k(const TopKArgs& a) {
  // Pieces of long rows are searched apart.
  constexpr int64_t kPiece = 65536;
  const int64_t pieces = std::max<int64_t>(1, a.columns / kPiece);
  if (pieces == 1) {
    parallel_rows(a.rows, a.columns, [&](int64_t first, int64_t last) {
      std::vector<Candidate> best;
      for (int64_t r = first; r < last; r++) {
        select_best(a.x + r * a.columns, 0, a.columns, a.k, best);
        std::sort(best.begin(), best.end(), before);
        write_best(a, r, best);
      }
    });
    return;
  }
  std::vector<std::vector<Candidate>> found(static_cast<size_t>(a.rows * pieces));
  parallel_for(a.rows * pieces, [&](int64_t task, int) {
    const int64_t r = task / pieces, piece = task % pieces;
    const int64_t begin = a.columns * piece / pieces, end = a.columns * (piece + 1) / pieces;
    select_best(a.x + r * a.columns, begin, end, a.k, found[static_cast<size_t>(task)]);
  });
  std::vector<Candidate> all;
  for (int64_t r = 0; r < a.rows; r++) {
    all.clear();
    for (int64_t piece = 0; piece < pieces; piece++) {
      const std::vector<Candidate>& part = found[static_cast<size_t>(r * pieces + piece)];
      all.insert(all.end(), part.begin(), part.end());
    }
    std::partial_sort(all.begin(), all.begin() + a.k, all.end(), before);
    write_best(a, r, all);
  }
}

} // namespace howdah::HOWDAH_ISA

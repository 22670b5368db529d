// Rows of a table by id, and the sum of rows by id.
#include <vector>

#include "nn_common.hpp"

namespace howdah::HOWDAH_ISA {

void embedding(const EmbeddingArgs& a) {
  const int64_t n = a.channels;
  parallel_rows(a.rows, n, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; r++) {
      const int64_t id = std::clamp<int64_t>(a.ids[r], 0, a.classes - 1);
      std::memcpy(a.y + r * n, a.table + id * n, static_cast<size_t>(n) * 4);
    }
  });
}

namespace {

/** Rows of the table by range of ids, with the positions of dy that belong to each range in ascending order (a counting sort). */
struct Ranges {
  int64_t range, tasks;
  std::vector<int64_t> first;
  std::vector<int32_t> positions;

  explicit Ranges(const EmbeddingGradArgs& a) {
    // The ranges hold few ids each, because frequent ids are neighbours in most vocabularies.
    range = std::max<int64_t>(1, std::min<int64_t>((a.classes + 127) / 128, kTaskSize * 4 / std::max<int64_t>(1, a.channels)));
    tasks = (a.classes + range - 1) / range;
    first.assign(static_cast<size_t>(tasks) + 1, 0);
    positions.resize(static_cast<size_t>(a.rows));
    const auto valid = [&](int32_t id) { return id >= 0 && id < a.classes; };
    for (int64_t r = 0; r < a.rows; r++)
      if (valid(a.ids[r])) first[static_cast<size_t>(a.ids[r] / range) + 1]++;
    for (int64_t t = 0; t < tasks; t++) first[t + 1] += first[t];
    std::vector<int64_t> next(first.begin(), first.end() - 1);
    for (int64_t r = 0; r < a.rows; r++)
      if (valid(a.ids[r])) positions[static_cast<size_t>(next[a.ids[r] / range]++)] = static_cast<int32_t>(r);
  }
};

/** sum += dy of position i, while the row of the position after it, which lies anywhere, is fetched. */
HOWDAH_INLINE void add_row(const EmbeddingGradArgs& a, const Ranges& ranges, int64_t i, int64_t end, float* sum) {
  const int64_t n = a.channels;
  const float* dy = a.dy + int64_t{ranges.positions[i]} * n;
  if (i + 1 < end) {
    const float* next_row = a.dy + int64_t{ranges.positions[i + 1]} * n;
    for (int64_t c = 0; c < n; c += 16) __builtin_prefetch(next_row + c);
  }
  for_vectors(n, [&](int64_t c, auto lanes, auto) { store_lanes(sum + c, load_lanes(sum + c, lanes) + load_lanes(dy + c, lanes), lanes); });
}

/** The sums of a task's ids in f32 apart, then once onto what is there. */
template <class T>
void add_to_base(const EmbeddingGradArgs& a, const Ranges& ranges, int64_t task) {
  const int64_t n = a.channels, low = task * ranges.range, high = std::min(a.classes, low + ranges.range);
  const T* base = static_cast<const T*>(a.base);
  T* dtable = static_cast<T*>(a.dtable);
  if (base && base != dtable) std::memcpy(dtable + low * n, base + low * n, static_cast<size_t>((high - low) * n) * sizeof(T));
  if (!base) std::fill_n(dtable + low * n, (high - low) * n, T{0});
  const int64_t from = ranges.first[task], end = ranges.first[task + 1];
  if (from == end) return;
  float* sums = scratch(0, static_cast<size_t>((high - low) * n) * 4);
  std::vector<bool> touched(static_cast<size_t>(high - low));
  for (int64_t i = from; i < end; i++) {
    const int64_t row = a.ids[ranges.positions[i]] - low;
    if (!touched[static_cast<size_t>(row)]) std::fill_n(sums + row * n, n, 0.0f);
    touched[static_cast<size_t>(row)] = true;
    add_row(a, ranges, i, end, sums + row * n);
  }
  for (int64_t row = 0; row < high - low; row++) {
    if (!touched[static_cast<size_t>(row)]) continue;
    T* to = dtable + (low + row) * n;
    for_vectors(n, [&](int64_t c, auto lanes, auto) { store_lanes(to + c, load_lanes(to + c, lanes) + load_lanes(sums + row * n + c, lanes), lanes); });
  }
}

} // namespace

void embedding_grad(const EmbeddingGradArgs& a) {
  // A task owns a range of ids.
  const Ranges ranges(a);
  const int64_t n = a.channels;
  parallel_for(ranges.tasks, [&](int64_t task, int) {
    if (a.type == DType::bf16) return add_to_base<bf16_t>(a, ranges, task);
    if (a.base) return add_to_base<float>(a, ranges, task);
    const int64_t low = task * ranges.range, high = std::min(a.classes, low + ranges.range);
    float* dtable = static_cast<float*>(a.dtable);
    std::fill_n(dtable + low * n, (high - low) * n, 0.0f);
    const int64_t end = ranges.first[task + 1];
    for (int64_t i = ranges.first[task]; i < end; i++) add_row(a, ranges, i, end, dtable + int64_t{a.ids[ranges.positions[i]]} * n);
  });
}

} // namespace howdah::HOWDAH_ISA

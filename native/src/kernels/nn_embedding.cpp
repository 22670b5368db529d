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

void embedding_grad(const EmbeddingGradArgs& a) {
  // A task owns a range of ids: it clears their rows and adds the gradients in ascending order of position. The ranges hold
  // few ids each, because frequent ids are neighbours in most vocabularies.
  const int64_t n = a.channels;
  const int64_t range = std::max<int64_t>(1, std::min<int64_t>((a.classes + 127) / 128, kTaskSize * 4 / std::max<int64_t>(1, n)));
  const int64_t tasks = (a.classes + range - 1) / range;
  // Positions sorted by range, stable (a counting sort).
  std::vector<int64_t> first(static_cast<size_t>(tasks) + 1, 0);
  std::vector<int32_t> positions(static_cast<size_t>(a.rows));
  const auto valid = [&](int32_t id) { return id >= 0 && id < a.classes; };
  for (int64_t r = 0; r < a.rows; r++)
    if (valid(a.ids[r])) first[static_cast<size_t>(a.ids[r] / range) + 1]++;
  for (int64_t t = 0; t < tasks; t++) first[t + 1] += first[t];
  std::vector<int64_t> next(first.begin(), first.end() - 1);
  for (int64_t r = 0; r < a.rows; r++)
    if (valid(a.ids[r])) positions[static_cast<size_t>(next[a.ids[r] / range]++)] = static_cast<int32_t>(r);
  parallel_for(tasks, [&](int64_t task, int) {
    const int64_t low = task * range, high = std::min(a.classes, low + range);
    std::fill_n(a.dtable + low * n, (high - low) * n, 0.0f);
    for (int64_t i = first[task]; i < first[task + 1]; i++) {
      const int64_t r = positions[i];
      const float* dy = a.dy + r * n;
      if (i + 1 < first[task + 1]) { // the next row lies anywhere
        const float* next_row = a.dy + int64_t{positions[i + 1]} * n;
        for (int64_t c = 0; c < n; c += 16) __builtin_prefetch(next_row + c);
      }
      float* sum = a.dtable + int64_t{a.ids[r]} * n;
      for_vectors(n, [&](int64_t c, auto lanes, auto) {
        store_lanes(sum + c, load_lanes(sum + c, lanes) + load_lanes(dy + c, lanes), lanes);
      });
    }
  });
}

} // namespace howdah::HOWDAH_ISA

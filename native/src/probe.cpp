#include "probe.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>

#include "isa.hpp"
#include "memory.hpp"
#include "pool.hpp"

HOWDAH_DECLARE_TABLE(ProbeTable, probe_table)

namespace howdah {
namespace {

using Clock = std::chrono::steady_clock;

double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

/** The best of as many runs as fit, at least two: the first may find cold caches and a slow clock. */
template <class Run>
double best_rate(double seconds, Run&& run) {
  const auto begin = Clock::now();
  double best = 0;
  for (int i = 0; i < 2 || since(begin) < seconds; i++) {
    const auto start = Clock::now();
    const double amount = run();
    best = std::max(best, amount / since(start));
  }
  return best;
}

double multiply(int64_t (*kernel)(int64_t), double seconds) {
  if (kernel(1) == 0) return 0;
  // Many short tasks, so that a neighbour on one core costs its share only. About 10 ms in all.
  const int64_t tasks = 16 * thread_count();
  return best_rate(seconds, [&] {
    std::atomic<int64_t> done{0};
    parallel_for(tasks, [&](int64_t, int) { done += kernel(20000); });
    return double(done.load());
  });
}

double read_memory(const ProbeTable& table, double seconds) {
  // Large beside the caches, small beside the memory: a virtual machine may show a cache that it shares with many.
  const int64_t bytes = int64_t(std::clamp<size_t>(4 * cache_sizes().l3, size_t{256} << 20, size_t{1} << 30));
  const BlockRef block = allocate(size_t(bytes));
  float* data = static_cast<float*>(block->data);
  constexpr int64_t piece = 1 << 19; // 2 MB
  const int64_t tasks = bytes / 4 / piece;
  // Pages that were never written all map to one page of zeros.
  parallel_for(tasks, [&](int64_t task, int) { std::fill_n(data + task * piece, piece, 1.0f); });
  const double rate = best_rate(seconds, [&] {
    parallel_for(tasks, [&](int64_t task, int) { table.read(data + task * piece, piece); });
    return double(tasks * piece * 4);
  });
  return rate;
}

} // namespace

double probe(Probe kind, double seconds) {
  static const ProbeTable& table = HOWDAH_TABLE(probe_table);
  switch (kind) {
    case Probe::f32: return multiply(table.multiply_f32, seconds);
    case Probe::bf16: return multiply(table.multiply_bf16, seconds);
    case Probe::read: return read_memory(table, seconds);
  }
  return 0;
}

} // namespace howdah

// The thread pool that every kernel shares.
//
// The rule for kernels: results never depend on the number of threads. Cut the work by shape alone, never by
// thread_count(), and combine partial results in a fixed order.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>
#include <vector>

namespace howdah {

/** How many threads parallel_for uses, the calling one included: HOWDAH_THREADS, or the cores this process may use. */
int thread_count();

/** Uses at most `count` of them from now on (tests compare one thread with several). Not while parallel_for runs. */
void limit_threads(int count);

/**
 * Treats denormal numbers as zero, in operands and results, on this thread for the lifetime of the object. parallel_for
 * does it for all tasks; a thread that computes outside of it (an interpreter loop) makes one of its own.
 */
class FlushDenormals {
 public:
  FlushDenormals();
  ~FlushDenormals();
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;

 private:
  uint64_t saved;
};

namespace detail {
void run_tasks(int64_t tasks, void (*call)(void* body, int64_t task, int thread), void* body);
}

/**
 * Runs body(task, thread) for task = 0 .. tasks - 1 and returns when all are done. Tasks are handed out one by one in
 * ascending order to whichever thread is free; `thread` is below thread_count(). The caller takes part. A call from
 * inside a task, or with one task, runs inline on the calling thread (with its own `thread`). The body must not throw.
 * Calls from several threads wait for one another. Worth it above about 5 microseconds of work per task.
 */
template <class F>
void parallel_for(int64_t tasks, F&& body) {
  using Body = std::remove_reference_t<F>;
  detail::run_tasks(
      tasks, [](void* b, int64_t task, int thread) { (*static_cast<Body*>(b))(task, thread); },
      const_cast<void*>(static_cast<const void*>(&body)));
}

/**
 * Memory of the calling thread's own, 64-byte aligned, at least `bytes` long, contents undefined. It grows and is never
 * given back; the next call of the same thread with the same slot may move it. Slots 0 to 7 are for kernels in general
 * (one kernel runs at a time on a thread); gemm uses 8 to 17, so gemm_inline may be called while 0 to 7 are in use.
 * The caller of parallel_for may pass its own scratch to the tasks. Throws std::bad_alloc.
 */
float* scratch(int slot, size_t bytes);
constexpr int scratch_slots = 18;

/** The `thread` number of the calling thread: 0 outside of parallel_for. */
int current_thread();

/**
 * What is read next: threads that wait for others fetch the beginning of their equal share of it into their caches, so that memory is
 * not idle between two kernels. Only a hint.
 */
void fetch_when_idle(const void* data, int64_t bytes);

/**
 * body(first, last) over all of 0 .. count, in pieces of `grain`. Each thread goes through a share of its own from the front, so that it
 * reads one long run of memory; whoever is done takes over the back half of what another one has left.
 */
template <class F>
void parallel_runs(int64_t count, int64_t grain, F&& body);

/** A stretch during which a thread of the pool worked on tasks of one parallel_for. Nanoseconds of the steady clock. */
struct Busy {
  int thread;
  int64_t start, end;
};
/** Starts (empty) or stops recording the above, up to a million stretches in all. For traces: it costs a lock per stretch. */
void record_busy(bool on);
std::vector<Busy> recorded_busy();

namespace detail {
/** What is left of a share: its first in the upper half, its end in the lower. */
struct alignas(64) Share {
  std::atomic<uint64_t> span{0};
};
constexpr int most_shares = 64;
} // namespace detail

template <class F>
void parallel_runs(int64_t count, int64_t grain, F&& body) {
  const int threads = thread_count() < detail::most_shares ? thread_count() : detail::most_shares;
  if (threads == 1 || count <= grain || count >= int64_t{1} << 31) return parallel_for(1, [&](int64_t, int) { body(int64_t{0}, count); });
  detail::Share shares[detail::most_shares];
  const int64_t each = (count + threads - 1) / threads;
  for (int t = 0; t < threads; t++) {
    const int64_t first = each * t < count ? each * t : count, last = first + each < count ? first + each : count;
    shares[t].span.store(static_cast<uint64_t>(first) << 32 | static_cast<uint64_t>(last), std::memory_order_relaxed);
  }
  parallel_for(threads, [&](int64_t, int thread) {
    const int own = thread < threads ? thread : 0;
    const auto span_of = [](uint64_t first, uint64_t last) { return first << 32 | last; };
    while (true) {
      for (uint64_t now = shares[own].span.load(std::memory_order_relaxed);;) {
        const int64_t first = static_cast<int64_t>(now >> 32), last = static_cast<int64_t>(now & 0xffffffff);
        if (first >= last) break;
        const int64_t end = first + (grain < last - first ? grain : last - first);
        if (!shares[own].span.compare_exchange_weak(now, span_of(end, last), std::memory_order_relaxed)) continue;
        body(first, end);
        now = shares[own].span.load(std::memory_order_relaxed);
      }
      // The back half of what another one has left is this thread's next share.
      bool helped = false;
      for (int turn = 1; turn < threads && !helped; turn++) {
        std::atomic<uint64_t>& span = shares[(own + turn) % threads].span;
        for (uint64_t now = span.load(std::memory_order_relaxed); !helped;) {
          const int64_t first = static_cast<int64_t>(now >> 32), last = static_cast<int64_t>(now & 0xffffffff);
          if (first >= last) break;
          const int64_t middle = last - first <= grain ? first : first + (last - first) / 2;
          if (!span.compare_exchange_weak(now, span_of(first, middle), std::memory_order_relaxed)) continue;
          shares[own].span.store(span_of(middle, last), std::memory_order_relaxed);
          helped = true;
        }
      }
      if (!helped) return;
    }
  });
}

} // namespace howdah

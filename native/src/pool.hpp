// The thread pool that every kernel shares.
//
// The rule for kernels: results never depend on the number of threads. Cut the work by shape alone, never by
// thread_count(), and combine partial results in a fixed order.
#pragma once

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
 * (one kernel runs at a time on a thread); gemm uses 8 to 16, so gemm_inline may be called while 0 to 7 are in use.
 * The caller of parallel_for may pass its own scratch to the tasks. Throws std::bad_alloc.
 */
float* scratch(int slot, size_t bytes);
constexpr int scratch_slots = 17;

/** The `thread` number of the calling thread: 0 outside of parallel_for. */
int current_thread();

/** A stretch during which a thread of the pool worked on tasks of one parallel_for. Nanoseconds of the steady clock. */
struct Busy {
  int thread;
  int64_t start, end;
};
/** Starts (empty) or stops recording the above, up to a million stretches in all. For traces: it costs a lock per stretch. */
void record_busy(bool on);
std::vector<Busy> recorded_busy();

} // namespace howdah

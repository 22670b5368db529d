#include "pool.hpp"

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif
#ifdef __linux__
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <time.h>
#endif

namespace howdah {
namespace {

// ---- How many threads ----

#ifdef __linux__
/** Cores' worth of time that the control group grants (containers), or 0 without a limit. */
double quota() {
  if (std::FILE* f = std::fopen("/sys/fs/cgroup/cpu.max", "r")) {
    double time = 0, period = 0;
    const int fields = std::fscanf(f, "%lf %lf", &time, &period); // "max 100000" without a limit
    std::fclose(f);
    return fields == 2 && period > 0 ? time / period : 0;
  }
  const auto number = [](const char* path) {
    double x = 0;
    if (std::FILE* f = std::fopen(path, "r")) {
      if (std::fscanf(f, "%lf", &x) != 1) x = 0;
      std::fclose(f);
    }
    return x;
  };
  const double time = number("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), period = number("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
  return time > 0 && period > 0 ? time / period : 0;
}
#endif

int available_cores() {
  int cores = (int)std::thread::hardware_concurrency();
#ifdef __linux__
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) cores = CPU_COUNT(&set);
  const double granted = quota();
  if (granted > 0 && granted < cores) cores = (int)std::ceil(granted);
#endif
  return cores < 1 ? 1 : cores;
}

constexpr int most_threads = 256;

int configured_threads() {
  const char* text = std::getenv("HOWDAH_THREADS");
  const int wanted = text ? std::atoi(text) : 0;
  const int threads = wanted > 0 ? wanted : available_cores();
  return threads < most_threads ? threads : most_threads;
}

// ---- Waiting ----

void relax() {
#if defined(__x86_64__) || defined(_M_X64)
  _mm_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

/** What threads with nothing to do fetch into their caches. Read and written without order: fetching what is not meant does no harm. */
std::atomic<const char*> ahead_data{nullptr};
std::atomic<int64_t> ahead_bytes{0};
std::atomic<int> ahead_threads{1};

/** A thread's part of that. */
class Ahead {
 public:
  explicit Ahead(int thread) : thread(thread) {}

  /** Fetches a few lines; false when there is nothing left to fetch. */
  bool fetch() {
    const char* const data = ahead_data.load(std::memory_order_relaxed);
    if (data != seen) {
      seen = data;
      const int threads = ahead_threads.load(std::memory_order_relaxed);
      const int64_t bytes = ahead_bytes.load(std::memory_order_relaxed), share = bytes / (threads < 1 ? 1 : threads);
      at = share * thread;
      end = thread < threads && data ? at + (share < most ? share : most) : at;
    }
    if (at >= end) return false;
    for (int i = 0; i < 4 && at < end; i++, at += 64) __builtin_prefetch(seen + at, 0, 2);
    return true;
  }

 private:
  /** As much as the second cache has room for beside what is worked on. */
  static constexpr int64_t most = 256 << 10;
  const int thread;
  const char* seen = nullptr;
  int64_t at = 0, end = 0;
};

/**
 * Spins until done() holds, for about 40 microseconds at most: longer would steal time from whoever shares the core. If stop() holds it is
 * given up early.
 */
template <class Done, class Stop>
bool spin(Ahead& ahead, Done&& done, Stop&& stop) {
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + std::chrono::microseconds(40);
  do {
    if (stop()) break;
    for (int i = 0; i < 16; i++) {
      if (done()) return true;
      if (!ahead.fetch()) relax();
    }
  } while (Clock::now() < end);
  return done();
}

/** The core that the calling thread runs on; -1 where nobody tells. */
int core() {
#ifdef __linux__
  return sched_getcpu();
#else
  return -1;
#endif
}

// ---- The pool ----

int64_t nanoseconds_now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

thread_local int this_thread = 0;
thread_local bool inside_task = false;

#ifdef __linux__
/** Processor time of a thread, in nanoseconds. */
int64_t time_on(clockid_t clock) {
  timespec t{};
  return clock_gettime(clock, &t) == 0 ? t.tv_sec * 1000000000ll + t.tv_nsec : 0;
}
#endif

/**
 * One job at a time, in the fields below. A thread takes a task by counting `remaining` down, and reads the other fields
 * only after that: they cannot change before the task it took has been counted in `finished`. A thread that comes late
 * finds `remaining` at zero and touches nothing, so nobody ever waits for a thread that holds no task.
 *
 * A thread that holds a task and has lost its core to another process makes everybody wait for milliseconds. When that has
 * happened the others rest for a while: the caller starts alone, and calls them once a job turns out to be long enough to be worth it.
 *
 * A system that is short of cores may put a thread on the core of the caller, where it can only take the caller's time: it takes no task
 * there and does not spin, and the others rest as well.
 */
class Pool {
 public:
  explicit Pool(int threads) : limit(threads), threads(threads), watches_cores(threads <= available_cores()), workers(size_t(threads)) {
    for (int id = 1; id < threads; id++) std::thread([this, id] { work(id); }).detach();
  }

  static constexpr int64_t microsecond = 1000, millisecond = 1000 * microsecond;
  /** Waiting for a thread that has lost its core is worth a rest from here on. */
  static constexpr int64_t long_wait = 300 * microsecond;
  /** A job that the caller has worked on alone for so long, or for an eighth of their rest, is worth calling the others. */
  static constexpr int64_t long_job = 2 * millisecond;
  /** A rest that did not help, since the same happened this soon after, is followed by one of twice the length. */
  static constexpr int64_t soon = 8 * millisecond, longest_rest = 64 * millisecond;
  /** The first rest after a thread was found on the caller's core. */
  static constexpr int64_t crowded_rest = millisecond;

  void run(int64_t tasks, void (*call)(void*, int64_t, int), void* body) {
    const std::lock_guard<std::mutex> one_caller(callers);
    // The counters have 32 bits (what a futex can wait on), so an extreme number of tasks goes in groups.
    group = tasks >> 30 ? (tasks + (1 << 30) - 1) >> 30 : 1;
    total = tasks;
    function = call;
    argument = body;
    const int32_t groups = (int32_t)((tasks + group - 1) / group);
    count = groups;
    finished.store(0, std::memory_order_relaxed);
    const int64_t start = nanoseconds_now();
    if (watches_cores) {
      const int here = core();
      if (here != caller_core.load(std::memory_order_relaxed)) caller_core.store(here, std::memory_order_relaxed);
      if (crowded.load(std::memory_order_relaxed)) {
        crowded.store(false, std::memory_order_relaxed);
        rest_for(crowded_rest, start);
      }
    }
    const bool resting = start < rest_until;
    open.store(!resting, std::memory_order_seq_cst);
    remaining.store(groups, std::memory_order_seq_cst);
    if (!resting) wake();
    inside_task = true;
    if (resting) {
      const int64_t alone = rest / 8 > long_job ? rest / 8 : long_job;
      while (nanoseconds_now() - start < alone && take()) {
      }
      if (remaining.load(std::memory_order_relaxed) > 0) {
        open.store(true, std::memory_order_seq_cst);
        wake();
      }
    }
    drain();
    inside_task = false;
    const auto done = [&] { return finished.load(std::memory_order_acquire) == groups; };
    if (spin(ahead, done, [] { return false; })) return;
    const Watch watch(*this);
    caller_sleeps.store(true, std::memory_order_seq_cst);
    for (int32_t now; (now = finished.load(std::memory_order_seq_cst)) != groups;) finished.wait(now);
    caller_sleeps.store(false, std::memory_order_relaxed);
    const int64_t now = nanoseconds_now(), waited = watch.lost(now);
    if (waited < long_wait || waited < (now - start) / 8) return;
    // At first as long as was lost, so that rare interruptions cost little; a neighbour that stays makes it grow.
    rest_for(waited, now);
  }

  std::atomic<int> limit;
  const int threads;
  /** Whether each thread could have a core of its own. */
  const bool watches_cores;
  std::atomic<bool> recording{false};
  std::mutex busy_mutex;
  std::vector<Busy> busy;

 private:
  /** What a thread of the pool is known by. */
  struct alignas(64) Worker {
    std::atomic<bool> holds_task{false};
#ifdef __linux__
    clockid_t clock{};
    std::atomic<bool> has_clock{false};
#endif
  };

  /** Tells whether those who hold tasks while the caller waits are at work, or have lost their cores. Only Linux tells. */
  struct Watch {
#ifdef __linux__
    explicit Watch(Pool& pool) : pool(pool), start(nanoseconds_now()) {
      for (int id = 1; id < pool.threads; id++) {
        const Worker& worker = pool.workers[size_t(id)];
        if (worker.holds_task.load(std::memory_order_acquire) && worker.has_clock.load(std::memory_order_acquire)) {
          watched = id;
          worked = time_on(worker.clock);
          return; // one is enough: with several, the others' turn comes
        }
      }
    }
    /** Nanoseconds since the start that were waited for a thread without a core: 0 if it has worked for half of them. */
    int64_t lost(int64_t now) const {
      if (watched == 0) return 0;
      const int64_t waited = now - start, done = time_on(pool.workers[size_t(watched)].clock) - worked;
      return done < waited / 2 ? waited - done : 0;
    }

   private:
    Pool& pool;
    const int64_t start;
    int watched = 0;
    int64_t worked = 0;
#else
    explicit Watch(Pool&) {}
    int64_t lost(int64_t) const { return 0; }
#endif
  };

  /** The others rest from now on, for `first` or twice as long as they last did. */
  void rest_for(int64_t first, int64_t now) {
    rest = now - rest_until > soon ? first : 2 * rest;
    if (rest > longest_rest) rest = longest_rest;
    rest_until = now + rest;
  }

  void wake() {
    if (sleepers.load(std::memory_order_seq_cst) > 0) {
      epoch.fetch_add(1, std::memory_order_release);
      epoch.notify_all();
    }
  }

  /** Runs tasks until none is left. */
  void drain() {
    const auto next = [&] {
      return this_thread < limit.load(std::memory_order_relaxed) &&
             (this_thread == 0 || open.load(std::memory_order_relaxed)) && take();
    };
    if (!recording.load(std::memory_order_relaxed)) {
      while (next()) {
      }
      return;
    }
    const int64_t start = nanoseconds_now();
    if (!next()) return;
    while (next()) {
    }
    const std::lock_guard<std::mutex> one(busy_mutex);
    if (busy.size() < (1u << 20)) busy.push_back({this_thread, start, nanoseconds_now()});
  }

  /** Runs one task of the current job; false if none is left. */
  bool take() {
    int32_t left = remaining.load(std::memory_order_acquire);
    do {
      if (left <= 0) return false;
    } while (!remaining.compare_exchange_weak(left, left - 1, std::memory_order_acq_rel, std::memory_order_acquire));
    const int64_t first = (int64_t)(count - left) * group;
    const int64_t last = first + group < total ? first + group : total;
    const int32_t groups = count;
    for (int64_t task = first; task < last; task++) function(argument, task, this_thread);
    // From here on the fields may already be those of the next job.
    if (finished.fetch_add(1, std::memory_order_seq_cst) + 1 == groups && caller_sleeps.load(std::memory_order_seq_cst))
      finished.notify_all();
    return true;
  }

  [[noreturn]] void work(int id) {
    this_thread = id;
    inside_task = true; // whatever runs here runs inside a task
    const FlushDenormals flush;
    Ahead ahead_of_me(id);
    Worker& me = workers[size_t(id)];
#ifdef __linux__
    me.has_clock.store(pthread_getcpuclockid(pthread_self(), &me.clock) == 0, std::memory_order_release);
#endif
    const auto wanted = [&] {
      return remaining.load(std::memory_order_seq_cst) > 0 && open.load(std::memory_order_seq_cst) &&
             id < limit.load(std::memory_order_relaxed);
    };
    const auto on_callers_core = [&] { return watches_cores && core() == caller_core.load(std::memory_order_relaxed); };
    for (;;) {
      const bool found = spin(ahead_of_me, wanted, on_callers_core);
      const bool in_the_way = on_callers_core();
      if (found && !in_the_way) {
        me.holds_task.store(true, std::memory_order_relaxed);
        drain();
        me.holds_task.store(false, std::memory_order_relaxed);
        continue;
      }
      // Announce the sleep, look once more, then sleep until the epoch changes. With both sides in sequentially consistent
      // order, either the caller sees the sleeper or the sleeper sees the job.
      const uint32_t seen = epoch.load(std::memory_order_acquire);
      sleepers.fetch_add(1, std::memory_order_seq_cst);
      if (found) {
        // The caller gets on without: it does all that nobody else takes.
        crowded.store(true, std::memory_order_relaxed);
        epoch.wait(seen);
      } else if (!wanted()) epoch.wait(seen);
      sleepers.fetch_sub(1, std::memory_order_seq_cst);
    }
  }

  std::mutex callers;
  Ahead ahead{0}; // of the caller
  void (*function)(void*, int64_t, int) = nullptr;
  void* argument = nullptr;
  int64_t total = 0, group = 1;
  int32_t count = 0;
  alignas(64) std::atomic<int32_t> remaining{0};
  alignas(64) std::atomic<int32_t> finished{0};
  alignas(64) std::atomic<uint32_t> epoch{0};
  alignas(64) std::atomic<int32_t> sleepers{0};
  /** Whether threads other than the caller may take tasks. */
  std::atomic<bool> open{true};
  /** Where the caller runs (-1: not known), and whether another thread was called to that core. */
  std::atomic<int> caller_core{-1};
  std::atomic<bool> crowded{false};
  /** The caller's: until when the others rest, and for how long they last did. Nanoseconds. */
  int64_t rest_until = 0, rest = 0;
  std::vector<Worker> workers;
  std::atomic<bool> caller_sleeps{false};
};

/** Never destroyed: its threads may outlive static objects when the process ends. */
Pool& pool() {
  static Pool& only = *new Pool(configured_threads());
  return only;
}

} // namespace

int thread_count() { return pool().limit.load(std::memory_order_relaxed); }

void limit_threads(int count) {
  Pool& p = pool();
  p.limit.store(count < 1 ? 1 : count > p.threads ? p.threads : count);
}

int current_thread() { return this_thread; }

void fetch_when_idle(const void* data, int64_t bytes) {
  ahead_bytes.store(bytes, std::memory_order_relaxed);
  ahead_threads.store(thread_count(), std::memory_order_relaxed);
  ahead_data.store(static_cast<const char*>(data), std::memory_order_relaxed);
}

void record_busy(bool on) {
  Pool& p = pool();
  const std::lock_guard<std::mutex> one(p.busy_mutex);
  if (on) p.busy.clear();
  p.recording.store(on);
}

std::vector<Busy> recorded_busy() {
  Pool& p = pool();
  const std::lock_guard<std::mutex> one(p.busy_mutex);
  return p.busy;
}

void detail::run_tasks(int64_t tasks, void (*call)(void*, int64_t, int), void* body) {
  if (tasks <= 0) return;
  const bool inside = inside_task;
  if (inside) { // denormals are flushed already
    for (int64_t task = 0; task < tasks; task++) call(body, task, this_thread);
    return;
  }
  const FlushDenormals flush;
  if (tasks == 1 || thread_count() == 1) {
    inside_task = true;
    for (int64_t task = 0; task < tasks; task++) call(body, task, this_thread);
    inside_task = false;
    return;
  }
  pool().run(tasks, call, body);
}

// ---- Denormals ----

#if defined(__x86_64__) || defined(_M_X64)
FlushDenormals::FlushDenormals() : saved(_mm_getcsr()) { _mm_setcsr((unsigned)saved | 0x8040); } // FTZ and DAZ
FlushDenormals::~FlushDenormals() {
  // Only the two bits are put back, so that exception flags raised meanwhile stay raised.
  _mm_setcsr((_mm_getcsr() & ~0x8040u) | ((unsigned)saved & 0x8040));
}
#elif defined(__aarch64__)
FlushDenormals::FlushDenormals() {
  __asm__ volatile("mrs %0, fpcr" : "=r"(saved));
  __asm__ volatile("msr fpcr, %0" : : "r"(saved | 1u << 24)); // FZ
}
FlushDenormals::~FlushDenormals() { __asm__ volatile("msr fpcr, %0" : : "r"(saved)); }
#else
FlushDenormals::FlushDenormals() : saved(0) {}
FlushDenormals::~FlushDenormals() {}
#endif

// ---- Scratch ----

namespace {

constexpr size_t huge_page = 2u << 20;

#if defined(__SANITIZE_ADDRESS__)
#define HOWDAH_EXACT_SCRATCH 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HOWDAH_EXACT_SCRATCH 1
#endif
#endif
#ifdef HOWDAH_EXACT_SCRATCH
constexpr bool exact = true; // a block of just the size asked for, so that AddressSanitizer sees its end
#else
constexpr bool exact = false;
#endif

struct Block {
  void* data = nullptr;
  size_t bytes = 0;

  void grow(size_t wanted) {
    release();
    if (exact) {
      data = ::operator new(wanted, std::align_val_t(64));
      bytes = wanted;
      return;
    }
    // Doubling would waste much of what is large; a quarter more keeps the number of moves small.
    wanted += wanted / 4;
    const size_t alignment = wanted >= huge_page ? huge_page : 64;
    const size_t size = (wanted + alignment - 1) / alignment * alignment;
    data = ::operator new(size, std::align_val_t(alignment));
    bytes = size;
    large = alignment == huge_page;
#ifdef __linux__
    if (large) madvise(data, size, MADV_HUGEPAGE);
#endif
  }
  void release() {
    if (data) ::operator delete(data, std::align_val_t(large ? huge_page : 64));
    data = nullptr;
    bytes = 0;
  }
  ~Block() { release(); }

 private:
  bool large = false;
};

thread_local Block blocks[scratch_slots];

} // namespace

float* scratch(int slot, size_t bytes) {
  Block& block = blocks[slot];
  if (exact ? block.bytes != bytes : block.bytes < bytes) block.grow(bytes);
  return static_cast<float*>(block.data);
}

} // namespace howdah

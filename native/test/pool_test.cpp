// The thread pool: every task runs once, whoever calls and however often.
#include "pool.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <limits>
#ifdef __linux__
#include <sched.h>
#include <unistd.h>
#endif
#include <thread>
#include <vector>

#include "test.hpp"

using namespace howdah;

TEST("pool: each task runs exactly once and is finished when parallel_for returns") {
  for (int round = 0; round < 3000; round++) {
    const int64_t tasks = round % 37;
    std::vector<int> count((size_t)tasks);
    parallel_for(tasks, [&](int64_t task, int) { count[(size_t)task]++; });
    for (int c : count) CHECK(c == 1);
  }
}

TEST("pool: jobs after a pause, when the threads sleep") {
  for (int round = 0; round < 20; round++) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    std::atomic<int> count{0};
    parallel_for(8, [&](int64_t, int) {
      count++;
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    });
    CHECK(count == 8);
  }
}

TEST("pool: thread numbers are below thread_count and no two tasks run under one number at once") {
  std::vector<std::atomic<int>> busy((size_t)thread_count());
  std::atomic<int> wrong{0};
  parallel_for(2000, [&](int64_t, int thread) {
    if (thread < 0 || thread >= thread_count() || thread != current_thread()) {
      wrong++;
      return;
    }
    if (busy[(size_t)thread].fetch_add(1) != 0) wrong++;
    busy[(size_t)thread].fetch_sub(1);
  });
  CHECK(wrong == 0);
}

TEST("pool: a call from inside a task runs inline under the same number") {
  std::atomic<int> count{0}, wrong{0};
  parallel_for(16, [&](int64_t, int outer) {
    parallel_for(10, [&](int64_t, int inner) {
      count++;
      if (inner != outer) wrong++;
    });
  });
  CHECK(count == 160);
  CHECK(wrong == 0);
}

TEST("pool: several callers at once") {
  std::atomic<int64_t> sum{0};
  std::vector<std::thread> callers;
  for (int i = 0; i < 4; i++)
    callers.emplace_back([&] {
      for (int round = 0; round < 300; round++) parallel_for(9, [&](int64_t task, int) { sum += task; });
    });
  for (auto& caller : callers) caller.join();
  CHECK(sum == 4 * 300 * 36);
}

TEST("pool: limit_threads(1) keeps all work on the caller") {
  limit_threads(1);
  CHECK(thread_count() == 1);
  const auto self = std::this_thread::get_id();
  std::atomic<int> elsewhere{0};
  parallel_for(200, [&](int64_t, int) { elsewhere += std::this_thread::get_id() != self; });
  CHECK(elsewhere == 0);
  limit_threads(99);
}

#ifdef __linux__
static void busy(int microseconds) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(microseconds);
  while (std::chrono::steady_clock::now() < end) {
  }
}

/** On which cores the caller and the other threads of the pool may run, until it ends. */
class Cores {
 public:
  Cores() {
    if (thread_count() < 2 || sched_getaffinity(0, sizeof all, &all) != 0 || CPU_COUNT(&all) < thread_count()) return;
    std::vector<std::atomic<int>> seen(static_cast<size_t>(thread_count()));
    const auto count = [&] { return std::count_if(seen.begin() + 1, seen.end(), [](const auto& id) { return id != 0; }); };
    for (int round = 0; round < 5000 && count() < thread_count() - 1; round++)
      parallel_for(64, [&](int64_t, int thread) {
        seen[static_cast<size_t>(thread)] = static_cast<int>(gettid());
        busy(20);
      });
    known = count() == thread_count() - 1;
    if (known) for (size_t i = 1; i < seen.size(); i++) others.push_back(seen[i]);
    CPU_ZERO(&one);
    for (int c = 0; CPU_COUNT(&one) == 0; c++)
      if (CPU_ISSET(c, &all)) CPU_SET(c, &one);
    CPU_XOR(&rest, &all, &one);
  }
  ~Cores() { put(all, all); }
  void together() { put(one, one); }
  void apart() { put(one, rest); }
  /** False on a machine with too few cores, or so busy that not all threads were seen. */
  bool known = false;

 private:
  void put(const cpu_set_t& caller, const cpu_set_t& elsewhere) {
    if (!known) return;
    sched_setaffinity(0, sizeof caller, &caller);
    for (const int id : others) sched_setaffinity(id, sizeof elsewhere, &elsewhere);
  }
  cpu_set_t all, one, rest;
  std::vector<int> others;
};

TEST("pool: after a thread has kept everybody waiting without a core, short jobs are the caller's alone and long ones are shared") {
  Cores cores;
  if (!cores.known) return;
  cores.apart();
  using Clock = std::chrono::steady_clock;
  const auto milliseconds = [](int n) { std::this_thread::sleep_for(std::chrono::milliseconds(n)); };
  bool rested = false, shared = false;
  // A thread that sleeps looks like one that has lost its core. On a machine with other work it may take several tries to see it.
  for (int round = 0; round < 50 && !(rested && shared); round++) {
    parallel_for(8, [&](int64_t, int thread) { thread == 0 ? busy(200) : milliseconds(5); });
    const auto start = Clock::now();
    std::atomic<int> others{0};
    parallel_for(16, [&](int64_t, int thread) { others += thread != 0; });
    if (Clock::now() - start < std::chrono::milliseconds(1)) rested = rested || others == 0;
    others = 0;
    parallel_for(40, [&](int64_t, int thread) {
      others += thread != 0;
      busy(300);
    });
    shared = shared || others > 0;
  }
  CHECK(rested);
  CHECK(shared);
  // It passes.
  milliseconds(70);
  std::atomic<int> others{0};
  for (int round = 0; round < 200 && others == 0; round++)
    parallel_for(16, [&](int64_t, int thread) {
      others += thread != 0;
      busy(50);
    });
  CHECK(others > 0);
}

TEST("pool: a thread that is put on the caller's core takes no tasks until it has a core of its own") {
  Cores cores;
  if (!cores.known) return;
  const auto others_in = [](int jobs) {
    std::atomic<int> others{0};
    for (int job = 0; job < jobs; job++)
      parallel_for(16, [&](int64_t, int thread) {
        others += thread != 0;
        busy(20);
      });
    return others.load();
  };
  cores.together();
  others_in(1);
  CHECK(others_in(100) == 0);
  cores.apart();
  std::this_thread::sleep_for(std::chrono::milliseconds(70));
  int others = 0;
  for (int round = 0; round < 200 && others == 0; round++) others = others_in(4);
  CHECK(others > 0);
}
#endif

TEST("pool: denormals are flushed inside tasks, and the caller's mode comes back") {
#if defined(__x86_64__) || defined(__aarch64__)
  volatile float tiny = std::numeric_limits<float>::min();
  const auto half = [&] { return tiny * 0.5f; };
  CHECK(half() > 0);
  std::atomic<int> kept{0};
  parallel_for(64, [&](int64_t, int) { kept += half() != 0; });
  CHECK(kept == 0);
  parallel_for(1, [&](int64_t, int) { kept += half() != 0; });
  CHECK(kept == 0);
  CHECK(half() > 0);
#endif
}

TEST("pool: scratch is aligned, each thread's own, and keeps its contents") {
  std::atomic<int> wrong{0};
  parallel_for(64, [&](int64_t task, int) {
    const size_t n = (size_t)(1000 + task * 37);
    float* a = scratch(0, n * 4);
    float* b = scratch(1, n * 4);
    if ((uintptr_t)a % 64 || (uintptr_t)b % 64 || a == b) wrong++;
    for (size_t i = 0; i < n; i++) a[i] = (float)task, b[i] = -1;
    for (size_t i = 0; i < n; i++)
      if (a[i] != (float)task) {
        wrong++;
        break;
      }
  });
  CHECK(wrong == 0);
  scratch(2, 4096)[1000] = 5;
  CHECK(scratch(2, 4096)[1000] == 5);
}

TEST("pool: parallel_runs covers each number once, whoever helps whom") {
  for (const int64_t count : {int64_t{1}, int64_t{7}, int64_t{64}, int64_t{1001}})
    for (const int64_t grain : {int64_t{1}, int64_t{3}, int64_t{50}})
      for (int round = 0; round < 50; round++) {
        std::vector<std::atomic<int>> times(static_cast<size_t>(count));
        std::atomic<int> wrong{0};
        parallel_runs(count, grain, [&](int64_t first, int64_t last) {
          wrong += first >= last;
          for (int64_t i = first; i < last; i++) times[static_cast<size_t>(i)]++;
        });
        for (const auto& n : times) wrong += n != 1;
        CHECK(wrong == 0);
      }
}

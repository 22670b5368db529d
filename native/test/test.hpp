// The smallest test harness that does: TEST("what holds") { ... CHECK(condition); ... }
#pragma once

#include <cstdio>
#include <string>
#include <vector>

namespace howdah::test {

struct Test {
  const char* title;
  void (*run)();
};
std::vector<Test>& tests();
/** Counts a failure and prints it (the first few per test). */
void fail(const char* file, int line, const std::string& what);
/** Lets a measuring mode (`howdah_kernel_test bench gemm`) be added next to the tests of the same kernels. */
std::vector<Test>& benches();

struct Register {
  Register(std::vector<Test>& list, const char* title, void (*run)()) { list.push_back({title, run}); }
};

} // namespace howdah::test

#define HOWDAH_JOIN2(a, b) a##b
#define HOWDAH_JOIN(a, b) HOWDAH_JOIN2(a, b)
#define TEST(title)                                                                                             \
  static void HOWDAH_JOIN(test_, __LINE__)();                                                                   \
  static const howdah::test::Register HOWDAH_JOIN(register_, __LINE__)(howdah::test::tests(), title,            \
                                                                       HOWDAH_JOIN(test_, __LINE__));           \
  static void HOWDAH_JOIN(test_, __LINE__)()
#define BENCH(title)                                                                                            \
  static void HOWDAH_JOIN(bench_, __LINE__)();                                                                  \
  static const howdah::test::Register HOWDAH_JOIN(register_, __LINE__)(howdah::test::benches(), title,          \
                                                                       HOWDAH_JOIN(bench_, __LINE__));          \
  static void HOWDAH_JOIN(bench_, __LINE__)()
#define CHECK(condition) ((condition) ? (void)0 : howdah::test::fail(__FILE__, __LINE__, #condition))
#define CHECK_MESSAGE(condition, message) ((condition) ? (void)0 : howdah::test::fail(__FILE__, __LINE__, message))

// Runs the kernel tests: howdah_kernel_test [words that the titles must contain]
//                        howdah_kernel_test bench [words]
// The instruction set under test is HOWDAH_ISA or the best of the machine; without HOWDAH_ISA every one that the machine
// has is tested in turn, each in a process of its own.
#include <cstdlib>
#include <cstring>

#include "isa.hpp"
#include "pool.hpp"
#include "test.hpp"

namespace howdah::test {

static int failures = 0;

std::vector<Test>& tests() {
  static std::vector<Test> list;
  return list;
}
std::vector<Test>& benches() {
  static std::vector<Test> list;
  return list;
}
void fail(const char* file, int line, const std::string& what) {
  if (++failures <= 5) std::printf("    %s:%d: %s\n", file, line, what.c_str());
}

} // namespace howdah::test

int main(int argc, char** argv) {
  using namespace howdah;
  const bool bench = argc > 1 && std::strcmp(argv[1], "bench") == 0;
  const int first = bench ? 2 : 1;
#ifndef _WIN32
  if (!bench && !std::getenv("HOWDAH_ISA")) {
    int bad = 0;
    for (Isa isa : {Isa::portable, Isa::neon, Isa::avx2, Isa::avx512, Isa::avx512bf16}) {
      if (!isa_available(isa)) continue;
      setenv("HOWDAH_ISA", isa_name(isa), 1);
      std::string command = std::string("'") + argv[0] + "'";
      for (int i = first; i < argc; i++) command += std::string(" '") + argv[i] + "'";
      std::fflush(stdout);
      bad += std::system(command.c_str()) != 0;
    }
    return bad != 0;
  }
#endif
  std::printf("%s, %d threads\n", isa_name(isa()), thread_count());
  int passed = 0, failed = 0;
  for (const auto& t : bench ? test::benches() : test::tests()) {
    bool wanted = true;
    for (int i = first; i < argc; i++) wanted = wanted && std::strstr(t.title, argv[i]);
    if (!wanted) continue;
    test::failures = 0;
    if (bench) std::printf("%s\n", t.title);
    t.run();
    if (!bench) std::printf("  %s %s\n", test::failures ? "FAILED" : "ok    ", t.title);
    if (test::failures) std::printf("    %d checks failed\n", test::failures);
    std::fflush(stdout);
    (test::failures ? failed : passed)++;
  }
  if (!bench) std::printf("%d passed, %d failed\n", passed, failed);
  return failed != 0;
}

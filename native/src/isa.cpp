#include "isa.hpp"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#if defined(__x86_64__) || defined(_M_X64)
#define HOWDAH_X86 1
#include <cpuid.h>
#endif
#ifdef __APPLE__
#include <sys/sysctl.h>
#endif
#ifdef __linux__
#include <unistd.h>
#endif

namespace howdah {
namespace {

constexpr Isa all_isas[] = {Isa::portable, Isa::neon, Isa::avx2, Isa::avx512, Isa::avx512bf16};

bool built(Isa isa) {
  switch (isa) {
    case Isa::portable: return true;
    case Isa::neon: return HOWDAH_IF_neon(true ||) false;
    case Isa::avx2: return HOWDAH_IF_avx2(true ||) false;
    case Isa::avx512: return HOWDAH_IF_avx512(true ||) false;
    case Isa::avx512bf16: return HOWDAH_IF_avx512bf16(true ||) false;
  }
  return false;
}

#if HOWDAH_X86
struct Registers {
  uint32_t eax, ebx, ecx, edx;
};
Registers cpuid(uint32_t leaf, uint32_t subleaf = 0) {
  Registers r{};
  __get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx); // zeros for a leaf that does not exist
  return r;
}
bool bit(uint32_t word, int n) { return word >> n & 1; }

/** What the operating system saves on a task switch: bits 1-2 SSE and AVX, 5-7 AVX-512. */
uint32_t saved_state() {
  if (!bit(cpuid(1).ecx, 27)) return 0; // OSXSAVE
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

bool processor_has(Isa isa) {
  static const Registers one = cpuid(1), seven = cpuid(7), seven1 = cpuid(7, 1);
  static const uint32_t state = saved_state();
  // Bits as in Intel's manual, volume 2A, CPUID.
  static const bool avx2 = (state & 0x6) == 0x6 && bit(one.ecx, 28) /* avx */ && bit(one.ecx, 12) /* fma */ &&
                           bit(one.ecx, 29) /* f16c */ && bit(seven.ebx, 5) /* avx2 */ && bit(seven.ebx, 8) /* bmi2 */;
  static const bool avx512 = avx2 && (state & 0xe6) == 0xe6 && bit(seven.ebx, 16) /* f */ && bit(seven.ebx, 17) /* dq */ &&
                             bit(seven.ebx, 30) /* bw */ && bit(seven.ebx, 31) /* vl */ && bit(seven.ecx, 11) /* vnni */;
  switch (isa) {
    case Isa::portable: return true;
    case Isa::neon: return false;
    case Isa::avx2: return avx2;
    case Isa::avx512: return avx512;
    case Isa::avx512bf16: return avx512 && bit(seven1.eax, 5);
  }
  return false;
}
#else
bool processor_has(Isa isa) {
#ifdef __aarch64__
  return isa == Isa::portable || isa == Isa::neon; // part of the base architecture
#else
  return isa == Isa::portable;
#endif
}
#endif

Isa choose() {
  const char* forced = std::getenv("HOWDAH_ISA");
  if (forced && *forced) {
    std::string available;
    for (Isa isa : all_isas) {
      if (isa_available(isa)) {
        if (std::strcmp(forced, isa_name(isa)) == 0) return isa;
        available += std::string(available.empty() ? "" : ", ") + isa_name(isa);
      }
    }
    throw std::runtime_error("HOWDAH_ISA is \"" + std::string(forced) + "\", which this machine or build does not have; use one of " +
                             available + ", or unset it.");
  }
  Isa best = Isa::portable;
  for (Isa isa : all_isas)
    if (isa_available(isa)) best = isa;
  return best;
}

CacheSizes read_cache_sizes() {
  CacheSizes sizes{32 << 10, 512 << 10, 0};
  bool l2_found = false;
  const auto set = [&](int level, size_t bytes) {
    if (bytes == 0) return;
    if (level == 1) sizes.l1 = bytes;
    if (level == 2) sizes.l2 = bytes, l2_found = true;
    if (level == 3) sizes.l3 = bytes;
  };
#if defined(__linux__)
  for (int index = 0; index < 8; index++) {
    const std::string folder = "/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(index) + "/";
    const auto read = [&](const char* name, char* text) {
      std::FILE* f = std::fopen((folder + name).c_str(), "r");
      if (!f) return false;
      const bool ok = std::fscanf(f, "%31s", text) == 1;
      std::fclose(f);
      return ok;
    };
    char level[32], type[32], size[32];
    if (!read("level", level) || !read("type", type) || !read("size", size) || type[0] == 'I') continue;
    char* unit = nullptr;
    size_t bytes = std::strtoul(size, &unit, 10);
    if (*unit == 'K') bytes <<= 10;
    if (*unit == 'M') bytes <<= 20;
    set(std::atoi(level), bytes);
  }
#elif defined(__APPLE__)
  const auto read = [](const char* name) {
    int64_t bytes = 0;
    size_t length = sizeof bytes;
    return sysctlbyname(name, &bytes, &length, nullptr, 0) == 0 ? (size_t)bytes : 0;
  };
  // The fast cores first, then whatever the machine calls its only kind.
  for (const char* prefix : {"hw.", "hw.perflevel0."}) {
    set(1, read((std::string(prefix) + "l1dcachesize").c_str()));
    set(2, read((std::string(prefix) + "l2cachesize").c_str()));
    set(3, read((std::string(prefix) + "l3cachesize").c_str()));
  }
#endif
#if HOWDAH_X86
  if (!l2_found) {
    // Deterministic cache parameters: leaf 4 (Intel) or 0x8000001d (AMD).
    for (uint32_t leaf : {4u, 0x8000001du}) {
      for (uint32_t i = 0; i < 8; i++) {
        const Registers r = cpuid(leaf, i);
        const uint32_t type = r.eax & 31;
        if (type == 0) break;
        if (type == 2) continue; // instructions
        const size_t ways = (r.ebx >> 22) + 1, parts = (r.ebx >> 12 & 1023) + 1, line = (r.ebx & 4095) + 1;
        set((int)(r.eax >> 5 & 7), ways * parts * line * ((size_t)r.ecx + 1));
      }
    }
  }
#endif
  (void)l2_found;
  return sizes;
}

} // namespace

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::portable: return "portable";
    case Isa::neon: return "neon";
    case Isa::avx2: return "avx2";
    case Isa::avx512: return "avx512";
    case Isa::avx512bf16: return "avx512bf16";
  }
  return "unknown";
}

bool isa_available(Isa isa) { return built(isa) && processor_has(isa); }

Isa isa() {
  static const Isa chosen = choose();
  return chosen;
}

const CacheSizes& cache_sizes() {
  static const CacheSizes sizes = read_cache_sizes();
  return sizes;
}

} // namespace howdah

// Which instruction sets this processor has, which one the kernels run on, and how large its caches are.
//
// A kernel file (src/kernels/*.cpp) is compiled once per instruction set, inside `namespace howdah::HOWDAH_ISA`, and
// defines a table of function pointers there. Code outside picks the table of the running machine:
//
//   foo.hpp          struct FooTable { void (*run)(const FooArgs&); };
//   kernels/foo.cpp  namespace howdah::HOWDAH_ISA { extern const FooTable foo_table; const FooTable foo_table = {run}; }
//   foo.cpp          HOWDAH_DECLARE_TABLE(FooTable, foo_table)      // at global scope
//                    void foo(const FooArgs& a) { static const FooTable& t = HOWDAH_TABLE(foo_table); t.run(a); }
#pragma once

#include <cstddef>

namespace howdah {

/** Ascending order of preference within one processor family. */
enum class Isa { portable, neon, avx2, avx512, avx512bf16 };

/**
 * The instruction set in use: the best that processor, operating system and build have, or the one named by the
 * environment variable HOWDAH_ISA (portable, neon, avx2, avx512, avx512bf16). Decided once.
 * Throws std::runtime_error if HOWDAH_ISA names one that is unknown or that this machine or build lacks.
 */
Isa isa();

/** Whether this machine and this build have it. */
bool isa_available(Isa isa);

const char* isa_name(Isa isa);

/** Whether matrices multiply faster with bf16 operands than with f32 ones. */
inline bool has_bf16_dot() { return isa() == Isa::avx512bf16; }

/** Sizes in bytes as one core sees them: its own L1 and L2, the L3 it shares (0 where there is none). */
struct CacheSizes {
  size_t l1, l2, l3;
};
const CacheSizes& cache_sizes();

} // namespace howdah

// The instruction sets in this build; CMake defines HOWDAH_HAVE_<name>.
#ifdef HOWDAH_HAVE_avx512bf16
#define HOWDAH_IF_avx512bf16(...) __VA_ARGS__
#else
#define HOWDAH_IF_avx512bf16(...)
#endif
#ifdef HOWDAH_HAVE_avx512
#define HOWDAH_IF_avx512(...) __VA_ARGS__
#else
#define HOWDAH_IF_avx512(...)
#endif
#ifdef HOWDAH_HAVE_avx2
#define HOWDAH_IF_avx2(...) __VA_ARGS__
#else
#define HOWDAH_IF_avx2(...)
#endif
#ifdef HOWDAH_HAVE_neon
#define HOWDAH_IF_neon(...) __VA_ARGS__
#else
#define HOWDAH_IF_neon(...)
#endif

/** Declares `name`, a constant of type `Type`, in the namespace of each instruction set of this build. At global scope. */
#define HOWDAH_DECLARE_TABLE(Type, name)                                             \
  namespace howdah::portable { extern const Type name; }                             \
  HOWDAH_IF_neon(namespace howdah::neon { extern const Type name; })                 \
  HOWDAH_IF_avx2(namespace howdah::avx2 { extern const Type name; })                 \
  HOWDAH_IF_avx512(namespace howdah::avx512 { extern const Type name; })             \
  HOWDAH_IF_avx512bf16(namespace howdah::avx512bf16 { extern const Type name; })

/** The declared table for the instruction set in use. */
#define HOWDAH_TABLE(name)                                                           \
  ([]() -> decltype(auto) {                                                          \
    switch (::howdah::isa()) {                                                       \
      HOWDAH_IF_neon(case ::howdah::Isa::neon : return (::howdah::neon::name);)      \
      HOWDAH_IF_avx2(case ::howdah::Isa::avx2 : return (::howdah::avx2::name);)      \
      HOWDAH_IF_avx512(case ::howdah::Isa::avx512 : return (::howdah::avx512::name);) \
      HOWDAH_IF_avx512bf16(case ::howdah::Isa::avx512bf16 : return (::howdah::avx512bf16::name);) \
      default: return (::howdah::portable::name);                                    \
    }                                                                                \
  }())

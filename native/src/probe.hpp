// What this machine can do at best: the ceilings that measured kernels are held against. For benchmarks and profiles only.
#pragma once

#include <cstdint>

namespace howdah {

enum class Probe : uint8_t { f32, bf16, read };

/**
 * The best of several short measurements on the whole pool, which together take about `seconds`: floating-point operations a second (a
 * multiplication and an addition count as two) that stay in registers, or bytes a second read from memory that no cache holds.
 * 0 where the processor has no such instruction (bf16). Throws std::bad_alloc.
 */
double probe(Probe kind, double seconds);

/** What src/kernels/probe.cpp offers, compiled for one instruction set. */
struct ProbeTable {
  /** Each runs `turns` times a fixed number of operations, and returns how many; 0 where there are none. */
  int64_t (*multiply_f32)(int64_t turns);
  int64_t (*multiply_bf16)(int64_t turns);
  /** Reads `count` floats. */
  void (*read)(const float* data, int64_t count);
};

} // namespace howdah

// A planned element-wise region: what the tile machine in kernels/elementwise.cpp interprets.
#pragma once

#include <cstdint>
#include <vector>

#include "nn.hpp"

namespace howdah {

constexpr int kEwOps = static_cast<int>(Ew::random_bits) + 1;

/**
 * Steps of the machine. A register holds one 32-bit word per lane: f32 for float types, i32 for the others. Codes below
 * 2 * kEwOps are `Ew` ops, twice its number plus 1 when the operands are integers; these follow.
 */
enum class EwStep : uint16_t {
  load = 2 * kEwOps, // immediate: input index
  round_bf16,
  round_f16,
  wrap_u8,
  wrap_i8,
  float_to_i32,
  float_to_u8,
  float_to_i8,
  nonzero_float,
  nonzero_int,
  int_to_float,
  count,
};

struct EwMicro {
  uint16_t code;
  int16_t dst;
  int16_t operand[3] = {-1, -1, -1};
  int32_t immediate = 0;
};

constexpr int kEwMaxDims = 8;

class EwPlan {
 public:
  enum class Source : uint8_t { memory, iota, key };
  enum class Access : uint8_t {
    uniform, // one element for the whole region: its register is filled once per task
    direct,  // the words lie in memory as a register would: the register is the memory
    gather,  // converted or collected into a register
  };
  struct Input {
    Source source;
    DType type;
    Access access;
    bool linear; // its strides are those of a contiguous tensor of the region's shape
    int32_t argument; // position among the caller's inputs; iota has none
    int16_t reg;
    int64_t strides[kEwMaxDims];
  };
  struct Constant {
    int16_t reg;
    uint32_t word;
  };
  struct Output {
    DType type;
    EwReduce reduce;
    int16_t reg;
    bool in_place; // the last step writes the caller's memory itself
  };

  int dims = 0;
  int64_t shape[kEwMaxDims] = {};
  int64_t total = 1;
  /** Length of the rows that tiles must not cross, or 1 when tiles may run over any linear range. */
  int64_t row = 1;
  /** Reduced outputs: `kept` results of `reduced` elements each. */
  int64_t kept = 1, reduced = 1;
  bool has_reduction = false, leading = false;
  std::vector<Input> inputs;
  std::vector<Constant> constants;
  std::vector<EwMicro> steps;
  std::vector<Output> outputs;
  /** Registers [0, buffers) own a buffer; the ones behind them point into memory. */
  int registers = 0, buffers = 0;
  int64_t lanes = 1024;
};

} // namespace howdah

// Linear maps by packed weights: bf16, or whole numbers of 8 or 4 bits with a scale per row and group of inputs.
//
// Rows (outputs) are gathered in panels of 16 whose elements take turns, see src/tensor/ops/quantized.ts for the layout. Each
// panel is one run of memory that a thread reads front to back, and the same layout serves one row of x (decoding) and many
// (prompts). A result depends on its row of x and its row of weights alone, never on how many rows there are.
#pragma once

#include <cstddef>
#include <cstdint>

namespace howdah {

enum class WeightFormat : uint8_t { bf16, int8, int4 };

constexpr int64_t kPanelRows = 16;

/** Inputs that share a scale; for bf16 what inputs are padded to. */
constexpr int64_t group_size(WeightFormat format) { return format == WeightFormat::bf16 ? 2 : format == WeightFormat::int8 ? 64 : 32; }

/** What the numbers of int4 weights stand for, as in src/tensor/ops/quantized.ts. */
constexpr int8_t kInt4Levels[16] = {-127, -99, -79, -63, -49, -35, -22, -10, 3, 16, 29, 42, 56, 73, 92, 121};

/** Where the largest weight of a group may lie, in units of the levels, before its scale is fitted: as in src/tensor/ops/quantized.ts. */
constexpr float kInt4Reach[13] = {-152, -144, -136, -128, -120, -112, -104, -96, 136, 128, 120, 112, 104};

struct PackedWeights {
  WeightFormat format;
  int64_t out, in;
  /** Panels of a gate and of what it gates take turns: twice as many rows as outputs. */
  bool gated;
  const void* packed;
  const uint16_t* scales; // bf16 (panels, groups, 16), or null for bf16 weights

  int64_t groups() const { return (in + group_size(format) - 1) / group_size(format); }
  int64_t panels() const { return (out + kPanelRows - 1) / kPanelRows * (gated ? 2 : 1); }
  int64_t panel_bytes() const {
    return groups() * (format == WeightFormat::bf16 ? 64 : format == WeightFormat::int8 ? 1024 : 256);
  }
};

/**
 * y = w x, row by row of x. Before: x / rms(x) * norm. After: silu(gate) * up when gated, then + residual. The rows of x are
 * rounded to bf16 beside bf16 weights, to 8 bits with a scale per group beside the others.
 */
struct QuantizedLinearArgs {
  int64_t rows;
  PackedWeights weights;
  const float* x;        // (rows, in)
  const float* norm;     // (in) or null
  float epsilon;
  const float* residual; // (rows, out) or null; may be y
  float* y;              // (rows, out)
  std::byte* workspace;  // quantized_linear_workspace bytes
};

/** Room for the rounded rows of x. */
int64_t quantized_linear_workspace(int64_t rows, int64_t in, WeightFormat format);

/** y[n] = row ids[n] of the table; ids outside are clamped. */
struct QuantizedEmbeddingArgs {
  int64_t rows;
  PackedWeights table;
  const int32_t* ids; // (rows)
  float* y;           // (rows, in)
};

/** Packs a matrix: what `PackedWeights` says of `packed` and `scales`. */
struct PackWeightArgs {
  PackedWeights weights; // its pointers are not used
  const float* w;        // (out, in)
  void* packed;
  uint16_t* scales; // null for bf16
};

void quantized_linear(const QuantizedLinearArgs&);
void pack_weight(const PackWeightArgs&);
void quantized_embedding(const QuantizedEmbeddingArgs&);

/** The same as compiled for one instruction set. */
struct QuantizedTable {
  void (*linear)(const QuantizedLinearArgs&);
  void (*embedding)(const QuantizedEmbeddingArgs&);
  void (*pack)(const PackWeightArgs&);
};

} // namespace howdah

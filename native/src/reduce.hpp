#pragma once
#include <cstdint>

#include "nn.hpp"
#include "scalar.hpp"

namespace howdah {

/**
 * Folds a matrix of `rows` x `columns`, rows `row_stride` elements apart and contiguous in themselves. Results are 32-bit words: float for
 * floating types, int32 for the others. With `start` they begin from the identity of `kind`, else from what `out` holds.
 */
struct FoldArgs {
  DType type;
  Combine kind;
  const void* in;
  int64_t rows, row_stride, columns;
  void* out;
  bool start;
};

struct ReduceTable {
  /** All elements into out[0]. */
  void (*fold_all)(const FoldArgs&);
  /** Each column into out[0 .. columns - 1]. */
  void (*fold_columns)(const FoldArgs&);
};

const ReduceTable& reduce_table();

}  // namespace howdah

// Picks the kernels for packed weights that were compiled for this processor.
#include "quantized.hpp"

#include "isa.hpp"

HOWDAH_DECLARE_TABLE(QuantizedTable, quantized_table)

namespace howdah {

namespace {
const QuantizedTable& table() {
  static const QuantizedTable& t = HOWDAH_TABLE(quantized_table);
  return t;
}
} // namespace

void quantized_linear(const QuantizedLinearArgs& args) { table().linear(args); }
void pack_weight(const PackWeightArgs& args) { table().pack(args); }
void quantized_embedding(const QuantizedEmbeddingArgs& args) { table().embedding(args); }

int64_t quantized_linear_workspace(int64_t rows, int64_t in, WeightFormat format) {
  const int64_t group = group_size(format), groups = (in + group - 1) / group;
  // Words of x, then scales and starting sums.
  const int64_t words = (rows * groups * group * (format == WeightFormat::bf16 ? 4 : 1) + 63) / 64 * 64;
  return words + (format == WeightFormat::bf16 ? 0 : rows * groups * 8);
}

} // namespace howdah

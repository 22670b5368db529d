#include "gemm.hpp"

#include "isa.hpp"

HOWDAH_DECLARE_TABLE(GemmTable, gemm_table)

namespace howdah {

static const GemmTable& table() {
  static const GemmTable& chosen = HOWDAH_TABLE(gemm_table);
  return chosen;
}

void gemm(const GemmArgs& args) { table().gemm(args); }
void gemm_inline(const GemmArgs& args) { table().gemm_inline(args); }

} // namespace howdah

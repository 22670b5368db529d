// Picks the fused kernels compiled for this processor.
#include "nn.hpp"

#include "isa.hpp"

HOWDAH_DECLARE_TABLE(NnTable, nn_table)

namespace howdah {

namespace {
const NnTable& table() {
  static const NnTable& t = HOWDAH_TABLE(nn_table);
  return t;
}
} // namespace

#define HOWDAH_FORWARD(name, Args) \
  void name(const Args& args) { table().name(args); }
HOWDAH_NN_KERNELS(HOWDAH_FORWARD)
#undef HOWDAH_FORWARD

} // namespace howdah

// The fused kernels of one instruction set, behind one table.
#include "nn.hpp"

namespace howdah::HOWDAH_ISA {

#define HOWDAH_DECLARE(name, Args) void name(const Args& args);
HOWDAH_NN_KERNELS(HOWDAH_DECLARE)
#undef HOWDAH_DECLARE

extern const NnTable nn_table;
const NnTable nn_table = {
#define HOWDAH_ENTRY(name, Args) name,
    HOWDAH_NN_KERNELS(HOWDAH_ENTRY)
#undef HOWDAH_ENTRY
};

} // namespace howdah::HOWDAH_ISA

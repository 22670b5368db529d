// Picks the sampler compiled for this processor.
#include "sample.hpp"

#include "isa.hpp"

HOWDAH_DECLARE_TABLE(SampleTable, sample_table)

namespace howdah {

void sample_token(const SampleArgs& args) {
  static const SampleTable& table = HOWDAH_TABLE(sample_table);
  table.sample_token(args);
}

} // namespace howdah

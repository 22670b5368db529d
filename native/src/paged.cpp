// Picks the kernels of pages compiled for this processor.
#include "paged.hpp"

#include "isa.hpp"

HOWDAH_DECLARE_TABLE(PagedTable, paged_table)

namespace howdah {

namespace {
const PagedTable& table() {
  static const PagedTable& t = HOWDAH_TABLE(paged_table);
  return t;
}
} // namespace

void paged_attention(const PagedAttentionArgs& args) { table().paged_attention(args); }
void page_write(const PageWriteArgs& args) { table().page_write(args); }

} // namespace howdah

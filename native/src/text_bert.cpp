#include "text_bert.hpp"

#include <cstring>

#include "error.hpp"

namespace howdah::text {

void BertTable::read(const uint8_t* table, size_t size) {
  if (size < kPoints) fail("BERT's table of characters is cut short.");
  flags.assign(table, table + kPoints);
  for (size_t at = kPoints; at < size;) {
    if (at + 5 > size || at + 5 + table[at + 4] > size) fail("BERT's table of characters is cut short.");
    uint32_t point = 0;
    std::memcpy(&point, table + at, 4);
    if (point >= kPoints) fail("BERT's table has no such character.");
    changed.set(point, uint32_t(change_ends.size()));
    changes.insert(changes.end(), table + at + 5, table + at + 5 + table[at + 4]);
    change_ends.push_back(uint32_t(changes.size()));
    at += 5 + size_t(table[at + 4]);
  }
}

}  // namespace howdah::text

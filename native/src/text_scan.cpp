#include "text_scan.hpp"

#include <atomic>
#include <cstring>

#include "error.hpp"

namespace howdah::text {
namespace {

constexpr size_t points = 0x110000;
uint8_t table[points];
std::atomic<bool> filled{false};

}  // namespace

const uint8_t* const classes = table;

void set_classes(const uint8_t* flags, size_t count) {
  if (count != points) fail("The table of character classes has ", count, " entries, not ", points, ".");
  // Several JavaScript threads may come here; all bring the same table.
  if (filled.load(std::memory_order_acquire)) return;
  std::memcpy(table, flags, points);
  filled.store(true, std::memory_order_release);
}

bool classes_set() { return filled.load(std::memory_order_acquire); }

const uint8_t* safe_cut(const uint8_t* from, const uint8_t* end) {
  for (const uint8_t* p = from; p + 1 < end; p++) {
    if (*p == ' ') {
      // A multi-byte character before it may be white space too; only ASCII is looked at, other places will do.
      const uint8_t before = p[-1], after = p[1];
      if (before > ' ' && before < 0x80 && before != 0x7f && after > ' ' && after < 0x80) return p;
    } else if (*p == '\n' && p[1] != '/' && (see(p + 1).flags & kLetter)) {
      return p + 1;
    }
  }
  return end;
}

}  // namespace howdah::text

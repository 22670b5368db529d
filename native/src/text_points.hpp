// Characters of UTF-8, and tables by code point.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace howdah::text {

constexpr uint32_t kNone = 0xffffffffu;
constexpr size_t kPoints = 0x110000;
/** SentencePiece's visible space. */
constexpr uint32_t kSpaceMark = 0x2581;
constexpr uint8_t kSpaceBytes[3] = {0xe2, 0x96, 0x81};

/** The character at `p`, which moves past it. Well-formed UTF-8. */
inline uint32_t next_point(const uint8_t*& p) {
  const uint32_t b = *p++;
  if (b < 0x80) return b;
  if (b < 0xe0) return (b & 0x1f) << 6 | (*p++ & 0x3fu);
  if (b < 0xf0) {
    const uint32_t point = (b & 0x0f) << 12 | (p[0] & 0x3fu) << 6 | (p[1] & 0x3fu);
    p += 2;
    return point;
  }
  const uint32_t point = (b & 0x07) << 18 | (p[0] & 0x3fu) << 12 | (p[1] & 0x3fu) << 6 | (p[2] & 0x3fu);
  p += 3;
  return point;
}

/** How many bytes the character has that begins with this one. */
inline size_t width_of(uint8_t lead) { return lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4; }

/** Code point -> number, by pages of 256. */
class CodePointMap {
 public:
  void set(uint32_t point, uint32_t value) {
    uint32_t& page = pages[point >> 8];
    if (page == kNone) {
      page = uint32_t(values.size() >> 8);
      values.resize(values.size() + 256, kNone);
    }
    values[size_t(page) << 8 | (point & 0xff)] = value;
  }
  uint32_t get(uint32_t point) const {
    const uint32_t page = pages[point >> 8];
    return page == kNone ? kNone : values[size_t(page) << 8 | (point & 0xff)];
  }

 private:
  std::vector<uint32_t> pages = std::vector<uint32_t>(kPoints >> 8, kNone);
  std::vector<uint32_t> values;
};

}  // namespace howdah::text

// BERT's words: its normalizer and pre-tokenizer as one table of characters, which src/tokenizers/native-pieces.ts makes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "text_points.hpp"

namespace howdah::text {

class BertTable {
 public:
  /** A byte of flags for each of 0x110000 code points, then the changed ones: code point in four bytes, length, UTF-8. */
  void read(const uint8_t* table, size_t size);

  /** Calls word() whenever `buffer` holds a whole word, and empties it. */
  template <class Word>
  void words(const uint8_t* p, const uint8_t* end, std::vector<uint8_t>& buffer, Word&& word) const {
    buffer.clear();
    const auto flush = [&] {
      if (buffer.empty()) return;
      word();
      buffer.clear();
    };
    const auto take = [&](const uint8_t* from, const uint8_t* to, uint8_t flag) {
      if (flag & (kGap | kAlone)) flush();
      if (flag & kGap) return;
      buffer.insert(buffer.end(), from, to);
      if (flag & kAlone) flush();
    };
    while (p < end) {
      const uint8_t* const from = p;
      const uint32_t point = next_point(p);
      const uint8_t flag = flags[point];
      if (!(flag & kChanged)) {
        take(from, p, flag);
        continue;
      }
      const uint32_t change = changed.get(point);
      if (change == kNone) continue;
      const uint8_t* q = changes.data() + (change ? change_ends[change - 1] : 0);
      const uint8_t* const stop = changes.data() + change_ends[change];
      while (q < stop) {
        const uint8_t* const part = q;
        take(part, q, flags[next_point(q)] & (kGap | kAlone));
      }
    }
    flush();
  }

 private:
  /** White space, a character that is a word of its own, one that becomes something else. */
  enum : uint8_t { kGap = 1, kAlone = 2, kChanged = 4 };
  std::vector<uint8_t> flags;
  CodePointMap changed;
  std::vector<uint32_t> change_ends;
  std::vector<uint8_t> changes;
};

}  // namespace howdah::text

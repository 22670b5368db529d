// Cutting UTF-8 into pre-tokens, for the splitting expressions that most byte-level tokenizers use, each written out by hand:
// linear time, no memory. src/tokenizers/pretokenize.ts says which expression is which; its regular expressions are the oracle.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace howdah::text {

/** Flags of a character, as src/tokenizers/unicode-classes.ts writes them. */
enum : uint8_t { kLetter = 1, kNumber = 2, kSpace = 4, kMark = 8, kUpper = 16, kLower = 32 };

/** Flags of each code point (0x110000 of them). Set once, before anything is scanned, from the table that JavaScript keeps. */
void set_classes(const uint8_t* flags, size_t count);
bool classes_set();
extern const uint8_t* const classes;

/** The numbers are those of SCANNERS in src/tokenizers/native.ts. */
enum class Pattern : int { whole = 0, gpt2 = 1, llama3 = 2, qwen2 = 3, cl100k = 4, o200k = 5 };
constexpr int pattern_count = 6;

/** A character's flags and how many bytes it takes. The text must be well-formed UTF-8. */
struct Seen {
  uint32_t flags;
  uint32_t width;
};

inline Seen see(const uint8_t* p) {
  const uint32_t b = p[0];
  if (b < 0x80) return {classes[b], 1};
  if (b < 0xe0) return {classes[(b & 0x1f) << 6 | (p[1] & 0x3fu)], 2};
  if (b < 0xf0) return {classes[(b & 0x0f) << 12 | (p[1] & 0x3fu) << 6 | (p[2] & 0x3fu)], 3};
  return {classes[(b & 0x07) << 18 | (p[1] & 0x3fu) << 12 | (p[2] & 0x3fu) << 6 | (p[3] & 0x3fu)], 4};
}

inline bool is_newline(uint8_t b) { return b == '\n' || b == '\r'; }

/** Past the run of characters whose flags meet `wanted`. */
inline const uint8_t* run_of(const uint8_t* p, const uint8_t* end, uint32_t wanted) {
  while (p < end) {
    const Seen c = see(p);
    if (!(c.flags & wanted)) break;
    p += c.width;
  }
  return p;
}

/** Past the run of characters that are neither letters nor numbers nor white space. */
inline const uint8_t* run_of_others(const uint8_t* p, const uint8_t* end) {
  while (p < end) {
    const Seen c = see(p);
    if (c.flags & (kLetter | kNumber | kSpace)) break;
    p += c.width;
  }
  return p;
}

/** Bytes of 's 't 'm 'd 're 've 'll at `p` (0 if none), where *p is the apostrophe. */
template <bool AnyCase>
inline size_t contraction(const uint8_t* p, const uint8_t* end) {
  if (end - p < 2) return 0;
  const auto lower = [](uint8_t b) -> uint8_t { return AnyCase && b >= 'A' && b <= 'Z' ? b + 32 : b; };
  const uint8_t a = lower(p[1]);
  if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
  if (end - p < 3) return 0;
  // U+017F, the long s, is an s in any case.
  if (AnyCase && p[1] == 0xc5 && p[2] == 0xbf) return 3;
  const uint8_t b = lower(p[2]);
  return ((a == 'r' || a == 'v') && b == 'e') || (a == 'l' && b == 'l') ? 3 : 0;
}

/** \s+(?!\S)|\s+ : a run of white space without the character that belongs to the word after it. */
inline const uint8_t* spaces_before_word(const uint8_t* p, const uint8_t* end) {
  const uint8_t* last = p;
  const uint8_t* q = p;
  while (q < end) {
    const Seen c = see(q);
    if (!(c.flags & kSpace)) break;
    last = q;
    q += c.width;
  }
  return q < end && last > p ? last : q;
}

/** [\s++$|]\s*[\r\n]+|\s+(?!\S)|\s+ at a white-space character. */
template <bool WholeAtEnd>
inline const uint8_t* spaces_with_lines(const uint8_t* p, const uint8_t* end) {
  const uint8_t* last = p;
  const uint8_t* line = nullptr;
  const uint8_t* q = p;
  while (q < end) {
    const Seen c = see(q);
    if (!(c.flags & kSpace)) break;
    last = q;
    if (is_newline(*q)) line = q + 1;
    q += c.width;
  }
  if (WholeAtEnd && q == end) return q;
  if (line) return line;
  return q < end && last > p ? last : q;
}

/** The end of the piece that starts at p (p < end). `end` is the end of the text: what follows p matters for white space. */
template <Pattern P>
inline const uint8_t* next_piece(const uint8_t* p, const uint8_t* end) {
  if constexpr (P == Pattern::whole) {
    return end;
  } else if constexpr (P == Pattern::gpt2) {
    if (*p == '\'')
      if (const size_t n = contraction<false>(p, end)) return p + n;
    const uint8_t* q = p;
    Seen c = see(q);
    if (*p == ' ' && p + 1 < end) {
      const Seen following = see(p + 1);
      if (!(following.flags & kSpace)) {
        c = following;
        q = p + 1;
      }
    }
    q += c.width;
    if (c.flags & kLetter) return run_of(q, end, kLetter);
    if (c.flags & kNumber) return run_of(q, end, kNumber);
    if (c.flags & kSpace) return spaces_before_word(p, end);
    return run_of_others(q, end);
  } else if constexpr (P == Pattern::o200k) {
    const Seen c = see(p);
    const uint8_t* const after = p + c.width;
    const bool prefix = !(c.flags & (kLetter | kNumber)) && !is_newline(*p);
    const auto with_contraction = [end](const uint8_t* q) {
      return q < end && *q == '\'' ? q + contraction<true>(q, end) : q;
    };
    // U*W+ from q: the end, or null. The last lower-capable character of the upper run is given back where nothing lower follows it.
    const auto lower_word = [end](const uint8_t* q) -> const uint8_t* {
      const uint8_t* back = nullptr;
      const uint8_t* r = q;
      while (r < end) {
        const Seen x = see(r);
        if (!(x.flags & kUpper)) {
          if (x.flags & kLower) return run_of(r + x.width, end, kLower);
          break;
        }
        r += x.width;
        if (x.flags & kLower) back = r;
      }
      return back;
    };
    if (prefix && after < end)
      if (const uint8_t* q = lower_word(after)) return with_contraction(q);
    if (c.flags & (kUpper | kLower))
      if (const uint8_t* q = lower_word(p)) return with_contraction(q);
    if (prefix && after < end) {
      const uint8_t* q = run_of(after, end, kUpper);
      if (q > after) return with_contraction(q);
    }
    if (c.flags & kUpper) return with_contraction(run_of(p, end, kUpper));
    if (c.flags & kNumber) {
      const uint8_t* q = after;
      for (int i = 1; i < 3 && q < end; i++) {
        const Seen x = see(q);
        if (!(x.flags & kNumber)) break;
        q += x.width;
      }
      return q;
    }
    const uint8_t* other = *p == ' ' ? after : p;
    const uint8_t* q = run_of_others(other, end);
    if (q > other) {
      while (q < end && (is_newline(*q) || *q == '/')) q++;
      return q;
    }
    return spaces_with_lines<false>(p, end);
  } else {
    // llama3, qwen2, cl100k
    if (*p == '\'')
      if (const size_t n = contraction<true>(p, end)) return p + n;
    const Seen c = see(p);
    const uint8_t* const after = p + c.width;
    if (c.flags & kLetter) return run_of(after, end, kLetter);
    if (c.flags & kNumber) {
      if constexpr (P == Pattern::qwen2) return after;
      const uint8_t* q = after;
      for (int i = 1; i < 3 && q < end; i++) {
        const Seen x = see(q);
        if (!(x.flags & kNumber)) break;
        q += x.width;
      }
      return q;
    }
    if (after < end && !is_newline(*p)) {
      const Seen following = see(after);
      if (following.flags & kLetter) return run_of(after + following.width, end, kLetter);
    }
    const uint8_t* other = *p == ' ' ? after : p;
    const uint8_t* q = run_of_others(other, end);
    if (q > other) {
      while (q < end && is_newline(*q)) q++;
      return q;
    }
    return spaces_with_lines<P == Pattern::cl100k>(p, end);
  }
}

/** Calls f with the pattern as a template argument. */
template <class F>
decltype(auto) with_pattern(Pattern pattern, F&& f) {
  switch (pattern) {
    case Pattern::gpt2: return f.template operator()<Pattern::gpt2>();
    case Pattern::llama3: return f.template operator()<Pattern::llama3>();
    case Pattern::qwen2: return f.template operator()<Pattern::qwen2>();
    case Pattern::cl100k: return f.template operator()<Pattern::cl100k>();
    case Pattern::o200k: return f.template operator()<Pattern::o200k>();
    default: return f.template operator()<Pattern::whole>();
  }
}

/** A part of a document that can be cut on its own; `end` is the end of the document, for white space that looks ahead. */
struct Span {
  const uint8_t* begin;
  const uint8_t* stop;
  const uint8_t* end;
  size_t document;
};

/**
 * Documents that end at `ends` in parts of about `size` bytes: what is longer than two of them ends where `cut` says, which is given where to
 * begin to look and the document's end.
 */
template <class Cut>
std::vector<Span> spans_by(const uint8_t* text, const double* ends, size_t documents, size_t size, Cut&& cut) {
  std::vector<Span> spans;
  size_t begin = 0;
  for (size_t d = 0; d < documents; d++) {
    const uint8_t* p = text + begin;
    const uint8_t* const end = text + size_t(ends[d]);
    while (p < end) {
      const uint8_t* const stop = size_t(end - p) > 2 * size ? cut(p + size, end) : end;
      spans.push_back({p, stop, end, d});
      p = stop;
    }
    begin = size_t(ends[d]);
  }
  return spans;
}

/**
 * The first place at or after `from` where every pattern but `whole` begins a piece, whatever came before, and where what lies before is
 * cut without it: a space between two characters that are not white space, or a line feed and a letter (the cut comes before the letter). `end` if there is none.
 */
const uint8_t* safe_cut(const uint8_t* from, const uint8_t* end);

}  // namespace howdah::text

#include "text_pieces.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <string_view>

#include "error.hpp"

namespace howdah::text {
namespace {

/** Bytes of text one thread takes at a time. */
constexpr size_t kSpan = 128 << 10;
/** Segments of up to so many characters are merged by looking at all pairs again; longer ones with a heap. */
constexpr size_t kScanned = 48;
/** Stands for a character that is no symbol; no pair contains it. Not the largest number: two of those are the table's empty slot. */
constexpr uint32_t kForeign = kMostIds - 2;
/** Where the best sum in single precision is larger than this, it is taken off all sums, as SentencePiece does. */
constexpr double kRebased = 100000;

inline uint32_t offset_of(uint32_t unit) { return (unit >> 10) << ((unit & 0x200) >> 6); }

float as_float(uint32_t bits) { return std::bit_cast<float>(bits); }

}  // namespace

struct PieceModel::Scratch {
  WordCache* cache = nullptr;
  std::vector<uint8_t> mapped, shaped, word;
  // Viterbi, by byte: the best sum, the best of the others, where the last piece begins, which it is.
  std::vector<double> best, second;
  std::vector<uint32_t> from, piece, path;
  // Merging: symbols, where they begin, neighbours.
  std::vector<uint32_t> symbols, places, next, previous;
  std::vector<uint64_t> heap;
};

/** What goes over from one segment to the next. */
struct PieceModel::Run {
  double base = 0;
  bool unknown = false;
};

PieceModel::PieceModel(const PieceParts& parts)
    : kind(parts.kind),
      shape(parts.shape),
      unknown(parts.unknown),
      fuse(parts.fuse),
      single(parts.single),
      split_at_space(parts.split_at_space),
      dummy_prefix(parts.dummy_prefix),
      remove_extra(parts.remove_extra),
      words(parts.words),
      strip_left(parts.strip_left),
      strip_right(parts.strip_right),
      spaces(parts.spaces),
      most_characters(parts.most_characters),
      unknown_score(parts.unknown_score),
      tokens(parts.tokens),
      scores(parts.scores, parts.scores + parts.score_count),
      byte_ids(parts.bytes, parts.bytes + parts.byte_count) {
  if (!byte_ids.empty() && byte_ids.size() != 256) fail("There are ", byte_ids.size(), " byte ids, not 256.");
  std::vector<std::pair<std::string_view, uint32_t>> strings, inner_strings;
  size_t begin = 0, characters = 0;
  for (size_t i = 0; i < parts.count; i++) {
    const auto end = size_t(parts.ends[i]);
    auto& list = kind == PieceKind::wordpiece && i >= parts.firsts ? inner_strings : strings;
    list.emplace_back(std::string_view(reinterpret_cast<const char*>(parts.text) + begin, end - begin), parts.ids[i]);
    if (kind == PieceKind::unigram && parts.ids[i] >= scores.size()) fail("Piece ", i, " has no score.");
    characters += end - begin;
    begin = end;
  }
  if (kind == PieceKind::unigram && (scores.empty() || unknown >= scores.size())) fail("A Unigram model needs an unknown piece.");
  if (kind != PieceKind::wordpiece) {
    // Sixteen bits for each pair: most pairs that are in no piece are then seen to be in none, and the others cost only a cut.
    const int bits = std::clamp(int(std::bit_width(characters * 16)), 12, 28);
    bigram_shift = 64 - bits;
    bigrams.assign((size_t(1) << bits) / 64, 0);
    for (const auto& [string, id] : strings) {
      const auto* p = reinterpret_cast<const uint8_t*>(string.data());
      const uint8_t* const end = p + string.size();
      if (p == end) continue;
      uint32_t left = next_point(p);
      if (p == end && kind == PieceKind::bpe) symbols.set(left, id);
      while (p < end) {
        const uint32_t right = next_point(p);
        add_bigram(left, right);
        left = right;
      }
    }
  }
  if (kind == PieceKind::bpe) {
    pairs.reserve(parts.merge_count);
    for (size_t i = 0; i < parts.merge_count; i++) {
      const uint32_t* m = parts.merges + 4 * i;
      if (m[0] >= kForeign || m[1] >= kForeign || i >= kMostRanks) fail("Merge ", i, " has a number that is too large for the native tokenizer.");
      pairs.set(m[0], m[1], uint32_t(i));
      ranks.push_back(m[2]);
      made.push_back(m[3]);
    }
    pairs.give(pair_table);
  } else {
    trie.build(std::move(strings));
    inner.build(std::move(inner_strings));
  }
  widest_score = std::abs(unknown_score);
  for (const double score : scores) widest_score = std::max(widest_score, std::abs(score));

  const uint8_t* const map = parts.map;
  if (shape == Shape::sentencepiece && parts.map_size) {
    read_map(map, parts.map_size);
  } else if (shape == Shape::graphemes) {
    if (parts.map_size < kPoints) fail("The table of graphemes is cut short.");
    flags.assign(map, map + kPoints);
    if (parts.map_size > kPoints) read_map(map + kPoints, parts.map_size - kPoints);
  } else if (shape == Shape::bert) {
    bert.read(map, parts.map_size);
  }
}

PieceModel::~PieceModel() = default;

void PieceModel::read_map(const uint8_t* map, size_t map_size) {
  uint32_t size = 0;
  if (map_size >= 4) std::memcpy(&size, map, 4);
  if (map_size < 4 || size % 4 || 4 + size_t(size) > map_size) fail("The character map is cut short.");
  units.resize(size / 4);
  std::memcpy(units.data(), map + 4, size);
  replacements.assign(map + 4 + size, map + map_size);
  replacements.push_back(0);
  if (units.empty()) return;
  for (uint32_t b = 1; b < 256; b++) {
    const uint32_t at = offset_of(units[0]) ^ b;
    begins_key[b] = at < units.size() && (units[at] & 0x800000ffu) == b;
  }
}

void PieceModel::add_bigram(uint32_t left, uint32_t right) {
  const uint64_t h = (uint64_t(left) << 21 | right) * 0x9e3779b97f4a7c15ull >> bigram_shift;
  bigrams[h >> 6] |= 1ull << (h & 63);
}

// ---- Text as the model sees it ----

void PieceModel::shape_sentencepiece(const uint8_t* p, const uint8_t* end, bool first, bool last, std::vector<uint8_t>& out) const {
  // Characters mapped, the longest key at each place.
  std::vector<uint8_t>& mapped = out;
  mapped.clear();
  if (!units.empty()) {
    while (p < end) {
      const uint8_t* q = p;
      while (q < end && !begins_key[*q]) q += width_of(*q);
      mapped.insert(mapped.end(), p, q);
      p = q;
      if (p == end) break;
      uint32_t at = offset_of(units[0]);
      size_t length = 0;
      uint32_t value = 0;
      for (const uint8_t* r = p; r < end && *r; r++) {
        at ^= *r;
        if (at >= units.size() || (units[at] & 0x800000ffu) != *r) break;
        const uint32_t unit = units[at];
        at ^= offset_of(unit);
        if ((unit >> 8 & 1) && at < units.size()) {
          value = units[at] & 0x7fffffffu;
          length = size_t(r + 1 - p);
        }
      }
      if (length) {
        if (value < replacements.size()) {
          const uint8_t* const text = replacements.data() + value;
          mapped.insert(mapped.end(), text, text + std::strlen(reinterpret_cast<const char*>(text)));
        }
        p += length;
      } else {
        const size_t width = width_of(*p);
        mapped.insert(mapped.end(), p, p + width);
        p += width;
      }
    }
  } else {
    mapped.assign(p, end);
  }
  // Spaces collapsed, made visible, one put in front. Done from the end of a buffer with room, since spaces grow.
  size_t begin = 0, stop = mapped.size();
  if (remove_extra) {
    if (first)
      while (begin < stop && mapped[begin] == ' ') begin++;
    if (last)
      while (stop > begin && mapped[stop - 1] == ' ') stop--;
  }
  if (begin == stop) {
    out.clear();
    return;
  }
  thread_local std::vector<uint8_t> shaped;
  shaped.clear();
  const auto space = [] { shaped.insert(shaped.end(), kSpaceBytes, kSpaceBytes + 3); };
  if (dummy_prefix && first) space();
  for (size_t i = begin; i < stop;) {
    const size_t from = i;
    while (i < stop && mapped[i] != ' ') i++;
    shaped.insert(shaped.end(), mapped.begin() + ptrdiff_t(from), mapped.begin() + ptrdiff_t(i));
    if (i == stop) break;
    space();
    i++;
    if (remove_extra)
      while (i < stop && mapped[i] == ' ') i++;
  }
  size_t size = shaped.size();
  if (remove_extra && last)
    while (size >= 3 && std::memcmp(shaped.data() + size - 3, kSpaceBytes, 3) == 0) size -= 3;
  shaped.resize(size);
  out.swap(shaped);
}

void PieceModel::encode_bert(const uint8_t* p, const uint8_t* end, Scratch& scratch, std::vector<uint32_t>& out) const {
  std::vector<uint8_t>& buffer = scratch.word;
  bert.words(p, end, buffer, [&] {
    const size_t n = buffer.size();
    // Room to read a whole key of the cache.
    buffer.resize(n + WordCache::longest);
    word(buffer.data(), n, scratch, out);
  });
}

const uint8_t* PieceModel::shortest_key(const uint8_t* p, const uint8_t* end) const {
  if (!begins_key[*p]) return nullptr;
  uint32_t at = offset_of(units[0]);
  for (; p < end && *p; p++) {
    at ^= *p;
    if (at >= units.size() || (units[at] & 0x800000ffu) != *p) return nullptr;
    const uint32_t unit = units[at];
    at ^= offset_of(unit);
    if (!(unit >> 8 & 1) || at >= units.size()) continue;
    const uint32_t value = units[at] & 0x7fffffffu;
    return value < replacements.size() ? replacements.data() + value : nullptr;
  }
  return nullptr;
}

namespace {

/** A code point's part in the rules for graphemes (Unicode standard, annex 29); the numbers are those of src/tokenizers/graphemes.ts. */
enum Part : uint8_t {
  kOther, kExtend, kZwj, kSpacing, kPrepend, kControl, kCr, kLf, kL, kV, kT, kLv, kLvt, kRegional, kPictographic, kConsonant, kLinker, kExtendOther
};
/** Beside the part: white space. */
constexpr uint8_t kWhite = 0x80;

constexpr uint32_t bit(Part part) { return 1u << part; }
constexpr uint32_t kBreaks = bit(kControl) | bit(kCr) | bit(kLf);
constexpr uint32_t kJoins = bit(kExtend) | bit(kZwj) | bit(kSpacing) | bit(kLinker) | bit(kExtendOther);

/** The parts that a grapheme which so far is one character of this part goes on with. */
constexpr uint32_t continued_by(uint8_t part) {
  switch (part) {
    case kControl: case kLf: return 0;
    case kCr: return bit(kLf);
    case kPrepend: return ~kBreaks;
    case kL: return kJoins | bit(kL) | bit(kV) | bit(kLv) | bit(kLvt);
    case kLv: case kV: return kJoins | bit(kV) | bit(kT);
    case kLvt: case kT: return kJoins | bit(kT);
    case kRegional: return kJoins | bit(kRegional);
    default: return kJoins;
  }
}

/** Where the grapheme that begins at `p` ends. */
const uint8_t* end_of_grapheme(const uint8_t* p, const uint8_t* end, const uint8_t* parts) {
  const auto part_at = [&](const uint8_t*& q) { return uint8_t(parts[next_point(q)] & ~kWhite); };
  uint8_t left = part_at(p);
  // What came so far: a consonant, and a linker after it; a pictograph, and a joiner after it; regional indicators.
  int conjunct = left == kConsonant, picture = left == kPictographic, flags = left == kRegional;
  while (p < end) {
    const uint8_t* q = p;
    const uint8_t right = part_at(q);
    const bool joins = continued_by(left) >> right & 1;
    if (right == kRegional && left == kRegional) {
      if (flags % 2 == 0) break;
    } else if (!joins && !(right == kConsonant && conjunct == 2) && !(right == kPictographic && picture == 2)) {
      break;
    }
    flags = right == kRegional ? flags + 1 : 0;
    if (right == kConsonant) conjunct = 1;
    else if (right == kLinker && conjunct > 0) conjunct = 2;
    else if (right != kExtend && right != kZwj) conjunct = 0;
    if (right == kPictographic) picture = 1;
    else if (right == kZwj && picture == 1) picture = 2;
    else if (!(picture == 1 && (right == kExtend || right == kLinker || right == kExtendOther))) picture = 0;
    left = right;
    p = q;
  }
  return p;
}

}  // namespace

/**
 * As `tokenizers`' Precompiled: a grapheme of under 6 bytes becomes what the shortest key that it begins with becomes, and the whole of it
 * goes; others go character by character.
 */
void PieceModel::map_graphemes(const uint8_t* p, const uint8_t* end, std::vector<uint8_t>& out) const {
  out.clear();
  const uint8_t* kept = p;
  const auto replace = [&](const uint8_t* from, const uint8_t* to, const uint8_t* text) {
    out.insert(out.end(), kept, from);
    out.insert(out.end(), text, text + std::strlen(reinterpret_cast<const char*>(text)));
    kept = to;
  };
  while (p < end) {
    // Visible ASCII before visible ASCII stands alone.
    if (*p >= ' ' && *p < 0x7f && !begins_key[*p] && (p + 1 == end || p[1] < 0x80)) {
      p++;
      continue;
    }
    const uint8_t* q = p;
    const uint32_t continues = continued_by(flags[next_point(q)] & ~kWhite);
    bool single = true;
    if (q < end && continues) {
      const uint8_t* r = q;
      single = !(continues >> (flags[next_point(r)] & ~kWhite) & 1);
    }
    if (!single) {
      const uint8_t* const stop = end_of_grapheme(p, end, flags.data());
      if (stop - p < 6) {
        if (const uint8_t* const text = shortest_key(p, stop)) {
          replace(p, stop, text);
          p = stop;
          continue;
        }
      }
      while (p < stop) {
        const uint8_t* const next = p + width_of(*p);
        if (const uint8_t* const text = shortest_key(p, next)) replace(p, next, text);
        p = next;
      }
      continue;
    }
    if (const uint8_t* const text = shortest_key(p, q)) replace(p, q, text);
    p = q;
  }
  out.insert(out.end(), kept, end);
}

/** The map, then white space at the ends, repeated spaces, words, and the symbol for spaces. */
void PieceModel::shape_graphemes(const uint8_t* p, const uint8_t* end, bool first, bool last, Scratch& scratch) const {
  map_graphemes(p, end, scratch.mapped);
  std::vector<uint8_t>& out = scratch.shaped;
  out.clear();
  const uint8_t* at = scratch.mapped.data();
  const uint8_t* stop = at + scratch.mapped.size();
  const auto white = [&](const uint8_t* q) { return (flags[next_point(q)] & kWhite) != 0; };
  if (first && strip_left)
    while (at < stop && white(at)) at += width_of(*at);
  while (last && strip_right && at < stop) {
    const uint8_t* before = stop - 1;
    while ((*before & 0xc0) == 0x80) before--;
    if (!white(before)) break;
    stop = before;
  }
  const auto mark = [&] { out.insert(out.end(), kSpaceBytes, kSpaceBytes + 3); };
  const auto marked = [&](const uint8_t* q) { return stop - q >= 3 && std::memcmp(q, kSpaceBytes, 3) == 0; };
  const auto spaces_at = [&](const uint8_t* q) {
    const uint8_t* r = q;
    while (r < stop && *r == ' ') r++;
    return size_t(r - q);
  };
  if (at == stop) return;
  if (!words) {
    if (dummy_prefix && first && *at != ' ' && !marked(at)) mark();
    while (at < stop) {
      const void* const found = std::memchr(at, ' ', size_t(stop - at));
      const uint8_t* const space = found ? static_cast<const uint8_t*>(found) : stop;
      out.insert(out.end(), at, space);
      if (!found) return;
      const size_t count = spaces_at(space);
      for (size_t i = 0; i < (spaces == Spaces::kept ? count : 1); i++) mark();
      at = space + count;
    }
    return;
  }
  bool inside = false;
  const auto begin_word = [&](bool is_marked) {
    if (!inside && !is_marked) mark();
    inside = true;
  };
  while (at < stop) {
    const uint8_t* q = at;
    // No white space but that of ASCII begins with other bytes than these.
    while (q < stop && *q > ' ' && (*q < 0xc2 || *q > 0xe3 || (*q > 0xc2 && *q < 0xe1))) q++;
    if (q > at) {
      begin_word(false);
      out.insert(out.end(), at, q);
      at = q;
      continue;
    }
    const size_t width = width_of(*at);
    if (!white(at)) {
      begin_word(marked(at));
      out.insert(out.end(), at, at + width);
      at += width;
      continue;
    }
    const size_t count = spaces == Spaces::mark ? spaces_at(at) : 0;
    if (count > 1) {
      begin_word(true);
      mark();
      at += count;
    } else {
      inside = false;
      at += width;
    }
  }
}

// ---- Models ----

/** Greedy: the longest piece again and again. `p` has room for a whole key of the cache. */
void PieceModel::word(const uint8_t* p, size_t n, Scratch& scratch, std::vector<uint32_t>& out) const {
  WordCache::Entry* entry = nullptr;
  WordCache::Key key;
  if (n <= WordCache::longest) {
    key = WordCache::key_of(p, n, true);
    entry = &scratch.cache->slot(key, n);
    if (WordCache::holds(*entry, key, n)) {
      out.insert(out.end(), entry->ids, entry->ids + entry->count);
      return;
    }
  }
  const size_t before = out.size();
  size_t characters = 0;
  for (size_t i = 0; i < n; i++) characters += (p[i] & 0xc0) != 0x80;
  bool known = characters <= most_characters;
  for (size_t at = 0; known && at < n;) {
    const Trie& set = at == 0 ? trie : inner;
    uint32_t node = 0, id = kNone;
    size_t stop = at;
    for (size_t i = at; i < n; i++) {
      node = set.step(node, p[i]);
      if (node == Trie::none) break;
      if (set.value(node) == Trie::none) continue;
      id = set.value(node);
      stop = i + 1;
    }
    known = id != kNone;
    if (known) out.push_back(id);
    at = stop;
  }
  if (!known) {
    out.resize(before);
    out.push_back(unknown);
  }
  const size_t count = out.size() - before;
  if (entry && count <= WordCache::most_ids) {
    std::memcpy(entry->key, key.part, sizeof entry->key);
    entry->length = uint8_t(n);
    entry->count = uint8_t(count);
    std::memcpy(entry->ids, out.data() + before, count * sizeof(uint32_t));
  }
}

/** Always the pair with the lowest rank, the leftmost among equals. */
void PieceModel::bpe(const uint8_t* p, size_t n, Scratch& scratch, Run& run, std::vector<uint32_t>& out) const {
  const auto emit = [&](uint32_t symbol, size_t place) {
    if (symbol < tokens && symbol != kForeign) {
      run.unknown = symbol == unknown;
      out.push_back(symbol);
    } else if (!byte_ids.empty()) {
      run.unknown = false;
      for (size_t i = place, width = width_of(p[place]); i < place + width; i++) out.push_back(byte_ids[p[i]]);
    } else if (unknown != kNone) {
      if (!(fuse && run.unknown)) out.push_back(unknown);
      run.unknown = true;
    }
  };
  std::vector<uint32_t>& symbol = scratch.symbols;
  std::vector<uint32_t>& place = scratch.places;
  symbol.clear();
  place.clear();
  for (const uint8_t* q = p; q < p + n;) {
    place.push_back(uint32_t(q - p));
    const uint32_t known = symbols.get(next_point(q));
    symbol.push_back(known == kNone ? kForeign : known);
  }
  size_t count = symbol.size();
  if (count <= kScanned) {
    uint32_t merge[kScanned], rank[kScanned];
    const auto look = [&](size_t i) {
      merge[i] = pair_table.rank(symbol[i], symbol[i + 1]);
      rank[i] = merge[i] == kNone ? kNone : ranks[merge[i]];
    };
    for (size_t i = 0; i + 1 < count; i++) look(i);
    while (count > 1) {
      size_t at = 0;
      for (size_t i = 1; i + 1 < count; i++)
        if (rank[i] < rank[at]) at = i;
      if (rank[at] == kNone) break;
      symbol[at] = made[merge[at]];
      for (size_t i = at + 1; i + 1 < count; i++) {
        symbol[i] = symbol[i + 1];
        place[i] = place[i + 1];
        merge[i] = merge[i + 1];
        rank[i] = rank[i + 1];
      }
      count--;
      if (at + 1 < count) look(at);
      if (at > 0) look(at - 1);
    }
    for (size_t i = 0; i < count; i++) emit(symbol[i], place[i]);
    return;
  }
  std::vector<uint32_t>& next = scratch.next;
  std::vector<uint32_t>& previous = scratch.previous;
  std::vector<uint64_t>& heap = scratch.heap;
  next.resize(count);
  previous.resize(count);
  heap.clear();
  const auto offer = [&](size_t at) {
    const size_t right = next[at];
    if (right >= count) return false;
    const uint32_t merge = pair_table.rank(symbol[at], symbol[right]);
    if (merge != kNone) heap.push_back(uint64_t(ranks[merge]) << 32 | at);
    return merge != kNone;
  };
  constexpr uint32_t gone = kNone;
  for (size_t i = 0; i < count; i++) {
    next[i] = uint32_t(i + 1);
    previous[i] = uint32_t(i - 1);
  }
  for (size_t i = 0; i + 1 < count; i++) offer(i);
  const auto worse = std::greater<uint64_t>();
  std::make_heap(heap.begin(), heap.end(), worse);
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), worse);
    const uint64_t top = heap.back();
    heap.pop_back();
    const size_t at = size_t(top & 0xffffffffu);
    if (symbol[at] == gone) continue;
    const size_t right = next[at];
    if (right >= count) continue;
    const uint32_t merge = pair_table.rank(symbol[at], symbol[right]);
    if (merge == kNone || ranks[merge] != uint32_t(top >> 32)) continue;
    symbol[at] = made[merge];
    symbol[right] = gone;
    next[at] = next[right];
    if (next[right] < count) previous[next[right]] = uint32_t(at);
    if (offer(at)) std::push_heap(heap.begin(), heap.end(), worse);
    if (at > 0 && offer(previous[at])) std::push_heap(heap.begin(), heap.end(), worse);
  }
  for (size_t i = 0; i < count; i = next[i]) emit(symbol[i], place[i]);
}

/**
 * The best sum of log probabilities from the left, beginning with `base`; of equal ones the first found, whose last piece is longest.
 * @param margin receives by how much the best was better wherever it was chosen, infinite where there was no choice
 */
template <bool Single>
double PieceModel::viterbi(const uint8_t* p, size_t n, double base, Scratch& scratch, Run& run, std::vector<uint32_t>& out,
                           double* margin) const {
  constexpr double least = -std::numeric_limits<double>::infinity();
  std::vector<double>& best = scratch.best;
  std::vector<double>& second = scratch.second;
  std::vector<uint32_t>& from = scratch.from;
  std::vector<uint32_t>& piece = scratch.piece;
  if (best.size() <= n) {
    best.resize(2 * n + 1);
    second.resize(2 * n + 1);
    from.resize(2 * n + 1);
    piece.resize(2 * n + 1);
  }
  std::fill_n(from.begin(), n + 1, kNone);
  best[0] = base;
  size_t frontier = 0;
  for (size_t start = 0; start < n;) {
    if (Single && std::abs(best[start]) > kRebased) {
      const double offset = best[start];
      for (size_t i = start; i <= frontier; i++)
        if (i == start || from[i] != kNone) best[i] = double(float(best[i] - offset));
    }
    const double here = best[start];
    const size_t width = width_of(p[start]);
    const auto offer = [&](size_t end, double sum, uint32_t id) {
      if constexpr (Single) sum = double(float(sum));
      frontier = std::max(frontier, end);
      if (from[end] == kNone) {
        second[end] = least;
      } else if (sum > best[end]) {
        second[end] = best[end];
      } else {
        second[end] = std::max(second[end], sum);
        return;
      }
      best[end] = sum;
      from[end] = uint32_t(start);
      piece[end] = id;
    };
    bool whole = false;
    uint32_t node = 0;
    for (size_t i = start; i < n; i++) {
      node = trie.step(node, p[i]);
      if (node == Trie::none) break;
      const uint32_t id = trie.value(node);
      if (id == Trie::none) continue;
      whole |= i + 1 - start == width;
      offer(i + 1, scores[id] + here, id);
    }
    if (!whole) offer(start + width, unknown_score + here, unknown);
    start += width;
  }
  std::vector<uint32_t>& path = scratch.path;
  path.clear();
  double least_margin = std::numeric_limits<double>::infinity();
  for (size_t end = n; end > 0; end = from[end]) {
    path.push_back(uint32_t(end));
    least_margin = std::min(least_margin, best[end] - second[end]);
  }
  if (margin) *margin = least_margin;
  for (size_t i = path.size(); i-- > 0;) {
    const size_t end = path[i];
    if (piece[end] != unknown) {
      run.unknown = false;
      out.push_back(piece[end]);
    } else if (!byte_ids.empty()) {
      for (size_t b = from[end]; b < end; b++) out.push_back(byte_ids[p[b]]);
    } else {
      if (!run.unknown) out.push_back(unknown);
      run.unknown = true;
    }
  }
  return best[n];
}

template <PieceKind K>
void PieceModel::cut(const uint8_t* p, const uint8_t* end, Scratch& scratch, std::vector<uint32_t>& out) const {
  Run run;
  // Of two sums that differ by more than this for each character and unit of size, rounding cannot change which is larger.
  const double rounding = 4 * (single ? 0x1p-24 : 0x1p-53);
  const auto exact = [&](const uint8_t* from, size_t n) {
    if constexpr (K == PieceKind::bpe) {
      bpe(from, n, scratch, run, out);
    } else {
      run.base = single ? viterbi<true>(from, n, run.base, scratch, run, out, nullptr)
                        : viterbi<false>(from, n, run.base, scratch, run, out, nullptr);
    }
  };
  const auto settled = [&](double margin, size_t n) {
    const double size = std::abs(run.base) + double(n + 1) * widest_score;
    return margin > rounding * double(n + 2) * size && !(single && size > kRebased);
  };
  while (p < end) {
    const uint8_t* q = p;
    uint32_t left = next_point(q);
    bool border = false;
    while (q < end) {
      const uint8_t* r = q;
      const uint32_t right = next_point(r);
      border = split_at_space && right == kSpaceMark;
      if (border || !joined(left, right)) break;
      left = right;
      q = r;
    }
    const size_t n = size_t(q - p);
    if (n <= WordCache::longest) {
      const WordCache::Key key = WordCache::key_of(p, n, end - p >= ptrdiff_t(WordCache::longest));
      WordCache::Entry& entry = scratch.cache->slot(key, n);
      bool hit = WordCache::holds(entry, key, n);
      if (!hit) {
        const size_t before = out.size();
        Run fresh;
        double margin = 0;
        if constexpr (K == PieceKind::bpe) {
          bpe(p, n, scratch, fresh, out);
        } else {
          viterbi<false>(p, n, 0, scratch, fresh, out, &margin);
        }
        const size_t count = out.size() - before;
        // Unknown characters depend on what came before; and a margin takes the place of an id.
        bool kept = count < WordCache::most_ids;
        for (size_t i = before; kept && i < out.size(); i++) kept = out[i] != unknown;
        if constexpr (K == PieceKind::unigram) {
          // Bytes of unknown characters have no score of their own.
          if (kept && !byte_ids.empty())
            for (const uint32_t end_of : scratch.path) kept = kept && scratch.piece[end_of] != unknown;
        }
        if (kept) {
          std::memcpy(entry.key, key.part, sizeof entry.key);
          entry.length = uint8_t(n);
          entry.count = uint8_t(count);
          std::memcpy(entry.ids, out.data() + before, count * sizeof(uint32_t));
          entry.ids[WordCache::most_ids - 1] = std::bit_cast<uint32_t>(float(std::min(margin * 0.9999, 1e30)));
          hit = true;
        }
        out.resize(before);
      }
      if (single && std::abs(run.base) > kRebased) run.base = 0;
      if constexpr (K == PieceKind::unigram) hit = hit && settled(as_float(entry.ids[WordCache::most_ids - 1]), n);
      if (hit) {
        out.insert(out.end(), entry.ids, entry.ids + entry.count);
        run.unknown = false;
        if constexpr (K == PieceKind::unigram) {
          for (size_t i = 0; i < entry.count; i++) {
            run.base += scores[entry.ids[i]];
            if (single) run.base = double(float(run.base));
          }
        }
      } else {
        exact(p, n);
      }
    } else {
      exact(p, n);
    }
    if (border) run = Run{};
    p = q;
  }
}

// ---- Texts ----

void PieceModel::encode_prepared(const uint8_t* p, const uint8_t* end, Scratch& scratch, std::vector<uint32_t>& out) const {
  if (kind == PieceKind::bpe) return cut<PieceKind::bpe>(p, end, scratch, out);
  if (kind == PieceKind::unigram) return cut<PieceKind::unigram>(p, end, scratch, out);
  std::vector<uint8_t>& buffer = scratch.word;
  buffer.assign(p, end);
  buffer.resize(buffer.size() + WordCache::longest);
  if (p < end) word(buffer.data(), size_t(end - p), scratch, out);
}

void PieceModel::encode_span(const Span& span, bool first, bool last, Scratch& scratch, std::vector<uint32_t>& out) const {
  if (shape == Shape::bert) {
    encode_bert(span.begin, span.stop, scratch, out);
  } else if (shape == Shape::sentencepiece) {
    shape_sentencepiece(span.begin, span.stop, first, last, scratch.shaped);
    encode_prepared(scratch.shaped.data(), scratch.shaped.data() + scratch.shaped.size(), scratch, out);
  } else if (shape == Shape::graphemes) {
    shape_graphemes(span.begin, span.stop, first, last, scratch);
    encode_prepared(scratch.shaped.data(), scratch.shaped.data() + scratch.shaped.size(), scratch, out);
  } else {
    encode_prepared(span.begin, span.stop, scratch, out);
  }
}

/** The first place from `from` on where what comes before and after has ids of its own; `end` if there is none. */
const uint8_t* PieceModel::place_to_cut(const uint8_t* from, const uint8_t* end) const {
  const auto known = [&](uint32_t point) {
    const uint32_t symbol = symbols.get(point);
    return symbol != kNone && symbol < tokens;
  };
  if (shape == Shape::bert) {
    const void* const space = std::memchr(from, ' ', size_t(end - from));
    return space ? static_cast<const uint8_t*>(space) : end;
  }
  if (shape == Shape::sentencepiece) {
    if (kind != PieceKind::bpe || begins_key[size_t(' ')]) return end;
    const auto letter = [&](uint8_t b) { return b > ' ' && b < 0x7f && !begins_key[b]; };
    for (const uint8_t* p = from; p + 1 < end; p++)
      if (*p == ' ' && letter(p[-1]) && letter(p[-2]) && letter(p[1]) && !joined(p[-1], kSpaceMark) && known(p[-1])) return p;
    return end;
  }
  if (kind == PieceKind::unigram && !split_at_space) return end;
  if (shape == Shape::graphemes) {
    // One space between two letters that stay what they are.
    if (begins_key[size_t(' ')]) return end;
    const auto letter = [&](uint8_t b) { return b > ' ' && b < 0x7f && !begins_key[b]; };
    for (const uint8_t* p = from; p + 2 < end; p++)
      if (*p == ' ' && letter(p[-1]) && letter(p[1]) && p[2] < 0x80) return p;
    return end;
  }
  for (const uint8_t* p = from; p + 2 < end; p++) {
    if (std::memcmp(p, kSpaceBytes, 3) != 0) continue;
    if (split_at_space) return p;
    const uint8_t* before = p - 1;
    while ((*before & 0xc0) == 0x80) before--;
    const uint32_t left = next_point(before);
    if (!joined(left, kSpaceMark) && known(left)) return p;
  }
  return end;
}

std::vector<Span> PieceModel::spans(const uint8_t* text, const double* ends, size_t documents) const {
  return spans_by(text, ends, documents, kSpan, [this](const uint8_t* from, const uint8_t* end) { return place_to_cut(from, end); });
}

void PieceModel::encode(const uint8_t* text, size_t size, std::vector<uint32_t>& out) {
  std::unique_ptr<WordCache> cache = caches.borrow();
  Scratch scratch;
  scratch.cache = cache.get();
  encode_span({text, text + size, text + size, 0}, true, true, scratch, out);
  caches.give_back(std::move(cache));
}

void PieceModel::encode_many(const uint8_t* text, const double* ends, size_t documents, int threads, Encoded& out) {
  std::vector<std::unique_ptr<WordCache>> held(static_cast<size_t>(std::max(1, threads)));
  std::vector<Scratch> scratches(held.size());
  encode_spans(
      spans(text, ends, documents), documents, kSpan, threads,
      [&](const Span& span, int thread, std::vector<uint32_t>& ids) {
        Scratch& scratch = scratches[size_t(thread)];
        if (!scratch.cache) scratch.cache = (held[size_t(thread)] = caches.borrow()).get();
        const uint8_t* const begin = text + (span.document ? size_t(ends[span.document - 1]) : 0);
        encode_span(span, span.begin == begin, span.stop == span.end, scratch, ids);
      },
      out);
  for (auto& cache : held)
    if (cache) caches.give_back(std::move(cache));
}

}  // namespace howdah::text

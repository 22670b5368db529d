#include "text_bpe.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

#include "error.hpp"
#include "isa.hpp"
#include "text_cache.hpp"

HOWDAH_DECLARE_TABLE(howdah::text::MergeKernels, text_merge_table)

namespace howdah::text {

namespace {

/** Bytes of text one thread takes at a time. */
constexpr size_t kSpan = 256 << 10;

}  // namespace

void PairSlots::reserve(size_t count) {
  const int bits = std::max(4, int(std::bit_width(count * 3 / 2)));
  slots.assign(size_t(1) << bits, ~0ull);
  shift = 64 - bits;
  // Four bits a slot: about one in ten is set.
  filter_shift = shift - 2;
  filter.assign(size_t(1) << (64 - filter_shift - 6), 0);
}

void PairSlots::set(uint32_t left, uint32_t right, uint32_t value) {
  const uint64_t key = uint64_t(left) << 21 | right;
  uint64_t at = key * 0x9e3779b97f4a7c15ull >> shift;
  while (slots[at] != ~0ull && slots[at] >> 22 != key) at = (at + 1) & (slots.size() - 1);
  slots[at] = key << 22 | value;
  const uint64_t bit = key * 0x9e3779b97f4a7c15ull >> filter_shift;
  filter[bit >> 6] |= 1ull << (bit & 63);
}

void PairSlots::give(MergeTable& table) const {
  table.slots = slots.data();
  table.shift = shift;
  table.filter = filter.data();
  table.filter_shift = filter_shift;
  table.mask = slots.size() - 1;
}

BpeModel::BpeModel(const BpeParts& parts)
    : pattern(parts.pattern), byte_ids(parts.byte_ids, parts.byte_ids + 256), merge_short(HOWDAH_TABLE(text_merge_table).merge_short) {
  if (!classes_set()) fail("The table of character classes is not set.");
  uint32_t most_rank = 0;
  for (size_t i = 0; i < parts.merge_count; i++) {
    const uint32_t* m = parts.merges + 4 * i;
    if (m[0] >= kMostIds || m[1] >= kMostIds || m[2] >= kMostRanks) fail("Merge ", i, " has a number that is too large for the native tokenizer.");
    most_rank = std::max(most_rank, m[2]);
  }
  pairs.reserve(parts.merge_count);
  made.assign(size_t(most_rank) + 1, kNone);
  for (size_t i = 0; i < parts.merge_count; i++) {
    const uint32_t* m = parts.merges + 4 * i;
    pairs.set(m[0], m[1], m[2]);
    made[m[2]] = m[3];
  }
  pairs.give(table);
  table.made = made.data();
  byte_ranks.resize(1 << 16);
  for (uint32_t a = 0; a < 256; a++)
    for (uint32_t b = 0; b < 256; b++) byte_ranks[a << 8 | b] = table.rank(byte_ids[a], byte_ids[b]);
  table.byte_ranks = byte_ranks.data();
  table.byte_ids = byte_ids.data();

  keep_wholes(parts);
  find_joints(parts);
}

BpeModel::~BpeModel() = default;

/** Tokens that merging their bytes gives anyway (nearly all, as a rule) need not be looked up. */
void BpeModel::keep_wholes(const BpeParts& parts) {
  std::vector<uint32_t> ids;
  std::vector<Whole> kept;
  uint32_t begin = 0;
  for (size_t i = 0; i < parts.whole_count; begin = parts.whole_ends[i++]) {
    const uint8_t* const bytes = parts.whole_bytes + begin;
    const uint32_t length = parts.whole_ends[i] - begin, id = parts.whole_ids[i];
    ids.resize(std::max<size_t>(ids.size(), length));
    if (length == 0 || (merge(bytes, length, ids.data()) == 1 && ids[0] == id)) continue;
    kept.push_back({uint32_t(whole_bytes.size()), length, id});
    whole_bytes.insert(whole_bytes.end(), bytes, bytes + length);
    whole_longest = std::max<size_t>(whole_longest, length);
  }
  wholes.assign(std::bit_ceil(kept.size() * 2 + 1), Whole{0, 0, kNone});
  whole_mask = wholes.size() - 1;
  for (const Whole& whole : kept) {
    uint64_t at = hash_bytes(whole_bytes.data() + whole.begin, whole.length) & whole_mask;
    while (wholes[at].id != kNone) at = (at + 1) & whole_mask;
    wholes[at] = whole;
  }
}

/** A token's pairs of bytes are those of its two parts and the one where they meet, so the merges tell all of them. */
void BpeModel::find_joints(const BpeParts& parts) {
  joints.assign(1 << 16, 0);
  struct Ends {
    int first = -1, last = -1;
  };
  std::vector<Ends> ends;
  const auto of = [&ends](uint32_t id) -> Ends& {
    if (id >= ends.size()) ends.resize(size_t(id) + 1);
    return ends[id];
  };
  for (int byte = 0; byte < 256; byte++) of(byte_ids[size_t(byte)]) = {byte, byte};
  // Merges come in the order of their ranks as a rule, their parts before them; a file may have it otherwise, hence until nothing is new.
  std::vector<size_t> unknown(parts.merge_count);
  for (size_t i = 0; i < unknown.size(); i++) unknown[i] = i;
  for (size_t before = unknown.size() + 1; unknown.size() < before;) {
    before = unknown.size();
    std::erase_if(unknown, [&](size_t i) {
      const uint32_t* m = parts.merges + 4 * i;
      const Ends left = of(m[0]), right = of(m[1]);
      if (left.first < 0 || right.first < 0) return false;
      joints[size_t(left.last) << 8 | size_t(right.first)] = 1;
      of(m[3]) = {left.first, right.last};
      return true;
    });
  }
  // What stays unknown joins parts that no bytes lead to: such a merge never happens.
  uint32_t begin = 0;
  for (size_t i = 0; i < parts.whole_count; begin = parts.whole_ends[i++])
    for (uint32_t at = begin + 1; at < parts.whole_ends[i]; at++)
      joints[size_t(parts.whole_bytes[at - 1]) << 8 | parts.whole_bytes[at]] = 1;
}

uint32_t BpeModel::find_whole(const uint8_t* word, size_t n) const {
  if (n > whole_longest) return kNone;
  for (uint64_t at = hash_bytes(word, n) & whole_mask;; at = (at + 1) & whole_mask) {
    const Whole& entry = wholes[at];
    if (entry.id == kNone) return kNone;
    if (entry.length == n && std::memcmp(whole_bytes.data() + entry.begin, word, n) == 0) return entry.id;
  }
}

/** The ids of one piece into `out`, which has room for n. */
size_t BpeModel::encode_word(const uint8_t* word, size_t n, uint32_t* out) const {
  const uint32_t whole = find_whole(word, n);
  if (whole != kNone) {
    out[0] = whole;
    return 1;
  }
  return merge(word, n, out);
}

size_t BpeModel::merge(const uint8_t* word, size_t n, uint32_t* out) const {
  return n <= kShortWord ? merge_short(table, word, n, out) : merge_long(word, n, out);
}

/** O(n log n): a linked list of symbols and a heap of possible merges, whose stale entries are dropped when they surface. */
size_t BpeModel::merge_long(const uint8_t* bytes, size_t n, uint32_t* out) const {
  if (n >= kNone) fail("A piece of ", n, " bytes is too long.");
  std::vector<uint32_t> next(n), previous(n);
  uint32_t* symbols = out;
  std::vector<uint64_t> heap;
  heap.reserve(n);
  const auto worse = std::greater<uint64_t>();
  const auto key = [](uint32_t rank, size_t at) { return uint64_t(rank) << 32 | at; };
  for (size_t i = 0; i < n; i++) {
    symbols[i] = byte_ids[bytes[i]];
    next[i] = uint32_t(i + 1);
    previous[i] = uint32_t(i - 1);
  }
  for (size_t i = 0; i + 1 < n; i++) {
    const uint32_t rank = byte_ranks[size_t(bytes[i]) << 8 | bytes[i + 1]];
    if (rank != kNone) heap.push_back(key(rank, i));
  }
  std::make_heap(heap.begin(), heap.end(), worse);
  const auto offer = [&](size_t at) {
    const size_t right = next[at];
    if (right >= n) return;
    const uint32_t rank = table.rank(symbols[at], symbols[right]);
    if (rank == kNone) return;
    heap.push_back(key(rank, at));
    std::push_heap(heap.begin(), heap.end(), worse);
  };
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), worse);
    const uint64_t top = heap.back();
    heap.pop_back();
    const uint32_t rank = uint32_t(top >> 32);
    const size_t at = size_t(top & 0xffffffffu);
    if (symbols[at] == kNone) continue;
    const size_t right = next[at];
    if (right >= n || table.rank(symbols[at], symbols[right]) != rank) continue;
    symbols[at] = made[rank];
    symbols[right] = kNone;
    next[at] = next[right];
    if (next[right] < n) previous[next[right]] = uint32_t(at);
    offer(at);
    if (at > 0) offer(previous[at]);
  }
  size_t count = 0;
  for (size_t i = 0; i < n; i = next[i]) out[count++] = symbols[i];
  return count;
}

/** The ids of a word of at most WordCache::longest bytes into `out`, which has room for most_ids beyond n. */
inline size_t BpeModel::encode_cached(const uint8_t* word, size_t n, const uint8_t* end, WordCache& cache, uint32_t* out) const {
  const WordCache::Key key = WordCache::key_of(word, n, end - word >= ptrdiff_t(WordCache::longest));
  WordCache::Entry& entry = cache.slot(key, n);
  if (WordCache::holds(entry, key, n)) {
    std::memcpy(out, entry.ids, sizeof entry.ids);
    return entry.count;
  }
  const size_t count = encode_word(word, n, out);
  if (count <= WordCache::most_ids) {
    std::memcpy(entry.key, key.part, sizeof entry.key);
    entry.length = uint8_t(n);
    entry.count = uint8_t(count);
    std::memcpy(entry.ids, out, count * sizeof(uint32_t));
  }
  return count;
}

/** A long piece is cut where no token has the two bytes side by side: the parts are short, come again, and are independent of each other. */
size_t BpeModel::encode_long(const uint8_t* piece, size_t n, const uint8_t* end, WordCache& cache, uint32_t* out) const {
  size_t used = 0, begin = 0;
  for (size_t at = 1; at <= n; at++) {
    if (at < n && joints[size_t(piece[at - 1]) << 8 | piece[at]]) continue;
    const size_t part = at - begin;
    // Only a whole piece may be a token that merges do not lead to.
    if (part < n && find_whole(piece + begin, part) != kNone) {
      used += merge(piece + begin, part, out + used);
      begin = at;
      continue;
    }
    used += part <= WordCache::longest ? encode_cached(piece + begin, part, end, cache, out + used) : encode_word(piece + begin, part, out + used);
    begin = at;
  }
  return used;
}

template <Pattern P>
void BpeModel::encode_span(const Span& span, WordCache& cache, std::vector<uint32_t>& out) const {
  size_t used = out.size();
  const uint8_t* p = span.begin;
  while (p < span.stop) {
    const uint8_t* q = next_piece<P>(p, span.end);
    const size_t n = size_t(q - p);
    // Room for this piece, and for the fixed number of ids that is copied from the cache.
    if (out.size() - used < n + WordCache::most_ids) {
      const size_t rest = size_t(span.stop - p);
      out.resize(used + n + WordCache::most_ids + std::min(rest, std::max<size_t>(rest / 3, 64)));
    }
    uint32_t* const to = out.data() + used;
    used += n <= WordCache::longest ? encode_cached(p, n, span.end, cache, to) : encode_long(p, n, span.end, cache, to);
    p = q;
  }
  out.resize(used);
}

void BpeModel::encode_any(const Span& span, WordCache& cache, std::vector<uint32_t>& out) const {
  with_pattern(pattern, [&]<Pattern P>() { encode_span<P>(span, cache, out); });
}

void BpeModel::encode(const uint8_t* text, size_t size, std::vector<uint32_t>& out) {
  std::unique_ptr<WordCache> cache = caches.borrow();
  encode_any({text, text + size, text + size, 0}, *cache, out);
  caches.give_back(std::move(cache));
}

std::vector<Span> spans_of(const uint8_t* text, const double* ends, size_t documents, Pattern pattern, size_t size) {
  return spans_by(text, ends, documents, size,
                  [pattern](const uint8_t* from, const uint8_t* end) { return pattern == Pattern::whole ? end : safe_cut(from, end); });
}

void BpeModel::encode_many(const uint8_t* text, const double* ends, size_t documents, int threads, Encoded& out) {
  std::vector<std::unique_ptr<WordCache>> held(static_cast<size_t>(std::max(1, threads)));
  encode_spans(
      spans_of(text, ends, documents, pattern, kSpan), documents, kSpan, threads,
      [&](const Span& span, int thread, std::vector<uint32_t>& ids) {
        std::unique_ptr<WordCache>& cache = held[size_t(thread)];
        if (!cache) cache = caches.borrow();
        encode_any(span, *cache, ids);
      },
      out);
  for (auto& cache : held)
    if (cache) caches.give_back(std::move(cache));
}

}  // namespace howdah::text

#include "text_bpe.hpp"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <new>
#include <queue>
#include <thread>

#include "error.hpp"
#include "isa.hpp"

HOWDAH_DECLARE_TABLE(howdah::text::MergeKernels, text_merge_table)

namespace howdah::text {

/** What words became, one entry a cache line. A word takes the place of another with the same slot. */
class WordCache {
 public:
  static constexpr size_t longest = 24, most_ids = 9;

  struct alignas(64) Entry {
    uint64_t key[3];
    uint8_t length;  // 0: empty
    uint8_t count;
    uint16_t unused;
    uint32_t ids[most_ids];
  };
  static_assert(sizeof(Entry) == 64);

  struct Key {
    uint64_t part[3];
  };

  /** @param safe whether 24 bytes from `word` on may be read */
  static Key key_of(const uint8_t* word, size_t n, bool safe) {
    Key key{};
    if (!safe) {
      std::memcpy(key.part, word, n);
      return key;
    }
    const auto load = [word](size_t i) {
      uint64_t x;
      std::memcpy(&x, word + 8 * i, 8);
      return x;
    };
    const auto low = [](uint64_t x, size_t bytes) { return x & ~0ull >> (64 - 8 * bytes); };
    if (n <= 8) {
      key.part[0] = low(load(0), n);
    } else if (n <= 16) {
      key.part[0] = load(0);
      key.part[1] = low(load(1), n - 8);
    } else {
      key.part[0] = load(0);
      key.part[1] = load(1);
      key.part[2] = low(load(2), n - 16);
    }
    return key;
  }

  Entry& slot(const Key& key, size_t n) {
    const uint64_t mixed = (key.part[0] ^ key.part[2] * 0x9fb21c651e98df25ull) * 0x9e3779b97f4a7c15ull +
                           (key.part[1] + n) * 0xd6e8feb86659fd93ull;
    return entries[(mixed ^ mixed >> 29) * 0xbf58476d1ce4e5b9ull >> (64 - bits)];
  }

  static bool holds(const Entry& entry, const Key& key, size_t n) {
    return entry.length == n && entry.key[0] == key.part[0] && entry.key[1] == key.part[1] && entry.key[2] == key.part[2];
  }

 private:
  static constexpr int bits = 15;
  std::vector<Entry> entries = std::vector<Entry>(size_t(1) << bits);
};

namespace {

uint64_t hash_bytes(const uint8_t* p, size_t n) {
  uint64_t h = n * 0x9e3779b97f4a7c15ull;
  for (; n >= 8; p += 8, n -= 8) {
    uint64_t x;
    std::memcpy(&x, p, 8);
    h = (std::rotl(h, 29) ^ x) * 0xbf58476d1ce4e5b9ull;
  }
  uint64_t x = 0;
  std::memcpy(&x, p, n);
  h = (std::rotl(h, 29) ^ x) * 0xbf58476d1ce4e5b9ull;
  return h ^ h >> 32;
}

/** Bytes of text one thread takes at a time. */
constexpr size_t kSpan = 256 << 10;

}  // namespace

Encoded::~Encoded() { std::free(ids); }

BpeModel::BpeModel(const BpeParts& parts)
    : pattern(parts.pattern), byte_ids(parts.byte_ids, parts.byte_ids + 256), merge_short(HOWDAH_TABLE(text_merge_table).merge_short) {
  if (!classes_set()) fail("The table of character classes is not set.");
  uint32_t most_rank = 0;
  for (size_t i = 0; i < parts.merge_count; i++) {
    const uint32_t* m = parts.merges + 4 * i;
    if (m[0] >= kMostIds || m[1] >= kMostIds || m[2] >= kMostRanks) fail("Merge ", i, " has a number that is too large for the native tokenizer.");
    most_rank = std::max(most_rank, m[2]);
  }
  const int bits = std::max(4, int(std::bit_width(parts.merge_count * 3 / 2)));
  slots.assign(size_t(1) << bits, ~0ull);
  made.assign(size_t(most_rank) + 1, kNone);
  table.shift = 64 - bits;
  table.mask = slots.size() - 1;
  for (size_t i = 0; i < parts.merge_count; i++) {
    const uint32_t* m = parts.merges + 4 * i;
    const uint64_t key = uint64_t(m[0]) << 21 | m[1];
    uint64_t at = key * 0x9e3779b97f4a7c15ull >> table.shift;
    while (slots[at] != ~0ull && slots[at] >> 22 != key) at = (at + 1) & table.mask;
    slots[at] = key << 22 | m[2];
    made[m[2]] = m[3];
  }
  table.slots = slots.data();
  table.made = made.data();
  byte_ranks.resize(1 << 16);
  for (uint32_t a = 0; a < 256; a++)
    for (uint32_t b = 0; b < 256; b++) byte_ranks[a << 8 | b] = table.rank(byte_ids[a], byte_ids[b]);
  table.byte_ranks = byte_ranks.data();
  table.byte_ids = byte_ids.data();

  if (parts.whole_count) {
    const size_t bytes = parts.whole_ends[parts.whole_count - 1];
    whole_bytes.assign(parts.whole_bytes, parts.whole_bytes + bytes);
    wholes.assign(std::bit_ceil(parts.whole_count * 2), Whole{0, 0, kNone});
    whole_mask = wholes.size() - 1;
    uint32_t begin = 0;
    for (size_t i = 0; i < parts.whole_count; i++) {
      const uint32_t length = parts.whole_ends[i] - begin;
      uint64_t at = hash_bytes(whole_bytes.data() + begin, length) & whole_mask;
      while (wholes[at].id != kNone) at = (at + 1) & whole_mask;
      wholes[at] = {begin, length, parts.whole_ids[i]};
      whole_longest = std::max<size_t>(whole_longest, length);
      begin = parts.whole_ends[i];
    }
  }
}

BpeModel::~BpeModel() = default;

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
    if (n <= WordCache::longest) {
      const WordCache::Key key = WordCache::key_of(p, n, span.end - p >= ptrdiff_t(WordCache::longest));
      WordCache::Entry& entry = cache.slot(key, n);
      if (!WordCache::holds(entry, key, n)) {
        const size_t count = encode_word(p, n, to);
        if (count <= WordCache::most_ids) {
          std::memcpy(entry.key, key.part, sizeof entry.key);
          entry.length = uint8_t(n);
          entry.count = uint8_t(count);
          std::memcpy(entry.ids, to, count * sizeof(uint32_t));
        }
        used += count;
      } else {
        std::memcpy(to, entry.ids, sizeof entry.ids);
        used += entry.count;
      }
    } else {
      used += encode_word(p, n, to);
    }
    p = q;
  }
  out.resize(used);
}

void BpeModel::encode_any(const Span& span, WordCache& cache, std::vector<uint32_t>& out) const {
  with_pattern(pattern, [&]<Pattern P>() { encode_span<P>(span, cache, out); });
}

std::unique_ptr<WordCache> BpeModel::borrow() {
  {
    std::lock_guard lock(caches_mutex);
    if (!caches.empty()) {
      std::unique_ptr<WordCache> cache = std::move(caches.back());
      caches.pop_back();
      return cache;
    }
  }
  return std::make_unique<WordCache>();
}

void BpeModel::give_back(std::unique_ptr<WordCache> cache) {
  std::lock_guard lock(caches_mutex);
  caches.push_back(std::move(cache));
}

void BpeModel::encode(const uint8_t* text, size_t size, std::vector<uint32_t>& out) {
  std::unique_ptr<WordCache> cache = borrow();
  encode_any({text, text + size, text + size, 0}, *cache, out);
  give_back(std::move(cache));
}

std::vector<Span> spans_of(const uint8_t* text, const double* ends, size_t documents, Pattern pattern, size_t size) {
  std::vector<Span> spans;
  size_t begin = 0;
  for (size_t d = 0; d < documents; d++) {
    const uint8_t* p = text + begin;
    const uint8_t* const end = text + size_t(ends[d]);
    while (p < end) {
      const uint8_t* stop = end;
      if (pattern != Pattern::whole && size_t(end - p) > 2 * size) stop = safe_cut(p + size, end);
      spans.push_back({p, stop, end, d});
      p = stop;
    }
    begin = size_t(ends[d]);
  }
  return spans;
}

void run_on_threads(size_t n, int threads, const std::function<void(size_t, int)>& body) {
  std::atomic<size_t> taken{0};
  std::mutex mutex;
  std::exception_ptr failure;
  const auto work = [&](int thread) {
    try {
      for (size_t i; (i = taken.fetch_add(1)) < n;) body(i, thread);
    } catch (...) {
      taken.store(n);
      std::lock_guard lock(mutex);
      if (!failure) failure = std::current_exception();
    }
  };
  std::vector<std::thread> helpers;
  for (int t = 1; t < threads && size_t(t) < n; t++) helpers.emplace_back(work, t);
  work(0);
  for (std::thread& helper : helpers) helper.join();
  if (failure) std::rethrow_exception(failure);
}

void BpeModel::encode_many(const uint8_t* text, const double* ends, size_t documents, int threads, Encoded& out) {
  const std::vector<Span> spans = spans_of(text, ends, documents, pattern, kSpan);
  // Small documents go in groups of about a span's size.
  std::vector<size_t> groups{0};
  size_t bytes = 0;
  for (size_t i = 0; i < spans.size(); i++) {
    bytes += size_t(spans[i].stop - spans[i].begin);
    if (bytes >= kSpan || i + 1 == spans.size()) {
      groups.push_back(i + 1);
      bytes = 0;
    }
  }
  const size_t group_count = groups.size() - 1;
  std::vector<std::vector<uint32_t>> parts(group_count);
  std::vector<size_t> span_ids(spans.size());
  const int used = std::max(1, std::min<int>(threads, int(group_count)));
  std::vector<std::unique_ptr<WordCache>> held(static_cast<size_t>(used));
  for (auto& cache : held) cache = borrow();
  run_on_threads(group_count, used, [&](size_t g, int thread) {
    // Collected in a buffer of the thread's own and copied to size: growth is paid once.
    thread_local std::vector<uint32_t> collected;
    collected.clear();
    for (size_t i = groups[g]; i < groups[g + 1]; i++) {
      const size_t before = collected.size();
      encode_any(spans[i], *held[size_t(thread)], collected);
      span_ids[i] = collected.size() - before;
    }
    parts[g].assign(collected.begin(), collected.end());
  });
  for (auto& cache : held) give_back(std::move(cache));

  size_t total = 0;
  for (const auto& part : parts) total += part.size();
  out.ids = static_cast<uint32_t*>(std::malloc(std::max<size_t>(total, 1) * sizeof(uint32_t)));
  if (!out.ids) throw std::bad_alloc();
  out.count = total;
  size_t at = 0;
  for (auto& part : parts) {
    if (!part.empty()) std::memcpy(out.ids + at, part.data(), part.size() * sizeof(uint32_t));
    at += part.size();
    part = {};
  }
  out.ends.assign(documents, 0);
  for (size_t i = 0; i < spans.size(); i++) out.ends[spans[i].document] += double(span_ids[i]);
  for (size_t d = 1; d < documents; d++) out.ends[d] += out.ends[d - 1];
}

}  // namespace howdah::text

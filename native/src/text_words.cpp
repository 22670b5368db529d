#include "text_words.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <numeric>
#include <queue>
#include <utility>

#include "error.hpp"
#include "text_cache.hpp"

namespace howdah::text {
namespace {

constexpr size_t kFirstTable = 1 << 14;
/** Hash, count and length of a word before its bytes. */
constexpr size_t kHead = 20;

/** Thoroughly mixed: what is left of the order of hashes must not matter. */
uint64_t chance(uint64_t hash, uint64_t which) {
  uint64_t x = hash + which * 0x9e3779b97f4a7c15ull;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ x >> 27) * 0x94d049bb133111ebull;
  return x ^ x >> 31;
}

/** In (0, 1). */
double uniform(uint64_t bits) { return (double(bits >> 11) + 0.5) * 0x1p-53; }

double priority(uint64_t hash, uint64_t count) { return double(count) / uniform(chance(hash, 1)); }

/** Up or down by chance, so that it is right on average. */
uint64_t rounded(double x, uint64_t bits) {
  const double whole = std::floor(x);
  return uint64_t(whole) + (uniform(bits) < x - whole ? 1 : 0);
}

std::string reason() { return std::strerror(errno); }

}  // namespace

WordCounts::WordCounts() : table(kFirstTable) {}

void WordCounts::clear() {
  entries = {};
  arena = {};
  table = std::vector<uint32_t>(kFirstTable);
}

void WordCounts::grow() {
  table.assign(table.size() * 2, 0);
  const uint64_t mask = table.size() - 1;
  for (size_t i = 0; i < entries.size(); i++) {
    uint64_t at = entries[i].hash & mask;
    while (table[at]) at = (at + 1) & mask;
    table[at] = uint32_t(i + 1);
  }
}

void WordCounts::add(const uint8_t* word, size_t n, uint64_t count) {
  const uint64_t hash = hash_bytes(word, n);
  const uint64_t mask = table.size() - 1;
  uint64_t at = hash & mask;
  for (; table[at]; at = (at + 1) & mask) {
    Entry& entry = entries[table[at] - 1];
    if (entry.hash == hash && entry.length == n && std::memcmp(arena.data() + entry.begin, word, n) == 0) {
      entry.count += count;
      return;
    }
  }
  if (n > 0xffffffffu) fail("A piece of ", n, " bytes is too long.");
  if (entries.size() >= 0xfffffffeu) fail("There are more than four billion different words.");
  entries.push_back({arena.size(), hash, count, uint32_t(n)});
  arena.insert(arena.end(), word, word + n);
  table[at] = uint32_t(entries.size());
  if (entries.size() * 2 > table.size()) grow();
}

std::vector<uint32_t> WordCounts::in_order() const {
  std::vector<uint32_t> order(entries.size());
  std::iota(order.begin(), order.end(), 0u);
  std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
    const Entry &x = entries[a], &y = entries[b];
    if (x.hash != y.hash) return x.hash < y.hash;
    if (x.length != y.length) return x.length < y.length;
    return std::memcmp(arena.data() + x.begin, arena.data() + y.begin, x.length) < 0;
  });
  return order;
}

WordCounter::~WordCounter() {
  if (file >= 0) close(file);
}

void WordCounter::prepare(int threads) {
  while (tables.size() < size_t(std::max(1, threads))) tables.push_back(std::make_unique<WordCounts>());
}

void WordCounter::settle() {
  uint64_t held = 0;
  for (const auto& table : tables) held += table->bytes();
  if (held > memory) spill();
}

void WordCounter::spill() {
  if (file < 0) {
    std::string name = folder + "/howdah-words-XXXXXX";
    file = mkstemp(name.data());
    if (file < 0) fail("No temporary file for words in ", folder, ": ", reason(), ". Give training more memory, or set TMPDIR to another folder.");
    unlink(name.c_str());
  }
  std::vector<uint8_t> buffer;
  const auto flush = [&] {
    for (size_t at = 0; at < buffer.size();) {
      const ssize_t n = pwrite(file, buffer.data() + at, buffer.size() - at, off_t(written));
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0)
        fail("Words do not fit into the temporary folder ", folder, " after ", written, " bytes: ", reason(),
             ". Give training more memory, or set TMPDIR to a folder with more room.");
      at += size_t(n);
      written += uint64_t(n);
    }
    buffer.clear();
  };
  for (auto& table : tables) {
    if (!table->size()) continue;
    const uint64_t begin = written;
    for (const uint32_t i : table->in_order()) {
      const WordCounts::Entry& entry = table->entries[i];
      uint8_t head[kHead];
      std::memcpy(head, &entry.hash, 8);
      std::memcpy(head + 8, &entry.count, 8);
      std::memcpy(head + 16, &entry.length, 4);
      buffer.insert(buffer.end(), head, head + kHead);
      const uint8_t* const word = table->arena.data() + entry.begin;
      buffer.insert(buffer.end(), word, word + entry.length);
      if (buffer.size() >= 1 << 20) flush();
    }
    flush();
    runs.push_back({begin, written});
    table->clear();
  }
}

/** The words of one run, one after another. */
class WordCounter::Reader {
 public:
  Reader(int file, Run run, size_t size) : file(file), from(run.begin), end(run.end), size(size) { next(); }

  bool done = false;
  uint64_t hash = 0, count = 0;
  uint32_t length = 0;
  const uint8_t* word = nullptr;

  void next() {
    if (used == held && from == end) {
      done = true;
      return;
    }
    need(kHead);
    std::memcpy(&hash, buffer.data() + used, 8);
    std::memcpy(&count, buffer.data() + used + 8, 8);
    std::memcpy(&length, buffer.data() + used + 16, 4);
    need(kHead + length);
    word = buffer.data() + used + kHead;
    used += kHead + length;
  }

  /** Whether this word comes after that of `other`. */
  bool after(const Reader& other) const {
    if (hash != other.hash) return hash > other.hash;
    if (length != other.length) return length > other.length;
    return std::memcmp(word, other.word, length) > 0;
  }
  bool same(const Reader& other) const {
    return hash == other.hash && length == other.length && std::memcmp(word, other.word, length) == 0;
  }

 private:
  /** `n` bytes from `used` on. */
  void need(size_t n) {
    if (held - used >= n) return;
    if (held > used) std::memmove(buffer.data(), buffer.data() + used, held - used);
    held -= used;
    used = 0;
    if (buffer.size() < std::max(n, size)) buffer.resize(std::max(n, size));
    while (held < n) {
      const ssize_t read = pread(file, buffer.data() + held, size_t(std::min<uint64_t>(buffer.size() - held, end - from)), off_t(from));
      if (read < 0 && errno == EINTR) continue;
      if (read <= 0) fail("The temporary file of words could not be read: ", read < 0 ? reason() : std::string("it is cut short"), ".");
      held += size_t(read);
      from += uint64_t(read);
    }
  }
  int file;
  uint64_t from, end;
  size_t size, used = 0, held = 0;
  std::vector<uint8_t> buffer;
};

template <class Each>
void WordCounter::merge(Each&& each) const {
  const size_t size = std::clamp<size_t>(memory / 4 / runs.size(), 4 << 10, 1 << 20);
  std::vector<std::unique_ptr<Reader>> readers;
  for (const Run& run : runs) readers.push_back(std::make_unique<Reader>(file, run, size));
  const auto later = [](const Reader* a, const Reader* b) { return a->after(*b); };
  std::priority_queue<Reader*, std::vector<Reader*>, decltype(later)> queue(later);
  for (const auto& reader : readers) queue.push(reader.get());
  while (!queue.empty()) {
    Reader* const first = queue.top();
    queue.pop();
    uint64_t count = first->count;
    while (!queue.empty() && queue.top()->same(*first)) {
      Reader* const other = queue.top();
      queue.pop();
      count += other->count;
      other->next();
      if (!other->done) queue.push(other);
    }
    each(first->word, size_t(first->length), first->hash, count);
    first->next();
    if (!first->done) queue.push(first);
  }
}

Gathered WordCounter::gather(uint64_t most) {
  prepare(1);
  Gathered out;
  if (runs.empty()) {
    WordCounts& all = words();
    for (size_t i = 1; i < tables.size(); i++) {
      for (const WordCounts::Entry& entry : tables[i]->entries) all.add(tables[i]->arena.data() + entry.begin, entry.length, entry.count);
      tables[i].reset();
    }
    tables.resize(1);
    uint64_t sum = 0;
    for (const WordCounts::Entry& entry : all.entries) sum += cost(entry.length);
    out.distinct = out.kept = all.size();
    if (sum <= most) return out;
  }
  spill();
  tables.resize(1);
  out.spilled = written;
  out.distinct = 0;

  // The words with the highest priorities that fit; the first one that does not says what the rarer ones count.
  using Held = std::pair<double, uint64_t>;
  std::priority_queue<Held, std::vector<Held>, std::greater<Held>> kept;
  uint64_t sum = 0;
  double threshold = 0;
  // One that would push out all others is none to learn from.
  const uint64_t longest = most / 16;
  merge([&](const uint8_t*, size_t n, uint64_t hash, uint64_t count) {
    out.distinct++;
    if (cost(n) > longest) return;
    const double q = priority(hash, count);
    if (q <= threshold) return;
    kept.emplace(q, cost(n));
    sum += cost(n);
    while (sum > most && !kept.empty()) {
      sum -= kept.top().second;
      threshold = std::max(threshold, kept.top().first);
      kept.pop();
    }
  });
  if (kept.empty()) fail("Memory for learning is too small for a single word of this text. Give training more.");
  kept = {};
  WordCounts& all = words();
  merge([&](const uint8_t* word, size_t n, uint64_t hash, uint64_t count) {
    if (cost(n) > longest || priority(hash, count) <= threshold) return;
    all.add(word, n, rounded(std::max(double(count), threshold), chance(hash, 2)));
  });
  out.kept = all.size();
  out.least = std::max(1.0, threshold);
  runs.clear();
  close(std::exchange(file, -1));
  return out;
}

void WordCounter::shorten(WordCounts& words, double least) {
  if (least <= 1) return;
  for (WordCounts::Entry& entry : words.entries)
    entry.count = std::max<uint64_t>(1, rounded(double(entry.count) / least, chance(entry.hash, 3)));
}

}  // namespace howdah::text

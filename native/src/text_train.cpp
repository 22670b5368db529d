#include "text_train.hpp"

#include <algorithm>
#include <cstring>
#include <queue>
#include <unordered_map>
#include <utility>

#include "error.hpp"
#include "text_bpe.hpp"

namespace howdah::text {
namespace {

/** Pair of ids -> number of the pair, in the order of first appearance. */
class PairNumbers {
 public:
  static constexpr uint64_t empty = ~0ull;

  uint32_t number(uint32_t left, uint32_t right, bool& fresh) {
    const uint64_t key = uint64_t(left) << 32 | right;
    uint64_t at = slot(key);
    while (keys[at] != empty) {
      if (keys[at] == key) {
        fresh = false;
        return numbers[at];
      }
      at = (at + 1) & mask;
    }
    fresh = true;
    if ((used + 1) * 2 > keys.size()) {
      grow();
      at = slot(key);
      while (keys[at] != empty) at = (at + 1) & mask;
    }
    keys[at] = key;
    return numbers[at] = used++;
  }

 private:
  uint64_t slot(uint64_t key) const { return (key * 0x9e3779b97f4a7c15ull >> 20) & mask; }
  void grow() {
    std::vector<uint64_t> old_keys(keys.size() * 2, empty);
    std::vector<uint32_t> old_numbers(numbers.size() * 2);
    keys.swap(old_keys);
    numbers.swap(old_numbers);
    mask = keys.size() - 1;
    for (size_t i = 0; i < old_keys.size(); i++) {
      if (old_keys[i] == empty) continue;
      uint64_t at = slot(old_keys[i]);
      while (keys[at] != empty) at = (at + 1) & mask;
      keys[at] = old_keys[i];
      numbers[at] = old_numbers[i];
    }
  }

  std::vector<uint64_t> keys = std::vector<uint64_t>(1 << 16, empty);
  std::vector<uint32_t> numbers = std::vector<uint32_t>(1 << 16);
  uint64_t mask = (1 << 16) - 1;
  uint32_t used = 0;
};

/** A pair waiting to be merged; `count` may be out of date, which is found out when the entry comes to the top. */
struct Candidate {
  int64_t count;
  uint32_t left, right;
  uint32_t number;
  uint32_t list;  // of words that contain the pair (or did), ascending
};

/** For std::priority_queue, whose top is the greatest: the most frequent, among equals the smaller ids. */
struct Later {
  bool operator()(const Candidate& a, const Candidate& b) const {
    if (a.count != b.count) return a.count < b.count;
    if (a.left != b.left) return a.left > b.left;
    return a.right > b.right;
  }
};

}  // namespace

void Work::check() const {
  if (stopped.load(std::memory_order_relaxed)) fail("Training was stopped.");
}

// A third of the memory for tables that are counted in, since they double as they grow; all of it for learning afterwards.
Trainer::Trainer(Cut cut, Pattern pattern, uint64_t memory, std::string folder, const uint8_t* table, size_t size)
    : cut(cut), pattern(pattern), memory(memory), counter(memory / 3, std::move(folder)) {
  if (cut == Cut::bert) bert.read(table, size);
}

namespace {

/** The next place where a line ends, or a word. */
const uint8_t* next_gap(const uint8_t* from, const uint8_t* end) {
  while (from < end && *from != ' ' && *from != '\n') from++;
  return from;
}

/** Words of lines from a place where a line, or a word after a space, begins. */
template <class Word>
void metaspace_words(const uint8_t* p, const uint8_t* end, std::vector<uint8_t>& buffer, Word&& word) {
  while (p < end) {
    if (*p == '\n') {
      p++;
      continue;
    }
    // The mark is put in front, unless the text has it there.
    buffer.assign(kSpaceBytes, kSpaceBytes + 3);
    size_t characters = 1;
    if (*p == ' ')
      p++;
    else if (end - p >= 3 && std::memcmp(p, kSpaceBytes, 3) == 0)
      p += 3;
    for (;;) {
      const bool ends = p == end || *p == ' ' || *p == '\n' || (*p == kSpaceBytes[0] && end - p >= 3 && std::memcmp(p, kSpaceBytes, 3) == 0);
      if (ends || characters == kLongestWord) {
        word();
        buffer.clear();
        characters = 0;
        if (ends) break;
      }
      const size_t width = width_of(*p);
      buffer.insert(buffer.end(), p, p + width);
      p += width;
      characters++;
    }
  }
}

}  // namespace

void Trainer::count(const uint8_t* text, const double* ends, size_t documents, int threads) {
  if (!classes_set()) fail("The table of character classes is not set.");
  const size_t size = 256 << 10;
  const std::vector<Span> spans = cut == Cut::pattern ? spans_of(text, ends, documents, pattern, size) : spans_by(text, ends, documents, size, next_gap);
  const int used = std::max(1, std::min<int>(threads, int(std::min<size_t>(spans.size(), 256))));
  counter.prepare(used);
  run_on_threads(spans.size(), used, [&](size_t i, int thread) {
    WordCounts& mine = counter.of(thread);
    const Span& span = spans[i];
    thread_local std::vector<uint8_t> buffer;
    const auto add = [&] { mine.add(buffer.data(), buffer.size(), 1); };
    if (cut == Cut::metaspace) return metaspace_words(span.begin, span.stop, buffer, add);
    if (cut == Cut::bert) return bert.words(span.begin, span.stop, buffer, add);
    with_pattern(pattern, [&]<Pattern P>() {
      for (const uint8_t* p = span.begin; p < span.stop;) {
        const uint8_t* q = next_piece<P>(p, span.end);
        mine.add(p, size_t(q - p), 1);
        p = q;
      }
    });
  });
  counter.settle();
}

void Trainer::count_words(const uint8_t* text, const double* ends, const double* counts, size_t words) {
  counter.prepare(1);
  size_t begin = 0;
  for (size_t w = 0; w < words; w++) {
    counter.words().add(text + begin, size_t(ends[w]) - begin, uint64_t(counts[w]));
    begin = size_t(ends[w]);
  }
  counter.settle();
}

Gathered Trainer::gather() { return gathered = counter.gather(memory); }

std::vector<CharacterCount> Trainer::characters() {
  CodePointMap places;
  std::vector<CharacterCount> found;
  for (const WordCounts::Entry& entry : words().entries) {
    const uint8_t* const begin = words().arena.data() + entry.begin;
    const uint8_t* const end = begin + entry.length;
    for (const uint8_t* p = begin; p < end;) {
      const bool first = p == begin;
      const uint32_t point = next_point(p);
      uint32_t place = places.get(point);
      if (place == kNone) {
        place = uint32_t(found.size());
        places.set(point, place);
        found.push_back({point, 0, 0});
      }
      found[place].count += entry.count;
      if (!first) found[place].inner += entry.count;
    }
  }
  std::sort(found.begin(), found.end(), [](const CharacterCount& a, const CharacterCount& b) { return a.point < b.point; });
  return found;
}

std::vector<LearntMerge> Trainer::learn(Plan& plan) {
  // All words in one array, each a run [start, start + length) of symbols that shrinks in place as pairs merge.
  const size_t word_count = words().size();
  std::vector<uint64_t> starts(word_count);
  std::vector<uint32_t> lengths(word_count);
  std::vector<int64_t> frequency(word_count);
  std::vector<uint32_t> symbols;
  symbols.reserve(words().arena.size());
  for (size_t w = 0; w < word_count; w++) {
    const WordCounts::Entry& entry = words().entries[w];
    const uint8_t* p = words().arena.data() + entry.begin;
    const uint8_t* const end = p + entry.length;
    starts[w] = symbols.size();
    frequency[w] = int64_t(entry.count);
    if (plan.byte_ids) {
      while (p < end) symbols.push_back(plan.byte_ids[*p++]);
    } else {
      for (bool first = true; p < end; first = false) {
        const uint32_t point = next_point(p);
        const uint32_t id = (first ? plan.first : plan.inner).get(point);
        if (id != kNone) symbols.push_back(id);
      }
    }
    lengths[w] = uint32_t(symbols.size() - starts[w]);
  }
  words().clear();
  return merge_pairs(std::move(symbols), starts, std::move(lengths), frequency, plan);
}

std::vector<LearntMerge> Trainer::merge_pairs(std::vector<uint32_t> symbols, const std::vector<uint64_t>& starts,
                                                 std::vector<uint32_t> lengths, const std::vector<int64_t>& frequency, Plan& plan) {
  const size_t word_count = starts.size();
  std::vector<std::string>& tokens = plan.tokens;
  std::unordered_map<std::string, uint32_t> ids;
  for (size_t i = 0; i < tokens.size(); i++) ids.emplace(tokens[i], uint32_t(i));

  PairNumbers numbers;
  std::vector<int64_t> pair_counts;
  std::vector<std::pair<uint32_t, uint32_t>> pairs;
  /** The list of words that a pair of this step has, by pair number; kNone for none. */
  std::vector<uint32_t> list_of;
  std::vector<std::vector<uint32_t>> lists;
  std::vector<uint32_t> free_lists, fresh;

  const auto number_of = [&](uint32_t left, uint32_t right) {
    bool is_new = false;
    const uint32_t n = numbers.number(left, right, is_new);
    if (is_new) {
      pair_counts.push_back(0);
      pairs.emplace_back(left, right);
      list_of.push_back(kNone);
    }
    return n;
  };
  const auto gain = [&](uint32_t left, uint32_t right, uint32_t word) {
    const uint32_t n = number_of(left, right);
    pair_counts[n] += frequency[word];
    if (list_of[n] == kNone) {
      if (free_lists.empty()) {
        free_lists.push_back(uint32_t(lists.size()));
        lists.emplace_back();
      }
      list_of[n] = free_lists.back();
      free_lists.pop_back();
      fresh.push_back(n);
    }
    std::vector<uint32_t>& list = lists[list_of[n]];
    if (list.empty() || list.back() != word) list.push_back(word);
  };
  const auto lose = [&](uint32_t left, uint32_t right, uint32_t word) { pair_counts[number_of(left, right)] -= frequency[word]; };

  std::priority_queue<Candidate, std::vector<Candidate>, Later> queue;
  const auto enqueue_fresh = [&] {
    for (const uint32_t n : fresh) {
      const uint32_t list = std::exchange(list_of[n], kNone);
      if (pair_counts[n] > 0) {
        queue.push({pair_counts[n], pairs[n].first, pairs[n].second, n, list});
      } else {
        lists[list] = {};
        free_lists.push_back(list);
      }
    }
    fresh.clear();
  };

  for (size_t w = 0; w < word_count; w++) {
    const uint32_t* s = symbols.data() + starts[w];
    for (uint32_t i = 1; i < lengths[w]; i++) gain(s[i - 1], s[i], uint32_t(w));
  }
  enqueue_fresh();

  std::vector<LearntMerge> merges;
  while (tokens.size() < plan.vocabulary && !queue.empty()) {
    Candidate top = queue.top();
    queue.pop();
    const int64_t now = pair_counts[top.number];
    if (top.count != now) {
      if (now > 0) {
        top.count = now;
        queue.push(top);
      } else {
        lists[top.list] = {};
        free_lists.push_back(top.list);
      }
      continue;
    }
    if (double(top.count) < plan.min_frequency) break;

    const std::string& second = tokens[top.right];
    const bool prefixed = !plan.prefix.empty() && second.starts_with(plan.prefix);
    std::string made = tokens[top.left] + (prefixed ? second.substr(plan.prefix.size()) : second);
    const auto [found, is_new] = ids.emplace(made, uint32_t(tokens.size()));
    const uint32_t id = found->second;
    if (is_new) tokens.push_back(std::move(made));
    merges.push_back({top.left, top.right, id});
    work.learnt.store(merges.size(), std::memory_order_relaxed);
    work.check();

    // `gain` may move the lists.
    const std::vector<uint32_t> in = std::move(lists[top.list]);
    lists[top.list] = {};
    free_lists.push_back(top.list);
    for (const uint32_t w : in) {
      uint32_t* const s = symbols.data() + starts[w];
      const uint32_t length = lengths[w];
      uint32_t write = 0;
      for (uint32_t read = 0; read < length;) {
        if (read + 1 < length && s[read] == top.left && s[read + 1] == top.right) {
          if (write > 0) {
            lose(s[write - 1], top.left, w);
            gain(s[write - 1], id, w);
          }
          if (read + 2 < length) {
            lose(top.right, s[read + 2], w);
            gain(id, s[read + 2], w);
          }
          s[write++] = id;
          read += 2;
        } else {
          s[write++] = s[read++];
        }
      }
      lengths[w] = write;
    }
    enqueue_fresh();
  }
  return merges;
}

}  // namespace howdah::text

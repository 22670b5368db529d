#include "text_train.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <queue>
#include <string_view>
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

WordCounts::WordCounts() : table(1 << 14) {}

void WordCounts::clear() {
  entries = {};
  arena = {};
  table.assign(1 << 14, 0);
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

WordCounts& BpeTrainer::main() {
  if (counts.empty()) counts.push_back(std::make_unique<WordCounts>());
  return *counts.front();
}

void BpeTrainer::count(const uint8_t* text, const double* ends, size_t documents, int threads) {
  if (!classes_set()) fail("The table of character classes is not set.");
  const std::vector<Span> spans = spans_of(text, ends, documents, pattern, 256 << 10);
  const int used = std::max(1, std::min<int>(threads, int(std::min<size_t>(spans.size(), 256))));
  main();
  while (counts.size() < size_t(used)) counts.push_back(std::make_unique<WordCounts>());
  run_on_threads(spans.size(), used, [&](size_t i, int thread) {
    WordCounts& mine = *counts[size_t(thread)];
    const Span& span = spans[i];
    with_pattern(pattern, [&]<Pattern P>() {
      for (const uint8_t* p = span.begin; p < span.stop;) {
        const uint8_t* q = next_piece<P>(p, span.end);
        mine.add(p, size_t(q - p), 1);
        p = q;
      }
    });
  });
}

/** All threads' counts into the first ones. */
void BpeTrainer::gather() {
  WordCounts& all = main();
  for (size_t i = 1; i < counts.size(); i++) {
    for (const WordCounts::Entry& entry : counts[i]->entries) all.add(counts[i]->arena.data() + entry.begin, entry.length, entry.count);
    counts[i].reset();
  }
  counts.resize(1);
}

std::vector<LearntMerge> BpeTrainer::learn(Plan& plan) {
  gather();
  WordCounts& words = main();
  // All words in one array, each a run [start, start + length) of symbols that shrinks in place as pairs merge.
  const size_t word_count = words.size();
  std::vector<uint64_t> starts(word_count);
  std::vector<uint32_t> lengths(word_count);
  std::vector<int64_t> frequency(word_count);
  std::vector<uint32_t> symbols(words.arena.size());
  for (size_t w = 0; w < word_count; w++) {
    const WordCounts::Entry& entry = words.entries[w];
    starts[w] = entry.begin;
    lengths[w] = entry.length;
    frequency[w] = int64_t(entry.count);
  }
  for (size_t i = 0; i < symbols.size(); i++) symbols[i] = plan.byte_ids[words.arena[i]];
  words.clear();
  return merge_pairs(std::move(symbols), starts, std::move(lengths), frequency, plan);
}

std::vector<LearntMerge> BpeTrainer::learn_symbols(const uint32_t* symbols, const double* ends, const double* counts, size_t words, Plan& plan) {
  std::vector<uint64_t> starts(words);
  std::vector<uint32_t> lengths(words);
  std::vector<int64_t> frequency(words);
  uint64_t begin = 0;
  for (size_t w = 0; w < words; w++) {
    starts[w] = begin;
    lengths[w] = uint32_t(uint64_t(ends[w]) - begin);
    frequency[w] = int64_t(counts[w]);
    begin = uint64_t(ends[w]);
  }
  return merge_pairs(std::vector<uint32_t>(symbols, symbols + begin), starts, std::move(lengths), frequency, plan);
}

std::vector<LearntMerge> BpeTrainer::merge_pairs(std::vector<uint32_t> symbols, const std::vector<uint64_t>& starts,
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
    learnt.store(merges.size(), std::memory_order_relaxed);

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

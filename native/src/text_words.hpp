// Counting the words of texts larger than memory: exact counts, on disk where they have to be, and a fair sample of the words where not all
// of them can be learnt from.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace howdah::text {

/** How often each word occurs. Holds each distinct word once; texts themselves are not kept. */
class WordCounts {
 public:
  WordCounts();
  void add(const uint8_t* word, size_t n, uint64_t count);
  size_t size() const { return entries.size(); }
  /** What it holds, in bytes. */
  uint64_t bytes() const { return arena.size() + entries.size() * sizeof(Entry) + table.size() * sizeof(uint32_t); }

  struct Entry {
    uint64_t begin;
    uint64_t hash;
    uint64_t count;
    uint32_t length;
  };
  std::vector<Entry> entries;
  std::vector<uint8_t> arena;
  void clear();
  /** The places of the entries, ordered by hash, then length, then bytes: the same whatever order they came in. */
  std::vector<uint32_t> in_order() const;

 private:
  void grow();
  std::vector<uint32_t> table;  // index + 1 of an entry; 0: empty
};

/** What became of the words that were counted. */
struct Gathered {
  uint64_t distinct = 0, kept = 0;
  /** Bytes that went to disk. */
  uint64_t spilled = 0;
  /** What a word counts at least: 1, or where some were left out what the rarest of the others stand for. */
  double least = 1;
};

/**
 * Words counted on several threads. Past a limit their tables go to a file, sorted, and are merged at the end. If the distinct words are more
 * than can be learnt from, some are left out: word w with c occurrences stays with probability min(1, c / t) and then counts max(c, t), so
 * that the counts of everything in the words, pairs of characters for example, are right on average (priority sampling, Duffield, Lund and Thorup
 * 2007). Chance is a hash of the word: the result depends on the counts alone.
 */
class WordCounter {
 public:
  /** @param memory bytes that tables may hold @param folder where the file goes, which has no name and is gone when the process is */
  WordCounter(uint64_t memory, std::string folder) : memory(memory), folder(std::move(folder)) {}
  ~WordCounter();
  WordCounter(const WordCounter&) = delete;

  /** The table of a thread; call `prepare` before threads ask. */
  WordCounts& of(int thread) { return *tables[size_t(thread)]; }
  void prepare(int threads);
  /** Between rounds of counting: writes the tables away if they hold too much. */
  void settle();

  /** What one word takes of the memory for learning: what it is in symbols and in lists of words. */
  static uint64_t cost(size_t length) { return 64 + 20 * uint64_t(length); }
  /** All words into one table, as many as cost `most` together. */
  Gathered gather(uint64_t most);
  WordCounts& words() { return of(0); }
  /**
   * Counts of a text that is `least` times shorter, where a word that was seen once counts once again: for learning that takes what occurs twice for a habit.
   */
  static void shorten(WordCounts& words, double least);

 private:
  struct Run {
    uint64_t begin, end;
  };
  class Reader;
  uint64_t memory;
  std::string folder;
  std::vector<std::unique_ptr<WordCounts>> tables;
  int file = -1;
  uint64_t written = 0;
  std::vector<Run> runs;

  void spill();
  /** Calls each(word, n, hash, count) for every distinct word of the file, in order. */
  template <class Each>
  void merge(Each&& each) const;
};

}  // namespace howdah::text

// Learning byte-pair merges: counting words on many threads, then merging with incremental pair counts. The rules, ties included, are those
// of src/tokenizers/bpe-train.ts, which is the oracle.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "text_scan.hpp"

namespace howdah::text {

/** How often each word occurs. Holds each distinct word once; texts themselves are not kept. */
class WordCounts {
 public:
  WordCounts();
  void add(const uint8_t* word, size_t n, uint64_t count);
  size_t size() const { return entries.size(); }
  uint64_t bytes() const { return arena.size(); }

  struct Entry {
    uint64_t begin;
    uint64_t hash;
    uint64_t count;
    uint32_t length;
  };
  std::vector<Entry> entries;
  std::vector<uint8_t> arena;
  void clear();

 private:
  void grow();
  std::vector<uint32_t> table;  // index + 1 of an entry; 0: empty
};

struct LearntMerge {
  uint32_t left, right, id;
};

class BpeTrainer {
 public:
  explicit BpeTrainer(Pattern pattern) : pattern(pattern) {}

  /** Counts the words of documents that end at `ends`. Well-formed UTF-8. Not from two threads at once. */
  void count(const uint8_t* text, const double* ends, size_t documents, int threads);
  /** Adds one counted word (cut by someone else). */
  void add_word(const uint8_t* word, size_t n, uint64_t count) { main().add(word, n, count); }

  struct Plan {
    /** Strings of the ids that exist before the first merge, as the vocabulary spells them. */
    std::vector<std::string> tokens;
    /** byte -> its id */
    const uint32_t* byte_ids;
    size_t vocabulary;
    double min_frequency;
    /** What the second part of a merge loses when it is joined to the first: "##" for WordPiece. */
    std::string prefix;
  };
  /** The merges in the order they were learnt, and the strings of all ids. A trainer learns once. */
  std::vector<LearntMerge> learn(Plan& plan);
  /** The same from words that are symbols already: word w is symbols[ends[w - 1] .. ends[w]), and occurs counts[w] times. */
  std::vector<LearntMerge> learn_symbols(const uint32_t* symbols, const double* ends, const double* counts, size_t words, Plan& plan);

  WordCounts& main();
  /** For a display: merges learnt so far. */
  std::atomic<uint64_t> learnt{0};

 private:
  Pattern pattern;
  std::vector<std::unique_ptr<WordCounts>> counts;
  void gather();
  std::vector<LearntMerge> merge_pairs(std::vector<uint32_t> symbols, const std::vector<uint64_t>& starts, std::vector<uint32_t> lengths,
                                       const std::vector<int64_t>& frequency, Plan& plan);
};

}  // namespace howdah::text

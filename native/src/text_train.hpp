// Training of tokenizers: words cut and counted on many threads, then byte-pair merges with incremental pair counts. The rules, ties
// included, are those of src/tokenizers/bpe-train.ts and train-kinds.ts, which are the oracle. Unigram is in text_train_unigram.hpp.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "text_bert.hpp"
#include "text_points.hpp"
#include "text_scan.hpp"
#include "text_words.hpp"

namespace howdah::text {

/** How texts become words. */
enum class Cut : int {
  /** By a splitting expression. */
  pattern = 0,
  /** By SentencePiece: lines, cut before each space, which becomes U+2581; one stands in front of each line. */
  metaspace = 1,
  /** By BERT's table. */
  bert = 2
};
/** SentencePiece's words end here at the latest, in characters: nothing is learnt of words longer than a page, and they cost time. */
constexpr size_t kLongestWord = 4096;

/** How often a character occurs, and how often elsewhere than at the beginning of a word. */
struct CharacterCount {
  uint32_t point;
  uint64_t count, inner;
};

struct LearntMerge {
  uint32_t left, right, id;
};

/** What long work shows of itself, and how it is told to stop. */
struct Work {
  /** Merges learnt, or pieces left. */
  std::atomic<uint64_t> learnt{0};
  std::atomic<bool> stopped{false};
  void check() const;
};

class Trainer {
 public:
  /** @param table for Cut::bert */
  Trainer(Cut cut, Pattern pattern, uint64_t memory, std::string folder, const uint8_t* table, size_t size);

  /** Counts the words of documents that end at `ends`. Well-formed UTF-8. Not from two threads at once. */
  void count(const uint8_t* text, const double* ends, size_t documents, int threads);
  /** Counts words that someone else cut. */
  void count_words(const uint8_t* text, const double* ends, const double* counts, size_t words);

  /** Ends the counting. */
  Gathered gather();
  /** Of the words that are kept, in the order of code points. */
  std::vector<CharacterCount> characters();
  WordCounts& words() { return counter.words(); }
  double least() const { return gathered.least; }

  struct Plan {
    /** Strings of the ids that exist before the first merge, as the vocabulary spells them. */
    std::vector<std::string> tokens;
    /** byte -> its id; or none, where words are characters */
    const uint32_t* byte_ids = nullptr;
    /** Characters -> their ids at the beginning of a word and elsewhere; those that are none are left out. */
    CodePointMap first, inner;
    size_t vocabulary;
    double min_frequency;
    /** What the second part of a merge loses when it is joined to the first: "##" for WordPiece. */
    std::string prefix;
  };
  /** The merges in the order they were learnt, and the strings of all ids. A trainer learns once. */
  std::vector<LearntMerge> learn(Plan& plan);

  Work work;

 private:
  Cut cut;
  Pattern pattern;
  BertTable bert;
  uint64_t memory;
  WordCounter counter;
  Gathered gathered;
  std::vector<LearntMerge> merge_pairs(std::vector<uint32_t> symbols, const std::vector<uint64_t>& starts, std::vector<uint32_t> lengths,
                                       const std::vector<int64_t>& frequency, Plan& plan);
};

}  // namespace howdah::text

// Learning a Unigram vocabulary (Kudo 2018, section 3.2), as src/tokenizers/unigram-train.ts does, which is the oracle.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "text_train.hpp"
#include "text_words.hpp"

namespace howdah::text {

struct UnigramOptions {
  /** Pieces wanted, characters included. */
  size_t pieces;
  /** In characters. */
  uint32_t longest;
  /** Pieces the first model has at most. */
  size_t seeds;
  /** Part of the pieces that survives each pruning. */
  double shrink;
  int threads;
};

struct UnigramPiece {
  std::string text;
  double score;
};

/**
 * The pieces, best first. Empties `words`. The result does not depend on the number of threads.
 * @param alphabet code points that must be pieces, ascending
 */
std::vector<UnigramPiece> learn_unigram(WordCounts& words, const std::vector<uint32_t>& alphabet, const UnigramOptions& options, Work& work);

}  // namespace howdah::text

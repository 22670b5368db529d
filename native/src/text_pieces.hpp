// Encoding with vocabularies of pieces: BPE over characters, Unigram and WordPiece. The rules are those of src/tokenizers/models.ts,
// scored-bpe.ts, unigram.ts and wordpiece.ts, which are the oracle.
//
// Two neighbouring characters that stand side by side in no piece of the vocabulary are never in one token, whatever the model finds best,
// so a text is cut there. What lies between such places is short as a rule, and is remembered.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "text_batch.hpp"
#include "text_bert.hpp"
#include "text_bpe.hpp"
#include "text_cache.hpp"
#include "text_points.hpp"
#include "text_trie.hpp"

namespace howdah::text {

enum class PieceKind : int { bpe = 0, unigram = 1, wordpiece = 2 };
/** What has to be done with a text first: nothing, what SentencePiece does, what BERT does, or what a `tokenizer.json` says of SentencePiece's map. */
enum class Shape : int { prepared = 0, sentencepiece = 1, bert = 2, graphemes = 3 };
/** Graphemes: what becomes of two or more spaces. */
enum class Spaces : int { kept = 0, one = 1, mark = 2 };

struct PieceParts {
  PieceKind kind;
  Shape shape;
  /** Id of the unknown token; kNone: unknown characters are left out (BPE). */
  uint32_t unknown = kNone;
  /** Whether unknown characters in a row are one token. Unigram: always. */
  bool fuse = false;
  /** Unigram: sums in single precision. */
  bool single = false;
  /** A text is cut before each U+2581, and nothing crosses such a cut. */
  bool split_at_space = false;
  /** SentencePiece: a space goes in front; spaces at the ends and repeated ones go. */
  bool dummy_prefix = false, remove_extra = false;
  /** Graphemes: a text is its words, and each begins with U+2581; white space goes at the ends. */
  bool words = false, strip_left = false, strip_right = false;
  Spaces spaces = Spaces::kept;
  /** WordPiece: longer words are unknown. */
  size_t most_characters = 0;
  /** Unigram: what an unknown character scores. */
  double unknown_score = 0;
  /** Numbers from here on are characters that are no token, only halves of pieces (BPE). */
  uint32_t tokens = kNone;

  /** Strings of the vocabulary, where each ends, and their ids. */
  const uint8_t* text;
  const double* ends;
  const uint32_t* ids;
  size_t count;
  /** By id (Unigram). */
  const double* scores;
  size_t score_count;
  /** BPE: left, right, rank, id of each merge; pairs may share ranks. */
  const uint32_t* merges;
  size_t merge_count;
  /** WordPiece: how many of the strings begin words; the others continue them. */
  size_t firsts = 0;
  /** 256 ids of bytes, for unknown characters; or none. */
  const uint32_t* bytes;
  size_t byte_count;
  /**
   * SentencePiece: the precompiled character map. BERT: the table of src/tokenizers/native-pieces.ts. Graphemes: a byte for each of 0x110000
   * code points (src/tokenizers/graphemes.ts), then the character map. Or empty.
   */
  const uint8_t* map;
  size_t map_size;
};

class PieceModel {
 public:
  explicit PieceModel(const PieceParts& parts);
  ~PieceModel();
  PieceModel(const PieceModel&) = delete;

  /** One text on the calling thread, appended to `out`. Well-formed UTF-8. */
  void encode(const uint8_t* text, size_t size, std::vector<uint32_t>& out);
  void encode_many(const uint8_t* text, const double* ends, size_t documents, int threads, Encoded& out);

 private:
  struct Scratch;
  struct Run;

  void encode_span(const Span& span, bool first, bool last, Scratch& scratch, std::vector<uint32_t>& out) const;
  void shape_sentencepiece(const uint8_t* p, const uint8_t* end, bool first, bool last, std::vector<uint8_t>& out) const;
  void shape_graphemes(const uint8_t* p, const uint8_t* end, bool first, bool last, Scratch& scratch) const;
  void map_graphemes(const uint8_t* p, const uint8_t* end, std::vector<uint8_t>& out) const;
  void read_map(const uint8_t* map, size_t size);
  /** The replacement of the shortest key that [p, end) begins with; null if there is none. */
  const uint8_t* shortest_key(const uint8_t* p, const uint8_t* end) const;
  void encode_prepared(const uint8_t* p, const uint8_t* end, Scratch& scratch, std::vector<uint32_t>& out) const;
  void encode_bert(const uint8_t* p, const uint8_t* end, Scratch& scratch, std::vector<uint32_t>& out) const;
  template <PieceKind K>
  void cut(const uint8_t* p, const uint8_t* end, Scratch& scratch, std::vector<uint32_t>& out) const;
  void bpe(const uint8_t* p, size_t n, Scratch& scratch, Run& run, std::vector<uint32_t>& out) const;
  template <bool Single>
  double viterbi(const uint8_t* p, size_t n, double base, Scratch& scratch, Run& run, std::vector<uint32_t>& out, double* margin) const;
  void word(const uint8_t* p, size_t n, Scratch& scratch, std::vector<uint32_t>& out) const;
  bool joined(uint32_t left, uint32_t right) const {
    const uint64_t h = (uint64_t(left) << 21 | right) * 0x9e3779b97f4a7c15ull >> bigram_shift;
    return bigrams[h >> 6] >> (h & 63) & 1;
  }
  void add_bigram(uint32_t left, uint32_t right);
  std::vector<Span> spans(const uint8_t* text, const double* ends, size_t documents) const;
  const uint8_t* place_to_cut(const uint8_t* from, const uint8_t* end) const;

  PieceKind kind;
  Shape shape;
  uint32_t unknown;
  bool fuse, single, split_at_space, dummy_prefix, remove_extra, words, strip_left, strip_right;
  Spaces spaces;
  size_t most_characters;
  double unknown_score, widest_score = 0;
  uint32_t tokens;

  CodePointMap symbols;
  PairSlots pairs;
  MergeTable pair_table{};
  std::vector<uint32_t> ranks, made;
  /** What the numbers from `tokens` on are. */
  std::vector<std::vector<uint8_t>> extra;
  Trie trie, inner;
  std::vector<double> scores;
  std::vector<uint32_t> byte_ids;
  std::vector<uint64_t> bigrams;
  int bigram_shift = 0;

  /** The character map's units and replacements, and the bytes that begin no key. */
  std::vector<uint32_t> units;
  std::vector<uint8_t> replacements;
  bool begins_key[256] = {};
  /** Graphemes: flags of code points. */
  std::vector<uint8_t> flags;
  BertTable bert;

  CachePool caches;
};

}  // namespace howdah::text

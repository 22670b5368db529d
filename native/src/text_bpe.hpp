// Byte-pair encoding of many documents at once. The rules are those of src/tokenizers/bpe.ts, which is the oracle: always the pair with
// the lowest rank, the leftmost among equals (Sennrich et al. 2016).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "text_batch.hpp"
#include "text_cache.hpp"
#include "text_points.hpp"
#include "text_scan.hpp"

namespace howdah::text {

/** What fits into a slot of the pair table: 42 bits of pair, 22 of rank. */
constexpr uint32_t kMostIds = 1u << 21, kMostRanks = (1u << 22) - 1;
/** Words up to here are merged by looking at all pairs at once; longer ones with a heap. */
constexpr size_t kShortWord = 256;

/** pair of ids -> rank, in open addressing; rank -> the id made. Plain pointers, so that kernels of any instruction set read it. */
struct MergeTable {
  const uint64_t* slots;
  int shift;
  uint64_t mask;
  /** [hash >> filter_shift]: a bit that is set where some pair hashes there */
  const uint64_t* filter;
  int filter_shift;
  const uint32_t* made;
  /** rank of two bytes, [left << 8 | right] */
  const uint32_t* byte_ranks;
  const uint32_t* byte_ids;

  uint32_t rank(uint32_t left, uint32_t right) const {
    const uint64_t key = uint64_t(left) << 21 | right;
    const uint64_t hash = key * 0x9e3779b97f4a7c15ull;
    // Most pairs have no rank, and the filter that says so is small enough for a near cache.
    const uint64_t bit = hash >> filter_shift;
    if (!(filter[bit >> 6] >> (bit & 63) & 1)) return kNone;
    uint64_t at = hash >> shift;
    for (;; at = (at + 1) & mask) {
      const uint64_t slot = slots[at];
      if (slot >> 22 == key) return uint32_t(slot & kMostRanks);
      if (slot == ~0ull) return kNone;
    }
  }
};

/** Makes the slots of a MergeTable. */
class PairSlots {
 public:
  /** @param count pairs that will be set */
  void reserve(size_t count);
  /** Left and right below kMostIds, value below kMostRanks. */
  void set(uint32_t left, uint32_t right, uint32_t value);
  /** The slots into `table`, for as long as this object lives. */
  void give(MergeTable& table) const;

 private:
  std::vector<uint64_t> slots, filter;
  int shift = 0, filter_shift = 0;
};

/** Merges one word of at most kShortWord bytes into `out`; returns how many ids. */
struct MergeKernels {
  size_t (*merge_short)(const MergeTable& table, const uint8_t* bytes, size_t n, uint32_t* out);
};

/** What a model is made of. */
struct BpeParts {
  Pattern pattern;
  /** 256 ids */
  const uint32_t* byte_ids;
  /** left, right, rank, id of each merge, four numbers each; the best has the lowest rank, and a rank makes one id */
  const uint32_t* merges;
  size_t merge_count;
  /** Tokens that are taken whole where a piece equals them (`ignore_merges`, tiktoken), or none: bytes, where each ends, its id. */
  const uint8_t* whole_bytes;
  const uint32_t* whole_ends;
  const uint32_t* whole_ids;
  size_t whole_count;
};

class BpeModel {
 public:
  explicit BpeModel(const BpeParts& parts);
  ~BpeModel();

  /** One document on the calling thread, appended to `out`. Well-formed UTF-8. */
  void encode(const uint8_t* text, size_t size, std::vector<uint32_t>& out);

  /** Documents that end at `ends` (ascending), on `threads` threads. The result does not depend on their number. */
  void encode_many(const uint8_t* text, const double* ends, size_t documents, int threads, Encoded& out);

 private:
  template <Pattern P>
  void encode_span(const Span& span, WordCache& cache, std::vector<uint32_t>& out) const;
  void encode_any(const Span& span, WordCache& cache, std::vector<uint32_t>& out) const;
  size_t encode_cached(const uint8_t* word, size_t n, const uint8_t* end, WordCache& cache, uint32_t* out) const;
  size_t encode_long(const uint8_t* piece, size_t n, const uint8_t* end, WordCache& cache, uint32_t* out) const;
  size_t encode_word(const uint8_t* word, size_t n, uint32_t* out) const;
  void keep_wholes(const BpeParts& parts);
  void find_joints(const BpeParts& parts);
  size_t merge(const uint8_t* word, size_t n, uint32_t* out) const;
  size_t merge_long(const uint8_t* bytes, size_t n, uint32_t* out) const;
  uint32_t find_whole(const uint8_t* word, size_t n) const;

  Pattern pattern;
  PairSlots pairs;
  std::vector<uint32_t> made;
  std::vector<uint32_t> byte_ranks;
  std::vector<uint32_t> byte_ids;
  /** [left << 8 | right]: whether some token has these two bytes side by side. Where none has, no merge can join what lies left and right. */
  std::vector<uint8_t> joints;
  MergeTable table{};
  size_t (*merge_short)(const MergeTable&, const uint8_t*, size_t, uint32_t*);

  std::vector<uint8_t> whole_bytes;
  struct Whole {
    uint32_t begin, length, id;
  };
  std::vector<Whole> wholes;
  uint64_t whole_mask = 0;
  size_t whole_longest = 0;

  CachePool caches;
};

/** Spans of about `size` bytes that can be cut into pieces independently; a document shorter than that is one span. */
std::vector<Span> spans_of(const uint8_t* text, const double* ends, size_t documents, Pattern pattern, size_t size);

}  // namespace howdah::text

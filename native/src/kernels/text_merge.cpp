// Merging one word: the ranks of all neighbouring pairs lie side by side, each with its position in the low byte, so that one minimum over
// vectors finds the best pair and the leftmost among equals.
#include "../text_bpe.hpp"

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace howdah::HOWDAH_ISA {
namespace {

using text::kNone;
using text::MergeTable;

constexpr size_t kLanes = 16;

/** The smallest of `n` numbers; n is a multiple of kLanes. */
inline uint32_t smallest(const uint32_t* keys, size_t n) {
#if defined(__AVX512F__)
  __m512i best = _mm512_load_si512(keys);
  for (size_t i = kLanes; i < n; i += kLanes) best = _mm512_min_epu32(best, _mm512_load_si512(keys + i));
  return _mm512_reduce_min_epu32(best);
#elif defined(__AVX2__)
  const auto at = [keys](size_t i) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(keys + i)); };
  __m256i best = _mm256_min_epu32(at(0), at(8));
  for (size_t i = kLanes; i < n; i += 8) best = _mm256_min_epu32(best, at(i));
  __m128i half = _mm_min_epu32(_mm256_castsi256_si128(best), _mm256_extracti128_si256(best, 1));
  half = _mm_min_epu32(half, _mm_shuffle_epi32(half, 0x4e));
  half = _mm_min_epu32(half, _mm_shuffle_epi32(half, 0xb1));
  return uint32_t(_mm_cvtsi128_si32(half));
#elif defined(__aarch64__)
  uint32x4_t best = vld1q_u32(keys);
  for (size_t i = 4; i < n; i += 4) best = vminq_u32(best, vld1q_u32(keys + i));
  return vminvq_u32(best);
#else
  uint32_t best = kNone;
  for (size_t i = 0; i < n; i++) best = keys[i] < best ? keys[i] : best;
  return best;
#endif
}

size_t merge_short(const MergeTable& table, const uint8_t* bytes, size_t n, uint32_t* out) {
  alignas(64) uint32_t keys[text::kShortWord];
  uint32_t symbols[text::kShortWord + 1];
  uint16_t next[text::kShortWord + 1], previous[text::kShortWord + 1];
  const size_t padded = (n + kLanes - 1) / kLanes * kLanes;

  const auto key = [](uint32_t rank, size_t at) { return rank == kNone ? kNone : rank << 8 | uint32_t(at); };
  for (size_t i = 0; i < n; i++) {
    symbols[i] = table.byte_ids[bytes[i]];
    next[i] = uint16_t(i + 1);
    previous[i] = uint16_t(i - 1);
  }
  for (size_t i = 0; i + 1 < n; i++) keys[i] = key(table.byte_ranks[size_t(bytes[i]) << 8 | bytes[i + 1]], i);
  for (size_t i = n - 1; i < padded; i++) keys[i] = kNone;

  for (;;) {
    const uint32_t best = smallest(keys, padded);
    if (best == kNone) break;
    const size_t at = best & 0xff;
    const uint32_t id = table.made[best >> 8];
    const size_t right = next[at], after = next[right];
    symbols[at] = id;
    next[at] = uint16_t(after);
    keys[right] = kNone;
    if (after < n) {
      previous[after] = uint16_t(at);
      keys[at] = key(table.rank(id, symbols[after]), at);
    } else {
      keys[at] = kNone;
    }
    if (at > 0) {
      const size_t left = previous[at];
      keys[left] = key(table.rank(symbols[left], id), left);
    }
  }
  size_t count = 0;
  for (size_t i = 0; i < n; i = next[i]) out[count++] = symbols[i];
  return count;
}

}  // namespace

extern const text::MergeKernels text_merge_table;
const text::MergeKernels text_merge_table = {merge_short};

}  // namespace howdah::HOWDAH_ISA

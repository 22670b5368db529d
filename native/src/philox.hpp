// The counter-based generator Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
// Included by kernel files only: compiled per instruction set.
//
// Element i of a stream is word i % 4 of the block with counter (i / 4 low, i / 4 high, 0, 0) under a key of two words.
#pragma once

#include "simd.hpp"

namespace howdah::HOWDAH_ISA {

/** Blocks computed at once: a loop over this many lanes is what the compiler vectorises. */
constexpr int kPhiloxBlocks = 16;

/** Words of the blocks first .. first + kPhiloxBlocks - 1: out[4 * b + j] is word j of block first + b. */
inline void philox_blocks(const uint32_t key[2], uint64_t first, uint32_t out[4 * kPhiloxBlocks]) {
  uint32_t c0[kPhiloxBlocks], c1[kPhiloxBlocks], c2[kPhiloxBlocks], c3[kPhiloxBlocks];
  for (int i = 0; i < kPhiloxBlocks; i++) {
    const uint64_t counter = first + static_cast<uint64_t>(i);
    c0[i] = static_cast<uint32_t>(counter);
    c1[i] = static_cast<uint32_t>(counter >> 32);
    c2[i] = 0;
    c3[i] = 0;
  }
  uint32_t k0 = key[0], k1 = key[1];
  for (int round = 0; round < 10; round++) {
    for (int i = 0; i < kPhiloxBlocks; i++) {
      const uint64_t p0 = uint64_t{0xD2511F53u} * c0[i], p1 = uint64_t{0xCD9E8D57u} * c2[i];
      const uint32_t n0 = static_cast<uint32_t>(p1 >> 32) ^ c1[i] ^ k0;
      const uint32_t n2 = static_cast<uint32_t>(p0 >> 32) ^ c3[i] ^ k1;
      c1[i] = static_cast<uint32_t>(p1);
      c3[i] = static_cast<uint32_t>(p0);
      c0[i] = n0;
      c2[i] = n2;
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  for (int i = 0; i < kPhiloxBlocks; i++) {
    out[4 * i] = c0[i];
    out[4 * i + 1] = c1[i];
    out[4 * i + 2] = c2[i];
    out[4 * i + 3] = c3[i];
  }
}

/** out[i] = element start + i of the key's stream, for i < n. */
inline void random_words(const uint32_t key[2], int64_t start, int64_t n, uint32_t* out) {
  uint32_t words[4 * kPhiloxBlocks];
  for (int64_t done = 0; done < n;) {
    const uint64_t element = static_cast<uint64_t>(start + done);
    const int64_t skip = static_cast<int64_t>(element & 3);
    philox_blocks(key, element >> 2, words);
    const int64_t count = n - done < 4 * kPhiloxBlocks - skip ? n - done : 4 * kPhiloxBlocks - skip;
    std::memcpy(out + done, words + skip, static_cast<size_t>(count) * 4);
    done += count;
  }
}

} // namespace howdah::HOWDAH_ISA

// Keys and values in pages: the interface that does not depend on the processor. Conventions as in nn.hpp.
#pragma once

#include <cstdint>

#include "nn.hpp"

namespace howdah {

/**
 * Attention of tokens of many sequences, in any mixture, over keys and values in pages (Kwon et al. 2023). Page `p` of group g holds keys as
 * columns and values as rows. Token i is at position[i] of the sequence whose pages are row sequence[i] of the table; it sees the keys up
 * to its own. A negative position is padding: its result is 0.
 */
struct PagedAttentionArgs {
  int64_t tokens, heads, groups, width, value_width;
  int64_t pages, page;        // how many there are, and positions of each: a multiple of 16
  int64_t sequences, blocks;  // of the table
  DType type;                 // of keys and values: f32, bf16 or i8
  const float* q;             // (tokens, heads, width), tokens q_token apart
  int64_t q_token;
  const void* k;              // (pages, groups, width, page)
  const void* v;              // (pages, groups, page, value_width)
  const float* k_scale;       // (pages, groups, page): what the whole numbers are multiplied by; null but for i8
  const float* v_scale;
  const int32_t* table;       // (sequences, blocks): page ids
  const int32_t* sequence;    // (tokens)
  const int32_t* position;    // (tokens)
  float scale;
  bool bf16_compute;          // for many tokens of one sequence: multiply in bf16 where the processor does
  float* out;                 // (tokens, heads, value_width)
  /** Rows of values that are not whole vectors on every processor. */
  bool width_unaligned() const { return value_width % 16 != 0; }
};

/** Puts keys and values of tokens where `PagedAttentionArgs` finds them, rounded to the type of the pages. Negative positions are left out. */
struct PageWriteArgs {
  int64_t tokens, groups, width, value_width, pages, page, sequences, blocks;
  DType type;
  const float* k; // (tokens, groups, width), tokens k_token apart
  int64_t k_token;
  const float* v; // (tokens, groups, value_width), tokens v_token apart
  int64_t v_token;
  const int32_t *table, *sequence, *position;
  void *k_pages, *v_pages;
  float *k_scale, *v_scale; // null but for i8
};

void paged_attention(const PagedAttentionArgs& args);
void page_write(const PageWriteArgs& args);

/** The same kernels as compiled for one instruction set. */
struct PagedTable {
  void (*paged_attention)(const PagedAttentionArgs&);
  void (*page_write)(const PageWriteArgs&);
};

} // namespace howdah

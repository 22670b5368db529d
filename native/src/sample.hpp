// Choosing the next token from logits: the same choices as Sampler in src/engine/backends/reference/sampler.ts.
#pragma once

#include <cstdint>

namespace howdah {

/** Words of a row of settings, as in src/tensor/ops/sample.ts. */
struct SampleSettings {
  static constexpr int temperature = 0, top_p = 2, min_p = 4, penalty = 6, top_k = 8, seed = 9, stream = 11, start = 12, measure = 13, words = 14;
};

/** A row whose token is below 0 is no sequence; a row whose logits are not finite gives token -1. */
struct SampleArgs {
  int64_t rows, classes;
  const float* logits;      // (rows, classes)
  const int32_t* token;     // (rows)
  const int32_t* position;  // (rows)
  const int32_t* settings;  // (rows, words)
  int64_t longest;          // of the history
  const int32_t* history;   // (rows, longest), or null
  int32_t* next;            // (rows)
  int32_t* next_position;   // (rows)
  float* measures;          // (rows, 2): log-probability and entropy, NaN where not wanted
  int32_t* history_out;     // (rows, longest); may be history
};

void sample_token(const SampleArgs&);

struct SampleTable {
  void (*sample_token)(const SampleArgs&);
};

} // namespace howdah

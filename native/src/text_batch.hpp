// Many documents on many threads, whatever makes ids of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "text_scan.hpp"

namespace howdah::text {

/** The ids of several documents, one after another. `ids` is from malloc: it is handed on to JavaScript. */
struct Encoded {
  uint32_t* ids = nullptr;
  size_t count = 0;
  /** Where each document's ids end. */
  std::vector<double> ends;
  Encoded() = default;
  Encoded(const Encoded&) = delete;
  Encoded& operator=(const Encoded&) = delete;
  ~Encoded();
};

/** Runs body(i) for i < n on `threads` threads, the calling one included; the first exception is thrown again. */
void run_on_threads(size_t n, int threads, const std::function<void(size_t item, int thread)>& body);

/** The ids of all spans, in order; `encode` appends those of one. Small spans go to a thread in groups of about `size` bytes. */
void encode_spans(const std::vector<Span>& spans, size_t documents, size_t size, int threads,
                  const std::function<void(const Span& span, int thread, std::vector<uint32_t>& ids)>& encode, Encoded& out);

}  // namespace howdah::text

#pragma once
#include <cstdint>
#include <vector>

#include "program.hpp"

namespace howdah {

/**
 * Copies elements between two strided layouts of one shape: the heart of broadcast, transpose, slice, pad, concatenate and the rest.
 * Dimensions are merged where both layouts allow it, so that most copies end as rows of memcpy, fills or blocked 2-D transposes.
 */
class StridedCopy {
 public:
  /** Strides count elements; an input stride of 0 repeats, a negative one runs backwards. `item` is bytes per element. */
  StridedCopy(const Shape& shape, const Shape& in_strides, const Shape& out_strides, int64_t item);
  StridedCopy() = default;

  /** On the whole pool when it is worth it. Offsets into the buffers are the caller's. */
  void run(const void* in, void* out) const;
  /** On the calling thread. */
  void run_inline(const void* in, void* out) const;
  int64_t size() const { return size_; }

 private:
  struct Dim {
    int64_t size, in, out;
  };
  void rows(const std::byte* in, std::byte* out, int64_t from, int64_t to, int64_t column, int64_t columns) const;

  std::vector<Dim> outer_;
  /** The copy at the end of the outer dimensions: one row, or a transposed tile of `columns_` by `inner_`. */
  Dim inner_{1, 1, 1};
  Dim columns_{1, 0, 0};
  bool transposed_ = false;
  int64_t item_ = 1, size_ = 0, outer_count_ = 1;
};

/** Sets `count` items to one value. On the whole pool when it is worth it. */
void fill(void* out, const void* value, int64_t item, int64_t count);

/** memcpy on the whole pool when it is worth it. */
void copy_bytes(void* out, const void* in, int64_t bytes);

}  // namespace howdah

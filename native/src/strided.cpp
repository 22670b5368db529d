#include "strided.hpp"

#include <algorithm>
#include <cstring>

#include "pool.hpp"

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

namespace howdah {
namespace {

/** Below this a copy stays on one thread; above, tasks are about this large. */
constexpr int64_t kTaskBytes = 256 << 10;

template <class F>
auto with_item(int64_t item, F&& body) {
  switch (item) {
    case 1: return body(uint8_t{});
    case 2: return body(uint16_t{});
    default: return body(uint32_t{});
  }
}

/** One row of n elements. */
template <class T>
void copy_row(const T* in, T* out, int64_t n, int64_t in_stride, int64_t out_stride) {
  if (out_stride == 1) {
    if (in_stride == 1) {
      std::memcpy(out, in, size_t(n) * sizeof(T));
      return;
    }
    if (in_stride == 0) {
      std::fill_n(out, n, *in);
      return;
    }
    for (int64_t i = 0; i < n; ++i) out[i] = in[i * in_stride];
    return;
  }
  for (int64_t i = 0; i < n; ++i) out[i * out_stride] = in[i * in_stride];
}

/** A 16 x 16 block turned over: reads whole cache lines of rows, writes whole cache lines of columns. */
template <class T>
void turn_block(const T* in, T* out, int64_t in_row, int64_t out_column) {
  // Turned over in a block of its own first: where strides are powers of two, all lines of a column fall into one set of the cache.
  alignas(64) T block[16][16];
#if defined(__SSE2__)
  if constexpr (sizeof(T) == 4) {
    for (int64_t y = 0; y < 16; y += 4)
      for (int64_t x = 0; x < 16; x += 4) {
        const auto row = [&](int64_t i) { return _mm_loadu_ps(reinterpret_cast<const float*>(in + (y + i) * in_row + x)); };
        __m128 a = row(0), b = row(1), c = row(2), d = row(3);
        _MM_TRANSPOSE4_PS(a, b, c, d);
        const auto column = [&](int64_t i) { return reinterpret_cast<float*>(&block[x + i][y]); };
        _mm_store_ps(column(0), a);
        _mm_store_ps(column(1), b);
        _mm_store_ps(column(2), c);
        _mm_store_ps(column(3), d);
      }
    for (int64_t x = 0; x < 16; ++x) std::memcpy(out + x * out_column, block[x], sizeof block[x]);
    return;
  }
#endif
  for (int64_t y = 0; y < 16; ++y)
    for (int64_t x = 0; x < 16; ++x) block[x][y] = in[y * in_row + x];
  for (int64_t x = 0; x < 16; ++x) std::memcpy(out + x * out_column, block[x], sizeof block[x]);
}

/**
 * out[c * out_column + i] = in[i * in_row + c] for c < columns, i < n. Blocks of 64 rows, then of 16 x 16, so that the lines and pages that
 * a block touches on both sides stay in the first-level caches.
 */
template <class T>
void copy_transposed(const T* in, T* out, int64_t columns, int64_t n, int64_t in_row, int64_t out_column) {
  for (int64_t i = 0; i < n; i += 64) {
    const int64_t height = std::min<int64_t>(64, n - i);
    for (int64_t c = 0; c < columns; c += 16) {
      const int64_t width = std::min<int64_t>(16, columns - c);
      for (int64_t y = i; y < i + height; y += 16) {
        if (width == 16 && y + 16 <= i + height) {
          turn_block(in + y * in_row + c, out + c * out_column + y, in_row, out_column);
          continue;
        }
        for (int64_t x = c; x < c + width; ++x)
          for (int64_t z = y; z < std::min(y + 16, i + height); ++z) out[x * out_column + z] = in[z * in_row + x];
      }
    }
  }
}

}  // namespace

StridedCopy::StridedCopy(const Shape& shape, const Shape& in_strides, const Shape& out_strides, int64_t item) : item_(item) {
  size_ = 1;
  std::vector<Dim> dims;
  for (size_t i = 0; i < shape.size(); ++i) {
    size_ *= shape[i];
    if (shape[i] == 1) continue;
    const Dim dim{shape[i], in_strides[i], out_strides[i]};
    if (!dims.empty() && dims.back().in == dim.in * dim.size && dims.back().out == dim.out * dim.size)
      dims.back() = {dims.back().size * dim.size, dim.in, dim.out};
    else
      dims.push_back(dim);
  }
  if (size_ == 0 || dims.empty()) return;
  inner_ = dims.back();
  dims.pop_back();
  // A dimension that is contiguous in the input, where the innermost of the output is not: copy the two as a transposed matrix.
  if (inner_.out == 1 && inner_.in != 1 && inner_.in != 0)
    for (size_t i = dims.size(); i-- > 0;)
      if (dims[i].in == 1 && dims[i].size >= 4 && inner_.size >= 4) {
        columns_ = dims[i];
        transposed_ = true;
        dims.erase(dims.begin() + int64_t(i));
        break;
      }
  outer_ = std::move(dims);
  for (const Dim& dim : outer_) outer_count_ *= dim.size;
}

/** Outer positions from .. to - 1; of a transposed copy only the given columns. */
void StridedCopy::rows(const std::byte* in, std::byte* out, int64_t from, int64_t to, int64_t column, int64_t columns) const {
  int64_t at[kMaxRank + 1] = {};
  int64_t in_offset = 0, out_offset = 0, rest = from;
  for (size_t d = outer_.size(); d-- > 0;) {
    at[d] = rest % outer_[d].size;
    rest /= outer_[d].size;
    in_offset += at[d] * outer_[d].in;
    out_offset += at[d] * outer_[d].out;
  }
  with_item(item_, [&](auto zero) {
    using T = decltype(zero);
    const T* source = reinterpret_cast<const T*>(in);
    T* target = reinterpret_cast<T*>(out);
    for (int64_t row = from; row < to; ++row) {
      if (transposed_)
        copy_transposed(source + in_offset + column, target + out_offset + column * columns_.out, columns, inner_.size, inner_.in,
                        columns_.out);
      else
        copy_row(source + in_offset, target + out_offset, inner_.size, inner_.in, inner_.out);
      for (size_t d = outer_.size(); d-- > 0;) {
        in_offset += outer_[d].in;
        out_offset += outer_[d].out;
        if (++at[d] < outer_[d].size) break;
        in_offset -= outer_[d].in * outer_[d].size;
        out_offset -= outer_[d].out * outer_[d].size;
        at[d] = 0;
      }
    }
  });
}

void StridedCopy::run_inline(const void* in, void* out) const {
  if (size_ > 0) rows(static_cast<const std::byte*>(in), static_cast<std::byte*>(out), 0, outer_count_, 0, columns_.size);
}

void StridedCopy::run(const void* in, void* out) const {
  if (size_ == 0) return;
  const int64_t bytes = size_ * item_;
  if (bytes < 2 * kTaskBytes) return run_inline(in, out);
  if (outer_count_ == 1 && inner_.in == 1 && inner_.out == 1) return copy_bytes(out, in, bytes);
  if (outer_count_ == 1 && inner_.in == 0 && inner_.out == 1) return fill(out, in, item_, size_);
  const auto* source = static_cast<const std::byte*>(in);
  auto* target = static_cast<std::byte*>(out);
  const int64_t row_bytes = bytes / outer_count_;
  if (transposed_ && row_bytes > kTaskBytes) {
    constexpr int64_t kColumns = 64;
    const int64_t pieces = (columns_.size + kColumns - 1) / kColumns;
    parallel_for(outer_count_ * pieces, [&](int64_t task, int) {
      const int64_t row = task / pieces, column = task % pieces * kColumns;
      rows(source, target, row, row + 1, column, std::min(kColumns, columns_.size - column));
    });
    return;
  }
  const int64_t per_task = std::max<int64_t>(1, kTaskBytes / std::max<int64_t>(1, row_bytes));
  parallel_for((outer_count_ + per_task - 1) / per_task, [&](int64_t task, int) {
    rows(source, target, task * per_task, std::min(outer_count_, (task + 1) * per_task), 0, columns_.size);
  });
}

void copy_bytes(void* out, const void* in, int64_t bytes) {
  if (bytes <= 0 || in == out) return;
  if (bytes < 2 * kTaskBytes) {
    std::memcpy(out, in, size_t(bytes));
    return;
  }
  parallel_for((bytes + kTaskBytes - 1) / kTaskBytes, [&](int64_t task, int) {
    const int64_t at = task * kTaskBytes;
    std::memcpy(static_cast<std::byte*>(out) + at, static_cast<const std::byte*>(in) + at, size_t(std::min(kTaskBytes, bytes - at)));
  });
}

void fill(void* out, const void* value, int64_t item, int64_t count) {
  if (count <= 0) return;
  with_item(item, [&](auto zero) {
    using T = decltype(zero);
    T x;
    std::memcpy(&x, value, sizeof x);
    const int64_t per_task = kTaskBytes / int64_t(sizeof(T));
    parallel_for((count + per_task - 1) / per_task, [&](int64_t task, int) {
      std::fill_n(static_cast<T*>(out) + task * per_task, std::min(per_task, count - task * per_task), x);
    });
  });
}

}  // namespace howdah

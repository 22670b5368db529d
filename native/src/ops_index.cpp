// Gather, scatter, sort and top-k.
#include <algorithm>
#include <bit>
#include <cstring>

#include "pool.hpp"
#include "program.hpp"
#include "scalar.hpp"
#include "strided.hpp"

namespace howdah {
namespace {

constexpr int64_t kTaskBytes = 256 << 10;

bool contains(const std::vector<int64_t>& list, int64_t x) { return std::find(list.begin(), list.end(), x) != list.end(); }

/** The index vectors of a gather or scatter: one per position of the batch axes. */
struct IndexVectors {
  int64_t count = 1, components = 1, component_stride = 1;
  Shape batch;
  std::vector<Shape::value_type> batch_strides;

  IndexVectors(const Instruction& instruction, const TensorType& indices, int64_t vector_dim) {
    if (indices.dtype != DType::i32) instruction.wrong("the indices must be i32");
    if (vector_dim < 0 || vector_dim > indices.rank()) instruction.wrong("\"index_vector_dim\" is out of range");
    const Shape strides = strides_of(indices.shape);
    for (int i = 0; i < indices.rank(); ++i) {
      if (i == vector_dim) {
        components = indices.dim(i);
        component_stride = strides[size_t(i)];
      } else {
        batch.push_back(indices.dim(i));
        batch_strides.push_back(strides[size_t(i)]);
        count *= indices.dim(i);
      }
    }
  }

  const int32_t* at(const int32_t* indices, int64_t position) const {
    int64_t offset = 0;
    for (size_t i = batch.size(); i-- > 0;) {
      offset += position % batch[i] * batch_strides[i];
      position /= batch[i];
    }
    return indices + offset;
  }
};

/** Splits the axes of an array of windows (gather's result, scatter's updates) into those over batch positions and those over windows. */
struct WindowAxes {
  Shape batch, batch_strides, window, window_strides;

  WindowAxes(const Instruction& instruction, const TensorType& type, const std::vector<int64_t>& window_dims) {
    for (const int64_t axis : window_dims)
      if (axis < 0 || axis >= type.rank()) instruction.wrong("a window axis is out of range");
    const Shape strides = strides_of(type.shape);
    for (int i = 0; i < type.rank(); ++i) {
      const bool is_window = contains(window_dims, i);
      (is_window ? window : batch).push_back(type.dim(i));
      (is_window ? window_strides : batch_strides).push_back(strides[size_t(i)]);
    }
  }

  int64_t batch_offset(int64_t position) const {
    int64_t offset = 0;
    for (size_t i = batch.size(); i-- > 0;) {
      offset += position % batch[i] * batch_strides[i];
      position /= batch[i];
    }
    return offset;
  }
};

/**
 * gather(operand, start_indices i32) {offset_dims, collapsed_slice_dims, start_index_map, index_vector_dim, slice_sizes}, as StableHLO's:
 * starts are clamped so that slices fit.
 */
Kernel make_gather(Instruction& instruction) {
  const TensorType &x = instruction.input(0), &y = instruction.output(0);
  if (x.dtype != y.dtype) instruction.wrong("the dtypes differ");
  const auto offset_dims = instruction.attribute("offset_dims").integers(), collapsed = instruction.attribute("collapsed_slice_dims").integers(),
             map = instruction.attribute("start_index_map").integers(), sizes = instruction.attribute("slice_sizes").integers();
  const IndexVectors vectors(instruction, instruction.input(1), instruction.attribute("index_vector_dim").integer());
  const WindowAxes axes(instruction, y, offset_dims);
  if (int64_t(map.size()) != vectors.components || int(sizes.size()) != x.rank()) instruction.wrong("the attributes do not fit the shapes");
  if (axes.batch != vectors.batch) instruction.wrong("the result's batch axes do not fit the indices");
  Shape slice, in_strides;
  const Shape strides = strides_of(x.shape);
  for (int i = 0; i < x.rank(); ++i) {
    if (sizes[size_t(i)] < 0 || sizes[size_t(i)] > x.dim(i)) instruction.wrong("a slice is larger than the operand");
    if (contains(collapsed, i)) {
      if (sizes[size_t(i)] != 1) instruction.wrong("a collapsed axis must have slice size 1");
      continue;
    }
    slice.push_back(sizes[size_t(i)]);
    in_strides.push_back(strides[size_t(i)]);
  }
  if (slice != axes.window) instruction.wrong("the result's offset axes do not fit the slices");
  struct Component {
    int64_t last, stride;
  };
  std::vector<Component> components;
  for (const int64_t axis : map) {
    if (axis < 0 || axis >= x.rank()) instruction.wrong("\"start_index_map\" is out of range");
    components.push_back({x.dim(int(axis)) - sizes[size_t(axis)], strides[size_t(axis)]});
  }
  const int64_t item = bytes_of(x.dtype);
  const StridedCopy copy(slice, in_strides, axes.window_strides, item);
  const int64_t group = std::max<int64_t>(1, kTaskBytes / std::max<int64_t>(1, copy.size() * item));
  if (y.size == 0) return [](const Call&) {};
  return [=](const Call& call) {
    parallel_for((vectors.count + group - 1) / group, [&](int64_t task, int) {
      for (int64_t i = task * group; i < std::min(vectors.count, (task + 1) * group); ++i) {
        const int32_t* vector = vectors.at(call.input<int32_t>(1), i);
        int64_t from = 0;
        for (size_t c = 0; c < components.size(); ++c)
          from += std::clamp<int64_t>(vector[int64_t(c) * vectors.component_stride], 0, components[c].last) * components[c].stride;
        copy.run_inline(call.input<std::byte>(0) + from * item, call.output<std::byte>(0) + axes.batch_offset(i) * item);
      }
    });
  };
}

/**
 * scatter(operand, indices i32, updates) {kind, update_window_dims, inserted_window_dims, scatter_dims_to_operand_dims, index_vector_dim}:
 * elements that fall outside are skipped; equal indices are combined in row-major order of the updates. Threads share the
 * work by columns of the windows, so that order holds for any number of them.
 */
Kernel make_scatter(Instruction& instruction) {
  const TensorType &x = instruction.input(0), &updates = instruction.input(2), &y = instruction.output(0);
  if (x.dtype != y.dtype || x.shape != y.shape || updates.dtype != x.dtype) instruction.wrong("operand, updates and result do not fit");
  const auto window_dims = instruction.attribute("update_window_dims").integers(),
             inserted = instruction.attribute("inserted_window_dims").integers(),
             map = instruction.attribute("scatter_dims_to_operand_dims").integers();
  const Combine kind = parse_combine(instruction, instruction.attribute("kind").string());
  const IndexVectors vectors(instruction, instruction.input(1), instruction.attribute("index_vector_dim").integer());
  const WindowAxes axes(instruction, updates, window_dims);
  if (int64_t(map.size()) != vectors.components || axes.batch != vectors.batch ||
      axes.window.size() + inserted.size() != x.shape.size())
    instruction.wrong("the attributes do not fit the shapes");
  // One entry per axis of the operand: the window's size there and its stride in the updates (0 for inserted axes).
  struct Window {
    int64_t size, stride, limit, operand_stride;
  };
  std::vector<Window> window;
  const Shape strides = strides_of(x.shape);
  size_t w = 0;
  for (int i = 0; i < x.rank(); ++i) {
    const bool is_inserted = contains(inserted, i);
    window.push_back({is_inserted ? 1 : axes.window[w], is_inserted ? 0 : axes.window_strides[w], x.dim(i), strides[size_t(i)]});
    w += !is_inserted;
  }
  for (const int64_t axis : map)
    if (axis < 0 || axis >= x.rank()) instruction.wrong("\"scatter_dims_to_operand_dims\" is out of range");
  int64_t window_size = 1;
  for (const Window& one : window) window_size *= one.size;
  const int64_t bytes = x.bytes;
  // The innermost axis is the run that threads cut into columns.
  const Window inner = window.empty() ? Window{1, 0, 1, 1} : window.back();
  const int64_t total = window_size * vectors.count;
  constexpr int64_t kColumns = 64;
  const int64_t tiles = total < 16384 ? 1 : (inner.size + kColumns - 1) / kColumns, tile = (inner.size + tiles - 1) / std::max<int64_t>(tiles, 1);
  const int64_t outer_window = inner.size == 0 ? 0 : window_size / inner.size;
  return [=](const Call& call) {
    copy_bytes(call.out[0], call.in[0], bytes);
    if (total == 0) return;
    parallel_for(tiles, [&](int64_t task, int) {
      const int64_t first = task * tile, last = std::min(inner.size, first + tile);
      with_element(x.dtype, [&](auto element) {
        using E = decltype(element);
        with_combine(kind, [&](auto k) {
          auto* out = call.output<typename E::Memory>(0);
          for (int64_t i = 0; i < vectors.count; ++i) {
            const int32_t* vector = vectors.at(call.input<int32_t>(1), i);
            int64_t start[kMaxRank] = {};
            for (size_t c = 0; c < map.size(); ++c) start[map[c]] = vector[int64_t(c) * vectors.component_stride];
            const auto* from = call.input<typename E::Memory>(2) + axes.batch_offset(i);
            for (int64_t o = 0; o < outer_window; ++o) {
              int64_t rest = o, in_offset = 0, out_offset = 0;
              bool inside = true;
              for (int d = int(window.size()) - 2; d >= 0; --d) {
                const Window& one = window[size_t(d)];
                const int64_t at = rest % one.size, where = start[d] + at;
                rest /= one.size;
                inside &= where >= 0 && where < one.limit;
                in_offset += at * one.stride;
                out_offset += where * one.operand_stride;
              }
              if (!inside) continue;
              const int64_t base = window.empty() ? 0 : start[window.size() - 1];
              const int64_t low = std::max(first, -base), high = std::min(last, inner.limit - base);
              auto* to = out + out_offset + base;
              const auto* source = from + in_offset;
              for (int64_t c = low; c < high; ++c)
                to[c] = E::put(combine<k.value>(E::get(to[c]), E::get(source[c * inner.stride])));
            }
          }
        });
      });
    });
  };
}

/** A key whose unsigned order is the wanted one: NaN after everything, both zeros alike. */
template <class V>
uint32_t ordered(V x, bool descending) {
  if constexpr (std::is_floating_point_v<V>) {
    if (x != x) return 0xffffffffu;
    const uint32_t bits = std::bit_cast<uint32_t>(x + 0.0f);
    const uint32_t up = bits & 0x80000000u ? (bits == 0x80000000u ? 0x80000000u : ~bits) : bits | 0x80000000u;
    return descending ? ~up : up;
  } else {
    const uint32_t up = uint32_t(x) ^ 0x80000000u;
    return descending ? ~up : up;
  }
}

struct AxisWalk {
  int64_t outer = 1, length = 1, inner = 1;
  AxisWalk(const Instruction& instruction, const TensorType& x, int64_t axis) {
    if (axis < 0 || axis >= x.rank()) instruction.wrong("\"axis\" is out of range");
    for (int i = 0; i < x.rank(); ++i) (i < axis ? outer : i == axis ? length : inner) *= x.dim(i);
    if (length > 0x7fffffff) instruction.wrong("the axis is too long");
  }
};

/** Keys of one line with their positions, ready to be sorted: equal keys keep their order because positions differ. */
void collect(const void* keys, DType type, int64_t base, int64_t length, int64_t inner, bool descending, uint64_t* pairs) {
  with_element(type, [&](auto element) {
    using E = decltype(element);
    const auto* in = static_cast<const typename E::Memory*>(keys) + base;
    for (int64_t t = 0; t < length; ++t) pairs[t] = uint64_t(ordered(E::get(in[t * inner]), descending)) << 32 | uint64_t(t);
  });
}

/** Sorts by key, position kept: radix by bytes where lines are long, comparison where short. */
void sort_pairs(uint64_t* pairs, int64_t n, uint64_t* spare) {
  if (n < 2048) {
    std::sort(pairs, pairs + n);
    return;
  }
  for (int shift = 32; shift < 64; shift += 8) {
    int64_t counts[256] = {};
    for (int64_t i = 0; i < n; ++i) ++counts[pairs[i] >> shift & 255];
    int64_t at = 0;
    for (int64_t& count : counts) at += std::exchange(count, at);
    for (int64_t i = 0; i < n; ++i) spare[counts[pairs[i] >> shift & 255]++] = pairs[i];
    std::swap(pairs, spare);
  }
}

/** sort(keys, payloads...) {axis, descending}: stable; NaN last in either direction. */
Kernel make_sort(Instruction& instruction) {
  const TensorType x = instruction.input(0);
  const size_t count = instruction.inputs.size();
  if (instruction.outputs.size() != count) instruction.wrong("it gives as many outputs as it takes inputs");
  std::vector<int64_t> items;
  for (size_t i = 0; i < count; ++i) {
    if (instruction.input(i).shape != x.shape || instruction.output(i).shape != x.shape || instruction.input(i).dtype != instruction.output(i).dtype)
      instruction.wrong("keys and payloads must have one shape");
    items.push_back(bytes_of(instruction.input(i).dtype));
  }
  const AxisWalk walk(instruction, x, instruction.attribute("axis").integer());
  const bool descending = instruction.attributes->boolean("descending", false);
  if (x.size == 0) return [](const Call&) {};
  return [=](const Call& call) {
    parallel_for(walk.outer * walk.inner, [&](int64_t task, int) {
      const int64_t base = task / walk.inner * walk.length * walk.inner + task % walk.inner;
      auto* pairs = reinterpret_cast<uint64_t*>(scratch(0, size_t(walk.length) * 16));
      collect(call.in[0], x.dtype, base, walk.length, walk.inner, descending, pairs);
      sort_pairs(pairs, walk.length, pairs + walk.length);
      // In place is allowed: a line is read whole before it is written.
      auto* line = reinterpret_cast<std::byte*>(scratch(1, size_t(walk.length) * 4));
      for (size_t i = 0; i < count; ++i) {
        const int64_t item = items[i];
        const auto* in = call.input<std::byte>(i) + base * item;
        auto* out = call.output<std::byte>(i) + base * item;
        for (int64_t t = 0; t < walk.length; ++t)
          std::memcpy(line + t * item, in + int64_t(uint32_t(pairs[t])) * walk.inner * item, size_t(item));
        for (int64_t t = 0; t < walk.length; ++t) std::memcpy(out + t * walk.inner * item, line + t * item, size_t(item));
      }
    });
  };
}

/** top_k(x) {k} -> values, indices i32, over the last axis: largest first, equal ones by index, NaN last. */
Kernel make_top_k(Instruction& instruction) {
  const TensorType x = instruction.input(0);
  const int64_t k = instruction.attribute("k").integer();
  if (x.rank() == 0 || k < 0 || k > x.shape.back()) instruction.wrong("\"k\" is larger than the last axis");
  const int64_t columns = x.shape.back(), rows = columns == 0 ? 0 : x.size / columns;
  if (instruction.outputs.size() != 2 || instruction.output(0).dtype != x.dtype || instruction.output(1).dtype != DType::i32 ||
      instruction.output(0).size != rows * k || instruction.output(1).size != rows * k)
    instruction.wrong("it gives values and i32 indices with k in the last axis");
  if (rows * k == 0) return [](const Call&) {};
  if (x.dtype == DType::f32)
    return [=](const Call& call) { top_k({rows, columns, k, call.input<float>(0), call.output<float>(0), call.output<int32_t>(1)}); };
  const int64_t item = bytes_of(x.dtype);
  return [=](const Call& call) {
    parallel_for(rows, [&](int64_t row, int) {
      auto* pairs = reinterpret_cast<uint64_t*>(scratch(0, size_t(columns) * 8));
      collect(call.in[0], x.dtype, row * columns, columns, 1, true, pairs);
      std::partial_sort(pairs, pairs + k, pairs + columns);
      for (int64_t i = 0; i < k; ++i) {
        const int64_t at = int64_t(uint32_t(pairs[i]));
        call.output<int32_t>(1)[row * k + i] = int32_t(at);
        std::memcpy(call.output<std::byte>(0) + (row * k + i) * item, call.input<std::byte>(0) + (row * columns + at) * item, size_t(item));
      }
    });
  };
}

}  // namespace

std::vector<KernelEntry> index_kernels() {
  return {{"gather", make_gather}, {"scatter", make_scatter}, {"sort", make_sort}, {"top_k", make_top_k}};
}

}  // namespace howdah

// Windows that slide over all axes: reduce_window (pooling) and select_and_scatter (the gradient of max pooling).
#include <algorithm>

#include "pool.hpp"
#include "program.hpp"
#include "scalar.hpp"

namespace howdah {
namespace {

/** One axis of a sliding window. Position o, offset w reads operand element (o * stride - low + w * dilation) / base, if whole and inside. */
struct WindowAxis {
  int64_t operand, result, window, stride, low, dilation, base;
  int64_t operand_stride;

  /** The operand index, or -1 where there is padding or a hole. */
  int64_t at(int64_t o, int64_t w) const {
    const int64_t position = o * stride - low + w * dilation;
    if (position < 0 || position % base != 0) return -1;
    return position / base < operand ? position / base : -1;
  }
};

std::vector<int64_t> optional_list(const Instruction& instruction, const char* name, size_t rank, int64_t fallback) {
  if (!instruction.attributes->has(name)) return std::vector<int64_t>(rank, fallback);
  std::vector<int64_t> list = instruction.attribute(name).integers();
  if (list.size() != rank) instruction.wrong(std::string("\"") + name + "\" needs one number per axis");
  return list;
}

std::vector<WindowAxis> window_axes(const Instruction& instruction, const TensorType& operand, const TensorType& result) {
  const size_t rank = operand.shape.size();
  if (result.shape.size() != rank) instruction.wrong("the ranks differ");
  const auto window = optional_list(instruction, "window", rank, 1), strides = optional_list(instruction, "strides", rank, 1),
             low = optional_list(instruction, "low", rank, 0), high = optional_list(instruction, "high", rank, 0),
             dilation = optional_list(instruction, "window_dilation", rank, 1), base = optional_list(instruction, "base_dilation", rank, 1);
  const Shape own = strides_of(operand.shape);
  std::vector<WindowAxis> axes;
  for (size_t i = 0; i < rank; ++i) {
    if (window[i] < 1 || strides[i] < 1 || dilation[i] < 1 || base[i] < 1) instruction.wrong("window, strides and dilations must be positive");
    const int64_t n = operand.shape[i], spread = n == 0 ? 0 : (n - 1) * base[i] + 1;
    const int64_t room = spread + low[i] + high[i] - ((window[i] - 1) * dilation[i] + 1);
    if (result.shape[i] != (room < 0 ? 0 : room / strides[i] + 1)) instruction.wrong("the windows do not fit the result's shape");
    axes.push_back({n, result.shape[i], window[i], strides[i], low[i], dilation[i], base[i], own[i]});
  }
  return axes;
}

/** Calls body(offset, inside) for each element of the window at `position`; offset is meaningless where it is not inside. */
template <class F>
void walk_window(const std::vector<WindowAxis>& axes, const int64_t* position, F&& body) {
  int64_t w[kMaxRank] = {};
  const int rank = int(axes.size());
  while (true) {
    int64_t offset = 0;
    bool inside = true;
    for (int d = 0; d < rank && inside; ++d) {
      const int64_t at = axes[size_t(d)].at(position[d], w[d]);
      inside = at >= 0;
      offset += at * axes[size_t(d)].operand_stride;
    }
    body(offset, inside);
    int d = rank - 1;
    for (; d >= 0; --d) {
      if (++w[d] < axes[size_t(d)].window) break;
      w[d] = 0;
    }
    if (d < 0) return;
  }
}

void position_of(const std::vector<WindowAxis>& axes, int64_t flat, int64_t* position) {
  for (int d = int(axes.size()) - 1; d >= 0; --d) {
    position[d] = flat % axes[size_t(d)].result;
    flat /= axes[size_t(d)].result;
  }
}

/** reduce_window(x) {kind, window, strides, low, high, window_dilation, base_dilation}: padding counts as the identity of `kind`. */
Kernel make_reduce_window(Instruction& instruction) {
  const TensorType x = instruction.input(0), y = instruction.output(0);
  if (x.dtype != y.dtype) instruction.wrong("the dtypes differ");
  const Combine kind = parse_combine(instruction, instruction.attribute("kind").string());
  if (kind == Combine::set) instruction.wrong("the kind must be a reduction");
  const auto axes = window_axes(instruction, x, y);
  int64_t window = 1;
  for (const WindowAxis& axis : axes) window *= axis.window;
  const int64_t group = std::max<int64_t>(1, 16384 / window);
  return [=](const Call& call) {
    parallel_for((y.size + group - 1) / group, [&](int64_t task, int) {
      with_element(x.dtype, [&](auto element) {
        using E = decltype(element);
        using V = typename E::Value;
        with_combine(kind, [&](auto k) {
          const auto* in = call.input<typename E::Memory>(0);
          int64_t position[kMaxRank] = {};
          position_of(axes, task * group, position);
          for (int64_t o = task * group; o < std::min(y.size, (task + 1) * group); ++o) {
            V sum = V(identity_of(kind, x.dtype));
            walk_window(axes, position, [&](int64_t offset, bool inside) {
              if (inside) sum = combine<k.value>(sum, E::get(in[offset]));
            });
            call.output<typename E::Memory>(0)[o] = E::put(sum);
            for (int d = int(axes.size()) - 1; d >= 0; --d) {
              if (++position[d] < axes[size_t(d)].result) break;
              position[d] = 0;
            }
          }
        });
      });
    });
  };
}

/**
 * select_and_scatter(x, source[, initial]) {kind, window, strides, low, high}: each element of `source` is added where its window of x
 * has its first maximum (or minimum).
 */
Kernel make_select_and_scatter(Instruction& instruction) {
  const TensorType x = instruction.input(0), source = instruction.input(1);
  if (x.dtype != source.dtype || instruction.output(0).dtype != x.dtype || instruction.output(0).shape != x.shape)
    instruction.wrong("operand, source and result do not fit");
  const bool has_initial = instruction.inputs.size() > 2;
  if (has_initial && (instruction.input(2).dtype != x.dtype || instruction.input(2).size != 1)) instruction.wrong("the initial value must be one scalar");
  const std::string kind = instruction.attributes->string("kind", "maximum");
  if (kind != "maximum" && kind != "minimum") instruction.wrong("the kind must be maximum or minimum");
  const bool largest = kind == "maximum";
  const auto axes = window_axes(instruction, x, source);
  // Leading axes without a window are independent: threads share them.
  int64_t outer = 1;
  size_t split = 0;
  for (; split < axes.size(); ++split) {
    const WindowAxis& axis = axes[split];
    if (axis.window != 1 || axis.stride != 1 || axis.low != 0 || axis.result != axis.operand) break;
    outer *= axis.operand;
  }
  if (x.size == 0) return [](const Call&) {};
  const std::vector<WindowAxis> inner(axes.begin() + int64_t(split), axes.end());
  const int64_t x_size = x.size / outer, source_size = source.size / std::max<int64_t>(outer, 1);
  return [=](const Call& call) {
    parallel_for(outer, [&](int64_t task, int) {
      with_element(x.dtype, [&](auto element) {
        using E = decltype(element);
        using V = typename E::Value;
        const auto* in = call.input<typename E::Memory>(0) + task * x_size;
        const auto* from = call.input<typename E::Memory>(1) + task * source_size;
        auto* out = call.output<typename E::Memory>(0) + task * x_size;
        // Sums are kept in full precision until the end.
        V* sums = reinterpret_cast<V*>(scratch(0, size_t(x_size) * sizeof(V)));
        std::fill_n(sums, x_size, has_initial ? E::get(*call.input<typename E::Memory>(2)) : V(0));
        int64_t position[kMaxRank] = {};
        for (int64_t o = 0; o < source_size; ++o) {
          position_of(inner, o, position);
          int64_t best = -1;
          V best_value{};
          walk_window(inner, position, [&](int64_t offset, bool inside) {
            if (!inside) return;
            const V value = E::get(in[offset]);
            if (best < 0 || (largest ? value > best_value : value < best_value)) best = offset, best_value = value;
          });
          if (best >= 0) sums[best] = combine<Combine::add>(sums[best], E::get(from[o]));
        }
        for (int64_t i = 0; i < x_size; ++i) out[i] = E::put(sums[i]);
      });
    });
  };
}

}  // namespace

std::vector<KernelEntry> window_kernels() {
  return {{"reduce_window", make_reduce_window}, {"select_and_scatter", make_select_and_scatter}};
}

}  // namespace howdah

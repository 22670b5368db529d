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

/** The windows over some axes: offsets of their elements from a place's first one, for places whose window lies inside as a whole. */
class Windows {
 public:
  Windows(std::vector<WindowAxis> axes) : axes_(std::move(axes)) {
    deltas_ = {0};
    for (const WindowAxis& axis : axes_) {
      places_ *= axis.result;
      plain_ &= axis.base == 1;
      std::vector<int64_t> longer;
      for (const int64_t delta : deltas_)
        for (int64_t w = 0; w < axis.window; ++w) longer.push_back(delta + w * axis.dilation * axis.operand_stride);
      deltas_ = std::move(longer);
    }
  }

  int64_t places() const { return places_; }

  /** Calls body(offset) for each element of the window at `place` that exists, in row-major order. */
  template <class F>
  void walk(int64_t place, F&& body) const {
    int64_t position[kMaxRank] = {}, first = 0;
    bool whole = plain_;
    for (size_t d = axes_.size(); d-- > 0;) {
      const WindowAxis& axis = axes_[d];
      position[d] = place % axis.result;
      place /= axis.result;
      const int64_t start = position[d] * axis.stride - axis.low;
      whole = whole && start >= 0 && start + (axis.window - 1) * axis.dilation < axis.operand;
      first += start * axis.operand_stride;
    }
    if (whole) {
      for (const int64_t delta : deltas_) body(first + delta);
      return;
    }
    int64_t w[kMaxRank] = {};
    const int rank = int(axes_.size());
    while (true) {
      int64_t offset = 0;
      bool inside = true;
      for (int d = 0; d < rank && inside; ++d) {
        const int64_t at = axes_[size_t(d)].at(position[d], w[d]);
        inside = at >= 0;
        offset += at * axes_[size_t(d)].operand_stride;
      }
      if (inside) body(offset);
      int d = rank - 1;
      for (; d >= 0; --d) {
        if (++w[d] < axes_[size_t(d)].window) break;
        w[d] = 0;
      }
      if (d < 0) return;
    }
  }

 private:
  std::vector<WindowAxis> axes_;
  std::vector<int64_t> deltas_;
  int64_t places_ = 1;
  bool plain_ = true;
};

/**
 * reduce_window(x) {kind, window, strides, low, high, window_dilation, base_dilation}: padding counts as the identity of `kind`. A row of
 * results along the last axis is folded element by element of the window.
 */
Kernel make_reduce_window(Instruction& instruction) {
  const TensorType x = instruction.input(0), y = instruction.output(0);
  if (x.dtype != y.dtype) instruction.wrong("the dtypes differ");
  const Combine kind = parse_combine(instruction, instruction.attribute("kind").string());
  if (kind == Combine::set) instruction.wrong("the kind must be a reduction");
  auto axes = window_axes(instruction, x, y);
  const WindowAxis inner = axes.empty() ? WindowAxis{1, 1, 1, 1, 0, 1, 1, 1} : axes.back();
  if (!axes.empty()) axes.pop_back();
  const Windows outer(axes);
  if (y.size == 0) return [](const Call&) {};
  const int64_t group = std::max<int64_t>(1, 16384 / inner.result);
  return [=](const Call& call) {
    parallel_for((outer.places() + group - 1) / group, [&](int64_t task, int) {
      with_element(x.dtype, [&](auto element) {
        using E = decltype(element);
        using V = typename E::Value;
        with_combine(kind, [&](auto k) {
          V* row = reinterpret_cast<V*>(scratch(0, size_t(inner.result) * sizeof(V)));
          for (int64_t p = task * group; p < std::min(outer.places(), (task + 1) * group); ++p) {
            std::fill_n(row, inner.result, V(identity_of(kind, x.dtype)));
            outer.walk(p, [&](int64_t offset) {
              const auto* in = call.input<typename E::Memory>(0) + offset;
              for (int64_t w = 0; w < inner.window; ++w) {
                if (inner.base > 1) {
                  for (int64_t o = 0; o < inner.result; ++o)
                    if (const int64_t at = inner.at(o, w); at >= 0) row[o] = combine<k.value>(row[o], E::get(in[at]));
                  continue;
                }
                // Results first .. last - 1 read inside the operand.
                const int64_t base = w * inner.dilation - inner.low;
                const int64_t first = base >= 0 ? 0 : (-base + inner.stride - 1) / inner.stride;
                const int64_t last = base >= inner.operand ? 0 : std::min(inner.result, (inner.operand - 1 - base) / inner.stride + 1);
                if (inner.stride == 1)
                  for (int64_t o = first; o < last; ++o) row[o] = combine<k.value>(row[o], E::get(in[base + o]));
                else
                  for (int64_t o = first; o < last; ++o) row[o] = combine<k.value>(row[o], E::get(in[base + o * inner.stride]));
              }
            });
            auto* out = call.output<typename E::Memory>(0) + p * inner.result;
            for (int64_t o = 0; o < inner.result; ++o) out[o] = E::put(row[o]);
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
  const Windows windows(std::vector<WindowAxis>(axes.begin() + int64_t(split), axes.end()));
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
        for (int64_t o = 0; o < source_size; ++o) {
          int64_t best = -1;
          V best_value{};
          windows.walk(o, [&](int64_t offset) {
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

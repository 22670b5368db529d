// Reductions over axes, cumulative ones, and the index of the largest element.
#include <algorithm>
#include <limits>

#include "isa.hpp"
#include "pool.hpp"
#include "program.hpp"
#include "reduce.hpp"

HOWDAH_DECLARE_TABLE(ReduceTable, reduce_table)

namespace howdah {

const ReduceTable& reduce_table() {
  static const ReduceTable& chosen = HOWDAH_TABLE(reduce_table);
  return chosen;
}

double identity_of(Combine kind, DType type) {
  const bool floating = is_float(type);
  switch (kind) {
    case Combine::multiply: return 1;
    case Combine::maximum:
      return floating ? -std::numeric_limits<double>::infinity() : type == DType::i32 ? -2147483648.0 : type == DType::i8 ? -128 : 0;
    case Combine::minimum:
      return floating ? std::numeric_limits<double>::infinity()
                      : type == DType::i32 ? 2147483647.0 : type == DType::i8 ? 127 : type == DType::u8 ? 255 : 1;
    case Combine::logical_and: return type == DType::boolean ? 1 : -1;
    default: return 0;
  }
}

Combine parse_combine(const Instruction& instruction, const std::string& name) {
  if (name == "add") return Combine::add;
  if (name == "multiply") return Combine::multiply;
  if (name == "maximum") return Combine::maximum;
  if (name == "minimum") return Combine::minimum;
  if (name == "and") return Combine::logical_and;
  if (name == "or") return Combine::logical_or;
  if (name == "set") return Combine::set;
  instruction.wrong("there is no kind \"" + name + "\"");
}

namespace {

/** Elements that one task should fold at least; pieces of a long reduction are about this long. */
constexpr int64_t kTaskElements = 32768;
/** Tasks wanted before a reduction is cut into pieces whose results are combined afterwards. */
constexpr int64_t kWantedTasks = 64;

struct Axis {
  int64_t size, stride;
};

/** Neighbouring axes of the same role as one. */
void push_axis(std::vector<Axis>& axes, int64_t size, int64_t stride) {
  if (size == 1) return;
  if (!axes.empty() && axes.back().stride == size * stride)
    axes.back() = {axes.back().size * size, stride};
  else
    axes.push_back({size, stride});
}

int64_t count_of(const std::vector<Axis>& axes) {
  int64_t n = 1;
  for (const Axis& axis : axes) n *= axis.size;
  return n;
}

int64_t offset_of(const std::vector<Axis>& axes, int64_t position) {
  int64_t offset = 0;
  for (size_t i = axes.size(); i-- > 0;) {
    offset += position % axes[i].size * axes[i].stride;
    position /= axes[i].size;
  }
  return offset;
}

/** How a reduction runs: decided by the shape alone. */
struct ReducePlan {
  DType type;
  Combine kind;
  int64_t item;
  std::vector<Axis> kept, reduced;  // without the innermost run of the operand
  int64_t run = 1;                  // length of that run
  bool run_reduced = true;
  int64_t kept_count, reduced_count;
  int64_t pieces = 1, piece_rows = 0;  // the reduced positions (or, if there is one, the run) are cut into pieces
  bool cut_run = false;
  int64_t outputs;
  int64_t partials = 0;  // workspace for words of [pieces][outputs]
  bool direct;           // words go straight to the result

  void fold_kept_run(const std::byte* in, uint32_t* words, int64_t tile_columns) const;
  void fold_reduced_run(const std::byte* in, uint32_t* words) const;
};

void ReducePlan::fold_reduced_run(const std::byte* in, uint32_t* words) const {
  const int64_t per_output = std::max<int64_t>(1, reduced_count * run);
  const int64_t group = pieces > 1 ? 1 : std::max<int64_t>(1, kTaskElements / per_output);
  const int64_t groups = (outputs + group - 1) / group;
  parallel_for(groups * pieces, [&](int64_t task, int) {
    const int64_t piece = task / groups, first = task % groups * group;
    for (int64_t o = first; o < std::min(outputs, first + group); ++o) {
      const std::byte* base = in + offset_of(kept, o) * item;
      void* word = words + piece * outputs + o;
      if (cut_run) {
        const int64_t from = piece * piece_rows, to = std::min(run, from + piece_rows);
        howdah::reduce_table().fold_all({type, kind, base + from * item, 1, 0, to - from, word, true});
        continue;
      }
      const int64_t from = piece * piece_rows, to = std::min(reduced_count, from + piece_rows);
      // The last of the outer reduced axes is walked by the kernel as rows.
      const Axis last = reduced.empty() ? Axis{1, 0} : reduced.back();
      bool start = true;
      for (int64_t r = from; r < to;) {
        const int64_t rows = std::min(to, (r / last.size + 1) * last.size) - r;
        howdah::reduce_table().fold_all({type, kind, base + offset_of(reduced, r) * item, rows, last.stride, run, word, start});
        start = false;
        r += rows;
      }
    }
  });
}

void ReducePlan::fold_kept_run(const std::byte* in, uint32_t* words, int64_t tile_columns) const {
  const int64_t tiles = (run + tile_columns - 1) / tile_columns;
  parallel_for(kept_count * tiles * pieces, [&](int64_t task, int) {
    const int64_t piece = task / (kept_count * tiles), rest = task % (kept_count * tiles), o = rest / tiles;
    const int64_t column = rest % tiles * tile_columns, columns = std::min(tile_columns, run - column);
    const std::byte* base = in + (offset_of(kept, o) + column) * item;
    void* word = words + piece * outputs + o * run + column;
    const int64_t from = piece * piece_rows, to = std::min(reduced_count, from + piece_rows);
    const Axis last = reduced.empty() ? Axis{1, 0} : reduced.back();
    bool start = true;
    for (int64_t r = from; r < to;) {
      const int64_t rows = std::min(to, (r / last.size + 1) * last.size) - r;
      howdah::reduce_table().fold_columns({type, kind, base + offset_of(reduced, r) * item, rows, last.stride, columns, word, start});
      start = false;
      r += rows;
    }
  });
}

/** reduce(x) {kind, axes} */
Kernel make_reduce(Instruction& instruction) {
  const TensorType &x = instruction.input(0), &y = instruction.output(0);
  if (x.dtype != y.dtype) instruction.wrong("the dtypes differ");
  ReducePlan plan;
  plan.type = x.dtype;
  plan.item = bytes_of(x.dtype);
  plan.kind = parse_combine(instruction, instruction.attribute("kind").string());
  if (plan.kind == Combine::set || (is_float(x.dtype) && plan.kind > Combine::minimum)) instruction.wrong("the kind does not fit the dtype");
  std::vector<bool> is_reduced(x.shape.size());
  for (const int64_t axis : instruction.attribute("axes").integers()) {
    if (axis < 0 || axis >= x.rank()) instruction.wrong("an axis is out of range");
    is_reduced[size_t(axis)] = true;
  }
  const Shape strides = strides_of(x.shape);
  int64_t outputs = 1;
  for (int i = 0; i < x.rank(); ++i) {
    if (!is_reduced[size_t(i)]) outputs *= x.dim(i);
    push_axis(is_reduced[size_t(i)] ? plan.reduced : plan.kept, x.dim(i), strides[size_t(i)]);
  }
  if (outputs != y.size) instruction.wrong("the shapes do not fit");
  plan.outputs = outputs;
  if (outputs == 0) return [](const Call&) {};
  if (x.size == 0) {
    // Nothing to fold: the identity everywhere.
    plan.kept.clear(), plan.reduced.clear();
    plan.run = 0;
    plan.kept_count = outputs;
  } else {
    const bool reduced_last = !plan.reduced.empty() && plan.reduced.back().stride == 1;
    const bool kept_last = !plan.kept.empty() && plan.kept.back().stride == 1;
    if (reduced_last || kept_last) {
      plan.run_reduced = reduced_last;
      std::vector<Axis>& axes = reduced_last ? plan.reduced : plan.kept;
      plan.run = axes.back().size;
      axes.pop_back();
    }
    plan.kept_count = count_of(plan.kept);
  }
  plan.reduced_count = x.size == 0 ? 1 : count_of(plan.reduced);

  constexpr int64_t kTileColumns = 1024;
  const int64_t tasks = plan.run_reduced ? outputs : plan.kept_count * ((plan.run + kTileColumns - 1) / kTileColumns);
  if (tasks < kWantedTasks && x.size >= 4 * kTaskElements) {
    const int64_t most = std::min((kWantedTasks + tasks - 1) / tasks, x.size / tasks / kTaskElements);
    plan.cut_run = plan.run_reduced && plan.reduced_count == 1;
    const int64_t length = plan.cut_run ? plan.run : plan.reduced_count;
    const int64_t pieces = std::clamp<int64_t>(most, 1, length);
    plan.piece_rows = (length + pieces - 1) / pieces;
    if (plan.cut_run) plan.piece_rows = (plan.piece_rows + 63) & ~int64_t{63};
    plan.pieces = (length + plan.piece_rows - 1) / plan.piece_rows;
    if (plan.pieces == 1) plan.cut_run = false;
  }
  if (plan.pieces == 1) plan.piece_rows = plan.reduced_count;
  plan.direct = plan.pieces == 1 && plan.item == 4;
  if (!plan.direct) plan.partials = instruction.reserve(plan.pieces * outputs * 4);

  return [plan](const Call& call) {
    const std::byte* in = call.input<std::byte>(0);
    auto* words = plan.direct ? call.output<uint32_t>(0) : reinterpret_cast<uint32_t*>(call.workspace + plan.partials);
    if (plan.run_reduced) plan.fold_reduced_run(in, words);
    else plan.fold_kept_run(in, words, kTileColumns);
    if (plan.direct) return;
    // Pieces are combined in order, sums of floats in double.
    const int64_t group = 4096;
    parallel_for((plan.outputs + group - 1) / group, [&](int64_t task, int) {
      const int64_t to = std::min(plan.outputs, (task + 1) * group);
      with_element(plan.type, [&](auto element) {
        using E = decltype(element);
        using V = typename E::Value;
        with_combine(plan.kind, [&](auto kind) {
          const V* values = reinterpret_cast<const V*>(words);
          auto* out = call.output<typename E::Memory>(0);
          for (int64_t o = task * group; o < to; ++o) {
            using Sum = std::conditional_t<std::is_floating_point_v<V>, double, V>;
            Sum sum = values[o];
            for (int64_t p = 1; p < plan.pieces; ++p) sum = combine<kind.value>(sum, Sum(values[p * plan.outputs + o]));
            out[o] = E::put(V(sum));
          }
        });
      });
    });
  };
}

/** cumulative(x) {kind, axis, reverse}: each element combined with all before it (or after it). */
Kernel make_cumulative(Instruction& instruction) {
  const TensorType x = instruction.input(0);
  if (x.shape != instruction.output(0).shape || x.dtype != instruction.output(0).dtype) instruction.wrong("input and output differ");
  const Combine kind = parse_combine(instruction, instruction.attribute("kind").string());
  const int64_t axis = instruction.attribute("axis").integer();
  const bool reverse = instruction.attributes->boolean("reverse", false);
  if (axis < 0 || axis >= x.rank()) instruction.wrong("\"axis\" is out of range");
  int64_t outer = 1, inner = 1;
  for (int i = 0; i < x.rank(); ++i) (i < axis ? outer : inner) *= i == axis ? 1 : x.dim(i);
  const int64_t length = x.dim(int(axis));
  if (x.size == 0) return [](const Call&) {};
  constexpr int64_t kColumns = 64;
  const int64_t tiles = (inner + kColumns - 1) / kColumns;
  return [=](const Call& call) {
    parallel_for(outer * tiles, [&](int64_t task, int) {
      const int64_t column = task % tiles * kColumns, columns = std::min(kColumns, inner - column);
      const int64_t base = task / tiles * length * inner + column;
      with_element(x.dtype, [&](auto element) {
        using E = decltype(element);
        using V = typename E::Value;
        using Sum = std::conditional_t<std::is_floating_point_v<V>, double, V>;
        with_combine(kind, [&](auto k) {
          const auto* in = call.input<typename E::Memory>(0) + base;
          auto* out = call.output<typename E::Memory>(0) + base;
          Sum sums[kColumns];
          std::fill_n(sums, columns, Sum(identity_of(kind, x.dtype)));
          for (int64_t t = 0; t < length; ++t) {
            const int64_t row = (reverse ? length - 1 - t : t) * inner;
            for (int64_t c = 0; c < columns; ++c) {
              sums[c] = combine<k.value>(sums[c], Sum(E::get(in[row + c])));
              out[row + c] = E::put(V(sums[c]));
            }
          }
        });
      });
    });
  };
}

/** argmax(x) {axis} -> i32: the first index of the largest element; a NaN counts as larger than all numbers. */
template <bool largest>
Kernel make_arg(Instruction& instruction) {
  const TensorType x = instruction.input(0);
  const int64_t axis = instruction.attribute("axis").integer();
  if (axis < 0 || axis >= x.rank() || x.dim(int(axis)) == 0) instruction.wrong("\"axis\" is out of range or empty");
  if (instruction.output(0).dtype != DType::i32 || instruction.output(0).size * x.dim(int(axis)) != x.size)
    instruction.wrong("the result must be i32 without the axis");
  int64_t outer = 1, inner = 1;
  for (int i = 0; i < x.rank(); ++i) (i < axis ? outer : inner) *= i == axis ? 1 : x.dim(i);
  const int64_t length = x.dim(int(axis));
  if (largest && x.dtype == DType::f32 && inner == 1 && length <= std::numeric_limits<int32_t>::max())
    return [=](const Call& call) {
      top_k({outer, length, 1, call.input<float>(0), nullptr, call.output<int32_t>(0)});
      // It puts NaN last; here the first one wins.
      const int64_t group = std::max<int64_t>(1, kTaskElements / length);
      parallel_for((outer + group - 1) / group, [&](int64_t task, int) {
        for (int64_t o = task * group; o < std::min(outer, (task + 1) * group); ++o) {
          const float* row = call.input<float>(0) + o * length;
          int unordered = 0;
          for (int64_t t = 0; t < length; ++t) unordered |= row[t] != row[t];
          if (unordered) call.output<int32_t>(0)[o] = int32_t(std::find_if(row, row + length, [](float v) { return v != v; }) - row);
        }
      });
    };
  return [=](const Call& call) {
    const int64_t group = std::max<int64_t>(1, kTaskElements / length);
    parallel_for((outer * inner + group - 1) / group, [&](int64_t task, int) {
      with_element(x.dtype, [&](auto element) {
        using E = decltype(element);
        for (int64_t o = task * group; o < std::min(outer * inner, (task + 1) * group); ++o) {
          const auto* in = call.input<typename E::Memory>(0) + o / inner * length * inner + o % inner;
          auto best = E::get(in[0]);
          int32_t at = 0;
          for (int64_t t = 1; t < length && best == best; ++t) {
            const auto value = E::get(in[t * inner]);
            if ((largest ? value > best : value < best) || value != value) best = value, at = int32_t(t);
          }
          call.output<int32_t>(0)[o] = at;
        }
      });
    });
  };
}

}  // namespace

std::vector<KernelEntry> reduce_kernels() {
  return {{"reduce", make_reduce}, {"cumulative", make_cumulative}, {"argmax", make_arg<true>}, {"argmin", make_arg<false>}};
}

}  // namespace howdah

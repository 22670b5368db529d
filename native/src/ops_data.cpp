// Ops that move elements without computing: copy, broadcast, transpose, slices, pad, concatenate, reverse.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "program.hpp"
#include "scalar.hpp"
#include "strided.hpp"

namespace howdah {
namespace {

int64_t item(const TensorType& type) { return bytes_of(type.dtype); }

/** A list attribute with one number per dimension. */
std::vector<int64_t> per_dimension(const Instruction& instruction, const char* name, int rank) {
  std::vector<int64_t> list = instruction.attribute(name).integers();
  if (int(list.size()) != rank) instruction.wrong(std::string("\"") + name + "\" needs " + std::to_string(rank) + " numbers");
  return list;
}

void same_dtype(const Instruction& instruction, size_t count) {
  for (size_t i = 0; i < count; ++i)
    if (instruction.input(i).dtype != instruction.output(0).dtype) instruction.wrong("the dtypes differ");
}

std::byte* bytes_at(void* data, int64_t elements, int64_t item) { return static_cast<std::byte*>(data) + elements * item; }

/** The same bytes under another shape, name or type of equal width. */
Kernel make_copy(Instruction& instruction) {
  const int64_t bytes = instruction.output(0).bytes;
  if (instruction.input(0).bytes != bytes) instruction.wrong("input and output differ in size");
  return [=](const Call& call) { copy_bytes(call.out[0], call.in[0], bytes); };
}

/** `constant` {value}: one number repeated. */
Kernel make_constant(Instruction& instruction) {
  const TensorType type = instruction.output(0);
  uint32_t value = 0;
  store_scalar(&value, type.dtype, instruction.attribute("value").number());
  return [=](const Call& call) { fill(call.out[0], &value, bytes_of(type.dtype), type.size); };
}

/** Input dimension i becomes output dimension dimensions[i]; sizes of 1 are repeated. */
Kernel make_broadcast(Instruction& instruction) {
  const TensorType &x = instruction.input(0), &y = instruction.output(0);
  same_dtype(instruction, 1);
  const auto dimensions = per_dimension(instruction, "dimensions", x.rank());
  Shape strides(y.shape.size(), 0);
  const Shape own = strides_of(x.shape);
  for (int i = 0; i < x.rank(); ++i) {
    const int64_t to = dimensions[size_t(i)];
    if (to < 0 || to >= y.rank() || (x.dim(i) != 1 && x.dim(i) != y.dim(int(to)))) instruction.wrong("the shapes do not fit");
    if (x.dim(i) != 1) strides[size_t(to)] = own[size_t(i)];
  }
  return [copy = StridedCopy(y.shape, strides, strides_of(y.shape), item(y))](const Call& call) { copy.run(call.in[0], call.out[0]); };
}

Kernel make_transpose(Instruction& instruction) {
  const TensorType &x = instruction.input(0), &y = instruction.output(0);
  same_dtype(instruction, 1);
  const auto permutation = per_dimension(instruction, "permutation", x.rank());
  const Shape own = strides_of(x.shape);
  Shape strides;
  std::vector<bool> used(x.shape.size());
  for (int i = 0; i < x.rank(); ++i) {
    const int64_t from = permutation[size_t(i)];
    if (from < 0 || from >= x.rank() || used[size_t(from)] || y.dim(i) != x.dim(int(from)))
      instruction.wrong("\"permutation\" does not fit the shapes");
    used[size_t(from)] = true;
    strides.push_back(own[size_t(from)]);
  }
  return [copy = StridedCopy(y.shape, strides, strides_of(y.shape), item(y))](const Call& call) { copy.run(call.in[0], call.out[0]); };
}

Kernel make_slice(Instruction& instruction) {
  const TensorType &x = instruction.input(0), &y = instruction.output(0);
  same_dtype(instruction, 1);
  const auto start = per_dimension(instruction, "start", x.rank()), stride = per_dimension(instruction, "stride", x.rank());
  Shape strides = strides_of(x.shape);
  int64_t offset = 0;
  for (int i = 0; i < x.rank(); ++i) {
    const size_t d = size_t(i);
    if (start[d] < 0 || stride[d] < 1 || (y.dim(i) > 0 && start[d] + (y.dim(i) - 1) * stride[d] >= x.dim(i)))
      instruction.wrong("the slice leaves its operand");
    offset += start[d] * strides[d];
    strides[d] *= stride[d];
  }
  const int64_t width = item(y);
  return [=, copy = StridedCopy(y.shape, strides, strides_of(y.shape), width)](const Call& call) {
    copy.run(bytes_at(call.in[0], offset, width), call.out[0]);
  };
}

Kernel make_reverse(Instruction& instruction) {
  const TensorType &x = instruction.input(0), &y = instruction.output(0);
  same_dtype(instruction, 1);
  if (x.shape != y.shape) instruction.wrong("the shapes differ");
  Shape strides = strides_of(x.shape);
  int64_t offset = 0;
  for (const int64_t axis : instruction.attribute("axes").integers()) {
    if (axis < 0 || axis >= x.rank()) instruction.wrong("an axis is out of range");
    const size_t d = size_t(axis);
    offset += (x.shape[d] - 1) * strides[d];
    strides[d] = -strides[d];
  }
  const int64_t width = item(y);
  return [=, copy = StridedCopy(y.shape, strides, strides_of(y.shape), width)](const Call& call) {
    copy.run(bytes_at(call.in[0], offset, width), call.out[0]);
  };
}

Kernel make_concatenate(Instruction& instruction) {
  const TensorType& y = instruction.output(0);
  same_dtype(instruction, instruction.inputs.size());
  const int64_t axis = instruction.attribute("axis").integer(), width = item(y);
  if (axis < 0 || axis >= y.rank()) instruction.wrong("\"axis\" is out of range");
  struct Part {
    StridedCopy copy;
    int64_t offset;
  };
  std::vector<Part> parts;
  int64_t at = 0;
  const Shape strides = strides_of(y.shape);
  for (const TensorType& x : instruction.inputs) {
    for (int i = 0; i < y.rank(); ++i)
      if (x.rank() != y.rank() || (i != axis && x.dim(i) != y.dim(i))) instruction.wrong("the shapes do not fit");
    parts.push_back({StridedCopy(x.shape, strides_of(x.shape), strides, width), at * strides[size_t(axis)]});
    at += x.dim(int(axis));
  }
  if (at != y.dim(int(axis))) instruction.wrong("the sizes along the axis do not add up");
  return [=](const Call& call) {
    for (size_t i = 0; i < parts.size(); ++i) parts[i].copy.run(call.in[i], bytes_at(call.out[0], parts[i].offset, width));
  };
}

/** Offset in elements of a slice whose i32 starts are inputs `first`, `first` + 1, ..., clamped so that it fits. */
struct DynamicStart {
  Shape shape, sizes, strides;
  size_t first;

  DynamicStart(const Instruction& instruction, const Shape& operand, const Shape& slice, size_t first_input)
      : shape(operand), sizes(slice), strides(strides_of(operand)), first(first_input) {
    if (slice.size() != operand.size() || instruction.inputs.size() != first + operand.size())
      instruction.wrong("it needs one start per dimension");
    for (size_t i = 0; i < operand.size(); ++i) {
      const TensorType& start = instruction.input(first + i);
      if (start.dtype != DType::i32 || start.size != 1) instruction.wrong("a start must be one i32");
      if (slice[i] > operand[i]) instruction.wrong("the slice is larger than its operand");
    }
  }

  int64_t offset(const Call& call) const {
    int64_t offset = 0;
    for (size_t i = 0; i < shape.size(); ++i) {
      const int64_t start = *call.input<int32_t>(first + i);
      offset += std::clamp<int64_t>(start, 0, shape[i] - sizes[i]) * strides[i];
    }
    return offset;
  }
};

Kernel make_dynamic_slice(Instruction& instruction) {
  const TensorType &x = instruction.input(0), &y = instruction.output(0);
  same_dtype(instruction, 1);
  const DynamicStart start(instruction, x.shape, y.shape, 1);
  const int64_t width = item(y);
  return [=, copy = StridedCopy(y.shape, strides_of(x.shape), strides_of(y.shape), width)](const Call& call) {
    copy.run(bytes_at(call.in[0], start.offset(call), width), call.out[0]);
  };
}

Kernel make_dynamic_update_slice(Instruction& instruction) {
  const TensorType &x = instruction.input(0), &update = instruction.input(1), &y = instruction.output(0);
  same_dtype(instruction, 2);
  if (x.shape != y.shape) instruction.wrong("the shapes differ");
  const DynamicStart start(instruction, x.shape, update.shape, 2);
  const int64_t width = item(y), bytes = y.bytes;
  return [=, copy = StridedCopy(update.shape, strides_of(update.shape), strides_of(y.shape), width)](const Call& call) {
    const int64_t offset = start.offset(call);
    copy_bytes(call.out[0], call.in[0], bytes);
    copy.run(call.in[1], bytes_at(call.out[0], offset, width));
  };
}

/** StableHLO pad: negative edges cut, `interior` elements go between neighbours. */
Kernel make_pad(Instruction& instruction) {
  const TensorType &x = instruction.input(0), &y = instruction.output(0);
  same_dtype(instruction, 2);
  const auto low = per_dimension(instruction, "low", x.rank()), high = per_dimension(instruction, "high", x.rank()),
             interior = per_dimension(instruction, "interior", x.rank());
  const Shape in_strides = strides_of(x.shape), own = strides_of(y.shape);
  Shape kept, out_strides;
  int64_t from = 0, to = 0;
  bool covers = true;
  for (int i = 0; i < x.rank(); ++i) {
    const size_t d = size_t(i);
    const int64_t step = interior[d] + 1;
    if (interior[d] < 0 || y.dim(i) != std::max<int64_t>(0, low[d] + high[d] + (x.dim(i) > 0 ? (x.dim(i) - 1) * step + 1 : 0)))
      instruction.wrong("the padding does not fit the shapes");
    // Elements first .. last - 1 of the operand land inside the result, at low + k * step.
    const int64_t first = low[d] < 0 ? (-low[d] + step - 1) / step : 0;
    const int64_t room = y.dim(i) - 1 - low[d];
    const int64_t last = std::min(x.dim(i), room < 0 ? 0 : room / step + 1);
    kept.push_back(std::max<int64_t>(0, last - first));
    out_strides.push_back(own[d] * step);
    from += first * in_strides[d];
    to += (low[d] + first * step) * own[d];
    covers = covers && kept.back() == y.dim(i);
  }
  const int64_t width = item(y), size = y.size;
  return [=, copy = StridedCopy(kept, in_strides, out_strides, width)](const Call& call) {
    if (!covers) fill(call.out[0], call.in[1], width, size);
    if (copy.size() > 0) copy.run(bytes_at(call.in[0], from, width), bytes_at(call.out[0], to, width));
  };
}

}  // namespace

std::vector<KernelEntry> data_kernels() {
  return {{"copy", make_copy},
          {"reshape", make_copy},
          {"identity", make_copy},
          {"stop_gradient", make_copy},
          {"bitcast_convert", make_copy},
          {"optimization_barrier", make_copy},
          {"constant", make_constant},
          {"broadcast_in_dim", make_broadcast},
          {"transpose", make_transpose},
          {"slice", make_slice},
          {"dynamic_slice", make_dynamic_slice},
          {"dynamic_update_slice", make_dynamic_update_slice},
          {"pad", make_pad},
          {"concatenate", make_concatenate},
          {"reverse", make_reverse}};
}

}  // namespace howdah

// The fused neural-network kernels of nn.hpp: their inputs, outputs and attributes as a program names them.
#include <cmath>
#include <cstring>

#include "error.hpp"
#include "isa.hpp"
#include "program.hpp"

namespace howdah {
namespace {

/** Fails unless all inputs and outputs are f32, save those inputs that must be i32 and a first output that may be bf16. */
void check_types(const Instruction& instruction, std::initializer_list<size_t> integers = {}, bool narrow_result = false) {
  for (size_t i = 0; i < instruction.inputs.size(); ++i) {
    bool integer = false;
    for (const size_t j : integers) integer |= i == j;
    if (instruction.inputs[i].dtype != (integer ? DType::i32 : DType::f32))
      instruction.wrong("input " + std::to_string(i) + " must be " + (integer ? "i32" : "f32"));
  }
  for (const TensorType& type : instruction.outputs) {
    const bool narrow = narrow_result && &type == &instruction.outputs[0] && type.dtype == DType::bf16;
    if (type.dtype != DType::f32 && type.dtype != DType::i32 && !narrow) instruction.wrong("its outputs are f32");
  }
}

void check_count(const Instruction& instruction, size_t least_inputs, size_t outputs) {
  if (instruction.inputs.size() < least_inputs || instruction.outputs.size() != outputs)
    instruction.wrong("it takes at least " + std::to_string(least_inputs) + " inputs and gives " + std::to_string(outputs) + " outputs");
}

void check_size(const Instruction& instruction, const TensorType& type, int64_t size) {
  if (type.size != size) instruction.wrong(describe(type) + " should have " + std::to_string(size) + " elements");
}

struct Rows {
  int64_t rows, columns;
};

/** All but the last dimension, and the last. */
Rows rows_of(const Instruction& instruction, const TensorType& type) {
  if (type.rank() == 0) instruction.wrong("it needs at least one dimension");
  const int64_t columns = type.shape.back();
  return {columns == 0 ? 0 : type.size / columns, columns};
}

template <void (*function)(const SoftmaxArgs&)>
Kernel make_softmax(Instruction& instruction) {
  check_count(instruction, 1, 1);
  check_types(instruction);
  const Rows n = rows_of(instruction, instruction.input(0));
  check_size(instruction, instruction.output(0), instruction.input(0).size);
  return [=](const Call& call) { function({n.rows, n.columns, call.input<float>(0), call.output<float>(0)}); };
}

/** (y, dy) -> dx */
template <void (*function)(const SoftmaxGradArgs&)>
Kernel make_softmax_grad(Instruction& instruction) {
  check_count(instruction, 2, 1);
  check_types(instruction);
  const Rows n = rows_of(instruction, instruction.input(0));
  check_size(instruction, instruction.input(1), instruction.input(0).size);
  check_size(instruction, instruction.output(0), instruction.input(0).size);
  return [=](const Call& call) { function({n.rows, n.columns, call.input<float>(0), call.input<float>(1), call.output<float>(0)}); };
}

float epsilon_of(const Instruction& instruction) { return float(instruction.attribute("epsilon").number()); }

/** layer_norm(x (..., C), scale (C), bias (C)) {epsilon} -> y (f32 or bf16), mean (...), rstd (...) */
Kernel make_layer_norm(Instruction& instruction) {
  check_count(instruction, 3, 3);
  check_types(instruction, {}, true);
  const Rows n = rows_of(instruction, instruction.input(0));
  for (size_t i : {1, 2}) check_size(instruction, instruction.input(i), n.columns);
  check_size(instruction, instruction.output(0), instruction.input(0).size);
  for (size_t i : {1, 2}) check_size(instruction, instruction.output(i), n.rows);
  const float epsilon = epsilon_of(instruction);
  return [=, type = instruction.output(0).dtype](const Call& call) {
    layer_norm({n.rows, n.columns, call.input<float>(0), call.input<float>(1), call.input<float>(2), epsilon, call.out[0], call.output<float>(1),
                call.output<float>(2), type});
  };
}

/** layer_norm_grad(dy, x, scale, mean, rstd) -> dx, dscale, dbias */
Kernel make_layer_norm_grad(Instruction& instruction) {
  check_count(instruction, 5, 3);
  check_types(instruction);
  const Rows n = rows_of(instruction, instruction.input(1));
  check_size(instruction, instruction.input(0), instruction.input(1).size);
  check_size(instruction, instruction.input(2), n.columns);
  for (size_t i : {3, 4}) check_size(instruction, instruction.input(i), n.rows);
  check_size(instruction, instruction.output(0), instruction.input(1).size);
  for (size_t i : {1, 2}) check_size(instruction, instruction.output(i), n.columns);
  return [=](const Call& call) {
    layer_norm_grad({n.rows, n.columns, call.input<float>(0), call.input<float>(1), call.input<float>(2), call.input<float>(3),
                     call.input<float>(4), call.output<float>(0), call.output<float>(1), call.output<float>(2)});
  };
}

/** rms_norm(x (..., C), scale (C)) {epsilon} -> y (f32 or bf16), rstd (...) */
Kernel make_rms_norm(Instruction& instruction) {
  check_count(instruction, 2, 2);
  check_types(instruction, {}, true);
  const Rows n = rows_of(instruction, instruction.input(0));
  check_size(instruction, instruction.input(1), n.columns);
  check_size(instruction, instruction.output(0), instruction.input(0).size);
  check_size(instruction, instruction.output(1), n.rows);
  const float epsilon = epsilon_of(instruction);
  return [=, type = instruction.output(0).dtype](const Call& call) {
    rms_norm({n.rows, n.columns, call.input<float>(0), call.input<float>(1), epsilon, call.out[0], call.output<float>(1), type});
  };
}

/** rms_norm_grad(dy, x, scale, rstd) -> dx, dscale */
Kernel make_rms_norm_grad(Instruction& instruction) {
  check_count(instruction, 4, 2);
  check_types(instruction);
  const Rows n = rows_of(instruction, instruction.input(1));
  check_size(instruction, instruction.input(0), instruction.input(1).size);
  check_size(instruction, instruction.input(2), n.columns);
  check_size(instruction, instruction.input(3), n.rows);
  check_size(instruction, instruction.output(0), instruction.input(1).size);
  check_size(instruction, instruction.output(1), n.columns);
  return [=](const Call& call) {
    rms_norm_grad({n.rows, n.columns, call.input<float>(0), call.input<float>(1), call.input<float>(2), call.input<float>(3),
                   call.output<float>(0), call.output<float>(1)});
  };
}

/** rotary(x (B,T,H,D), cosine (1 or B,T,R/2), sine) {interleaved?, inverse?} -> y */
Kernel make_rotary(Instruction& instruction) {
  check_count(instruction, 3, 1);
  check_types(instruction);
  const TensorType &x = instruction.input(0), &angles = instruction.input(1);
  if (x.rank() != 4 || angles.rank() < 2 || angles.rank() > 3) instruction.wrong("it needs x (B, T, H, D) and angles (1 or B, T, R/2)");
  const int64_t batch = x.dim(0), time = x.dim(1), heads = x.dim(2), width = x.dim(3), half = angles.shape.back();
  const int64_t angle_batches = angles.rank() == 3 ? angles.dim(0) : 1;
  if (2 * half > width || angles.dim(angles.rank() - 2) != time || (angle_batches != 1 && angle_batches != batch))
    instruction.wrong("the angles do not fit x");
  check_size(instruction, instruction.input(2), angles.size);
  check_size(instruction, instruction.output(0), x.size);
  RotaryArgs args{};
  args.batch = batch, args.time = time, args.heads = heads, args.width = width, args.rotated = 2 * half;
  args.x_batch = args.y_batch = time * heads * width;
  args.x_time = args.y_time = heads * width;
  args.x_head = args.y_head = width;
  args.angle_batch = angle_batches == 1 ? 0 : time * half;
  args.interleaved = instruction.attributes->boolean("interleaved", false);
  args.inverse = instruction.attributes->boolean("inverse", false);
  return [args](const Call& call) mutable {
    args.x = call.input<float>(0), args.cosine = call.input<float>(1), args.sine = call.input<float>(2), args.y = call.output<float>(0);
    rotary(args);
  };
}

/**
 * Operands of attention. q (B,Tq,H,D), k (B,Tk,G,D), v (B,Tk,G,Dv); then, each only where its flag says so, first (B,Tq),
 * end (B,Tq), slopes (H), dropout key (2). With `packed`, the three are one tensor (B,T,3,H,D) or (B,T,H+2G,D) with {heads, groups}.
 */
struct AttentionOperands {
  AttentionArgs args;
  bool packed, has_first, has_end, has_slopes, has_key;
  size_t operands;
  HeadTensor q, k, v, out;
  int64_t k_offset = 0, v_offset = 0;

  AttentionOperands(const Instruction& instruction, size_t at) {
    const Json& attributes = *instruction.attributes;
    packed = attributes.boolean("packed", false);
    has_first = attributes.boolean("first", false);
    has_end = attributes.boolean("end", false);
    has_slopes = attributes.boolean("slopes", false);
    args.dropout = float(attributes.number("dropout", 0));
    has_key = args.dropout > 0;
    args.causal = attributes.boolean("causal", false);
    args.bf16_compute = instruction.bf16_matmul;
    const TensorType& first = instruction.input(at);
    if (packed) {
      operands = 1;
      if (first.rank() < 4 || first.rank() > 5) instruction.wrong("packed operands are (B, T, 3, H, D) or (B, T, H + 2 G, D)");
      args.width = args.value_width = first.shape.back();
      const int64_t all = first.rank() == 5 ? first.dim(2) * first.dim(3) : first.dim(2);
      args.heads = attributes.integer("heads", first.rank() == 5 ? first.dim(3) : 0);
      args.groups = attributes.integer("groups", args.heads);
      if (args.heads + 2 * args.groups != all) instruction.wrong("heads and groups do not add up to the packed operand");
      args.batch = first.dim(0);
      args.queries = args.keys = first.dim(1);
      const int64_t row = all * args.width;
      q = k = v = HeadTensor{nullptr, args.queries * row, row, args.width};
      k_offset = args.heads * args.width;
      v_offset = (args.heads + args.groups) * args.width;
    } else {
      operands = 3;
      const TensorType &key = instruction.input(at + 1), &value = instruction.input(at + 2);
      if (first.rank() != 4 || key.rank() != 4 || value.rank() != 4) instruction.wrong("q, k and v are (batch, time, heads, width)");
      args.batch = first.dim(0), args.queries = first.dim(1), args.heads = first.dim(2), args.width = first.dim(3);
      args.keys = key.dim(1), args.groups = key.dim(2), args.value_width = value.dim(3);
      if (key.dim(0) != args.batch || value.dim(0) != args.batch || value.dim(1) != args.keys || value.dim(2) != args.groups ||
          key.dim(3) != args.width)
        instruction.wrong("q, k and v do not fit one another");
      q = contiguous(args.queries, args.heads, args.width);
      k = contiguous(args.keys, args.groups, args.width);
      v = contiguous(args.keys, args.groups, args.value_width);
    }
    if (args.groups <= 0 || args.heads % args.groups != 0) instruction.wrong("query heads must be a multiple of key heads");
    args.scale = float(attributes.number("scale", 1 / std::sqrt(double(args.width))));
    const bool rounds = args.bf16_compute && has_bf16_dot() && args.queries > 2;
    HeadTensor* parts[3] = {&q, &k, &v};
    for (size_t i = 0; i < 3; ++i) {
      const DType type = instruction.input(packed ? at : at + i).dtype;
      if (type != DType::f32 && !(type == DType::bf16 && rounds)) instruction.wrong("q, k and v must be f32, or bf16 where products are in bf16");
      parts[i]->bf16 = type == DType::bf16;
    }
    out = contiguous(args.queries, args.heads, args.value_width);
  }

  static HeadTensor contiguous(int64_t time, int64_t heads, int64_t width) { return {nullptr, time * heads * width, heads * width, width}; }

  /** Where the optional inputs lie, and their types. `next` is the first of them. */
  void check_optional(const Instruction& instruction, size_t next) const {
    auto expect = [&](bool there, const char* name, DType type, int64_t size) {
      if (!there) return;
      if (next >= instruction.inputs.size() || instruction.inputs[next].dtype != type || instruction.inputs[next].size != size)
        instruction.wrong(std::string("\"") + name + "\" needs an input of " + std::to_string(size) + " " + dtype_name(type));
      ++next;
    };
    expect(has_first, "first", DType::i32, args.batch * args.queries);
    expect(has_end, "end", DType::i32, args.batch * args.queries);
    expect(has_slopes, "slopes", DType::f32, args.heads);
    expect(has_key, "dropout", DType::i32, 2);
    if (next != instruction.inputs.size()) instruction.wrong("it has more inputs than its attributes name");
  }

  AttentionArgs resolve(const Call& call, size_t at, size_t next) const {
    AttentionArgs a = args;
    a.q = q, a.k = k, a.v = v, a.out = out;
    a.q.data = static_cast<float*>(call.in[at]);
    // Offsets count elements; a bf16 is half of a float.
    const auto part = [&](int64_t offset) { return reinterpret_cast<float*>(static_cast<std::byte*>(call.in[at]) + offset * (q.bf16 ? 2 : 4)); };
    a.k.data = packed ? part(k_offset) : static_cast<float*>(call.in[at + 1]);
    a.v.data = packed ? part(v_offset) : static_cast<float*>(call.in[at + 2]);
    if (has_first) a.first = call.input<int32_t>(next++);
    if (has_end) a.end = call.input<int32_t>(next++);
    if (has_slopes) a.slopes = call.input<float>(next++);
    if (has_key) a.dropout_key = call.input<int32_t>(next++);
    return a;
  }
};

/** attention(q, k, v | packed, optional inputs) -> out (B,Tq,H,Dv), f32 or bf16, lse (B,H,Tq) */
Kernel make_attention(Instruction& instruction) {
  AttentionOperands operands(instruction, 0);
  check_count(instruction, operands.operands, 2);
  const DType out_type = instruction.output(0).dtype;
  if (out_type != DType::f32 && (out_type != DType::bf16 || operands.args.queries <= 2)) instruction.wrong("its result is f32, or bf16 with more than two queries");
  operands.out.bf16 = out_type == DType::bf16;
  operands.check_optional(instruction, operands.operands);
  const AttentionArgs& args = operands.args;
  check_size(instruction, instruction.output(0), args.batch * args.queries * args.heads * args.value_width);
  check_size(instruction, instruction.output(1), args.batch * args.queries * args.heads);
  return [operands](const Call& call) {
    AttentionArgs a = operands.resolve(call, 0, operands.operands);
    a.out.data = call.output<float>(0);
    a.lse = call.output<float>(1);
    attention(a);
  };
}

/** attention_grad(dout, q, k, v | packed, out, lse, optional inputs) -> dq, dk, dv | one packed gradient */
Kernel make_attention_grad(Instruction& instruction) {
  AttentionOperands operands(instruction, 1);
  const size_t n = operands.operands;
  check_count(instruction, n + 3, n);
  operands.out.bf16 = instruction.input(n + 1).dtype == DType::bf16;
  for (size_t i : {size_t{0}, n + 1, n + 2})
    if (instruction.inputs[i].dtype != DType::f32 && !(i == n + 1 && operands.out.bf16)) instruction.wrong("its tensors must be f32");
  operands.check_optional(instruction, n + 3);
  const AttentionArgs& args = operands.args;
  const int64_t out_size = args.batch * args.queries * args.heads * args.value_width;
  check_size(instruction, instruction.input(0), out_size);
  check_size(instruction, instruction.input(n + 1), out_size);
  check_size(instruction, instruction.input(n + 2), args.batch * args.queries * args.heads);
  for (size_t i = 0; i < n; ++i) check_size(instruction, instruction.output(i), instruction.input(i + 1).size);
  return [operands, n](const Call& call) {
    AttentionGradArgs g;
    g.forward = operands.resolve(call, 1, n + 3);
    g.forward.out.data = static_cast<float*>(call.in[n + 1]);
    g.forward.lse = static_cast<float*>(call.in[n + 2]);
    g.dout = operands.out;
    g.dout.bf16 = false;
    g.dout.data = static_cast<float*>(call.in[0]);
    g.dq = operands.q, g.dk = operands.k, g.dv = operands.v;
    g.dq.bf16 = g.dk.bf16 = g.dv.bf16 = false;
    g.dq.data = call.output<float>(0);
    g.dk.data = operands.packed ? g.dq.data + operands.k_offset : call.output<float>(1);
    g.dv.data = operands.packed ? g.dq.data + operands.v_offset : call.output<float>(2);
    attention_grad(g);
  };
}

/** Fails the run where a target names no class. Negative ones count nothing and pass. */
class TargetCheck {
 public:
  TargetCheck(const Instruction& instruction, int64_t rows, int64_t classes)
      : op_(instruction.op), scope_(instruction.scope), rows_(rows), classes_(classes) {}
  const int32_t* operator()(const int32_t* targets) const {
    for (int64_t r = 0; r < rows_; ++r)
      if (targets[r] >= classes_)
        fail(op_, scope_.empty() ? "" : " in " + scope_, ": the target of row ", r, " is ", targets[r], ", but there are ", classes_,
             " classes. Targets lie in [0, ", classes_, "), negative ones are ignored.");
    return targets;
  }

 private:
  std::string op_, scope_;
  int64_t rows_, classes_;
};

/** cross_entropy(logits (..., V), targets (...) i32) -> loss (...), lse (...) */
Kernel make_cross_entropy(Instruction& instruction) {
  check_count(instruction, 2, 2);
  check_types(instruction, {1});
  const Rows n = rows_of(instruction, instruction.input(0));
  check_size(instruction, instruction.input(1), n.rows);
  for (size_t i : {0, 1}) check_size(instruction, instruction.output(i), n.rows);
  return [=, check = TargetCheck(instruction, n.rows, n.columns)](const Call& call) {
    cross_entropy({n.rows, n.columns, call.input<float>(0), check(call.input<int32_t>(1)), call.output<float>(0), call.output<float>(1)});
  };
}

/** cross_entropy_grad(logits, targets, lse, dloss) -> dlogits */
Kernel make_cross_entropy_grad(Instruction& instruction) {
  check_count(instruction, 4, 1);
  check_types(instruction, {1});
  const Rows n = rows_of(instruction, instruction.input(0));
  for (size_t i : {1, 2, 3}) check_size(instruction, instruction.input(i), n.rows);
  check_size(instruction, instruction.output(0), instruction.input(0).size);
  return [=, check = TargetCheck(instruction, n.rows, n.columns)](const Call& call) {
    cross_entropy_grad({n.rows, n.columns, call.input<float>(0), check(call.input<int32_t>(1)), call.input<float>(2), call.input<float>(3),
                        call.output<float>(0)});
  };
}

LinearCrossEntropyGradArgs linear_sizes(const Instruction& instruction) {
  const Rows h = rows_of(instruction, instruction.input(0));
  const TensorType& w = instruction.input(1);
  if (w.rank() != 2 || w.dim(1) != h.columns) instruction.wrong("the weight must be (classes, channels)");
  check_size(instruction, instruction.input(2), h.rows);
  LinearCrossEntropyGradArgs args{};
  args.rows = h.rows, args.channels = h.columns, args.classes = w.dim(0);
  args.bf16_compute = instruction.bf16_matmul;
  return args;
}

/** linear_cross_entropy(h (..., C), w (V, C), targets (...) i32) -> loss (...), lse (...) */
Kernel make_linear_cross_entropy(Instruction& instruction) {
  check_count(instruction, 3, 2);
  check_types(instruction, {2});
  const LinearCrossEntropyGradArgs n = linear_sizes(instruction);
  for (size_t i : {0, 1}) check_size(instruction, instruction.output(i), n.rows);
  const int64_t logits = instruction.reserve(logit_bytes(n.rows, n.classes, false));
  return [n, logits, check = TargetCheck(instruction, n.rows, n.classes)](const Call& call) {
    linear_cross_entropy({n.rows, n.channels, n.classes, call.input<float>(0), call.input<float>(1), check(call.input<int32_t>(2)), n.bf16_compute,
                          call.output<float>(0), call.output<float>(1), reinterpret_cast<float*>(call.workspace + logits)});
  };
}

/** linear_cross_entropy_grad(h, w, targets, lse, dloss) -> dh, dw */
Kernel make_linear_cross_entropy_grad(Instruction& instruction) {
  check_count(instruction, 5, 2);
  check_types(instruction, {2});
  const LinearCrossEntropyGradArgs n = linear_sizes(instruction);
  for (size_t i : {3, 4}) check_size(instruction, instruction.input(i), n.rows);
  for (size_t i : {0, 1}) check_size(instruction, instruction.output(i), instruction.input(i).size);
  const int64_t logits = instruction.reserve(logit_bytes(n.rows, n.classes, n.by_blocks()));
  return [n, logits, check = TargetCheck(instruction, n.rows, n.classes)](const Call& call) {
    LinearCrossEntropyGradArgs a = n;
    a.logits = reinterpret_cast<float*>(call.workspace + logits);
    a.h = call.input<float>(0), a.w = call.input<float>(1), a.targets = check(call.input<int32_t>(2));
    a.lse = call.input<float>(3), a.dloss = call.input<float>(4), a.dh = call.output<float>(0), a.dw = call.output<float>(1);
    linear_cross_entropy_grad(a);
  };
}

/** linear_cross_entropy_value_and_grad(h, w, targets, dloss) -> loss, lse, dh, dw */
Kernel make_linear_cross_entropy_value_and_grad(Instruction& instruction) {
  check_count(instruction, 4, 4);
  check_types(instruction, {2});
  const LinearCrossEntropyGradArgs n = linear_sizes(instruction);
  check_size(instruction, instruction.input(3), n.rows);
  for (size_t i : {0, 1}) check_size(instruction, instruction.output(i), n.rows);
  for (size_t i : {0, 1}) check_size(instruction, instruction.output(i + 2), instruction.input(i).size);
  const int64_t logits = instruction.reserve(logit_bytes(n.rows, n.classes, n.by_blocks()));
  return [n, logits, check = TargetCheck(instruction, n.rows, n.classes)](const Call& call) {
    LinearCrossEntropyGradArgs a = n;
    a.logits = reinterpret_cast<float*>(call.workspace + logits);
    a.h = call.input<float>(0), a.w = call.input<float>(1), a.targets = check(call.input<int32_t>(2)), a.dloss = call.input<float>(3);
    a.loss = call.output<float>(0), a.lse_out = call.output<float>(1), a.dh = call.output<float>(2), a.dw = call.output<float>(3);
    linear_cross_entropy_grad(a);
  };
}

/** embedding(table (V, C), ids (...) i32) -> (..., C) */
Kernel make_embedding(Instruction& instruction) {
  check_count(instruction, 2, 1);
  check_types(instruction, {1});
  const TensorType& table = instruction.input(0);
  if (table.rank() != 2) instruction.wrong("the table must be (classes, channels)");
  const int64_t rows = instruction.input(1).size, classes = table.dim(0), channels = table.dim(1);
  if (classes == 0) instruction.wrong("the table is empty");
  check_size(instruction, instruction.output(0), rows * channels);
  return [=](const Call& call) {
    embedding({rows, channels, classes, call.input<float>(0), call.input<int32_t>(1), call.output<float>(0)});
  };
}

/** embedding_grad(dy (..., C), ids (...) i32[, base (V, C)]) -> dtable (V, C), f32 or bf16 like base */
Kernel make_embedding_grad(Instruction& instruction) {
  check_count(instruction, 2, 1);
  const TensorType& table = instruction.output(0);
  const bool base = instruction.inputs.size() > 2;
  if (instruction.input(0).dtype != DType::f32 || instruction.input(1).dtype != DType::i32) instruction.wrong("dy must be f32 and the ids i32");
  if (table.dtype != DType::f32 && table.dtype != DType::bf16) instruction.wrong("the gradient is f32 or bf16");
  if (table.rank() != 2) instruction.wrong("the gradient must be (classes, channels)");
  const int64_t rows = instruction.input(1).size, classes = table.dim(0), channels = table.dim(1);
  check_size(instruction, instruction.input(0), rows * channels);
  if (base) check_size(instruction, instruction.input(2), table.size);
  if (base && instruction.input(2).dtype != table.dtype) instruction.wrong("what is added to must have the gradient's dtype");
  return [=, type = table.dtype](const Call& call) {
    embedding_grad({rows, channels, classes, call.input<float>(0), call.input<int32_t>(1), call.out[0], base ? call.in[2] : nullptr, type});
  };
}

/**
 * adamw(learning rate, gradient scale, step (f32, from 1), then p.., m.., v.., g..: `count` of each; g f32 or bf16)
 * {count, decay: [bool per tensor], beta1, beta2, epsilon, weight_decay} -> p.., m.., v..
 */
Kernel make_adamw(Instruction& instruction) {
  const size_t count = size_t(instruction.attribute("count").integer());
  check_count(instruction, 3 + 4 * count, 3 * count);
  const size_t gradients = 3 + 3 * count;
  for (size_t i = 0; i < 3 + 4 * count; ++i)
    if (const DType type = instruction.input(i).dtype; type != DType::f32 && !(i >= gradients && type == DType::bf16))
      instruction.wrong("its tensors are f32; gradients may be bf16");
  for (size_t i = 0; i < 3; ++i) check_size(instruction, instruction.input(i), 1);
  const auto& decay = instruction.attribute("decay").array();
  if (decay.size() != count) instruction.wrong("\"decay\" needs one flag per tensor");
  std::vector<AdamWTensor> tensors;
  for (size_t i = 0; i < count; ++i) {
    const int64_t size = instruction.input(3 + i).size;
    for (size_t k = 1; k < 4; ++k) check_size(instruction, instruction.input(3 + k * count + i), size);
    for (size_t k = 0; k < 3; ++k) check_size(instruction, instruction.output(k * count + i), size);
    AdamWTensor tensor{};
    tensor.size = size;
    tensor.decay = decay[i].boolean();
    tensor.g_type = instruction.input(gradients + i).dtype;
    tensors.push_back(tensor);
  }
  AdamWArgs args{};
  const double beta1 = instruction.attribute("beta1").number(), beta2 = instruction.attribute("beta2").number();
  args.beta1 = beta1, args.beta2 = beta2, args.epsilon = instruction.attribute("epsilon").number();
  args.weight_decay = instruction.attribute("weight_decay").number();
  return [=](const Call& call) mutable {
    args.learning_rate = *call.input<float>(0);
    args.gradient_scale = *call.input<float>(1);
    const double step = *call.input<float>(2);
    args.correction1 = float(1 - std::pow(beta1, step));
    args.correction2 = float(1 - std::pow(beta2, step));
    for (size_t i = 0; i < count; ++i) {
      AdamWTensor& tensor = tensors[i];
      tensor.p = static_cast<float*>(call.in[3 + i]);
      tensor.m = static_cast<float*>(call.in[3 + count + i]);
      tensor.v = static_cast<float*>(call.in[3 + 2 * count + i]);
      tensor.g = call.in[gradients + i];
      tensor.p_out = call.output<float>(i);
      tensor.m_out = call.output<float>(count + i);
      tensor.v_out = call.output<float>(2 * count + i);
    }
    args.tensors = tensors.data();
    args.count = int64_t(count);
    adamw(args);
  };
}

/** global_norm(tensors..., f32 or bf16) -> one f32 */
Kernel make_global_norm(Instruction& instruction) {
  check_count(instruction, 0, 1);
  check_size(instruction, instruction.output(0), 1);
  if (instruction.output(0).dtype != DType::f32) instruction.wrong("its result is f32");
  std::vector<int64_t> sizes;
  std::vector<DType> types;
  for (const TensorType& type : instruction.inputs) {
    if (type.dtype != DType::f32 && type.dtype != DType::bf16) instruction.wrong("its tensors are f32 or bf16");
    sizes.push_back(type.size);
    types.push_back(type.dtype);
  }
  return [=, tensors = std::vector<const void*>(sizes.size())](const Call& call) mutable {
    for (size_t i = 0; i < sizes.size(); ++i) tensors[i] = call.in[i];
    global_norm({tensors.data(), sizes.data(), int64_t(sizes.size()), call.output<float>(0), types.data()});
  };
}

}  // namespace

std::vector<KernelEntry> nn_kernels() {
  return {{"softmax", make_softmax<softmax>},
          {"softmax_grad", make_softmax_grad<softmax_grad>},
          {"log_softmax", make_softmax<log_softmax>},
          {"log_softmax_grad", make_softmax_grad<log_softmax_grad>},
          {"layer_norm", make_layer_norm},
          {"layer_norm_grad", make_layer_norm_grad},
          {"rms_norm", make_rms_norm},
          {"rms_norm_grad", make_rms_norm_grad},
          {"rotary", make_rotary},
          {"attention", make_attention},
          {"attention_grad", make_attention_grad},
          {"cross_entropy", make_cross_entropy},
          {"cross_entropy_grad", make_cross_entropy_grad},
          {"linear_cross_entropy", make_linear_cross_entropy},
          {"linear_cross_entropy_grad", make_linear_cross_entropy_grad},
          {"linear_cross_entropy_value_and_grad", make_linear_cross_entropy_value_and_grad},
          {"embedding", make_embedding},
          {"embedding_grad", make_embedding_grad},
          {"adamw", make_adamw},
          {"global_norm", make_global_norm}};
}

}  // namespace howdah

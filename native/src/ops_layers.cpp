// Batch normalisation and recurrent layers of nn.hpp: their inputs, outputs and attributes as a program names them.
#include "program.hpp"

namespace howdah {
namespace {

/** Also the types: f32, or bf16 for the inputs and outputs named as bits. */
void check_counts(const Instruction& instruction, size_t inputs, size_t outputs, unsigned half_inputs = 0, unsigned half_outputs = 0) {
  if (instruction.inputs.size() != inputs || instruction.outputs.size() != outputs)
    instruction.wrong("it takes " + std::to_string(inputs) + " inputs and gives " + std::to_string(outputs) + " outputs");
  const auto check = [&](const std::vector<TensorType>& types, unsigned half) {
    for (size_t i = 0; i < types.size(); i++)
      if (types[i].dtype != DType::f32 && !(types[i].dtype == DType::bf16 && (half >> i & 1)))
        instruction.wrong(describe(types[i]) + " should be f32" + (half >> i & 1 ? " or bf16" : ""));
  };
  check(instruction.inputs, half_inputs);
  check(instruction.outputs, half_outputs);
}

bool is_half(const TensorType& type) { return type.dtype == DType::bf16; }

void check_size(const Instruction& instruction, const TensorType& type, int64_t size) {
  if (type.size != size) instruction.wrong(describe(type) + " should have " + std::to_string(size) + " elements");
}

/** batch_norm(x (..., C), scale, bias, residual?) {epsilon, relu, residual} -> y, mean (C), variance (C); x, residual and y f32 or bf16 */
Kernel make_batch_norm(Instruction& instruction) {
  const bool residual = instruction.attributes->boolean("residual", false), relu = instruction.attributes->boolean("relu", false);
  check_counts(instruction, 3u + residual, 3, 1 | 1 << 3, 1);
  const TensorType& x = instruction.input(0);
  if (x.rank() == 0) instruction.wrong("it needs at least one dimension");
  const int64_t columns = x.shape.back(), rows = columns == 0 ? 0 : x.size / columns;
  for (size_t i : {1, 2}) check_size(instruction, instruction.input(i), columns);
  if (residual) check_size(instruction, instruction.input(3), x.size);
  check_size(instruction, instruction.output(0), x.size);
  for (size_t i : {1, 2}) check_size(instruction, instruction.output(i), columns);
  const float epsilon = float(instruction.attribute("epsilon").number());
  const bool x_half = is_half(x), residual_half = residual && is_half(instruction.input(3)), y_half = is_half(instruction.output(0));
  return [=](const Call& call) {
    batch_norm({rows, columns, {call.in[0], x_half}, call.input<float>(1), call.input<float>(2), {residual ? call.in[3] : nullptr, residual_half}, epsilon,
                relu, {call.out[0], y_half}, call.output<float>(1), call.output<float>(2)});
  };
}

/** batch_norm_grad(dy, x, scale, mean, variance, y if relu) {epsilon, relu, residual} -> dx, dscale, dbias, dresidual if residual; dy, x, y and dx f32 or bf16 */
Kernel make_batch_norm_grad(Instruction& instruction) {
  const bool residual = instruction.attributes->boolean("residual", false), relu = instruction.attributes->boolean("relu", false);
  check_counts(instruction, 5u + relu, 3u + residual, 3 | 1 << 5, 1);
  const TensorType& x = instruction.input(1);
  if (x.rank() == 0) instruction.wrong("it needs at least one dimension");
  const int64_t columns = x.shape.back(), rows = columns == 0 ? 0 : x.size / columns;
  check_size(instruction, instruction.input(0), x.size);
  for (size_t i : {2, 3, 4}) check_size(instruction, instruction.input(i), columns);
  if (relu) check_size(instruction, instruction.input(5), x.size);
  check_size(instruction, instruction.output(0), x.size);
  for (size_t i : {1, 2}) check_size(instruction, instruction.output(i), columns);
  if (residual) check_size(instruction, instruction.output(3), x.size);
  const float epsilon = float(instruction.attribute("epsilon").number());
  const bool dy_half = is_half(instruction.input(0)), x_half = is_half(x), y_half = relu && is_half(instruction.input(5)),
             dx_half = is_half(instruction.output(0));
  return [=](const Call& call) {
    batch_norm_grad({rows, columns, {call.in[0], dy_half}, {call.in[1], x_half}, call.input<float>(2), call.input<float>(3), call.input<float>(4),
                     {relu ? call.in[5] : nullptr, y_half}, epsilon, {call.out[0], dx_half}, call.output<float>(1), call.output<float>(2),
                     residual ? call.output<float>(3) : nullptr});
  };
}

/** The sizes of lstm(x (T, B, 4 H), weight (4 H, H), ...), checked. */
struct LstmSizes {
  int64_t time, batch, hidden;
  LstmSizes(const Instruction& instruction, const TensorType& x, const TensorType& weight) {
    if (x.rank() != 3 || weight.rank() != 2 || weight.dim(0) != 4 * weight.dim(1) || x.dim(2) != weight.dim(0))
      instruction.wrong("it needs gates (T, B, 4 H) and a weight (4 H, H)");
    time = x.dim(0), batch = x.dim(1), hidden = weight.dim(1);
  }
};

/** lstm(x, weight, h0 (B, H), c0 (B, H)) -> h (T, B, H), c (T, B, H), gates (T, B, 4 H) */
Kernel make_lstm(Instruction& instruction) {
  check_counts(instruction, 4, 3);
  const LstmSizes n(instruction, instruction.input(0), instruction.input(1));
  for (size_t i : {2, 3}) check_size(instruction, instruction.input(i), n.batch * n.hidden);
  for (size_t i : {0, 1}) check_size(instruction, instruction.output(i), n.time * n.batch * n.hidden);
  check_size(instruction, instruction.output(2), instruction.input(0).size);
  const bool bf16 = instruction.bf16_matmul;
  return [=](const Call& call) {
    lstm({n.time, n.batch, n.hidden, call.input<float>(0), call.input<float>(1), call.input<float>(2), call.input<float>(3), bf16,
          call.output<float>(0), call.output<float>(1), call.output<float>(2)});
  };
}

/** lstm_grad(gates, weight, c0, c, dh?, dc?) {dh, dc} -> dx (T, B, 4 H), dh0, dc0 */
Kernel make_lstm_grad(Instruction& instruction) {
  const bool dh = instruction.attributes->boolean("dh", false), dc = instruction.attributes->boolean("dc", false);
  check_counts(instruction, 4u + dh + dc, 3);
  const LstmSizes n(instruction, instruction.input(0), instruction.input(1));
  check_size(instruction, instruction.input(2), n.batch * n.hidden);
  for (size_t i = 3; i < instruction.inputs.size(); ++i) check_size(instruction, instruction.input(i), n.time * n.batch * n.hidden);
  check_size(instruction, instruction.output(0), instruction.input(0).size);
  for (size_t i : {1, 2}) check_size(instruction, instruction.output(i), n.batch * n.hidden);
  const bool bf16 = instruction.bf16_matmul;
  return [=](const Call& call) {
    lstm_grad({n.time, n.batch, n.hidden, dh ? call.input<float>(4) : nullptr, dc ? call.input<float>(dh ? 5 : 4) : nullptr, call.input<float>(1),
               call.input<float>(2), call.input<float>(3), call.input<float>(0), bf16, call.output<float>(0), call.output<float>(1),
               call.output<float>(2)});
  };
}

}  // namespace

std::vector<KernelEntry> layer_kernels() {
  return {{"batch_norm", make_batch_norm}, {"batch_norm_grad", make_batch_norm_grad}, {"lstm", make_lstm}, {"lstm_grad", make_lstm_grad}};
}

}  // namespace howdah

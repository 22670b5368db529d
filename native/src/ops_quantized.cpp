// Linear maps and look-ups by packed weights: their inputs, outputs and attributes as a program names them.
#include "program.hpp"
#include "quantized.hpp"

namespace howdah {
namespace {

WeightFormat format_of(const Instruction& instruction) {
  const std::string& name = instruction.attribute("format").string();
  if (name == "bf16") return WeightFormat::bf16;
  if (name == "int8") return WeightFormat::int8;
  if (name != "int4") instruction.wrong("there is no weight format " + name);
  return WeightFormat::int4;
}

/** The weights of inputs `at` and after; the pointers are filled in at each call. */
PackedWeights weights_of(const Instruction& instruction, size_t at) {
  PackedWeights w{};
  w.format = format_of(instruction);
  const std::vector<int64_t> shape = instruction.attribute("shape").integers();
  if (shape.size() != 2 || shape[0] < 0 || shape[1] < 0) instruction.wrong("its shape is not (out, in)");
  w.out = shape[0], w.in = shape[1];
  w.gated = instruction.attributes->boolean("gated", false);
  const bool plain = w.format == WeightFormat::bf16;
  if (instruction.input(at).dtype != (plain ? DType::bf16 : DType::u8) || instruction.input(at).bytes != w.panels() * w.panel_bytes())
    instruction.wrong("the packed weights do not have the size that format and shape say");
  if (!plain && (instruction.input(at + 1).dtype != DType::bf16 || instruction.input(at + 1).size != w.panels() * w.groups() * kPanelRows))
    instruction.wrong("the scales do not have the size that format and shape say");
  return w;
}

/** quantized_linear(x, packed, scales?, norm?, residual?) {format, shape, gated, epsilon, residual} -> y */
Kernel make_quantized_linear(Instruction& instruction) {
  const PackedWeights w = weights_of(instruction, 1);
  size_t at = w.format == WeightFormat::bf16 ? 2 : 3;
  const Json& epsilon = (*instruction.attributes)["epsilon"];
  const size_t norm_at = epsilon.is_null() ? 0 : at++;
  const size_t residual_at = instruction.attributes->boolean("residual", false) ? at++ : 0;
  if (instruction.inputs.size() != at || instruction.outputs.size() != 1) instruction.wrong("its inputs do not fit its attributes");
  const TensorType &x = instruction.input(0), &y = instruction.output(0);
  const int64_t rows = w.in ? x.size / w.in : 0;
  if (x.dtype != DType::f32 || y.dtype != DType::f32 || x.size != rows * w.in || y.size != rows * w.out)
    instruction.wrong("x and y must be f32 of (..., in) and (..., out)");
  if (norm_at && (instruction.input(norm_at).dtype != DType::f32 || instruction.input(norm_at).size != w.in))
    instruction.wrong("the norm's scale must be f32 with one number per input");
  if (residual_at && (instruction.input(residual_at).dtype != DType::f32 || instruction.input(residual_at).size != y.size))
    instruction.wrong("the residual must be f32 of the result's shape");
  QuantizedLinearArgs args{};
  args.rows = rows;
  args.weights = w;
  args.epsilon = norm_at ? float(epsilon.number()) : 0;
  const int64_t workspace = instruction.reserve(quantized_linear_workspace(rows, w.in, w.format));
  return [=](const Call& call) {
    QuantizedLinearArgs a = args;
    a.x = call.input<float>(0);
    a.weights.packed = call.in[1];
    a.weights.scales = w.format == WeightFormat::bf16 ? nullptr : call.input<uint16_t>(2);
    a.norm = norm_at ? call.input<float>(norm_at) : nullptr;
    a.residual = residual_at ? call.input<float>(residual_at) : nullptr;
    a.y = call.output<float>(0);
    a.workspace = call.workspace + workspace;
    quantized_linear(a);
  };
}

/** quantized_embedding(ids, packed, scales?) {format, shape} -> y */
Kernel make_quantized_embedding(Instruction& instruction) {
  const PackedWeights w = weights_of(instruction, 1);
  const TensorType &ids = instruction.input(0), &y = instruction.output(0);
  if (ids.dtype != DType::i32 || y.dtype != DType::f32 || y.size != ids.size * w.in || (ids.size > 0 && w.out == 0))
    instruction.wrong("ids must be i32, and y f32 with a row for each");
  const int64_t rows = ids.size;
  return [=](const Call& call) {
    QuantizedEmbeddingArgs a{rows, w, call.input<int32_t>(0), call.output<float>(0)};
    a.table.packed = call.in[1];
    a.table.scales = w.format == WeightFormat::bf16 ? nullptr : call.input<uint16_t>(2);
    quantized_embedding(a);
  };
}

/** pack_weight(w) {format} -> packed, scales? */
Kernel make_pack_weight(Instruction& instruction) {
  const TensorType& w = instruction.input(0);
  const WeightFormat format = format_of(instruction);
  if (w.dtype != DType::f32 || w.rank() != 2) instruction.wrong("w must be f32 (out, in)");
  const PackedWeights weights{format, w.shape[0], w.shape[1], false, nullptr, nullptr};
  const bool plain = format == WeightFormat::bf16;
  if (instruction.output(0).bytes != weights.panels() * weights.panel_bytes() ||
      (!plain && instruction.output(1).size != weights.panels() * weights.groups() * kPanelRows))
    instruction.wrong("its results do not have the size that format and shape say");
  return [=](const Call& call) {
    pack_weight({weights, call.input<float>(0), call.out[0], plain ? nullptr : call.output<uint16_t>(1)});
  };
}

}  // namespace

std::vector<KernelEntry> quantized_kernels() {
  return {{"quantized_linear", make_quantized_linear}, {"quantized_embedding", make_quantized_embedding}, {"pack_weight", make_pack_weight}};
}

}  // namespace howdah

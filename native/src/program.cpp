#include "program.hpp"

#include <unordered_map>

#include "error.hpp"

namespace howdah {

DType parse_dtype(const std::string& name) {
  if (name == "f32") return DType::f32;
  if (name == "bf16") return DType::bf16;
  if (name == "f16") return DType::f16;
  if (name == "i32") return DType::i32;
  if (name == "u8") return DType::u8;
  if (name == "i8") return DType::i8;
  if (name == "bool") return DType::boolean;
  fail("The native backend has no values of type ", name, ". Use the reference backend for it, or convert to f32.");
}

const char* dtype_name(DType type) {
  switch (type) {
    case DType::f32: return "f32";
    case DType::bf16: return "bf16";
    case DType::f16: return "f16";
    case DType::i32: return "i32";
    case DType::u8: return "u8";
    case DType::i8: return "i8";
    case DType::boolean: return "bool";
  }
  return "?";
}

std::string describe(const TensorType& type) {
  std::string out = dtype_name(type.dtype);
  out += " (";
  for (size_t i = 0; i < type.shape.size(); ++i) out += (i ? ", " : "") + std::to_string(type.shape[i]);
  return out + ")";
}

Shape strides_of(const Shape& shape) {
  Shape strides(shape.size());
  int64_t stride = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    strides[i] = stride;
    stride *= shape[i];
  }
  return strides;
}

const TensorType& Instruction::input(size_t i) const {
  if (i >= inputs.size()) wrong("it needs at least " + std::to_string(i + 1) + " inputs");
  return inputs[i];
}

const TensorType& Instruction::output(size_t i) const {
  if (i >= outputs.size()) wrong("it needs at least " + std::to_string(i + 1) + " outputs");
  return outputs[i];
}

void Instruction::wrong(const std::string& what) const {
  std::string types;
  for (const TensorType& type : inputs) types += (types.empty() ? "" : ", ") + describe(type);
  std::string results;
  for (const TensorType& type : outputs) results += (results.empty() ? "" : ", ") + describe(type);
  fail("The native kernel ", op, " [", types, "] -> [", results, "]", scope.empty() ? "" : " in " + scope, ": ", what, ".");
}

KernelMaker find_kernel(const std::string& op) {
  static const auto* table = [] {
    auto* map = new std::unordered_map<std::string, KernelMaker>;
    for (const auto& list : {data_kernels(), elementwise_kernels(), reduce_kernels(), window_kernels(), index_kernels(), matmul_kernels(),
                             convolution_kernels(), nn_kernels(), layer_kernels(), paged_kernels(), loop_kernels(),
                             quantized_kernels(), sample_kernels()})
      for (const KernelEntry& entry : list) map->emplace(entry.name, entry.make);
    return map;
  }();
  const auto found = table->find(op);
  return found == table->end() ? nullptr : found->second;
}

}  // namespace howdah

// Element-wise ops: single ones and whole regions, both run by the tile machine.
#include <algorithm>

#include "program.hpp"

namespace howdah {
namespace {

Kernel run_region(const EwRegion& region) {
  return [plan = plan_elementwise(region)](const Call& call) {
    run_elementwise({plan.get(), const_cast<const void* const*>(call.in), call.out});
  };
}

Ew parse_op(const Instruction& instruction, const std::string& name) {
  const int op = elementwise_op(name.c_str());
  if (op < 0) instruction.wrong("\"" + name + "\" is not an element-wise op");
  return Ew(op);
}

/** Strides of an input of one op: its own, or zeros where a scalar meets a tensor (bounds of clamp, condition of select). */
Shape input_strides(const Instruction& instruction, const TensorType& x, const Shape& shape) {
  if (x.shape == shape) return strides_of(shape);
  if (x.size != 1) instruction.wrong("the shapes differ");
  return Shape(shape.size(), 0);
}

/** One op as a region of one node. `compare` has its direction as an attribute, the others are named like their node. */
Kernel make_single(Instruction& instruction) {
  const TensorType& y = instruction.output(0);
  EwRegion region;
  region.shape = y.shape;
  EwNode node;
  std::string name = instruction.op;
  if (name == "compare") {
    std::string direction = instruction.attribute("direction").string();
    std::transform(direction.begin(), direction.end(), direction.begin(), [](char c) { return char(c | 0x20); });
    name += "_" + direction;
  }
  node.op = parse_op(instruction, name);
  node.type = y.dtype;
  node.axis = int32_t(instruction.attributes->integer("axis", 0));
  if (node.op == Ew::iota && (node.axis < 0 || node.axis >= y.rank())) instruction.wrong("\"axis\" is out of range");
  if (instruction.inputs.size() > 3) instruction.wrong("it has too many inputs");
  for (size_t i = 0; i < instruction.inputs.size(); ++i) {
    const TensorType& x = instruction.inputs[i];
    const bool key = node.op == Ew::random_bits;
    if (key && (x.dtype != DType::i32 || x.size != 2)) instruction.wrong("the key must be two i32");
    region.inputs.push_back({x.dtype, key ? Shape(y.shape.size(), 0) : input_strides(instruction, x, y.shape)});
    node.operand[i] = int32_t(i);
  }
  region.nodes.push_back(node);
  region.outputs.push_back({int32_t(instruction.inputs.size()), EwReduce::none});
  return run_region(region);
}

EwReduce parse_reduce(const Instruction& instruction, const std::string& name) {
  if (name == "none") return EwReduce::none;
  if (name == "add") return EwReduce::add;
  if (name == "maximum") return EwReduce::maximum;
  if (name == "minimum") return EwReduce::minimum;
  instruction.wrong("\"" + name + "\" is not a reduction of regions");
}

/**
 * `fused_elementwise` {shape, strides: one list per input, nodes: [{op, type, operands, number?, axis?}], results: [{value, reduce?}],
 * reduce_dims?, reduce_leading?}. Values are numbered inputs first, then nodes.
 */
Kernel make_fused(Instruction& instruction) {
  EwRegion region;
  region.shape = instruction.attribute("shape").integers();
  const auto& strides = instruction.attribute("strides").array();
  if (strides.size() != instruction.inputs.size()) instruction.wrong("it needs one list of strides per input");
  for (size_t i = 0; i < strides.size(); ++i) {
    region.inputs.push_back({instruction.inputs[i].dtype, strides[i].integers()});
    if (region.inputs.back().strides.size() != region.shape.size()) instruction.wrong("strides do not fit the region's shape");
    // No element may lie outside of the input.
    int64_t last = 0;
    for (size_t d = 0; d < region.shape.size(); ++d) {
      if (region.inputs.back().strides[d] < 0) instruction.wrong("a stride is negative");
      last += region.inputs.back().strides[d] * (region.shape[d] - 1);
    }
    if (instruction.inputs[i].size > 0 && last >= instruction.inputs[i].size) instruction.wrong("strides leave an input");
  }
  for (const Json& encoded : instruction.attribute("nodes").array()) {
    EwNode node;
    node.op = parse_op(instruction, encoded.at("op").string());
    node.type = parse_dtype(encoded.at("type").string());
    node.number = encoded.number("number", 0);
    node.axis = int32_t(encoded.integer("axis", 0));
    if (encoded.has("operands")) {
      const auto& operands = encoded.at("operands").array();
      if (operands.size() > 3) instruction.wrong("a node has too many operands");
      for (size_t i = 0; i < operands.size(); ++i) node.operand[i] = int32_t(operands[i].integer());
    }
    region.nodes.push_back(node);
  }
  region.reduce_dims = int(instruction.attributes->integer("reduce_dims", 0));
  region.reduce_leading = instruction.attributes->boolean("reduce_leading", false);
  if (region.reduce_dims < 0 || region.reduce_dims > int(region.shape.size())) instruction.wrong("\"reduce_dims\" is out of range");
  int64_t all = 1, kept = 1;
  for (size_t d = 0; d < region.shape.size(); ++d) {
    all *= region.shape[d];
    const bool reduced = region.reduce_leading ? int(d) < region.reduce_dims : int(d) >= int(region.shape.size()) - region.reduce_dims;
    if (!reduced) kept *= region.shape[d];
  }
  const auto& results = instruction.attribute("results").array();
  if (results.size() != instruction.outputs.size()) instruction.wrong("it needs one result per output");
  for (size_t i = 0; i < results.size(); ++i) {
    const EwReduce reduce = parse_reduce(instruction, results[i].string("reduce", "none"));
    const int64_t value = results[i].at("value").integer();
    if (value < 0 || size_t(value) >= region.inputs.size() + region.nodes.size()) instruction.wrong("a result is not a value");
    const DType type = size_t(value) < region.inputs.size() ? region.inputs[size_t(value)].type
                                                            : region.nodes[size_t(value) - region.inputs.size()].type;
    if (type != instruction.outputs[i].dtype) instruction.wrong("a result has another dtype than its output");
    if (instruction.outputs[i].size != (reduce == EwReduce::none ? all : kept)) instruction.wrong("a result has another size than its output");
    region.outputs.push_back({int32_t(value), reduce});
  }
  return run_region(region);
}

}  // namespace

std::vector<KernelEntry> elementwise_kernels() {
  std::vector<KernelEntry> list = {{"fused_elementwise", make_fused}, {"compare", make_single}};
  for (const char* name :
       {"negate",  "abs",     "sign",         "exponential",         "exponential_minus_one",
        "log",     "log_plus_one", "sqrt",    "rsqrt",               "sine",
        "cosine",  "tanh",    "logistic",     "erf",                 "floor",
        "ceil",    "round_nearest_even",      "is_finite",           "not",
        "convert", "gelu",    "gelu_tanh",    "silu",                "gelu_grad",
        "gelu_tanh_grad",     "silu_grad",    "add",                 "subtract",
        "multiply", "divide", "maximum",      "minimum",             "power",
        "remainder", "atan2", "and",          "or",                  "xor",
        "shift_left", "shift_right_logical",  "shift_right_arithmetic", "select",
        "clamp",   "iota",    "random_bits"})
    list.push_back({name, make_single});
  return list;
}

}  // namespace howdah

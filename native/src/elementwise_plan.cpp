// Planning of element-wise regions: types are lowered to 32-bit words, dimensions merged, registers assigned.
#include "elementwise_plan.hpp"

#include <bit>
#include <cstring>
#include <stdexcept>
#include <string>

namespace howdah {

namespace {

struct Name {
  const char* name;
  Ew op;
};

constexpr Name kNames[] = {
    {"negate", Ew::negate},
    {"abs", Ew::abs},
    {"sign", Ew::sign},
    {"exponential", Ew::exponential},
    {"exponential_minus_one", Ew::exponential_minus_one},
    {"log", Ew::log},
    {"log_plus_one", Ew::log_plus_one},
    {"sqrt", Ew::sqrt},
    {"rsqrt", Ew::rsqrt},
    {"sine", Ew::sine},
    {"cosine", Ew::cosine},
    {"tanh", Ew::tanh},
    {"logistic", Ew::logistic},
    {"sigmoid", Ew::logistic},
    {"erf", Ew::erf},
    {"floor", Ew::floor},
    {"ceil", Ew::ceil},
    {"round_nearest_even", Ew::round_nearest_even},
    {"is_finite", Ew::is_finite},
    {"not", Ew::logical_not},
    {"convert", Ew::convert},
    {"bitcast_convert", Ew::bitcast_convert},
    {"gelu", Ew::gelu},
    {"gelu_tanh", Ew::gelu_tanh},
    {"silu", Ew::silu},
    {"add", Ew::add},
    {"subtract", Ew::subtract},
    {"multiply", Ew::multiply},
    {"divide", Ew::divide},
    {"maximum", Ew::maximum},
    {"minimum", Ew::minimum},
    {"power", Ew::power},
    {"remainder", Ew::remainder},
    {"atan2", Ew::atan2},
    {"and", Ew::bit_and},
    {"or", Ew::bit_or},
    {"xor", Ew::bit_xor},
    {"shift_left", Ew::shift_left},
    {"shift_right_logical", Ew::shift_right_logical},
    {"shift_right_arithmetic", Ew::shift_right_arithmetic},
    {"compare_eq", Ew::compare_eq},
    {"compare_ne", Ew::compare_ne},
    {"compare_lt", Ew::compare_lt},
    {"compare_le", Ew::compare_le},
    {"compare_gt", Ew::compare_gt},
    {"compare_ge", Ew::compare_ge},
    {"gelu_grad", Ew::gelu_grad},
    {"gelu_tanh_grad", Ew::gelu_tanh_grad},
    {"silu_grad", Ew::silu_grad},
    {"select", Ew::select},
    {"clamp", Ew::clamp},
    {"constant", Ew::constant},
    {"iota", Ew::iota},
    {"random_bits", Ew::random_bits},
};

int arity(Ew op) {
  if (op < Ew::add) return 1;
  if (op < Ew::select) return 2;
  if (op < Ew::constant) return 3;
  return op == Ew::random_bits ? 1 : 0;
}

bool only_float(Ew op) {
  switch (op) {
    case Ew::exponential:
    case Ew::exponential_minus_one:
    case Ew::log:
    case Ew::log_plus_one:
    case Ew::sqrt:
    case Ew::rsqrt:
    case Ew::sine:
    case Ew::cosine:
    case Ew::tanh:
    case Ew::logistic:
    case Ew::erf:
    case Ew::floor:
    case Ew::ceil:
    case Ew::round_nearest_even:
    case Ew::gelu:
    case Ew::gelu_tanh:
    case Ew::silu:
    case Ew::gelu_grad:
    case Ew::gelu_tanh_grad:
    case Ew::silu_grad:
    case Ew::atan2:
      return true;
    default:
      return false;
  }
}

bool only_integer(Ew op) {
  return op == Ew::logical_not || (op >= Ew::bit_and && op <= Ew::shift_right_arithmetic);
}

[[noreturn]] void malformed(const std::string& what) {
  throw std::invalid_argument("fused_elementwise: " + what);
}

/** A step whose operands are still values (one per input, constant and computed word), not registers. */
struct Step {
  uint16_t code;
  int dst;
  int operand[3] = {-1, -1, -1};
  int32_t immediate = 0;
};

/** Lowers the typed nodes of a region to steps on 32-bit words. */
class Lowering {
 public:
  Lowering(const EwRegion& region, EwPlan& plan) : region_(region), plan_(plan) {
    const size_t rank = region.shape.size();
    for (const EwInput& input : region.inputs) {
      if (input.strides.size() != rank) malformed("an input must have one stride per dimension");
      strides.push_back(input.strides);
      EwPlan::Input planned{};
      planned.source = EwPlan::Source::memory;
      planned.type = input.type;
      planned.argument = static_cast<int32_t>(plan.inputs.size());
      plan.inputs.push_back(planned);
      value_of.push_back(fresh());
      input_of_word.back() = static_cast<int>(plan.inputs.size()) - 1;
      type_of.push_back(input.type);
    }
    for (const EwNode& node : region.nodes) add(node);
    for (const EwOutput& output : region.outputs) {
      if (output.value < 0 || static_cast<size_t>(output.value) >= value_of.size()) malformed("an output is not a value");
    }
  }

  std::vector<Step> steps;
  std::vector<int> value_of;       // word of each value of the region
  std::vector<DType> type_of;      // type of each value
  std::vector<int> input_of_word;  // plan input behind a word, or -1
  std::vector<int> constant_of_word; // index into plan.constants, or -1
  std::vector<std::vector<int64_t>> strides; // of each plan input, over the region's own dimensions
  int words = 0;

 private:
  int fresh() {
    input_of_word.push_back(-1);
    constant_of_word.push_back(-1);
    return words++;
  }

  int constant(uint32_t word) {
    const int value = fresh();
    constant_of_word[value] = static_cast<int>(plan_.constants.size());
    plan_.constants.push_back({-1, word});
    return value;
  }

  int emit(uint16_t code, int a, int b = -1, int c = -1, int32_t immediate = 0) {
    Step step{code, fresh(), {a, b, c}, immediate};
    steps.push_back(step);
    return step.dst;
  }
  int emit(EwStep code, int a) { return emit(static_cast<uint16_t>(code), a); }
  int emit(Ew op, bool integer, int a, int b = -1, int c = -1) {
    return emit(static_cast<uint16_t>(2 * static_cast<int>(op) + integer), a, b, c);
  }

  /** Brings a computed word back into the range or precision of its type. */
  int narrow(int word, DType type) {
    switch (type) {
      case DType::bf16:
        return emit(EwStep::round_bf16, word);
      case DType::f16:
        return emit(EwStep::round_f16, word);
      case DType::u8:
        return emit(EwStep::wrap_u8, word);
      case DType::i8:
        return emit(EwStep::wrap_i8, word);
      default:
        return word;
    }
  }

  int convert(int word, DType from, DType to) {
    if (from == to) return word;
    if (is_float(from)) {
      switch (to) {
        case DType::i32:
          return emit(EwStep::float_to_i32, word);
        case DType::u8:
          return emit(EwStep::float_to_u8, word);
        case DType::i8:
          return emit(EwStep::float_to_i8, word);
        case DType::boolean:
          return emit(EwStep::nonzero_float, word);
        default:
          return narrow(word, to);
      }
    }
    if (is_float(to)) return narrow(emit(EwStep::int_to_float, word), to);
    if (to == DType::boolean) return emit(EwStep::nonzero_int, word);
    return narrow(word, to);
  }

  void add(const EwNode& node) {
    int operand[3] = {-1, -1, -1};
    DType types[3] = {node.type, node.type, node.type};
    for (int i = 0; i < arity(node.op); i++) {
      const int id = node.operand[i];
      if (id < 0 || static_cast<size_t>(id) >= value_of.size()) malformed("an operand is not an earlier value");
      operand[i] = value_of[id];
      types[i] = type_of[id];
    }
    for (int i = 0; i < arity(node.op); i++) {
      const int input = input_of_word[operand[i]];
      if (node.op != Ew::random_bits && input >= 0 && plan_.inputs[input].source == EwPlan::Source::key) malformed("a key is for random_bits only");
    }
    const bool floating = is_float(types[0]);
    if (only_float(node.op) && !floating) malformed("this op needs a float type");
    if (only_integer(node.op) && floating) malformed("this op needs an integer or boolean type");
    if (arity(node.op) == 2 && is_float(types[1]) != floating) malformed("operands of different kinds");
    int word = -1;
    switch (node.op) {
      case Ew::constant:
        if (is_float(node.type)) {
          word = narrow(constant(std::bit_cast<uint32_t>(static_cast<float>(node.number))), node.type);
        } else {
          word = constant(static_cast<uint32_t>(static_cast<int32_t>(node.number)));
        }
        break;
      case Ew::iota: {
        if (node.axis < 0 || static_cast<size_t>(node.axis) >= region_.shape.size()) malformed("iota has no such axis");
        EwPlan::Input input{};
        input.source = EwPlan::Source::iota;
        input.type = DType::i32;
        input.argument = -1;
        plan_.inputs.push_back(input);
        std::vector<int64_t> unit(region_.shape.size(), 0);
        unit[static_cast<size_t>(node.axis)] = 1;
        strides.push_back(unit);
        word = fresh();
        input_of_word[word] = static_cast<int>(plan_.inputs.size()) - 1;
        word = convert(word, DType::i32, node.type);
        break;
      }
      case Ew::random_bits: {
        const int input = input_of_word[operand[0]];
        if (input < 0 || types[0] != DType::i32 || node.type != DType::i32) malformed("random_bits needs an i32 key input");
        plan_.inputs[input].source = EwPlan::Source::key;
        word = emit(static_cast<uint16_t>(2 * static_cast<int>(Ew::random_bits) + 1), -1, -1, -1, input);
        break;
      }
      case Ew::convert:
        word = convert(operand[0], types[0], node.type);
        break;
      case Ew::bitcast_convert:
        if (bytes_of(types[0]) != 4 || bytes_of(node.type) != 4) malformed("bitcast_convert is for 32-bit types");
        word = operand[0]; // a register does not know its type
        break;
      case Ew::is_finite:
        word = floating ? emit(Ew::is_finite, false, operand[0]) : constant(1);
        break;
      case Ew::logical_not:
        word = types[0] == DType::boolean ? emit(Ew::bit_xor, true, operand[0], constant(1))
                                          : narrow(emit(Ew::logical_not, true, operand[0]), node.type);
        break;
      case Ew::select:
        word = emit(Ew::select, false, operand[0], operand[1], operand[2]);
        break;
      case Ew::shift_right_logical: {
        // Only i8 has its sign spread over the word, which must not shift in.
        const int from = types[0] == DType::i8 ? emit(EwStep::wrap_u8, operand[0]) : operand[0];
        word = narrow(emit(node.op, true, from, operand[1]), node.type);
        break;
      }
      case Ew::shift_right_arithmetic: {
        const int from = types[0] == DType::u8 ? emit(EwStep::wrap_i8, operand[0]) : operand[0];
        word = narrow(emit(node.op, true, from, operand[1]), node.type);
        break;
      }
      case Ew::add:
        if (types[0] == DType::boolean) { // or
          word = emit(Ew::bit_or, true, operand[0], operand[1]);
          break;
        }
        [[fallthrough]];
      default: {
        word = emit(node.op, !floating, operand[0], operand[1], operand[2]);
        const bool compares = node.op >= Ew::compare_eq && node.op <= Ew::compare_ge;
        const bool exact = node.op == Ew::maximum || node.op == Ew::minimum || node.op == Ew::clamp;
        if (!compares && !exact) word = narrow(word, node.type);
        if (compares && node.type != DType::boolean) malformed("a comparison gives booleans");
      }
    }
    value_of.push_back(word);
    type_of.push_back(node.type);
  }

  const EwRegion& region_;
  EwPlan& plan_;
};

/** Drops dimensions of size 1 and merges neighbours that every input walks as one. `boundary` must not be merged across. */
void merge_dimensions(const EwRegion& region, const std::vector<std::vector<int64_t>>& strides, size_t boundary, EwPlan& plan) {
  int last = -1; // region dimension behind plan.shape's last entry
  for (size_t d = 0; d < region.shape.size(); d++) {
    const int64_t size = region.shape[d];
    if (size == 1) continue;
    bool merge = last >= 0 && !(static_cast<size_t>(last) < boundary && d >= boundary);
    for (size_t i = 0; merge && i < strides.size(); i++) {
      merge = plan.inputs[i].source == EwPlan::Source::key || plan.inputs[i].strides[plan.dims - 1] == strides[i][d] * size;
    }
    if (merge) {
      plan.shape[plan.dims - 1] *= size;
    } else {
      if (plan.dims == kEwMaxDims) malformed("more than 8 dimensions");
      plan.shape[plan.dims++] = size;
    }
    for (size_t i = 0; i < strides.size(); i++) plan.inputs[i].strides[plan.dims - 1] = strides[i][d];
    last = static_cast<int>(d);
  }
  if (plan.dims == 0) {
    plan.dims = 1;
    plan.shape[0] = 1;
    for (EwPlan::Input& input : plan.inputs) input.strides[0] = 0;
  }
}

/** Rows this long are walked one at a time, so that operands broadcast over rows need no copy. */
constexpr int64_t kRowTile = 128;

void choose_access(EwPlan& plan) {
  bool all_linear = true;
  for (EwPlan::Input& input : plan.inputs) {
    bool uniform = true, linear = true;
    int64_t expected = 1;
    for (int d = plan.dims - 1; d >= 0; d--) {
      if (input.strides[d] != 0 && plan.shape[d] != 1) uniform = false;
      if (input.strides[d] != expected && plan.shape[d] != 1) linear = false;
      expected *= plan.shape[d];
    }
    if (input.source == EwPlan::Source::key) uniform = true, linear = false;
    input.linear = linear;
    input.access = uniform ? EwPlan::Access::uniform : EwPlan::Access::gather;
    if (!uniform && !linear) all_linear = false;
  }
  const int64_t inner = plan.shape[plan.dims - 1];
  plan.row = !all_linear && inner >= kRowTile ? inner : 1;
  for (EwPlan::Input& input : plan.inputs) {
    if (input.access == EwPlan::Access::uniform || input.source != EwPlan::Source::memory) continue;
    if (bytes_of(input.type) != 4) continue;
    if (input.linear || (plan.row > 1 && input.strides[plan.dims - 1] == 1)) input.access = EwPlan::Access::direct;
  }
}

/** Gives each word a register by one walk over the steps, reusing buffers whose word is dead. */
void assign_registers(const EwRegion& region, const Lowering& lowering, EwPlan& plan) {
  const std::vector<Step>& steps = lowering.steps;
  const int end = static_cast<int>(steps.size());
  std::vector<int> last_use(lowering.words, -1);
  for (int s = 0; s < end; s++) {
    for (int operand : steps[s].operand)
      if (operand >= 0) last_use[operand] = s;
  }
  for (const EwOutput& output : region.outputs) last_use[lowering.value_of[output.value]] = end;

  // Memory that an output may overwrite is no longer read after this step.
  int last_memory_read = -1;
  for (int w = 0; w < lowering.words; w++) {
    const int input = lowering.input_of_word[w];
    if (input >= 0 && plan.inputs[input].access != EwPlan::Access::uniform) {
      last_memory_read = last_use[w] > last_memory_read ? last_use[w] : last_memory_read;
    }
  }

  std::vector<int> reg(lowering.words, -1);
  std::vector<int> free;
  int buffers = 0, views = 0;
  const auto take = [&] {
    if (free.empty()) return buffers++;
    const int r = free.back();
    free.pop_back();
    return r;
  };
  constexpr int kView = 1 << 14; // registers without a buffer are numbered from here until the end
  std::vector<int> output_of(lowering.words, -1);
  for (size_t o = 0; o < region.outputs.size(); o++) {
    const int word = lowering.value_of[region.outputs[o].value];
    const DType type = lowering.type_of[region.outputs[o].value];
    const EwOutput& output = region.outputs[o];
    plan.outputs.push_back({type, output.reduce, -1, false});
    if (output.reduce == EwReduce::none && bytes_of(type) == 4 && output_of[word] < 0) output_of[word] = static_cast<int>(o);
  }
  const auto persistent = [&](int word) {
    reg[word] = buffers++;
    return static_cast<int16_t>(reg[word]);
  };
  for (int w = 0; w < lowering.words; w++) {
    if (lowering.constant_of_word[w] >= 0 && last_use[w] >= 0) plan.constants[lowering.constant_of_word[w]].reg = persistent(w);
    const int input = lowering.input_of_word[w];
    if (input < 0) continue;
    plan.inputs[input].reg = -1;
    if (last_use[w] < 0 || plan.inputs[input].source == EwPlan::Source::key) continue;
    if (plan.inputs[input].access == EwPlan::Access::uniform) plan.inputs[input].reg = persistent(w);
  }
  const auto load = [&](int word) {
    if (reg[word] >= 0) return;
    const int input = lowering.input_of_word[word];
    reg[word] = plan.inputs[input].access == EwPlan::Access::direct ? kView + views++ : take();
    plan.inputs[input].reg = static_cast<int16_t>(reg[word]);
    EwMicro micro{static_cast<uint16_t>(EwStep::load), static_cast<int16_t>(reg[word]), {-1, -1, -1}, input};
    plan.steps.push_back(micro);
  };
  const auto release = [&](int word) {
    if (reg[word] < kView && lowering.constant_of_word[word] < 0 &&
        (lowering.input_of_word[word] < 0 || plan.inputs[lowering.input_of_word[word]].access != EwPlan::Access::uniform)) {
      free.push_back(reg[word]);
    }
  };
  for (int s = 0; s < end; s++) {
    const Step& step = steps[s];
    if (last_use[step.dst] < 0) continue; // dead
    for (int operand : step.operand)
      if (operand >= 0) load(operand);
    for (int i = 0; i < 3; i++) {
      const int operand = step.operand[i];
      bool repeated = false;
      for (int j = 0; j < i; j++) repeated |= step.operand[j] == operand;
      if (operand >= 0 && !repeated && last_use[operand] == s) release(operand); // a step may write over its operand
    }
    const int o = output_of[step.dst];
    if (o >= 0 && s >= last_memory_read) {
      reg[step.dst] = kView + views++;
      plan.outputs[o].in_place = true;
    } else {
      reg[step.dst] = take();
    }
    EwMicro micro{step.code, static_cast<int16_t>(reg[step.dst]), {-1, -1, -1}, step.immediate};
    for (int i = 0; i < 3; i++)
      if (step.operand[i] >= 0) micro.operand[i] = static_cast<int16_t>(reg[step.operand[i]]);
    plan.steps.push_back(micro);
  }
  for (size_t o = 0; o < region.outputs.size(); o++) {
    const int word = lowering.value_of[region.outputs[o].value];
    load(word);
    plan.outputs[o].reg = static_cast<int16_t>(reg[word]);
  }
  // Views follow the buffers.
  const auto renumber = [&](int16_t& r) {
    if (r >= kView) r = static_cast<int16_t>(r - kView + buffers);
  };
  for (EwPlan::Input& input : plan.inputs) renumber(input.reg);
  for (EwPlan::Output& output : plan.outputs) renumber(output.reg);
  for (EwMicro& micro : plan.steps) {
    renumber(micro.dst);
    for (int16_t& operand : micro.operand) renumber(operand);
  }
  plan.buffers = buffers;
  plan.registers = buffers + views;
  // The live registers and the tiles of the operands in memory should share a 32 KiB first-level cache.
  plan.lanes = plan.registers <= 6 ? 1024 : plan.registers <= 14 ? 512 : 256;
}

} // namespace

int elementwise_op(const char* name) {
  for (const Name& entry : kNames)
    if (std::strcmp(entry.name, name) == 0) return static_cast<int>(entry.op);
  return -1;
}

std::shared_ptr<const EwPlan> plan_elementwise(const EwRegion& region) {
  auto plan = std::make_shared<EwPlan>();
  const int rank = static_cast<int>(region.shape.size());
  for (const EwOutput& output : region.outputs) plan->has_reduction |= output.reduce != EwReduce::none;
  if (region.reduce_dims < 0 || region.reduce_dims > rank) malformed("more reduced dimensions than dimensions");
  const Lowering lowering(region, *plan);
  const int boundary = region.reduce_leading ? region.reduce_dims : rank - region.reduce_dims;
  merge_dimensions(region, lowering.strides, plan->has_reduction ? static_cast<size_t>(boundary) : 0, *plan);
  for (int d = 0; d < rank; d++) {
    plan->total *= region.shape[d];
    ((d < boundary) == region.reduce_leading ? plan->reduced : plan->kept) *= region.shape[d];
  }
  if (plan->has_reduction) plan->leading = region.reduce_leading && plan->kept > 1;
  choose_access(*plan);
  for (const EwOutput& output : region.outputs) {
    // An input handed on as a result is copied before another result may overwrite its memory.
    const int input = lowering.input_of_word[lowering.value_of[output.value]];
    if (input < 0 || region.outputs.size() < 2) continue;
    EwPlan::Access& access = plan->inputs[input].access;
    if (access == EwPlan::Access::direct) access = EwPlan::Access::gather;
  }
  if (lowering.words >= 4096) malformed("too many nodes");
  assign_registers(region, lowering, *plan);
  return plan;
}

} // namespace howdah

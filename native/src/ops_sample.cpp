// sample_token: its inputs and outputs as a program names them.
#include "program.hpp"
#include "sample.hpp"

namespace howdah {
namespace {

/** sample_token(logits, token, position, settings, history?) -> token, position, measures, history? */
Kernel make_sample_token(Instruction& instruction) {
  const bool history = instruction.inputs.size() == 5;
  if ((!history && instruction.inputs.size() != 4) || instruction.outputs.size() != (history ? 4u : 3u))
    instruction.wrong("it takes 4 inputs and gives 3 outputs, or one more of each");
  const TensorType& logits = instruction.input(0);
  if (logits.dtype != DType::f32 || logits.rank() != 2 || logits.dim(1) == 0) instruction.wrong("logits must be f32 (rows, classes)");
  const int64_t rows = logits.dim(0), classes = logits.dim(1);
  auto check = [&](const TensorType& type, DType dtype, int64_t size) {
    if (type.dtype != dtype || type.size != size) instruction.wrong(describe(type) + " does not fit the logits");
  };
  check(instruction.input(1), DType::i32, rows);
  check(instruction.input(2), DType::i32, rows);
  check(instruction.input(3), DType::i32, rows * SampleSettings::words);
  check(instruction.output(0), DType::i32, rows);
  check(instruction.output(1), DType::i32, rows);
  check(instruction.output(2), DType::f32, rows * 2);
  int64_t longest = 0;
  if (history) {
    if (instruction.input(4).rank() != 2) instruction.wrong("the history must be (rows, longest)");
    longest = instruction.input(4).dim(1);
    check(instruction.input(4), DType::i32, rows * longest);
    check(instruction.output(3), DType::i32, rows * longest);
  }
  return [=](const Call& call) {
    SampleArgs a{};
    a.rows = rows, a.classes = classes;
    a.logits = call.input<float>(0);
    a.token = call.input<int32_t>(1);
    a.position = call.input<int32_t>(2);
    a.settings = call.input<int32_t>(3);
    a.next = call.output<int32_t>(0);
    a.next_position = call.output<int32_t>(1);
    a.measures = call.output<float>(2);
    if (history) a.longest = longest, a.history = call.input<int32_t>(4), a.history_out = call.output<int32_t>(3);
    sample_token(a);
  };
}

}  // namespace

std::vector<KernelEntry> sample_kernels() { return {{"sample_token", make_sample_token}}; }

}  // namespace howdah

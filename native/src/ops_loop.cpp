#include <algorithm>
#include <cstring>

#include "executor.hpp"

namespace howdah {
namespace {

/**
 * Carried values of a loop: two buffers each that take turns, or the output's own buffer where the body updates in place. What the body may write
 * over is the loop's own from the start, so initial values stay what they are for whoever else reads them.
 */
struct Carries {
  std::vector<int64_t> bytes;
  std::vector<bool> in_place, written;
  std::vector<int64_t> offsets[2];

  Carries(Instruction& instruction, const Executable& body, size_t count) {
    for (size_t i = 0; i < count; ++i) {
      bytes.push_back(instruction.output(i).bytes);
      bool shared = false;
      for (const auto& [output, input] : body.aliases()) shared |= output == int64_t(i) && input == int64_t(i);
      in_place.push_back(shared);
      written.push_back(body.writes_input(i));
      for (auto& turn : offsets) turn.push_back(shared ? 0 : instruction.reserve(bytes.back()));
    }
  }

  void* buffer(const Call& call, size_t i, int turn) const {
    return in_place[i] ? call.out[i] : static_cast<void*>(call.workspace + offsets[turn][i]);
  }

  /** Fills `current` with the initial values: read where they are, unless the body will write over them. The first turn is 0. */
  void start(const Call& call, const std::vector<size_t>& sources, std::vector<void*>& current) const {
    current.resize(bytes.size());
    for (size_t i = 0; i < bytes.size(); ++i) {
      current[i] = call.in[sources[i]];
      if (!in_place[i] && !written[i]) continue;
      void* own = buffer(call, i, 1);
      if (own != current[i]) std::memcpy(own, current[i], size_t(bytes[i]));
      current[i] = own;
    }
  }

  void finish(const Call& call, const std::vector<void*>& current) const {
    for (size_t i = 0; i < bytes.size(); ++i)
      if (call.out[i] != current[i]) std::memcpy(call.out[i], current[i], size_t(bytes[i]));
  }
};

void same_types(const Instruction& instruction, const char* what, const std::vector<TensorType>& got, size_t from,
                const std::vector<TensorType>& wanted, size_t wanted_from, size_t count) {
  if (got.size() < from + count || wanted.size() < wanted_from + count) instruction.wrong(std::string(what) + ": values are missing");
  for (size_t i = 0; i < count; ++i) {
    const TensorType& a = got[from + i];
    const TensorType& b = wanted[wanted_from + i];
    if (a.dtype != b.dtype || a.shape != b.shape)
      instruction.wrong(std::string(what) + ": " + describe(a) + " where " + describe(b) + " is carried");
  }
}

/** StableHLO `while`: programs [condition, body]; inputs are the initial carries, outputs the final ones. */
Kernel make_while(Instruction& instruction) {
  if (instruction.programs.size() != 2) instruction.wrong("it needs a condition and a body");
  const auto condition = instruction.programs[0], body = instruction.programs[1];
  const size_t count = instruction.outputs.size();
  if (instruction.inputs.size() != count || condition->inputs().size() != count || body->inputs().size() != count ||
      body->outputs().size() != count)
    instruction.wrong("condition, body and results must take the same carried values");
  same_types(instruction, "initial values", instruction.inputs, 0, instruction.outputs, 0, count);
  same_types(instruction, "inputs of the condition", condition->inputs(), 0, instruction.outputs, 0, count);
  same_types(instruction, "inputs of the body", body->inputs(), 0, instruction.outputs, 0, count);
  same_types(instruction, "results of the body", body->outputs(), 0, instruction.outputs, 0, count);
  if (condition->outputs().size() != 1 || condition->outputs()[0].dtype != DType::boolean || condition->outputs()[0].size != 1)
    instruction.wrong("the condition must give one bool");

  const Carries carries(instruction, *body, count);
  const int64_t flag = instruction.reserve(1);
  const int64_t stack = instruction.reserve(std::max(condition->stack_bytes(), body->stack_bytes()));
  std::vector<size_t> sources(count);
  for (size_t i = 0; i < count; ++i) sources[i] = i;
  return [=, current = std::vector<void*>(), next = std::vector<void*>(count)](const Call& call) mutable {
    carries.start(call, sources, current);
    void* verdict = call.workspace + flag;
    for (int turn = 0;; turn ^= 1) {
      condition->run(current.data(), &verdict, call.workspace + stack);
      if (!*static_cast<const uint8_t*>(verdict)) break;
      for (size_t i = 0; i < count; ++i) next[i] = carries.buffer(call, i, turn);
      body->run(current.data(), next.data(), call.workspace + stack);
      std::swap(current, next);
    }
    carries.finish(call, current);
  };
}

/**
 * `scan` {length, carries, invariants, reverse}: the body takes carries, one step's slices of the xs, invariants, and gives carries
 * and one step's slices of the ys, which are stacked along axis 0.
 */
Kernel make_scan(Instruction& instruction) {
  if (instruction.programs.size() != 1) instruction.wrong("it needs one body");
  const auto body = instruction.programs[0];
  const int64_t length = instruction.attribute("length").integer();
  const size_t count = size_t(instruction.attribute("carries").integer());
  const size_t invariants = size_t(instruction.attributes->integer("invariants", 0));
  const bool reverse = instruction.attributes->boolean("reverse", false);
  if (length < 0 || instruction.inputs.size() < count + invariants || instruction.outputs.size() < count)
    instruction.wrong("length, carries and invariants do not fit its values");
  const size_t xs = instruction.inputs.size() - count - invariants, ys = instruction.outputs.size() - count;
  if (body->inputs().size() != instruction.inputs.size() || body->outputs().size() != instruction.outputs.size())
    instruction.wrong("the body takes or gives another number of values");
  same_types(instruction, "initial values", instruction.inputs, 0, instruction.outputs, 0, count);
  same_types(instruction, "carries into the body", body->inputs(), 0, instruction.outputs, 0, count);
  same_types(instruction, "carries out of the body", body->outputs(), 0, instruction.outputs, 0, count);
  same_types(instruction, "invariants", body->inputs(), count + xs, instruction.inputs, count + xs, invariants);
  std::vector<int64_t> x_bytes, y_bytes;
  auto step_bytes = [&](const TensorType& whole, const TensorType& slice) {
    if (whole.dtype != slice.dtype || whole.size != slice.size * length)
      instruction.wrong(describe(whole) + " is not " + std::to_string(length) + " slices of " + describe(slice));
    return slice.bytes;
  };
  for (size_t i = 0; i < xs; ++i) x_bytes.push_back(step_bytes(instruction.inputs[count + i], body->inputs()[count + i]));
  for (size_t i = 0; i < ys; ++i) y_bytes.push_back(step_bytes(instruction.outputs[count + i], body->outputs()[count + i]));

  const Carries carries(instruction, *body, count);
  const int64_t stack = instruction.reserve(body->stack_bytes());
  std::vector<size_t> sources(count);
  for (size_t i = 0; i < count; ++i) sources[i] = i;
  const size_t inputs = instruction.inputs.size(), outputs = instruction.outputs.size();
  return [=, current = std::vector<void*>(), in = std::vector<void*>(inputs), out = std::vector<void*>(outputs)](
             const Call& call) mutable {
    carries.start(call, sources, current);
    for (size_t i = count + xs; i < inputs; ++i) in[i] = call.in[i];
    for (int64_t t = 0; t < length; ++t) {
      const int64_t at = reverse ? length - 1 - t : t;
      for (size_t i = 0; i < count; ++i) {
        in[i] = current[i];
        // The last step of several writes the result where it belongs; with a single one the initial value may lie there.
        out[i] = t + 1 == length && length > 1 ? call.out[i] : carries.buffer(call, i, int(t & 1));
      }
      for (size_t i = 0; i < xs; ++i) in[count + i] = static_cast<std::byte*>(call.in[count + i]) + at * x_bytes[i];
      for (size_t i = 0; i < ys; ++i) out[count + i] = static_cast<std::byte*>(call.out[count + i]) + at * y_bytes[i];
      body->run(in.data(), out.data(), call.workspace + stack);
      for (size_t i = 0; i < count; ++i) current[i] = out[i];
    }
    carries.finish(call, current);
  };
}

}  // namespace

std::vector<KernelEntry> loop_kernels() { return {{"while", make_while}, {"scan", make_scan}}; }

}  // namespace howdah

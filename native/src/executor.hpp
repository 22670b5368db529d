#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "program.hpp"

namespace howdah {

/** Where an operand lies when the program runs. */
struct Location {
  enum class Space : uint8_t { input, output, constant, arena } space;
  int64_t index;  // position, or byte offset into the arena
};

/** A program decoded into a flat list of ready kernels. Run on the executor thread only. */
class Executable {
 public:
  /** `constants` are those of the whole tree of programs; each program names its own by position in this list. */
  static std::shared_ptr<Executable> compile(const Json& program, const std::vector<BlockRef>& constants, bool bf16_matmul);

  /** Bytes of stack that a run needs: arena, workspaces of kernels, and those of loop bodies. */
  int64_t stack_bytes() const { return stack_bytes_; }
  const std::vector<TensorType>& inputs() const { return inputs_; }
  const std::vector<TensorType>& outputs() const { return outputs_; }
  /** `[output, input]` pairs that share a buffer. */
  const std::vector<std::pair<int64_t, int64_t>>& aliases() const { return aliases_; }
  /** Whether an instruction writes to the buffer of that input. */
  bool writes_input(size_t index) const { return written_inputs_[index]; }

  void run(void* const* inputs, void* const* outputs, std::byte* stack);

  /** Nanoseconds and calls per instruction, bodies of loops after their loop, in program order. */
  struct Counter {
    std::string op, scope;
    int64_t nanoseconds, calls;
  };
  /** When an instruction ran; `number` counts instructions as read_profile lists them. */
  struct Event {
    int64_t number, start, end;  // nanoseconds of the steady clock
  };
  /** Counters start at zero. With `trace`, the times of single calls are kept as well, up to a million of them. */
  void profile(bool on, bool trace);
  void read_profile(std::vector<Counter>& into) const;
  const std::vector<Event>& trace() const { return events_; }

 private:
  struct Step {
    Kernel kernel;
    std::vector<Location> in_locations, out_locations;
    std::vector<void*> in, out;
    std::string op, scope;
    std::vector<std::shared_ptr<Executable>> programs;
    int64_t nanoseconds = 0, calls = 0;
    int64_t number = 0;
    /** Bytes of the packed weights that it reads, and the weights of the next step that reads some. */
    int64_t weight_bytes = 0;
    /** Where on the stack the kernel's workspace lies. */
    int64_t workspace = 0;
    Location ahead{};
    int64_t ahead_bytes = 0;
  };
  struct Copy {
    Location from;
    int64_t output, bytes;
  };

  std::vector<Step> steps_;
  std::vector<Copy> copies_;
  std::vector<BlockRef> constants_;
  std::vector<TensorType> inputs_, outputs_;
  std::vector<std::pair<int64_t, int64_t>> aliases_;
  std::vector<bool> written_inputs_;
  int64_t stack_bytes_ = 0;
  bool profiling_ = false;
  std::vector<Event> events_;
  /** Where events go: those of loop bodies to the outermost program; null without a trace. */
  std::vector<Event>* sink_ = nullptr;

  void profile(bool on, std::vector<Event>* sink, int64_t& number);
};

/**
 * Appends a job to the process-wide queue; jobs run in order on one thread, with denormals flushed to zero. Jobs must not throw.
 * The thread starts with the first job and ends with the process.
 */
void enqueue(std::function<void()> job);

/** The executor thread's own stack for programs, at least `bytes` long; grows, and is kept. Executor thread only. */
std::byte* program_stack(int64_t bytes);
/** Gives the program stack back. Executor thread only. */
void drop_program_stack();

}  // namespace howdah

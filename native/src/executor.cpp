#include "executor.hpp"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <unordered_map>

#include "error.hpp"
#include "pool.hpp"

namespace howdah {
namespace {

constexpr int64_t kAlignment = 64;
constexpr size_t kMostEvents = 1 << 20;

int64_t nanoseconds_now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

int64_t align_up(int64_t bytes) { return (bytes + kAlignment - 1) & ~(kAlignment - 1); }

TensorType parse_type(const Json& value) {
  TensorType type{parse_dtype(value.at("dtype").string()), value.at("shape").integers(), 1, 0};
  if (type.rank() > kMaxRank) fail("The native backend handles at most ", kMaxRank, " dimensions, got ", describe(type), ".");
  for (const int64_t n : type.shape) {
    if (n < 0) fail("A dimension is negative in ", describe(type), ".");
    if (n > 0 && type.size > (int64_t{1} << 46) / n) fail("A tensor is too large for any memory: ", describe(type), ".");
    type.size *= n;
  }
  type.bytes = type.size * bytes_of(type.dtype);
  return type;
}

Location parse_location(const Json& storage, int64_t bytes, int64_t inputs, int64_t outputs, int64_t constants, int64_t arena) {
  const std::string& kind = storage.at("kind").string();
  const bool in_arena = kind == "arena";
  const int64_t index = storage.at(in_arena ? "offset" : "index").integer();
  auto check = [&](int64_t end, int64_t limit) {
    if (index < 0 || end > limit) fail("A value's storage lies outside the program's ", kind, " storage.");
  };
  if (kind == "input") return check(index + 1, inputs), Location{Location::Space::input, index};
  if (kind == "output") return check(index + 1, outputs), Location{Location::Space::output, index};
  if (kind == "constant") return check(index + 1, constants), Location{Location::Space::constant, index};
  if (!in_arena) fail("Unknown kind of storage \"", kind, "\".");
  if (index % kAlignment != 0) fail("An arena offset is not a multiple of ", kAlignment, ".");
  check(index + bytes, arena);
  return {Location::Space::arena, index};
}

}  // namespace

namespace {

/** Bytes of the arena that hold a value from one instruction to another, both included. */
struct Held {
  int64_t offset, bytes;
  size_t first, last;
};

/** What an instruction reads and writes in the arena, and how much workspace its kernel wants. */
struct Needs {
  std::vector<Held> reads, writes;
  int64_t workspace = 0;
};

/**
 * Finds each workspace a place on the stack where no value lies while its instruction runs: in a hole of the arena, or from the last such
 * value on, past the arena's end if need be. @returns the size of the stack
 */
int64_t place_workspaces(const std::vector<Needs>& needs, const std::vector<Held>& outputs, int64_t arena, std::vector<int64_t>& places) {
  std::vector<Held> held;
  // A view begins where what it shows begins, so the last value written there is the one that is read.
  std::unordered_map<int64_t, size_t> latest;
  const auto read = [&](const Held& r, size_t at) {
    const auto [found, is_new] = latest.try_emplace(r.offset, held.size());
    if (is_new) held.push_back({r.offset, r.bytes, 0, at});
    held[found->second].last = at;
    held[found->second].bytes = std::max(held[found->second].bytes, r.bytes);
  };
  for (size_t i = 0; i < needs.size(); ++i) {
    for (const Held& r : needs[i].reads) read(r, i);
    for (const Held& w : needs[i].writes) {
      latest[w.offset] = held.size();
      held.push_back({w.offset, w.bytes, i, i});
    }
  }
  for (const Held& o : outputs) read(o, needs.size());

  int64_t stack = arena;
  places.assign(needs.size(), arena);
  for (size_t i = 0; i < needs.size(); ++i) {
    const int64_t wanted = align_up(needs[i].workspace);
    if (wanted == 0) continue;
    std::vector<std::pair<int64_t, int64_t>> taken;
    for (const Held& h : held)
      if (h.first <= i && i <= h.last) taken.emplace_back(h.offset, align_up(h.offset + h.bytes));
    std::sort(taken.begin(), taken.end());
    int64_t place = 0;
    for (const auto& [from, to] : taken) {
      if (place + wanted <= from) break;
      place = std::max(place, to);
    }
    places[i] = place;
    stack = std::max(stack, place + wanted);
  }
  return stack;
}

}  // namespace

std::shared_ptr<Executable> Executable::compile(const Json& program, const std::vector<BlockRef>& constants, bool bf16_matmul) {
  auto made = std::make_shared<Executable>();
  const std::vector<int64_t> input_ids = program.at("inputs").integers();
  const std::vector<int64_t> output_ids = program.at("outputs").integers();
  const int64_t arena_bytes = program.at("arenaBytes").integer();
  if (arena_bytes < 0) fail("A program's arena has a negative size.");
  for (const int64_t position : program.at("constants").integers()) {
    if (position < 0 || size_t(position) >= constants.size()) fail("A constant of the program is missing.");
    made->constants_.push_back(constants[size_t(position)]);
  }

  std::vector<TensorType> types;
  std::vector<Location> locations;
  for (const Json& value : program.at("values").array()) {
    types.push_back(parse_type(value));
    locations.push_back(parse_location(value.at("storage"), types.back().bytes, int64_t(input_ids.size()), int64_t(output_ids.size()),
                                       int64_t(made->constants_.size()), arena_bytes));
    const Location where = locations.back();
    if (where.space == Location::Space::constant && int64_t(made->constants_[size_t(where.index)]->bytes) < types.back().bytes)
      fail("A constant holds fewer bytes than its value ", describe(types.back()), ".");
  }
  auto at = [&](int64_t id) {
    if (id < 0 || size_t(id) >= types.size()) fail("A program names a value that it does not have.");
    return size_t(id);
  };

  for (const int64_t id : input_ids) made->inputs_.push_back(types[at(id)]);
  made->written_inputs_.resize(input_ids.size());
  for (size_t i = 0; i < output_ids.size(); ++i) {
    const size_t id = at(output_ids[i]);
    made->outputs_.push_back(types[id]);
    // An output that is an input, a constant or another output is copied at the end.
    if (locations[id].space != Location::Space::output || locations[id].index != int64_t(i))
      made->copies_.push_back({locations[id], int64_t(i), types[id].bytes});
  }
  // Values that live in the buffers of arguments must fit there.
  for (size_t id = 0; id < types.size(); ++id) {
    const Location where = locations[id];
    const int64_t room = where.space == Location::Space::input    ? made->inputs_[size_t(where.index)].bytes
                         : where.space == Location::Space::output ? made->outputs_[size_t(where.index)].bytes
                                                                  : types[id].bytes;
    if (types[id].bytes > room) fail("A value ", describe(types[id]), " does not fit the argument that it shares storage with.");
  }
  for (const Json& pair : program.at("aliases").array()) {
    const std::vector<int64_t> ids = pair.integers();
    if (ids.size() != 2 || ids[0] < 0 || ids[1] < 0 || size_t(ids[0]) >= output_ids.size() || size_t(ids[1]) >= input_ids.size())
      fail("A program's alias names an argument that it does not have.");
    made->aliases_.emplace_back(ids[0], ids[1]);
  }

  const auto in_arena = [](std::vector<Held>& to, const Location& where, int64_t bytes) {
    if (where.space == Location::Space::arena && bytes > 0) to.push_back({where.index, bytes, 0, 0});
  };
  std::vector<Needs> needs;
  for (const Json& encoded : program.at("instructions").array()) {
    Instruction instruction;
    instruction.op = encoded.at("op").string();
    instruction.scope = encoded.string("scope", "");
    instruction.attributes = &encoded["attributes"];
    instruction.bf16_matmul = bf16_matmul;
    Step step;
    Needs& wants = needs.emplace_back();
    step.op = instruction.op;
    step.scope = instruction.scope;
    for (const int64_t id : encoded.at("inputs").integers()) {
      instruction.inputs.push_back(types[at(id)]);
      step.in_locations.push_back(locations[at(id)]);
      in_arena(wants.reads, locations[at(id)], types[at(id)].bytes);
    }
    for (const int64_t id : encoded.at("outputs").integers()) {
      instruction.outputs.push_back(types[at(id)]);
      step.out_locations.push_back(locations[at(id)]);
      in_arena(wants.writes, locations[at(id)], types[at(id)].bytes);
      // Inputs may be written to: a donated one serves as storage once it has been read for the last time.
      const Location to = locations[at(id)];
      if (to.space == Location::Space::constant) instruction.wrong("it would write to a constant");
      if (to.space == Location::Space::input) made->written_inputs_[size_t(to.index)] = true;
    }
    if (encoded.has("programs"))
      for (const Json& body : encoded.at("programs").array()) step.programs.push_back(compile(body, constants, bf16_matmul));
    instruction.programs = step.programs;
    const KernelMaker make = find_kernel(instruction.op);
    if (!make) instruction.wrong("the native backend has no such kernel");
    try {
      step.kernel = make(instruction);
    } catch (const Error& error) {
      const std::string message = error.what();
      if (message.rfind("The native kernel", 0) == 0) throw;
      instruction.wrong(message);
    } catch (const std::invalid_argument& error) {
      instruction.wrong(error.what());
    }
    step.in.resize(step.in_locations.size());
    step.out.resize(step.out_locations.size());
    if (instruction.op == "quantized_linear") step.weight_bytes = instruction.inputs[1].bytes;
    wants.workspace = instruction.workspace_bytes;
    made->steps_.push_back(std::move(step));
  }
  // What a product by packed weights reads can be on its way while the steps before it run; after the last one, what the next run begins with.
  Location ahead{};
  int64_t ahead_bytes = 0;
  for (size_t turn = 0; turn < 2; ++turn)
    for (size_t i = made->steps_.size(); i-- > 0;) {
      Step& step = made->steps_[i];
      if (ahead_bytes > 0) step.ahead = ahead, step.ahead_bytes = ahead_bytes;
      if (step.op != "quantized_linear") continue;
      ahead = step.in_locations[1];
      ahead_bytes = step.weight_bytes;
    }
  std::vector<Held> kept;
  for (const int64_t id : output_ids) in_arena(kept, locations[at(id)], types[at(id)].bytes);
  std::vector<int64_t> places;
  made->stack_bytes_ = place_workspaces(needs, kept, align_up(arena_bytes), places);
  for (size_t i = 0; i < places.size(); ++i) made->steps_[i].workspace = places[i];
  return made;
}

void Executable::run(void* const* inputs, void* const* outputs, std::byte* stack) {
  auto resolve = [&](const Location& where) -> void* {
    switch (where.space) {
      case Location::Space::input: return inputs[where.index];
      case Location::Space::output: return outputs[where.index];
      case Location::Space::constant: return constants_[size_t(where.index)]->data;
      case Location::Space::arena: return stack + where.index;
    }
    return nullptr;
  };
  for (Step& step : steps_) {
    for (size_t i = 0; i < step.in.size(); ++i) step.in[i] = resolve(step.in_locations[i]);
    for (size_t i = 0; i < step.out.size(); ++i) step.out[i] = resolve(step.out_locations[i]);
    const Call call{step.in.data(), step.out.data(), stack + step.workspace};
    if (step.ahead_bytes > 0) fetch_when_idle(resolve(step.ahead), step.ahead_bytes);
    if (!profiling_) {
      step.kernel(call);
      continue;
    }
    const int64_t start = nanoseconds_now();
    step.kernel(call);
    const int64_t end = nanoseconds_now();
    step.nanoseconds += end - start;
    if (sink_ && sink_->size() < kMostEvents) sink_->push_back({step.number, start, end});
    step.calls += 1;
  }
  // Inputs are copied out first: an output that shares a donated input's buffer may overwrite it.
  for (const bool from_input : {true, false})
    for (const Copy& copy : copies_) {
      if ((copy.from.space == Location::Space::input) != from_input) continue;
      const void* from = resolve(copy.from);
      if (from != outputs[copy.output]) std::memcpy(outputs[copy.output], from, size_t(copy.bytes));
    }
}

void Executable::profile(bool on, bool trace) {
  events_.clear();
  int64_t number = 0;
  profile(on, on && trace ? &events_ : nullptr, number);
}

void Executable::profile(bool on, std::vector<Event>* sink, int64_t& number) {
  profiling_ = on;
  sink_ = sink;
  for (Step& step : steps_) {
    step.nanoseconds = step.calls = 0;
    step.number = number++;
    for (const auto& body : step.programs) body->profile(on, sink, number);
  }
}

void Executable::read_profile(std::vector<Counter>& into) const {
  for (const Step& step : steps_) {
    into.push_back({step.op, step.scope, step.nanoseconds, step.calls});
    for (const auto& body : step.programs) body->read_profile(into);
  }
}

namespace {

struct Queue {
  std::mutex mutex;
  std::condition_variable ready;
  std::deque<std::function<void()>> jobs;

  Queue() {
    std::thread([this] { loop(); }).detach();
  }

  void loop() {
    const FlushDenormals flush;
    while (true) {
      std::function<void()> job;
      {
        std::unique_lock lock(mutex);
        ready.wait(lock, [&] { return !jobs.empty(); });
        job = std::move(jobs.front());
        jobs.pop_front();
      }
      job();
    }
  }
};

BlockRef& stack_block() {
  static BlockRef* block = new BlockRef;
  return *block;
}

}  // namespace

void enqueue(std::function<void()> job) {
  // Never destroyed: the thread may be inside a kernel when the process exits.
  static Queue* queue = new Queue;
  {
    std::lock_guard lock(queue->mutex);
    queue->jobs.push_back(std::move(job));
  }
  queue->ready.notify_one();
}

std::byte* program_stack(int64_t bytes) {
  BlockRef& block = stack_block();
  if (!block || int64_t(block->capacity) < bytes) {
    block = BlockRef();
    block = allocate(size_t(bytes));
  }
  return static_cast<std::byte*>(block->data);
}

void drop_program_stack() { stack_block() = BlockRef(); }

}  // namespace howdah

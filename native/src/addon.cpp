// The boundary to JavaScript: plain Node-API, so that one binary serves all Node versions. Tensors are numbers here: the handle of a
// slot in a table of this environment, with a generation, so that a stale handle is an error and never a wild pointer.
#include <node_api.h>

#include <cstring>
#include <deque>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "addon_text.hpp"
#include "error.hpp"
#include "executor.hpp"
#include "handles.hpp"
#include "isa.hpp"
#include "json.hpp"
#include "memory.hpp"
#include "napi_failure.hpp"
#include "pool.hpp"
#include "probe.hpp"

#if defined(_WIN32)
#include <windows.h>
#else
#include <dlfcn.h>
#endif

namespace howdah {
namespace {

/** A promise to be settled on the JavaScript thread. */
struct Settlement {
  napi_deferred deferred;
  napi_ref target;  // the array that was being filled, or null
  bool failed;
  std::string message;
};

/** What the executor thread shares with one JavaScript environment; outlives it while jobs are queued. */
struct Channel {
  /** Held while the executor writes into JavaScript's memory, and while the environment closes. */
  std::mutex writing;
  bool closed = false;
  std::mutex mutex;
  std::deque<Settlement> settled;
  napi_threadsafe_function wake = nullptr;
  /** The first failure that nobody has been told of yet. Executor thread only. */
  std::shared_ptr<const std::string> failure;
};

struct Bound;

struct Environment {
  std::shared_ptr<Channel> channel = std::make_shared<Channel>();
  Handles<BlockRef> buffers;
  int64_t live_bytes = 0;
  Handles<std::shared_ptr<Executable>> executables;
  Handles<std::shared_ptr<Bound>> bounds;
  int64_t pending = 0;
};

/** Node-API calls that can only fail when the environment is going down. */
void check(napi_status status) {
  if (status != napi_ok) fail("Node-API refused a call (status ", int(status), ").");
}

Environment& environment(napi_env env) {
  void* data = nullptr;
  check(napi_get_instance_data(env, &data));
  if (!data) fail("The native backend was closed.");
  return *static_cast<Environment*>(data);
}

struct Arguments {
  napi_env env;
  napi_value values[4] = {};
  size_t count = 4;

  Arguments(napi_env e, napi_callback_info info) : env(e) { check(napi_get_cb_info(env, info, &count, values, nullptr, nullptr)); }

  double number(size_t i) const {
    double out = 0;
    if (i >= count || napi_get_value_double(env, values[i], &out) != napi_ok) fail("Argument ", int(i), " should be a number.");
    return out;
  }
  bool boolean(size_t i) const {
    bool out = false;
    if (i >= count || napi_get_value_bool(env, values[i], &out) != napi_ok) fail("Argument ", int(i), " should be true or false.");
    return out;
  }
  std::string string(size_t i) const {
    size_t length = 0;
    if (i >= count || napi_get_value_string_utf8(env, values[i], nullptr, 0, &length) != napi_ok)
      fail("Argument ", int(i), " should be a string.");
    std::string out(length, '\0');
    check(napi_get_value_string_utf8(env, values[i], out.data(), length + 1, &length));
    return out;
  }
  /** A typed array's memory. */
  std::pair<void*, size_t> bytes(size_t i) const {
    bool is_typed = false;
    if (i >= count || napi_is_typedarray(env, values[i], &is_typed) != napi_ok || !is_typed)
      fail("Argument ", int(i), " should be a typed array.");
    napi_typedarray_type type;
    size_t length = 0, offset = 0;
    void* data = nullptr;
    napi_value buffer;
    check(napi_get_typedarray_info(env, values[i], &type, &length, &data, &buffer, &offset));
    size_t width = 1;
    switch (type) {
      case napi_int16_array:
      case napi_uint16_array: width = 2; break;
      case napi_int32_array:
      case napi_uint32_array:
      case napi_float32_array: width = 4; break;
      case napi_float64_array:
      case napi_bigint64_array:
      case napi_biguint64_array: width = 8; break;
      default: break;
    }
    return {data, length * width};
  }
  /** A Float64Array of handles. */
  std::pair<const double*, size_t> handles(size_t i) const {
    const auto [data, length] = bytes(i);
    return {static_cast<const double*>(data), length / sizeof(double)};
  }
};

napi_value number(napi_env env, double x) {
  napi_value out;
  check(napi_create_double(env, x, &out));
  return out;
}

napi_value text(napi_env env, const std::string& x) {
  napi_value out;
  check(napi_create_string_utf8(env, x.data(), x.size(), &out));
  return out;
}

void set(napi_env env, napi_value object, const char* name, napi_value value) {
  check(napi_set_named_property(env, object, name, value));
}

constexpr const char* who = "The native backend";

using Body = napi_value (*)(const Arguments&);

/** Turns C++ exceptions into JavaScript ones. */
template <Body body>
napi_value guarded(napi_env env, napi_callback_info info) {
  napi_value result = nullptr;
  const auto failure = failure_of(who, [&] { result = body(Arguments(env, info)); });
  if (!failure) return result;
  napi_throw_error(env, nullptr, failure->c_str());
  return nullptr;
}

// --- Promises ------------------------------------------------------------------------------------------------------------------------

/** Runs on the JavaScript thread: settles what the executor has finished. */
void settle(napi_env env, napi_value, void* context, void*) {
  if (!env) return;
  auto& channel = *static_cast<Channel*>(context);
  std::deque<Settlement> ready;
  {
    std::lock_guard lock(channel.mutex);
    ready.swap(channel.settled);
  }
  void* data = nullptr;
  napi_get_instance_data(env, &data);
  auto* state = static_cast<Environment*>(data);
  for (Settlement& item : ready) {
    napi_value result = nullptr;
    if (item.target) {
      napi_get_reference_value(env, item.target, &result);
      napi_delete_reference(env, item.target);
    }
    if (item.failed) {
      reject(env, item.deferred, item.message);
    } else {
      if (!result) napi_get_undefined(env, &result);
      napi_resolve_deferred(env, item.deferred, result);
    }
    // Waiting results keep the process alive; a queue that nobody waits for does not.
    if (state && --state->pending == 0) napi_unref_threadsafe_function(env, channel.wake);
  }
}

/** Queues a job whose outcome settles a promise. `job` may write into `target`'s memory; it is not called once the environment closed. */
napi_value promise(const Arguments& arguments, napi_value target, std::function<void()> job) {
  Environment& state = environment(arguments.env);
  napi_deferred deferred;
  napi_value result;
  check(napi_create_promise(arguments.env, &deferred, &result));
  napi_ref reference = nullptr;
  if (target) check(napi_create_reference(arguments.env, target, 1, &reference));
  if (state.pending++ == 0) check(napi_ref_threadsafe_function(arguments.env, state.channel->wake));
  enqueue([channel = state.channel, deferred, reference, job = std::move(job)] {
    std::lock_guard writing(channel->writing);
    if (channel->closed) return;
    Settlement item{deferred, reference, false, {}};
    // A failed run is told of once, by whatever waits first.
    if (channel->failure) {
      item.failed = true;
      item.message = *std::exchange(channel->failure, nullptr);
    } else {
      try {
        job();
      } catch (const std::exception& error) {
        item.failed = true;
        item.message = error.what();
      }
    }
    {
      std::lock_guard lock(channel->mutex);
      channel->settled.push_back(std::move(item));
    }
    napi_call_threadsafe_function(channel->wake, nullptr, napi_tsfn_nonblocking);
  });
  return result;
}

// --- Buffers -------------------------------------------------------------------------------------------------------------------------

double adopt(Environment& state, BlockRef block) {
  state.live_bytes += int64_t(block->bytes);
  return state.buffers.add(std::move(block));
}

/** allocate(bytes) -> handle */
napi_value js_allocate(const Arguments& arguments) {
  const double bytes = arguments.number(0);
  if (!(bytes >= 0 && bytes <= 9007199254740992.0)) fail("A size in bytes must not be negative.");
  return number(arguments.env, adopt(environment(arguments.env), allocate(size_t(bytes))));
}

/** upload(array) -> handle; the array is copied before this returns. */
napi_value js_upload(const Arguments& arguments) {
  const auto [data, bytes] = arguments.bytes(0);
  BlockRef block = allocate(bytes);
  if (bytes) std::memcpy(block->data, data, bytes);
  return number(arguments.env, adopt(environment(arguments.env), std::move(block)));
}

/** write(handle, at, array): the array is copied to byte `at` before this returns. Nothing queued may use the buffer. */
napi_value js_write(const Arguments& arguments) {
  const BlockRef block = environment(arguments.env).buffers.get(arguments.number(0));
  const double at = arguments.number(1);
  const auto [data, bytes] = arguments.bytes(2);
  if (!(at >= 0 && at + double(bytes) <= double(block->bytes)))
    fail("A write of ", bytes, " bytes at ", at >= 0 ? size_t(at) : 0, " into a buffer of ", block->bytes, ".");
  if (bytes) std::memcpy(static_cast<std::byte*>(block->data) + size_t(at), data, bytes);
  return nullptr;
}

/** release(handle): queued work that uses the buffer still finishes. */
napi_value js_release(const Arguments& arguments) {
  Environment& state = environment(arguments.env);
  const BlockRef block = state.buffers.take(arguments.number(0));
  state.live_bytes -= int64_t(block->bytes);
  return nullptr;
}

/** download(handle, array): a promise of the array, filled after everything queued before it. */
napi_value js_download(const Arguments& arguments) {
  BlockRef block = environment(arguments.env).buffers.get(arguments.number(0));
  const auto [data, bytes] = arguments.bytes(1);
  if (bytes > block->bytes) fail("A download of ", bytes, " bytes from a buffer of ", block->bytes, ".");
  return promise(arguments, arguments.values[1], [block, data = data, bytes = bytes] {
    if (block->failure) throw Error(*block->failure);
    if (bytes) std::memcpy(data, block->data, bytes);
  });
}

/** sync(): a promise kept when everything queued before it is done. */
napi_value js_sync(const Arguments& arguments) {
  return promise(arguments, nullptr, [] {});
}

// --- Programs ------------------------------------------------------------------------------------------------------------------------

/** A list of typed arrays, copied. */
std::vector<BlockRef> constants_of(const Arguments& arguments) {
  std::vector<BlockRef> constants;
  uint32_t count = 0;
  check(napi_get_array_length(arguments.env, arguments.values[1], &count));
  for (uint32_t i = 0; i < count; ++i) {
    Arguments item = arguments;
    item.count = 1;
    check(napi_get_element(arguments.env, arguments.values[1], i, &item.values[0]));
    const auto [data, bytes] = item.bytes(0);
    constants.push_back(allocate(bytes));
    if (bytes) std::memcpy(constants.back()->data, data, bytes);
  }
  return constants;
}

/** compile(program as JSON, [constants], bf16) -> handle */
napi_value js_compile(const Arguments& arguments) {
  const Json program = Json::parse(arguments.string(0));
  return number(arguments.env, environment(arguments.env).executables.add(
                                   Executable::compile(program, constants_of(arguments), arguments.boolean(2))));
}

/** A program that is being made outside of the JavaScript thread. */
struct Making {
  std::string program;
  std::vector<BlockRef> constants;
  bool bf16;
  napi_deferred deferred = nullptr;
  napi_async_work work = nullptr;
  std::shared_ptr<Executable> made;
  std::optional<std::string> failure;

  void make() {
    failure = failure_of(who, [&] { made = Executable::compile(Json::parse(program), constants, bf16); });
  }
  /** On the JavaScript thread. */
  void settle(napi_env env, napi_status status) {
    napi_delete_async_work(env, work);
    void* data = nullptr;
    napi_get_instance_data(env, &data);
    // Nobody waits any more where the environment is going down.
    if (status != napi_ok || !data) return;
    if (failure) return reject(env, deferred, *failure);
    napi_value result = nullptr;
    napi_create_double(env, static_cast<Environment*>(data)->executables.add(std::move(made)), &result);
    napi_resolve_deferred(env, deferred, result);
  }
};

/** compileLater(program as JSON, [constants], bf16): a promise of what compile gives. */
napi_value js_compile_later(const Arguments& arguments) {
  napi_env env = arguments.env;
  environment(env);
  auto making = std::make_unique<Making>(Making{arguments.string(0), constants_of(arguments), arguments.boolean(2)});
  check(napi_create_async_work(
      env, nullptr, text(env, "howdah compile"), [](napi_env, void* data) { static_cast<Making*>(data)->make(); },
      [](napi_env e, napi_status status, void* data) { std::unique_ptr<Making>(static_cast<Making*>(data))->settle(e, status); },
      making.get(), &making->work));
  napi_value result;
  check(napi_create_promise(env, &making->deferred, &result));
  check(napi_queue_async_work(env, making->work));
  making.release();
  return result;
}

napi_value js_release_executable(const Arguments& arguments) {
  // Kernels and constants go when the last queued run is done, on the executor thread.
  enqueue([last = environment(arguments.env).executables.take(arguments.number(0))]() mutable { last.reset(); });
  return nullptr;
}

/** A program with the buffers that it reads and writes. */
struct Bound {
  std::shared_ptr<Executable> executable;
  std::vector<BlockRef> inputs, outputs;
  std::vector<void*> in, out;
};

/** (handle, Float64Array of input handles, Float64Array of output handles) */
std::shared_ptr<Bound> bound_of(const Arguments& arguments) {
  Environment& state = environment(arguments.env);
  auto bound = std::make_shared<Bound>();
  bound->executable = state.executables.get(arguments.number(0));
  auto collect = [&](size_t argument, const std::vector<TensorType>& wanted, const char* what, std::vector<BlockRef>& blocks, std::vector<void*>& data) {
    const auto [handles, count] = arguments.handles(argument);
    if (count != wanted.size()) fail("A program with ", wanted.size(), " ", what, "s was given ", count, ".");
    blocks.reserve(count), data.reserve(count);
    for (size_t i = 0; i < count; ++i) {
      blocks.push_back(state.buffers.get(handles[i]));
      data.push_back(blocks.back()->data);
      if (int64_t(blocks.back()->bytes) < wanted[i].bytes)
        fail("The buffer of ", what, " ", i, " holds ", blocks.back()->bytes, " bytes, but ", describe(wanted[i]), " needs ",
             wanted[i].bytes, ".");
    }
  };
  collect(1, bound->executable->inputs(), "input", bound->inputs, bound->in);
  collect(2, bound->executable->outputs(), "output", bound->outputs, bound->out);
  return bound;
}

/** Queues a run of a bound program. */
void queue(const Environment& state, std::shared_ptr<Bound> given) {
  enqueue([channel = state.channel, bound = std::move(given)] {
    std::shared_ptr<const std::string> failure;
    for (const BlockRef& block : bound->inputs)
      if (block->failure && !failure) failure = block->failure;
    if (!failure) {
      const auto message = failure_of(who, [&] {
        bound->executable->run(bound->in.data(), bound->out.data(), program_stack(bound->executable->stack_bytes()));
      });
      if (message) {
        failure = std::make_shared<const std::string>(*message);
        if (!channel->failure) channel->failure = failure;
      }
    }
    for (const BlockRef& block : bound->outputs)
      if (failure || block->failure) block->failure = failure;
  });
}

/** run(handle, Float64Array of input handles, Float64Array of output handles): queues and returns. */
napi_value js_run(const Arguments& arguments) {
  queue(environment(arguments.env), bound_of(arguments));
  return nullptr;
}

/** bind(handle, Float64Array of input handles, Float64Array of output handles) -> handle */
napi_value js_bind(const Arguments& arguments) {
  return number(arguments.env, environment(arguments.env).bounds.add(bound_of(arguments)));
}

/** runBound(handle): queues and returns. */
napi_value js_run_bound(const Arguments& arguments) {
  Environment& state = environment(arguments.env);
  queue(state, state.bounds.get(arguments.number(0)));
  return nullptr;
}

/** releaseBound(handle): queued runs still finish. */
napi_value js_release_bound(const Arguments& arguments) {
  enqueue([last = environment(arguments.env).bounds.take(arguments.number(0))]() mutable { last.reset(); });
  return nullptr;
}

/** profile(handle, on, trace): takes effect for runs queued later; counters and trace start empty. */
napi_value js_profile(const Arguments& arguments) {
  enqueue([executable = environment(arguments.env).executables.get(arguments.number(0)), on = arguments.boolean(1),
           trace = arguments.boolean(2)] {
    executable->profile(on, trace);
    record_busy(on && trace);
  });
  return nullptr;
}

napi_value array_of(napi_env env, const std::vector<double>& numbers) {
  napi_value buffer, array;
  void* data = nullptr;
  check(napi_create_arraybuffer(env, numbers.size() * sizeof(double), &data, &buffer));
  if (!numbers.empty()) std::memcpy(data, numbers.data(), numbers.size() * sizeof(double));
  check(napi_create_typedarray(env, napi_float64_array, numbers.size(), buffer, 0, &array));
  return array;
}

/** readTrace(handle) -> Float64Array of (instruction, start, end), nanoseconds of the steady clock; call after sync(). */
napi_value js_read_trace(const Arguments& arguments) {
  std::vector<double> numbers;
  for (const Executable::Event& event : environment(arguments.env).executables.get(arguments.number(0))->trace())
    numbers.insert(numbers.end(), {double(event.number), double(event.start), double(event.end)});
  return array_of(arguments.env, numbers);
}

/** readBusy() -> Float64Array of (thread, start, end): when the pool's threads worked; call after sync(). */
napi_value js_read_busy(const Arguments& arguments) {
  std::vector<double> numbers;
  for (const Busy& busy : recorded_busy()) numbers.insert(numbers.end(), {double(busy.thread), double(busy.start), double(busy.end)});
  return array_of(arguments.env, numbers);
}

/** readProfile(handle) -> [{op, scope, nanoseconds, calls}]; call after sync(). */
napi_value js_read_profile(const Arguments& arguments) {
  std::vector<Executable::Counter> counters;
  environment(arguments.env).executables.get(arguments.number(0))->read_profile(counters);
  napi_value list;
  check(napi_create_array_with_length(arguments.env, counters.size(), &list));
  for (size_t i = 0; i < counters.size(); ++i) {
    napi_value item;
    check(napi_create_object(arguments.env, &item));
    set(arguments.env, item, "op", text(arguments.env, counters[i].op));
    set(arguments.env, item, "scope", text(arguments.env, counters[i].scope));
    set(arguments.env, item, "nanoseconds", number(arguments.env, double(counters[i].nanoseconds)));
    set(arguments.env, item, "calls", number(arguments.env, double(counters[i].calls)));
    check(napi_set_element(arguments.env, list, uint32_t(i), item));
  }
  return list;
}

// --- Facts ---------------------------------------------------------------------------------------------------------------------------

napi_value js_memory(const Arguments& arguments) {
  const Environment& state = environment(arguments.env);
  const MemoryStats stats = memory_stats();
  napi_value out;
  check(napi_create_object(arguments.env, &out));
  set(arguments.env, out, "liveBuffers", number(arguments.env, double(state.buffers.count())));
  set(arguments.env, out, "liveBytes", number(arguments.env, double(state.live_bytes)));
  set(arguments.env, out, "usedBytes", number(arguments.env, double(stats.live_bytes)));
  set(arguments.env, out, "peakBytes", number(arguments.env, double(stats.peak_bytes)));
  set(arguments.env, out, "cachedBytes", number(arguments.env, double(stats.cached_bytes)));
  return out;
}

napi_value js_reset_peak(const Arguments&) {
  reset_peak();
  return nullptr;
}

/** trim(): gives cached memory back to the system, the program stack too once the queue is done. */
napi_value js_trim(const Arguments&) {
  enqueue([] {
    drop_program_stack();
    trim();
  });
  return nullptr;
}

napi_value js_supports(const Arguments& arguments) {
  napi_value out;
  check(napi_get_boolean(arguments.env, find_kernel(arguments.string(0)) != nullptr, &out));
  return out;
}

/** facts() -> {isa, threads, bf16, isas, caches} */
napi_value js_facts(const Arguments& arguments) {
  napi_env env = arguments.env;
  napi_value out, isas, caches, bf16;
  check(napi_create_object(env, &out));
  set(env, out, "isa", text(env, isa_name(isa())));
  set(env, out, "threads", number(env, thread_count()));
  check(napi_get_boolean(env, has_bf16_dot(), &bf16));
  set(env, out, "bf16", bf16);
  check(napi_create_array(env, &isas));
  uint32_t count = 0;
  for (const Isa one : {Isa::portable, Isa::neon, Isa::avx2, Isa::avx512, Isa::avx512bf16})
    if (isa_available(one)) check(napi_set_element(env, isas, count++, text(env, isa_name(one))));
  set(env, out, "available", isas);
  check(napi_create_object(env, &caches));
  set(env, caches, "l1", number(env, double(cache_sizes().l1)));
  set(env, caches, "l2", number(env, double(cache_sizes().l2)));
  set(env, caches, "l3", number(env, double(cache_sizes().l3)));
  set(env, out, "caches", caches);
  return out;
}

/** probe(kind, seconds, Float64Array of one): a promise of the array, with the machine's best rate in it (probe.hpp). */
napi_value js_probe(const Arguments& arguments) {
  const std::string name = arguments.string(0);
  const Probe kind = name == "f32" ? Probe::f32 : name == "bf16" ? Probe::bf16 : Probe::read;
  if (kind == Probe::read && name != "read") fail("There is no probe \"", name, "\": f32, bf16 or read.");
  const double seconds = arguments.number(1);
  const auto [data, bytes] = arguments.bytes(2);
  if (bytes != sizeof(double)) fail("A probe fills an array of one number.");
  return promise(arguments, arguments.values[2], [kind, seconds, data = data] { *static_cast<double*>(data) = probe(kind, seconds); });
}

/** Other threads of this library live as long as the process, so it must never be unloaded (as happens when a worker thread ends). */
void stay_loaded() {
  // Linux links with -z nodelete as well; this covers macOS and Windows.
#if defined(_WIN32)
  HMODULE self;
  GetModuleHandleExA(GET_MODULE_HANDLE_EX_FLAG_PIN | GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS, reinterpret_cast<LPCSTR>(&stay_loaded), &self);
#else
  Dl_info info;
  if (dladdr(reinterpret_cast<void*>(&stay_loaded), &info)) dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_NODELETE);
#endif
}

void close(void* data) {
  auto* state = static_cast<Environment*>(data);
  {
    // Waits for a download that is being copied; later ones see `closed` and leave JavaScript's memory alone.
    std::lock_guard writing(state->channel->writing);
    state->channel->closed = true;
  }
  napi_release_threadsafe_function(state->channel->wake, napi_tsfn_abort);
  state->buffers.clear();
  state->executables.clear();
  state->bounds.clear();
}

void initialise(napi_env env, napi_value exports) {
  stay_loaded();
  auto* state = new Environment;
  check(napi_set_instance_data(env, state, [](napi_env, void* data, void*) { delete static_cast<Environment*>(data); }, nullptr));
  // The context outlives the function: the finalizer drops this reference.
  auto* shared = new std::shared_ptr<Channel>(state->channel);
  check(napi_create_threadsafe_function(
      env, nullptr, nullptr, text(env, "howdah"), 0, 1, shared,
      [](napi_env, void* data, void*) { delete static_cast<std::shared_ptr<Channel>*>(data); }, state->channel.get(), settle,
      &state->channel->wake));
  check(napi_unref_threadsafe_function(env, state->channel->wake));
  check(napi_add_env_cleanup_hook(env, close, state));

  const std::pair<const char*, napi_callback> functions[] = {
      {"allocate", guarded<js_allocate>},   {"upload", guarded<js_upload>},
      {"write", guarded<js_write>},
      {"release", guarded<js_release>},     {"download", guarded<js_download>},
      {"sync", guarded<js_sync>},           {"compile", guarded<js_compile>},
      {"compileLater", guarded<js_compile_later>},
      {"bind", guarded<js_bind>},           {"runBound", guarded<js_run_bound>},
      {"releaseBound", guarded<js_release_bound>},
      {"run", guarded<js_run>},             {"releaseExecutable", guarded<js_release_executable>},
      {"profile", guarded<js_profile>},     {"readProfile", guarded<js_read_profile>},
      {"memory", guarded<js_memory>},       {"resetPeak", guarded<js_reset_peak>},
      {"trim", guarded<js_trim>},           {"supports", guarded<js_supports>},
      {"facts", guarded<js_facts>},         {"probe", guarded<js_probe>},
      {"readTrace", guarded<js_read_trace>}, {"readBusy", guarded<js_read_busy>},
  };
  for (const auto& [name, callback] : functions) {
    napi_value function;
    check(napi_create_function(env, name, NAPI_AUTO_LENGTH, callback, nullptr, &function));
    set(env, exports, name, function);
  }
  register_text(env, exports);
}

napi_value start(napi_env env, napi_value exports) {
  try {
    initialise(env, exports);
  } catch (const std::exception& error) {
    napi_throw_error(env, nullptr, error.what());
  }
  return exports;
}

}  // namespace
}  // namespace howdah

NAPI_MODULE_INIT() { return howdah::start(env, exports); }

// What tokenizers need of the addon. A model or a trainer is an external value that JavaScript's garbage collector releases; long work
// runs on Node's worker threads and threads of its own, and settles a promise. Arrays handed to such work must not be written to before then.
#include "addon_text.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "error.hpp"
#include "napi_failure.hpp"
#include "pool.hpp"
#include "text_bpe.hpp"
#include "text_pieces.hpp"
#include "text_scan.hpp"
#include "text_train.hpp"
#include "text_train_unigram.hpp"

namespace howdah {
namespace {

using namespace text;

constexpr napi_type_tag model_tag = {0x686f776461686270, 0x656d6f64656c0001};
constexpr napi_type_tag pieces_tag = {0x686f776461686270, 0x7069656365730001};
constexpr napi_type_tag trainer_tag = {0x686f776461686270, 0x65747261696e0001};

void check(napi_status status) {
  if (status != napi_ok) fail("Node-API refused a call (status ", int(status), ").");
}

struct Call {
  napi_env env;
  napi_value values[8] = {};
  size_t count = 8;

  Call(napi_env e, napi_callback_info info) : env(e) { check(napi_get_cb_info(env, info, &count, values, nullptr, nullptr)); }

  double number(size_t i) const {
    double out = 0;
    if (i >= count || napi_get_value_double(env, values[i], &out) != napi_ok) fail("Argument ", int(i), " should be a number.");
    return out;
  }

  /** A typed array of one kind: its memory and its length. */
  template <class T>
  std::pair<const T*, size_t> array(size_t i) const {
    constexpr napi_typedarray_type wanted = std::is_same_v<T, uint8_t>    ? napi_uint8_array
                                            : std::is_same_v<T, uint32_t> ? napi_uint32_array
                                                                          : napi_float64_array;
    napi_typedarray_type type;
    size_t length = 0;
    void* data = nullptr;
    if (i >= count || napi_get_typedarray_info(env, values[i], &type, &length, &data, nullptr, nullptr) != napi_ok || type != wanted)
      fail("Argument ", int(i), " is not the typed array expected there.");
    return {static_cast<const T*>(data), length};
  }

  /** Where documents end: ascending, the last one at the text's end or before. */
  std::pair<const double*, size_t> ends(size_t i, size_t size) const {
    const auto [at, n] = array<double>(i);
    double before = 0;
    for (size_t d = 0; d < n; d++) {
      if (!(at[d] >= before && at[d] <= double(size))) fail("The end of document ", int(d), " is out of order.");
      before = at[d];
    }
    return {at, n};
  }

  template <class T>
  std::shared_ptr<T> object(size_t i, const napi_type_tag& tag) const {
    bool is = false;
    void* data = nullptr;
    if (i >= count || napi_check_object_type_tag(env, values[i], &tag, &is) != napi_ok || !is ||
        napi_get_value_external(env, values[i], &data) != napi_ok)
      fail("Argument ", int(i), " is not what this function works on.");
    return *static_cast<std::shared_ptr<T>*>(data);
  }
};

template <class T>
napi_value external(napi_env env, std::shared_ptr<T> object, const napi_type_tag& tag) {
  auto* held = new std::shared_ptr<T>(std::move(object));
  napi_value out;
  check(napi_create_external(
      env, held, [](napi_env, void* data, void*) { delete static_cast<std::shared_ptr<T>*>(data); }, nullptr, &out));
  check(napi_type_tag_object(env, out, &tag));
  return out;
}

constexpr const char* who = "The tokenizer";

using Body = napi_value (*)(const Call&);

template <Body body>
napi_value guarded(napi_env env, napi_callback_info info) {
  napi_value result = nullptr;
  const auto failure = failure_of(who, [&] { result = body(Call(env, info)); });
  if (!failure) return result;
  napi_throw_error(env, nullptr, failure->c_str());
  return nullptr;
}

napi_value typed_array(napi_env env, napi_typedarray_type type, const void* data, size_t count, size_t width) {
  void* to = nullptr;
  napi_value buffer, out;
  check(napi_create_arraybuffer(env, count * width, &to, &buffer));
  if (count) std::memcpy(to, data, count * width);
  check(napi_create_typedarray(env, type, count, buffer, 0, &out));
  return out;
}

/** A Uint32Array that owns memory from malloc. */
napi_value adopt_ids(napi_env env, Encoded& encoded) {
  if (encoded.count < 4096) return typed_array(env, napi_uint32_array, encoded.ids, encoded.count, 4);
  napi_value buffer, out;
  void* const ids = std::exchange(encoded.ids, nullptr);
  const napi_status status = napi_create_external_arraybuffer(
      env, ids, encoded.count * 4, [](napi_env, void* data, void*) { std::free(data); }, nullptr, &buffer);
  if (status == napi_no_external_buffers_allowed) {
    std::unique_ptr<void, decltype(&std::free)> owned(ids, &std::free);
    return typed_array(env, napi_uint32_array, ids, encoded.count, 4);
  }
  check(status);
  check(napi_create_typedarray(env, napi_uint32_array, encoded.count, buffer, 0, &out));
  return out;
}

void set(napi_env env, napi_value object, const char* name, napi_value value) {
  check(napi_set_named_property(env, object, name, value));
}

int threads_of(double asked) {
  return asked >= 1 ? int(std::min(asked, 256.0)) : thread_count();
}

/** Work away from the JavaScript thread: `work` there, `finish` back on it to make the promise's value. */
struct Task {
  std::function<void()> work;
  std::function<napi_value(napi_env)> finish;
  napi_deferred deferred = nullptr;
  napi_async_work handle = nullptr;
  std::vector<napi_ref> pinned;
  std::optional<std::string> failure;
};

napi_value promise(const Call& call, std::initializer_list<size_t> pinned, std::function<void()> work,
                   std::function<napi_value(napi_env)> finish) {
  napi_env env = call.env;
  auto task = std::make_unique<Task>();
  task->work = std::move(work);
  task->finish = std::move(finish);
  napi_value out, name;
  check(napi_create_promise(env, &task->deferred, &out));
  for (const size_t i : pinned) {
    napi_ref reference;
    check(napi_create_reference(env, call.values[i], 1, &reference));
    task->pinned.push_back(reference);
  }
  check(napi_create_string_utf8(env, "howdah tokenizer", NAPI_AUTO_LENGTH, &name));
  check(napi_create_async_work(
      env, nullptr, name,
      [](napi_env, void* data) {
        auto* t = static_cast<Task*>(data);
        t->failure = failure_of(who, t->work);
      },
      [](napi_env e, napi_status status, void* data) {
        const std::unique_ptr<Task> t(static_cast<Task*>(data));
        for (const napi_ref reference : t->pinned) napi_delete_reference(e, reference);
        napi_delete_async_work(e, t->handle);
        napi_value value = nullptr;
        if (status != napi_ok) t->failure = "The tokenizer's work was cancelled.";
        if (!t->failure) t->failure = failure_of(who, [&] { value = t->finish(e); });
        if (t->failure) reject(e, t->deferred, *t->failure);
        else napi_resolve_deferred(e, t->deferred, value);
      },
      task.get(), &task->handle));
  check(napi_queue_async_work(env, task->handle));
  task.release();
  return out;
}

napi_value undefined(napi_env env) {
  napi_value out;
  check(napi_get_undefined(env, &out));
  return out;
}

Pattern pattern_of(double number) {
  if (!(number >= 0 && number < pattern_count)) fail("There is no splitting pattern with that number.");
  return Pattern(int(number));
}

/** textClasses(Uint8Array): the flags of each code point; before anything else here. */
napi_value js_classes(const Call& call) {
  const auto [flags, count] = call.array<uint8_t>(0);
  set_classes(flags, count);
  return nullptr;
}

/** bpeCreate(pattern, byteIds, merges, wholeBytes, wholeEnds, wholeIds) -> model */
napi_value js_bpe_create(const Call& call) {
  BpeParts parts{};
  parts.pattern = pattern_of(call.number(0));
  const auto [byte_ids, bytes] = call.array<uint32_t>(1);
  if (bytes != 256) fail("There are ", bytes, " byte ids, not 256.");
  parts.byte_ids = byte_ids;
  const auto [merges, numbers] = call.array<uint32_t>(2);
  parts.merges = merges;
  parts.merge_count = numbers / 4;
  const auto [whole, whole_size] = call.array<uint8_t>(3);
  const auto [ends, whole_count] = call.array<uint32_t>(4);
  const auto [ids, id_count] = call.array<uint32_t>(5);
  if (whole_count != id_count || (whole_count && ends[whole_count - 1] > whole_size)) fail("The whole tokens do not fit together.");
  parts.whole_bytes = whole;
  parts.whole_ends = ends;
  parts.whole_ids = ids;
  parts.whole_count = whole_count;
  return external(call.env, std::make_shared<BpeModel>(parts), model_tag);
}

/**
 * piecesCreate(settings, text, ends, ids, scores, merges, bytes, map) -> model. The settings are kind, shape, unknown (-1: none), fuse, single,
 * splitAtSpace, dummyPrefix, removeExtra, mostCharacters, unknownScore, tokens, firsts, words, stripLeft, stripRight, spaces; the rest is as in PieceParts.
 */
napi_value js_pieces_create(const Call& call) {
  const auto [settings, count] = call.array<double>(0);
  if (count != 16) fail("There are ", count, " settings, not 16.");
  PieceParts parts{};
  if (!(settings[0] >= 0 && settings[0] <= 2 && settings[1] >= 0 && settings[1] <= 3 && settings[15] >= 0 && settings[15] <= 2)) fail("There is no such kind of model.");
  parts.kind = PieceKind(int(settings[0]));
  parts.shape = Shape(int(settings[1]));
  parts.unknown = settings[2] < 0 ? kNone : uint32_t(settings[2]);
  parts.fuse = settings[3] != 0;
  parts.single = settings[4] != 0;
  parts.split_at_space = settings[5] != 0;
  parts.dummy_prefix = settings[6] != 0;
  parts.remove_extra = settings[7] != 0;
  parts.most_characters = size_t(settings[8]);
  parts.unknown_score = settings[9];
  parts.tokens = uint32_t(settings[10]);
  parts.firsts = size_t(settings[11]);
  parts.words = settings[12] != 0;
  parts.strip_left = settings[13] != 0;
  parts.strip_right = settings[14] != 0;
  parts.spaces = Spaces(int(settings[15]));
  const auto [text, size] = call.array<uint8_t>(1);
  const auto [ends, strings] = call.ends(2, size);
  const auto [ids, id_count] = call.array<uint32_t>(3);
  if (id_count != strings) fail("There are ", strings, " strings and ", id_count, " ids.");
  const auto [scores, score_count] = call.array<double>(4);
  const auto [merges, numbers] = call.array<uint32_t>(5);
  const auto [bytes, byte_count] = call.array<uint32_t>(6);
  const auto [map, map_size] = call.array<uint8_t>(7);
  parts.text = text;
  parts.ends = ends;
  parts.ids = ids;
  parts.count = strings;
  parts.scores = scores;
  parts.score_count = score_count;
  parts.merges = merges;
  parts.merge_count = numbers / 4;
  parts.bytes = bytes;
  parts.byte_count = byte_count;
  parts.map = map;
  parts.map_size = map_size;
  return external(call.env, std::make_shared<PieceModel>(parts), pieces_tag);
}

/** bpeEncode(model, bytes) and piecesEncode(model, bytes) -> Uint32Array, at once */
template <class Model, const napi_type_tag& tag>
napi_value js_encode(const Call& call) {
  const auto model = call.object<Model>(0, tag);
  const auto [text, size] = call.array<uint8_t>(1);
  thread_local std::vector<uint32_t> ids;
  ids.clear();
  model->encode(text, size, ids);
  napi_value out = typed_array(call.env, napi_uint32_array, ids.data(), ids.size(), 4);
  if (ids.capacity() > (1u << 20)) ids = {};
  return out;
}

/** bpeEncodeMany(model, bytes, ends, threads) and piecesEncodeMany -> promise of an array of Uint32Arrays, one a document */
template <class Model, const napi_type_tag& tag>
napi_value js_encode_many(const Call& call) {
  const auto model = call.object<Model>(0, tag);
  const auto [text, size] = call.array<uint8_t>(1);
  const auto [ends, documents] = call.ends(2, size);
  const int threads = threads_of(call.number(3));
  auto encoded = std::make_shared<Encoded>();
  return promise(
      call, {1, 2},
      [=, text = text, ends = ends, documents = documents] { model->encode_many(text, ends, documents, threads, *encoded); },
      [encoded](napi_env env) {
        const std::vector<double>& ends = encoded->ends;
        napi_value out;
        check(napi_create_array_with_length(env, ends.size(), &out));
        if (ends.size() == 1) {
          check(napi_set_element(env, out, 0, adopt_ids(env, *encoded)));
          return out;
        }
        // Arrays of their own, so that keeping one text's ids does not keep those of the others.
        size_t begin = 0;
        for (size_t d = 0; d < ends.size(); d++) {
          napi_handle_scope scope;
          check(napi_open_handle_scope(env, &scope));
          const size_t end = size_t(ends[d]);
          check(napi_set_element(env, out, uint32_t(d), typed_array(env, napi_uint32_array, encoded->ids + begin, end - begin, 4)));
          check(napi_close_handle_scope(env, scope));
          begin = end;
        }
        return out;
      });
}

napi_value number(napi_env env, double value) {
  napi_value out;
  check(napi_create_double(env, value, &out));
  return out;
}

/** trainer(cut, pattern, memory, folder, table) -> trainer. The table is BERT's (src/tokenizers/native-pieces.ts). */
napi_value js_trainer(const Call& call) {
  const double cut = call.number(0);
  if (!(cut >= 0 && cut <= 2)) fail("There is no way to cut text with that number.");
  const auto [folder, length] = call.array<uint8_t>(3);
  const auto [table, size] = call.array<uint8_t>(4);
  return external(call.env,
                  std::make_shared<Trainer>(Cut(int(cut)), pattern_of(call.number(1)), uint64_t(call.number(2)),
                                            std::string(reinterpret_cast<const char*>(folder), length), table, size),
                  trainer_tag);
}

std::shared_ptr<Trainer> trainer_of(const Call& call) { return call.object<Trainer>(0, trainer_tag); }

/** trainerCount(trainer, bytes, ends, threads) -> promise. One at a time for each trainer. */
napi_value js_trainer_count(const Call& call) {
  const auto trainer = trainer_of(call);
  const auto [text, size] = call.array<uint8_t>(1);
  const auto [ends, documents] = call.ends(2, size);
  const int threads = threads_of(call.number(3));
  return promise(
      call, {1, 2}, [=, text = text, ends = ends, documents = documents] { trainer->count(text, ends, documents, threads); },
      [](napi_env env) { return undefined(env); });
}

/** trainerCountWords(trainer, bytes, ends, counts) -> promise: words cut in JavaScript. */
napi_value js_trainer_count_words(const Call& call) {
  const auto trainer = trainer_of(call);
  const auto [text, size] = call.array<uint8_t>(1);
  const auto [ends, words] = call.ends(2, size);
  const auto [counts, n] = call.array<double>(3);
  if (n != words) fail("There are ", words, " words and ", n, " counts.");
  return promise(
      call, {1, 2, 3}, [=, text = text, ends = ends, words = words, counts = counts] { trainer->count_words(text, ends, counts, words); },
      [](napi_env env) { return undefined(env); });
}

/** trainerGather(trainer) -> promise of { distinct, kept, spilled, points, counts, inner }: ends the counting. */
napi_value js_trainer_gather(const Call& call) {
  const auto trainer = trainer_of(call);
  auto gathered = std::make_shared<std::pair<Gathered, std::vector<CharacterCount>>>();
  return promise(
      call, {},
      [=] {
        gathered->first = trainer->gather();
        gathered->second = trainer->characters();
      },
      [gathered](napi_env env) {
        const auto& [words, characters] = *gathered;
        std::vector<uint32_t> points;
        std::vector<double> counts, inner;
        for (const CharacterCount& each : characters) {
          points.push_back(each.point);
          counts.push_back(double(each.count));
          inner.push_back(double(each.inner));
        }
        napi_value out;
        check(napi_create_object(env, &out));
        set(env, out, "distinct", number(env, double(words.distinct)));
        set(env, out, "kept", number(env, double(words.kept)));
        set(env, out, "spilled", number(env, double(words.spilled)));
        set(env, out, "points", typed_array(env, napi_uint32_array, points.data(), points.size(), 4));
        set(env, out, "counts", typed_array(env, napi_float64_array, counts.data(), counts.size(), 8));
        set(env, out, "inner", typed_array(env, napi_float64_array, inner.data(), inner.size(), 8));
        return out;
      });
}

/**
 * trainerMerges(trainer, [vocabulary, minFrequency], prefix, tokenBytes, tokenEnds, symbols) -> promise of a Uint32Array of left, right, id.
 * The symbols are 256 ids of bytes, or three numbers for each character: code point, its id at the beginning of a word, its id elsewhere.
 */
napi_value js_trainer_merges(const Call& call) {
  const auto trainer = trainer_of(call);
  const auto [limits, limit_count] = call.array<double>(1);
  const auto [prefix, prefix_size] = call.array<uint8_t>(2);
  const auto [spelling, size] = call.array<uint8_t>(3);
  const auto [ends, count] = call.ends(4, size);
  const auto [symbols, symbol_count] = call.array<uint32_t>(5);
  if (limit_count != 2) fail("There are ", limit_count, " limits, not 2.");
  auto plan = std::make_shared<Trainer::Plan>();
  size_t begin = 0;
  for (size_t i = 0; i < count; i++) {
    plan->tokens.emplace_back(reinterpret_cast<const char*>(spelling) + begin, size_t(ends[i]) - begin);
    begin = size_t(ends[i]);
  }
  const auto known = [count = count](uint32_t id) {
    if (id >= count) fail("A symbol has no token.");
    return id;
  };
  if (symbol_count == 256) {
    for (size_t b = 0; b < 256; b++) known(symbols[b]);
    plan->byte_ids = symbols;
  } else {
    if (symbol_count % 3) fail("Symbols come in threes.");
    for (size_t i = 0; i < symbol_count; i += 3) {
      if (symbols[i] >= kPoints) fail("There is no such character.");
      // A character that never occurs there has no id there.
      if (symbols[i + 1] != kNone) plan->first.set(symbols[i], known(symbols[i + 1]));
      if (symbols[i + 2] != kNone) plan->inner.set(symbols[i], known(symbols[i + 2]));
    }
  }
  plan->vocabulary = size_t(limits[0]);
  plan->min_frequency = limits[1];
  plan->prefix.assign(reinterpret_cast<const char*>(prefix), prefix_size);
  auto merges = std::make_shared<std::vector<LearntMerge>>();
  return promise(
      call, {5}, [=] { *merges = trainer->learn(*plan); },
      [merges](napi_env env) { return typed_array(env, napi_uint32_array, merges->data(), merges->size() * 3, 4); });
}

/** trainerUnigram(trainer, alphabet, [pieces, longest, seeds, shrink], threads) -> promise of { bytes, ends, scores } */
napi_value js_trainer_unigram(const Call& call) {
  const auto trainer = trainer_of(call);
  const auto [points, count] = call.array<uint32_t>(1);
  const auto [settings, setting_count] = call.array<double>(2);
  if (setting_count != 4) fail("There are ", setting_count, " settings, not 4.");
  for (size_t i = 0; i < count; i++)
    if (points[i] >= kPoints || (i && points[i] <= points[i - 1])) fail("The alphabet is not in order.");
  const UnigramOptions options{size_t(settings[0]), uint32_t(settings[1]), size_t(settings[2]), settings[3], threads_of(call.number(3))};
  auto alphabet = std::make_shared<std::vector<uint32_t>>(points, points + count);
  auto pieces = std::make_shared<std::vector<UnigramPiece>>();
  return promise(
      call, {},
      [=] {
        WordCounter::shorten(trainer->words(), trainer->least());
        *pieces = learn_unigram(trainer->words(), *alphabet, options, trainer->work);
      },
      [pieces](napi_env env) {
        std::string text;
        std::vector<double> ends, scores;
        for (const UnigramPiece& piece : *pieces) {
          text += piece.text;
          ends.push_back(double(text.size()));
          scores.push_back(piece.score);
        }
        napi_value out;
        check(napi_create_object(env, &out));
        set(env, out, "bytes", typed_array(env, napi_uint8_array, text.data(), text.size(), 1));
        set(env, out, "ends", typed_array(env, napi_float64_array, ends.data(), ends.size(), 8));
        set(env, out, "scores", typed_array(env, napi_float64_array, scores.data(), scores.size(), 8));
        return out;
      });
}

/** trainerProgress(trainer) -> merges learnt, or pieces left */
napi_value js_trainer_progress(const Call& call) {
  return number(call.env, double(trainer_of(call)->work.learnt.load(std::memory_order_relaxed)));
}

/** trainerStop(trainer): learning under way ends soon, and its promise is rejected. */
napi_value js_trainer_stop(const Call& call) {
  trainer_of(call)->work.stopped.store(true, std::memory_order_relaxed);
  return nullptr;
}

}  // namespace

void register_text(napi_env env, napi_value exports) {
  const std::pair<const char*, napi_callback> functions[] = {
      {"textClasses", guarded<js_classes>},        {"bpeCreate", guarded<js_bpe_create>},
      {"bpeEncode", guarded<js_encode<BpeModel, model_tag>>},
      {"bpeEncodeMany", guarded<js_encode_many<BpeModel, model_tag>>},
      {"piecesCreate", guarded<js_pieces_create>},
      {"piecesEncode", guarded<js_encode<PieceModel, pieces_tag>>},
      {"piecesEncodeMany", guarded<js_encode_many<PieceModel, pieces_tag>>},
      {"trainer", guarded<js_trainer>},
      {"trainerCount", guarded<js_trainer_count>},
      {"trainerCountWords", guarded<js_trainer_count_words>},
      {"trainerGather", guarded<js_trainer_gather>},
      {"trainerMerges", guarded<js_trainer_merges>},
      {"trainerUnigram", guarded<js_trainer_unigram>},
      {"trainerProgress", guarded<js_trainer_progress>},
      {"trainerStop", guarded<js_trainer_stop>},
  };
  for (const auto& [name, callback] : functions) {
    napi_value function;
    check(napi_create_function(env, name, NAPI_AUTO_LENGTH, callback, nullptr, &function));
    set(env, exports, name, function);
  }
}

}  // namespace howdah

// How C++ exceptions reach JavaScript, in calls and in work outside of its thread.
#pragma once

#include <node_api.h>

#include <exception>
#include <new>
#include <optional>
#include <string>
#include <string_view>

namespace howdah {

/** Runs `work`: what it threw, if it did, as a message for JavaScript. @param who as the sentence begins, such as "The tokenizer" */
template <class Work>
std::optional<std::string> failure_of(const char* who, Work&& work) {
  try {
    work();
  } catch (const std::bad_alloc&) {
    return std::string(who) + " ran out of memory.";
  } catch (const std::exception& error) {
    return error.what();
  } catch (...) {
    return std::string(who) + " failed for an unknown reason.";
  }
  return std::nullopt;
}

/** On the JavaScript thread. */
inline void reject(napi_env env, napi_deferred deferred, std::string_view message) {
  napi_value text, error;
  napi_create_string_utf8(env, message.data(), message.size(), &text);
  napi_create_error(env, nullptr, text, &error);
  napi_reject_deferred(env, deferred, error);
}

}  // namespace howdah

#pragma once
#include <stdexcept>
#include <string>

namespace howdah {

/** Any failure that JavaScript hears of as a BackendError. Nothing in the native code ends the process. */
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::string message;
  auto add = [&](const auto& part) {
    if constexpr (requires { std::to_string(part); })
      message += std::to_string(part);
    else
      message += part;
  };
  (add(parts), ...);
  throw Error(message);
}

}  // namespace howdah

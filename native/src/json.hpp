#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace howdah {

/**
 * A parsed JSON value: how programs and attributes arrive. Numbers that JSON cannot hold come as the strings "NaN", "Infinity",
 * "-Infinity" and "-0", which `number()` understands.
 */
class Json {
 public:
  enum class Kind : uint8_t { null, boolean, number, string, array, object };

  static Json parse(std::string_view text);

  Kind kind() const { return kind_; }
  bool is_null() const { return kind_ == Kind::null; }
  bool boolean() const;
  double number() const;
  int64_t integer() const;
  const std::string& string() const;
  const std::vector<Json>& array() const;
  std::vector<int64_t> integers() const;

  /** The member, or null when it is absent. */
  const Json& operator[](std::string_view key) const;
  bool has(std::string_view key) const { return !(*this)[key].is_null(); }
  /** Members with a default, for attributes that may be left out. */
  int64_t integer(std::string_view key, int64_t fallback) const;
  double number(std::string_view key, double fallback) const;
  bool boolean(std::string_view key, bool fallback) const;
  std::string string(std::string_view key, std::string_view fallback) const;
  /** The member, which must be there. */
  const Json& at(std::string_view key) const;

 private:
  friend struct JsonParser;
  Kind kind_ = Kind::null;
  bool boolean_ = false;
  double number_ = 0;
  std::string string_;
  std::vector<Json> array_;
  std::map<std::string, Json, std::less<>> object_;
};

}  // namespace howdah

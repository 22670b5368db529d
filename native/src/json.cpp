#include "json.hpp"

#include <charconv>
#include <cmath>
#include <cstdlib>
#include <limits>

#include "error.hpp"

namespace howdah {

struct JsonParser {
  const char* at;
  const char* end;

  [[noreturn]] void wrong(const char* what) { fail("The encoded program is not valid JSON: ", what, "."); }

  void skip() {
    while (at < end && (*at == ' ' || *at == '\n' || *at == '\t' || *at == '\r')) ++at;
  }
  char peek() {
    skip();
    if (at == end) wrong("it ends too early");
    return *at;
  }
  void expect(char c) {
    if (peek() != c) wrong("an unexpected character");
    ++at;
  }
  void word(std::string_view text) {
    if (size_t(end - at) < text.size() || std::string_view(at, text.size()) != text) wrong("an unknown word");
    at += text.size();
  }

  std::string string() {
    expect('"');
    std::string out;
    while (true) {
      if (at == end) wrong("an unterminated string");
      char c = *at++;
      if (c == '"') return out;
      if (c != '\\') {
        out += c;
        continue;
      }
      if (at == end) wrong("an unterminated string");
      c = *at++;
      switch (c) {
        case 'n': out += '\n'; break;
        case 't': out += '\t'; break;
        case 'r': out += '\r'; break;
        case 'b': out += '\b'; break;
        case 'f': out += '\f'; break;
        case 'u': {
          unsigned code = 0;
          if (end - at < 4) wrong("a short escape");
          if (auto [p, e] = std::from_chars(at, at + 4, code, 16); e != std::errc() || p != at + 4) wrong("a bad escape");
          at += 4;
          // JSON.stringify escapes only control characters and lone surrogates this way; names hold neither.
          if (code < 0x80) out += char(code);
          else out += '?';
          break;
        }
        default: out += c;
      }
    }
  }

  Json value(int depth) {
    if (depth > 64) wrong("it is nested too deeply");
    Json out;
    const char c = peek();
    if (c == '{') {
      out.kind_ = Json::Kind::object;
      ++at;
      if (peek() == '}') return ++at, out;
      while (true) {
        skip();
        std::string key = string();
        expect(':');
        out.object_.emplace(std::move(key), value(depth + 1));
        if (peek() == '}') return ++at, out;
        expect(',');
      }
    }
    if (c == '[') {
      out.kind_ = Json::Kind::array;
      ++at;
      if (peek() == ']') return ++at, out;
      while (true) {
        out.array_.push_back(value(depth + 1));
        if (peek() == ']') return ++at, out;
        expect(',');
      }
    }
    if (c == '"') {
      out.kind_ = Json::Kind::string;
      out.string_ = string();
      return out;
    }
    if (c == 't' || c == 'f') {
      word(c == 't' ? "true" : "false");
      out.kind_ = Json::Kind::boolean;
      out.boolean_ = c == 't';
      return out;
    }
    if (c == 'n') {
      word("null");
      return out;
    }
    out.kind_ = Json::Kind::number;
#if defined(__cpp_lib_to_chars)
    const auto [p, error] = std::from_chars(at, end, out.number_);
    if (error != std::errc()) wrong("a bad number");
    at = p;
#else
    // Standard libraries without floating-point from_chars: the text is zero-terminated, and Node runs in the C locale.
    char* p = nullptr;
    out.number_ = std::strtod(at, &p);
    if (p == at) wrong("a bad number");
    at = p;
#endif
    return out;
  }
};

Json Json::parse(std::string_view text) {
  JsonParser parser{text.data(), text.data() + text.size()};
  Json out = parser.value(0);
  parser.skip();
  if (parser.at != parser.end) parser.wrong("text follows its end");
  return out;
}

bool Json::boolean() const {
  if (kind_ != Kind::boolean) fail("An attribute should be true or false.");
  return boolean_;
}

double Json::number() const {
  if (kind_ == Kind::number) return number_;
  if (kind_ == Kind::string) {
    if (string_ == "NaN") return std::numeric_limits<double>::quiet_NaN();
    if (string_ == "Infinity") return std::numeric_limits<double>::infinity();
    if (string_ == "-Infinity") return -std::numeric_limits<double>::infinity();
    if (string_ == "-0") return -0.0;
  }
  fail("An attribute should be a number.");
}

int64_t Json::integer() const {
  const double x = number();
  if (!(std::abs(x) <= 9007199254740992.0) || x != std::floor(x)) fail("An attribute should be a whole number.");
  return int64_t(x);
}

const std::string& Json::string() const {
  if (kind_ != Kind::string) fail("An attribute should be a string.");
  return string_;
}

const std::vector<Json>& Json::array() const {
  if (kind_ != Kind::array) fail("An attribute should be a list.");
  return array_;
}

std::vector<int64_t> Json::integers() const {
  std::vector<int64_t> out;
  for (const Json& item : array()) out.push_back(item.integer());
  return out;
}

const Json& Json::operator[](std::string_view key) const {
  static const Json* null = new Json;
  if (kind_ == Kind::object)
    if (const auto found = object_.find(key); found != object_.end()) return found->second;
  return *null;
}

const Json& Json::at(std::string_view key) const {
  const Json& member = (*this)[key];
  if (member.is_null()) fail("The attribute \"", std::string(key), "\" is missing.");
  return member;
}

int64_t Json::integer(std::string_view key, int64_t fallback) const { return has(key) ? at(key).integer() : fallback; }
double Json::number(std::string_view key, double fallback) const { return has(key) ? at(key).number() : fallback; }
bool Json::boolean(std::string_view key, bool fallback) const { return has(key) ? at(key).boolean() : fallback; }
std::string Json::string(std::string_view key, std::string_view fallback) const {
  return has(key) ? at(key).string() : std::string(fallback);
}

}  // namespace howdah

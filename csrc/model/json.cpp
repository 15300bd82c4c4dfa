#include "json.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <type_traits>

namespace torchquant::json {
namespace {

constexpr int kMaxDepth = 64;
constexpr std::size_t kLongestShown = 200;

struct Character {
  std::size_t length;  // in bytes of UTF-8
  uint32_t point;
};
constexpr Character kNoCharacter = {0, 0};

// Of the start of a text: none where it is in another form than its shortest, or half of a pair of
// surrogates.
Character first_character(std::string_view text) {
  const auto byte = [&](std::size_t index) -> uint32_t {
    return index < text.size() ? static_cast<unsigned char>(text[index]) : 0;
  };
  const uint32_t first = byte(0);
  if (first < 0x80) return text.empty() ? kNoCharacter : Character{1, first};
  if (first < 0xC0 || first >= 0xF8) return kNoCharacter;
  const std::size_t length = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
  uint32_t point = first & (0x7F >> length);
  for (std::size_t index = 1; index < length; ++index) {
    if ((byte(index) & 0xC0) != 0x80) return kNoCharacter;
    point = point << 6 | (byte(index) & 0x3F);
  }
  constexpr uint32_t kLeast[] = {0, 0, 0x80, 0x800, 0x10000};
  const bool is_half = point >= 0xD800 && point <= 0xDFFF;
  if (point < kLeast[length] || point > 0x10FFFF || is_half) return kNoCharacter;
  return {length, point};
}

// Control characters, and those that turn the direction of a line.
bool is_obeyed(uint32_t point) {
  return point < 0x20 || (point >= 0x7F && point <= 0x9F) || (point >= 0x2028 && point <= 0x202E) ||
         (point >= 0x2066 && point <= 0x2069);
}

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Value document() {
    Value value = parse_value(0);
    skip_spaces();
    check(at_ == text_.size(), "the end");
    return value;
  }

 private:
  void check(bool holds, const char* wanted) const {
    TORCH_CHECK_VALUE(holds, "no JSON: expected ", wanted, " at byte ", at_);
  }

  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

  void skip_spaces() {
    while (at_ < text_.size() && std::string_view(" \t\n\r").find(text_[at_]) != text_.npos) ++at_;
  }

  bool take(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }

  Value parse_value(int depth) {
    check(depth < kMaxDepth, "less depth");
    skip_spaces();
    switch (peek()) {
      case '{':
        return parse_object(depth);
      case '[':
        return parse_array(depth);
      case '"':
        return parse_string();
      default:
        return parse_word_or_number();
    }
  }

  Value parse_word_or_number() {
    if (take("null")) return nullptr;
    if (take("true")) return true;
    if (take("false")) return false;
    return parse_number();
  }

  Object parse_object(int depth) {
    Object object;
    take("{");
    skip_spaces();
    if (take("}")) return object;
    do {
      skip_spaces();
      check(peek() == '"', "a key");
      std::string key = parse_string();
      skip_spaces();
      check(take(":"), "':'");
      const bool is_new = object.emplace(std::move(key), parse_value(depth + 1)).second;
      check(is_new, "a key that is new");
      skip_spaces();
    } while (take(","));
    check(take("}"), "'}'");
    return object;
  }

  Array parse_array(int depth) {
    Array array;
    take("[");
    skip_spaces();
    if (take("]")) return array;
    do {
      array.push_back(parse_value(depth + 1));
      skip_spaces();
    } while (take(","));
    check(take("]"), "']'");
    return array;
  }

  // What JSON's grammar has, which is less than from_chars takes.
  Value parse_number() {
    const std::size_t start = at_;
    take("-");
    if (!take("0")) check(take_digits(), "a value");
    bool is_integer = true;
    if (take(".")) {
      is_integer = false;
      check(take_digits(), "a digit");
    }
    if (take("e") || take("E")) {
      is_integer = false;
      if (!take("+")) take("-");
      check(take_digits(), "a digit");
    }
    const std::string_view text = text_.substr(start, at_ - start);
    const char *first = text.data(), *last = first + text.size();
    int64_t integer = 0;
    is_integer &= text != "-0" && std::from_chars(first, last, integer).ec == std::errc();
    if (is_integer) return integer;
    double number = 0;
    const std::errc error = std::from_chars(first, last, number).ec;
    const std::string_view digits = text.substr(0, text.find_first_of("eE"));
    const bool is_lost = number == 0 && digits.find_first_of("123456789") != digits.npos;
    check(error == std::errc() && !is_lost, "a number within range");
    return number;
  }

  bool take_digits() {
    const std::size_t start = at_;
    while (peek() >= '0' && peek() <= '9') ++at_;
    return at_ > start;
  }

  std::string parse_string() {
    std::string string;
    take("\"");
    while (!take("\"")) {
      if (take("\\")) {
        parse_escape(string);
      } else {
        parse_character(string);
      }
    }
    return string;
  }

  void parse_character(std::string& string) {
    const std::size_t length = first_character(text_.substr(at_)).length;
    check(length > 0 && static_cast<unsigned char>(text_[at_]) >= 0x20, "a character of UTF-8");
    string += text_.substr(at_, length);
    at_ += length;
  }

  void parse_escape(std::string& string) {
    constexpr std::string_view kNames = "\"\\/bfnrt", kMeanings = "\"\\/\b\f\n\r\t";
    if (take("u")) {
      append_utf8(string, parse_code_point());
      return;
    }
    const std::size_t index = at_ < text_.size() ? kNames.find(text_[at_]) : kNames.npos;
    check(index != kNames.npos, "an escape");
    string += kMeanings[index];
    ++at_;
  }

  // Beyond 16 bits, a pair of surrogates.
  uint32_t parse_code_point() {
    const uint32_t first = parse_hex();
    check(first < 0xDC00 || first > 0xDFFF, "the first of two surrogates");
    if (first < 0xD800 || first > 0xDBFF) return first;
    check(take("\\u"), "the second of two surrogates");
    const uint32_t second = parse_hex();
    check(second >= 0xDC00 && second <= 0xDFFF, "the second of two surrogates");
    return 0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00);
  }

  uint32_t parse_hex() {
    check(text_.size() - at_ >= 4, "four hexadecimal digits");
    const char* first = text_.data() + at_;
    uint32_t value = 0;
    const auto [end, error] = std::from_chars(first, first + 4, value, 16);
    check(error == std::errc() && end == first + 4, "four hexadecimal digits");
    at_ += 4;
    return value;
  }

  static void append_utf8(std::string& string, uint32_t point) {
    const auto append = [&](uint32_t byte) { string += static_cast<char>(byte); };
    const auto continued = [&](int shift) { append(0x80 | ((point >> shift) & 0x3F)); };
    if (point < 0x80) {
      append(point);
    } else if (point < 0x800) {
      append(0xC0 | (point >> 6));
      continued(0);
    } else if (point < 0x10000) {
      append(0xE0 | (point >> 12));
      continued(6);
      continued(0);
    } else {
      append(0xF0 | (point >> 18));
      continued(12);
      continued(6);
      continued(0);
    }
  }

  std::string_view text_;
  std::size_t at_ = 0;
};

void write(std::string& text, const Value& value);

bool is_utf8(std::string_view text) {
  while (const std::size_t length = first_character(text).length) text.remove_prefix(length);
  return text.empty();
}

void write(std::string& text, const std::string& string) {
  TORCH_CHECK_VALUE(is_utf8(string), "JSON must be UTF-8, but '", string, "' is not");
  text += '"';
  for (const char character : string) {
    if (character == '"' || character == '\\') {
      text += '\\';
      text += character;
    } else if (static_cast<unsigned char>(character) < 0x20) {
      char escape[7];
      std::snprintf(escape, sizeof escape, "\\u%04x", character);
      text += escape;
    } else {
      text += character;
    }
  }
  text += '"';
}

void write_number(std::string& text, double number) {
  TORCH_CHECK_VALUE(std::isfinite(number), "JSON has no number ", number);
  char digits[32];
  const auto end = std::to_chars(digits, digits + sizeof digits, number).ptr;
  text.append(digits, end);
}

void write(std::string& text, const Array& array) {
  text += '[';
  for (const Value& value : array) {
    if (&value != array.data()) text += ',';
    write(text, value);
  }
  text += ']';
}

void write(std::string& text, const Object& object) {
  text += '{';
  const char* separator = "";
  for (const auto& [key, value] : object) {
    text += separator;
    write(text, key);
    text += ':';
    write(text, value);
    separator = ",";
  }
  text += '}';
}

void write(std::string& text, const Value& value) {
  std::visit(
      [&](const auto& kind) {
        using Kind = std::decay_t<decltype(kind)>;
        if constexpr (std::is_same_v<Kind, std::nullptr_t>) {
          text += "null";
        } else if constexpr (std::is_same_v<Kind, bool>) {
          text += kind ? "true" : "false";
        } else if constexpr (std::is_same_v<Kind, int64_t>) {
          text += std::to_string(kind);
        } else if constexpr (std::is_same_v<Kind, double>) {
          write_number(text, kind);
        } else {
          write(text, kind);
        }
      },
      value.kind());
}

}  // namespace

void check_amount(std::string_view text) {
  const auto opens = [](char c) { return c == '[' || c == '{' || c == ','; };
  TORCH_CHECK_VALUE(std::count_if(text.begin(), text.end(), opens) <= kMostValues,
                    "no JSON of ours: it has more than ", kMostValues, " values");
}

Value parse(std::string_view text) {
  check_amount(text);
  return Parser(text).document();
}

std::string printable(std::string_view text) {
  std::string shown;
  for (std::size_t characters = 0; !text.empty(); ++characters) {
    if (characters == kLongestShown) return shown + "...";
    auto [length, point] = first_character(text);
    if (length == 0) point = static_cast<unsigned char>(text[0]);
    if (length == 0 || is_obeyed(point)) {
      char escape[7];
      std::snprintf(escape, sizeof escape, "\\u%04x", point);
      shown += escape;
    } else {
      shown += text.substr(0, length);
    }
    text.remove_prefix(length == 0 ? 1 : length);
  }
  return shown;
}

std::string to_text(const Value& value) {
  std::string text;
  write(text, value);
  return text;
}

}  // namespace torchquant::json

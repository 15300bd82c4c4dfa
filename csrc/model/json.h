// JSON as far as headers of files need it: strict, in UTF-8, of limited depth, integers kept apart
// from floats.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace torchquant::json {

class Value;
using Array = std::vector<Value>;
using Object = std::map<std::string, Value>;

class Value {
 public:
  using Kind = std::variant<std::nullptr_t, bool, int64_t, double, std::string, Array, Object>;

  template <class T>
  Value(T value) : kind_(std::move(value)) {}
  Value(const char* text) : kind_(std::string(text)) {}

  // The value if it is of this type, or nullptr.
  template <class T>
  const T* get() const {
    return std::get_if<T>(&kind_);
  }
  bool is_null() const { return get<std::nullptr_t>() != nullptr; }
  const Kind& kind() const { return kind_; }

 private:
  Kind kind_;
};

// Throws c10::Error, naming the byte, where the text is not one JSON value. A key that comes twice
// is an error too, and so is more than kMostValues brackets and commas, as each value takes about a
// hundred bytes: 10^5 layers have 4 * 10^6. torchquant/strict_json.py takes and refuses the same.
constexpr int64_t kMostValues = int64_t{1} << 23;
Value parse(std::string_view text);
void check_amount(std::string_view text);  // that alone

// Without spaces. A double must be finite, a string UTF-8.
std::string to_text(const Value& value);

// For messages: on one line, without what a terminal would obey, and not endless.
std::string printable(std::string_view text);
inline std::string shown(const Value& value) { return printable(to_text(value)); }

}  // namespace torchquant::json

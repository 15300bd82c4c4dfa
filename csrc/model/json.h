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
// is an error too.
Value parse(std::string_view text);

// Without spaces. A double must be finite, a string UTF-8.
std::string to_text(const Value& value);

}  // namespace torchquant::json

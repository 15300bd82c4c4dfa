// The argument rules of every operator, written once for CPU, CUDA and Meta. They speak of symbolic
// sizes only, so that torch.export keeps dynamic dimensions dynamic. A message names the argument,
// prints what was given and says how to mend it.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/ScalarType.h>
#include <c10/core/SymBool.h>
#include <c10/core/WrapDimMinimal.h>
#include <c10/util/Exception.h>

#include <array>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "../math/range_histogram.h"

namespace torchquant::ops {

using at::ScalarType;
using at::Tensor;
using SymShape = std::vector<c10::SymInt>;

inline constexpr int64_t kLowestQuantMin = -65536;
inline constexpr int64_t kHighestQuantMax = 65535;

// The longest sums of products that always fit int32, by the signedness of the two sides.
inline constexpr int64_t kMaxDepthSigned = 131071;   // int8 x int8
inline constexpr int64_t kMaxDepthMixed = 65793;     // uint8 x int8
inline constexpr int64_t kMaxDepthUnsigned = 33025;  // uint8 x uint8

inline bool is_float(ScalarType dtype) {
  return dtype == at::kFloat || dtype == at::kHalf || dtype == at::kBFloat16;
}

inline bool is_byte(ScalarType dtype) { return dtype == at::kChar || dtype == at::kByte; }

inline bool is_code(ScalarType dtype) {
  return is_byte(dtype) || dtype == at::kShort || dtype == at::kInt;
}

// The name that one types in Python. TorchScript passes dtypes as numbers, so any may come.
inline std::string dtype_name(ScalarType dtype) {
  const auto number = static_cast<int>(dtype);
  if (number < 0 || dtype >= ScalarType::Undefined) return "number " + std::to_string(number);
  return "torch." + std::string(c10::getDtypeNames(dtype).first);
}

inline std::string layout_name(at::Layout layout) {
  std::ostringstream name;
  name << layout;
  return name.str();
}

inline void check_defined(const Tensor& tensor, const char* name) {
  TORCH_CHECK(tensor.defined(), name, " must be a tensor, but got None: this one is not optional");
}

// For those operators that the dispatcher hands every kind of tensor.
inline void check_strided(const Tensor& tensor, const char* name) {
  check_defined(tensor, name);
  TORCH_CHECK(tensor.layout() == at::kStrided && !tensor.is_nested(), name,
              " must be a dense tensor, but got ",
              tensor.is_nested() ? "a nested one" : layout_name(tensor.layout()),
              ": convert it with .to_dense()");
}

inline void check_float(const Tensor& tensor, const char* name) {
  check_defined(tensor, name);
  TORCH_CHECK(is_float(tensor.scalar_type()), name,
              " must be float32, float16 or bfloat16, but got ", dtype_name(tensor.scalar_type()),
              ": convert it with .float()");
}

inline void check_byte(const Tensor& tensor, const char* name) {
  check_defined(tensor, name);
  TORCH_CHECK(is_byte(tensor.scalar_type()), name, " must be int8 or uint8, but got ",
              dtype_name(tensor.scalar_type()),
              ": quantize it first, or convert it with .to(torch.int8)");
}

inline void check_code(const Tensor& tensor, const char* name) {
  check_defined(tensor, name);
  TORCH_CHECK(is_code(tensor.scalar_type()), name, " must be int8, uint8, int16 or int32, but got ",
              dtype_name(tensor.scalar_type()), ": pass what a quantize operator returned");
}

inline void check_min_dim(const Tensor& tensor, const char* name, int64_t least) {
  check_defined(tensor, name);
  TORCH_CHECK(tensor.dim() >= least, name, " must have ", least, " or more dimensions, but got ",
              tensor.dim(), ": add them with .unsqueeze(0)");
}

inline void check_shape(const Tensor& tensor, const char* name, c10::SymIntArrayRef wanted,
                        const char* meaning, const char* mend) {
  const auto given = tensor.sym_sizes();
  TORCH_CHECK(given.size() == wanted.size(), name, " must have shape ", wanted, ", ", meaning,
              ", but got ", given, ": ", mend);
  for (size_t i = 0; i < wanted.size(); ++i) {
    TORCH_SYM_CHECK(sym_eq(given[i], wanted[i]), name, " must have shape ", wanted, ", ", meaning,
                    ", but got ", given, ": ", mend);
  }
}

inline void check_same_device(const Tensor& tensor, const char* name, const Tensor& owner,
                              const char* owner_name) {
  check_defined(tensor, name);
  TORCH_CHECK(tensor.device() == owner.device(), name, " must be on the device of ", owner_name,
              ", ", owner.device(), ", but got ", tensor.device(), ": move it with .to(",
              owner_name, ".device)");
}

// `tensor` goes with `owner`: on its device, of this dtype, and of exactly this shape.
inline void check_companion(const Tensor& tensor, const char* name, const Tensor& owner,
                            const char* owner_name, ScalarType dtype, c10::SymIntArrayRef shape,
                            const char* meaning) {
  check_same_device(tensor, name, owner, owner_name);
  TORCH_CHECK(tensor.scalar_type() == dtype, name, " must be ", dtype_name(dtype), ", but got ",
              dtype_name(tensor.scalar_type()), ": convert it with .to(", dtype_name(dtype), ")");
  check_shape(tensor, name, shape, meaning, "reshape it, or compute it for this very tensor");
}

inline void check_quant_range(int64_t quant_min, int64_t quant_max) {
  TORCH_CHECK(
      kLowestQuantMin <= quant_min && quant_min < quant_max && quant_max <= kHighestQuantMax,
      "quant_min and quant_max must satisfy -65536 <= quant_min < quant_max <= 65535, but got ",
      quant_min, " and ", quant_max, ": int8 is -128 and 127, uint8 is 0 and 255");
}

inline void check_chosen_range(int64_t quant_min, int64_t quant_max, bool symmetric) {
  check_quant_range(quant_min, quant_max);
  TORCH_CHECK(
      !symmetric || (quant_min < 0 && quant_max >= 1),
      "quant_min and quant_max must lie on both sides of 0 when symmetric is true, but got ",
      quant_min, " and ", quant_max, ": pass -128 and 127, or symmetric=False");
}

struct CodeLimits {
  int64_t min;
  int64_t max;
};

inline CodeLimits code_limits(ScalarType dtype) {
  if (dtype == at::kChar) return {-128, 127};
  if (dtype == at::kByte) return {0, 255};
  if (dtype == at::kShort) return {-32768, 32767};
  return {INT32_MIN, INT32_MAX};
}

inline ScalarType smallest_code_dtype(int64_t quant_min, int64_t quant_max) {
  for (const ScalarType dtype : {at::kChar, at::kByte, at::kShort}) {
    const CodeLimits limits = code_limits(dtype);
    if (limits.min <= quant_min && quant_max <= limits.max) return dtype;
  }
  return at::kInt;
}

inline void check_code_dtype(ScalarType dtype, int64_t quant_min, int64_t quant_max) {
  check_quant_range(quant_min, quant_max);
  TORCH_CHECK(is_code(dtype), "dtype must be int8, uint8, int16 or int32, but got ",
              dtype_name(dtype), ": this range fits ",
              dtype_name(smallest_code_dtype(quant_min, quant_max)));
  const CodeLimits limits = code_limits(dtype);
  TORCH_CHECK(limits.min <= quant_min && quant_max <= limits.max, "dtype ", dtype_name(dtype),
              " holds ", limits.min, " to ", limits.max, ", but got quant_min ", quant_min,
              " and quant_max ", quant_max, ": this range fits ",
              dtype_name(smallest_code_dtype(quant_min, quant_max)));
}

// The axis counted from the front.
inline int64_t check_axis(const Tensor& input, int64_t axis) {
  check_min_dim(input, "input", 1);
  TORCH_CHECK(-input.dim() <= axis && axis < input.dim(), "axis must lie in [", -input.dim(), ", ",
              input.dim() - 1, "] for this input, but got ", axis,
              ": it counts the dimensions of input, negative ones from the last");
  return c10::maybe_wrap_dim(axis, input.dim());
}

// ceil(size / by). The sum of the usual formula overflows for the greatest sizes; for symbolic ones
// it is what torch.export simplifies.
inline c10::SymInt ceil_div(const c10::SymInt& size, int64_t by) {
  if (const auto known = size.maybe_as_int()) return *known / by + (*known % by != 0);
  return (size + (by - 1)) / by;
}

// [..., 1]: one value for each token, a row of the last dimension.
inline SymShape token_shape(const Tensor& input) {
  SymShape shape = input.sym_sizes().vec();
  shape.back() = 1;
  return shape;
}

// One value that goes with input, of any shape.
inline void check_one_element(const Tensor& tensor, const char* name, const Tensor& input,
                              ScalarType dtype, const char* mend) {
  check_defined(tensor, name);
  TORCH_SYM_CHECK(sym_eq(tensor.sym_numel(), 1), name, " must have one element, but got shape ",
                  tensor.sym_sizes(), ": ", mend);
  check_companion(tensor, name, input, "input", dtype, tensor.sym_sizes(), "its own");
}

inline void check_qparams_per_tensor(const Tensor& input, const Tensor& scale,
                                     const Tensor& zero_point) {
  check_defined(input, "input");
  const char* mend = "use the per_channel or per_token operator for more";
  check_one_element(scale, "scale", input, at::kFloat, mend);
  check_one_element(zero_point, "zero_point", input, at::kInt, mend);
}

inline void check_qparams_per_channel(const Tensor& input, const Tensor& scale,
                                      const Tensor& zero_point, int64_t axis) {
  check_defined(input, "input");
  const SymShape shape = {input.sym_size(check_axis(input, axis))};
  check_companion(scale, "scale", input, "input", at::kFloat, shape, "one for each channel");
  check_companion(zero_point, "zero_point", input, "input", at::kInt, shape,
                  "one for each channel");
}

inline void check_group_size(const Tensor& input, int64_t group_size) {
  check_min_dim(input, "input", 1);
  TORCH_CHECK(group_size >= 1, "group_size must be 1 or more, but got ", group_size,
              ": it counts neighbours in the last dimension, 32 or 128 are usual");
}

// [..., ceil(K / group_size)]: one value for each group of a row; the last one may be short.
inline SymShape group_shape(const Tensor& input, int64_t group_size) {
  SymShape shape = input.sym_sizes().vec();
  shape.back() = ceil_div(shape.back(), group_size);
  return shape;
}

inline void check_qparams_per_group(const Tensor& input, const Tensor& scale,
                                    const Tensor& zero_point, int64_t group_size) {
  check_group_size(input, group_size);
  const SymShape shape = group_shape(input, group_size);
  const char* meaning = "one for each group of each row";
  check_companion(scale, "scale", input, "input", at::kFloat, shape, meaning);
  check_companion(zero_point, "zero_point", input, "input", at::kInt, shape, meaning);
}

inline void check_qparams_per_token(const Tensor& input, const Tensor& scale,
                                    const Tensor& zero_point) {
  check_min_dim(input, "input", 1);
  const SymShape shape = token_shape(input);
  check_companion(scale, "scale", input, "input", at::kFloat, shape,
                  "one for each row of the last dimension");
  check_companion(zero_point, "zero_point", input, "input", at::kInt, shape,
                  "one for each row of the last dimension");
}

inline void check_choose_qparams(const Tensor& input, int64_t quant_min, int64_t quant_max,
                                 bool symmetric) {
  check_float(input, "input");
  check_chosen_range(quant_min, quant_max, symmetric);
}

inline void check_quantize(const Tensor& input, int64_t quant_min, int64_t quant_max,
                           ScalarType dtype) {
  check_float(input, "input");
  check_code_dtype(dtype, quant_min, quant_max);
}

inline void check_quantize_dynamic(const Tensor& input, int64_t quant_min, int64_t quant_max,
                                   bool symmetric, ScalarType dtype) {
  check_choose_qparams(input, quant_min, quant_max, symmetric);
  check_code_dtype(dtype, quant_min, quant_max);
}

inline void check_fake_quantize(const Tensor& input, int64_t quant_min, int64_t quant_max) {
  check_float(input, "input");
  check_quant_range(quant_min, quant_max);
}

inline void check_fake_quantize_backward(const Tensor& grad, const Tensor& input, int64_t quant_min,
                                         int64_t quant_max) {
  check_fake_quantize(input, quant_min, quant_max);
  check_companion(grad, "grad", input, "input", input.scalar_type(), input.sym_sizes(),
                  "that of input");
}

inline void check_dequantize(const Tensor& input, ScalarType out_dtype) {
  check_code(input, "input");
  TORCH_CHECK(is_float(out_dtype), "out_dtype must be float32, float16 or bfloat16, but got ",
              dtype_name(out_dtype), ": pass torch.float32 and convert the result");
}

inline void check_quantization_error(const Tensor& original, const Tensor& approximation) {
  for (const auto& [tensor, name] :
       {std::pair{&original, "original"}, {&approximation, "approximation"}}) {
    check_defined(*tensor, name);
    TORCH_CHECK(is_float(tensor->scalar_type()) || tensor->scalar_type() == at::kDouble, name,
                " must be float64, float32, float16 or bfloat16, but got ",
                dtype_name(tensor->scalar_type()), ": dequantize it first");
  }
  check_companion(approximation, "approximation", original, "original", approximation.scalar_type(),
                  original.sym_sizes(), "that of original");
  TORCH_SYM_CHECK(original.sym_numel().sym_gt(0), "original must not be empty, but got shape ",
                  original.sym_sizes(),
                  ": pass at least one value, for the error of none is not defined");
}

// The calibration state: counts int64 [32768], range float32 [2].
inline void check_histogram(const Tensor& counts, const Tensor& range) {
  check_strided(counts, "counts");
  check_strided(range, "range");
  check_companion(counts, "counts", counts, "counts", at::kLong, {kBins}, "one for each bin");
  check_companion(range, "range", counts, "counts", at::kFloat, {2}, "a minimum and a maximum");
}

inline void check_histogram_observe(const Tensor& counts, const Tensor& range,
                                    const Tensor& input) {
  check_histogram(counts, range);
  check_float(input, "input");
  check_same_device(input, "input", counts, "counts");
}

inline void check_histogram_qparams(const Tensor& counts, const Tensor& range, int64_t quant_min,
                                    int64_t quant_max, bool symmetric, std::string_view method,
                                    double percentile) {
  check_histogram(counts, range);
  check_chosen_range(quant_min, quant_max, symmetric);
  TORCH_CHECK(
      method == "minmax" || method == "percentile" || method == "mse" || method == "entropy",
      "method must be \"minmax\", \"percentile\", \"mse\" or \"entropy\", but got \"", method,
      "\": \"mse\" suits most activations");
  TORCH_CHECK(50 < percentile && percentile <= 100, "percentile must lie in (50, 100], but got ",
              percentile, ": 99.99 is usual");
}

inline void check_num_bits(int64_t num_bits) {
  TORCH_CHECK(2 <= num_bits && num_bits <= 8, "num_bits must lie in [2, 8], but got ", num_bits,
              ": pass 2 for narrower codes, and keep wider ones in int16 or int32 as they are");
}

// Bytes of a row of `count` codes. The product overflows for the greatest counts, so eight codes
// are taken at once where the count is known.
inline c10::SymInt packed_bytes(const c10::SymInt& count, int64_t num_bits) {
  if (const auto known = count.maybe_as_int()) {
    return *known / 8 * num_bits + (*known % 8 * num_bits + 7) / 8;
  }
  return (count * num_bits + 7) / 8;
}

// The most codes, of 2 bits, that fit so many bytes.
inline c10::SymInt most_codes(const c10::SymInt& bytes) {
  if (const auto known = bytes.maybe_as_int(); known && *known > INT64_MAX / 4) return INT64_MAX;
  return bytes * 4;
}

inline void check_pack_bits(const Tensor& input, int64_t num_bits) {
  check_byte(input, "input");
  check_min_dim(input, "input", 1);
  check_num_bits(num_bits);
}

inline void check_unpack_bits(const Tensor& packed, int64_t num_bits, const c10::SymInt& last_dim,
                              ScalarType dtype) {
  check_defined(packed, "packed");
  TORCH_CHECK(packed.scalar_type() == at::kByte, "packed must be uint8, but got ",
              dtype_name(packed.scalar_type()), ": pass what pack_bits returned");
  check_min_dim(packed, "packed", 1);
  check_num_bits(num_bits);
  TORCH_CHECK(is_byte(dtype), "dtype must be int8 or uint8, but got ", dtype_name(dtype),
              ": pass the dtype that was packed");
  const c10::SymInt most = most_codes(packed.sym_size(-1));
  TORCH_SYM_CHECK(last_dim.sym_ge(0).sym_and(last_dim.sym_le(most)), "last_dim must lie in [0, ",
                  most, "] for rows of ", packed.sym_size(-1), " bytes, but got ", last_dim,
                  ": pass the size of the last dimension that was packed");
  TORCH_SYM_CHECK(sym_eq(packed.sym_size(-1), packed_bytes(last_dim, num_bits)),
                  "last_dim must fill the rows of packed, ", packed.sym_size(-1),
                  " bytes each, but got ", last_dim, " codes of ", num_bits, " bits, which take ",
                  packed_bytes(last_dim, num_bits),
                  ": pass the size of the last dimension that was packed");
}

// Within int32, so that no arithmetic on it overflows.
inline void check_features(int64_t features, const char* name) {
  TORCH_CHECK(0 <= features && features <= INT32_MAX, name, " must lie in [0, ", INT32_MAX,
              "], but got ", features, ": pass that of the weight that was packed");
}

// [ceil(N / 16), ceil(K / 4), 16, 4]
inline std::array<c10::SymInt, 4> packed_shape(const c10::SymInt& out_features,
                                               const c10::SymInt& in_features) {
  return {ceil_div(out_features, 16), ceil_div(in_features, 4), 16, 4};
}

inline void check_packed_weight(const Tensor& packed, const char* name, c10::SymIntArrayRef shape) {
  check_defined(packed, name);
  TORCH_CHECK(packed.scalar_type() == at::kChar, name, " must be int8, but got ",
              dtype_name(packed.scalar_type()), ": pass what pack_weight returned");
  check_shape(packed, name, shape, "[ceil(out_features / 16), ceil(in_features / 4), 16, 4]",
              "pass what pack_weight returned for a weight of these features");
}

// The weight of an input's rows. One that is sound in itself says what their size must be.
inline void check_packed_weight_of(const Tensor& packed_weight, const c10::SymInt& out_features,
                                   const Tensor& input, const char* input_name) {
  check_same_device(packed_weight, "packed_weight", input, input_name);
  std::array<c10::SymInt, 4> shape = packed_shape(out_features, input.sym_size(-1));
  const c10::SymInt quads = shape[1];
  if (packed_weight.dim() == 4) shape[1] = packed_weight.sym_size(1);
  check_packed_weight(packed_weight, "packed_weight", shape);
  TORCH_SYM_CHECK(sym_eq(shape[1], quads), input_name, " must have ",
                  (shape[1] * 4 - 3).max(c10::SymInt(0)), " to ", shape[1] * 4,
                  " values in its last dimension, the in_features of packed_weight, but got shape ",
                  input.sym_sizes(), ": pass rows of as many values as the packed weight had");
}

inline void check_pack_weight(const Tensor& weight) {
  check_defined(weight, "weight");
  TORCH_CHECK(weight.scalar_type() == at::kChar, "weight must be int8, but got ",
              dtype_name(weight.scalar_type()), ": quantize it with quantize_per_channel");
  TORCH_CHECK(weight.dim() == 2, "weight must be [out_features, in_features], but got shape ",
              weight.sym_sizes(), ": flatten the dimensions after the first");
}

inline void check_unpack_weight(const Tensor& packed, int64_t out_features, int64_t in_features) {
  check_features(out_features, "out_features");
  check_features(in_features, "in_features");
  check_packed_weight(packed, "packed", packed_shape(out_features, in_features));
}

inline constexpr const char* kSplitDepth =
    "split it and the weight, and add the products of the parts in int64";
inline constexpr const char* kSplitLayer =
    "keep this layer in float, or split it and add the outputs of the parts";

// Of rows whose products with a column, int8 or uint8 as `b_signed` says, are added up in int32.
inline void check_depth(const Tensor& rows, const char* name, bool b_signed, const char* mend) {
  const bool a_signed = rows.scalar_type() == at::kChar;
  const c10::SymInt depth = rows.sym_size(-1);
  const int64_t limit = a_signed && b_signed   ? kMaxDepthSigned
                        : a_signed || b_signed ? kMaxDepthMixed
                                               : kMaxDepthUnsigned;
  TORCH_SYM_CHECK(depth.sym_le(limit), name, " must have at most ", limit,
                  " values in its last dimension for these dtypes, or the int32 sums may overflow, "
                  "but got ",
                  depth, ": ", mend);
}

inline void check_int8_matmul(const Tensor& a, const Tensor& b) {
  check_byte(a, "a");
  check_byte(b, "b");
  check_min_dim(a, "a", 2);
  TORCH_CHECK(a.dim() == b.dim(), "b must have as many dimensions as a, ", a.dim(), ", but got ",
              b.dim(), ": nothing is broadcast, expand it first");
  for (int64_t i = 0; i + 2 < a.dim(); ++i) {
    TORCH_SYM_CHECK(sym_eq(a.sym_size(i), b.sym_size(i)),
                    "b must have the leading dimensions of a, ", a.sym_sizes(), ", but got ",
                    b.sym_sizes(), ": nothing is broadcast, expand it first");
  }
  TORCH_SYM_CHECK(sym_eq(a.sym_size(-1), b.sym_size(-2)), "b must have ", a.sym_size(-1),
                  " rows, as a has columns, but got shapes ", a.sym_sizes(), " and ", b.sym_sizes(),
                  ": a weight [out_features, in_features] is passed as weight.t()");
  check_same_device(b, "b", a, "a");
  check_depth(a, "a", b.scalar_type() == at::kChar, kSplitDepth);
}

inline void check_weight_sum(const Tensor& weight_sum, const Tensor& owner, const char* owner_name,
                             const c10::SymInt& out_features) {
  check_companion(weight_sum, "weight_sum", owner, owner_name, at::kInt, {out_features},
                  "the sum of each weight row");
}

inline void check_int8_matmul_packed(const Tensor& a, const Tensor& packed_weight,
                                     int64_t out_features,
                                     const std::optional<Tensor>& weight_sum) {
  check_byte(a, "a");
  check_min_dim(a, "a", 1);
  check_features(out_features, "out_features");
  check_packed_weight_of(packed_weight, out_features, a, "a");
  check_depth(a, "a", true, kSplitDepth);
  if (weight_sum) check_weight_sum(*weight_sum, a, "a", out_features);
}

inline bool check_activation(std::string_view activation) {
  TORCH_CHECK(activation == "none" || activation == "relu",
              "activation must be \"none\" or \"relu\", but got \"", activation,
              "\": pass \"none\" and apply others to the result");
  return activation == "relu";
}

// What the linear operators have in common: a layer of [out_features, in_features], the latter as
// the input has them, and what comes after its product.
inline void check_layer(const Tensor& input, const Tensor& packed_weight,
                        const Tensor& weight_scale, const Tensor& weight_sum,
                        const std::optional<Tensor>& bias, std::string_view activation) {
  check_min_dim(input, "input", 1);
  check_defined(weight_scale, "weight_scale");
  const c10::SymInt out_features = weight_scale.sym_numel();
  check_companion(weight_scale, "weight_scale", input, "input", at::kFloat, {out_features},
                  "one for each output feature");
  check_packed_weight_of(packed_weight, out_features, input, "input");
  check_depth(input, "input", true, kSplitLayer);
  check_weight_sum(weight_sum, input, "input", out_features);
  if (bias) {
    check_companion(*bias, "bias", input, "input", at::kFloat, {out_features},
                    "one for each output feature");
  }
  check_activation(activation);
}

inline void check_linear_dynamic(const Tensor& input, const Tensor& packed_weight,
                                 const Tensor& weight_scale, const Tensor& weight_sum,
                                 const std::optional<Tensor>& bias, std::string_view activation) {
  check_float(input, "input");
  check_layer(input, packed_weight, weight_scale, weight_sum, bias, activation);
}

// The dtype of linear_static's result.
inline ScalarType check_output_dtype(const Tensor& input, bool requantized,
                                     std::optional<ScalarType> output_dtype) {
  if (requantized) {
    const ScalarType dtype = output_dtype.value_or(at::kByte);
    TORCH_CHECK(is_byte(dtype), "output_dtype must be uint8 or int8 with output_scale, but got ",
                dtype_name(dtype),
                ": leave output_scale and output_zero_point out for a float result");
    return dtype;
  }
  const ScalarType dtype =
      output_dtype.value_or(is_float(input.scalar_type()) ? input.scalar_type() : at::kFloat);
  TORCH_CHECK(!is_byte(dtype), "output_dtype ", dtype_name(dtype),
              " needs output_scale and output_zero_point, but got None: pass those of the layer "
              "that reads the result");
  TORCH_CHECK(is_float(dtype), "output_dtype must be float32, float16, bfloat16, uint8 or int8, ",
              "but got ", dtype_name(dtype), ": pass torch.float32 and convert the result");
  return dtype;
}

inline ScalarType check_linear_static(const Tensor& input, const Tensor& input_scale,
                                      const Tensor& input_zero_point, const Tensor& packed_weight,
                                      const Tensor& weight_scale, const Tensor& weight_sum,
                                      const std::optional<Tensor>& bias,
                                      std::string_view activation,
                                      const std::optional<Tensor>& output_scale,
                                      const std::optional<Tensor>& output_zero_point,
                                      std::optional<ScalarType> output_dtype) {
  check_defined(input, "input");
  TORCH_CHECK(is_float(input.scalar_type()) || is_byte(input.scalar_type()),
              "input must be float32, float16, bfloat16, uint8 or int8, but got ",
              dtype_name(input.scalar_type()), ": convert it with .float()");
  const char* mend = "static quantization is per tensor, pass 0-dim tensors";
  check_one_element(input_scale, "input_scale", input, at::kFloat, mend);
  check_one_element(input_zero_point, "input_zero_point", input, at::kInt, mend);
  check_layer(input, packed_weight, weight_scale, weight_sum, bias, activation);
  TORCH_CHECK(output_scale.has_value() == output_zero_point.has_value(),
              "output_scale and output_zero_point must be given together, but got only ",
              output_scale ? "output_scale" : "output_zero_point",
              ": pass both for an 8-bit result, or neither for a float one");
  if (output_scale) {
    check_one_element(*output_scale, "output_scale", input, at::kFloat, mend);
    check_one_element(*output_zero_point, "output_zero_point", input, at::kInt, mend);
  }
  return check_output_dtype(input, output_scale.has_value(), output_dtype);
}

}  // namespace torchquant::ops

// The C++ API of torchquant: one function for each operator of torch.ops.torchquant, with its name,
// argument order and meaning, called through the dispatcher; and, at the end, layers, calibration
// and files for programs without Python. Wrong arguments throw c10::Error.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/ScalarType.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>

#define TORCHQUANT_API __attribute__((visibility("default")))

namespace torchquant {

// real = scale * (q - zero_point); scale is float32, zero_point int32, q lies in
// [quant_min, quant_max] within [-65536, 65535]. Float means float32, float16 or bfloat16. Results
// are fresh and contiguous.

// Scale and zero point from the range of a float input: 0-dim; [C] along axis; [..., ceil(K / g)]
// for each group of g neighbours of the last dimension, the last of which may be shorter; [..., 1]
// for each row of it. Symmetric: absmax / quant_max and 0. Affine: the range, widened to contain 0,
// onto [quant_min, quant_max]. NaN or Inf gives a NaN scale.
TORCHQUANT_API std::tuple<at::Tensor, at::Tensor> choose_qparams_per_tensor(const at::Tensor& input,
                                                                            int64_t quant_min,
                                                                            int64_t quant_max,
                                                                            bool symmetric);
TORCHQUANT_API std::tuple<at::Tensor, at::Tensor> choose_qparams_per_channel(
    const at::Tensor& input, int64_t axis, int64_t quant_min, int64_t quant_max, bool symmetric);
TORCHQUANT_API std::tuple<at::Tensor, at::Tensor> choose_qparams_per_group(const at::Tensor& input,
                                                                           int64_t group_size,
                                                                           int64_t quant_min,
                                                                           int64_t quant_max,
                                                                           bool symmetric);
TORCHQUANT_API std::tuple<at::Tensor, at::Tensor> choose_qparams_per_token(const at::Tensor& input,
                                                                           int64_t quant_min,
                                                                           int64_t quant_max,
                                                                           bool symmetric);

// q = clamp(round_half_even(x * (1 / scale)) + zero_point, quant_min, quant_max), as int8, uint8,
// int16 or int32. NaN gives quant_min.
TORCHQUANT_API at::Tensor quantize_per_tensor(const at::Tensor& input, const at::Tensor& scale,
                                              const at::Tensor& zero_point, int64_t quant_min,
                                              int64_t quant_max, at::ScalarType dtype);
TORCHQUANT_API at::Tensor quantize_per_channel(const at::Tensor& input, const at::Tensor& scale,
                                               const at::Tensor& zero_point, int64_t axis,
                                               int64_t quant_min, int64_t quant_max,
                                               at::ScalarType dtype);
TORCHQUANT_API at::Tensor quantize_per_group(const at::Tensor& input, const at::Tensor& scale,
                                             const at::Tensor& zero_point, int64_t group_size,
                                             int64_t quant_min, int64_t quant_max,
                                             at::ScalarType dtype);
TORCHQUANT_API at::Tensor quantize_per_token(const at::Tensor& input, const at::Tensor& scale,
                                             const at::Tensor& zero_point, int64_t quant_min,
                                             int64_t quant_max, at::ScalarType dtype);

// Chooses and quantizes in one call: the codes, the scale and the zero point.
TORCHQUANT_API std::tuple<at::Tensor, at::Tensor, at::Tensor> quantize_dynamic_per_tensor(
    const at::Tensor& input, int64_t quant_min, int64_t quant_max, bool symmetric,
    at::ScalarType dtype);
TORCHQUANT_API std::tuple<at::Tensor, at::Tensor, at::Tensor> quantize_dynamic_per_token(
    const at::Tensor& input, int64_t quant_min, int64_t quant_max, bool symmetric,
    at::ScalarType dtype);
TORCHQUANT_API std::tuple<at::Tensor, at::Tensor, at::Tensor> quantize_dynamic_per_group(
    const at::Tensor& input, int64_t group_size, int64_t quant_min, int64_t quant_max,
    bool symmetric, at::ScalarType dtype);

// x = (q - zero_point) * scale, rounded once to out_dtype.
TORCHQUANT_API at::Tensor dequantize_per_tensor(const at::Tensor& input, const at::Tensor& scale,
                                                const at::Tensor& zero_point,
                                                at::ScalarType out_dtype = at::kFloat);
TORCHQUANT_API at::Tensor dequantize_per_channel(const at::Tensor& input, const at::Tensor& scale,
                                                 const at::Tensor& zero_point, int64_t axis,
                                                 at::ScalarType out_dtype = at::kFloat);
TORCHQUANT_API at::Tensor dequantize_per_group(const at::Tensor& input, const at::Tensor& scale,
                                               const at::Tensor& zero_point, int64_t group_size,
                                               at::ScalarType out_dtype = at::kFloat);
TORCHQUANT_API at::Tensor dequantize_per_token(const at::Tensor& input, const at::Tensor& scale,
                                               const at::Tensor& zero_point,
                                               at::ScalarType out_dtype = at::kFloat);

// The same into a tensor of the result's shape and dtype, at any strides.
TORCHQUANT_API void quantize_per_tensor_out(const at::Tensor& input, const at::Tensor& scale,
                                            const at::Tensor& zero_point, int64_t quant_min,
                                            int64_t quant_max, at::ScalarType dtype,
                                            at::Tensor& out);
TORCHQUANT_API void dequantize_per_tensor_out(const at::Tensor& input, const at::Tensor& scale,
                                              const at::Tensor& zero_point,
                                              at::ScalarType out_dtype, at::Tensor& out);
TORCHQUANT_API void quantize_per_channel_out(const at::Tensor& input, const at::Tensor& scale,
                                             const at::Tensor& zero_point, int64_t axis,
                                             int64_t quant_min, int64_t quant_max,
                                             at::ScalarType dtype, at::Tensor& out);
TORCHQUANT_API void dequantize_per_channel_out(const at::Tensor& input, const at::Tensor& scale,
                                               const at::Tensor& zero_point, int64_t axis,
                                               at::ScalarType out_dtype, at::Tensor& out);
TORCHQUANT_API void quantize_per_group_out(const at::Tensor& input, const at::Tensor& scale,
                                           const at::Tensor& zero_point, int64_t group_size,
                                           int64_t quant_min, int64_t quant_max,
                                           at::ScalarType dtype, at::Tensor& out);
TORCHQUANT_API void dequantize_per_group_out(const at::Tensor& input, const at::Tensor& scale,
                                             const at::Tensor& zero_point, int64_t group_size,
                                             at::ScalarType out_dtype, at::Tensor& out);
TORCHQUANT_API void quantize_per_token_out(const at::Tensor& input, const at::Tensor& scale,
                                           const at::Tensor& zero_point, int64_t quant_min,
                                           int64_t quant_max, at::ScalarType dtype,
                                           at::Tensor& out);
TORCHQUANT_API void dequantize_per_token_out(const at::Tensor& input, const at::Tensor& scale,
                                             const at::Tensor& zero_point, at::ScalarType out_dtype,
                                             at::Tensor& out);

// x quantized and dequantized at once, in its dtype, with a gradient: straight through for x within
// [quant_min, quant_max], zero beyond; for a scale that requires one, that of LSQ without its
// factor: round(v) - v within, quant_min - zero_point below, quant_max - zero_point above, where
// v = x / scale.
TORCHQUANT_API at::Tensor fake_quantize_per_tensor(const at::Tensor& input, const at::Tensor& scale,
                                                   const at::Tensor& zero_point, int64_t quant_min,
                                                   int64_t quant_max);
TORCHQUANT_API at::Tensor fake_quantize_per_channel(const at::Tensor& input,
                                                    const at::Tensor& scale,
                                                    const at::Tensor& zero_point, int64_t axis,
                                                    int64_t quant_min, int64_t quant_max);
TORCHQUANT_API void fake_quantize_per_tensor_out(const at::Tensor& input, const at::Tensor& scale,
                                                 const at::Tensor& zero_point, int64_t quant_min,
                                                 int64_t quant_max, at::Tensor& out);
TORCHQUANT_API void fake_quantize_per_channel_out(const at::Tensor& input, const at::Tensor& scale,
                                                  const at::Tensor& zero_point, int64_t axis,
                                                  int64_t quant_min, int64_t quant_max,
                                                  at::Tensor& out);
// The gradients of its input and of its scale, the latter empty where it is not required.
TORCHQUANT_API std::tuple<at::Tensor, at::Tensor> fake_quantize_per_tensor_backward(
    const at::Tensor& grad, const at::Tensor& input, const at::Tensor& scale,
    const at::Tensor& zero_point, int64_t quant_min, int64_t quant_max, bool scale_requires_grad);
TORCHQUANT_API std::tuple<at::Tensor, at::Tensor> fake_quantize_per_channel_backward(
    const at::Tensor& grad, const at::Tensor& input, const at::Tensor& scale,
    const at::Tensor& zero_point, int64_t axis, int64_t quant_min, int64_t quant_max,
    bool scale_requires_grad);

// float64 [4]: max and mean absolute error, mean squared error, and the signal-to-noise ratio in
// dB.
TORCHQUANT_API at::Tensor quantization_error(const at::Tensor& original,
                                             const at::Tensor& approximation);

// int8 or uint8 codes of num_bits in [2, 8], packed without gaps: value i of a row takes bits
// [i * num_bits, (i + 1) * num_bits) of its bytes. unpack_bits extends the sign for int8.
TORCHQUANT_API at::Tensor pack_bits(const at::Tensor& input, int64_t num_bits);
TORCHQUANT_API at::Tensor unpack_bits(const at::Tensor& packed, int64_t num_bits, int64_t last_dim,
                                      at::ScalarType dtype);

// int8 [N, K] to int8 [ceil(N / 16), ceil(K / 4), 16, 4], zero padded, and back.
TORCHQUANT_API at::Tensor pack_weight(const at::Tensor& weight);
TORCHQUANT_API at::Tensor unpack_weight(const at::Tensor& packed, int64_t out_features,
                                        int64_t in_features);

// The exact int32 product of int8 or uint8 [..., M, K] and [..., K, N]; of [..., K] and a packed
// weight, whose row sums (int32 [N]) are computed where they are not given.
TORCHQUANT_API at::Tensor int8_matmul(const at::Tensor& a, const at::Tensor& b);
TORCHQUANT_API at::Tensor int8_matmul_packed(
    const at::Tensor& a, const at::Tensor& packed_weight, int64_t out_features,
    const std::optional<at::Tensor>& weight_sum = std::nullopt);

// activation(input x weight^T + bias) with an int8 weight, float32 scale [N], int32 row sums [N]
// and float32 bias [N]; each row of the input is quantized to uint8 on the way. activation is
// "none" or "relu". The result has the dtype of the input.
TORCHQUANT_API at::Tensor linear_dynamic(const at::Tensor& input, const at::Tensor& packed_weight,
                                         const at::Tensor& weight_scale,
                                         const at::Tensor& weight_sum,
                                         const std::optional<at::Tensor>& bias = std::nullopt,
                                         std::string_view activation = "none");

// The same with the input quantized to uint8 by one given scale and zero point (one element each);
// an int8 or uint8 input is taken as it is. With output_scale and output_zero_point the result is
// quantized to output_dtype, uint8 or int8; otherwise it is float, of output_dtype or the input's.
TORCHQUANT_API at::Tensor linear_static(
    const at::Tensor& input, const at::Tensor& input_scale, const at::Tensor& input_zero_point,
    const at::Tensor& packed_weight, const at::Tensor& weight_scale, const at::Tensor& weight_sum,
    const std::optional<at::Tensor>& bias = std::nullopt, std::string_view activation = "none",
    const std::optional<at::Tensor>& output_scale = std::nullopt,
    const std::optional<at::Tensor>& output_zero_point = std::nullopt,
    std::optional<at::ScalarType> output_dtype = std::nullopt);

// The calibration state: counts, int64 [32768], zero at first, and range, float32 [2], +Inf and
// -Inf at first. Observing adds a float input to it, in one pass: each value to the bin that its
// sign, exponent and 6 bits of its mantissa are; the finite ones to the minimum and maximum. States
// of several tensors are merged by adding their counts and taking the wider range.
TORCHQUANT_API void histogram_observe_(at::Tensor& counts, at::Tensor& range,
                                       const at::Tensor& input);

// Scale and zero point, 0-dim, for what was observed. method is "minmax", exact; "percentile" (in
// (50, 100]) of |x| or, affine, (100 - percentile) / 2 on either side; "mse", the least squared
// error; or "entropy". Throws where NaN or Inf was observed.
TORCHQUANT_API std::tuple<at::Tensor, at::Tensor> histogram_qparams(
    const at::Tensor& counts, const at::Tensor& range, int64_t quant_min, int64_t quant_max,
    bool symmetric, std::string_view method, double percentile);

// The kernel set in use: "avx512vnni", "avxvnni", "avx2" or "scalar" (see TORCHQUANT_KERNELS).
TORCHQUANT_API std::string active_kernels();

// For programs without Python: what torchquant.nn, torchquant.Calibration and
// torchquant.save_quantized are there, with the same results and the same files.

// A linear layer of N outputs and K inputs with an int8 weight.
struct TORCHQUANT_API QuantizedLinear {
  std::string scheme = "dynamic";  // or "static" or "weight_only"
  int64_t in_features = 0;
  int64_t out_features = 0;
  std::string activation = "none";  // or "relu"
  at::Tensor packed_weight;         // of pack_weight
  at::Tensor weight_scale;          // float32 [N]
  at::Tensor weight_sum;            // int32 [N], the sums of the rows of the int8 weight
  std::optional<at::Tensor> bias;   // float32 [N]
  // What is left of the float weight: 10 log10(signal / error); empty where it is not known.
  std::optional<double> weight_snr_db;

  // Static only, 0-dim: how the input is quantized, to uint8; and, where the layer gives 8 bits,
  // the output, to output_dtype or uint8. Without them output_dtype is that of a float output.
  std::optional<at::Tensor> input_scale, input_zero_point;
  std::optional<at::Tensor> output_scale, output_zero_point;
  std::optional<at::ScalarType> output_dtype;

  // [..., K] to [..., N], by linear_dynamic, by linear_static, or in float with weight().
  at::Tensor forward(const at::Tensor& input) const;
  at::Tensor operator()(const at::Tensor& input) const { return forward(input); }

  // The weight that the layer stands for, [N, K], computed at every call.
  at::Tensor weight(at::ScalarType dtype = at::kFloat) const;
};

// Layers that do what a float one does: weight [N, K], bias [N] or undefined, as it is in a
// torch::nn::Linear without one, both of any float dtype.
// Symmetric, one scale for each output. Static with what Histogram::qparams gave for the input,
// codes 0 to 255.
TORCHQUANT_API QuantizedLinear quantize_linear(const at::Tensor& weight,
                                               const std::optional<at::Tensor>& bias = std::nullopt,
                                               std::string_view activation = "none");
TORCHQUANT_API QuantizedLinear quantize_linear_static(const at::Tensor& weight,
                                                      const std::optional<at::Tensor>& bias,
                                                      const at::Tensor& input_scale,
                                                      const at::Tensor& input_zero_point,
                                                      std::string_view activation = "none");

// What calibration keeps of the activations that it saw, and what it reads from them.
struct TORCHQUANT_API Histogram {
  at::Tensor counts, range;  // as histogram_observe_ takes them

  Histogram();
  Histogram(const Histogram& other);  // copies have memory of their own
  Histogram& operator=(const Histogram& other);
  Histogram(Histogram&&) noexcept = default;
  Histogram& operator=(Histogram&&) noexcept = default;
  ~Histogram() = default;
  void observe(const at::Tensor& input);
  // Adds what another observed.
  void merge(const Histogram& other);
  std::tuple<at::Tensor, at::Tensor> qparams(int64_t quant_min = 0, int64_t quant_max = 255,
                                             bool symmetric = false,
                                             std::string_view method = "mse",
                                             double percentile = 99.99) const;
};

// A quantized model's state: its layers, and the tensors that belong to none of them, by their
// names in Python's state dict. Tensors that are the same memory are stored once, and shared again
// when they are loaded.
struct QuantizedModel {
  std::map<std::string, QuantizedLinear> layers;
  std::map<std::string, at::Tensor> tensors;
};

// The files of torchquant.save_quantized: safetensors, their format in docs/deployment.md. A layer
// that a model has under several names is a layer of the first, and has its tensors under the other
// names. Saving replaces an old file whole or not at all, and refuses what could not be loaded.
// Loading refuses a file whole, saying what is wrong with which key, where it is damaged, foreign
// or of a newer version.
TORCHQUANT_API void save_quantized(const QuantizedModel& model, const std::string& path);
TORCHQUANT_API QuantizedModel load_quantized(const std::string& path);

namespace detail {
TORCHQUANT_API bool link();
// A program that only loads a TorchScript file calls no function of this library, and its linker
// would drop it (--as-needed): this reference keeps it.
[[maybe_unused]] static const bool linked = link();
}  // namespace detail

}  // namespace torchquant

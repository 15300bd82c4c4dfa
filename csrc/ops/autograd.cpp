// The operators without a derivative: their results do not require grad, also where their inputs
// do. Left unregistered, PyTorch would return a grad_fn that warns and yields no gradient.
#include <torch/library.h>

namespace torchquant::ops {

TORCH_LIBRARY_IMPL(torchquant, Autograd, m) {
  m.impl("choose_qparams_per_tensor", torch::CppFunction::makeFallthrough());
  m.impl("choose_qparams_per_channel", torch::CppFunction::makeFallthrough());
  m.impl("choose_qparams_per_group", torch::CppFunction::makeFallthrough());
  m.impl("choose_qparams_per_token", torch::CppFunction::makeFallthrough());
  m.impl("quantize_per_tensor", torch::CppFunction::makeFallthrough());
  m.impl("quantize_per_channel", torch::CppFunction::makeFallthrough());
  m.impl("quantize_per_group", torch::CppFunction::makeFallthrough());
  m.impl("quantize_per_token", torch::CppFunction::makeFallthrough());
  m.impl("dequantize_per_tensor", torch::CppFunction::makeFallthrough());
  m.impl("dequantize_per_channel", torch::CppFunction::makeFallthrough());
  m.impl("dequantize_per_group", torch::CppFunction::makeFallthrough());
  m.impl("dequantize_per_token", torch::CppFunction::makeFallthrough());
  m.impl("quantize_dynamic_per_tensor", torch::CppFunction::makeFallthrough());
  m.impl("quantize_dynamic_per_token", torch::CppFunction::makeFallthrough());
  m.impl("quantization_error", torch::CppFunction::makeFallthrough());
  m.impl("pack_bits", torch::CppFunction::makeFallthrough());
  m.impl("unpack_bits", torch::CppFunction::makeFallthrough());
  m.impl("pack_weight", torch::CppFunction::makeFallthrough());
  m.impl("unpack_weight", torch::CppFunction::makeFallthrough());
  m.impl("int8_matmul", torch::CppFunction::makeFallthrough());
  m.impl("int8_matmul_packed", torch::CppFunction::makeFallthrough());
  m.impl("linear_dynamic", torch::CppFunction::makeFallthrough());
  m.impl("linear_static", torch::CppFunction::makeFallthrough());
}

}  // namespace torchquant::ops

// The operators without a derivative (fake_quantize_autograd.cpp has the others): their results do
// not require grad, also where their inputs do. Left unregistered, PyTorch would return a grad_fn
// that warns and yields no gradient.
#include <ATen/core/grad_mode.h>
#include <c10/util/SmallVector.h>
#include <torch/library.h>

#include <string>
#include <utility>

namespace torchquant::ops {
namespace {

using Written = c10::SmallVector<std::pair<const std::string*, at::Tensor>, 2>;

// The arguments that the schema says are written, by name.
Written written(const c10::OperatorHandle& op, const torch::jit::Stack& stack) {
  Written found;
  const auto& arguments = op.schema().arguments();
  const size_t first = stack.size() - arguments.size();
  for (size_t i = 0; i < arguments.size(); ++i) {
    const auto* alias = arguments[i].alias_info();
    if (alias == nullptr || !alias->isWrite()) continue;
    found.emplace_back(&arguments[i].name(), stack[first + i].toTensor());
  }
  return found;
}

// What is written is no longer what autograd saved: its version says so.
void bump_written(const c10::OperatorHandle& op, c10::DispatchKeySet keys,
                  torch::jit::Stack* stack) {
  const auto tensors = written(op, *stack);
  for (const auto& [name, tensor] : tensors) {
    TORCH_CHECK(!(at::GradMode::is_enabled() && tensor.requires_grad()), *name,
                " must not require grad, but it does: pass ", *name, ".detach()");
  }
  op.redispatchBoxed(keys & c10::after_ADInplaceOrView_keyset, stack);
  for (const auto& [name, tensor] : tensors) {
    if (!tensor.is_inference()) tensor.unsafeGetTensorImpl()->bump_version();
  }
}

// fake_quantize has a derivative, but not into a tensor that is given: as PyTorch's own operators.
void refuse_gradient(const c10::OperatorHandle& op, c10::DispatchKeySet keys,
                     torch::jit::Stack* stack) {
  const size_t first = stack->size() - op.schema().arguments().size();
  for (const char* name : {"input", "scale"}) {
    const auto index = *op.schema().argumentIndexWithName(name);
    TORCH_CHECK(!(at::GradMode::is_enabled() && (*stack)[first + index].toTensor().requires_grad()),
                name,
                " must not require grad where out is given, but it does: call the operator "
                "without out, or under torch.no_grad()");
  }
  op.redispatchBoxed(keys & c10::after_autograd_keyset, stack);
}

}  // namespace

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
  m.impl("quantize_dynamic_per_group", torch::CppFunction::makeFallthrough());
  m.impl("quantize_per_tensor.out", torch::CppFunction::makeFallthrough());
  m.impl("dequantize_per_tensor.out", torch::CppFunction::makeFallthrough());
  m.impl("quantize_per_channel.out", torch::CppFunction::makeFallthrough());
  m.impl("dequantize_per_channel.out", torch::CppFunction::makeFallthrough());
  m.impl("quantize_per_group.out", torch::CppFunction::makeFallthrough());
  m.impl("dequantize_per_group.out", torch::CppFunction::makeFallthrough());
  m.impl("quantize_per_token.out", torch::CppFunction::makeFallthrough());
  m.impl("dequantize_per_token.out", torch::CppFunction::makeFallthrough());
  m.impl("fake_quantize_per_tensor.out",
         torch::CppFunction::makeFromBoxedFunction<&refuse_gradient>());
  m.impl("fake_quantize_per_channel.out",
         torch::CppFunction::makeFromBoxedFunction<&refuse_gradient>());
  m.impl("quantization_error", torch::CppFunction::makeFallthrough());
  m.impl("pack_bits", torch::CppFunction::makeFallthrough());
  m.impl("unpack_bits", torch::CppFunction::makeFallthrough());
  m.impl("pack_weight", torch::CppFunction::makeFallthrough());
  m.impl("unpack_weight", torch::CppFunction::makeFallthrough());
  m.impl("int8_matmul", torch::CppFunction::makeFallthrough());
  m.impl("int8_matmul_packed", torch::CppFunction::makeFallthrough());
  m.impl("linear_dynamic", torch::CppFunction::makeFallthrough());
  m.impl("linear_static", torch::CppFunction::makeFallthrough());
  m.impl("histogram_observe_", torch::CppFunction::makeFallthrough());
  m.impl("histogram_qparams", torch::CppFunction::makeFallthrough());
}

TORCH_LIBRARY_IMPL(torchquant, ADInplaceOrView, m) {
  m.impl("quantize_per_tensor.out", torch::CppFunction::makeFromBoxedFunction<&bump_written>());
  m.impl("dequantize_per_tensor.out", torch::CppFunction::makeFromBoxedFunction<&bump_written>());
  m.impl("quantize_per_channel.out", torch::CppFunction::makeFromBoxedFunction<&bump_written>());
  m.impl("dequantize_per_channel.out", torch::CppFunction::makeFromBoxedFunction<&bump_written>());
  m.impl("quantize_per_group.out", torch::CppFunction::makeFromBoxedFunction<&bump_written>());
  m.impl("dequantize_per_group.out", torch::CppFunction::makeFromBoxedFunction<&bump_written>());
  m.impl("quantize_per_token.out", torch::CppFunction::makeFromBoxedFunction<&bump_written>());
  m.impl("dequantize_per_token.out", torch::CppFunction::makeFromBoxedFunction<&bump_written>());
  m.impl("fake_quantize_per_tensor.out",
         torch::CppFunction::makeFromBoxedFunction<&bump_written>());
  m.impl("fake_quantize_per_channel.out",
         torch::CppFunction::makeFromBoxedFunction<&bump_written>());
  m.impl("histogram_observe_", torch::CppFunction::makeFromBoxedFunction<&bump_written>());
}

}  // namespace torchquant::ops

// The operators without a derivative (fake_quantize_autograd.cpp has the others): their results do
// not require grad, also where their inputs do. Left unregistered, PyTorch would return a grad_fn
// that warns and yields no gradient.
#include <ATen/core/grad_mode.h>
#include <torch/library.h>

namespace torchquant::ops {
namespace {

// What is written is no longer what autograd saved: its version says so.
void bump(const at::Tensor& written) {
  if (!written.is_inference()) written.unsafeGetTensorImpl()->bump_version();
}

// `out` comes last.
void bump_out(const c10::OperatorHandle& op, c10::DispatchKeySet keys, torch::jit::Stack* stack) {
  const at::Tensor out = stack->back().toTensor();
  TORCH_CHECK(!(at::GradMode::is_enabled() && out.requires_grad()),
              "out must not require grad, but it does: codes and their values have no derivative "
              "here, pass out.detach()");
  op.redispatchBoxed(keys & c10::after_ADInplaceOrView_keyset, stack);
  bump(out);
}

void bump_state(c10::DispatchKeySet keys, at::Tensor& counts, at::Tensor& range,
                const at::Tensor& input) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("torchquant::histogram_observe_", "")
                             .typed<void(at::Tensor&, at::Tensor&, const at::Tensor&)>();
  TORCH_CHECK(!(at::GradMode::is_enabled() && range.requires_grad()),
              "range must not require grad, but it does: pass range.detach()");
  op.redispatch(keys & c10::after_ADInplaceOrView_keyset, counts, range, input);
  bump(counts);
  bump(range);
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
  m.impl("quantize_per_tensor.out", torch::CppFunction::makeFromBoxedFunction<&bump_out>());
  m.impl("dequantize_per_tensor.out", torch::CppFunction::makeFromBoxedFunction<&bump_out>());
  m.impl("quantize_per_channel.out", torch::CppFunction::makeFromBoxedFunction<&bump_out>());
  m.impl("dequantize_per_channel.out", torch::CppFunction::makeFromBoxedFunction<&bump_out>());
  m.impl("quantize_per_group.out", torch::CppFunction::makeFromBoxedFunction<&bump_out>());
  m.impl("dequantize_per_group.out", torch::CppFunction::makeFromBoxedFunction<&bump_out>());
  m.impl("quantize_per_token.out", torch::CppFunction::makeFromBoxedFunction<&bump_out>());
  m.impl("dequantize_per_token.out", torch::CppFunction::makeFromBoxedFunction<&bump_out>());
  m.impl("fake_quantize_per_tensor.out", torch::CppFunction::makeFromBoxedFunction<&bump_out>());
  m.impl("fake_quantize_per_channel.out", torch::CppFunction::makeFromBoxedFunction<&bump_out>());
  m.impl("histogram_observe_", &bump_state);
}

}  // namespace torchquant::ops

// The derivative of fake_quantize: its backward is an operator of its own, so that torch.compile
// sees one node. That one has no derivative, and says so when asked for it.
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "../torchquant.h"
#include "check.h"

namespace torchquant::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

void save(AutogradContext* context, const Tensor& input, const Tensor& scale,
          const Tensor& zero_point, int64_t quant_min, int64_t quant_max) {
  context->save_for_backward({input, scale, zero_point});
  context->saved_data["quant_min"] = quant_min;
  context->saved_data["quant_max"] = quant_max;
}

// The gradient of the scale, undefined where none was asked for.
Tensor required(const Tensor& gradient, bool is_required) {
  return is_required ? gradient : Tensor();
}

class FakeQuantizePerTensor : public torch::autograd::Function<FakeQuantizePerTensor> {
 public:
  static Tensor forward(AutogradContext* context, const Tensor& input, const Tensor& scale,
                        const Tensor& zero_point, int64_t quant_min, int64_t quant_max) {
    const at::AutoDispatchBelowADInplaceOrView below;
    save(context, input, scale, zero_point, quant_min, quant_max);
    return fake_quantize_per_tensor(input, scale, zero_point, quant_min, quant_max);
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const auto saved = context->get_saved_variables();
    const bool slope = context->needs_input_grad(1);
    const auto [input, scale] = fake_quantize_per_tensor_backward(
        grads[0], saved[0], saved[1], saved[2], context->saved_data["quant_min"].toInt(),
        context->saved_data["quant_max"].toInt(), slope);
    return {input, required(scale, slope), Tensor(), Tensor(), Tensor()};
  }
};

class FakeQuantizePerChannel : public torch::autograd::Function<FakeQuantizePerChannel> {
 public:
  static Tensor forward(AutogradContext* context, const Tensor& input, const Tensor& scale,
                        const Tensor& zero_point, int64_t axis, int64_t quant_min,
                        int64_t quant_max) {
    const at::AutoDispatchBelowADInplaceOrView below;
    save(context, input, scale, zero_point, quant_min, quant_max);
    context->saved_data["axis"] = axis;
    return fake_quantize_per_channel(input, scale, zero_point, axis, quant_min, quant_max);
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const auto saved = context->get_saved_variables();
    const bool slope = context->needs_input_grad(1);
    const auto [input, scale] = fake_quantize_per_channel_backward(
        grads[0], saved[0], saved[1], saved[2], context->saved_data["axis"].toInt(),
        context->saved_data["quant_min"].toInt(), context->saved_data["quant_max"].toInt(), slope);
    return {input, required(scale, slope), Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

// Before autograd looks at them; everything else is checked below it.
void check_arguments(const Tensor& input, const Tensor& scale, const Tensor& zero_point) {
  check_strided(input, "input");
  check_strided(scale, "scale");
  check_strided(zero_point, "zero_point");
}

Tensor fake_quantize_per_tensor_autograd(const Tensor& input, const Tensor& scale,
                                         const Tensor& zero_point, int64_t quant_min,
                                         int64_t quant_max) {
  check_arguments(input, scale, zero_point);
  return FakeQuantizePerTensor::apply(input, scale, zero_point, quant_min, quant_max);
}

Tensor fake_quantize_per_channel_autograd(const Tensor& input, const Tensor& scale,
                                          const Tensor& zero_point, int64_t axis, int64_t quant_min,
                                          int64_t quant_max) {
  check_arguments(input, scale, zero_point);
  return FakeQuantizePerChannel::apply(input, scale, zero_point, axis, quant_min, quant_max);
}

}  // namespace

TORCH_LIBRARY_IMPL(torchquant, Autograd, m) {
  m.impl("fake_quantize_per_tensor", &fake_quantize_per_tensor_autograd);
  m.impl("fake_quantize_per_channel", &fake_quantize_per_channel_autograd);
  m.impl("fake_quantize_per_tensor_backward", torch::autograd::autogradNotImplementedFallback());
  m.impl("fake_quantize_per_channel_backward", torch::autograd::autogradNotImplementedFallback());
}

}  // namespace torchquant::ops

#include "elementwise.h"
#include "launch.cuh"

namespace torchquant::kernels::cuda {
void quantize(Queue queue, const Elements& x, Float from, void* q, Int to, int64_t size,
              const Channels& channels, const ChannelParams& params, int32_t shift) {
  with_type(from, [&](auto value) {
    with_type(to, [&](auto code) {
      using From = decltype(value);
      using To = decltype(code);
      run(queue, elementwise(Quantize<From, To>{params.quant_min, params.quant_max, shift},
                             Values<From>{rows_of<From>(x)},
                             ParamsOfChannels{params.scale, params.zero_point}, channels,
                             static_cast<To*>(q), size));
    });
  });
}

void dequantize(Queue queue, const Elements& q, Int from, void* x, Float to, int64_t size,
                const Channels& channels, const float* scale, const int32_t* zero_point) {
  with_type(from, [&](auto code) {
    with_type(to, [&](auto value) {
      using From = decltype(code);
      using To = decltype(value);
      run(queue,
          elementwise(Dequantize<From, To>{}, Values<From>{rows_of<From>(q)},
                      ParamsOfChannels{scale, zero_point}, channels, static_cast<To*>(x), size));
    });
  });
}

void fake_quantize(Queue queue, const Elements& x, Float type, void* y, int64_t size,
                   const Channels& channels, const ChannelParams& params) {
  with_type(type, [&](auto value) {
    using T = decltype(value);
    run(queue,
        elementwise(FakeQuantize<T>{params.quant_min, params.quant_max}, Values<T>{rows_of<T>(x)},
                    ParamsOfChannels{params.scale, params.zero_point}, channels, static_cast<T*>(y),
                    size));
  });
}

void fake_quantize_backward(Queue queue, const void* gradient, const Elements& x, Float type,
                            void* input, int64_t size, const Channels& channels,
                            const ChannelParams& params) {
  with_type(type, [&](auto value) {
    using T = decltype(value);
    run(queue, elementwise(InputGradient<T>{params.quant_min, params.quant_max},
                           GradientAndInput<T>{static_cast<const T*>(gradient), rows_of<T>(x)},
                           ParamsOfChannels{params.scale, params.zero_point}, channels,
                           static_cast<T*>(input), size));
  });
}

}  // namespace torchquant::kernels::cuda

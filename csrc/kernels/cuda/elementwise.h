// One value in, one out: quantize, dequantize, fake_quantize and its gradient, as every CUDA thread
// does them. Vectors begin where the result is aligned; what lies before and behind is done value
// by value with the same formula.
#pragma once

#include "channels.h"

namespace torchquant::kernels::cuda {
namespace {

// Codes are stored less `shift`: 128 makes those of [0, 255] int8.
template <class From, class To>
struct Quantize {
  int32_t quant_min;
  int32_t quant_max;
  int32_t shift;

  TORCHQUANT_HOST_DEVICE To operator()(From x, const ValueParams& p) const {
    const int32_t code =
        quantize_value(to_float(x), p.inv_scale, p.zero_point, quant_min, quant_max);
    return static_cast<To>(code - shift);
  }
};

template <class From, class To>
struct Dequantize {
  TORCHQUANT_HOST_DEVICE To operator()(From code, const ValueParams& p) const {
    return from_float<To>(dequantize_value(code, p.zero_point, p.scale));
  }
};

template <class T>
struct FakeQuantize {
  int32_t quant_min;
  int32_t quant_max;

  TORCHQUANT_HOST_DEVICE T operator()(T x, const ValueParams& p) const {
    const int32_t code =
        quantize_value(to_float(x), p.inv_scale, p.zero_point, quant_min, quant_max);
    return from_float<T>(dequantize_value(code, p.zero_point, p.scale));
  }
};

template <class T>
struct GradientAt {
  T gradient;  // of the output
  T x;
};

// The gradient of the input: that of the output, where x is not clamped.
template <class T>
struct InputGradient {
  int32_t quant_min;
  int32_t quant_max;

  TORCHQUANT_HOST_DEVICE T operator()(GradientAt<T> at, const ValueParams& p) const {
    const FakeQuantizeSlope slope =
        fake_quantize_slope(to_float(at.x), p.inv_scale, p.zero_point, quant_min, quant_max);
    return from_float<T>(slope.inside ? to_float(at.gradient) : 0.0f);
  }
};

// One tensor as what goes in.
template <class T>
struct Values {
  Rows<T> x;

  template <int V>
  struct Several {
    Vector<T, V> x;
    TORCHQUANT_HOST_DEVICE T operator[](int i) const { return x.values[i]; }
  };

  TORCHQUANT_HOST_DEVICE T at(int64_t index) const { return *x.at(index); }
  template <int V>
  TORCHQUANT_HOST_DEVICE Several<V> several(int64_t index) const {
    return {load_vector<T, V>(x.at(index))};
  }
  template <int V>
  TORCHQUANT_HOST_DEVICE bool has_vectors(int64_t head) const {
    return x.template has_vectors<V>(head);
  }
  static constexpr int kBytes = sizeof(T);
};

// Two of them.
template <class T>
struct GradientAndInput {
  const T* gradient;
  Rows<T> x;

  template <int V>
  struct Several {
    Vector<T, V> gradient;
    Vector<T, V> x;
    TORCHQUANT_HOST_DEVICE GradientAt<T> operator[](int i) const {
      return {gradient.values[i], x.values[i]};
    }
  };

  TORCHQUANT_HOST_DEVICE GradientAt<T> at(int64_t index) const {
    return {gradient[index], *x.at(index)};
  }
  template <int V>
  TORCHQUANT_HOST_DEVICE Several<V> several(int64_t index) const {
    return {load_vector<T, V>(gradient + index), load_vector<T, V>(x.at(index))};
  }
  template <int V>
  TORCHQUANT_HOST_DEVICE bool has_vectors(int64_t head) const {
    return is_aligned<T, V>(gradient + head) && x.template has_vectors<V>(head);
  }
  static constexpr int kBytes = sizeof(T);
};

template <class Op, class Inputs, class Out, class Params>
struct Elementwise {
  // Together they fill 16 bytes of the wider side, so that neighbouring threads move what lies side
  // by side with one instruction each.
  static constexpr int kWidth = sizeof(Out) > Inputs::kBytes ? sizeof(Out) : Inputs::kBytes;
  static constexpr int V = kPieceBytes / kWidth;

  Op op;
  Inputs inputs;
  Params params;
  Channels channels;
  Out* out;
  int64_t size;
  int64_t head;      // values before the first vector
  bool has_vectors;  // whether both sides are aligned behind the head

  // The head, where there is one, then V values each, the last time fewer.
  TORCHQUANT_HOST_DEVICE int64_t items() const {
    return (head > 0 ? 1 : 0) + divide_up(size - head, V);
  }

  TORCHQUANT_HOST_DEVICE void operator()(int64_t item) const {
    if (head > 0 && item == 0) return cover_singly(0, head);
    const int64_t begin = head + (head > 0 ? item - 1 : item) * V;
    if (has_vectors && begin + V <= size) return cover_vector(begin);
    cover_singly(begin, smaller(size, begin + V));
  }

 private:
  TORCHQUANT_HOST_DEVICE void cover_singly(int64_t begin, int64_t end) const {
    ChannelWalk walk(channels, begin);
    ValueParams p = params[walk.channel()];
    for (int64_t i = begin; i < end; ++i) {
      out[i] = op(inputs.at(i), p);
      if (walk.next(channels)) p = params[walk.channel()];
    }
  }

  TORCHQUANT_HOST_DEVICE void cover_vector(int64_t begin) const {
    const auto values = inputs.template several<V>(begin);
    const ChannelWalk walk(channels, begin);
    store_vector<Out, V>(out + begin, walk.left() >= V      ? within_run(values, walk.channel())
                                      : channels.inner == 1 ? across_columns(values, walk.channel())
                                                            : across_runs(values, walk));
  }

  template <class Several>
  TORCHQUANT_HOST_DEVICE Vector<Out, V> within_run(const Several& values, int64_t channel) const {
    Vector<Out, V> results;
    const ValueParams p = params[channel];
    TORCHQUANT_UNROLL
    for (int i = 0; i < V; ++i) results.values[i] = op(values[i], p);
    return results;
  }

  // A channel for each value.
  template <class Several>
  TORCHQUANT_HOST_DEVICE Vector<Out, V> across_columns(const Several& values,
                                                       int64_t channel) const {
    Vector<Out, V> results;
    TORCHQUANT_UNROLL
    for (int i = 0; i < V; ++i) {
      results.values[i] = op(values[i], params[channel]);
      channel = channel + 1 == channels.count ? 0 : channel + 1;
    }
    return results;
  }

  template <class Several>
  TORCHQUANT_HOST_DEVICE Vector<Out, V> across_runs(const Several& values, ChannelWalk walk) const {
    Vector<Out, V> results;
    ValueParams p = params[walk.channel()];
    TORCHQUANT_UNROLL
    for (int i = 0; i < V; ++i) {
      results.values[i] = op(values[i], p);
      if (walk.next(channels)) p = params[walk.channel()];
    }
    return results;
  }
};

// The work with its head and its vectors, as the addresses allow.
template <class Op, class Inputs, class Out, class Params>
TORCHQUANT_HOST_DEVICE inline Elementwise<Op, Inputs, Out, Params> elementwise(
    Op op, const Inputs& inputs, const Params& params, const Channels& channels, Out* out,
    int64_t size) {
  using Work = Elementwise<Op, Inputs, Out, Params>;
  const int64_t head = head_of<Out, Work::V>(out, size);
  return {op,  inputs, params, channels,
          out, size,   head,   inputs.template has_vectors<Work::V>(head)};
}

}  // namespace
}  // namespace torchquant::kernels::cuda

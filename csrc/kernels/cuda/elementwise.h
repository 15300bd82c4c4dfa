// One value in, one out: quantize, dequantize, fake_quantize and its gradient, as every CUDA thread
// does them. Vectors begin where the result is aligned; what lies before and behind is done value
// by value with the same formula.
#pragma once

#include "channels.h"

namespace torchquant::kernels::cuda {
namespace {

TORCHQUANT_HOST_DEVICE inline int32_t round_to_int(float x) {
#if defined(__CUDA_ARCH__)
  return __float2int_rn(x);  // one instruction for both steps
#else
  return static_cast<int32_t>(rintf(x));
#endif
}

// What many values are quantized with, to codes of [quant_min, quant_max].
struct QuantizeWith {
  float scale;
  float inv_scale;
  float low = 0;
  float high = 0;
  int32_t zero_point;
  bool narrow;

  TORCHQUANT_HOST_DEVICE QuantizeWith(QParams params, int32_t quant_min, int32_t quant_max)
      : scale(params.scale),
        inv_scale(1.0f / params.scale),
        zero_point(params.zero_point),
        narrow(is_narrow(params.zero_point)) {
    if (narrow) {  // `wide` does without the bounds
      low = static_cast<float>(quant_min - zero_point);
      high = static_cast<float>(quant_max - zero_point);
    }
  }

  TORCHQUANT_HOST_DEVICE float clamp(float x) const {
    return clamp_narrow(x, inv_scale, low, high);
  }
};

// An operation prepares parameters for many values; then narrow(x, with) is for narrow ones, and
// wide(x, with) for all.

// Codes are stored less `shift`: 128 makes those of [0, 255] int8.
template <class From, class To>
struct Quantize {
  using With = QuantizeWith;
  int32_t quant_min;
  int32_t quant_max;
  int32_t shift;

  TORCHQUANT_HOST_DEVICE With prepare(QParams params) const {
    return With(params, quant_min, quant_max);
  }
  TORCHQUANT_HOST_DEVICE To narrow(From x, const With& with) const {
    return static_cast<To>(round_to_int(with.clamp(to_float(x))) + (with.zero_point - shift));
  }
  TORCHQUANT_HOST_DEVICE To wide(From x, const With& with) const {
    const int32_t code =
        quantize_value(to_float(x), with.inv_scale, with.zero_point, quant_min, quant_max);
    return static_cast<To>(code - shift);
  }
};

template <class From, class To>
struct Dequantize {
  struct With {
    float scale;
    int32_t zero_point;
    bool narrow;
  };

  TORCHQUANT_HOST_DEVICE With prepare(QParams params) const {
    const bool fits = sizeof(From) < sizeof(int32_t) && is_narrow(params.zero_point);
    return {params.scale, params.zero_point, fits};
  }
  TORCHQUANT_HOST_DEVICE To narrow(From code, const With& with) const {
    return from_float<To>(static_cast<float>(int32_t{code} - with.zero_point) * with.scale);
  }
  TORCHQUANT_HOST_DEVICE To wide(From code, const With& with) const {
    return from_float<To>(dequantize_value(code, with.zero_point, with.scale));
  }
};

template <class T>
struct FakeQuantize {
  using With = QuantizeWith;
  int32_t quant_min;
  int32_t quant_max;

  TORCHQUANT_HOST_DEVICE With prepare(QParams params) const {
    return With(params, quant_min, quant_max);
  }
  // What is rounded is code - zero_point; + 0 makes -0 the 0 that an integer is.
  TORCHQUANT_HOST_DEVICE T narrow(T x, const With& with) const {
    return from_float<T>((rintf(with.clamp(to_float(x))) + 0.0f) * with.scale);
  }
  TORCHQUANT_HOST_DEVICE T wide(T x, const With& with) const {
    const int32_t code =
        quantize_value(to_float(x), with.inv_scale, with.zero_point, quant_min, quant_max);
    return from_float<T>(dequantize_value(code, with.zero_point, with.scale));
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
  using With = QuantizeWith;
  int32_t quant_min;
  int32_t quant_max;

  TORCHQUANT_HOST_DEVICE With prepare(QParams params) const {
    return With(params, quant_min, quant_max);
  }
  TORCHQUANT_HOST_DEVICE T narrow(GradientAt<T> at, const With& with) const {
    const float rounded = rintf(to_float(at.x) * with.inv_scale);
    return choose(at, with.low <= rounded && rounded <= with.high);
  }
  TORCHQUANT_HOST_DEVICE T wide(GradientAt<T> at, const With& with) const {
    return choose(at, fake_quantize_slope(to_float(at.x), with.inv_scale, with.zero_point,
                                          quant_min, quant_max)
                          .inside);
  }

 private:
  TORCHQUANT_HOST_DEVICE T choose(GradientAt<T> at, bool inside) const {
    return from_float<T>(inside ? to_float(at.gradient) : 0.0f);
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
  // Together they fill 32 bytes of the wider side: with fewer, what precedes every vector tells,
  // and with more, neighbouring threads move what lies too far apart.
  static constexpr int kWidth = sizeof(Out) > Inputs::kBytes ? sizeof(Out) : Inputs::kBytes;
  static constexpr int V = 2 * kPieceBytes / kWidth;
  using With = typename Op::With;

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

  TORCHQUANT_HOST_DEVICE void run(Share share) const {
    const int64_t all = items();
    if (channels.count != 1) {
      for (int64_t i = share.first; i < all; i += share.step) cover(i);
      return;
    }
    if (share.first >= all) return;
    const With with = op.prepare(params[0]);
    for (int64_t i = share.first; i < all; i += share.step) cover_with(i, with);
  }

 private:
  struct Stretch {
    int64_t begin;
    int64_t end;
    bool is_vector;
  };

  TORCHQUANT_HOST_DEVICE Stretch stretch(int64_t item) const {
    if (head > 0 && item == 0) return {0, head, false};
    const int64_t begin = head + (head > 0 ? item - 1 : item) * V;
    return {begin, smaller(size, begin + V), has_vectors && begin + V <= size};
  }

  // Of the only channel.
  TORCHQUANT_HOST_DEVICE void cover_with(int64_t item, const With& with) const {
    const Stretch at = stretch(item);
    if (at.is_vector) return cover_run(at.begin, with);
    for (int64_t i = at.begin; i < at.end; ++i) out[i] = one(inputs.at(i), with);
  }

  TORCHQUANT_HOST_DEVICE void cover(int64_t item) const {
    const Stretch at = stretch(item);
    const ChannelWalk walk(channels, at.begin);
    if (at.is_vector && walk.left() >= V) {
      return cover_run(at.begin, op.prepare(params[walk.channel()]));
    }
    const bool are_columns = channels.inner == 1 && walk.channel() + V <= channels.count;
    if (at.is_vector && are_columns && cover_columns(at.begin, walk.channel())) return;
    cover_singly(at, walk);
  }

  TORCHQUANT_HOST_DEVICE void cover_singly(const Stretch& at, ChannelWalk walk) const {
    With with = op.prepare(params[walk.channel()]);
    for (int64_t i = at.begin; i < at.end; ++i) {
      out[i] = one(inputs.at(i), with);
      if (walk.next(channels)) with = op.prepare(params[walk.channel()]);
    }
  }

  template <class In>
  TORCHQUANT_HOST_DEVICE Out one(const In& value, const With& with) const {
    return with.narrow ? op.narrow(value, with) : op.wide(value, with);
  }

  TORCHQUANT_HOST_DEVICE void cover_run(int64_t begin, const With& with) const {
    const auto values = inputs.template several<V>(begin);
    Vector<Out, V> results;
    if (with.narrow) {
      TORCHQUANT_UNROLL
      for (int i = 0; i < V; ++i) results.values[i] = op.narrow(values[i], with);
    } else {
      TORCHQUANT_UNROLL
      for (int i = 0; i < V; ++i) results.values[i] = op.wide(values[i], with);
    }
    store_vector<Out, V>(out + begin, results);
  }

  // A channel for each value. Returns false, and does nothing, where one of them is not narrow.
  TORCHQUANT_HOST_DEVICE bool cover_columns(int64_t begin, int64_t channel) const {
    const auto each = params.template several<V>(channel);
    bool narrow = true;
    TORCHQUANT_UNROLL
    for (int i = 0; i < V; ++i) narrow = narrow && op.prepare(each[i]).narrow;
    if (!narrow) return false;
    const auto values = inputs.template several<V>(begin);
    Vector<Out, V> results;
    TORCHQUANT_UNROLL
    for (int i = 0; i < V; ++i) results.values[i] = op.narrow(values[i], op.prepare(each[i]));
    store_vector<Out, V>(out + begin, results);
    return true;
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

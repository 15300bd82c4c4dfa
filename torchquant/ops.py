"""The operators of torch.ops.torchquant, typed and documented: the same names and argument order.

Everywhere ``real = scale * (q - zero_point)``, scale float32 and zero_point int32, q in
[quant_min, quant_max] within [-65536, 65535]. *Float* means float32, float16 or bfloat16. Results
are fresh, contiguous and, but for fake_quantize's, without gradient. Inputs may have any strides;
docs/performance.md says which are read in place. Wrong arguments raise RuntimeError.

======================  ==========================================  ==================
granularity             scale and zero_point                        of an input
======================  ==========================================  ==================
``per_tensor``          one element (chosen ones are 0-dim)         of any shape
``per_channel``         ``[C]``, C the size of ``axis``             of 1 or more dims
``per_token``           ``[..., 1]``, one for each last-dim row     of 1 or more dims
``per_group``           ``[..., ceil(K / group_size)]``, K the      of 1 or more dims
                        last dimension; a last group may be short
======================  ==========================================  ==================
"""

import torch
from torch import Tensor

_ops = torch.ops.torchquant


def choose_qparams_per_tensor(
    input: Tensor, quant_min: int, quant_max: int, symmetric: bool
) -> tuple[Tensor, Tensor]:
    """Scale and zero point for the range of a whole tensor.

    Symmetric: ``scale = max|x| / quant_max``, zero point 0. Affine: the range is widened to contain
    0, ``scale = (max - min) / (quant_max - quant_min)`` and
    ``zero_point = clamp(quant_min - rint(min / scale))``. Computed in float64, rounded once.

    Args:
        input: Float tensor of any shape. All zero or empty gives scale 1; NaN or Inf a NaN scale.
        quant_min: Least code.
        quant_max: Greatest code, above quant_min.
        symmetric: Whether zero_point is 0. Needs ``quant_min < 0 < quant_max``.

    Returns:
        scale, float32 ``[]``, and zero_point, int32 ``[]``.

    Raises:
        RuntimeError: input is not float, or quant_min and quant_max do not form a range.
    """
    result: tuple[Tensor, Tensor] = _ops.choose_qparams_per_tensor(
        input, quant_min, quant_max, symmetric
    )
    return result


def choose_qparams_per_channel(
    input: Tensor, axis: int, quant_min: int, quant_max: int, symmetric: bool
) -> tuple[Tensor, Tensor]:
    """Scales and zero points for the range of each slice along ``axis`` (negative from the end).

    The equations are those of :func:`choose_qparams_per_tensor`.

    Returns:
        scale, float32 ``[C]``, and zero_point, int32 ``[C]``, with C the size of ``axis``.

    Raises:
        RuntimeError: also where ``axis`` is not a dimension of input.
    """
    result: tuple[Tensor, Tensor] = _ops.choose_qparams_per_channel(
        input, axis, quant_min, quant_max, symmetric
    )
    return result


def choose_qparams_per_group(
    input: Tensor, group_size: int, quant_min: int, quant_max: int, symmetric: bool
) -> tuple[Tensor, Tensor]:
    """Scales and zero points for each ``group_size`` neighbours of the last dimension.

    The equations are those of :func:`choose_qparams_per_tensor`. The last group of a row has what
    is left, where group_size does not divide it.

    Returns:
        scale, float32 ``[..., ceil(K / group_size)]``, and zero_point, int32, of that shape.

    Raises:
        RuntimeError: also where input has no dimension, or group_size is below 1.
    """
    result: tuple[Tensor, Tensor] = _ops.choose_qparams_per_group(
        input, group_size, quant_min, quant_max, symmetric
    )
    return result


def choose_qparams_per_token(
    input: Tensor, quant_min: int, quant_max: int, symmetric: bool
) -> tuple[Tensor, Tensor]:
    """Scales and zero points for the range of each row of the last dimension.

    The equations are those of :func:`choose_qparams_per_tensor`.

    Returns:
        scale, float32 ``[..., 1]``, and zero_point, int32 ``[..., 1]``.

    Raises:
        RuntimeError: also where input has no dimension.
    """
    result: tuple[Tensor, Tensor] = _ops.choose_qparams_per_token(
        input, quant_min, quant_max, symmetric
    )
    return result


def quantize_per_tensor(
    input: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    quant_min: int,
    quant_max: int,
    dtype: torch.dtype,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """``q = clamp(round_half_even(x * (1 / scale)) + zero_point, quant_min, quant_max)``.

    Equals ``torch.ops.quantized_decomposed.quantize_per_tensor`` bit for bit for finite inputs and
    zero points within 2^23. NaN gives quant_min, infinities saturate.

    Args:
        input: Float tensor of any shape; float16 and bfloat16 are computed in float32.
        scale: float32, one element.
        zero_point: int32, one element.
        quant_min: Least code.
        quant_max: Greatest code, above quant_min.
        dtype: int8, uint8, int16 or int32, whichever holds [quant_min, quant_max].
        out: Where the codes go: of the shape of input and of ``dtype``, at any strides; it may not
            share memory with the arguments. A fresh contiguous tensor if None.

    Returns:
        Codes of the shape of input, of ``dtype``; ``out`` if that is given.

    Raises:
        RuntimeError: a dtype, shape or device that differs from the above, or an impossible range.
    """
    if out is not None:
        _ops.quantize_per_tensor.out(input, scale, zero_point, quant_min, quant_max, dtype, out=out)
        return out
    result: Tensor = _ops.quantize_per_tensor(input, scale, zero_point, quant_min, quant_max, dtype)
    return result


def quantize_per_channel(
    input: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    axis: int,
    quant_min: int,
    quant_max: int,
    dtype: torch.dtype,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """:func:`quantize_per_tensor` with scale and zero_point ``[C]``, one for each slice of axis."""
    if out is not None:
        _ops.quantize_per_channel.out(
            input, scale, zero_point, axis, quant_min, quant_max, dtype, out=out
        )
        return out
    result: Tensor = _ops.quantize_per_channel(
        input, scale, zero_point, axis, quant_min, quant_max, dtype
    )
    return result


def quantize_per_group(
    input: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    group_size: int,
    quant_min: int,
    quant_max: int,
    dtype: torch.dtype,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """:func:`quantize_per_tensor` with qparams ``[..., ceil(K / group_size)]``, one a group."""
    if out is not None:
        _ops.quantize_per_group.out(
            input, scale, zero_point, group_size, quant_min, quant_max, dtype, out=out
        )
        return out
    result: Tensor = _ops.quantize_per_group(
        input, scale, zero_point, group_size, quant_min, quant_max, dtype
    )
    return result


def quantize_per_token(
    input: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    quant_min: int,
    quant_max: int,
    dtype: torch.dtype,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """:func:`quantize_per_tensor` with scale and zero_point ``[..., 1]``, one for each row."""
    if out is not None:
        _ops.quantize_per_token.out(input, scale, zero_point, quant_min, quant_max, dtype, out=out)
        return out
    result: Tensor = _ops.quantize_per_token(input, scale, zero_point, quant_min, quant_max, dtype)
    return result


def quantize_dynamic_per_tensor(
    input: Tensor, quant_min: int, quant_max: int, symmetric: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`choose_qparams_per_tensor` and :func:`quantize_per_tensor` in one call.

    Returns:
        Codes of the shape of input, of ``dtype``; scale and zero_point, 0-dim.

    Raises:
        RuntimeError: what either of the two would raise.
    """
    result: tuple[Tensor, Tensor, Tensor] = _ops.quantize_dynamic_per_tensor(
        input, quant_min, quant_max, symmetric, dtype
    )
    return result


def quantize_dynamic_per_token(
    input: Tensor, quant_min: int, quant_max: int, symmetric: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`choose_qparams_per_token` and :func:`quantize_per_token`, in one pass over memory.

    Returns:
        Codes of the shape of input, of ``dtype``; scale and zero_point ``[..., 1]``.

    Raises:
        RuntimeError: what either of the two would raise.
    """
    result: tuple[Tensor, Tensor, Tensor] = _ops.quantize_dynamic_per_token(
        input, quant_min, quant_max, symmetric, dtype
    )
    return result


def quantize_dynamic_per_group(
    input: Tensor,
    group_size: int,
    quant_min: int,
    quant_max: int,
    symmetric: bool,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`choose_qparams_per_group` and :func:`quantize_per_group`, in one pass over memory.

    Returns:
        Codes of the shape of input, of ``dtype``; scale and zero_point
        ``[..., ceil(K / group_size)]``.

    Raises:
        RuntimeError: what either of the two would raise.
    """
    result: tuple[Tensor, Tensor, Tensor] = _ops.quantize_dynamic_per_group(
        input, group_size, quant_min, quant_max, symmetric, dtype
    )
    return result


def dequantize_per_tensor(
    input: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    *,
    out_dtype: torch.dtype = torch.float32,
    out: Tensor | None = None,
) -> Tensor:
    """``x = float(q - zero_point) * scale``, rounded once more to ``out_dtype``.

    Equals ``torch.ops.quantized_decomposed.dequantize_per_tensor`` bit for bit for codes and zero
    points within 2^23.

    Args:
        input: int8, uint8, int16 or int32 codes of any shape.
        scale: float32, one element.
        zero_point: int32, one element.
        out_dtype: float32, float16 or bfloat16.
        out: Where the values go: of the shape of input and of ``out_dtype``, at any strides; it may
            not share memory with the arguments. A fresh contiguous tensor if None.

    Returns:
        Values of the shape of input, of ``out_dtype``; ``out`` if that is given.

    Raises:
        RuntimeError: a dtype, shape or device that differs from the above.
    """
    if out is not None:
        _ops.dequantize_per_tensor.out(input, scale, zero_point, out_dtype=out_dtype, out=out)
        return out
    result: Tensor = _ops.dequantize_per_tensor(input, scale, zero_point, out_dtype=out_dtype)
    return result


def dequantize_per_channel(
    input: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    axis: int,
    *,
    out_dtype: torch.dtype = torch.float32,
    out: Tensor | None = None,
) -> Tensor:
    """:func:`dequantize_per_tensor` with scale and zero_point ``[C]``, one for each axis slice."""
    if out is not None:
        _ops.dequantize_per_channel.out(
            input, scale, zero_point, axis, out_dtype=out_dtype, out=out
        )
        return out
    result: Tensor = _ops.dequantize_per_channel(
        input, scale, zero_point, axis, out_dtype=out_dtype
    )
    return result


def dequantize_per_group(
    input: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    group_size: int,
    *,
    out_dtype: torch.dtype = torch.float32,
    out: Tensor | None = None,
) -> Tensor:
    """:func:`dequantize_per_tensor` with qparams ``[..., ceil(K / group_size)]``, one a group."""
    if out is not None:
        _ops.dequantize_per_group.out(
            input, scale, zero_point, group_size, out_dtype=out_dtype, out=out
        )
        return out
    result: Tensor = _ops.dequantize_per_group(
        input, scale, zero_point, group_size, out_dtype=out_dtype
    )
    return result


def dequantize_per_token(
    input: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    *,
    out_dtype: torch.dtype = torch.float32,
    out: Tensor | None = None,
) -> Tensor:
    """:func:`dequantize_per_tensor` with scale and zero_point ``[..., 1]``, one for each row."""
    if out is not None:
        _ops.dequantize_per_token.out(input, scale, zero_point, out_dtype=out_dtype, out=out)
        return out
    result: Tensor = _ops.dequantize_per_token(input, scale, zero_point, out_dtype=out_dtype)
    return result


def fake_quantize_per_tensor(
    input: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    quant_min: int,
    quant_max: int,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """Quantize and dequantize at once, with a gradient, for quantization-aware training.

    ``y = scale * (q - zero_point)`` with ``q = clamp(rint(v) + zero_point, quant_min, quant_max)``
    and ``v = input * (1 / scale)``: the bits of :func:`quantize_per_tensor` and
    :func:`dequantize_per_tensor`. Its derivative takes rint for the identity:

    ==================================  ===========  ========================
    where ``rint(v) + zero_point`` is   by input     by scale
    ==================================  ===========  ========================
    within [quant_min, quant_max]       1            ``rint(v) - v``
    below                               0            ``quant_min - zero_point``
    above                               0            ``quant_max - zero_point``
    ==================================  ===========  ========================

    NaN has no gradient. That of the scale (LSQ, Esser et al. 2020, without its factor) is computed
    where the scale requires one, summed in float64. There is no second derivative.

    Args:
        input: Float tensor of any shape.
        scale: float32, one element.
        zero_point: int32, one element.
        quant_min: Least code.
        quant_max: Greatest code, above quant_min.
        out: Tensor of the shape and dtype of the result to write into, instead of a fresh one;
            gives no gradient.

    Returns:
        A tensor of the shape and dtype of input.

    Raises:
        RuntimeError: input is not float, quant_min and quant_max do not form a range, scale or
            zero_point are not float32 and int32 of one element, or out does not fit, shares memory
            with an argument, or is given where a gradient is required.
    """
    if out is not None:
        _ops.fake_quantize_per_tensor.out(input, scale, zero_point, quant_min, quant_max, out=out)
        return out
    result: Tensor = _ops.fake_quantize_per_tensor(input, scale, zero_point, quant_min, quant_max)
    return result


def fake_quantize_per_channel(
    input: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    axis: int,
    quant_min: int,
    quant_max: int,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """:func:`fake_quantize_per_tensor` with scale and zero_point ``[C]``, for slices of axis."""
    if out is not None:
        _ops.fake_quantize_per_channel.out(
            input, scale, zero_point, axis, quant_min, quant_max, out=out
        )
        return out
    result: Tensor = _ops.fake_quantize_per_channel(
        input, scale, zero_point, axis, quant_min, quant_max
    )
    return result


def fake_quantize_per_tensor_backward(
    grad: Tensor,
    input: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    quant_min: int,
    quant_max: int,
    scale_requires_grad: bool,
) -> tuple[Tensor, Tensor]:
    """The gradients of :func:`fake_quantize_per_tensor`, which autograd calls.

    The sum for the scale goes over blocks of 4096 elements of 16 lanes each, in float64, in their
    order: the same bits for any number of threads.

    Args:
        grad: Gradient of the result, of the shape and dtype of input.
        input: What was fake-quantized.
        scale: As it was.
        zero_point: As it was.
        quant_min: As it was.
        quant_max: As it was.
        scale_requires_grad: Whether the gradient of the scale is wanted.

    Returns:
        The gradient of input, and that of scale, float32 of its shape; ``[0]`` where not wanted.

    Raises:
        RuntimeError: grad is not as input, or what the operator would raise.
    """
    result: tuple[Tensor, Tensor] = _ops.fake_quantize_per_tensor_backward(
        grad, input, scale, zero_point, quant_min, quant_max, scale_requires_grad
    )
    return result


def fake_quantize_per_channel_backward(
    grad: Tensor,
    input: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    axis: int,
    quant_min: int,
    quant_max: int,
    scale_requires_grad: bool,
) -> tuple[Tensor, Tensor]:
    """:func:`fake_quantize_per_tensor_backward` with scale and zero_point ``[C]``."""
    result: tuple[Tensor, Tensor] = _ops.fake_quantize_per_channel_backward(
        grad, input, scale, zero_point, axis, quant_min, quant_max, scale_requires_grad
    )
    return result


def quantization_error(original: Tensor, approximation: Tensor) -> Tensor:
    """How far ``approximation`` is from ``original``, in one pass.

    Args:
        original: float64, float32, float16 or bfloat16 tensor, not empty.
        approximation: Such a tensor of the same shape.

    Returns:
        float64 ``[4]``: the greatest and the mean of ``|original - approximation|``, the mean of
        its square, and the signal-to-noise ratio ``10 log10(sum(original^2) / sum(error^2))`` in
        dB, infinite where there is no error. NaN propagates. The same bits for any number of
        threads.

    Raises:
        RuntimeError: shapes that differ, an empty input, or another dtype.
    """
    result: Tensor = _ops.quantization_error(original, approximation)
    return result


def pack_bits(input: Tensor, num_bits: int) -> Tensor:
    """Codes without gaps: value i of a row takes bits ``[i * num_bits, (i + 1) * num_bits)``.

    Args:
        input: int8 codes in ``[-2^(num_bits - 1), 2^(num_bits - 1) - 1]`` or uint8 codes in
            ``[0, 2^num_bits - 1]``, of shape ``[..., K]``.
        num_bits: 2 to 8.

    Returns:
        uint8 ``[..., ceil(K * num_bits / 8)]``, little-endian; every row begins a new byte.

    Raises:
        RuntimeError: a code out of range, or another dtype, shape or num_bits.
    """
    result: Tensor = _ops.pack_bits(input, num_bits)
    return result


def unpack_bits(packed: Tensor, num_bits: int, last_dim: int, dtype: torch.dtype) -> Tensor:
    """The inverse of :func:`pack_bits`.

    Args:
        packed: uint8 ``[..., ceil(last_dim * num_bits / 8)]``.
        num_bits: 2 to 8.
        last_dim: The number of codes of a row.
        dtype: int8, which extends the sign, or uint8.

    Returns:
        Codes ``[..., last_dim]`` of ``dtype``.

    Raises:
        RuntimeError: packed does not have the bytes of ``last_dim`` codes, or another dtype.
    """
    result: Tensor = _ops.unpack_bits(packed, num_bits, last_dim, dtype)
    return result


def pack_weight(weight: Tensor) -> Tensor:
    """An int8 weight ``[N, K]`` in the layout of the matmuls, the same on every machine.

    Returns:
        int8 ``[ceil(N / 16), ceil(K / 4), 16, 4]``, zero padded:
        ``packed[n // 16, k // 4, n % 16, k % 4] = weight[n, k]``.

    Raises:
        RuntimeError: weight is not int8 with two dimensions.
    """
    result: Tensor = _ops.pack_weight(weight)
    return result


def unpack_weight(packed: Tensor, out_features: int, in_features: int) -> Tensor:
    """The int8 weight ``[out_features, in_features]`` that :func:`pack_weight` packed."""
    result: Tensor = _ops.unpack_weight(packed, out_features, in_features)
    return result


def int8_matmul(a: Tensor, b: Tensor) -> Tensor:
    """The exact integer product of 8-bit matrices, for any strides.

    Args:
        a: int8 or uint8 ``[..., M, K]``.
        b: int8 or uint8 ``[..., K, N]``, with the leading dimensions of a. K is at most 131,071
            where both are int8, 65,793 where one is, and 33,025 where none is, so that sums fit.

    Returns:
        int32 ``[..., M, N]``.

    Raises:
        RuntimeError: other dtypes, shapes that do not match, or a larger K.
    """
    result: Tensor = _ops.int8_matmul(a, b)
    return result


def int8_matmul_packed(
    a: Tensor, packed_weight: Tensor, out_features: int, weight_sum: Tensor | None = None
) -> Tensor:
    """:func:`int8_matmul` with a weight that :func:`pack_weight` packed beforehand.

    Args:
        a: int8 or uint8 ``[..., K]``.
        packed_weight: The packed form of an int8 weight ``[out_features, K]``.
        out_features: N, which the padded packed_weight does not tell: it is taken on trust, as
            is K, as far as the padded shape allows.
        weight_sum: The int32 sums ``[N]`` of the weight's rows; given, they spare computing them.

    Returns:
        int32 ``[..., N]``: ``a @ weight.t()``.

    Raises:
        RuntimeError: other dtypes or shapes, or K above 131,071 (int8) or 65,793 (uint8).
    """
    result: Tensor = _ops.int8_matmul_packed(a, packed_weight, out_features, weight_sum)
    return result


def linear_dynamic(
    input: Tensor,
    packed_weight: Tensor,
    weight_scale: Tensor,
    weight_sum: Tensor,
    bias: Tensor | None = None,
    activation: str = "none",
) -> Tensor:
    """``activation(input @ weight.t() + bias)`` in INT8: the input is quantized row by row.

    Each row of the input gets its own affine uint8 scale ``s`` and zero point ``z``, as from
    :func:`choose_qparams_per_token` on [0, 255], and with the exact integer sum ``acc``
    ``y = float(acc - z * weight_sum) * s * weight_scale + bias``, left to right, each step rounded
    to float32.

    Args:
        input: Float ``[..., K]``. A row with NaN or Inf gives a row of NaN.
        packed_weight: :func:`pack_weight` of the int8 weight ``[N, K]``.
        weight_scale: float32 ``[N]``.
        weight_sum: int32 ``[N]``, the sum of each row of the int8 weight.
        bias: float32 ``[N]``, or None.
        activation: "none" or "relu".

    Returns:
        ``[..., N]`` of the dtype of input.

    Raises:
        RuntimeError: a dtype, shape or device that differs from the above, or K above 65,793.
    """
    result: Tensor = _ops.linear_dynamic(
        input, packed_weight, weight_scale, weight_sum, bias, activation
    )
    return result


def linear_static(
    input: Tensor,
    input_scale: Tensor,
    input_zero_point: Tensor,
    packed_weight: Tensor,
    weight_scale: Tensor,
    weight_sum: Tensor,
    bias: Tensor | None = None,
    activation: str = "none",
    output_scale: Tensor | None = None,
    output_zero_point: Tensor | None = None,
    output_dtype: torch.dtype | None = None,
) -> Tensor:
    """``activation(input @ weight.t() + bias)`` in INT8 with a scale known beforehand.

    A float input is quantized as :func:`quantize_per_tensor` does on [0, 255]; an int8 or uint8
    input is taken as it is. With the exact integer sum ``acc``
    ``y = float(acc - input_zero_point * weight_sum) * input_scale * weight_scale + bias``, left to
    right, each step rounded to float32. With output_scale and output_zero_point, ``y`` is quantized
    once more, over the whole range of output_dtype: what the next linear_static takes as it is.

    Args:
        input: Float, int8 or uint8 ``[..., K]``.
        input_scale: float32, one element.
        input_zero_point: int32, one element.
        packed_weight: :func:`pack_weight` of the int8 weight ``[N, K]``.
        weight_scale: float32 ``[N]``.
        weight_sum: int32 ``[N]``, the sum of each row of the int8 weight.
        bias: float32 ``[N]``, or None.
        activation: "none" or "relu".
        output_scale: float32, one element, for an 8-bit result; None for a float one.
        output_zero_point: int32, one element; given where output_scale is.
        output_dtype: uint8 (the default) or int8 with output_scale; float32, float16 or bfloat16
            without, by default that of a float input, or float32.

    Returns:
        ``[..., N]`` of output_dtype.

    Raises:
        RuntimeError: a dtype, shape or device that differs from the above, an output_dtype that
            does not go with output_scale, or K above 65,793 (131,071 where input is int8).
    """
    result: Tensor = _ops.linear_static(
        input,
        input_scale,
        input_zero_point,
        packed_weight,
        weight_scale,
        weight_sum,
        bias,
        activation,
        output_scale,
        output_zero_point,
        output_dtype,
    )
    return result


def histogram_observe_(counts: Tensor, range: Tensor, input: Tensor) -> None:
    """Adds a tensor to a calibration state, in one pass: counts and range are changed in place.

    Each value, as a float32, is counted in the bin that its sign, its exponent and 6 bits of its
    mantissa are: ``bits >> 17``, the same for any data. NaN and Inf are counted too, in the bins of
    exponent 255. Counts add, so neither batches nor their order matter.

    Args:
        counts: int64 ``[32768]``, zero at first.
        range: float32 ``[2]``: the minimum and maximum of the finite values, (+Inf, -Inf) at first.
        input: Float tensor of any shape.

    Raises:
        RuntimeError: a dtype, shape or device that differs from the above, or tensors that share
            memory.
    """
    _ops.histogram_observe_(counts, range, input)


def histogram_qparams(
    counts: Tensor,
    range: Tensor,
    quant_min: int,
    quant_max: int,
    symmetric: bool,
    method: str,
    percentile: float,
) -> tuple[Tensor, Tensor]:
    """Scale and zero point for the values that :func:`histogram_observe_` counted.

    A range is read from the state and turned into qparams as :func:`choose_qparams_per_tensor`
    does. docs/calibration.md derives each method and what it guarantees:

    - "minmax": the exact range.
    - "percentile": symmetric, what ``percentile`` percent of ``|x|`` do not exceed; affine, with
      ``(100 - percentile) / 2`` percent outside on either side. Within a bin, 1/64 of the value.
    - "mse": the range whose quantization has the least expected squared error.
    - "entropy": symmetric about 0 (affine ranges are cut to what was seen), where the histogram
      loses least information, in the Kullback-Leibler sense. Poor for long tails.

    Args:
        counts: int64 ``[32768]``. All zero gives scale 1.
        range: float32 ``[2]``.
        quant_min: Least code.
        quant_max: Greatest code, above quant_min.
        symmetric: Whether zero_point is 0. Needs ``quant_min < 0 < quant_max``.
        method: One of the above.
        percentile: In (50, 100]; only the method of that name uses it.

    Returns:
        scale, float32 ``[]``, and zero_point, int32 ``[]``; computed on the host for any device.

    Raises:
        RuntimeError: NaN or Inf was counted, counts and range do not belong together, or an
            argument is not as above.
    """
    result: tuple[Tensor, Tensor] = _ops.histogram_qparams(
        counts, range, quant_min, quant_max, symmetric, method, percentile
    )
    return result


def active_kernels() -> str:
    """The kernel set in use: "avx512vnni", "avxvnni", "avx2" or "scalar".

    The environment variable TORCHQUANT_KERNELS, read once at the first operator call, selects a
    lesser set than the machine's best.

    Raises:
        RuntimeError: TORCHQUANT_KERNELS names a set that is unknown or does not run here.
    """
    result: str = _ops.active_kernels()
    return result

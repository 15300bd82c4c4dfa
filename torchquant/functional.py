"""Quantize and dequantize a tensor in one call, 2 to 16 bits, on real integer tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from torchquant import ops
from torchquant.arguments import check_integer
from torchquant.codes import code_range

__all__ = [
    "asymmetric_dequantize",
    "asymmetric_quantize",
    "compute_quantization_error",
    "per_channel_dequantize",
    "per_channel_quantize",
    "symmetric_dequantize",
    "symmetric_quantize",
]


def symmetric_quantize(tensor: Tensor, num_bits: int = 8) -> tuple[Tensor, Tensor]:
    """Quantize to signed integers with one scale and zero point 0.

    `scale = max(|x|) / (2^(b-1) - 1)` and `q = clamp(round(x / scale), -2^(b-1), 2^(b-1) - 1)`,
    ties to even; the quotient is computed as a product with `1 / scale`.

    Args:
        tensor: any shape; float32, float16 or bfloat16.
        num_bits: 2 to 16.

    Returns:
        `q`, of the input's shape, int8 up to 8 bits and int16 above; `scale`, 0-dim float32.

    Raises:
        ValueError: `num_bits` is not an integer from 2 to 16.
        RuntimeError: `tensor` is of another dtype.

    Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference", CVPR 2018, section 2.1, with zero point 0.
    """
    quant_min, quant_max, dtype = _signed_range(num_bits)
    scale, zero_point = ops.choose_qparams_per_tensor(tensor, quant_min, quant_max, True)
    q = ops.quantize_per_tensor(tensor, scale, zero_point, quant_min, quant_max, dtype)
    return q, scale


def symmetric_dequantize(q: Tensor, scale: Tensor) -> Tensor:
    """Return `q * scale` in float32: the inverse of `symmetric_quantize`, up to rounding.

    Args:
        q: any shape; int8, uint8, int16 or int32.
        scale: one element, float32.

    Raises:
        RuntimeError: a wrong dtype, or a scale of more than one element.

    Source: as `symmetric_quantize`.
    """
    return ops.dequantize_per_tensor(q, scale, _zeros_like_scale(scale))


def asymmetric_quantize(tensor: Tensor, num_bits: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """Quantize to unsigned integers with one scale and one zero point.

    The range is widened to contain 0, so that 0 is exact. Then `scale = (max - min) / (2^b - 1)`,
    `zero_point = clamp(-round(min / scale), 0, 2^b - 1)` and
    `q = clamp(round(x / scale) + zero_point, 0, 2^b - 1)`, ties to even.

    Args:
        tensor: any shape; float32, float16 or bfloat16.
        num_bits: 2 to 16.

    Returns:
        `q`, of the input's shape, uint8 up to 8 bits, int16 up to 15, int32 at 16; `scale`, 0-dim
        float32; `zero_point`, 0-dim int32.

    Raises:
        ValueError: `num_bits` is not an integer from 2 to 16.
        RuntimeError: `tensor` is of another dtype.

    Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference", CVPR 2018, section 2.1 and equation 13.
    """
    quant_min, quant_max, dtype = _unsigned_range(num_bits)
    scale, zero_point = ops.choose_qparams_per_tensor(tensor, quant_min, quant_max, False)
    q = ops.quantize_per_tensor(tensor, scale, zero_point, quant_min, quant_max, dtype)
    return q, scale, zero_point


def asymmetric_dequantize(q: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Return `(q - zero_point) * scale` in float32: the inverse of `asymmetric_quantize`.

    Args:
        q: any shape; int8, uint8, int16 or int32.
        scale: one element, float32.
        zero_point: one element, int32.

    Raises:
        RuntimeError: a wrong dtype, or more than one scale or zero point.

    Source: as `asymmetric_quantize`.
    """
    return ops.dequantize_per_tensor(q, scale, zero_point)


def per_channel_quantize(tensor: Tensor, num_bits: int = 8, dim: int = 0) -> tuple[Tensor, Tensor]:
    """Quantize symmetrically, with a scale of its own for each index of `dim`.

    `symmetric_quantize`'s equations, applied to each slice `tensor.select(dim, c)`.

    Args:
        tensor: at least one dimension; float32, float16 or bfloat16.
        num_bits: 2 to 16.
        dim: the channel dimension; negative counts from the end.

    Returns:
        `q`, of the input's shape, int8 up to 8 bits and int16 above; `scales`, float32,
        `[tensor.size(dim)]`.

    Raises:
        ValueError: `num_bits` is not an integer from 2 to 16.
        TypeError: `dim` is not an integer.
        RuntimeError: `tensor` is of another dtype, or has no dimension `dim`.

    Source: Krishnamoorthi, "Quantizing deep convolutional networks for efficient inference: A
    whitepaper", 2018, section 2.2.
    """
    quant_min, quant_max, dtype = _signed_range(num_bits)
    _check_dim(dim)
    scales, zero_points = ops.choose_qparams_per_channel(tensor, dim, quant_min, quant_max, True)
    q = ops.quantize_per_channel(tensor, scales, zero_points, dim, quant_min, quant_max, dtype)
    return q, scales


def per_channel_dequantize(q: Tensor, scales: Tensor, dim: int = 0) -> Tensor:
    """Return `q * scales` along `dim`, in float32: the inverse of `per_channel_quantize`.

    Args:
        q: at least one dimension; int8, uint8, int16 or int32.
        scales: `[q.size(dim)]`, float32.
        dim: the channel dimension; negative counts from the end.

    Raises:
        TypeError: `dim` is not an integer.
        RuntimeError: a wrong dtype, no dimension `dim`, or a number of scales other than its size.

    Source: as `per_channel_quantize`.
    """
    _check_dim(dim)
    return ops.dequantize_per_channel(q, scales, _zeros_like_scale(scales), dim)


def compute_quantization_error(original: Tensor, dequantized: Tensor) -> dict[str, float]:
    """Measure how far `dequantized` is from `original`, in float64.

    With `e = original - dequantized`: `max_error = max|e|`, `mean_error = mean|e|`,
    `mse = mean(e^2)` and `snr_db = 10 log10(mean(original^2) / mse)`, which is infinite where
    there is no error.

    Args:
        original: not empty; any float dtype.
        dequantized: of the same shape; any float dtype.

    Returns:
        Python floats under `max_error`, `mean_error`, `mse` and `snr_db`.

    Raises:
        RuntimeError: empty tensors, different shapes, or tensors that are not of floats.

    Source: the usual definitions; the signal-to-quantization-noise ratio is that of Bennett,
    "Spectra of quantized signals", 1948.
    """
    values = ops.quantization_error(original, dequantized).tolist()
    return dict(zip(("max_error", "mean_error", "mse", "snr_db"), values, strict=True))


def _zeros_like_scale(scale: Tensor) -> Tensor:
    return torch.zeros_like(scale, dtype=torch.int32)


def _check_num_bits(num_bits: int) -> None:
    if isinstance(num_bits, bool) or not isinstance(num_bits, int) or not 2 <= num_bits <= 16:
        raise ValueError(
            f"num_bits must be an integer from 2 to 16, but it is {num_bits!r}; "
            "pass for example num_bits=8"
        )


def _check_dim(dim: int) -> None:
    check_integer(dim, "dim", "it counts the dimensions of the tensor, negative ones from the last")


def _signed_range(num_bits: int) -> tuple[int, int, torch.dtype]:
    _check_num_bits(num_bits)
    return *code_range(num_bits, True), torch.int8 if num_bits <= 8 else torch.int16


def _unsigned_range(num_bits: int) -> tuple[int, int, torch.dtype]:
    _check_num_bits(num_bits)
    # int16 holds 15 unsigned bits, and many torch operators lack uint16.
    dtype = torch.uint8 if num_bits <= 8 else torch.int16 if num_bits <= 15 else torch.int32
    return *code_range(num_bits, False), dtype

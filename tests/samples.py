"""Sample arguments for every operator: a few that differ in kind.

They feed the tests that every operator passes (operator_tests.py), test_kernels.py and
test_threads.py.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field
from typing import Any

import reference
import torch
from torch import Tensor


@dataclass(frozen=True)
class Sample:
    name: str
    arguments: tuple[Any, ...]
    keywords: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


def floats(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Normal values with some larger ones, the same for the same shape and seed."""
    generator = torch.Generator().manual_seed(seed + 1)
    x = torch.randn(shape, generator=generator)
    return torch.where(x.abs() > 2, 10 * x, x).to(dtype)


def integers(
    *shape: int, low: int = -128, high: int = 127, dtype: torch.dtype = torch.int8, seed: int = 0
) -> Tensor:
    """Integers of the closed range [low, high]."""
    generator = torch.Generator().manual_seed(seed + 1)
    return torch.randint(low, high + 1, shape, generator=generator).to(dtype)


def bytes_(*shape: int, dtype: torch.dtype = torch.int8, seed: int = 0) -> Tensor:
    """int8 or uint8 over its whole range."""
    low = -128 if dtype == torch.int8 else 0
    return integers(*shape, low=low, high=low + 255, dtype=dtype, seed=seed)


def scales(*shape: int, seed: int = 0) -> Tensor:
    """Scales between 1/64 and 1, no powers of two among them."""
    return integers(*shape, low=3, high=190, dtype=torch.int32, seed=seed + 7).float() / 191


def zero_points(*shape: int, low: int = -20, high: int = 20, seed: int = 0) -> Tensor:
    return integers(*shape, low=low, high=high, dtype=torch.int32, seed=seed + 8)


def unaligned(tensor: Tensor) -> Tensor:
    """The same values one byte past an aligned address, where safetensors may put them."""
    storage = bytearray(tensor.numel() * tensor.element_size() + 1)
    moved = torch.frombuffer(storage, dtype=tensor.dtype, count=tensor.numel(), offset=1)
    moved = moved.reshape(tensor.shape)
    moved.copy_(tensor)
    assert moved.data_ptr() % 2 == 1
    return moved


def quantized_linear(
    out_features: int, in_features: int, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """packed_weight, weight_scale and weight_sum of a weight over the whole of int8."""
    weight = bytes_(out_features, in_features, seed=seed)
    weight_sum = weight.sum(1, dtype=torch.int32)
    return reference.pack_weight(weight), scales(out_features, seed=seed), weight_sum


def histogram(*observed: Tensor) -> tuple[Tensor, Tensor]:
    """The counts and range of these values."""
    counts, range_ = torch.zeros(32768, dtype=torch.int64), torch.tensor([math.inf, -math.inf])
    for values in observed:
        counts, range_ = reference.histogram_observe_(counts, range_, values)
    return counts, range_


F16, BF16 = torch.float16, torch.bfloat16
I8, U8, I16, I32 = torch.int8, torch.uint8, torch.int16, torch.int32


def _choose_qparams_per_tensor() -> list[Sample]:
    return [
        Sample("symmetric", (floats(5, 7), -128, 127, True)),
        Sample("affine-transposed", (floats(33, 6).t(), 0, 255, False)),
        Sample("half-positive", (floats(3, 4, 5, dtype=F16).abs() + 1, -8, 7, False)),
        Sample("0-dim", (torch.tensor(-2.5), 0, 15, False)),
        Sample("empty", (floats(0, 3), 0, 255, False)),
    ]


def _choose_qparams_per_channel() -> list[Sample]:
    return [
        Sample("first-axis", (floats(5, 17), 0, -127, 127, True)),
        Sample("middle-axis", (floats(2, 19, 7), 1, 0, 255, False)),
        Sample("last-axis-bfloat16", (floats(9, 35, dtype=BF16), -1, -128, 127, False)),
        Sample("transposed", (floats(21, 40).t(), 0, 0, 255, False)),
        Sample("empty-channels", (floats(4, 0), 0, 0, 255, False)),
    ]


def _choose_qparams_per_group() -> list[Sample]:
    return [
        Sample("short-last-group", (floats(3, 5, 70), 32, 0, 255, False)),
        Sample("symmetric-half", (floats(6, 40, dtype=F16), 8, -8, 7, True)),
        Sample("one-row-one-group", (floats(70), 1000, 0, 255, False)),
        Sample("transposed", (floats(21, 40).t(), 4, 0, 15, False)),
        Sample("no-groups", (floats(3, 0), 32, 0, 255, False)),
    ]


def _choose_qparams_per_token() -> list[Sample]:
    return [
        Sample("affine", (floats(3, 5, 33), 0, 255, False)),
        Sample("symmetric-half", (floats(6, 40, dtype=F16), -128, 127, True)),
        Sample("one-row", (floats(70), 0, 255, False)),
        Sample("transposed", (floats(21, 40).t(), 0, 255, False)),
        Sample("no-tokens", (floats(0, 8), 0, 255, False)),
    ]


def _quantize_per_tensor() -> list[Sample]:
    scale, zero = torch.tensor(0.037), torch.tensor(3, dtype=I32)
    return [
        Sample("int8", (floats(9, 13), scale, zero, -128, 127, I8)),
        Sample("uint8-transposed", (floats(33, 6).t(), scale, zero, 0, 255, U8)),
        Sample("int16-bfloat16", (floats(2, 3, 41, dtype=BF16), scale, zero, -3000, 3000, I16)),
        Sample("int32-half", (floats(50, dtype=F16), scale[None], zero[None], 0, 65535, I32)),
        Sample("0-dim", (torch.tensor(1.0), scale, zero, -8, 7, I8)),
        Sample("empty", (floats(2, 0), scale, zero, -8, 7, I8)),
    ]


def _quantize_per_channel() -> list[Sample]:
    def qparams(channels: int) -> tuple[Tensor, Tensor]:
        return scales(channels), zero_points(channels)

    return [
        Sample("first-axis", (floats(5, 67), *qparams(5), 0, -128, 127, I8)),
        Sample("middle-axis", (floats(2, 19, 7), *qparams(19), 1, 0, 255, U8)),
        Sample("last-axis-half", (floats(3, 35, dtype=F16), *qparams(35), -1, -128, 127, I16)),
        Sample("transposed", (floats(21, 40).t(), *qparams(40), 0, 0, 15, U8)),
        Sample("empty", (floats(4, 0), *qparams(4), 0, -8, 7, I8)),
    ]


def _quantize_per_group() -> list[Sample]:
    def qparams(*shape: int) -> tuple[Tensor, Tensor]:
        return scales(*shape), zero_points(*shape)

    return [
        Sample("short-last-group", (floats(3, 5, 70), *qparams(3, 5, 3), 32, 0, 255, U8)),
        Sample("int8-bfloat16", (floats(6, 40, dtype=BF16), *qparams(6, 5), 8, -8, 7, I8)),
        Sample("one-row-one-group", (floats(70), *qparams(1), 1000, -128, 127, I8)),
        Sample("transposed", (floats(21, 40).t(), *qparams(40, 6), 4, 0, 255, I32)),
        Sample("empty", (floats(3, 0), *qparams(3, 0), 32, 0, 255, U8)),
    ]


def _quantize_per_token() -> list[Sample]:
    def qparams(*shape: int) -> tuple[Tensor, Tensor]:
        return scales(*shape), zero_points(*shape)

    return [
        Sample("uint8", (floats(3, 5, 33), *qparams(3, 5, 1), 0, 255, U8)),
        Sample("int8-bfloat16", (floats(6, 40, dtype=BF16), *qparams(6, 1), -128, 127, I8)),
        Sample("one-row", (floats(70), *qparams(1), -8, 7, I8)),
        Sample("transposed", (floats(21, 40).t(), *qparams(40, 1), 0, 255, I32)),
        Sample("empty", (floats(3, 0), *qparams(3, 1), 0, 255, U8)),
    ]


def _quantize_dynamic_per_tensor() -> list[Sample]:
    return [
        Sample("affine", (floats(9, 13), 0, 255, False, U8)),
        Sample("symmetric-half-transposed", (floats(33, 6, dtype=F16).t(), -128, 127, True, I8)),
        Sample("bfloat16", (floats(70, dtype=BF16), -8, 7, False, I16)),
        Sample("0-dim", (torch.tensor(-2.5), 0, 15, False, I32)),
        Sample("empty", (floats(0, 3), 0, 255, False, U8)),
    ]


def _quantize_dynamic_per_token() -> list[Sample]:
    return [
        Sample("affine", (floats(3, 5, 33), 0, 255, False, U8)),
        Sample("symmetric-half", (floats(6, 40, dtype=F16), -128, 127, True, I8)),
        Sample("one-row-bfloat16", (floats(70, dtype=BF16), -8, 7, False, I16)),
        Sample("transposed", (floats(21, 40).t(), 0, 255, False, I32)),
        Sample("no-tokens", (floats(0, 8), 0, 255, False, U8)),
    ]


def _quantize_dynamic_per_group() -> list[Sample]:
    return [
        Sample("short-last-group", (floats(3, 5, 70), 32, 0, 255, False, U8)),
        Sample("symmetric-half", (floats(6, 40, dtype=F16), 8, -8, 7, True, I8)),
        Sample("one-row-one-group", (floats(70, dtype=BF16), 1000, -8, 7, False, I16)),
        Sample("transposed", (floats(21, 40).t(), 4, 0, 255, False, I32)),
        Sample("no-groups", (floats(3, 0), 32, 0, 255, False, U8)),
    ]


def _fake_quantize_per_tensor() -> list[Sample]:
    scale, zero = torch.tensor(0.037), torch.tensor(3, dtype=I32)
    return [
        Sample("8-bit", (floats(9, 13), scale, zero, -128, 127)),
        Sample("transposed", (floats(33, 6).t(), scale, zero, 0, 255)),
        Sample("4-bit-bfloat16", (floats(2, 3, 41, dtype=BF16), scale[None], zero[None], -8, 7)),
        Sample("16-bit-half", (floats(50, dtype=F16), scale, zero, 0, 65535)),
        Sample("0-dim", (torch.tensor(0.1), scale, zero, -8, 7)),
        Sample("empty", (floats(2, 0), scale, zero, -8, 7)),
    ]


def _fake_quantize_per_channel() -> list[Sample]:
    def qparams(channels: int) -> tuple[Tensor, Tensor]:
        return scales(channels), zero_points(channels)

    return [
        Sample("first-axis", (floats(5, 67), *qparams(5), 0, -128, 127)),
        Sample("middle-axis", (floats(2, 19, 7), *qparams(19), 1, 0, 255)),
        Sample("last-axis-half", (floats(3, 35, dtype=F16), *qparams(35), -1, -128, 127)),
        Sample("middle-axis-bfloat16", (floats(2, 5, 33, dtype=BF16), *qparams(5), 1, -8, 7)),
        Sample("transposed", (floats(21, 40).t(), *qparams(40), 0, 0, 15)),
        Sample("empty", (floats(4, 0), *qparams(4), 0, -8, 7)),
    ]


def _backward(forward: list[Sample]) -> list[Sample]:
    """With the gradient of the scale, and of two samples without."""

    def sample(of: Sample, scale_requires_grad: bool) -> Sample:
        x = of.arguments[0]
        grad = floats(*x.shape, seed=1, dtype=x.dtype)
        name = str(of) if scale_requires_grad else f"{of}-input-only"
        return Sample(name, (grad, *of.arguments, scale_requires_grad))

    return [*(sample(of, True) for of in forward), *(sample(of, False) for of in forward[:2])]


def _fake_quantize_per_tensor_backward() -> list[Sample]:
    return _backward(_fake_quantize_per_tensor())


def _fake_quantize_per_channel_backward() -> list[Sample]:
    return _backward(_fake_quantize_per_channel())


def _dequantize_per_tensor() -> list[Sample]:
    scale, zero = torch.tensor(0.037), torch.tensor(3, dtype=I32)
    return [
        Sample("int8", (bytes_(9, 13), scale, zero)),
        Sample("uint8-transposed", (bytes_(33, 6, dtype=U8).t(), scale, zero)),
        Sample(
            "int16-to-half",
            (integers(2, 41, low=-3000, high=3000, dtype=I16), scale, zero),
            {"out_dtype": F16},
        ),
        Sample(
            "int32-to-bfloat16",
            (integers(50, low=-65536, high=65535, dtype=I32), scale[None], zero[None]),
            {"out_dtype": BF16},
        ),
        Sample("empty", (bytes_(0), scale, zero)),
    ]


def _dequantize_per_channel() -> list[Sample]:
    def qparams(channels: int) -> tuple[Tensor, Tensor]:
        return scales(channels), zero_points(channels)

    return [
        Sample("first-axis", (bytes_(5, 67), *qparams(5), 0)),
        Sample("middle-axis", (bytes_(2, 19, 7, dtype=U8), *qparams(19), 1), {"out_dtype": F16}),
        Sample("last-axis", (integers(3, 35, dtype=I32), *qparams(35), -1), {"out_dtype": BF16}),
        Sample("transposed", (bytes_(21, 40).t(), *qparams(40), 0)),
        Sample("empty", (bytes_(4, 0), *qparams(4), 0)),
    ]


def _dequantize_per_group() -> list[Sample]:
    def qparams(*shape: int) -> tuple[Tensor, Tensor]:
        return scales(*shape), zero_points(*shape)

    return [
        Sample("short-last-group", (bytes_(3, 5, 70, dtype=U8), *qparams(3, 5, 3), 32)),
        Sample("int8-to-half", (bytes_(6, 40), *qparams(6, 5), 8), {"out_dtype": F16}),
        Sample("one-row-one-group", (bytes_(70), *qparams(1), 1000)),
        Sample("transposed", (integers(21, 40, dtype=I16).t(), *qparams(40, 6), 4)),
        Sample("empty", (bytes_(3, 0), *qparams(3, 0), 32)),
    ]


def _dequantize_per_token() -> list[Sample]:
    def qparams(*shape: int) -> tuple[Tensor, Tensor]:
        return scales(*shape), zero_points(*shape)

    return [
        Sample("uint8", (bytes_(3, 5, 33, dtype=U8), *qparams(3, 5, 1))),
        Sample("int8-to-half", (bytes_(6, 40), *qparams(6, 1)), {"out_dtype": F16}),
        Sample("one-row", (bytes_(70), *qparams(1))),
        Sample("transposed", (integers(21, 40, dtype=I16).t(), *qparams(40, 1))),
        Sample("empty", (bytes_(3, 0), *qparams(3, 1))),
    ]


def _quantization_error() -> list[Sample]:
    return [
        Sample("float32", (floats(91, 101), floats(91, 101, seed=1))),
        Sample("float64", (floats(77).double(), floats(77, seed=1).double())),
        Sample("half", (floats(9, 7, dtype=F16), floats(9, 7, seed=1, dtype=F16))),
        Sample("transposed", (floats(9, 7).t(), floats(7, 9, seed=1))),
        Sample("equal", (torch.zeros(3), torch.zeros(3))),
    ]


def _pack_bits() -> list[Sample]:
    return [
        Sample("4-bit", (integers(3, 17, low=-8, high=7), 4)),
        Sample("3-bit-uint8", (integers(2, 3, 13, low=0, high=7, dtype=U8), 3)),
        Sample("8-bit-transposed", (bytes_(9, 5).t(), 8)),
        Sample("2-bit-1-dim", (integers(70, low=-2, high=1), 2)),
        Sample("empty", (bytes_(3, 0), 4)),
    ]


def _unpack_bits() -> list[Sample]:
    return [
        Sample("4-bit", (bytes_(3, 9, dtype=U8), 4, 17, I8)),
        Sample("3-bit-uint8", (bytes_(2, 3, 5, dtype=U8), 3, 13, U8)),
        Sample("8-bit-transposed", (bytes_(9, 5, dtype=U8).t(), 8, 9, I8)),
        Sample("2-bit-1-dim", (bytes_(18, dtype=U8), 2, 70, I8)),
        Sample("empty", (bytes_(3, 0, dtype=U8), 4, 0, I8)),
    ]


def _int8_matmul() -> list[Sample]:
    return [
        Sample("int8", (bytes_(9, 70), bytes_(70, 35))),
        Sample("uint8-by-int8", (bytes_(9, 70, dtype=U8), bytes_(35, 70).t())),
        Sample("int8-by-uint8", (bytes_(33, 5).t(), bytes_(33, 8, dtype=U8))),
        Sample("uint8", (bytes_(3, 65, dtype=U8), bytes_(65, 47, dtype=U8))),
        Sample("batched", (bytes_(2, 3, 5, 17), bytes_(2, 3, 17, 18))),
        Sample("no-depth", (bytes_(3, 0), bytes_(0, 5))),
    ]


def _pack_weight() -> list[Sample]:
    return [
        Sample("padded", (bytes_(35, 70),)),
        Sample("exact", (bytes_(32, 8),)),
        Sample("transposed", (bytes_(9, 17).t(),)),
        Sample("empty", (bytes_(0, 5),)),
    ]


def _unpack_weight() -> list[Sample]:
    return [
        Sample("padded", (reference.pack_weight(bytes_(35, 70)), 35, 70)),
        Sample("exact", (bytes_(2, 2, 16, 4), 32, 8)),
        Sample("transposed", (bytes_(4, 16, 2, 3).permute(3, 2, 1, 0), 48, 8)),
        Sample("empty", (bytes_(0, 2, 16, 4), 0, 5)),
    ]


def _int8_matmul_packed() -> list[Sample]:
    packed, _, weight_sum = quantized_linear(35, 70)
    return [
        Sample("int8", (bytes_(9, 70), packed, 35)),
        Sample("int8-with-sum", (bytes_(9, 70), packed, 35, weight_sum)),
        Sample("uint8", (bytes_(2, 3, 70, dtype=U8), packed, 35)),
        Sample("transposed", (bytes_(70, 4).t(), packed, 35, weight_sum)),
        Sample("one-row", (bytes_(70), packed, 35)),
        Sample("no-rows", (bytes_(0, 70), packed, 35)),
    ]


def _linear_dynamic() -> list[Sample]:
    linear = quantized_linear(35, 70)
    bias = floats(35, seed=3)
    return [
        Sample("bias", (floats(9, 70), *linear, bias)),
        Sample("relu", (floats(2, 3, 70), *linear, bias, "relu")),
        Sample("half", (floats(6, 70, dtype=F16), *linear, bias)),
        Sample("bfloat16-no-bias", (floats(6, 70, dtype=BF16), *linear)),
        Sample("transposed", (floats(70, 4).t(), *linear, None, "relu")),
        Sample("one-row", (floats(70), *linear, bias)),
        Sample("no-rows", (floats(0, 70), *linear, bias)),
    ]


def _linear_static() -> list[Sample]:
    linear, bias = quantized_linear(35, 70), floats(35, seed=3)
    scale, zero = torch.tensor(0.037), torch.tensor(131, dtype=I32)
    to = (torch.tensor(1.3), torch.tensor(101, dtype=I32))
    signed = (torch.tensor([1.7]), torch.tensor([-3], dtype=I32))
    return [
        Sample("bias", (floats(9, 70), scale, zero, *linear, bias)),
        Sample(
            "half-to-bfloat16-relu",
            (floats(6, 70, dtype=F16), scale, zero, *linear, bias, "relu", None, None, BF16),
        ),
        Sample(
            "uint8-to-uint8", (bytes_(2, 3, 70, dtype=U8), scale, zero, *linear, bias, "none", *to)
        ),
        Sample(
            "int8-to-int8-relu", (bytes_(7, 70), scale, -zero, *linear, None, "relu", *signed, I8)
        ),
        Sample("bfloat16", (floats(6, 70, dtype=BF16), scale[None], zero[None], *linear)),
        Sample("transposed-int8", (bytes_(70, 4).t(), scale, zero, *linear, bias)),
        Sample("one-row", (floats(70), scale, zero, *linear, bias, "relu", *to, U8)),
        Sample("no-rows", (floats(0, 70), scale, zero, *linear, bias)),
    ]


def _histogram_observe_() -> list[Sample]:
    special = torch.tensor([math.nan, 1.0, -math.inf, -0.0, 1e-45, math.inf, -3e38, 0.0])
    return [
        Sample("new", (*histogram(), floats(9, 13))),
        Sample("half-transposed", (*histogram(floats(50)), floats(33, 6, dtype=F16).t())),
        Sample("bfloat16", (*histogram(floats(7) - 20), floats(2, 3, 41, dtype=BF16))),
        Sample("special-values", (*histogram(), special.repeat(9))),
        Sample("0-dim", (*histogram(), torch.tensor(-2.5))),
        Sample("empty", (*histogram(floats(7)), floats(2, 0))),
    ]


def _histogram_qparams() -> list[Sample]:
    mixed, positive = histogram(floats(50, 70)), histogram(floats(50, 70).relu() + 0.5)
    return [
        Sample("minmax", (*mixed, 0, 255, False, "minmax", 99.99)),
        Sample("minmax-symmetric", (*mixed, -127, 127, True, "minmax", 99.99)),
        Sample("percentile", (*mixed, 0, 255, False, "percentile", 99.0)),
        Sample("percentile-symmetric", (*mixed, -128, 127, True, "percentile", 99.9)),
        Sample("percentile-positive", (*positive, 0, 255, False, "percentile", 97.5)),
        Sample("mse", (*mixed, 0, 255, False, "mse", 99.99)),
        Sample("mse-symmetric", (*mixed, -8, 7, True, "mse", 99.99)),
        Sample("mse-positive", (*positive, 0, 15, False, "mse", 99.99)),
        Sample("entropy", (*mixed, 0, 255, False, "entropy", 99.99)),
        Sample("entropy-symmetric", (*mixed, -128, 127, True, "entropy", 99.99)),
        Sample("entropy-positive", (*positive, 0, 255, False, "entropy", 99.99)),
        Sample("empty", (*histogram(), 10, 20, False, "mse", 99.99)),
    ]


_SAMPLES = {
    "choose_qparams_per_tensor": _choose_qparams_per_tensor,
    "choose_qparams_per_channel": _choose_qparams_per_channel,
    "choose_qparams_per_group": _choose_qparams_per_group,
    "choose_qparams_per_token": _choose_qparams_per_token,
    "quantize_per_tensor": _quantize_per_tensor,
    "quantize_per_channel": _quantize_per_channel,
    "quantize_per_group": _quantize_per_group,
    "quantize_per_token": _quantize_per_token,
    "quantize_dynamic_per_tensor": _quantize_dynamic_per_tensor,
    "quantize_dynamic_per_token": _quantize_dynamic_per_token,
    "quantize_dynamic_per_group": _quantize_dynamic_per_group,
    "dequantize_per_tensor": _dequantize_per_tensor,
    "dequantize_per_channel": _dequantize_per_channel,
    "dequantize_per_group": _dequantize_per_group,
    "dequantize_per_token": _dequantize_per_token,
    "fake_quantize_per_tensor": _fake_quantize_per_tensor,
    "fake_quantize_per_channel": _fake_quantize_per_channel,
    "fake_quantize_per_tensor_backward": _fake_quantize_per_tensor_backward,
    "fake_quantize_per_channel_backward": _fake_quantize_per_channel_backward,
    "quantization_error": _quantization_error,
    "pack_bits": _pack_bits,
    "unpack_bits": _unpack_bits,
    "int8_matmul": _int8_matmul,
    "pack_weight": _pack_weight,
    "unpack_weight": _unpack_weight,
    "int8_matmul_packed": _int8_matmul_packed,
    "linear_dynamic": _linear_dynamic,
    "linear_static": _linear_static,
    "histogram_observe_": _histogram_observe_,
    "histogram_qparams": _histogram_qparams,
}
OPERATORS = tuple(_SAMPLES)


@functools.cache
def samples(operator: str) -> list[Sample]:
    return _SAMPLES[operator]()

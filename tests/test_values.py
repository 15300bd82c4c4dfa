"""Values inside scales and zero points never raise: they have the results of the contract."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import reference
import torch
from operator_tests import assert_same, operator
from reference import FLT_MAX, FLT_MIN
from samples import I8, I32, U8, bytes_, floats, quantized_linear
from torch import Tensor

SCALES = [
    0.0,
    -0.0,
    -1.0,
    math.nan,
    math.inf,
    -math.inf,
    1e-45,
    -1e-45,
    1e-39,
    FLT_MIN,
    FLT_MAX,
    -FLT_MAX,
    0.04,
]
# Beyond 8 bits, beyond what float32 counts exactly, and at the ends of int32.
ZERO_POINTS = [0, -1, 256, -129, 2**23 + 1, -(2**24) - 1, -(2**31), 2**31 - 1]
PAIRS = list(itertools.product(SCALES, ZERO_POINTS))
SCALE = torch.tensor([scale for scale, _ in PAIRS])
ZERO_POINT = torch.tensor([zero_point for _, zero_point in PAIRS], dtype=I32)

SPECIAL = [0.0, -0.0, math.nan, math.inf, -math.inf, 1e-45, FLT_MAX, -FLT_MAX]
VALUES = torch.cat([torch.tensor(SPECIAL), floats(29)])
CODES = torch.cat([torch.tensor([-128, 127, 0, 1, -1], dtype=I8), bytes_(30)])


def rows(values: Tensor) -> Tensor:
    """A row of these values for each pair."""
    return values.repeat(len(PAIRS), 1)


def check(name: str, *arguments: Any) -> None:
    assert_same(operator(name)(*arguments), getattr(reference, name)(*arguments))


@pytest.mark.parametrize(("limits", "dtype"), [((-128, 127), I8), ((0, 255), U8), ((-8, 7), I32)])
def test_quantize(limits: tuple[int, int], dtype: torch.dtype) -> None:
    for_each_granularity("quantize", VALUES, *limits, dtype)


@pytest.mark.parametrize("dtype", [I8, I32], ids=str)
def test_dequantize(dtype: torch.dtype) -> None:
    ends = torch.tensor([-(2**31), 2**31 - 1], dtype=I32)
    codes = CODES if dtype == I8 else torch.cat([ends, CODES.to(I32)])
    for_each_granularity("dequantize", codes)


def for_each_granularity(verb: str, values: Tensor, *more: Any) -> None:
    x = rows(values)
    check(f"{verb}_per_token", x, SCALE[:, None], ZERO_POINT[:, None], *more)
    check(f"{verb}_per_channel", x, SCALE, ZERO_POINT, 0, *more)
    check(f"{verb}_per_channel", x.t(), SCALE, ZERO_POINT, 1, *more)
    halves = torch.tensor([0, 1]) + torch.arange(len(PAIRS))[:, None]
    halves %= len(PAIRS)
    group_size = -(-len(values) // 2)
    check(f"{verb}_per_group", x, SCALE[halves], ZERO_POINT[halves], group_size, *more)
    for scale, zero_point in zip(SCALE, ZERO_POINT, strict=True):
        check(f"{verb}_per_tensor", values, scale, zero_point, *more)


@pytest.mark.parametrize("limits", [(-128, 127), (0, 255)])
def test_fake_quantize_and_its_backward(limits: tuple[int, int]) -> None:
    x = rows(VALUES)
    grad = rows(floats(len(VALUES), seed=1))
    for values, slope, axis in ((x, grad, 0), (x.t(), grad.t(), 1)):
        qparams = (SCALE, ZERO_POINT, axis, *limits)
        check("fake_quantize_per_channel", values, *qparams)
        check("fake_quantize_per_channel_backward", slope, values, *qparams, True)
    for scale, zero_point in zip(SCALE, ZERO_POINT, strict=True):
        check("fake_quantize_per_tensor", VALUES, scale, zero_point, *limits)
        arguments = (grad[0], VALUES, scale, zero_point, *limits)
        check("fake_quantize_per_tensor_backward", *arguments, True)


def test_linear() -> None:
    packed, weight_scale, weight_sum = quantized_linear(len(SCALES), 37)
    strange, bias = torch.tensor(SCALES), floats(len(SCALES), seed=3)
    scale, zero_point = torch.tensor(0.04), torch.tensor(131, dtype=I32)
    x = floats(5, 37)
    x[4, :8] = torch.tensor(SPECIAL)
    check("linear_dynamic", x, packed, strange, weight_sum, bias)
    check("linear_dynamic", x, packed, weight_scale, weight_sum, strange)
    check("linear_static", x, scale, zero_point, packed, strange, weight_sum, bias)
    layer = (packed, weight_scale, weight_sum, bias, "none")
    for given in (x, bytes_(5, 37), bytes_(5, 37, dtype=U8)):
        for qparams in zip(SCALE, ZERO_POINT, strict=True):
            check("linear_static", given, *qparams, *layer)
            check("linear_static", given, scale, zero_point, *layer, *qparams, U8)


def test_what_the_contract_says_in_words() -> None:
    """Without the oracle: a NaN scale gives quant_min, and NaN where it is undone."""
    nan, zero = torch.tensor(math.nan), torch.tensor(-(2**31), dtype=I32)
    quantized = operator("quantize_per_tensor")(VALUES, nan, zero, -100, 100, I8)
    assert (quantized == -100).all()
    assert operator("dequantize_per_tensor")(CODES, nan, zero).isnan().all()
    one = torch.tensor(1.0)
    codes = operator("quantize_per_tensor")(VALUES, one, zero, -100, 100, I8)
    assert codes[:3].tolist() == [-100] * 3  # far below the range
    assert codes[3] == 0  # 100 - zero_point is 2^31 in float32
    far = operator("dequantize_per_tensor")(CODES, one, torch.tensor(2**31 - 1, dtype=I32))
    assert far[:2].tolist() == [-(2.0**31), 128 - 2.0**31]

"""quantize_per_tensor, _per_channel and _per_token: ties, saturation and every range and dtype."""

from __future__ import annotations

import math
from typing import Any

import pytest
import reference
import torch
import torch.ao.quantization.fx._decomposed
from operator_tests import OperatorTests, assert_same, operator
from samples import BF16, F16, I8, I16, I32, U8, floats, scales, zero_points
from torch import Tensor

DYNAMIC = torch.export.Dim.DYNAMIC
FLT_MIN, FLT_MAX = reference.FLT_MIN, reference.FLT_MAX
FLOATS = [torch.float32, F16, BF16]
LIMITS = {I8: (-128, 127), U8: (0, 255), I16: (-32768, 32767), I32: (-65536, 65535)}
# Every range of 2 to 16 bits, with every dtype that holds it.
RANGES = [
    pytest.param(low, high, dtype, id=f"{low}-{high}-{str(dtype)[6:]}")
    for bits in range(2, 17)
    for low, high in ((-(1 << (bits - 1)), (1 << (bits - 1)) - 1), (0, (1 << bits) - 1))
    for dtype, (lowest, highest) in LIMITS.items()
    if lowest <= low and high <= highest
]
INT32_MIN, INT32_MAX = -(1 << 31), (1 << 31) - 1
ZERO_POINTS = [
    0, 1, -1, 127, 128, -128, -129, 255, 256, 65535, -65536, 1000003, -1000003,
    *(sign * ((1 << power) + by) for power in (22, 23, 24, 25, 30)
      for by in (-129, -1, 0, 1, 130) for sign in (1, -1)),
    INT32_MIN, INT32_MIN + 1, INT32_MIN + 128, INT32_MAX, INT32_MAX - 1, INT32_MAX - 127,
]  # fmt: skip
SCALES = [
    0.0, -0.0, -0.5, math.nan, math.inf, -math.inf, 1e-45, 2e-39, FLT_MIN, FLT_MAX, 1e-30, 1e30,
    0.1, 1 / 3,
]  # fmt: skip
SPECIAL_VALUES = [
    0.0, -0.0, math.nan, -math.nan, math.inf, -math.inf, 1e-45, -1e-45, 3e-39, FLT_MIN, -FLT_MIN,
    3e38, -3e38, FLT_MAX, -FLT_MAX, 0.5, -0.5, 1.5, 2.5, 0.49999997, 0.50000006, 2.0**31,
    -(2.0**31), 2.0**31 - 128, 2.0**32, 2.0**63, 1e10, -1e10, 8388607.5, -8388608.5,
]  # fmt: skip


def quantize(granularity: str, *arguments: Any) -> Tensor:
    return operator(f"quantize_{granularity}")(*arguments)


def int32(value: int) -> Tensor:
    return torch.tensor(value, dtype=I32)


def check_all(
    x: Tensor, scale: float, zero_point: int, quant_min: int, quant_max: int, dtype: torch.dtype
) -> None:
    """One row of values, with one scale and with a scale for each of them."""
    limits = (quant_min, quant_max, dtype)
    one, zero = torch.tensor(scale), int32(zero_point)
    expected = reference.quantize_per_tensor(x, one, zero, *limits)
    row = (one.expand(x.numel()), zero.expand(x.numel()))
    assert_same(quantize("per_tensor", x, one, zero, *limits), expected)
    assert_same(quantize("per_token", x, one[None], zero[None], *limits), expected)
    assert_same(quantize("per_channel", x[None], one[None], zero[None], 0, *limits), expected[None])
    assert_same(quantize("per_channel", x, *row, 0, *limits), expected)


class TestQuantizePerTensor(OperatorTests):
    name = "quantize_per_tensor"

    def exported(self) -> Any:
        def function(x: Tensor, scale: Tensor, zero_point: Tensor) -> Any:
            return operator(self.name)(x, scale, zero_point, 0, 255, U8)

        qparams = (torch.tensor(0.1), int32(7))
        shapes = ({0: DYNAMIC, 1: DYNAMIC}, None, None)
        return function, (floats(3, 5), *qparams), (floats(7, 40), *qparams), shapes


class TestQuantizePerChannel(OperatorTests):
    name = "quantize_per_channel"

    def exported(self) -> Any:
        def function(x: Tensor, scale: Tensor, zero_point: Tensor) -> Any:
            return operator(self.name)(x, scale, zero_point, 1, -128, 127, I8)

        def call(*shape: int) -> tuple[Tensor, ...]:
            return floats(*shape), scales(shape[1]), zero_points(shape[1])

        shapes = ({0: DYNAMIC, 1: DYNAMIC, 2: DYNAMIC}, {0: DYNAMIC}, {0: DYNAMIC})
        return function, call(3, 5, 9), call(2, 17, 40), shapes


class TestQuantizePerGroup(OperatorTests):
    name = "quantize_per_group"

    def exported(self) -> Any:
        def function(x: Tensor, scale: Tensor, zero_point: Tensor) -> Any:
            return operator(self.name)(x, scale, zero_point, 4, -128, 127, I8)

        def call(*shape: int) -> tuple[Tensor, ...]:
            groups = (*shape[:-1], -(-shape[-1] // 4))
            return floats(*shape), scales(*groups), zero_points(*groups)

        every = {0: DYNAMIC, 1: DYNAMIC, 2: DYNAMIC}
        return function, call(3, 5, 9), call(2, 17, 40), (every, every, every)


class TestQuantizePerToken(OperatorTests):
    name = "quantize_per_token"

    def exported(self) -> Any:
        def function(x: Tensor, scale: Tensor, zero_point: Tensor) -> Any:
            return operator(self.name)(x, scale, zero_point, -128, 127, I8)

        def call(*shape: int) -> tuple[Tensor, ...]:
            return floats(*shape), scales(*shape[:-1], 1), zero_points(*shape[:-1], 1)

        rows = {0: DYNAMIC, 1: DYNAMIC}
        return function, call(3, 5, 9), call(2, 17, 40), ({**rows, 2: DYNAMIC}, rows, rows)


@pytest.mark.parametrize(("quant_min", "quant_max", "dtype"), RANGES)
def test_every_range_and_dtype(quant_min: int, quant_max: int, dtype: torch.dtype) -> None:
    """Values that reach a little over both ends of the range."""
    middle = (quant_min + quant_max) // 2
    scale = 6.0 / (quant_max - quant_min)
    x = torch.cat([torch.linspace(-4, 4, 75), floats(10)])
    for zero_point in (middle, quant_min, quant_max, quant_min - 3, quant_max + 3):
        check_all(x, scale, zero_point, quant_min, quant_max, dtype)


@pytest.mark.parametrize("x_dtype", FLOATS)
@pytest.mark.parametrize("dtype", LIMITS)
def test_every_length(x_dtype: torch.dtype, dtype: torch.dtype) -> None:
    for length in [*range(131), 1000, 4099]:
        x = floats(length, dtype=x_dtype, seed=length)
        check_all(x, 0.013, 3, *LIMITS[dtype], dtype)


@pytest.mark.parametrize("scale", [0.25, 0.5, 1.0, 2.0, 1024.0])
def test_ties_go_to_even(scale: float) -> None:
    """x = (k + 0.5) * scale is exact for a power of two; its neighbours must go to either side."""
    codes = torch.arange(-140, 140)
    ties = (codes.double() + 0.5) * scale
    even = torch.where(codes % 2 == 0, codes, codes + 1)
    x = ties.float()
    assert torch.equal(x.double(), ties)
    limits = (-128, 127, I8)

    def quantized(x: Tensor, zero_point: int) -> Tensor:
        check_all(x, scale, zero_point, *limits)
        return quantize("per_tensor", x, torch.tensor(scale), int32(zero_point), *limits).long()

    for zero_point in (0, 1, -5):

        def saturated(codes: Tensor, zero_point: int = zero_point) -> Tensor:
            return (codes + zero_point).clamp(-128, 127)

        assert torch.equal(quantized(x, zero_point), saturated(even))
        up = torch.nextafter(x, torch.tensor(math.inf))
        down = torch.nextafter(x, torch.tensor(-math.inf))
        assert torch.equal(quantized(up, zero_point), saturated(codes + 1))
        assert torch.equal(quantized(down, zero_point), saturated(codes))


@pytest.mark.parametrize("scale", [0.1, 1 / 3, 0.037, 7.77, 1 / 255])
def test_near_ties_of_any_scale(scale: float) -> None:
    """x times the reciprocal and x over the scale differ here: the contract is the former."""
    one = torch.tensor(scale)
    x = ((torch.arange(-140, 140).double() + 0.5) * one.double()).float()
    up, down = torch.tensor(math.inf), torch.tensor(-math.inf)
    near = torch.cat([x, torch.nextafter(x, up), torch.nextafter(x, down)])
    assert not torch.equal((near * (1 / one)).round(), (near / one).round())
    check_all(near, scale, 0, -128, 127, I8)


@pytest.mark.parametrize("x_dtype", [F16, BF16])
@pytest.mark.parametrize("scale", [0.25, 0.1, 1000.0])
def test_every_half_value(x_dtype: torch.dtype, scale: float) -> None:
    x = torch.arange(-32768, 32768, dtype=I32).to(I16).view(x_dtype)
    check_all(x, scale, 3, -128, 127, I8)
    check_all(x, scale, 30000, 0, 65535, I32)


@pytest.mark.parametrize("zero_point", ZERO_POINTS)
def test_every_zero_point(zero_point: int) -> None:
    """Around it, where codes fall inside the range if float32 can tell them apart, and far off."""
    steps = torch.arange(-300, 301, 5).double()
    for dtype, (quant_min, quant_max) in LIMITS.items():
        x = torch.cat([(steps - zero_point).float(), torch.tensor(SPECIAL_VALUES)])
        check_all(x, 1.0, zero_point, quant_min, quant_max, dtype)
        check_all(x, 0.5, zero_point, quant_min, quant_max, dtype)


@pytest.mark.parametrize("scale", SCALES)
def test_every_kind_of_scale(scale: float) -> None:
    x = torch.tensor([*SPECIAL_VALUES, 1.0, -1.0, 1e-38, 1e-30, 1e30, -0.1, 12.7, 300.0])
    for dtype, limits in LIMITS.items():
        for zero_point in (0, 5, limits[0], limits[1], INT32_MIN, INT32_MAX):
            check_all(x, scale, zero_point, *limits, dtype)


@pytest.mark.parametrize("x_dtype", FLOATS)
@pytest.mark.parametrize("value", SPECIAL_VALUES)
def test_special_values_at_every_position(value: float, x_dtype: torch.dtype) -> None:
    for length in (1, 16, 37, 70):
        x = floats(length, dtype=x_dtype)
        for position in {0, 7, 15, 31, length // 2, length - 1}:
            if position < length:
                y = x.clone()
                y[position] = value
                check_all(y, 0.05, 12, 0, 255, U8)


@pytest.mark.parametrize("x_dtype", FLOATS)
@pytest.mark.parametrize("dtype", LIMITS)
def test_nan_gives_quant_min_and_infinity_saturates(
    x_dtype: torch.dtype, dtype: torch.dtype
) -> None:
    """Written out, so that a mistake of the reference cannot hide one of the operator."""
    x = torch.tensor([math.nan, math.inf, -math.inf] * 30, dtype=x_dtype)
    low, high = LIMITS[dtype]
    for zero_point in (0, low, high, 1 << 23, -(1 << 23), low + 1):
        result = quantize("per_tensor", x, torch.tensor(0.1), int32(zero_point), low, high, dtype)
        assert result.tolist() == [low, high, low] * 30


def test_a_nan_scale_gives_quant_min() -> None:
    x = torch.cat([floats(70), torch.tensor(SPECIAL_VALUES)])
    nan = torch.tensor(math.nan)
    for zero_point in (0, 300, INT32_MIN, INT32_MAX):
        result = quantize("per_tensor", x, nan, int32(zero_point), -100, 100, I8)
        assert_same(result, torch.full_like(x, -100, dtype=I8))


@pytest.mark.parametrize("x_dtype", FLOATS)
@pytest.mark.parametrize("axis", range(-4, 4))
def test_per_channel_on_every_axis(axis: int, x_dtype: torch.dtype) -> None:
    for shape in ((2, 3, 4, 5), (3, 1, 1, 49), (1, 1, 1, 1), (1, 17, 7, 7), (4, 33, 1, 3)):
        x = floats(*shape, dtype=x_dtype)
        qparams = (scales(shape[axis]), zero_points(shape[axis]))
        for dtype, limits in LIMITS.items():
            arguments = (x, *qparams, axis, *limits, dtype)
            assert_same(
                quantize("per_channel", *arguments), reference.quantize_per_channel(*arguments)
            )


@pytest.mark.parametrize("inner", [1, 2, 3, 7, 15, 16, 17, 31, 33, 49, 64, 100])
@pytest.mark.parametrize("channels", [1, 2, 15, 16, 17, 33, 100])
def test_per_channel_of_small_inner_sizes(channels: int, inner: int) -> None:
    for outer in (1, 5):
        x = floats(outer, channels, inner)
        arguments = (x, scales(channels), zero_points(channels), 1, -128, 127, I8)
        assert_same(quantize("per_channel", *arguments), reference.quantize_per_channel(*arguments))


@pytest.mark.parametrize("inner", [1, 3, 40])
def test_per_channel_with_every_kind_of_scale_and_zero_point(inner: int) -> None:
    """Ordinary channels beside extreme ones, which a vector must not share its shortcuts with."""
    kinds = [0.05, *SCALES, 0.05, 1.0]
    zeros = [3, *ZERO_POINTS, 3]
    scale = torch.tensor(kinds * len(zeros))
    zero_point = torch.tensor([zero for zero in zeros for _ in kinds], dtype=I32)
    x = floats(2, len(scale), inner)
    x[0, ::3] *= 1e9
    for dtype, limits in LIMITS.items():
        arguments = (x, scale, zero_point, 1, *limits, dtype)
        assert_same(quantize("per_channel", *arguments), reference.quantize_per_channel(*arguments))


@pytest.mark.parametrize("x_dtype", FLOATS)
@pytest.mark.parametrize("length", [1, 2, 3, 7, 16, 31, 49, 100])
def test_per_token_of_every_width(length: int, x_dtype: torch.dtype) -> None:
    for batch in ((), (1,), (9,), (2, 3), (2, 1, 5)):
        x = floats(*batch, length, dtype=x_dtype)
        arguments = (x, scales(*batch, 1), zero_points(*batch, 1), 0, 255, U8)
        assert_same(quantize("per_token", *arguments), reference.quantize_per_token(*arguments))


def test_per_token_with_every_kind_of_scale_and_zero_point() -> None:
    zeros = [3, *ZERO_POINTS]
    scale = torch.tensor([0.05, *SCALES] * len(zeros))[:, None]
    zero_point = torch.tensor([zero for zero in zeros for _ in [0.05, *SCALES]], dtype=I32)[:, None]
    x = floats(len(scale), 21)
    arguments = (x, scale, zero_point, -128, 127, I8)
    assert_same(quantize("per_token", *arguments), reference.quantize_per_token(*arguments))


@pytest.mark.parametrize("dtype", LIMITS)
def test_any_strides(dtype: torch.dtype) -> None:
    base = floats(6, 8, 10)
    limits = (*LIMITS[dtype], dtype)
    for x in (
        base.transpose(0, 2),
        base[::2, 1::3, ::4],
        base[:, :, 3],
        base[:1, :, :1].expand(5, 8, 7),
        torch.tensor(2.5).expand(3, 4, 5),
        floats(2, 6, 5, 3).contiguous(memory_format=torch.channels_last),
        base.flip(0),
        base.as_strided((1, 8, 1), (0, 10, 0)),
    ):
        one = (torch.tensor(0.05), int32(7))
        assert_same(
            quantize("per_tensor", x, *one, *limits),
            reference.quantize_per_tensor(x, *one, *limits),
        )
        token = (*x.shape[:-1], 1)
        many = (scales(*token), zero_points(*token))
        assert_same(
            quantize("per_token", x, *many, *limits),
            reference.quantize_per_token(x, *many, *limits),
        )
        for axis in range(x.ndim):
            channels = (scales(x.shape[axis]), zero_points(x.shape[axis]))
            assert_same(
                quantize("per_channel", x, *channels, axis, *limits),
                reference.quantize_per_channel(x, *channels, axis, *limits),
            )


def test_strided_scales_and_zero_points() -> None:
    x = floats(9, 11)
    limits = (-128, 127, I8)
    scale, zero_point = scales(9, 3)[:, 1], zero_points(18)[::2]
    assert not scale.is_contiguous()
    assert not zero_point.is_contiguous()
    arguments = (x, scale, zero_point, 0, *limits)
    assert_same(quantize("per_channel", *arguments), reference.quantize_per_channel(*arguments))
    arguments = (x, scale[:, None], zero_point[:, None], *limits)
    assert_same(quantize("per_token", *arguments), reference.quantize_per_token(*arguments))
    expanded = (torch.tensor(0.1).expand(9), int32(3).expand(9))
    arguments = (x, *expanded, 0, *limits)
    assert_same(quantize("per_channel", *arguments), reference.quantize_per_channel(*arguments))


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1)])
def test_per_tensor_takes_any_one_element_qparams(shape: tuple[int, ...]) -> None:
    x = floats(5, 7)
    arguments = (x, torch.full(shape, 0.1), torch.full(shape, 3, dtype=I32), -128, 127, I8)
    assert_same(quantize("per_tensor", *arguments), reference.quantize_per_tensor(*arguments))


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 3), (2, 3, 0), (0, 2, 3)])
def test_empty_tensors(shape: tuple[int, ...]) -> None:
    x = torch.empty(shape)
    expected = torch.empty(shape, dtype=U8)
    limits = (0, 255, U8)
    assert_same(quantize("per_tensor", x, torch.tensor(1.0), int32(0), *limits), expected)
    token = (*shape[:-1], 1)
    assert_same(quantize("per_token", x, scales(*token), zero_points(*token), *limits), expected)
    for axis, size in enumerate(shape):
        qparams = (scales(size), zero_points(size))
        assert_same(quantize("per_channel", x, *qparams, axis, *limits), expected)


def test_long_inputs_over_both_threads() -> None:
    x = floats(301, 1003)
    limits = (0, 255, U8)
    check_all(x.flatten(), 0.05, 12, *limits)
    for axis in (0, 1):
        arguments = (x, scales(x.shape[axis]), zero_points(x.shape[axis]), axis, *limits)
        assert_same(quantize("per_channel", *arguments), reference.quantize_per_channel(*arguments))
    arguments = (x, scales(301, 1), zero_points(301, 1), *limits)
    assert_same(quantize("per_token", *arguments), reference.quantize_per_token(*arguments))


@pytest.mark.parametrize("dtype", [I8, U8, I16, I32])
def test_equals_quantized_decomposed_for_finite_input(dtype: torch.dtype) -> None:
    quant_min, quant_max = LIMITS[dtype]
    limits = (quant_min, quant_max, dtype)
    decomposed = torch.ops.quantized_decomposed
    near_ties = (torch.arange(-40, 40) + 0.5) * 0.1
    x = torch.cat([floats(1920), near_ties * 1e3, near_ties, torch.tensor([3e38, -3e38, 1e-45])])
    for scale, zero_point in [(0.1, 0), (0.037, 5), (FLT_MIN, -3), (1e30, 1), (1 / 3, 100)]:
        qparams = (torch.tensor(scale), int32(zero_point))
        finite = x if scale > 1e-38 else x[(x.double() / scale).abs() < 1e38]
        assert_same(
            quantize("per_tensor", finite, *qparams, *limits),
            decomposed.quantize_per_tensor(finite, *qparams, *limits),
        )
    y = floats(7, 30, 5)
    scale, zero_point = scales(30), zero_points(30)
    assert_same(
        quantize("per_channel", y, scale, zero_point, 1, *limits),
        decomposed.quantize_per_channel(y, scale, zero_point, 1, *limits),
    )


@pytest.mark.parametrize("x_dtype", FLOATS)
@pytest.mark.parametrize("group_size", [1, 2, 3, 7, 8, 15, 16, 17, 32, 69, 70, 71, 1 << 40])
def test_groups_of_every_size(group_size: int, x_dtype: torch.dtype) -> None:
    for shape in [(5, 70), (70,), (2, 3, 64), (33, 100)]:
        groups = (*shape[:-1], -(-shape[-1] // group_size))
        qparams = (scales(*groups), zero_points(*groups))
        arguments = (floats(*shape, dtype=x_dtype), *qparams, group_size, -128, 127, I8)
        assert_same(quantize("per_group", *arguments), reference.quantize_per_group(*arguments))


def test_per_group_with_every_kind_of_scale_and_zero_point() -> None:
    groups = len(ZERO_POINTS)
    scale = torch.tensor((SCALES * groups)[:groups])
    for group_size in (3, 20):
        x = floats(2, groups * group_size - 1)
        qparams = (scale.repeat(2, 1), torch.tensor(ZERO_POINTS, dtype=I32).repeat(2, 1))
        arguments = (x, *qparams, group_size, -128, 127, I8)
        assert_same(quantize("per_group", *arguments), reference.quantize_per_group(*arguments))

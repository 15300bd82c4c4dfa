"""dequantize_per_tensor, _per_channel and _per_token: one exact difference, two roundings."""

from __future__ import annotations

import math
from typing import Any

import pytest
import reference
import torch
import torch.ao.quantization.fx._decomposed
from operator_tests import OperatorTests, assert_same, operator
from samples import BF16, F16, I8, I16, I32, U8, bytes_, integers, scales, zero_points
from torch import Tensor

DYNAMIC = torch.export.Dim.DYNAMIC
FLT_MIN, FLT_MAX = reference.FLT_MIN, reference.FLT_MAX
INT32_MIN, INT32_MAX = -(1 << 31), (1 << 31) - 1
FLOATS = [torch.float32, F16, BF16]
LIMITS = {I8: (-128, 127), U8: (0, 255), I16: (-32768, 32767), I32: (INT32_MIN, INT32_MAX)}
ZERO_POINTS = [
    0, 1, -1, 128, -128, 255, 65535, -65536,
    *(sign * ((1 << power) + by) for power in (22, 23, 24, 25, 30)
      for by in (-129, -1, 0, 1, 130) for sign in (1, -1)),
    INT32_MIN, INT32_MIN + 1, INT32_MAX, INT32_MAX - 1,
]  # fmt: skip
SCALES = [
    0.0, -0.0, -0.5, math.nan, math.inf, -math.inf, 1e-45, 2e-39, FLT_MIN, FLT_MAX, 1e30, 0.1,
]  # fmt: skip


def dequantize(granularity: str, *arguments: Any, **keywords: Any) -> Tensor:
    return operator(f"dequantize_{granularity}")(*arguments, **keywords)


def codes(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Codes over the whole of the dtype."""
    low, high = LIMITS[dtype]
    return integers(*shape, low=low, high=high, dtype=dtype, seed=seed)


def int32(value: int) -> Tensor:
    return torch.tensor(value, dtype=I32)


def check_all(q: Tensor, scale: float, zero_point: int, out_dtype: torch.dtype) -> None:
    """One row of codes, with one scale and with a scale for each of them."""
    one, zero = torch.tensor(scale), int32(zero_point)
    keywords = {"out_dtype": out_dtype}
    expected = reference.dequantize_per_tensor(q, one, zero, **keywords)
    row = (one.expand(q.numel()), zero.expand(q.numel()))
    assert_same(dequantize("per_tensor", q, one, zero, **keywords), expected)
    assert_same(dequantize("per_token", q, one[None], zero[None], **keywords), expected)
    assert_same(dequantize("per_channel", q, *row, 0, **keywords), expected)
    assert_same(
        dequantize("per_channel", q[None], one[None], zero[None], 0, **keywords), expected[None]
    )


class TestDequantizePerTensor(OperatorTests):
    name = "dequantize_per_tensor"

    def exported(self) -> Any:
        def function(q: Tensor, scale: Tensor, zero_point: Tensor) -> Any:
            return operator(self.name)(q, scale, zero_point)

        qparams = (torch.tensor(0.1), int32(7))
        shapes = ({0: DYNAMIC, 1: DYNAMIC}, None, None)
        return function, (bytes_(3, 5), *qparams), (bytes_(7, 40), *qparams), shapes


class TestDequantizePerChannel(OperatorTests):
    name = "dequantize_per_channel"

    def exported(self) -> Any:
        def function(q: Tensor, scale: Tensor, zero_point: Tensor) -> Any:
            return operator(self.name)(q, scale, zero_point, -2, out_dtype=F16)

        def call(*shape: int) -> tuple[Tensor, ...]:
            return bytes_(*shape), scales(shape[1]), zero_points(shape[1])

        shapes = ({0: DYNAMIC, 1: DYNAMIC, 2: DYNAMIC}, {0: DYNAMIC}, {0: DYNAMIC})
        return function, call(3, 5, 9), call(2, 17, 40), shapes


class TestDequantizePerGroup(OperatorTests):
    name = "dequantize_per_group"

    def exported(self) -> Any:
        def function(q: Tensor, scale: Tensor, zero_point: Tensor) -> Any:
            return operator(self.name)(q, scale, zero_point, 4)

        def call(*shape: int) -> tuple[Tensor, ...]:
            groups = (*shape[:-1], -(-shape[-1] // 4))
            return bytes_(*shape), scales(*groups), zero_points(*groups)

        every = {0: DYNAMIC, 1: DYNAMIC, 2: DYNAMIC}
        return function, call(3, 5, 9), call(2, 17, 40), (every, every, every)


class TestDequantizePerToken(OperatorTests):
    name = "dequantize_per_token"

    def exported(self) -> Any:
        def function(q: Tensor, scale: Tensor, zero_point: Tensor) -> Any:
            return operator(self.name)(q, scale, zero_point)

        def call(*shape: int) -> tuple[Tensor, ...]:
            return bytes_(*shape), scales(*shape[:-1], 1), zero_points(*shape[:-1], 1)

        rows = {0: DYNAMIC, 1: DYNAMIC}
        return function, call(3, 5, 9), call(2, 17, 40), ({**rows, 2: DYNAMIC}, rows, rows)


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("out_dtype", FLOATS)
def test_every_length(dtype: torch.dtype, out_dtype: torch.dtype) -> None:
    for length in [*range(131), 1000, 4099]:
        check_all(codes(length, dtype=dtype, seed=length), 0.013, 3, out_dtype)


@pytest.mark.parametrize("dtype", [I8, U8, I16])
@pytest.mark.parametrize("out_dtype", FLOATS)
@pytest.mark.parametrize("scale", [0.1, 1.0, 3e33])
def test_every_code(dtype: torch.dtype, out_dtype: torch.dtype, scale: float) -> None:
    low, high = LIMITS[dtype]
    q = torch.arange(low, high + 1, dtype=torch.int32).to(dtype)
    for zero_point in (0, low, high):
        check_all(q, scale, zero_point, out_dtype)


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("zero_point", ZERO_POINTS)
def test_every_zero_point(dtype: torch.dtype, zero_point: int) -> None:
    """The difference of two int32 needs 33 bits, and more than 24 are rounded to float32."""
    low, high = LIMITS[dtype]
    ends = torch.tensor([low, low + 1, high - 1, high, 0, 1] * 5, dtype=torch.int64).to(dtype)
    q = torch.cat([ends, codes(40, dtype=dtype)])
    for out_dtype in FLOATS:
        check_all(q, 1.0, zero_point, out_dtype)
        check_all(q, 0.1, zero_point, out_dtype)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("out_dtype", FLOATS)
def test_every_kind_of_scale(scale: float, out_dtype: torch.dtype) -> None:
    for dtype in LIMITS:
        for zero_point in (0, 5, -128, INT32_MIN, INT32_MAX):
            check_all(codes(70, dtype=dtype), scale, zero_point, out_dtype)


def test_the_documented_results_written_out() -> None:
    q = torch.tensor([-128, -1, 0, 1, 127], dtype=I8)

    def dequantized(scale: float, zero_point: int, out_dtype: torch.dtype) -> list[float]:
        return dequantize(
            "per_tensor", q, torch.tensor(scale), int32(zero_point), out_dtype=out_dtype
        ).tolist()

    assert dequantized(0.5, -1, torch.float32) == [-63.5, 0.0, 0.5, 1.0, 64.0]
    assert dequantized(1000.0, 0, F16) == [-math.inf, -1000.0, 0.0, 1000.0, math.inf]
    assert dequantized(1.0, INT32_MAX, torch.float32) == [*[-(2.0**31)] * 4, 128 - 2.0**31]
    assert dequantized(1.0, INT32_MIN, BF16) == [2.0**31] * 5
    assert all(math.isnan(x) for x in dequantized(math.nan, 0, torch.float32))


def test_the_result_is_rounded_once_to_half() -> None:
    """2049 and 2051 lie halfway between halves: to even, so down and up."""
    q = torch.tensor([2047, 2048, 2049, 2050, 2051], dtype=I16)
    result = dequantize("per_tensor", q, torch.tensor(1.0), int32(0), out_dtype=F16)
    assert result.tolist() == [2047, 2048, 2048, 2050, 2052]


@pytest.mark.parametrize("out_dtype", FLOATS)
@pytest.mark.parametrize("axis", range(-4, 4))
def test_per_channel_on_every_axis(axis: int, out_dtype: torch.dtype) -> None:
    for shape in ((2, 3, 4, 5), (3, 1, 1, 49), (1, 1, 1, 1), (1, 17, 7, 7), (4, 33, 1, 3)):
        qparams = (scales(shape[axis]), zero_points(shape[axis]))
        for dtype in LIMITS:
            arguments = (codes(*shape, dtype=dtype), *qparams, axis)
            assert_same(
                dequantize("per_channel", *arguments, out_dtype=out_dtype),
                reference.dequantize_per_channel(*arguments, out_dtype=out_dtype),
            )


@pytest.mark.parametrize("inner", [1, 2, 3, 7, 15, 16, 17, 31, 33, 49, 64, 100])
@pytest.mark.parametrize("channels", [1, 2, 15, 16, 17, 33, 100])
def test_per_channel_of_small_inner_sizes(channels: int, inner: int) -> None:
    for outer in (1, 5):
        q = bytes_(outer, channels, inner)
        arguments = (q, scales(channels), zero_points(channels), 1)
        assert_same(
            dequantize("per_channel", *arguments), reference.dequantize_per_channel(*arguments)
        )


@pytest.mark.parametrize("inner", [1, 3, 40])
@pytest.mark.parametrize("dtype", LIMITS)
def test_per_channel_with_every_kind_of_scale_and_zero_point(
    dtype: torch.dtype, inner: int
) -> None:
    """Ordinary channels beside extreme ones, which a vector must not share its shortcuts with."""
    kinds = [0.05, *SCALES]
    zeros = [3, *ZERO_POINTS, 3]
    scale = torch.tensor(kinds * len(zeros))
    zero_point = torch.tensor([zero for zero in zeros for _ in kinds], dtype=I32)
    arguments = (codes(2, len(scale), inner, dtype=dtype), scale, zero_point, 1)
    for out_dtype in FLOATS:
        assert_same(
            dequantize("per_channel", *arguments, out_dtype=out_dtype),
            reference.dequantize_per_channel(*arguments, out_dtype=out_dtype),
        )


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("length", [1, 2, 3, 7, 16, 31, 49, 100])
def test_per_token_of_every_width(length: int, dtype: torch.dtype) -> None:
    for batch in ((), (1,), (9,), (2, 3), (2, 1, 5)):
        q = codes(*batch, length, dtype=dtype)
        arguments = (q, scales(*batch, 1), zero_points(*batch, 1))
        assert_same(dequantize("per_token", *arguments), reference.dequantize_per_token(*arguments))


@pytest.mark.parametrize("dtype", LIMITS)
def test_any_strides(dtype: torch.dtype) -> None:
    base = codes(6, 8, 10, dtype=dtype)
    for q in (
        base.transpose(0, 2),
        base[::2, 1::3, ::4],
        base[:, :, 3],
        base[:1, :, :1].expand(5, 8, 7),
        torch.tensor(25, dtype=dtype).expand(3, 4, 5),
        codes(2, 6, 5, 3, dtype=dtype).contiguous(memory_format=torch.channels_last),
        base.flip(0),
        base.as_strided((1, 8, 1), (0, 10, 0)),
    ):
        one = (torch.tensor(0.05), int32(7))
        assert_same(dequantize("per_tensor", q, *one), reference.dequantize_per_tensor(q, *one))
        token = (*q.shape[:-1], 1)
        many = (scales(*token), zero_points(*token))
        assert_same(dequantize("per_token", q, *many), reference.dequantize_per_token(q, *many))
        for axis in range(q.ndim):
            channels = (scales(q.shape[axis]), zero_points(q.shape[axis]), axis)
            assert_same(
                dequantize("per_channel", q, *channels),
                reference.dequantize_per_channel(q, *channels),
            )


def test_strided_scales_and_zero_points() -> None:
    q = bytes_(9, 11)
    scale, zero_point = scales(9, 3)[:, 1], zero_points(18)[::2]
    channel = (q, scale, zero_point, 0)
    assert_same(dequantize("per_channel", *channel), reference.dequantize_per_channel(*channel))
    token = (q, scale[:, None], zero_point[:, None])
    assert_same(dequantize("per_token", *token), reference.dequantize_per_token(*token))
    channel = (q, torch.tensor(0.1).expand(9), int32(3).expand(9), 0)
    assert_same(dequantize("per_channel", *channel), reference.dequantize_per_channel(*channel))


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1)])
def test_per_tensor_takes_any_one_element_qparams(shape: tuple[int, ...]) -> None:
    arguments = (bytes_(5, 7), torch.full(shape, 0.1), torch.full(shape, 3, dtype=I32))
    assert_same(dequantize("per_tensor", *arguments), reference.dequantize_per_tensor(*arguments))


def test_zero_dimensional_input() -> None:
    arguments = (torch.tensor(-7, dtype=I8), torch.tensor(0.1), int32(3))
    assert_same(dequantize("per_tensor", *arguments), torch.tensor(-10.0) * torch.tensor(0.1))


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 3), (2, 3, 0), (0, 2, 3)])
def test_empty_tensors(shape: tuple[int, ...]) -> None:
    q = torch.empty(shape, dtype=U8)
    expected = torch.empty(shape)
    assert_same(dequantize("per_tensor", q, torch.tensor(1.0), int32(0)), expected)
    token = (*shape[:-1], 1)
    assert_same(dequantize("per_token", q, scales(*token), zero_points(*token)), expected)
    for axis, size in enumerate(shape):
        assert_same(dequantize("per_channel", q, scales(size), zero_points(size), axis), expected)


def test_long_inputs_over_both_threads() -> None:
    q = bytes_(301, 1003, dtype=U8)
    check_all(q.flatten(), 0.05, 12, torch.float32)
    for axis in (0, 1):
        arguments = (q, scales(q.shape[axis]), zero_points(q.shape[axis]), axis)
        assert_same(
            dequantize("per_channel", *arguments), reference.dequantize_per_channel(*arguments)
        )
    token = (q, scales(301, 1), zero_points(301, 1))
    assert_same(dequantize("per_token", *token), reference.dequantize_per_token(*token))


@pytest.mark.parametrize("dtype", [I8, U8, I16])
def test_equals_quantized_decomposed(dtype: torch.dtype) -> None:
    low, high = LIMITS[dtype]
    decomposed = torch.ops.quantized_decomposed
    for scale, zero_point in [(0.1, 0), (0.037, 5), (FLT_MIN, -3), (1e30, 1), (1 / 3, 100)]:
        q, qparams = codes(1000, dtype=dtype), (torch.tensor(scale), int32(zero_point))
        assert_same(
            dequantize("per_tensor", q, *qparams),
            decomposed.dequantize_per_tensor(q, *qparams, low, high, dtype),
        )
    q, scale_, zero_point_ = codes(7, 30, 5, dtype=dtype), scales(30), zero_points(30)
    assert_same(
        dequantize("per_channel", q, scale_, zero_point_, 1),
        decomposed.dequantize_per_channel(q, scale_, zero_point_, 1, low, high, dtype),
    )


@pytest.mark.parametrize("dtype", [I8, U8, I16])
def test_what_is_quantized_comes_back_within_half_a_scale(dtype: torch.dtype) -> None:
    """Half a scale is the error of rounding to the nearest code; 1e-6 allows for float32."""
    low, high = LIMITS[dtype]
    x = torch.linspace(-3, 4, 1001)
    scale, zero_point = torch.ops.torchquant.choose_qparams_per_tensor(x, low, high, False)
    q = torch.ops.torchquant.quantize_per_tensor(x, scale, zero_point, low, high, dtype)
    back = dequantize("per_tensor", q, scale, zero_point)
    assert (back - x).abs().max() <= 0.5 * scale + 1e-6
    assert dequantize("per_tensor", zero_point.to(dtype), scale, zero_point) == 0


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("group_size", [1, 2, 3, 7, 8, 15, 16, 17, 32, 69, 70, 71, 1 << 40])
def test_groups_of_every_size(group_size: int, dtype: torch.dtype) -> None:
    for shape in [(5, 70), (70,), (2, 3, 64), (33, 100)]:
        groups = (*shape[:-1], -(-shape[-1] // group_size))
        arguments = (codes(*shape, dtype=dtype), scales(*groups), zero_points(*groups), group_size)
        assert_same(dequantize("per_group", *arguments), reference.dequantize_per_group(*arguments))

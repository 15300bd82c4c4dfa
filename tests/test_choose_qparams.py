"""choose_qparams_per_tensor, _per_channel and _per_token: a scale and zero point from a range."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import reference
import torch
from operator_tests import OperatorTests, assert_same, operator
from samples import BF16, F16, floats
from torch import Tensor

DYNAMIC = torch.export.Dim.DYNAMIC
FLT_MIN, FLT_MAX = reference.FLT_MIN, reference.FLT_MAX
LENGTHS = [*range(131), 1000, 4097]
# (quant_min, quant_max, symmetric)
RANGES = [
    *((-(1 << (bits - 1)), (1 << (bits - 1)) - 1, True) for bits in range(2, 17)),
    *((-(1 << (bits - 1)), (1 << (bits - 1)) - 1, False) for bits in range(2, 17)),
    *((0, (1 << bits) - 1, False) for bits in range(2, 17)),
    (-127, 127, True),
    (-65536, 65535, True),
    (-65536, 65535, False),
    (10, 20, False),
    (-20, -10, False),
    (-1, 1, True),
]
# What the values of one range may hold.
SPECIALS = {
    "zeros": [0.0, -0.0, 0.0],
    "negative-zero": [-0.0],
    "positive": [3.0, 1.0, 2.0],
    "negative": [-3.0, -1.0, -2.0],
    "nan-first": [math.nan, 1.0, -1.0],
    "nan-last": [1.0, -1.0, math.nan],
    "only-nan": [math.nan],
    "negative-nan": [1.0, -math.nan, 3.0],
    "inf": [1.0, math.inf],
    "negative-inf": [1.0, -math.inf],
    "both-infs": [math.inf, -math.inf],
    "nan-and-inf": [math.inf, math.nan],
    "smallest-denormal": [1e-45, 0.0],
    "denormals": [-3e-39, 2e-39],
    "scale-below-flt-min": [FLT_MIN, -FLT_MIN],
    "huge": [3e38, -3e38],
    "largest": [FLT_MAX, -FLT_MAX],
    "one-sided-largest": [FLT_MAX, 1.0],
    "tiny-minimum": [-1e-30, 1e30],
    "halfway-zero-point": [-0.5, 254.5],
    "almost-halfway": [-0.50000006, 254.5],
}


def choose(granularity: str, *arguments: Any) -> tuple[Tensor, Tensor]:
    return operator(f"choose_qparams_{granularity}")(*arguments)


def check_all(x: Tensor, quant_min: int, quant_max: int, symmetric: bool) -> None:
    """One row of values, alone, as a token and as a channel of either layout."""
    parameters = (quant_min, quant_max, symmetric)
    scale, zero_point = reference.choose_qparams_per_tensor(x, *parameters)
    row = (scale.reshape(1), zero_point.reshape(1))
    assert_same(choose("per_tensor", x, *parameters), (scale, zero_point))
    assert_same(choose("per_token", x, *parameters), row)
    assert_same(choose("per_channel", x[None], 0, *parameters), row)
    assert_same(choose("per_channel", x[:, None], 1, *parameters), row)


class TestChooseQparamsPerTensor(OperatorTests):
    name = "choose_qparams_per_tensor"

    def exported(self) -> Any:
        def function(x: Tensor) -> Any:
            return operator(self.name)(x, 0, 255, False)

        return function, (floats(3, 5),), (floats(7, 40),), ({0: DYNAMIC, 1: DYNAMIC},)


class TestChooseQparamsPerChannel(OperatorTests):
    name = "choose_qparams_per_channel"

    def exported(self) -> Any:
        def function(x: Tensor) -> Any:
            return operator(self.name)(x, -2, 0, 255, False)

        shapes = ({0: DYNAMIC, 1: DYNAMIC, 2: DYNAMIC},)
        return function, (floats(3, 5, 9),), (floats(2, 17, 40),), shapes


class TestChooseQparamsPerGroup(OperatorTests):
    name = "choose_qparams_per_group"

    def exported(self) -> Any:
        def function(x: Tensor) -> Any:
            return operator(self.name)(x, 4, -8, 7, False)

        shapes = ({0: DYNAMIC, 1: DYNAMIC, 2: DYNAMIC},)
        return function, (floats(3, 5, 9),), (floats(2, 17, 40),), shapes


class TestChooseQparamsPerToken(OperatorTests):
    name = "choose_qparams_per_token"

    def exported(self) -> Any:
        def function(x: Tensor) -> Any:
            return operator(self.name)(x, 0, 255, False)

        shapes = ({0: DYNAMIC, 1: DYNAMIC, 2: DYNAMIC},)
        return function, (floats(3, 5, 9),), (floats(2, 17, 40),), shapes


@pytest.mark.parametrize(("quant_min", "quant_max", "symmetric"), RANGES)
def test_every_range(quant_min: int, quant_max: int, symmetric: bool) -> None:
    for x in (floats(50), floats(50) + 20, floats(50) - 20):
        check_all(x, quant_min, quant_max, symmetric)


@pytest.mark.parametrize("dtype", [torch.float32, F16, BF16])
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "affine"])
def test_every_length(dtype: torch.dtype, symmetric: bool) -> None:
    for length in LENGTHS:
        check_all(floats(length, dtype=dtype, seed=length), -128, 127, symmetric)


@pytest.mark.parametrize("dtype", [torch.float32, F16, BF16])
def test_the_extreme_is_found_at_every_position(dtype: torch.dtype) -> None:
    for length in (1, 7, 16, 33, 70):
        for position in range(length):
            x = torch.zeros(length, dtype=dtype)
            x[position] = 3.0
            scale, zero_point = choose("per_tensor", x, 0, 255, False)
            assert (scale, zero_point) == (torch.tensor(3.0) / 255, 0)
            scale, zero_point = choose("per_tensor", -x, 0, 255, False)
            assert (scale, zero_point) == (torch.tensor(3.0) / 255, 255)
            assert choose("per_token", -x, -127, 127, True)[0] == torch.tensor(3.0) / 127


@pytest.mark.parametrize("values", SPECIALS.values(), ids=SPECIALS)
@pytest.mark.parametrize("length", [0, 5, 30, 67])
def test_special_values_among_zeros(values: list[float], length: int) -> None:
    """At the start, in the middle and at the end of a row, so in a vector's body and tail."""
    parameters = [(0, 255, False), (-128, 127, True), (-128, 127, False), (-1, 1, True)]
    zeros = [0.0] * length
    for row in (values + zeros, zeros + values, zeros + values + zeros):
        for quant_min, quant_max, symmetric in parameters:
            check_all(torch.tensor(row), quant_min, quant_max, symmetric)


@pytest.mark.parametrize("dtype", [F16, BF16])
@pytest.mark.parametrize("values", SPECIALS.values(), ids=SPECIALS)
def test_special_values_of_half_types(values: list[float], dtype: torch.dtype) -> None:
    x = torch.tensor(values).to(dtype)
    for row in (x, torch.cat([torch.zeros(19, dtype=dtype), x])):
        check_all(row, 0, 255, False)
        check_all(row, -128, 127, True)


@pytest.mark.parametrize("dtype", [F16, BF16])
def test_every_half_value_alone(dtype: torch.dtype) -> None:
    """A half is converted exactly, denormals too: each of the 65536 is a token of its own."""
    x = torch.arange(-32768, 32768, dtype=torch.int32).to(torch.int16).view(dtype)[:, None]
    for symmetric in (True, False):
        expected = reference.choose_qparams_per_token(x, -128, 127, symmetric)
        assert_same(choose("per_token", x, -128, 127, symmetric), expected)
        assert_same(
            choose("per_channel", x, 0, -128, 127, symmetric),
            (expected[0].flatten(), expected[1].flatten()),
        )


def test_the_documented_results_of_special_ranges() -> None:
    """Written out, so that a mistake of the reference cannot hide one of the operator."""

    def chosen(values: list[float], *parameters: Any) -> tuple[float, int]:
        scale, zero_point = choose("per_tensor", torch.tensor(values), *parameters)
        return scale.item(), int(zero_point.item())

    assert chosen([], 0, 255, False) == (1.0, 0)
    assert chosen([], 10, 20, False) == (1.0, 10)
    assert chosen([], -20, -10, False) == (1.0, -10)
    assert chosen([0.0, -0.0], -128, 127, True) == (1.0, 0)
    assert chosen([-1.0, 254.0], 0, 255, False) == (1.0, 1)
    assert chosen([4.0, 255.0], 0, 255, False) == (1.0, 0)
    assert chosen([-255.0, -4.0], 0, 255, False) == (1.0, 255)
    assert chosen([-255.0, 0.0], -128, 127, False) == (1.0, 127)
    assert chosen([-127.0, 5.0], -128, 127, True) == (1.0, 0)
    assert chosen([1e-45], 0, 255, False) == (FLT_MIN, 0)
    assert chosen([-1e-45, 1e-45], -8, 7, True) == (FLT_MIN, 0)
    assert chosen([FLT_MAX, -FLT_MAX], 0, 1, False) == (FLT_MAX, 0)
    for bad in ([math.nan, 1.0], [math.inf, 1.0], [-math.inf, 1.0]):
        scale, zero_point = chosen(bad, 0, 255, False)
        assert math.isnan(scale)
        assert zero_point == 0
        scale, zero_point = chosen(bad, 10, 20, False)
        assert math.isnan(scale)
        assert zero_point == 10


def test_a_thread_that_flushes_denormals_chooses_all_the_same() -> None:
    x = torch.tensor([1e-40, -3e-40] * 20)
    expected = [choose("per_tensor", x, -128, 127, symmetric) for symmetric in (True, False)]
    assert [zero_point.item() for _, zero_point in expected] == [0, 63]
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush denormals")
    try:
        results = [choose("per_tensor", x, -128, 127, symmetric) for symmetric in (True, False)]
    finally:
        torch.set_flush_denormal(False)
    for result, wanted in zip(results, expected, strict=True):
        assert_same(result, wanted)


def test_the_scale_is_rounded_once_from_double() -> None:
    """Float division of float differences rounds twice; over many ranges that must show."""
    low, high = -floats(1000).abs(), floats(1000, seed=1).abs()
    x = torch.stack([low, high], dim=1)
    scale, _ = choose("per_token", x, 0, 255, False)
    assert_same(scale.flatten(), ((high.double() - low.double()) / 255).float())
    assert not torch.equal(scale.flatten(), (high - low) / 255)


@pytest.mark.parametrize("axis", range(-4, 4))
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "affine"])
@pytest.mark.parametrize("dtype", [torch.float32, F16, BF16])
def test_per_channel_on_every_axis(axis: int, symmetric: bool, dtype: torch.dtype) -> None:
    for shape in ((2, 3, 4, 5), (3, 1, 1, 49), (1, 1, 1, 1), (1, 17, 7, 7), (4, 33, 1, 3)):
        x = floats(*shape, dtype=dtype)
        expected = reference.choose_qparams_per_channel(x, axis, -128, 127, symmetric)
        assert_same(choose("per_channel", x, axis, -128, 127, symmetric), expected)


@pytest.mark.parametrize("inner", [1, 2, 3, 7, 15, 16, 17, 31, 33, 49, 64, 100])
@pytest.mark.parametrize("channels", [1, 2, 15, 16, 17, 33, 100])
def test_per_channel_of_small_inner_sizes(channels: int, inner: int) -> None:
    for outer in (1, 5):
        x = floats(outer, channels, inner, seed=inner)
        expected = reference.choose_qparams_per_channel(x, 1, 0, 255, False)
        assert_same(choose("per_channel", x, 1, 0, 255, False), expected)


@pytest.mark.parametrize("inner", [1, 3, 40])
def test_per_channel_keeps_bad_values_in_their_channel(inner: int) -> None:
    for bad, position in itertools.product((math.nan, math.inf, -math.inf), (0, 6, 20)):
        x = floats(3, 21, inner)
        x[1, position, inner // 2] = bad
        scale, zero_point = choose("per_channel", x, 1, 0, 255, False)
        assert scale.isnan().nonzero().flatten().tolist() == [position]
        assert zero_point[position] == 0
        assert_same((scale, zero_point), reference.choose_qparams_per_channel(x, 1, 0, 255, False))


def test_per_token_keeps_bad_values_in_their_token() -> None:
    for bad in (math.nan, math.inf, -math.inf):
        x = floats(9, 40)
        x[4, 37] = bad
        scale, _ = choose("per_token", x, 0, 255, False)
        assert scale.isnan().nonzero().tolist() == [[4, 0]]


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "affine"])
def test_any_strides(symmetric: bool) -> None:
    base = floats(6, 8, 10)
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
        parameters = (-128, 127, symmetric)
        assert_same(
            choose("per_tensor", x, *parameters),
            reference.choose_qparams_per_tensor(x, *parameters),
        )
        assert_same(
            choose("per_token", x, *parameters), reference.choose_qparams_per_token(x, *parameters)
        )
        for axis in range(x.ndim):
            assert_same(
                choose("per_channel", x, axis, *parameters),
                reference.choose_qparams_per_channel(x, axis, *parameters),
            )


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 3), (2, 3, 0), (0, 2, 3)])
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "affine"])
def test_empty_tensors(shape: tuple[int, ...], symmetric: bool) -> None:
    x = torch.empty(shape)
    scale, zero_point = choose("per_tensor", x, -8, 7, symmetric)
    assert (scale, zero_point) == (1, 0)
    assert_same(
        choose("per_token", x, -8, 7, symmetric),
        reference.choose_qparams_per_token(x, -8, 7, symmetric),
    )
    for axis in range(len(shape)):
        assert_same(
            choose("per_channel", x, axis, -8, 7, symmetric),
            (torch.ones(shape[axis]), torch.zeros(shape[axis], dtype=torch.int32)),
        )


def test_long_inputs_over_both_threads() -> None:
    x = floats(301, 1003)
    for position in ((0, 0), (150, 500), (300, 1002)):
        y = x.clone()
        y[position] = 1e6
        check_all(y.flatten(), 0, 255, False)
        assert_same(
            choose("per_token", y, 0, 255, False),
            reference.choose_qparams_per_token(y, 0, 255, False),
        )
        for axis in (0, 1):
            assert_same(
                choose("per_channel", y, axis, 0, 255, False),
                reference.choose_qparams_per_channel(y, axis, 0, 255, False),
            )


@pytest.mark.any_kernels
def test_agrees_with_torch_on_a_symmetric_weight() -> None:
    """The scale that nn.quantized users compute by hand: absmax / 127 in double, then float32."""
    weight = floats(64, 100)
    scale, zero_point = choose("per_channel", weight, 0, -128, 127, True)
    assert_same(scale, (weight.abs().amax(1).double() / 127).float())
    assert not zero_point.any()


@pytest.mark.parametrize("group_size", [1, 2, 3, 7, 8, 15, 16, 17, 32, 69, 70, 71, 1 << 40])
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "affine"])
def test_groups_of_every_size(group_size: int, symmetric: bool) -> None:
    for x in (floats(5, 70), floats(70), floats(2, 3, 64), floats(40, 21).t()):
        arguments = (x, group_size, -8, 7, symmetric)
        assert_same(choose("per_group", *arguments), reference.choose_qparams_per_group(*arguments))


def test_per_group_keeps_bad_values_in_their_group() -> None:
    x = floats(5, 70)
    x[1, 40], x[3, 69] = torch.nan, torch.inf
    scale, _ = choose("per_group", x, 32, -8, 7, False)
    assert scale.isnan().nonzero().tolist() == [[1, 1], [3, 2]]

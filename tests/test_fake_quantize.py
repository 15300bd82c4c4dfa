"""fake_quantize_per_tensor and _per_channel: quantize and dequantize at once, and the gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import reference
import torch
from operator_tests import OperatorTests, all_arguments, assert_same, operator, script
from samples import BF16, F16, I32, Sample, floats, samples, scales, unaligned, zero_points
from torch import Tensor, nn

import torchquant

DYNAMIC = torch.export.Dim.DYNAMIC
FLOATS = [torch.float32, F16, BF16]
# Signed and unsigned ranges of 2 to 16 bits, and the widest there is.
RANGES = [
    pytest.param(low, high, id=f"{low}-{high}")
    for bits in (2, 3, 4, 6, 8, 11, 16)
    for low, high in ((-(1 << (bits - 1)), (1 << (bits - 1)) - 1), (0, (1 << bits) - 1))
] + [pytest.param(-65536, 65535, id="widest")]
INT32_MIN, INT32_MAX = -(1 << 31), (1 << 31) - 1
# Up to 2^23 vectors compute them; beyond it the scalar kernels do.
ZERO_POINTS = [
    0, 1, -1, 7, 127, -128, 255, -300, 65535, 1000003,
    *(sign * ((1 << 23) + by) for by in (-1, 0, 1) for sign in (1, -1)),
    1 << 24, -(1 << 24) - 1, 1 << 30, INT32_MIN, INT32_MIN + 128, INT32_MAX, INT32_MAX - 127,
]  # fmt: skip
SPECIAL_VALUES = [
    0.0, -0.0, math.nan, -math.nan, math.inf, -math.inf, 1e-45, -1e-45, reference.FLT_MIN,
    3e38, -3e38, reference.FLT_MAX, -reference.FLT_MAX, 0.5, -0.5, 1.5, 2.5, 0.49999997,
    0.50000006, 2.0**31, -(2.0**31), 2.0**63, -(2.0**63), 1e10, -1e10, 8388607.5, -8388608.5,
]  # fmt: skip
SCALES = [0.0, -0.5, math.nan, math.inf, 1e-45, 2e-39, reference.FLT_MIN, 1e30, 0.1, 1 / 3]
# Shapes, with an axis in each place; the long ones have channels of several blocks of a sum, in
# one run, in a column and in many runs.
LAYOUTS = [
    ((5, 67), 0), ((9, 35), -1), ((2, 19, 7), 1), ((2, 3, 4, 5), -3), ((300, 5, 7), 1),
    ((5000, 3), 1), ((3, 9000), 0), ((2, 5, 3000), 1), ((4100, 70), 1), ((2, 4097, 2), 0),
    ((7,), 0), ((1, 6), 0), ((6, 1), 0), ((1, 6, 1), 1),
]  # fmt: skip
# One channel whose elements are several rows.
LONE_CHANNELS = [
    ((5, 1, 7), 1), ((6, 1), 1), ((2, 1, 3000), 1), ((5000, 1), 1), ((3, 1, 1), -1),
    ((40, 1, 16), 1), ((40, 1, 100), 1), ((2, 3, 1, 5), 2),
]  # fmt: skip


def int32(value: int) -> Tensor:
    return torch.tensor(value, dtype=I32)


def qparams_of(shape: tuple[int, ...], axis: int) -> tuple[Tensor, Tensor]:
    return scales(shape[axis]), zero_points(shape[axis])


def check_forward(x: Tensor, scale: Tensor, zero_point: Tensor, *more: int) -> None:
    """`more` is [axis,] quant_min, quant_max."""
    granularity = "per_tensor" if len(more) == 2 else "per_channel"
    result = operator(f"fake_quantize_{granularity}")(x, scale, zero_point, *more)
    codes = operator(f"quantize_{granularity}")(x, scale, zero_point, *more, I32)
    values = operator(f"dequantize_{granularity}")(
        codes, scale, zero_point, *more[:-2], out_dtype=x.dtype
    )
    assert_same(result, values)
    expected = getattr(reference, f"fake_quantize_{granularity}")(x, scale, zero_point, *more)
    assert_same(result, expected)


def check_backward(grad: Tensor, x: Tensor, scale: Tensor, zero_point: Tensor, *more: int) -> None:
    granularity = "per_tensor" if len(more) == 2 else "per_channel"
    name = f"fake_quantize_{granularity}_backward"
    arguments = (grad, x, scale, zero_point, *more)
    expected = getattr(reference, name)(*arguments, True)
    assert_same(operator(name)(*arguments, True), expected)
    assert_same(operator(name)(*arguments, False), (expected[0], torch.empty(0)))


def check_all(
    x: Tensor, scale: float, zero_point: int, quant_min: int, quant_max: int, seed: int = 1
) -> None:
    """One row of values, with one scale and with a scale for each of them, and the gradients."""
    one, zero, limits = torch.tensor(scale), int32(zero_point), (quant_min, quant_max)
    grad = floats(x.numel(), seed=seed, dtype=x.dtype)
    row = (one.expand(x.numel()), zero.expand(x.numel()))
    for arguments in ((x, one, zero, *limits), (x, *row, 0, *limits)):
        check_forward(*arguments)
        check_backward(grad, *arguments)
    two = (torch.stack([x, x.flip(0)]), one.expand(2), zero.expand(2), 0, *limits)
    check_forward(*two)
    check_backward(torch.stack([grad, -grad]), *two)


def gradients(
    function: Callable[..., Tensor], grad: Tensor, x: Tensor, scale: Tensor, *more: Any
) -> tuple[Tensor, Tensor]:
    """Those of x and scale, by autograd."""
    x, scale = x.detach().requires_grad_(), scale.detach().requires_grad_()
    of_x, of_scale = torch.autograd.grad(function(x, scale, *more), (x, scale), grad)
    return of_x, of_scale


class FakeQuantizeTests(OperatorTests):
    name: ClassVar[str]

    def test_input_that_requires_grad_gives_a_result_that_does_not(
        self, recwarn: pytest.WarningsRecorder
    ) -> None:
        """It does here: for the input, for the scale, for both."""
        x, scale, *more = samples(self.name)[0].arguments
        expected = operator(self.name)(x, scale, *more)
        assert not expected.requires_grad
        for of_x, of_scale in ((True, False), (False, True), (True, True)):
            y = operator(self.name)(
                x.clone().requires_grad_(of_x), scale.clone().requires_grad_(of_scale), *more
            )
            assert y.requires_grad
            assert y.grad_fn is not None
            assert_same(y, expected)
        assert not recwarn.list

    @pytest.mark.any_kernels
    def test_passes_opcheck_where_grad_is_required(self, sample: Sample) -> None:
        x, scale, *more = sample.arguments
        both = (x.detach().clone().requires_grad_(), scale.clone().requires_grad_())
        torch.library.opcheck(operator(self.name).default, (*both, *more))


class BackwardTests(OperatorTests):
    name: ClassVar[str]

    def test_input_that_requires_grad_gives_a_result_that_does_not(
        self, recwarn: pytest.WarningsRecorder
    ) -> None:
        """It does here, and asking for the gradient raises: a silent zero would be wrong."""
        grad, x, scale, *more = samples(self.name)[0].arguments
        expected = operator(self.name)(grad, x, scale, *more)
        for position in range(3):
            tensors = [grad.clone(), x.clone(), scale.clone()]
            tensors[position].requires_grad_()
            of_input, of_scale = operator(self.name)(*tensors, *more)
            assert_same((of_input, of_scale), expected)
            for result in (of_input, of_scale):
                with pytest.raises(
                    RuntimeError,
                    match=f"derivative for torchquant::{self.name} is not implemented",
                ):
                    result.sum().backward()
        assert not recwarn.list


class TestFakeQuantizePerTensor(FakeQuantizeTests):
    name = "fake_quantize_per_tensor"

    def exported(self) -> Any:
        def function(x: Tensor, scale: Tensor, zero_point: Tensor) -> Any:
            return operator(self.name)(x, scale, zero_point, 0, 255)

        qparams = (torch.tensor(0.1), int32(7))
        shapes = ({0: DYNAMIC, 1: DYNAMIC}, None, None)
        return function, (floats(3, 5), *qparams), (floats(7, 40), *qparams), shapes


class TestFakeQuantizePerChannel(FakeQuantizeTests):
    name = "fake_quantize_per_channel"

    def exported(self) -> Any:
        def function(x: Tensor, scale: Tensor, zero_point: Tensor) -> Any:
            return operator(self.name)(x, scale, zero_point, 1, -128, 127)

        def call(*shape: int) -> tuple[Tensor, ...]:
            return floats(*shape), scales(shape[1]), zero_points(shape[1])

        shapes = ({0: DYNAMIC, 1: DYNAMIC, 2: DYNAMIC}, {0: DYNAMIC}, {0: DYNAMIC})
        return function, call(3, 5, 9), call(2, 17, 40), shapes


class TestFakeQuantizePerTensorBackward(BackwardTests):
    name = "fake_quantize_per_tensor_backward"

    def exported(self) -> Any:
        def function(grad: Tensor, x: Tensor, scale: Tensor, zero_point: Tensor) -> Any:
            return operator(self.name)(grad, x, scale, zero_point, 0, 255, True)

        def call(*shape: int) -> tuple[Tensor, ...]:
            return floats(*shape, seed=1), floats(*shape), torch.tensor(0.1), int32(7)

        every = {0: DYNAMIC, 1: DYNAMIC}
        return function, call(3, 5), call(7, 40), (every, every, None, None)


class TestFakeQuantizePerChannelBackward(BackwardTests):
    name = "fake_quantize_per_channel_backward"

    def exported(self) -> Any:
        def function(grad: Tensor, x: Tensor, scale: Tensor, zero_point: Tensor) -> Any:
            return operator(self.name)(grad, x, scale, zero_point, 1, -128, 127, True)

        def call(*shape: int) -> tuple[Tensor, ...]:
            return floats(*shape, seed=1), floats(*shape), *qparams_of(shape, 1)

        every = {0: DYNAMIC, 1: DYNAMIC, 2: DYNAMIC}
        channels = {0: DYNAMIC}
        return function, call(3, 5, 9), call(2, 17, 40), (every, every, channels, channels)


# The values


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("quant_min", "quant_max"), RANGES)
def test_every_range(quant_min: int, quant_max: int, dtype: torch.dtype) -> None:
    """Values that reach a little over both ends of the range, and infinities that saturate."""
    scale = 6.0 / (quant_max - quant_min)
    x = torch.cat([torch.linspace(-4, 4, 75), floats(10), torch.tensor(SPECIAL_VALUES)]).to(dtype)
    middle = (quant_min + quant_max) // 2
    for zero_point in (middle, quant_min, quant_max, quant_min - 3, quant_max + 3):
        check_all(x, scale, zero_point, quant_min, quant_max)


@pytest.mark.parametrize("dtype", FLOATS)
def test_every_length(dtype: torch.dtype) -> None:
    """Around a vector, a set of lanes and a block of 4096."""
    for length in [*range(67), 100, 127, 128, 129, 4079, 4095, 4096, 4097, 4112, 8193]:
        check_all(floats(length, dtype=dtype, seed=length), 0.013, 3, -128, 127, seed=length + 1)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("shape", "axis"), LAYOUTS)
def test_every_layout(shape: tuple[int, ...], axis: int, dtype: torch.dtype) -> None:
    x, grad = floats(*shape, dtype=dtype), floats(*shape, seed=1, dtype=dtype)
    one = (torch.tensor(0.037), int32(3))
    for arguments in ((x, *one, -128, 127), (x, *qparams_of(shape, axis), axis, -32, 31)):
        check_forward(*arguments)
        check_backward(grad, *arguments)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("shape", "axis"), LONE_CHANNELS)
def test_a_lone_channel_of_several_rows(
    shape: tuple[int, ...], axis: int, dtype: torch.dtype
) -> None:
    """All of them are its elements, for the gradients too."""
    arguments = (
        floats(*shape, dtype=dtype),
        torch.tensor([0.037]),
        int32(3)[None],
        axis,
        -128,
        127,
    )
    check_forward(*arguments)
    check_backward(floats(*shape, seed=1, dtype=dtype), *arguments)


@pytest.mark.parametrize("inner", [1, 2, 3, 7, 15, 16, 17, 33, 64, 100])
@pytest.mark.parametrize("channels", [2, 15, 16, 17, 33, 130])
def test_small_inner_sizes(channels: int, inner: int) -> None:
    for outer in (1, 5):
        x, grad = floats(outer, channels, inner), floats(outer, channels, inner, seed=1)
        arguments = (x, *qparams_of(x.shape, 1), 1, -128, 127)
        check_forward(*arguments)
        check_backward(grad, *arguments)


@pytest.mark.parametrize("channels", [2, 3, 16, 63, 64, 65, 130, 1030])
def test_columns_of_every_width(channels: int) -> None:
    """A last axis, whose sums are taken in strips of columns and blocks of 4096 rows."""
    for rows in (1, 2, 15, 16, 17, 100, 4096, 4097):
        if rows * channels > 300_000:
            continue
        x, grad = floats(rows, channels), floats(rows, channels, seed=1)
        check_backward(grad, x, *qparams_of(x.shape, 1), 1, -128, 127)


@pytest.mark.parametrize("dtype", [F16, BF16])
@pytest.mark.parametrize("scale", [0.25, 0.1, 1000.0])
def test_every_half_value(dtype: torch.dtype, scale: float) -> None:
    x = torch.arange(-32768, 32768, dtype=I32).to(torch.int16).view(dtype)
    one = torch.tensor(scale)
    for zero, limits in ((3, (-128, 127)), (30000, (0, 65535))):
        check_forward(x, one, int32(zero), *limits)
        check_backward(x, x.flip(0), one, int32(zero), *limits)


@pytest.mark.parametrize("scale", [0.25, 1.0, 2.0])
def test_ties_go_to_even(scale: float) -> None:
    """Written out: halves of a power of two are exact."""
    steps = torch.arange(-12, 12)
    x = (steps + 0.5) * scale
    even = torch.where(steps % 2 == 0, steps, steps + 1)
    for zero_point in (0, 1, -5):  # an odd one changes nothing
        y = operator("fake_quantize_per_tensor")(
            x, torch.tensor(scale), int32(zero_point), -128, 127
        )
        assert_same(y, even * scale)
        check_all(x, scale, zero_point, -128, 127)
        check_all(x, scale, zero_point, zero_point - 4, zero_point + 5)


@pytest.mark.parametrize("zero_point", ZERO_POINTS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_every_zero_point(zero_point: int, dtype: torch.dtype) -> None:
    """Around it, where codes fall inside the range if float32 can tell them apart, and far off."""
    steps = torch.arange(-300, 301, 5).double()
    x = torch.cat([(steps - zero_point).float(), torch.tensor(SPECIAL_VALUES)]).to(dtype)
    for limits in ((-128, 127), (0, 255), (-65536, 65535)):
        check_all(x, 1.0, zero_point, *limits)
        check_all(x, 0.5, zero_point, *limits)


@pytest.mark.parametrize("scale", SCALES)
def test_every_kind_of_scale(scale: float) -> None:
    x = torch.tensor([*SPECIAL_VALUES, 1.0, -1.0, 1e-38, 1e-30, 1e30, -0.1, 12.7, 300.0])
    for zero_point in (0, 5, -128, 1 << 23, INT32_MIN, INT32_MAX):
        check_all(x, scale, zero_point, -128, 127)


@pytest.mark.parametrize("inner", [1, 3, 40])
@pytest.mark.parametrize("zeros", [ZERO_POINTS[:16], ZERO_POINTS], ids=["vectors", "beyond"])
def test_every_kind_of_scale_and_zero_point_side_by_side(inner: int, zeros: list[int]) -> None:
    """Ordinary channels beside extreme ones, which a vector must not share its shortcuts with."""
    scale = torch.tensor([0.05, *SCALES] * len(zeros))
    zero_point = torch.tensor([zero for zero in zeros for _ in [0.05, *SCALES]], dtype=I32)
    x = floats(3, len(scale), inner)
    x[0, ::3] *= 1e9
    arguments = (x, scale, zero_point, 1, -128, 127)
    check_forward(*arguments)
    check_backward(floats(*x.shape, seed=1), *arguments)


@pytest.mark.parametrize("dtype", FLOATS)
def test_nan_becomes_quant_min_and_infinity_saturates(dtype: torch.dtype) -> None:
    """Written out, so that a mistake of the reference cannot hide one of the operator. Neither has
    a gradient of its own; an infinity moves with the scale."""
    x = torch.tensor([math.nan, math.inf, -math.inf, 0.0] * 20, dtype=dtype)
    one = torch.tensor(0.5)
    for zero_point in (0, 4):
        y = operator("fake_quantize_per_tensor")(x, one, int32(zero_point), -8, 7)
        low, high = (-8 - zero_point) * 0.5, (7 - zero_point) * 0.5
        assert y.tolist() == [low, high, low, 0.0] * 20
        of_x, of_scale = operator("fake_quantize_per_tensor_backward")(
            torch.ones_like(x), x, one, int32(zero_point), -8, 7, True
        )
        assert of_x.tolist() == [0.0, 0.0, 0.0, 1.0] * 20
        assert of_scale.item() == 20 * (-8 - zero_point + 7 - zero_point)


def test_a_nan_scale_gives_nan_and_no_gradient() -> None:
    x, nan = floats(70), torch.tensor(math.nan)
    y = operator("fake_quantize_per_tensor")(x, nan, int32(0), -8, 7)
    assert y.isnan().all()
    of_x, of_scale = operator("fake_quantize_per_tensor_backward")(
        torch.ones(70), x, nan, int32(0), -8, 7, True
    )
    assert not of_x.any()
    assert of_scale.item() == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_gradient_reaches_its_channel_alone(bad: float) -> None:
    for shape, axis in LAYOUTS[:5]:
        x, grad = floats(*shape), floats(*shape, seed=1)
        channel = grad.movedim(axis, 0)[2]
        channel[(0,) * channel.ndim] = bad
        assert not grad.isfinite().all()
        arguments = (grad, x, *qparams_of(shape, axis), axis, -128, 127)
        check_backward(*arguments)
        _, of_scale = operator("fake_quantize_per_channel_backward")(*arguments, True)
        assert of_scale.isfinite().tolist() == [c != 2 for c in range(shape[axis])]


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 3), (2, 3, 0), (0, 2, 3)])
@pytest.mark.parametrize("dtype", FLOATS)
def test_empty_tensors(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """The gradient of a scale that nothing depends on is zero."""
    x = torch.empty(shape, dtype=dtype)
    one = (torch.tensor([[0.1]]), int32(0))
    check_forward(x, *one, -8, 7)
    check_backward(x, x, *one, -8, 7)
    of_x, of_scale = operator("fake_quantize_per_tensor_backward")(x, x, *one, -8, 7, True)
    assert_same((of_x, of_scale), (x, torch.zeros(1, 1)))
    for axis, size in enumerate(shape):
        arguments = (x, scales(size), zero_points(size), axis, -8, 7)
        check_forward(*arguments)
        check_backward(x, *arguments)
        _, of_scale = operator("fake_quantize_per_channel_backward")(x, *arguments, True)
        assert_same(of_scale, torch.zeros(size))


def test_strided_and_unaligned_scales_and_zero_points() -> None:
    x, grad, limits = floats(9, 11), floats(9, 11, seed=1), (-128, 127)
    scale, zero_point = scales(9, 3)[:, 1], zero_points(18)[::2]
    for qparams in (
        (scale, zero_point),
        (unaligned(scale), unaligned(zero_point)),
        (torch.tensor(0.1).expand(9), int32(3).expand(9)),
    ):
        check_forward(x, *qparams, 0, *limits)
        check_backward(grad, x, *qparams, 0, *limits)


# The gradients


class _Round(torch.autograd.Function):
    """rint with the derivative of the identity, and not v + (rint(v) - v), which rounds."""

    @staticmethod
    def forward(ctx: Any, v: Tensor) -> Tensor:
        return v.round()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


def surrogate(
    x: Tensor, scale: Tensor, zero_point: Tensor, quant_min: int, quant_max: int
) -> Tensor:
    """The same formula in float64, by operations that autograd knows: not by clamp, whose gradient
    at a bound itself changed between releases of torch."""
    codes: Tensor = _Round.apply(x.double() / scale.double()) + zero_point
    codes = torch.where(codes < quant_min, quant_min, codes)
    codes = torch.where(codes > quant_max, quant_max, codes)
    return (codes - zero_point) * scale.double()


def away_from_ties(x: Tensor, scale: Tensor) -> Tensor:
    """x without the values that float32 and float64 may round apart."""
    v = x.double() / scale.double()
    return torch.where((v - v.floor() - 0.5).abs() < 1e-3, torch.zeros_like(x), x)


def assert_gradients_close(
    found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], grad: Tensor, slope: Tensor
) -> None:
    """That of x to the last bit. That of the scale: 1 / scale and its product with x are each
    rounded to float32, so a slope inside the range is off by an ulp of a number up to `slope`, and
    the sum by as much of every element; then it is rounded itself."""
    assert_same(found[0], expected[0])
    assert found[1].shape == expected[1].shape
    error = (found[1].double() - expected[1].double()).abs()
    bound = grad.double().abs() * slope.double().abs()
    bound = bound.reshape(-1, *expected[1].shape).sum(0) * 2.0**-23
    assert (error <= bound + expected[1].double().abs() * 2.0**-23).all()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("limits", [(-8, 7), (0, 255), (-128, 127)], ids=str)
def test_per_tensor_gradients_are_those_of_the_formula(
    dtype: torch.dtype, limits: tuple[int, int]
) -> None:
    for shape in [(9, 13), (5000,), (3, 70, 50)]:
        scale, zero_point = torch.tensor(0.037), int32(3)
        x = away_from_ties(floats(*shape, dtype=dtype), scale)
        grad = floats(*shape, seed=1, dtype=dtype)
        arguments = (x, scale, zero_point, *limits)
        found = gradients(operator("fake_quantize_per_tensor"), grad, *arguments)
        expected = gradients(surrogate, grad.double(), *arguments)
        assert_gradients_close(found, expected, grad.flatten(), (x.double() / scale).flatten())


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("shape", "axis"), LAYOUTS)
def test_per_channel_gradients_are_those_of_the_formula(
    shape: tuple[int, ...], axis: int, dtype: torch.dtype
) -> None:
    scale, zero_point = qparams_of(shape, axis)
    along = [-1 if i == axis % len(shape) else 1 for i in range(len(shape))]

    def broadcast(x: Tensor, scale: Tensor, zero_point: Tensor, _: int, *limits: int) -> Tensor:
        return surrogate(x, scale.reshape(along), zero_point.reshape(along), *limits)

    x = away_from_ties(floats(*shape, dtype=dtype), scale.reshape(along))
    grad = floats(*shape, seed=1, dtype=dtype)
    arguments = (x, scale, zero_point, axis, -32, 31)
    found = gradients(operator("fake_quantize_per_channel"), grad, *arguments)
    expected = gradients(broadcast, grad.double(), *arguments)
    slope = (x.double() / scale.reshape(along)).movedim(axis, -1)
    assert_gradients_close(found, expected, grad.movedim(axis, -1), slope)


def test_the_gradients_written_out() -> None:
    """codes 1 (from 1.25), -8 and 7 (from -20 and 30), scale 0.5, zero point 2."""
    x = torch.tensor([-0.375, -10.0, 15.0])
    grad = torch.tensor([3.0, 5.0, 7.0])
    arguments = (x, torch.tensor(0.5), int32(2), -8, 7)
    of_x, of_scale = gradients(operator("fake_quantize_per_tensor"), grad, *arguments)
    assert of_x.tolist() == [3.0, 0.0, 0.0]
    assert of_scale.item() == 3 * (-1 + 0.75) + 5 * (-8 - 2) + 7 * (7 - 2)


def test_the_ends_of_the_range_are_inside() -> None:
    """rint(v) decides, not v: what rounds to an end of the range passes its gradient."""
    x = torch.tensor([-8.4, -8.0, 7.0, 7.4, -8.6, 7.6, 7.5, -8.5])
    of_x, _ = gradients(
        operator("fake_quantize_per_tensor"), torch.ones(8), x, torch.tensor(1.0), int32(0), -8, 7
    )
    # Ties go to even: 7.5 to 8, which is outside, -8.5 to -8.
    assert of_x.tolist() == [1, 1, 1, 1, 0, 0, 0, 1]


@pytest.mark.parametrize(("shape", "axis"), LAYOUTS)
def test_autograd_calls_the_backward_operator(shape: tuple[int, ...], axis: int) -> None:
    x, grad = floats(*shape), floats(*shape, seed=1)
    of_channels = (x, *qparams_of(shape, axis), axis, -32, 31)
    of_one = (x, torch.tensor([[0.037]]), int32(3), -128, 127)
    for name, arguments in [("per_tensor", of_one), ("per_channel", of_channels)]:
        assert_same(
            gradients(operator(f"fake_quantize_{name}"), grad, *arguments),
            operator(f"fake_quantize_{name}_backward")(grad, *arguments, True),
        )


def test_only_what_requires_a_gradient_gets_one() -> None:
    asked: list[bool] = []

    class Calls(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(
            self, function: Any, types: Any, arguments: Any = (), keywords: Any = None
        ) -> Any:
            if "backward" in str(function):
                asked.append(arguments[-1])
            return function(*arguments, **(keywords or {}))

    x, scale = floats(9, 13), torch.tensor(0.1)
    channels = qparams_of((9, 13), 1)
    for name, s, more in [
        ("fake_quantize_per_tensor", scale, (int32(0), -8, 7)),
        ("fake_quantize_per_channel", channels[0], (channels[1], 1, -8, 7)),
    ]:
        for of_x, of_scale in ((True, False), (False, True), (True, True)):
            one, other = x.clone().requires_grad_(of_x), s.clone().requires_grad_(of_scale)
            y = operator(name)(one, other, *more)
            with Calls():
                y.sum().backward()
            assert (one.grad is not None) == of_x
            assert (other.grad is not None) == of_scale
            assert asked.pop() == of_scale
    assert not asked


@pytest.mark.parametrize("name", ["per_tensor", "per_channel"])
def test_there_is_no_second_derivative(name: str) -> None:
    channels = (scales(9), zero_points(9), 0) if name == "per_channel" else (scales(1), int32(3))
    scale, *more = channels
    x, scale = floats(9, 13).requires_grad_(), scale.requires_grad_()
    y = operator(f"fake_quantize_{name}")(x, scale, *more, -128, 127)
    first = torch.autograd.grad((y * y).sum(), (x, scale), create_graph=True)
    message = f"derivative for torchquant::fake_quantize_{name}_backward is not implemented"
    for gradient in first:
        with pytest.raises(RuntimeError, match=message):
            torch.autograd.grad(gradient.sum(), (x, scale), retain_graph=True)


def test_autograd_notices_that_what_it_saved_has_changed() -> None:
    x, scale = floats(9), torch.tensor(0.1, requires_grad=True)
    y = operator("fake_quantize_per_tensor")(x, scale, int32(0), -8, 7)
    x.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_any_number_of_threads_gives_the_same_bits(threads: int) -> None:
    shapes = [((9000, 70), 1), ((7, 90_000), 0), ((20, 3, 10_000), 1), ((600_000,), 0)]
    usual = torch.get_num_threads()
    try:
        for shape, axis in shapes:
            x, grad = floats(*shape), floats(*shape, seed=1).exp()
            qparams = qparams_of(shape, axis)
            arguments = (grad, x, *qparams, axis, -32, 31, True)
            one = (grad, x, torch.tensor(0.1), int32(3), -32, 31, True)
            for name, call in [("per_channel", arguments), ("per_tensor", one)]:
                backward = operator(f"fake_quantize_{name}_backward")
                torch.set_num_threads(1)
                expected = backward(*call)
                torch.set_num_threads(threads)
                assert_same(backward(*call), expected)
    finally:
        torch.set_num_threads(usual)


def test_sums_are_taken_in_blocks_and_lanes() -> None:
    """Sums in plain index order come out otherwise, so this order is seen to be taken: float32
    would hide it, so one gradient cancels what the others sum to, but for the last places."""
    x = floats(3 * 4096 + 100)
    grad = floats(3 * 4096 + 100, seed=1).exp()
    scale, zero_point, limits = torch.tensor(0.037), int32(3), (-128, 127)
    inside, slope = reference._slopes(
        x.numpy(), scale.numpy(), zero_point.numpy().astype("int64"), *limits
    )
    assert inside.any()
    products = grad.double() * torch.from_numpy(slope).double()
    x = torch.cat([x, torch.tensor([1e9, 1e9])])  # of slope 124, in the last block
    for _ in range(2):  # a float32 leaves some 2^-24 of the sum, a second one 2^-48
        rest = -reference._sum_in_blocks(products.numpy()) / 124
        grad = torch.cat([grad, torch.tensor([rest])])
        products = torch.cat([products, grad[-1:].double() * 124])
    arguments = (grad, x, scale, zero_point, *limits)
    check_backward(*arguments)
    _, of_scale = operator("fake_quantize_per_tensor_backward")(*arguments, True)
    in_order = torch.tensor(sum(products.tolist())).float()
    assert of_scale != in_order


# Strides


@pytest.mark.parametrize("dtype", FLOATS)
def test_strided_gradients_and_inputs(dtype: torch.dtype) -> None:
    """Each as it lies, and both; autograd brings expanded gradients, as of a sum."""
    shape = (6, 10, 7, 8)
    x, grad = floats(*shape, dtype=dtype), floats(*shape, seed=1, dtype=dtype)

    def views(base: Tensor) -> list[Tensor]:
        wide = torch.zeros(6, 10, 7, 11, dtype=dtype)
        wide[..., 2:10] = base
        return [
            base,
            base.contiguous(memory_format=torch.channels_last),
            base.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
            base.permute(1, 0, 3, 2).contiguous().permute(1, 0, 3, 2),
            wide[..., 2:10],
            unaligned(base),
        ]

    expanded = floats(1, 10, 1, 1, seed=2, dtype=dtype).expand(shape)
    for y in views(x):
        for g in [*views(grad), expanded]:
            arguments = (y, torch.tensor(0.1), int32(3), -32, 31)
            dense = (g.contiguous(), y.contiguous())
            found = operator("fake_quantize_per_tensor_backward")(g, *arguments, True)
            expected = operator("fake_quantize_per_tensor_backward")(*dense, *arguments[1:], True)
            assert_same(found, expected)
            for axis in range(4):
                more = (*qparams_of(shape, axis), axis, -32, 31)
                backward = operator("fake_quantize_per_channel_backward")
                for asked in (True, False):
                    assert_same(backward(g, y, *more, asked), backward(*dense, *more, asked))


def test_autograd_through_views() -> None:
    """What a transposed weight gets is transposed, what an expanded scale gets is summed."""
    weight, scale = floats(40, 30).requires_grad_(), scales(1).requires_grad_()
    x = floats(5, 40)

    def loss(quantize: Callable[..., Tensor]) -> list[Tensor]:
        quantized = quantize(weight.t(), scale.expand(30), zero_points(30), 0, -32, 31)
        return list(torch.autograd.grad((x @ quantized.t()).square().sum(), (weight, scale)))

    def dense(x: Tensor, scale: Tensor, *more: Any) -> Tensor:
        result: Tensor = operator("fake_quantize_per_channel")(
            x.contiguous(), scale.contiguous(), *more
        )
        return result

    found, expected = loss(operator("fake_quantize_per_channel")), loss(dense)
    assert torch.equal(found[0], expected[0])
    assert_same(found[1], expected[1])


# The ways to call


@pytest.mark.parametrize("name", ["per_tensor", "per_channel"])
def test_without_grad_mode(name: str) -> None:
    x, scale, *more = samples(f"fake_quantize_{name}")[0].arguments
    expected = operator(f"fake_quantize_{name}")(x, scale, *more)
    x, scale = x.clone().requires_grad_(), scale.clone().requires_grad_()
    with torch.no_grad():
        result = operator(f"fake_quantize_{name}")(x, scale, *more)
        out = torch.empty_like(result)
        operator(f"fake_quantize_{name}").out(x, scale, *more, out=out)
    with torch.inference_mode():
        inferred = operator(f"fake_quantize_{name}")(x, scale, *more)
    assert inferred.is_inference()
    for y in (result, out, inferred):
        assert not y.requires_grad
        assert_same(y, expected)


@pytest.mark.parametrize("name", ["per_tensor", "per_channel"])
def test_out_refuses_what_requires_grad(name: str) -> None:
    x, scale, *more = samples(f"fake_quantize_{name}")[0].arguments
    repair = "call the operator without out, or under torch.no_grad()"
    for argument, call in [
        ("input", (x.clone().requires_grad_(), scale)),
        ("scale", (x, scale.clone().requires_grad_())),
    ]:
        message = f"{argument} must not require grad where out is given, but it does: {repair}"
        out = torch.full_like(x, 7)
        for function in (
            operator(f"fake_quantize_{name}").out,
            getattr(torchquant.ops, f"fake_quantize_{name}"),
        ):
            with pytest.raises(RuntimeError) as error:
                function(*call, *more, out=out)
            assert str(error.value).splitlines()[0] == message
        assert (out == 7).all()
    with pytest.raises(RuntimeError, match="out must not require grad, but it does"):
        operator(f"fake_quantize_{name}").out(x, scale, *more, out=x.clone().requires_grad_())


@pytest.mark.any_kernels
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # inductor's own
def test_compiled_whole_with_gradients(backend: str) -> None:
    x, weight = floats(9, 13), floats(6, 13, seed=1)
    one, each, zeros = torch.tensor(0.1), scales(6), zero_points(6)

    def function(x: Tensor, weight: Tensor, one: Tensor, each: Tensor) -> Tensor:
        a = torch.ops.torchquant.fake_quantize_per_tensor(x * 2, one, int32(3), 0, 255)
        b = torch.ops.torchquant.fake_quantize_per_channel(weight.t(), each, zeros, 1, -8, 7)
        return a @ b

    torch.compiler.reset()
    compiled = torch.compile(function, fullgraph=True, backend=backend)
    results = []
    for call in (compiled, function):
        inputs = [tensor.clone().requires_grad_() for tensor in (x, weight, one, each)]
        y = call(*inputs)
        y.backward(floats(9, 6, seed=2))
        results.append([y, *(tensor.grad for tensor in inputs)])
    assert_same(*results)


@pytest.mark.any_kernels
@pytest.mark.parametrize("asked", [(True, False), (False, True)], ids=["input", "scale"])
def test_compiled_with_one_gradient(asked: tuple[bool, bool]) -> None:
    x, scale = floats(9, 13).requires_grad_(asked[0]), scales(13).requires_grad_(asked[1])
    zeros = zero_points(13)

    def function(x: Tensor, scale: Tensor) -> Tensor:
        result: Tensor = torch.ops.torchquant.fake_quantize_per_channel(x, scale, zeros, 1, -8, 7)
        return result

    torch.compiler.reset()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    wanted = x if asked[0] else scale
    grads = [torch.autograd.grad(f(x, scale).square().sum(), wanted) for f in (compiled, function)]
    assert_same(*grads)


# TorchScript is deprecated as a whole.
@pytest.mark.any_kernels
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["fake_quantize_per_tensor", "fake_quantize_per_channel"])
def test_scripted_with_gradients(name: str) -> None:
    """Several times, because TorchScript makes other graphs of what it has seen run."""
    sample = samples(name)[0]
    x, scale, *more = all_arguments(name, sample)
    grad = floats(*x.shape, seed=1)
    expected = gradients(operator(name), grad, x, scale, *more)
    scripted = script(name)
    for _ in range(4):
        assert_same(gradients(scripted, grad, x, scale, *more), expected)


# Learning


class Layer(nn.Module):
    def __init__(self, weight: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.scale = nn.Parameter(scale)
        self.register_buffer("zero_point", torch.zeros(scale.shape, dtype=I32))

    def forward(self, x: Tensor) -> Tensor:
        qparams = (self.scale, self.zero_point)
        if self.scale.ndim:
            return x @ torchquant.ops.fake_quantize_per_channel(self.weight, *qparams, 0, -8, 7).t()
        return x @ torchquant.ops.fake_quantize_per_tensor(self.weight, *qparams, -8, 7).t()


@pytest.mark.parametrize("channels", [(), (8,)], ids=["per_tensor", "per_channel"])
def test_training_lowers_the_loss_and_moves_the_scale(channels: tuple[int, ...]) -> None:
    """The target is a layer of 4-bit weights; the scale begins at three times theirs."""
    codes = torch.randint(-8, 8, (8, 16)).float()
    x = torch.randn(256, 16)
    target = x @ (0.1 * codes).t()
    layer = Layer(0.1 * codes + 0.02 * torch.randn(8, 16), torch.full(channels, 0.3))
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.01)

    def step() -> float:
        optimizer.zero_grad()
        loss = (layer(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        return loss.item()

    losses = [step() for _ in range(60)]
    assert losses[-1] < 0.2 * losses[0]
    assert ((layer.scale - 0.1).abs() < 0.05).all()


# PyTorch's own


def assert_same_as_pytorch(
    ours: Callable[..., Tensor], theirs: Callable[..., Tensor], x: Tensor, *more: Any
) -> None:
    """The values to the last bit; of the gradients outside the range, which PyTorch multiplies by
    zero, not the sign."""
    grad = floats(*x.shape, seed=1, dtype=x.dtype)
    of_ours, of_theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, wanted = ours(of_ours, *more), theirs(of_theirs, *more)
    assert_same(y, wanted)
    y.backward(grad)
    wanted.backward(grad)
    assert of_ours.grad is not None
    assert of_theirs.grad is not None
    assert torch.equal(of_ours.grad, of_theirs.grad)


def values_of_all_kinds(dtype: torch.dtype) -> Tensor:
    ties = (torch.arange(-300, 300) + 0.5) * 0.25
    far = torch.tensor([math.nan, -math.inf, 0.0, -0.0, 1e9, -1e9])
    x = torch.cat([floats(3000), ties, far]).to(dtype)
    return torch.where(x == math.inf, torch.zeros_like(x), x)  # 1e9 in half is one


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("quant_min", "quant_max", "zero"), [(-128, 127, 0), (0, 255, 131)])
@pytest.mark.parametrize("scale", [0.25, 0.037])
def test_per_tensor_equals_pytorch(
    scale: float, dtype: torch.dtype, quant_min: int, quant_max: int, zero: int
) -> None:
    """torch.fake_quantize_per_tensor_affine is the same formula, for NaN, infinities and ties too.
    It refuses zero points outside of the range."""
    assert_same_as_pytorch(
        operator("fake_quantize_per_tensor"),
        torch.fake_quantize_per_tensor_affine,
        torch.cat([values_of_all_kinds(dtype), torch.tensor([math.inf], dtype=dtype)]),
        torch.tensor(scale),
        int32(zero),
        quant_min,
        quant_max,
    )


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_per_channel_equals_pytorch(axis: int, dtype: torch.dtype) -> None:
    """torch.fake_quantize_per_channel_affine takes what is beyond int64, +Inf too, to quant_min."""
    x = torch.cat([values_of_all_kinds(dtype), floats(174, dtype=dtype)]).reshape(6, 30, 21)
    assert_same_as_pytorch(
        operator("fake_quantize_per_channel"),
        torch.fake_quantize_per_channel_affine,
        x,
        *qparams_of(x.shape, axis),
        axis,
        -128,
        127,
    )


@pytest.mark.parametrize("zero", [0, 4, 30])
def test_gradients_equal_the_learnable_ones_of_pytorch(zero: int) -> None:
    """torch._fake_quantize_learnable_per_tensor_affine rounds after it adds the zero point, so an
    odd one sends ties elsewhere: none is odd here, and no value is near a tie. Its gradients take a
    negative one for the next above. Its slope inside the range is (y - x) / scale, which is
    rint(v) - v but for some roundings, and it sums in float32: hence a tolerance for the gradient
    of the scale, an ulp of v (up to 62) for each element. Zeros outside the range have a sign."""
    scale, limits = torch.tensor([0.37]), (-32, 31)
    x = away_from_ties(floats(2000), scale)
    grad = floats(2000, seed=1)
    of_x, of_scale = gradients(
        operator("fake_quantize_per_tensor"), grad, x, scale, int32(zero), *limits
    )
    theirs_x, theirs_scale = gradients(
        torch._fake_quantize_learnable_per_tensor_affine,
        grad,
        x,
        scale,
        torch.tensor([float(zero)]),
        *limits,
        1.0,
    )
    assert torch.equal(of_x, theirs_x)
    assert (of_scale - theirs_scale).abs() <= grad.abs().sum() * 62 * 2.0**-23

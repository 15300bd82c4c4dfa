"""Quantize, dequantize, fake_quantize and the choice of qparams on a GPU, bit for bit as on the
CPU: at sizes around those of vectors and blocks, in every layout, for every kind of value."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from hard_values import (
    HARD_SCALES,
    HARD_ZERO_POINTS,
    LIMITS,
    codes,
    hard_scales,
    hard_zero_points,
    values,
)
from on_device import (
    DEVICE,
    Case,
    Differences,
    attempted,
    check_all,
    moved,
    needs_device,
    offset_by,
    results_difference,
    sliced,
    stepped,
    transposed,
)
from operator_tests import operator
from samples import BF16, F16, I8, I32, U8, Sample, floats, histogram, scales, zero_points
from torch import Tensor
from views import AROUND_A_TILE, VIEWS, View, all_calls, dequantize_calls, random_view

pytestmark = [needs_device, pytest.mark.any_kernels]

FLOATS = [torch.float32, F16, BF16]
EVERY_FLOAT = pytest.mark.parametrize("dtype", FLOATS, ids=str)
EVERY_CODE = pytest.mark.parametrize("dtype", LIMITS, ids=str)
SIZES = [0, 1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 127, 255, 257, 1023, 4095, 4096, 4097]
LONG = 70_000
SMALL = [1, 2, 3, 7, 8, 15, 16, 17, 33, 65, 130]

# The arguments that belong to a granularity: scale, zero point, and its axis or group size.
Granularity = tuple[str, tuple[Any, ...]]


def granularities(
    shape: Sequence[int], seed: int, scale: Callable[..., Tensor] = hard_scales
) -> Iterator[Granularity]:
    zero_point = hard_zero_points if scale is hard_scales else zero_points

    def qparams(*of: int) -> tuple[Tensor, Tensor]:
        return scale(*of, seed=seed), zero_point(*of, seed=seed)

    yield "per_tensor", (torch.tensor(0.25), torch.tensor(seed % 40 - 20, dtype=I32))
    for axis, size in enumerate(shape):
        yield "per_channel", (*qparams(size), axis)
    if len(shape) > 0:
        yield "per_token", qparams(*shape[:-1], 1)
        for group_size in (7, 32, 128):
            groups = -(-shape[-1] // group_size)
            yield "per_group", (*qparams(*shape[:-1], groups), group_size)


def of_floats(x: Tensor, seed: int) -> Iterator[Case]:
    """The calls of every operator that takes such a tensor, with codes of one dtype or another."""
    grad = values(*x.shape, dtype=x.dtype, seed=seed + 1)
    code_dtypes = itertools.cycle(LIMITS)
    for _ in range(seed % 4):
        next(code_dtypes)
    for granularity, qparams in granularities(x.shape, seed):
        times = 4 if granularity == "per_tensor" else 1
        for dtype in itertools.islice(code_dtypes, times):
            name = f"quantize_{granularity}"
            yield name, Sample("", (x, *qparams, *LIMITS[dtype], dtype))
        if granularity in ("per_tensor", "per_channel"):
            name = f"fake_quantize_{granularity}"
            yield name, Sample("", (x, *qparams, -128, 127))
            for asked in (True, False):
                yield f"{name}_backward", Sample("", (grad, x, *qparams, -128, 127, asked))
        yield from of_ranges(x, granularity, qparams[2:], next(code_dtypes))
    yield "histogram_observe_", Sample("", (*histogram(), x))
    if x.numel() > 0:
        yield "quantization_error", Sample("", (x, grad))


def of_ranges(x: Tensor, granularity: str, rest: tuple[Any, ...], dtype: Any) -> Iterator[Case]:
    """The calls that choose a range, symmetric and affine."""
    yield f"choose_qparams_{granularity}", Sample("", (x, *rest, 0, 255, False))
    yield f"choose_qparams_{granularity}", Sample("", (x, *rest, -128, 127, True))
    if granularity != "per_channel":
        low, high = LIMITS[dtype]
        for symmetric in {low < 0, False}:
            arguments = (x, *rest, low, high, symmetric, dtype)
            yield f"quantize_dynamic_{granularity}", Sample("", arguments)


def of_codes(q: Tensor, seed: int) -> Iterator[Case]:
    for i, (granularity, qparams) in enumerate(granularities(q.shape, seed)):
        out_dtypes = FLOATS if granularity == "per_tensor" else [FLOATS[(seed + i) % 3]]
        for out_dtype in out_dtypes:
            sample = Sample("", (q, *qparams), {"out_dtype": out_dtype})
            yield f"dequantize_{granularity}", sample


def check_floats(tensors: Iterator[Tensor]) -> None:
    check_all(case for seed, x in enumerate(tensors) for case in of_floats(x, seed))


def check_codes(tensors: Iterator[Tensor]) -> None:
    check_all(case for seed, q in enumerate(tensors) for case in of_codes(q, seed))


# Sizes


def shapes() -> Iterator[tuple[int, ...]]:
    """Rows of every size, alone and several, and channels in each place."""
    yield ()
    yield from ((size,) for size in [*SIZES, LONG])
    for rows in (1, 3, 33):
        yield from ((rows, size) for size in SIZES)
    yield from ((size, rows) for size in (0, 257, 4097) for rows in (1, 5, 16))
    yield (2, LONG)
    for size in (1, 3, 16, 33, 257):
        yield from [(3, 5, size), (3, size, 5), (size, 3, 5)]
    yield from [(2, 0, 3), (2, 3, 0), (0, 2, 3), (40, 1, 100), (2, 3, 4, 5)]


@EVERY_FLOAT
def test_every_size(dtype: torch.dtype) -> None:
    check_floats(values(*shape, dtype=dtype, seed=i) for i, shape in enumerate(shapes()))


@EVERY_FLOAT
def test_every_size_of_finite_values(dtype: torch.dtype) -> None:
    """Whose ranges are no NaN."""
    tensors = (values(*shape, dtype=dtype, seed=i, finite=True) for i, shape in enumerate(shapes()))
    check_all(
        case
        for seed, x in enumerate(tensors)
        for granularity, qparams in granularities(x.shape, seed)
        for case in of_ranges(x, granularity, qparams[2:], list(LIMITS)[seed % 4])
    )


@EVERY_CODE
def test_every_size_of_codes(dtype: torch.dtype) -> None:
    check_codes(codes(*shape, dtype=dtype, seed=i) for i, shape in enumerate(shapes()))


# Layouts


def in_layouts(tensors: Iterator[Tensor]) -> Iterator[Tensor]:
    for tensor in tensors:
        for of in (transposed, sliced, stepped, *map(offset_by, range(1, 6))):
            yield of(tensor)
        yield transposed(sliced(tensor))[1:]


def small_shapes() -> Iterator[tuple[int, int]]:
    yield from ((3, columns) for columns in SMALL)
    yield from ((18, columns) for columns in (7, 16, 33))
    yield (70, 300)


@EVERY_FLOAT
def test_every_layout(dtype: torch.dtype) -> None:
    tensors = (values(*shape, dtype=dtype, seed=i) for i, shape in enumerate(small_shapes()))
    check_floats(in_layouts(tensors))


@EVERY_CODE
def test_every_layout_of_codes(dtype: torch.dtype) -> None:
    tensors = (codes(*shape, dtype=dtype, seed=i) for i, shape in enumerate(small_shapes()))
    check_codes(in_layouts(tensors))


def of_views(views: list[View]) -> Iterator[Case]:
    for view in views:
        x, q = view.tensor(torch.float32), view.tensor(I8)
        for half in (x, view.tensor(F16)) if x.numel() < 50_000 else (x,):
            for name, arguments in all_calls(half):
                yield name, Sample(view.name, (half, *arguments))
                if name.startswith("fake_quantize"):
                    grad = view.tensor(half.dtype, seed=1)
                    sample = Sample(view.name, (grad, half, *arguments, True))
                    yield f"{name}_backward", sample
        for name, arguments in dequantize_calls(q.shape):
            yield name, Sample(view.name, (q, *arguments))
        if x.numel() > 0:
            yield "quantization_error", Sample(view.name, (x, view.tensor(F16, seed=1)))


@pytest.mark.parametrize("part", range(4))
def test_every_view(part: int) -> None:
    check_all(of_views([*VIEWS, *AROUND_A_TILE[:8]][part::4]))


def test_random_views() -> None:
    check_all(of_views([random_view(random.Random(seed)) for seed in range(40)]))


# Values


@EVERY_FLOAT
def test_every_scale_with_every_zero_point(dtype: torch.dtype) -> None:
    x, grad = values(300, dtype=dtype), values(300, dtype=dtype, seed=1)
    pairs = itertools.product([0.25, 0.037, *HARD_SCALES], [0, 3, -20, *HARD_ZERO_POINTS])

    def cases() -> Iterator[Case]:
        for i, (scale, zero_point) in enumerate(pairs):
            qparams = (torch.tensor(scale), torch.tensor(zero_point, dtype=I32))
            code = list(LIMITS)[i % 4]
            q = codes(300, dtype=code)
            calls = {
                "quantize": (x, *qparams, *LIMITS[code], code),
                "dequantize": (q, *qparams),
                "fake_quantize": (x, *qparams, *LIMITS[code]),
            }
            for verb, arguments in calls.items():
                yield f"{verb}_per_tensor", Sample("", arguments)
            backward = (grad, *calls["fake_quantize"], True)
            yield "fake_quantize_per_tensor_backward", Sample("", backward)

    check_all(cases())


@pytest.mark.parametrize("dtype", [F16, BF16], ids=str)
def test_every_half_value(dtype: torch.dtype) -> None:
    x = torch.arange(-32768, 32768, dtype=I32).to(torch.int16).view(dtype)

    def cases() -> Iterator[Case]:
        yield "histogram_observe_", Sample("", (*histogram(), x))
        for scale, zero_point in ((0.25, 3), (0.1, -20), (1000.0, 30000)):
            qparams = (torch.tensor(scale), torch.tensor(zero_point, dtype=I32))
            yield "quantize_per_tensor", Sample("", (x, *qparams, -128, 127, I8))
            yield "quantize_per_tensor", Sample("", (x, *qparams, -65536, 65535, I32))
            arguments = (x, *qparams, 0, 65535)
            yield "fake_quantize_per_tensor", Sample("", arguments)
            backward = (x.flip(0), *arguments, True)
            yield "fake_quantize_per_tensor_backward", Sample("", backward)
            all_codes = torch.arange(-65536, 65536, dtype=I32)
            sample = Sample("", (all_codes, *qparams), {"out_dtype": dtype})
            yield "dequantize_per_tensor", sample

    check_all(cases())


def test_ranges_at_the_ends_of_the_floats() -> None:
    """Denormal, huge, one-sided and infinite ones, a row each."""
    ends = [
        0.0,
        -0.0,
        1e-45,
        -1e-45,
        1e-38,
        1.0,
        -1.0,
        3e38,
        -3e38,
        torch.nan,
        torch.inf,
        -torch.inf,
    ]
    rows = torch.tensor([*itertools.product(ends, ends)])

    def cases() -> Iterator[Case]:
        for dtype in FLOATS:
            x = rows.to(dtype)
            for low, high, symmetric in ((0, 255, False), (-8, 7, True), (-65536, 65535, False)):
                yield "choose_qparams_per_token", Sample("", (x, low, high, symmetric))
                yield "choose_qparams_per_channel", Sample("", (x, 0, low, high, symmetric))
                yield "choose_qparams_per_group", Sample("", (x, 1, low, high, symmetric))
                arguments = (x, low, high, symmetric, I32)
                yield "quantize_dynamic_per_token", Sample("", arguments)
                for row in x[::7]:
                    yield "choose_qparams_per_tensor", Sample("", (row, low, high, symmetric))

    check_all(cases())


@pytest.mark.parametrize("dtype", [torch.float64, *FLOATS], ids=str)
def test_quantization_error(dtype: torch.dtype) -> None:
    """Of every pair of dtypes, of sums of one block and several, with and without NaN."""

    def cases() -> Iterator[Case]:
        for other in (torch.float64, *FLOATS):
            for size in (1, 15, 16, 17, 255, 4095, 4096, 4097, 8192, 30_000):
                x, y = floats(size, dtype=dtype), floats(size, seed=1, dtype=other)
                yield "quantization_error", Sample("", (x, y))
                yield "quantization_error", Sample("equal", (x, x.to(other)))
                yield "quantization_error", Sample("stepped", (stepped(x), transposed(y)))
            for bad in (torch.nan, torch.inf):
                x, y = floats(9000, dtype=dtype), floats(9000, seed=1, dtype=other)
                x[4500] = bad
                yield "quantization_error", Sample("bad", (x, y))
                yield "quantization_error", Sample("bad", (y, x))

    check_all(cases())


@pytest.mark.parametrize("bits", range(2, 9))
def test_bits(bits: int) -> None:
    def cases() -> Iterator[Case]:
        for dtype in (I8, U8):
            for i, size in enumerate([*SIZES, LONG]):
                q = codes(3, size, dtype=dtype, seed=i) >> (8 - bits)
                for of in (lambda q: q, stepped, transposed, offset_by(1), offset_by(3)):
                    yield "pack_bits", Sample("", (of(q), bits))
                packed = codes(3, -(-size * bits // 8), dtype=U8, seed=i)
                for of in (lambda q: q, stepped, transposed, offset_by(1), offset_by(3)):
                    yield "unpack_bits", Sample("", (of(packed), bits, size, dtype))

    check_all(cases())


# Reductions of many elements


def test_rows_of_every_length() -> None:
    def cases() -> Iterator[Case]:
        for i, length in enumerate([*range(1, 40), *SIZES[13:], 10_000, 65_537, 200_000]):
            for dtype in FLOATS:
                x = values(3, length, dtype=dtype, seed=i, finite=i % 3 > 0)
                yield "choose_qparams_per_token", Sample("", (x, 0, 255, False))
                yield "quantize_dynamic_per_token", Sample("", (x, 0, 255, False, U8))
                yield "quantize_dynamic_per_token", Sample("", (x, -128, 127, True, I8))
                for group_size in (1, 31, 128, 5000):
                    arguments = (x, group_size, 0, 255, False, U8)
                    yield "quantize_dynamic_per_group", Sample("", arguments)

    check_all(cases())


def test_few_long_channels_and_many_short_ones() -> None:
    shapes = [
        (2, 300_000),
        (300_000, 2),
        (3, 7, 50_000),
        (50_000, 3, 7),
        (20_000, 31),
        (31, 20_000),
    ]

    def cases() -> Iterator[Case]:
        for seed, shape in enumerate(shapes):
            x = floats(*shape, seed=seed)
            for granularity, qparams in granularities(shape, seed, scales):
                yield from of_ranges(x, granularity, qparams[2:], U8)
                if granularity == "per_channel":
                    arguments = (floats(*shape, seed=seed + 1), x, *qparams, -8, 7, True)
                    yield "fake_quantize_per_channel_backward", Sample("", arguments)

    check_all(cases())


@EVERY_FLOAT
def test_sixteen_million_elements(dtype: torch.dtype) -> None:
    x, y = floats(1 << 12, 1 << 12, dtype=dtype), floats(1 << 12, 1 << 12, seed=1, dtype=dtype)
    one, each = (torch.tensor(0.037), torch.tensor(3, dtype=I32)), (scales(4096), zero_points(4096))

    def cases() -> Iterator[Case]:
        yield "quantization_error", Sample("", (x, y))
        yield "choose_qparams_per_tensor", Sample("", (x, 0, 255, False))
        yield "quantize_dynamic_per_tensor", Sample("", (x, -128, 127, True, I8))
        yield "histogram_observe_", Sample("", (*histogram(), x))
        yield "fake_quantize_per_tensor_backward", Sample("", (y, x, *one, -32, 31, True))
        for axis in (0, 1):
            yield "choose_qparams_per_channel", Sample("", (x, axis, 0, 255, False))
            arguments = (y, x, *each, axis, -32, 31, True)
            yield "fake_quantize_per_channel_backward", Sample("", arguments)

    check_all(cases())


# Gradients


def gradients(
    device: str, grad: Tensor, x: Tensor, scale: Tensor, *more: Any, asked: tuple[bool, bool]
) -> list[Tensor]:
    """What fake_quantize gives, and the gradients that are asked for, of x and of the scale."""
    name = "fake_quantize_per_channel" if scale.dim() else "fake_quantize_per_tensor"
    x, scale = (moved(t) if device == DEVICE else t.clone() for t in (x, scale))
    x.requires_grad_(asked[0])
    scale.requires_grad_(asked[1])
    rest = [a.to(device) if isinstance(a, Tensor) else a for a in more]
    y = operator(name)(x, scale, *rest)
    wanted = [t for t in (x, scale) if t.requires_grad]
    return [y, *torch.autograd.grad(y, wanted, grad.to(device))]


@EVERY_FLOAT
def test_autograd(dtype: torch.dtype) -> None:
    differences = Differences()
    for shape, axis in [((), 0), ((70,), 0), ((9, 35), 0), ((9, 35), 1), ((2, 300, 40), 1)]:
        x, grad = floats(*shape, dtype=dtype), floats(*shape, seed=1, dtype=dtype)
        calls: list[tuple[Any, ...]] = [(torch.tensor(0.1), torch.tensor(3, dtype=I32))]
        if shape:
            calls.append((scales(shape[axis]), zero_points(shape[axis]), axis))
        for call, asked in itertools.product(calls, [(True, True), (True, False), (False, True)]):
            arguments = (grad, x, *call, -32, 31)
            expected = gradients("cpu", *arguments, asked=asked)
            found = attempted(
                lambda: results_difference(
                    "",
                    gradients(DEVICE, *arguments, asked=asked),  # noqa: B023
                    expected,  # noqa: B023
                )
            )
            differences.add(f"{dtype}{list(shape)}, {len(call[0].shape)}-dim scale, {asked}", found)
    differences.report()


def test_autograd_through_views() -> None:
    """What a transposed weight gets is transposed, what an expanded scale gets is summed."""

    def loss(device: str) -> list[Tensor]:
        weight = floats(40, 30).to(device).requires_grad_()
        scale = scales(1).to(device).requires_grad_()
        y = operator("fake_quantize_per_channel")(
            weight.t(), scale.expand(30), zero_points(30).to(device), 0, -32, 31
        )
        of_weight, of_scale = torch.autograd.grad(y, (weight, scale), floats(30, 40).to(device))
        return [of_weight.contiguous(), of_scale]

    assert not results_difference("", loss(DEVICE)[:1], loss("cpu")[:1])
    # Torch itself sums the gradients of the expanded scale, in float32 and in its own order.
    torch.testing.assert_close(loss(DEVICE)[1].cpu(), loss("cpu")[1])

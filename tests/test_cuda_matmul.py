"""Products of integers and the quantized linear layers on a GPU, bit for bit as on the CPU."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import reference
import torch
from hard_values import hard_scales, hard_zero_points
from on_device import (
    Case,
    check_all,
    described_case,
    expanded,
    needs_device,
    offset_by,
    sliced,
    stepped,
    transposed,
)
from samples import BF16, F16, I8, I32, U8, Sample, bytes_, floats, quantized_linear
from torch import Tensor

pytestmark = [needs_device, pytest.mark.any_kernels]

SIGNS = [pytest.param(a, b, id=f"{str(a)[6:]}-by-{str(b)[6:]}") for a in (I8, U8) for b in (I8, U8)]
EVERY_SIGN = pytest.mark.parametrize(("a_dtype", "b_dtype"), SIGNS)
# Depth and columns: of whole tiles, of what is left of them, and of less than one.
SIZES = [
    (0, 5), (1, 1), (3, 5), (4, 8), (7, 9), (8, 16), (16, 17), (33, 31), (64, 64), (70, 35),
    (65, 129), (127, 130), (256, 48), (1024, 256),
]  # fmt: skip
ROWS = [*range(18), 31, 32, 33, 40]
LIMITS = {(I8, I8): 131071, (U8, I8): 65793, (I8, U8): 65793, (U8, U8): 33025}
LAYOUTS: list[Callable[[Tensor], Tensor]] = [
    lambda x: x, transposed, sliced, stepped, *map(offset_by, (1, 2, 3)), expanded,
]  # fmt: skip


def products(a: Tensor, b: Tensor) -> Iterator[Case]:
    """By both operators; the packed one takes int8 weights only."""
    yield "int8_matmul", Sample("", (a, b))
    if b.dtype == I8 and b.dim() == 2:
        packed, columns = reference.pack_weight(b.t()), b.shape[1]
        yield "int8_matmul_packed", Sample("", (a, packed, columns))
        weight_sum = b.sum(0, dtype=I32)
        yield "int8_matmul_packed", Sample("with sums", (a, packed, columns, weight_sum))


def ends(dtype: torch.dtype) -> tuple[int, int]:
    return (-128, 127) if dtype == I8 else (0, 255)


@EVERY_SIGN
def test_every_size(a_dtype: torch.dtype, b_dtype: torch.dtype) -> None:
    check_all(
        case
        for rows, (depth, columns) in itertools.product(ROWS, SIZES)
        for case in products(
            bytes_(rows, depth, dtype=a_dtype), bytes_(depth, columns, dtype=b_dtype, seed=1)
        )
    )


@EVERY_SIGN
def test_larger_sizes(a_dtype: torch.dtype, b_dtype: torch.dtype) -> None:
    sizes = [(131, 517, 270), (300, 4100, 50), (2000, 9, 7), (5, 300, 1030), (257, 512, 384)]
    sizes += [(1, 4096, 4096), (1024, 1024, 1024), (70_000, 4, 3), (3, 4, 70_000)]
    check_all(
        case
        for rows, depth, columns in sizes
        for case in products(
            bytes_(rows, depth, dtype=a_dtype), bytes_(depth, columns, dtype=b_dtype, seed=1)
        )
    )


@EVERY_SIGN
def test_extremes_as_deep_as_they_may_be(a_dtype: torch.dtype, b_dtype: torch.dtype) -> None:
    """Where each half of int8 shifted by 128 would leave int32 on the way."""

    def cases() -> Iterator[Case]:
        for depth in (1, 2, 3, 64, 4096, LIMITS[a_dtype, b_dtype]):
            for x, y in itertools.product(ends(a_dtype), ends(b_dtype)):
                for rows, columns in ((1, 3), (2, 17), (33, 16)):
                    a = torch.full((rows, depth), x, dtype=a_dtype)
                    yield from products(a, torch.full((depth, columns), y, dtype=b_dtype))

    check_all(cases())


@EVERY_SIGN
def test_every_layout(a_dtype: torch.dtype, b_dtype: torch.dtype) -> None:
    def cases() -> Iterator[Case]:
        for rows, depth, columns in ((1, 64, 32), (9, 21, 35), (16, 64, 32), (40, 128, 48)):
            a, b = bytes_(rows, depth, dtype=a_dtype), bytes_(depth, columns, dtype=b_dtype)
            for of_a, of_b in itertools.product(LAYOUTS, LAYOUTS):
                yield from products(of_a(a), of_b(b))

    check_all(cases())


@EVERY_SIGN
def test_batches(a_dtype: torch.dtype, b_dtype: torch.dtype) -> None:
    def cases() -> Iterator[Case]:
        for batch in ((1,), (3,), (2, 3), (2, 0), (1, 2, 1), (70,)):
            for rows, depth, columns in (
                (5, 17, 19),
                (16, 32, 32),
                (0, 3, 4),
                (3, 0, 4),
                (3, 4, 0),
            ):
                a = bytes_(*batch, rows, depth, dtype=a_dtype)
                b = bytes_(*batch, depth, columns, dtype=b_dtype, seed=1)
                for of in (lambda x: x, transposed, sliced, expanded):
                    yield "int8_matmul", Sample("", (of(a), b))
                    yield "int8_matmul", Sample("", (a, of(b)))
                packed = reference.pack_weight(bytes_(columns, depth))
                yield "int8_matmul_packed", Sample("", (a, packed, columns))

    check_all(cases())


def test_packing() -> None:
    """Weights of every size and layout, and back."""

    def cases() -> Iterator[Case]:
        for outputs, inputs in itertools.product((0, 1, 15, 16, 17, 33, 130), (0, 1, 3, 4, 5, 66)):
            weight = bytes_(outputs, inputs)
            for of in LAYOUTS:
                yield "pack_weight", Sample("", (of(weight),))
                packed = of(reference.pack_weight(weight))
                yield "unpack_weight", Sample("", (packed, outputs, inputs))
        weight = bytes_(1000, 517)
        yield "pack_weight", Sample("", (weight,))
        yield "unpack_weight", Sample("", (reference.pack_weight(weight), 1000, 517))

    check_all(cases())


# Layers

FEATURES = [(1, 1), (5, 3), (8, 16), (70, 35), (64, 64), (129, 130), (256, 16), (0, 5), (5, 0)]
LAYER_ROWS = [0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64, 70]
ACTIVATIONS = ("none", "relu")
FLOATS = (torch.float32, F16, BF16)


def layer_inputs(rows: int, width: int, dtype: torch.dtype) -> Tensor:
    """Rows of which some hold NaN or an infinity, some are zero and some of one sign."""
    x = floats(rows, width, dtype=dtype, seed=rows)
    if width > 0:
        x[2::11, width // 2] = torch.nan
        x[3::11, -1] = torch.inf
        x[4::11, 0] = -torch.inf
        x[5::11] = 0
        x[6::11] = x[6::11].abs()
        x[7::11] *= 3e4
    return x


def dynamic_layers(width: int, outputs: int, dtype: torch.dtype) -> Iterator[Case]:
    layer, bias = quantized_linear(outputs, width), floats(outputs, seed=3)
    for rows in LAYER_ROWS:
        x = layer_inputs(rows, width, dtype)
        for given, activation in itertools.product((bias, None), ACTIVATIONS):
            yield "linear_dynamic", Sample("", (x, *layer, given, activation))
    for of in LAYOUTS:
        x = of(layer_inputs(6, width, dtype))
        yield "linear_dynamic", Sample("", (x, *map(of_weights(of), layer), of(bias)))


def of_weights(of: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The layout, if it keeps the values: sums and weights belong together."""
    return (lambda x: x) if of is expanded else of


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_linear_dynamic(dtype: torch.dtype) -> None:
    check_all(case for size in FEATURES for case in dynamic_layers(*size, dtype))


OUTPUTS: dict[str, tuple[Any, ...]] = {
    "as its input": (),
    "float32": (None, None, torch.float32),
    "float16": (None, None, F16),
    "bfloat16": (None, None, BF16),
    "codes": (torch.tensor(1.3), torch.tensor(101, dtype=I32)),
    "uint8": (torch.tensor([0.2]), torch.tensor([255], dtype=I32), U8),
    "int8": (torch.tensor(0.7), torch.tensor(-3, dtype=I32), I8),
}


def static_layers(width: int, outputs: int, dtype: torch.dtype) -> Iterator[Case]:
    layer, bias = quantized_linear(outputs, width), floats(outputs, seed=3)
    qparams = torch.tensor(0.037), torch.tensor(131, dtype=I32)
    for i, rows in enumerate(LAYER_ROWS):
        x = bytes_(rows, width, dtype=dtype) if dtype in (I8, U8) else None
        x = layer_inputs(rows, width, dtype) if x is None else x
        given, activation = (bias, None)[i % 2], ACTIVATIONS[i // 2 % 2]
        for name, output in OUTPUTS.items():
            yield "linear_static", Sample(name, (x, *qparams, *layer, given, activation, *output))
    x = bytes_(6, width, dtype=I8).to(dtype)
    for of in LAYOUTS:
        packed = [*map(of_weights(of), layer)]
        yield "linear_static", Sample("", (of(x), *map(of, qparams), *packed, of(bias)))


@pytest.mark.parametrize("dtype", [*FLOATS, I8, U8], ids=str)
def test_linear_static(dtype: torch.dtype) -> None:
    check_all(case for size in FEATURES for case in static_layers(*size, dtype))


def test_larger_layers() -> None:
    def cases() -> Iterator[Case]:
        qparams = torch.tensor(0.037), torch.tensor(131, dtype=I32)
        for rows, width, outputs in [(1, 1024, 1024), (131, 517, 270), (600, 768, 3072)]:
            layer, bias = quantized_linear(outputs, width), floats(outputs)
            for dtype in FLOATS:
                x = layer_inputs(rows, width, dtype)
                yield "linear_dynamic", Sample("", (x, *layer, bias))
                yield "linear_static", Sample("", (x, *qparams, *layer, bias, "relu"))
            for dtype in (I8, U8):
                arguments = (bytes_(rows, width, dtype=dtype), *qparams, *layer, bias)
                output = ("relu", *OUTPUTS["uint8"])
                yield "linear_static", Sample("", (*arguments, *output))
        x = floats(2, 3, 4, 70)
        yield "linear_dynamic", Sample("", (x, *quantized_linear(35, 70)))
        yield "linear_dynamic", Sample("deep", (floats(3, 65_793), *quantized_linear(5, 65_793)))

    check_all(cases())


def test_strange_scales_and_zero_points() -> None:
    """Of the weight, of the bias, of the input and of the output."""

    def cases() -> Iterator[Case]:
        packed, scale, weight_sum = quantized_linear(60, 37)
        x, bias = layer_inputs(9, 37, torch.float32), floats(60)
        strange, zero_points = hard_scales(60, seed=5), hard_zero_points(60, seed=5)
        one, zero = torch.tensor(0.04), torch.tensor(131, dtype=I32)
        yield "linear_dynamic", Sample("weights", (x, packed, strange, weight_sum, bias))
        yield "linear_dynamic", Sample("bias", (x, packed, scale, weight_sum, strange))
        arguments = (x, one, zero, packed, strange, weight_sum, bias)
        yield "linear_static", Sample("weights", arguments)
        layer = (packed, scale, weight_sum, bias, "none")
        for given in (x, bytes_(9, 37), bytes_(9, 37, dtype=U8)):
            for pair in zip(strange, zero_points, strict=True):
                yield "linear_static", Sample("input", (given, *pair, *layer))
                output = (given, one, zero, *layer, *pair, U8)
                yield "linear_static", Sample("output", output)

    check_all(cases())


def test_described_cases_say_what_was_called() -> None:
    arguments = (bytes_(3, 4).t(), torch.tensor(0.5))
    text = described_case("name", Sample("sample", arguments, {"out_dtype": F16}))
    assert text == (
        "name 'sample' (int8[4, 3] strides (1, 4), float32[]=0.5, out_dtype=torch.float16)"
    )

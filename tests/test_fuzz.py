"""Operators on inputs that hypothesis makes up, against the reference, which shares no code with
them: whatever shape, strides, dtype, granularity and parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import reference
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from operator_tests import assert_same, outcome
from torch import Tensor

# Examples are derived from the test's own code, so that every run tries the same ones.
settings.register_profile(
    "repeatable",
    derandomize=True,
    deadline=None,  # of other processes on the machine
    max_examples=100,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("repeatable")

FLOATS = st.sampled_from([torch.float32, torch.float16, torch.bfloat16])
LIMITS = {
    torch.int8: (-128, 127),
    torch.uint8: (0, 255),
    torch.int16: (-32768, 32767),
    torch.int32: (-65536, 65535),
}
CODES = st.sampled_from(list(LIMITS))
BYTES = st.sampled_from([torch.int8, torch.uint8])
SCALES = [1.0, 0.5, 0.1, 0.007, 0.0, -1.0, 1e-45, 2e-39, 3e-39, 3e38, np.inf, -np.inf, np.nan]


def shapes(least: int) -> st.SearchStrategy[tuple[int, ...]]:
    return st.lists(st.integers(0, 9), min_size=least, max_size=4).map(tuple) | st.tuples(
        st.integers(0, 4), st.integers(0, 200)
    )


@st.composite
def _laid_out(draw: st.DrawFn, values: Tensor) -> Tensor:
    """The same values, transposed or with gaps between them."""
    if values.dim() > 1 and draw(st.booleans()):
        one, other = draw(st.integers(0, values.dim() - 1)), draw(st.integers(0, values.dim() - 1))
        values = values.transpose(one, other).contiguous().transpose(one, other)
    if values.dim() > 0 and draw(st.booleans()):
        values = torch.stack([values, values], -1)[..., 0]
    return values


@st.composite
def floats(draw: st.DrawFn, shape: Sequence[int]) -> Tensor:
    """Normal values, halves of integers, or any bits at all: NaN, infinities, subnormals."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["normal", "ties", "bits"]))
    if kind == "normal":
        values = random.normal(0, 30, shape)
    elif kind == "ties":
        values = random.integers(-1024, 1024, shape) / 2
    else:
        values = random.integers(0, 2**32, shape, dtype=np.uint32).view(np.float32)
    tensor = torch.from_numpy(np.asarray(values, np.float32))
    return draw(_laid_out(tensor.to(draw(FLOATS))))


@st.composite
def codes(draw: st.DrawFn, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    low, high = LIMITS[dtype]
    return draw(_laid_out(torch.from_numpy(random.integers(low, high + 1, shape)).to(dtype)))


@st.composite
def code_range(draw: st.DrawFn, dtype: torch.dtype) -> tuple[int, int]:
    low, high = LIMITS[dtype]
    quant_min = draw(st.just(low) | st.integers(low, high - 1))
    return quant_min, draw(st.just(high) | st.integers(quant_min + 1, high))


@st.composite
def qparams(draw: st.DrawFn, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Usual ones, and now and then what the contract only defines a result for."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = random.uniform(0.001, 3, shape)
    zero_point = random.integers(-300, 300, shape)
    if draw(st.booleans()):
        scale = random.choice(SCALES, shape)
    if draw(st.booleans()):
        zero_point = random.integers(-(2**31), 2**31, shape)
    return (
        draw(_laid_out(torch.from_numpy(np.asarray(scale, np.float32)))),
        draw(_laid_out(torch.from_numpy(np.asarray(zero_point, np.int32)))),
    )


@st.composite
def granularity(draw: st.DrawFn) -> tuple[str, tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """The end of the operator's name, a shape, that of the parameters, and the argument."""
    kind = draw(st.sampled_from(["per_tensor", "per_channel", "per_group", "per_token"]))
    shape = draw(shapes(0 if kind == "per_tensor" else 1))
    if kind == "per_tensor":
        return kind, shape, (), ()
    if kind == "per_channel":
        axis = draw(st.integers(-len(shape), len(shape) - 1))
        return kind, shape, (shape[axis],), (axis,)
    if kind == "per_token":
        return kind, shape, (*shape[:-1], 1), ()
    size = draw(st.integers(1, 40))
    return kind, shape, (*shape[:-1], -(-shape[-1] // size)), (size,)


def check(name: str, *arguments: Any) -> None:
    assert_same(outcome(name, arguments), getattr(reference, name)(*arguments))


@given(st.data())
def test_quantize_is_the_reference(data: st.DataObject) -> None:
    kind, shape, channels, argument = data.draw(granularity())
    x, (scale, zero_point) = data.draw(floats(shape)), data.draw(qparams(channels))
    dtype = data.draw(CODES)
    range = data.draw(code_range(dtype))
    check(f"quantize_{kind}", x, scale, zero_point, *argument, *range, dtype)


@given(st.data())
def test_dequantize_is_the_reference(data: st.DataObject) -> None:
    kind, shape, channels, argument = data.draw(granularity())
    q, (scale, zero_point) = data.draw(codes(shape, data.draw(CODES))), data.draw(qparams(channels))
    name, dtype = f"dequantize_{kind}", data.draw(FLOATS)
    arguments = (q, scale, zero_point, *argument)
    expected = getattr(reference, name)(*arguments, out_dtype=dtype)
    assert_same(outcome(name, arguments, {"out_dtype": dtype}), expected)


@given(st.data())
def test_choose_qparams_is_the_reference(data: st.DataObject) -> None:
    kind, shape, _, argument = data.draw(granularity())
    quant_min, quant_max = data.draw(code_range(data.draw(CODES)))
    symmetric = quant_min < 0 < quant_max and data.draw(st.booleans())
    x = data.draw(floats(shape))
    check(f"choose_qparams_{kind}", x, *argument, quant_min, quant_max, symmetric)


@given(st.data())
def test_int8_matmul_is_the_reference(data: st.DataObject) -> None:
    m, k, n = (data.draw(st.integers(0, 70)) for _ in range(3))
    a, b = data.draw(codes((m, k), data.draw(BYTES))), data.draw(codes((k, n), data.draw(BYTES)))
    check("int8_matmul", a, b)


@st.composite
def layer_call(draw: st.DrawFn) -> tuple[Tensor, tuple[Any, ...]]:
    """Rows, and a layer for them: packed weight, scale, sum, perhaps a bias, and activation."""
    n, k = draw(st.integers(1, 70)), draw(st.integers(1, 150))
    weight = draw(codes((n, k), torch.int8))
    scale, _ = draw(qparams((n,)))
    bias = draw(st.none() | floats((n,)))
    packed, sums = torch.ops.torchquant.pack_weight(weight), weight.sum(1, dtype=torch.int32)
    activation = draw(st.sampled_from(["none", "relu"]))
    x = draw(floats((draw(st.integers(0, 30)), k)))
    return x, (packed, scale, sums, None if bias is None else bias.float(), activation)


@given(layer_call())
def test_linear_dynamic_is_the_reference(call: tuple[Tensor, tuple[Any, ...]]) -> None:
    x, layer = call
    check("linear_dynamic", x, *layer)


@given(st.data())
def test_linear_static_is_the_reference(data: st.DataObject) -> None:
    x, layer = data.draw(layer_call())
    (input_scale, input_zero), (out_scale, out_zero) = (data.draw(qparams(())) for _ in range(2))
    output = (out_scale, out_zero, data.draw(BYTES)) if data.draw(st.booleans()) else ()
    check("linear_static", x, input_scale, input_zero, *layer, *output)


@given(st.data())
def test_packed_bits_are_the_reference(data: st.DataObject) -> None:
    num_bits, dtype = data.draw(st.integers(2, 8)), data.draw(BYTES)
    q = data.draw(codes(data.draw(shapes(1)), dtype)) >> (8 - num_bits)
    check("pack_bits", q, num_bits)
    packed = torch.ops.torchquant.pack_bits(q, num_bits)
    check("unpack_bits", packed, num_bits, q.size(-1), dtype)


@given(st.data())
def test_observing_is_the_reference(data: st.DataObject) -> None:
    counts = torch.zeros(32768, dtype=torch.int64)
    range = torch.tensor([torch.inf, -torch.inf])
    check("histogram_observe_", counts, range, data.draw(floats(data.draw(shapes(0)))))

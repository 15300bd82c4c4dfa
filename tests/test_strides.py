"""Inputs as they lie in memory: what an operator makes of a view is what it makes of its copy, and
where it says so without making that copy."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from operator_tests import assert_same, operator
from samples import F16, I8, I16, I32, U8, floats
from torch import Tensor
from views import (
    AROUND_A_TILE,
    ONE,
    VIEWS,
    Call,
    View,
    all_calls,
    choose_calls,
    dequantize_calls,
    dynamic_calls,
    fake_quantize_calls,
    quantize_calls,
    random_view,
)

# Of every size: how elements are read depends on nothing else.
FLOATS = [torch.float32, F16]
CODES = [I8, I16, I32]
EVERY_VIEW = pytest.mark.parametrize("view", [*VIEWS, *AROUND_A_TILE], ids=str)


def check(x: Tensor, calls: Iterator[Call], **keywords: Any) -> None:
    copy = x.contiguous()
    for name, arguments in calls:
        result = operator(name)(x, *arguments, **keywords)
        assert_same(result, operator(name)(copy, *arguments, **keywords))


@EVERY_VIEW
@pytest.mark.parametrize("dtype", FLOATS)
def test_quantize(view: View, dtype: torch.dtype) -> None:
    x = view.tensor(dtype)
    check(x, quantize_calls(x.shape))


@EVERY_VIEW
@pytest.mark.parametrize("dtype", FLOATS)
def test_choose_qparams(view: View, dtype: torch.dtype) -> None:
    x = view.tensor(dtype)
    check(x, choose_calls(x.shape))


@EVERY_VIEW
@pytest.mark.parametrize("dtype", FLOATS)
def test_quantize_dynamic(view: View, dtype: torch.dtype) -> None:
    x = view.tensor(dtype)
    check(x, dynamic_calls(x.shape))


@EVERY_VIEW
@pytest.mark.parametrize("dtype", CODES)
def test_dequantize(view: View, dtype: torch.dtype) -> None:
    q = view.tensor(dtype)
    check(q, dequantize_calls(q.shape))
    check(q, iter([("dequantize_per_tensor", ONE)]), out_dtype=F16)


@EVERY_VIEW
@pytest.mark.parametrize("dtype", FLOATS)
def test_fake_quantize(view: View, dtype: torch.dtype) -> None:
    x = view.tensor(dtype)
    check(x, fake_quantize_calls(x.shape))


@EVERY_VIEW
@pytest.mark.parametrize("dtype", FLOATS)
def test_fake_quantize_backward(view: View, dtype: torch.dtype) -> None:
    """The gradient and the input, each as it lies beside a copy of the other, and both."""
    grad, x = view.tensor(dtype, seed=1), view.tensor(dtype)
    copies = grad.contiguous(), x.contiguous()
    for name, arguments in fake_quantize_calls(x.shape):
        backward = operator(f"{name}_backward")
        expected = backward(*copies, *arguments, True)
        for tensors in ((grad, x), (grad, copies[1]), (copies[0], x)):
            assert_same(backward(*tensors, *arguments, True), expected)
        assert_same(backward(grad, x, *arguments, False)[0], expected[0])


@EVERY_VIEW
@pytest.mark.parametrize("dtype", [F16, torch.float32, torch.float64])
def test_quantization_error(view: View, dtype: torch.dtype) -> None:
    x, y = view.tensor(dtype), view.tensor(torch.float32, seed=1)
    if x.numel() == 0:
        return
    expected = operator("quantization_error")(x.contiguous(), y.contiguous())
    for pair in ((x, y), (x.contiguous(), y), (x, y.contiguous())):
        assert_same(operator("quantization_error")(*pair), expected)


@EVERY_VIEW
@pytest.mark.parametrize("dtype", [I8, U8])
def test_pack_bits(view: View, dtype: torch.dtype) -> None:
    codes = view.tensor(dtype)
    if codes.ndim:
        check(codes, iter([("pack_bits", (bits,)) for bits in (4, 5, 8)]))


@EVERY_VIEW
def test_unpack_bits(view: View) -> None:
    packed = view.tensor(U8)
    if packed.ndim:
        size = packed.shape[-1]
        check(packed, iter([("unpack_bits", (bits, size * 8 // bits, I8)) for bits in (2, 4, 8)]))


@pytest.mark.parametrize("seed", range(60))
def test_random_views(seed: int) -> None:
    view = random_view(random.Random(seed))
    x, grad, q = view.tensor(torch.float32), view.tensor(torch.float32, seed=1), view.tensor(I8)
    check(x, all_calls(x))
    check(q, dequantize_calls(q.shape))
    assert_same(
        operator("quantization_error")(x, grad),
        operator("quantization_error")(x.contiguous(), grad.contiguous()),
    )
    check_out(x, fake_quantize_calls(x.shape))
    for name, arguments in fake_quantize_calls(x.shape):
        backward = operator(f"{name}_backward")
        assert_same(
            backward(grad, x, *arguments, True),
            backward(grad.contiguous(), x.contiguous(), *arguments, True),
        )


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_any_number_of_threads_gives_the_same_bits(threads: int) -> None:
    names = ("channels-last-64x3x7x7", "t-1000x700", "permuted-021", "many-short-rows", "long-rows")
    usual = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        for view in VIEWS:
            if view.name in names:
                x = view.tensor(torch.float32)
                check(x, all_calls(x))
    finally:
        torch.set_num_threads(usual)


# Results where they are asked for


def dense(x: Tensor) -> bool:
    """Whether no elements share memory, so that a result may have these strides."""
    last = 0
    for size, stride in sorted(zip(x.shape, x.stride(), strict=True), key=lambda pair: pair[1]):
        if size > 1 and stride <= last:
            return False
        last += (size - 1) * stride if size > 1 else 0
    return True


def outs(x: Tensor, dtype: torch.dtype) -> Iterator[Tensor]:
    """As x lies, in other orders, and with gaps."""
    if dense(x):
        yield torch.empty_strided(x.shape, x.stride(), dtype=dtype)
    yield torch.empty(x.shape, dtype=dtype)
    yield torch.empty(x.shape[::-1], dtype=dtype).permute(list(range(x.ndim))[::-1])
    yield torch.empty((*x.shape, 2), dtype=dtype)[..., 1]


def check_out(x: Tensor, calls: Iterator[Call]) -> None:
    for name, arguments in calls:
        expected = operator(name)(x.contiguous(), *arguments)
        for out in outs(x, expected.dtype):
            strides = out.stride()
            assert operator(name).out(x, *arguments, out=out) is None
            assert out.stride() == strides
            assert_same(out.contiguous(), expected)


@pytest.mark.parametrize("view", VIEWS, ids=str)
def test_out(view: View) -> None:
    x, q = view.tensor(torch.float32), view.tensor(I8)
    check_out(x, quantize_calls(x.shape))
    check_out(x, fake_quantize_calls(x.shape))
    check_out(q, dequantize_calls(q.shape))


def test_out_of_another_order_than_the_input() -> None:
    """A result laid out as x.t() of an input that is not, and the other way round."""
    x = floats(300, 70)
    for turned in (x, x.t().contiguous().t()):
        for name, arguments in quantize_calls(x.shape):
            expected = operator(name)(x, *arguments)
            for out in (
                torch.empty(300, 70, dtype=expected.dtype),
                torch.empty(70, 300, dtype=expected.dtype).t(),
                torch.empty(300, 140, dtype=expected.dtype)[:, ::2],
            ):
                operator(name).out(turned, *arguments, out=out)
                assert_same(out.contiguous(), expected)


def test_strides_of_size_1_dimensions_are_of_no_matter() -> None:
    x = floats(70, 90)
    odd = x.t().as_strided((1, 90, 1, 70), (7, 1, 3, 90))
    for name, arguments in fake_quantize_calls(odd.shape):
        out = torch.empty(90 * 70).as_strided((1, 90, 1, 70), (11, 1, 90 * 70, 90))
        operator(name).out(odd, *arguments, out=out)
        assert_same(out.contiguous(), operator(name)(odd.contiguous(), *arguments))


# Without a copy

COPIES = {"aten::contiguous", "aten::clone", "aten::copy_", "aten::to", "aten::_to_copy"}
SMALL = 1 << 16


@dataclass
class Watched:
    """Which operators that copy were called, and the bytes that PyTorch's allocator handed out; the
    buffers of a thread, of a tile or a piece, are not its own."""

    copies: set[str]
    allocated: int
    result: Any

    def size(self) -> int:
        results = [self.result] if isinstance(self.result, Tensor) else self.result or []
        return sum(tensor.numel() * tensor.element_size() for tensor in results)


def watch(name: str, overload: str, *arguments: Any, **keywords: Any) -> Watched:
    call = getattr(operator(name), overload)
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        result = call(*arguments, **keywords)
    assert profile.profiler is not None
    results = profile.profiler.kineto_results
    assert results is not None
    events = results.events()
    allocated = sum(max(0, event.nbytes()) for event in events if event.name() == "[memory]")
    return Watched({event.name() for event in events} & COPIES, allocated, result)


LARGE = (2048, 2048)
IN_PLACE = [
    View("t", LARGE, lambda x: x.t()),
    View("rows", LARGE, lambda x: x[:, :2000]),
    View("channels-last", LARGE, lambda x: x.view(32, 8, 8, 2048).permute(0, 3, 1, 2)),
]


@pytest.mark.parametrize("view", IN_PLACE, ids=str)
@pytest.mark.parametrize(
    "name",
    [
        "quantize_per_tensor",
        "quantize_per_channel",
        "choose_qparams_per_tensor",
        "choose_qparams_per_channel",
        "quantize_dynamic_per_tensor",
        "dequantize_per_tensor",
        "dequantize_per_channel",
        "fake_quantize_per_tensor",
        "fake_quantize_per_channel",
    ],
)
def test_nothing_is_copied(name: str, view: View) -> None:
    x = view.tensor(I8 if name.startswith("dequantize") else torch.float32)
    assert not x.is_contiguous()
    families = (quantize_calls, choose_calls, dynamic_calls, dequantize_calls, fake_quantize_calls)
    calls = [call for family in families for call in family(x.shape) if call[0] == name]
    of_axes = calls[: x.ndim] if name.endswith("per_channel") else calls[:1]
    assert of_axes
    for _, arguments in of_axes:
        watched = watch(name, "default", x, *arguments)
        assert not watched.copies
        assert watched.size() <= watched.allocated <= watched.size() + SMALL


@pytest.mark.parametrize(
    "name",
    [
        "choose_qparams_per_token",
        "choose_qparams_per_group",
        "quantize_dynamic_per_token",
        "quantize_dynamic_per_group",
        "quantize_per_token",
        "quantize_per_group",
        "quantization_error",
    ],
)
def test_rows_are_not_copied(name: str) -> None:
    x = floats(1000, 1100)[:, :1000]
    families = (quantize_calls, choose_calls, dynamic_calls)
    calls = dict(call for family in families for call in family(x.shape))
    calls["quantization_error"] = (x,)
    watched = watch(name, "default", x, *calls[name])
    assert not watched.copies
    assert watched.allocated <= watched.size() + SMALL


@pytest.mark.parametrize("name", ["quantize_per_tensor", "fake_quantize_per_tensor"])
def test_out_that_lies_as_the_input_is_written_in_place(name: str) -> None:
    x = floats(64, 3, 70, 70).contiguous(memory_format=torch.channels_last)
    call = {"quantize_per_tensor": (*ONE, 0, 255, U8), "fake_quantize_per_tensor": (*ONE, -8, 7)}
    out = torch.empty_like(x, dtype=U8 if name == "quantize_per_tensor" else x.dtype)
    watched = watch(name, "out", x, *call[name], out=out)
    assert not watched.copies
    assert watched.allocated <= SMALL


def test_a_copy_would_be_seen() -> None:
    """Of what has neither rows nor columns, so that the tests above measure something."""
    x = floats(1000, 1000)[:, ::2]
    watched = watch("quantize_per_tensor", "default", x, *ONE, 0, 255, U8)
    assert "aten::copy_" in watched.copies
    assert watched.allocated >= 5 * x.numel()

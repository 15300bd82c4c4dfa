"""Inputs as they lie in memory: what an operator makes of a view is what it makes of its copy, and
where it says so without making that copy."""

from __future__ import annotations

import functools
import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from operator_tests import assert_same, operator
from samples import F16, I8, I16, I32, U8, floats, integers, scales, zero_points
from torch import Tensor

# Of every size: how elements are read depends on nothing else.
FLOATS = [torch.float32, F16]
CODES = [I8, I16, I32]


@functools.cache
def base(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    """Values, or codes that 4 bits hold where they are signed."""
    if dtype.is_floating_point:
        return floats(*shape, seed=seed).to(dtype)
    low = 0 if dtype == U8 else -8
    return integers(*shape, low=low, high=low + 15, dtype=dtype, seed=seed)


@dataclass(frozen=True)
class View:
    """A view of a tensor of `shape`, taken by `of`."""

    name: str
    shape: tuple[int, ...]
    of: Callable[[Tensor], Tensor]

    def tensor(self, dtype: torch.dtype, seed: int = 0) -> Tensor:
        return self.of(base(self.shape, dtype, seed))

    def __str__(self) -> str:
        return self.name


def _transposed(rows: int, columns: int) -> View:
    return View(f"t-{rows}x{columns}", (columns, rows), lambda x: x.t())


def _channels_last(*shape: int) -> View:
    name = "channels-last-" + "x".join(map(str, shape))
    order = [0, *range(2, len(shape)), 1]
    back = [0, len(shape) - 1, *range(1, len(shape) - 1)]
    return View(name, tuple(shape[i] for i in order), lambda x: x.permute(back))


def _permuted(shape: tuple[int, ...], *dims: int) -> View:
    return View(f"permuted-{''.join(map(str, dims))}", shape, lambda x: x.permute(dims))


def _unaligned(x: Tensor) -> Tensor:
    """One byte past an aligned address."""
    size = x.element_size()
    storage = torch.zeros(x.numel() * size + 1, dtype=U8)
    moved = torch.frombuffer(
        bytearray(storage.numpy()), dtype=x.dtype, count=x.numel(), offset=1
    ).reshape(x.shape)
    moved.copy_(x)
    assert moved.data_ptr() % 2 == 1
    return moved


# Whole tiles of 64 x 256 and what is left of them; views that are read in place, by rows or by
# columns, and those that are copied.
VIEWS = [
    _channels_last(64, 3, 7, 7),
    _channels_last(70, 65, 5, 3),
    _channels_last(2, 5, 300),
    _channels_last(1, 70, 9, 31),
    _channels_last(6, 1, 5, 5),
    *itertools.starmap(_transposed, [(1, 9), (9, 1), (2, 3), (33, 6), (1000, 700), (70, 1030)]),
    _permuted((5, 70, 66), 2, 0, 1),
    _permuted((5, 70, 66), 2, 1, 0),
    _permuted((5, 70, 66), 0, 2, 1),
    _permuted((70, 5, 66), 1, 2, 0),
    _permuted((3, 70, 5, 66), 0, 3, 2, 1),
    _permuted((3, 7, 5, 66), 3, 1, 2, 0),
    _permuted((3, 4, 260, 9), 1, 0, 3, 2),
    View("short-rows", (50, 9), lambda x: x[:, :5]),
    View("short-rows-from-2", (3, 50, 9), lambda x: x[..., 2:7]),
    View("many-short-rows", (5000, 9), lambda x: x[:, 2:7]),
    View("long-rows", (50, 300), lambda x: x[:, 1:200]),
    View("rows-longer-than-a-piece", (5, 9000), lambda x: x[:, :8999]),
    View("rows-of-rows", (4, 6, 300), lambda x: x[:, 1:5, :290]),
    View("every-second-row", (51, 90), lambda x: x[::2]),
    View("every-second-of-the-middle", (5, 31, 40), lambda x: x[:, ::2]),
    View("every-second-column", (50, 91), lambda x: x[:, ::2]),
    View("every-second-value", (601,), lambda x: x[::2]),
    View("last-chunk", (40, 90), lambda x: x.chunk(3, -1)[2]),
    View("middle-chunk", (2, 40, 96), lambda x: x.chunk(3, -1)[1]),
    View("transposed-chunk", (96, 300), lambda x: x.chunk(3, 0)[1].t()),
    View("transposed-slice", (300, 400), lambda x: x[3:290, 5:399].t()),
    View("transposed-every-second", (300, 140), lambda x: x[::2].t()),
    View("a-column", (70, 90), lambda x: x[:, 3]),
    View("a-narrow-column", (700, 9), lambda x: x[:, 3:4]),
    View("expanded-first", (300,), lambda x: x.expand(7, 300)),
    View("expanded-first-of-3", (30, 70), lambda x: x.expand(5, 30, 70)),
    View("expanded-middle", (9, 1, 70), lambda x: x.expand(9, 6, 70)),
    View("expanded-last", (70, 1), lambda x: x.expand(70, 300)),
    View("expanded-last-of-3", (9, 70, 1), lambda x: x.expand(9, 70, 5)),
    View("expanded-transposed", (70, 90), lambda x: x.t().expand(3, 90, 70)),
    View("expanded-in-the-middle-of-columns", (70, 90), lambda x: x.t()[:, None].expand(90, 5, 70)),
    View("one-value-for-all", (1,), lambda x: x.expand(4, 5, 70)),
    View("size-1-stride-0", (70,), lambda x: x.as_strided((1, 70, 1), (0, 1, 0))),
    View("size-1-odd-strides", (6, 70), lambda x: x.as_strided((1, 70, 1, 6), (5, 1, 3, 70))),
    View("all-sizes-1-stride-0", (9,), lambda x: x.as_strided((1, 1, 1), (0, 0, 0), 4)),
    View("overlapping-rows", (400,), lambda x: x.as_strided((70, 31), (4, 1))),
    View("overlapping-columns", (400,), lambda x: x.as_strided((70, 31), (1, 4))),
    View("overlapping-windows", (99,), lambda x: x.unfold(0, 20, 1)),
    View("overlapping-windows-transposed", (99,), lambda x: x.unfold(0, 20, 3).t()),
    View("diagonal", (80, 80), lambda x: x.diagonal()),
    View("0-dim", (9, 9), lambda x: x[3, 4]),
    View("empty-rows", (5, 9), lambda x: x[:, :0]),
    View("empty-transposed", (0, 9), lambda x: x.t()),
    View("unaligned", (33, 70), _unaligned),
    View("unaligned-transposed", (300, 70), lambda x: _unaligned(x).t()),
    View("unaligned-rows", (33, 70), lambda x: _unaligned(x)[:, 1:66]),
    View("unaligned-channels-last", (4, 5, 6, 33), lambda x: _unaligned(x).permute(0, 3, 1, 2)),
]
# Around the size of a tile in both directions.
AROUND_A_TILE = [
    _transposed(rows, columns) for rows in range(63, 67) for columns in range(255, 259)
] + [_transposed(columns, rows) for rows in (63, 64, 65) for columns in (255, 256, 257)]
EVERY_VIEW = pytest.mark.parametrize("view", [*VIEWS, *AROUND_A_TILE], ids=str)

# An operator and its arguments after the first one.
Call = tuple[str, tuple[Any, ...]]
ONE = (torch.tensor(0.037), torch.tensor(3, dtype=I32))


def granularities(shape: Sequence[int]) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Each with qparams that fit `shape`, and with its axis or group size."""
    yield "per_tensor", ONE
    for axis, size in enumerate(shape):
        yield "per_channel", (scales(size), zero_points(size), axis)
    if not shape:
        return
    token = (*shape[:-1], 1)
    yield "per_token", (scales(*token), zero_points(*token))
    for group_size in (3, 32):
        groups = (*shape[:-1], -(-shape[-1] // group_size))
        yield "per_group", (scales(*groups), zero_points(*groups), group_size)


def without_qparams(granularity: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return arguments[2:] if granularity in ("per_channel", "per_group") else ()


def quantize_calls(shape: Sequence[int]) -> Iterator[Call]:
    for granularity, arguments in granularities(shape):
        yield f"quantize_{granularity}", (*arguments, -128, 127, I8)
    yield "quantize_per_tensor", (*ONE, 0, 255, U8)
    yield "quantize_per_tensor", (*ONE, -3000, 3000, I16)
    yield "quantize_per_tensor", (*ONE, 0, 65535, I32)


def choose_calls(shape: Sequence[int]) -> Iterator[Call]:
    for granularity, arguments in granularities(shape):
        rest = without_qparams(granularity, arguments)
        yield f"choose_qparams_{granularity}", (*rest, 0, 255, False)


def dynamic_calls(shape: Sequence[int]) -> Iterator[Call]:
    for granularity, arguments in granularities(shape):
        if granularity != "per_channel":
            rest = without_qparams(granularity, arguments)
            yield f"quantize_dynamic_{granularity}", (*rest, -128, 127, True, I8)


def fake_quantize_calls(shape: Sequence[int]) -> Iterator[Call]:
    for granularity, arguments in granularities(shape):
        if granularity in ("per_tensor", "per_channel"):
            yield f"fake_quantize_{granularity}", (*arguments, -32, 31)


def dequantize_calls(shape: Sequence[int]) -> Iterator[Call]:
    for granularity, arguments in granularities(shape):
        yield f"dequantize_{granularity}", arguments


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


def all_calls(x: Tensor) -> Iterator[Call]:
    for family in (quantize_calls, choose_calls, dynamic_calls, fake_quantize_calls):
        yield from family(x.shape)


SIZES = [1, 1, 2, 3, 5, 7, 16, 31, 64, 65, 130, 257]


def random_view(draw: random.Random) -> View:
    """Of up to 5 dimensions in any order, of which some are cut, stepped through or expanded."""
    sizes = [draw.choice(SIZES) for _ in range(draw.randint(1, 5))]
    while math.prod(sizes) > 30_000:
        sizes[draw.randrange(len(sizes))] = draw.choice(SIZES[:6])
    dims = draw.sample(range(len(sizes)), len(sizes))
    cuts = [(draw.randint(0, size // 3), draw.choice([1, 1, 1, 2])) for size in sizes]
    cut = [draw.random() < 0.3 for _ in sizes]
    expanded = [draw.random() < 0.15 for _ in sizes]

    def of(x: Tensor) -> Tensor:
        for dim, (begin, step) in enumerate(cuts):
            if cut[dim]:
                x = x[(slice(None),) * dim + (slice(begin, None, step),)]
        x = x.permute(dims)
        shape = list(x.shape)
        for dim, one in enumerate(expanded):
            if one:
                x = x.narrow(dim, 0, min(1, shape[dim]))
        return x.expand(shape)

    return View(f"random-{sizes}", tuple(sizes), of)


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

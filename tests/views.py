"""Tensors as they may lie in memory, and the calls of each granularity for one of a shape."""

from __future__ import annotations

import functools
import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from samples import I8, I16, I32, U8, floats, integers, scales, zero_points
from torch import Tensor


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

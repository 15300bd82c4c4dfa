"""The elementwise works that are measured on CUDA, with what plain PyTorch does for the same.

A chosen part of `works`, each way with a fresh output, PyTorch's expressions as one would write
them, eager and compiled, and observing a histogram.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch
from check import Check, Results
from granularity import (
    PER_CHANNEL_0,
    PER_CHANNEL_1,
    PER_GROUP_128,
    PER_TENSOR,
    PER_TOKEN,
    Granularity,
)
from operands import Operands
from timing import Call
from torch import Tensor
from work import Read, Traffic, Way, Work
from works import WORKS, decomposed

from torchquant import ops

PLAIN, COMPILED = "plain torch", "plain torch, compiled"
_BINS = 1 << 15
_CODE_RANGE, _DYNAMIC_TENSOR_RANGE = decomposed.RANGE, (0, 255)
_BY_NAME = {work.name: work for work in WORKS}


@cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function as torch.compile makes it, in one piece or not at all."""
    return torch.compile(function, fullgraph=True, dynamic=False)


def compiled_way(way: Way) -> Way:
    """Return a way whose call is a function with arguments, compiled."""

    def bind(operands: Operands) -> Call:
        call = way.bind(operands)
        if not isinstance(call, partial):
            raise TypeError(f"{way.name} is no function with arguments")
        return partial(compiled(call.func), *call.args, **call.keywords)

    return replace(way, name=COMPILED, bind=bind)


def is_compiled(way: Way) -> bool:
    """Whether it takes seconds to prepare."""
    return way.name == COMPILED


# What one would write. Scales and zero points broadcast to x.


def _quantize(
    x: Tensor, scale: Tensor, zero_point: Tensor, low: int, high: int, dtype: torch.dtype
) -> Tensor:
    codes = torch.round(x.float() * (1.0 / scale)) + zero_point
    return codes.clamp(low, high).to(dtype)


def _dequantize(codes: Tensor, scale: Tensor, zero_point: Tensor, dtype: torch.dtype) -> Tensor:
    return ((codes.to(torch.int32) - zero_point).float() * scale).to(dtype)


def _choose(x: Tensor, dim: int | None, low: int, high: int) -> tuple[Tensor, Tensor]:
    """The dimension is kept, so that the results broadcast; None is all of them."""
    least, greatest = x.aminmax() if dim is None else x.aminmax(dim=dim, keepdim=True)
    least, greatest = least.float().clamp(max=0), greatest.float().clamp(min=0)
    scale = ((greatest - least) / (high - low)).clamp(min=2.0**-126)
    zero_point = (low - torch.round(least / scale)).clamp(low, high).to(torch.int32)
    return scale, zero_point


def _quantize_dynamic(
    x: Tensor, dim: int | None, low: int, high: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    scale, zero_point = _choose(x, dim, low, high)
    return _quantize(x, scale, zero_point, low, high, dtype), scale, zero_point


def _fake_quantize(x: Tensor, scale: Tensor, zero_point: Tensor, low: int, high: int) -> Tensor:
    codes = (torch.round(x.float() * (1.0 / scale)) + zero_point).clamp(low, high)
    return ((codes - zero_point) * scale).to(x.dtype)


def _backward(
    grad: Tensor, x: Tensor, scale: Tensor, zero_point: Tensor, low: int, high: int
) -> Tensor:
    codes = torch.round(x.float() * (1.0 / scale)) + zero_point
    return torch.where((codes >= low) & (codes <= high), grad, 0)


def _backward_with_scale(
    grad: Tensor,
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    low: int,
    high: int,
    dims: tuple[int, ...],
) -> tuple[Tensor, Tensor]:
    steps = x.float() * (1.0 / scale)
    rounded = torch.round(steps)
    codes = rounded + zero_point
    inside = (codes >= low) & (codes <= high)
    by_scale = torch.where(inside, rounded - steps, codes.clamp(low, high) - zero_point)
    return torch.where(inside, grad, 0), (grad.float() * by_scale).sum(dims)


def _count(x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Count in the bins of histogram_observe_, and find the range."""
    bins = (x.float().view(torch.int32) >> 17) & (_BINS - 1)
    return torch.bincount(bins.flatten(), minlength=_BINS), x.aminmax()


# Their arguments.


def _broadcast(
    granularity: Granularity, operands: Operands, values: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return a view of the values, and scales and zero points that broadcast to it."""
    scale, zero_point = operands.qparams(granularity)
    if granularity.suffix == "per_group":
        view, _ = granularity.sharing(values)
        return view, scale.unsqueeze(-1), zero_point.unsqueeze(-1)
    spread = partial(granularity.spread, shape=values.shape)
    return values, spread(scale), spread(zero_point)


def _bind_quantize(granularity: Granularity, operands: Operands) -> Call:
    arguments = _broadcast(granularity, operands, operands.real())
    return partial(_quantize, *arguments, *_CODE_RANGE, torch.int8)


def _bind_dequantize(granularity: Granularity, operands: Operands) -> Call:
    arguments = _broadcast(granularity, operands, operands.codes)
    return partial(_dequantize, *arguments, operands.dtype)


def _one_dim(granularity: Granularity, x: Tensor) -> tuple[Tensor, int | None]:
    """Return a view of a matrix x, and its one dimension that shares a scale; None for all."""
    view, dims = granularity.sharing(x)
    return view, None if granularity is PER_TENSOR else dims[0]


def _bind_choose(granularity: Granularity, operands: Operands) -> Call:
    return partial(_choose, *_one_dim(granularity, operands.real()), *_CODE_RANGE)


def _bind_dynamic(granularity: Granularity, operands: Operands) -> Call:
    is_tensor = granularity is PER_TENSOR
    ends, dtype = (_DYNAMIC_TENSOR_RANGE, torch.uint8) if is_tensor else (_CODE_RANGE, torch.int8)
    return partial(_quantize_dynamic, *_one_dim(granularity, operands.real()), *ends, dtype)


def _bind_fake_quantize(granularity: Granularity, operands: Operands) -> Call:
    arguments = _broadcast(granularity, operands, operands.real())
    return partial(_fake_quantize, *arguments, *_CODE_RANGE)


def _bind_backward(granularity: Granularity, operands: Operands) -> Call:
    arguments = _broadcast(granularity, operands, operands.real())
    return partial(_backward, operands.grad, *arguments, *_CODE_RANGE)


def _bind_backward_with_scale(granularity: Granularity, operands: Operands) -> Call:
    arguments = _broadcast(granularity, operands, operands.real())
    _, dims = granularity.sharing(operands.real())
    return partial(_backward_with_scale, operands.grad, *arguments, *_CODE_RANGE, dims)


# What they return, in the form of the works' checks.


def _read_codes(result: Tensor, operands: Operands) -> Results:
    return (result.view(operands.codes.shape),)


def _read_dynamic(
    result: tuple[Tensor, Tensor, Tensor], operands: Operands, granularity: Granularity
) -> Results:
    """Return the codes less their zero points, which may be one off."""
    codes, _, zero_point = result
    shape = operands.codes.shape
    less = codes.to(torch.int16) - zero_point.to(torch.int16)
    return (less.view(shape),)


# The works.


def _with_plain(
    work: Work, bind: Callable[[Granularity, Operands], Call], of: Granularity, read: Read
) -> Work:
    way = Way(PLAIN, partial(bind, of), read)
    return replace(work, ways=(*work.ways, way, compiled_way(way)))


def _with_compiled(work: Work) -> Work:
    """Compile what stands there as plain already."""
    plain = [way for way in work.ways if way.name.startswith(PLAIN)]
    return replace(work, ways=(*work.ways, *map(compiled_way, plain)))


def _quantizes(granularity: Granularity) -> Work:
    work = _BY_NAME[f"quantize {granularity.name}"]
    return _with_plain(work, _bind_quantize, granularity, _read_codes)


def _dequantizes(granularity: Granularity) -> Work:
    work = _BY_NAME[f"dequantize {granularity.name}"]
    return _with_plain(work, _bind_dequantize, granularity, _read_codes)


def _chooses(granularity: Granularity) -> Work:
    work = _BY_NAME[f"choose {granularity.name}"]
    return _with_plain(work, _bind_choose, granularity, work.ways[0].read)


def _dynamic(granularity: Granularity) -> Work:
    """The input counts once, also where it must be read twice."""
    work = _BY_NAME[f"quantize dynamic {granularity.name}"]
    work = replace(work, traffic=lambda itemsize: Traffic(itemsize, 1))
    read = partial(_read_dynamic, granularity=granularity)
    return _with_plain(work, _bind_dynamic, granularity, read)


def _fake_quantizes(granularity: Granularity) -> tuple[Work, ...]:
    binds = {
        f"fake-quantize {granularity.name}": _bind_fake_quantize,
        f"fake-quantize backward {granularity.name}": _bind_backward,
        f"fake-quantize backward with scale {granularity.name}": _bind_backward_with_scale,
    }
    return tuple(
        _with_plain(_BY_NAME[name], bind, granularity, _BY_NAME[name].ways[0].read)
        for name, bind in binds.items()
    )


def _counts(theirs: Results, ours: Results) -> float:
    return float((theirs[0].long() - ours[0].long()).abs().max())


_COUNTS = Check("counts", 0, "of a bin of the histogram, which are integers", _counts)


def _bind_histogram(operands: Operands) -> Call:
    """The state is the caller's, and observes once more at each call."""
    x = operands.real()
    counts = torch.zeros(_BINS, dtype=torch.int64, device=x.device)
    ends = torch.tensor([torch.inf, -torch.inf], device=x.device)

    def observe() -> tuple[Tensor, Tensor]:
        ops.histogram_observe_(counts, ends, x)
        return counts, ends

    return observe


def _nothing(_result: object, _operands: Operands) -> Results:
    return ()


def _first_counts(result: tuple[Tensor, object], _operands: Operands) -> Results:
    return (result[0].clone(),)


HISTOGRAM = Work(
    "histogram_observe_",
    (
        Way("ops.histogram_observe_", _bind_histogram, _first_counts, is_ours=True),
        Way("torch.bincount of the same bins", lambda x: partial(_count, x.real()), _first_counts),
        Way(
            "torch.histc, 2048 bins",
            lambda operands: partial(torch.histc, operands.real(), bins=2048),
            _nothing,
            note="linear bins between the ends",
        ),
        Way(
            "torch.aminmax",
            lambda operands: operands.real().aminmax,
            _nothing,
            note="the range alone",
        ),
    ),
    lambda itemsize: Traffic(itemsize, 0),
    _COUNTS,
)

_GRANULARITIES = (PER_TENSOR, PER_CHANNEL_0, PER_CHANNEL_1)
_CHOSEN: tuple[Work, ...] = (
    *map(_quantizes, (*_GRANULARITIES, PER_TOKEN, PER_GROUP_128)),
    *map(_dequantizes, _GRANULARITIES),
    *map(_dynamic, (PER_TENSOR, PER_TOKEN, PER_GROUP_128)),
    *map(_chooses, (*_GRANULARITIES, PER_TOKEN)),
    *(work for granularity in _GRANULARITIES for work in _fake_quantizes(granularity)),
    *map(_with_compiled, (_BY_NAME[name] for name in ("quantization_error",))),
    *map(_with_compiled, (_BY_NAME[f"{verb} 4 bits"] for verb in ("pack", "unpack"))),
    HISTOGRAM,
)
_MAIN = {
    "quantize per tensor",
    "quantize per channel 0",
    "quantize per token",
    "dequantize per tensor",
    "quantize dynamic per token",
    "quantize dynamic per group of 128",
    "choose per tensor",
    "fake-quantize per tensor",
    "fake-quantize backward per tensor",
    "quantization_error",
    "histogram_observe_",
}


def _on_cuda(work: Work) -> Work:
    fresh = tuple(way for way in work.ways if way.output == "fresh")
    return replace(work, ways=fresh, is_main=work.name in _MAIN)


CUDA_WORKS = tuple(map(_on_cuda, _CHOSEN))

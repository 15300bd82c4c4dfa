"""Real values to int8 codes, with given scales and zero points."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from check import CODES, Results
from granularity import (
    GRANULARITIES,
    PER_CHANNEL_0,
    PER_GROUP_32,
    PER_TENSOR,
    PER_TOKEN,
    Granularity,
)
from operands import MATRIX, Layout, Operands
from torch import Tensor
from work import Traffic, Way, Work, ours

from torchquant import ops
from works import decomposed

_MAIN = (PER_TENSOR, PER_CHANNEL_0, PER_TOKEN, PER_GROUP_32)


def _integers(quantized: Tensor, operands: Operands) -> Results:
    """Return the codes of a tensor of a quantized dtype, which may be a view of rows."""
    codes = quantized.int_repr()
    return (codes if codes.dim() > 2 else codes.reshape(operands.real().shape),)


def bind_ours(granularity: Granularity, layout: Layout, operands: Operands) -> partial[Any]:
    """Return a call of ours, with a fresh output."""
    return partial(
        getattr(ops, f"quantize_{granularity.suffix}"),
        operands.real(layout),
        *operands.qparams(granularity, layout),
        *granularity.arguments,
        *decomposed.RANGE,
        torch.int8,
    )


def _bind_torch(granularity: Granularity, layout: Layout, operands: Operands) -> partial[Any]:
    """Return a call of what gives quantized dtypes; rows and groups are its channels."""
    scale, zero_point = operands.qparams(granularity, layout)
    if granularity is PER_TENSOR:
        arguments = (scale.item(), zero_point.item(), torch.qint8)
        return partial(torch.quantize_per_tensor, operands.real(layout), *arguments)
    channels, axis = granularity.as_channels(operands.real(layout))
    qparams = (scale.flatten(), zero_point.flatten())
    return partial(torch.quantize_per_channel, channels, *qparams, axis, torch.qint8)


def _operator(granularity: Granularity) -> str:
    """Return the name of what gives quantized dtypes."""
    return "quantize_per_tensor" if granularity is PER_TENSOR else "quantize_per_channel"


def _bind_aten_out(granularity: Granularity, operands: Operands) -> partial[Any]:
    call = _bind_torch(granularity, MATRIX, operands)
    operator = getattr(torch.ops.aten, _operator(granularity)).out
    return partial(operator, *call.args, out=torch.empty_like(call()))


def peers(granularity: Granularity, layout: Layout = MATRIX) -> tuple[Way, ...]:
    """Return the peers with a fresh output."""
    bind = partial(_bind_torch, granularity, layout)
    return (
        Way(f"torch.{_operator(granularity)}", bind, _integers),
        Way(
            decomposed.name_of("quantize", granularity),
            lambda operands: decomposed.bind(
                "quantize",
                granularity,
                operands.real(layout),
                operands.qparams(granularity, layout),
            ),
        ),
    )


def _work(granularity: Granularity) -> Work:
    ways = ours(
        f"ops.quantize_{granularity.suffix}",
        partial(bind_ours, granularity, MATRIX),
        lambda operands: torch.empty_like(operands.codes),
    )
    into_out = Way(
        f"aten::{_operator(granularity)}.out",
        partial(_bind_aten_out, granularity),
        _integers,
        "out",
    )
    return Work(
        f"quantize {granularity.name}",
        (*ways, *peers(granularity), into_out),
        lambda itemsize: Traffic(itemsize, 1),
        CODES,
        is_main=granularity in _MAIN,
    )


QUANTIZE = tuple(map(_work, GRANULARITIES))

"""int8 codes to real values, with given scales and zero points."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from check import ULPS, Results
from granularity import GRANULARITIES, PER_CHANNEL_0, PER_GROUP_32, PER_TENSOR, Granularity
from operands import Operands
from torch import Tensor
from work import Traffic, Way, Work, ours

from torchquant import ops
from works import decomposed

_MAIN = (PER_TENSOR, PER_CHANNEL_0, PER_GROUP_32)


def _bind_ours(granularity: Granularity, operands: Operands) -> partial[Any]:
    return partial(
        getattr(ops, f"dequantize_{granularity.suffix}"),
        operands.codes,
        *operands.qparams(granularity),
        *granularity.arguments,
        out_dtype=operands.dtype,
    )


def _quantized(granularity: Granularity, operands: Operands) -> Tensor:
    """Return the codes as a tensor of a quantized dtype, of which float32 can be made."""
    if operands.dtype != torch.float32:
        raise TypeError("Tensor.dequantize gives float32 only")
    scale, zero_point = operands.qparams(granularity)
    if granularity is PER_TENSOR:
        return torch._make_per_tensor_quantized_tensor(
            operands.codes, scale.item(), int(zero_point.item())
        )
    channels, axis = granularity.as_channels(operands.codes)
    return torch._make_per_channel_quantized_tensor(
        channels, scale.flatten(), zero_point.flatten(), axis
    )


def _matrix(values: Tensor, operands: Operands) -> Results:
    return (values.view(operands.codes.shape),)


def _bind_aten_out(granularity: Granularity, operands: Operands) -> partial[Any]:
    quantized = _quantized(granularity, operands)
    out = torch.empty(quantized.shape)
    return partial(torch.ops.aten.dequantize.self_out, quantized, out=out)


def _work(granularity: Granularity) -> Work:
    ways = ours(
        f"ops.dequantize_{granularity.suffix}",
        partial(_bind_ours, granularity),
        lambda operands: torch.empty_like(operands.real()),
    )
    peers = (
        Way(
            "Tensor.dequantize",
            lambda operands: _quantized(granularity, operands).dequantize,
            _matrix,
        ),
        Way(
            decomposed.name_of("dequantize", granularity),
            lambda operands: decomposed.bind(
                "dequantize",
                granularity,
                operands.codes,
                operands.qparams(granularity),
                operands.dtype,
            ),
        ),
        Way("aten::dequantize.self_out", partial(_bind_aten_out, granularity), _matrix, "out"),
    )
    return Work(
        f"dequantize {granularity.name}",
        (*ways, *peers),
        lambda itemsize: Traffic(1, itemsize),
        ULPS,
        is_main=granularity in _MAIN,
    )


DEQUANTIZE = tuple(map(_work, GRANULARITIES))

"""Scales and zero points from ranges: int8 [-128, 127] affine, [-127, 127] symmetric."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from check import QPARAMS, Results
from granularity import GRANULARITIES, PER_GROUP_32, PER_TENSOR, PER_TOKEN, Granularity
from operands import CHANNELS_LAST, MATRIX, Layout, Operands
from timing import Call
from torch import Tensor
from torch.ao.quantization.observer import MinMaxObserver, PerChannelMinMaxObserver
from work import Read, Traffic, Way, Work, ours

from torchquant import ops
from works import decomposed

_SYMMETRIC_RANGE = (-127, 127)
_MAIN = (PER_TENSOR, PER_TOKEN, PER_GROUP_32)
_EPS = 2.0**-126
_RANGE_ALONE = "the range alone"


def bind_ours(
    granularity: Granularity, layout: Layout, symmetric: bool, operands: Operands
) -> partial[Any]:
    """Return a call of ours."""
    return partial(
        getattr(ops, f"choose_qparams_{granularity.suffix}"),
        operands.real(layout),
        *granularity.arguments,
        *(_SYMMETRIC_RANGE if symmetric else decomposed.RANGE),
        symmetric,
    )


def _of_range(symmetric: bool) -> Read:
    """Return what makes scale and zero point of a least and a greatest value."""

    def read(ends: tuple[Tensor, Tensor], _operands: Operands) -> Results:
        low, high = ends[0].double().clamp(max=0), ends[1].double().clamp(min=0)
        if symmetric:
            scale = torch.maximum(-low, high) / _SYMMETRIC_RANGE[1]
            return scale, torch.zeros_like(scale)
        scale = (high - low) / (decomposed.RANGE[1] - decomposed.RANGE[0])
        return scale, decomposed.RANGE[0] - (low / scale).round()

    return read


def _bind_aminmax(granularity: Granularity, layout: Layout, operands: Operands) -> Call:
    x, dims = granularity.sharing(operands.real(layout))
    return x.aminmax if granularity is PER_TENSOR else partial(x.aminmax, dim=dims[0])


def _bind_amin_amax(granularity: Granularity, layout: Layout, operands: Operands) -> Call:
    x, dims = granularity.sharing(operands.real(layout))
    return lambda: (x.amin(dims), x.amax(dims))


def _bind_observer(
    granularity: Granularity, layout: Layout, symmetric: bool, operands: Operands
) -> Call:
    """Return a call that observes once more what it has seen, which changes nothing."""
    low, high = _SYMMETRIC_RANGE if symmetric else decomposed.RANGE
    scheme = "symmetric" if symmetric else "affine"
    options = {
        "dtype": torch.qint8,
        "quant_min": low,
        "quant_max": high,
        "qscheme": getattr(torch, f"{granularity.suffix}_{scheme}"),
    }
    x = operands.real(layout)
    if granularity is PER_TENSOR:
        observer = MinMaxObserver(**options)
    else:
        observer = PerChannelMinMaxObserver(*granularity.arguments, **options)
    observer.to(x.device)

    def observe() -> object:
        observer(x)
        return observer.calculate_qparams()

    return observe


def _bind_aten(layout: Layout, operands: Operands) -> Call:
    # reduce_range=False
    return partial(torch.ops.aten._choose_qparams_per_tensor, operands.real(layout), False)


def _signed(qparams: tuple[float, int], _operands: Operands) -> Results:
    """Return qparams of uint8 as those of int8."""
    return torch.tensor(qparams[0]), torch.tensor(qparams[1] - 128)


def _per_tensor_peers(layout: Layout, symmetric: bool) -> tuple[Way, ...]:
    chosen = torch.ops.quantized_decomposed
    operator = chosen.choose_qparams_symmetric if symmetric else chosen.choose_qparams
    ends = _SYMMETRIC_RANGE if symmetric else decomposed.RANGE
    exported = Way(
        f"quantized_decomposed::{operator.__name__}",
        lambda operands: partial(operator, operands.real(layout), *ends, _EPS, torch.int8),
    )
    if symmetric:
        return (exported,)
    return exported, Way("aten::_choose_qparams_per_tensor", partial(_bind_aten, layout), _signed)


def peers(
    granularity: Granularity, layout: Layout = MATRIX, symmetric: bool = False
) -> tuple[Way, ...]:
    """Return the peers: what finds ranges, and what also makes scales of them."""
    ways = [
        Way(
            "Tensor.amin, Tensor.amax",
            partial(_bind_amin_amax, granularity, layout),
            _of_range(symmetric),
            note=_RANGE_ALONE,
        )
    ]
    if granularity is PER_TENSOR or layout is not CHANNELS_LAST:  # it takes one dimension, or all
        aminmax = partial(_bind_aminmax, granularity, layout)
        ways.append(Way("torch.aminmax", aminmax, _of_range(symmetric), note=_RANGE_ALONE))
    if granularity.suffix in ("per_tensor", "per_channel"):
        kind = "MinMax" if granularity is PER_TENSOR else "PerChannelMinMax"
        bind = partial(_bind_observer, granularity, layout, symmetric)
        ways.append(Way(f"torch.ao {kind}Observer", bind))
    if granularity is PER_TENSOR:
        ways += _per_tensor_peers(layout, symmetric)
    if granularity is PER_TOKEN:
        operator = torch.ops.quantized_decomposed.choose_qparams_per_token_asymmetric
        ways.append(
            Way(
                "quantized_decomposed::choose_qparams_per_token_asymmetric",
                lambda operands: partial(operator, operands.real(), torch.int8),
            )
        )
    return tuple(ways)


def _work(granularity: Granularity, symmetric: bool = False) -> Work:
    way = ours(
        f"ops.choose_qparams_{granularity.suffix}",
        partial(bind_ours, granularity, MATRIX, symmetric),
    )
    return Work(
        f"choose {granularity.name}{', symmetric' if symmetric else ''}",
        (*way, *peers(granularity, MATRIX, symmetric)),
        lambda itemsize: Traffic(itemsize, 0),
        QPARAMS,
        is_main=granularity in _MAIN and not symmetric,
    )


CHOOSE = (_work(PER_TENSOR, symmetric=True), *map(_work, GRANULARITIES))

"""Choosing and quantizing in one call, affine."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from check import CODES, Results
from granularity import PER_GROUP_32, PER_GROUP_128, PER_TENSOR, PER_TOKEN, Granularity
from operands import Operands
from timing import Call
from torch import Tensor
from work import Bind, Traffic, Way, Work, ours

from torchquant import ops
from works import decomposed

_UNSIGNED_RANGE = (0, 255)  # that of torch.quantize_per_tensor_dynamic


def _bind_ours(granularity: Granularity, operands: Operands) -> partial[Any]:
    is_unsigned = granularity is PER_TENSOR
    return partial(
        getattr(ops, f"quantize_dynamic_{granularity.suffix}"),
        operands.real(),
        *granularity.arguments,
        *(_UNSIGNED_RANGE if is_unsigned else decomposed.RANGE),
        False,  # symmetric
        torch.uint8 if is_unsigned else torch.int8,
    )


def _from_zero_point(codes: Tensor, zero_point: Tensor, granularity: Granularity) -> Results:
    """Return the codes less their zero points, which peers may choose one off."""
    return (codes.to(torch.int16) - granularity.spread(zero_point, codes.shape).to(torch.int16),)


def _read(
    granularity: Granularity, result: tuple[Tensor, Tensor, Tensor], _operands: Operands
) -> Results:
    return _from_zero_point(result[0], result[2], granularity)


def _read_quantized(quantized: Tensor, _operands: Operands) -> Results:
    zero_point = torch.tensor(quantized.q_zero_point())
    return _from_zero_point(quantized.int_repr(), zero_point, PER_TENSOR)


def _torch(operands: Operands) -> Call:
    # reduce_range=False
    return partial(torch.quantize_per_tensor_dynamic, operands.real(), torch.quint8, False)


def _decomposed_per_tensor(operands: Operands) -> Call:
    x, operators = operands.real(), torch.ops.quantized_decomposed
    choice = (*_UNSIGNED_RANGE, 2.0**-126, torch.uint8)

    def call() -> object:
        scale, zero_point = operators.choose_qparams(x, *choice)
        codes = operators.quantize_per_tensor(x, scale, zero_point, *_UNSIGNED_RANGE, torch.uint8)
        return codes, scale, zero_point

    return call


def _decomposed_per_token(operands: Operands) -> Call:
    x, operators = operands.real(), torch.ops.quantized_decomposed
    choose, quantize = operators.choose_qparams_per_token_asymmetric, operators.quantize_per_token

    def call() -> object:
        scale, zero_point = choose(x, torch.int8)
        return quantize(x, scale, zero_point, *decomposed.RANGE, torch.int8), scale, zero_point

    return call


def _decomposed_per_group(granularity: Granularity, operands: Operands) -> Call:
    """There is no operator that chooses, so that plain ones do."""
    x, dims = granularity.sharing(operands.real())
    low, high = decomposed.RANGE

    def call() -> object:
        least, greatest = x.amin(dims).clamp(max=0).float(), x.amax(dims).clamp(min=0).float()
        scale = (greatest - least).div_(high - low)
        zero_point = (low - (least / scale).round_()).clamp_(low, high).to(torch.int32)
        qparams = (scale, zero_point)
        return decomposed.bind("quantize", granularity, operands.real(), qparams)(), *qparams

    return call


def _work(granularity: Granularity, peers: tuple[Way, ...]) -> Work:
    way = ours(
        f"ops.quantize_dynamic_{granularity.suffix}",
        partial(_bind_ours, granularity),
        read=partial(_read, granularity),
    )
    passes = 2 if granularity is PER_TENSOR else 1
    return Work(
        f"quantize dynamic {granularity.name}",
        (*way, *peers),
        lambda itemsize: Traffic(passes * itemsize, 1),
        CODES,
        is_main=granularity in (PER_TENSOR, PER_TOKEN, PER_GROUP_32),
    )


def _chosen(granularity: Granularity, name: str, bind: Bind) -> Way:
    return Way(f"{name} + quantize", bind, partial(_read, granularity))


_DECOMPOSED = "quantized_decomposed::choose_qparams"

DYNAMIC = (
    _work(
        PER_TENSOR,
        (
            Way("torch.quantize_per_tensor_dynamic", _torch, _read_quantized),
            _chosen(PER_TENSOR, _DECOMPOSED, _decomposed_per_tensor),
        ),
    ),
    _work(
        PER_TOKEN,
        (_chosen(PER_TOKEN, f"{_DECOMPOSED}_per_token_asymmetric", _decomposed_per_token),),
    ),
    *(
        _work(each, (_chosen(each, "plain torch choice", partial(_decomposed_per_group, each)),))
        for each in (PER_GROUP_32, PER_GROUP_128)
    ),
)

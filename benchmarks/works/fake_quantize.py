"""Fake quantization forward, and backward without and with the gradient of the scale."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from check import CODES, GRADIENT, GRADIENTS, Results
from granularity import PER_CHANNEL_0, PER_CHANNEL_1, PER_TENSOR, Granularity
from operands import Operands
from timing import Call
from torch import Tensor
from work import Traffic, Way, Work, ours

from torchquant import ops
from works import decomposed

_WRITES_MASK = "also writes a mask of bytes"
_READS_MASK = "reads a mask of bytes, which forward wrote, in place of the input"


def _bind_ours(granularity: Granularity, operands: Operands) -> partial[Any]:
    return partial(
        getattr(ops, f"fake_quantize_{granularity.suffix}"),
        operands.real(),
        *operands.qparams(granularity),
        *granularity.arguments,
        *decomposed.RANGE,
    )


def _codes(granularity: Granularity, values: Tensor, operands: Operands) -> Results:
    """Return the codes that the values stand for, less the zero point."""
    scale = granularity.spread(operands.qparams(granularity)[0], values.shape)
    return (values.float().div(scale).round_().to(torch.int16),)


def _affine_arguments(granularity: Granularity, operands: Operands) -> tuple[object, ...]:
    """Return the arguments of torch.fake_quantize_*_affine."""
    scale, zero_point = operands.qparams(granularity)
    if granularity is PER_TENSOR:
        qparams: tuple[object, ...] = (scale.item(), zero_point.item())
    else:
        qparams = (scale, zero_point, *granularity.arguments)
    return (operands.real(), *qparams, *decomposed.RANGE)


def _bind_affine(granularity: Granularity, operands: Operands) -> Call:
    operator = getattr(torch, f"fake_quantize_{granularity.suffix}_affine")
    return partial(operator, *_affine_arguments(granularity, operands))


def _bind_cachemask_out(granularity: Granularity, operands: Operands) -> Call:
    operator = getattr(torch.ops.aten, f"fake_quantize_{granularity.suffix}_affine_cachemask").out
    outs = {
        "out0": torch.empty_like(operands.real()),
        "out1": torch.empty_like(operands.real(), dtype=torch.bool),
    }
    return partial(operator, *_affine_arguments(granularity, operands), **outs)


def _learnable_arguments(granularity: Granularity, operands: Operands) -> tuple[object, ...]:
    """Return the arguments of torch._fake_quantize_learnable_*, whose zero points are floats."""
    scale, zero_point = operands.qparams(granularity)
    qparams = (scale.reshape(-1), zero_point.float().reshape(-1))
    return (operands.real(), *qparams, *granularity.arguments, *decomposed.RANGE)


def _bind_learnable(granularity: Granularity, operands: Operands) -> Call:
    operator = getattr(torch, f"_fake_quantize_learnable_{granularity.suffix}_affine")
    return partial(operator, *_learnable_arguments(granularity, operands))


def _codes_of_first(granularity: Granularity, results: Results, operands: Operands) -> Results:
    return _codes(granularity, results[0], operands)


def _forward(granularity: Granularity) -> Work:
    name = f"fake_quantize_{granularity.suffix}"
    read, read_first = partial(_codes, granularity), partial(_codes_of_first, granularity)
    bind, bind_affine = partial(_bind_ours, granularity), partial(_bind_affine, granularity)
    into_out = Way(
        f"aten::{name}_affine_cachemask.out",
        partial(_bind_cachemask_out, granularity),
        read_first,
        "out",
        note=_WRITES_MASK,
    )
    learnable = Way(
        f"torch._fake_quantize_learnable_{granularity.suffix}_affine",
        partial(_bind_learnable, granularity),
        read,
    )
    return Work(
        f"fake-quantize {granularity.name}",
        (
            *ours(f"ops.{name}", bind, lambda operands: torch.empty_like(operands.real()), read),
            Way(f"torch.{name}_affine", bind_affine, read, note=_WRITES_MASK),
            learnable,
            into_out,
        ),
        lambda itemsize: Traffic(itemsize, itemsize),
        CODES,
        is_main=granularity is not PER_CHANNEL_1,
    )


def _bind_our_backward(
    granularity: Granularity, scale_requires_grad: bool, operands: Operands
) -> partial[Any]:
    return partial(
        getattr(torch.ops.torchquant, f"fake_quantize_{granularity.suffix}_backward"),
        operands.grad,
        operands.real(),
        *operands.qparams(granularity),
        *granularity.arguments,
        *decomposed.RANGE,
        scale_requires_grad,
    )


def _bind_mask_backward(granularity: Granularity, operands: Operands) -> Call:
    name = f"fake_quantize_{granularity.suffix}_affine_cachemask"
    aten = torch.ops.aten
    _, mask = getattr(aten, name)(*_affine_arguments(granularity, operands))
    return partial(getattr(aten, f"{name}_backward"), operands.grad, mask)


def _bind_learnable_backward(granularity: Granularity, operands: Operands) -> Call:
    name = f"_fake_quantize_learnable_{granularity.suffix}_affine_backward"
    arguments = _learnable_arguments(granularity, operands)
    return partial(getattr(torch.ops.aten, name), operands.grad, *arguments)


def _gradient(result: Tensor | Results, _operands: Operands) -> Results:
    """Return the gradient of the input alone."""
    return (result if isinstance(result, Tensor) else result[0],)


def _gradients(results: Results, _operands: Operands) -> Results:
    """Return the gradients of the input and the scale."""
    return results[0], results[1]


def _backward(granularity: Granularity) -> Work:
    name = f"fake_quantize_{granularity.suffix}"
    mask = Way(
        f"aten::{name}_affine_cachemask_backward",
        partial(_bind_mask_backward, granularity),
        note=_READS_MASK,
    )
    bind = partial(_bind_our_backward, granularity, False)
    return Work(
        f"fake-quantize backward {granularity.name}",
        (*ours(f"torchquant::{name}_backward", bind, read=_gradient), mask),
        lambda itemsize: Traffic(2 * itemsize, itemsize),
        GRADIENT,
        is_main=granularity is not PER_CHANNEL_1,
    )


def _backward_of_scale(granularity: Granularity) -> Work:
    learnable = Way(
        f"aten::_fake_quantize_learnable_{granularity.suffix}_affine_backward",
        partial(_bind_learnable_backward, granularity),
        _gradients,
        note="and the zero point's gradient",
    )
    name = f"torchquant::fake_quantize_{granularity.suffix}_backward"
    bind = partial(_bind_our_backward, granularity, True)
    return Work(
        f"fake-quantize backward with scale {granularity.name}",
        (*ours(name, bind, read=_gradients), learnable),
        lambda itemsize: Traffic(2 * itemsize, itemsize),
        GRADIENTS,
        is_main=granularity is not PER_CHANNEL_1,
    )


_GRANULARITIES = (PER_TENSOR, PER_CHANNEL_0, PER_CHANNEL_1)

FAKE_QUANTIZE = (
    *map(_forward, _GRANULARITIES),
    *map(_backward, _GRANULARITIES),
    *map(_backward_of_scale, _GRANULARITIES),
)

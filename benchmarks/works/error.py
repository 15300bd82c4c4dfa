"""What quantization costs in accuracy, in one pass or in several."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from check import SUMS
from operands import Operands
from timing import Call
from torch import Tensor
from work import Traffic, Way, Work, ours

from torchquant import ops


def _bind_ours(operands: Operands) -> partial[Any]:
    return partial(ops.quantization_error, operands.real(), operands.approximation)


def _plain(original: Tensor, approximation: Tensor) -> Tensor:
    """The same formulas in float32."""
    x = original.float()
    error = x - approximation.float()
    magnitude, square = error.abs(), error.square()
    ratio = x.square().sum() / square.sum()
    return torch.stack((magnitude.max(), magnitude.mean(), square.mean(), 10 * ratio.log10()))


def _bind_plain(operands: Operands) -> Call:
    return partial(_plain, operands.real(), operands.approximation)


ERROR = Work(
    "quantization_error",
    (*ours("ops.quantization_error", _bind_ours), Way("plain torch operations", _bind_plain)),
    lambda itemsize: Traffic(2 * itemsize, 0),
    SUMS,
    is_main=True,
)

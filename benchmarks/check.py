"""How far a peer's result may be from ours: no further than its rounding explains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Results = tuple[Tensor, ...]


@dataclass(frozen=True)
class Check:
    """A distance between results, and the greatest that is not called wrong.

    Attributes:
        unit: What the distance counts.
        meaning: Of what, and why there may be any.
        distance: Of a peer's results from ours.
    """

    unit: str
    tolerance: float
    meaning: str
    distance: Callable[[Results, Results], float]


def _greatest(values: Tensor) -> float:
    return float(values.max()) if values.numel() else 0.0


def _codes(theirs: Results, ours: Results) -> float:
    return _greatest((theirs[0].to(torch.int16) - ours[0].to(torch.int16)).abs())


def _qparams(theirs: Results, ours: Results) -> float:
    """By how many codes a value at the end of the range would move."""
    (scale, zero_point), (our_scale, our_zero_point) = theirs, ours
    of_scale = 255 * (scale.reshape_as(our_scale) / our_scale - 1).abs()
    of_zero_point = (zero_point.reshape_as(our_zero_point) - our_zero_point).abs()
    return max(_greatest(of_scale), _greatest(of_zero_point))


def _ulps(theirs: Results, ours: Results) -> float:
    """In units of the last place of the greatest value."""
    difference = _greatest((theirs[0].float() - ours[0].float()).abs())
    return difference / (_greatest(ours[0].abs()) * torch.finfo(ours[0].dtype).eps)


def _share(theirs: Tensor, ours: Tensor) -> float:
    return float((theirs != ours).float().mean())


def _relative(theirs: Tensor, ours: Tensor) -> float:
    return float((theirs.double() - ours.double()).norm() / ours.double().norm())


def _shares(theirs: Results, ours: Results) -> float:
    return _share(theirs[0], ours[0])


def _shares_and_sums(theirs: Results, ours: Results) -> float:
    return max(_share(theirs[0], ours[0]), _relative(theirs[1].reshape_as(ours[1]), ours[1]))


def _sums(theirs: Results, ours: Results) -> float:
    return _relative(theirs[0], ours[0])


EXACT = Check("codes", 0, "of packed bits, which are moved and not rounded", _codes)
CODES = Check(
    "codes",
    1,
    "or of the codes that fake-quantized values stand for: peers add the zero point before they "
    "round, or divide by the scale",
    _codes,
)
QPARAMS = Check(
    "codes",
    1,
    "by which a scale moves the ends of the range, and of zero points: peers compute them in "
    "float32, or in the dtype of the input",
    _qparams,
)
ULPS = Check("ulps", 2, "of the greatest value: peers fuse multiplication and addition", _ulps)
GRADIENT = Check(
    "share",
    1e-4,
    "of the elements that differ: peers round otherwise at the ends of the range",
    _shares,
)
GRADIENTS = Check(
    "share",
    1e-2,
    "the same, or of the norm of the scales' gradients, which peers sum in float32",
    _shares_and_sums,
)
SUMS = Check("relative", 1e-4, "to the norm: peers sum in float32", _sums)

"""What shares a scale and a zero point: a tensor, a slice of an axis, a row, a part of a row."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Granularity:
    """One of them.

    Attributes:
        name: As it ends a work's name.
        suffix: As it ends an operator's name.
        arguments: Of the operators, between zero point and range: an axis or a group size.
    """

    name: str
    suffix: str
    arguments: tuple[int, ...] = ()

    def qparams_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the scales of a tensor of that shape."""
        if self.suffix == "per_tensor":
            return ()
        if self.suffix == "per_channel":
            return (shape[self.arguments[0]],)
        size = self.arguments[0] if self.suffix == "per_group" else shape[-1]
        return (*shape[:-1], math.ceil(shape[-1] / size))

    def spread(self, qparams: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return the scales or zero points so that they broadcast to the shape."""
        if self.suffix == "per_channel":
            axis = self.arguments[0]
            return qparams.view([size if dim == axis else 1 for dim, size in enumerate(shape)])
        if self.suffix == "per_group":
            return qparams.repeat_interleave(self.arguments[0], dim=-1)[..., : shape[-1]]
        return qparams

    def sharing(self, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """Return a view of x, and its dimensions over which one scale is shared."""
        if self.suffix == "per_tensor":
            return x, tuple(range(x.dim()))
        if self.suffix == "per_channel":
            return x, tuple(dim for dim in range(x.dim()) if dim != self.arguments[0])
        if self.suffix == "per_group":
            return x.reshape((*x.shape[:-1], -1, self.arguments[0])), (x.dim(),)
        return x, (x.dim() - 1,)

    def as_channels(self, x: Tensor) -> tuple[Tensor, int]:
        """Return a view of a matrix x with one scale for each slice of an axis, and the axis."""
        if self.suffix == "per_channel":
            return x, self.arguments[0]
        if self.suffix == "per_group":
            return x.reshape(-1, self.arguments[0]), 0
        return x, 0


PER_TENSOR = Granularity("per tensor", "per_tensor")
PER_CHANNEL_0 = Granularity("per channel 0", "per_channel", (0,))
PER_CHANNEL_1 = Granularity("per channel 1", "per_channel", (1,))
PER_TOKEN = Granularity("per token", "per_token")
PER_GROUP_32 = Granularity("per group of 32", "per_group", (32,))
PER_GROUP_128 = Granularity("per group of 128", "per_group", (128,))

GRANULARITIES = (
    PER_TENSOR,
    PER_CHANNEL_0,
    PER_CHANNEL_1,
    PER_TOKEN,
    PER_GROUP_32,
    PER_GROUP_128,
)

"""What elementwise works read: tensors of a size and a dtype, in layouts, made when first used."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from granularity import Granularity
from torch import Tensor

# Normal values saturate at 3 deviations, some 0.3 % of them, where the scale is the mean one.
_MEAN_SCALE = 6 / 255


@dataclass(frozen=True, order=True)
class Size:
    """That of a matrix."""

    rows: int
    columns: int

    @classmethod
    def parse(cls, text: str) -> Size:
        """Read "ROWSxCOLUMNS" from a command line."""
        found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
        if not found:
            raise argparse.ArgumentTypeError(
                f"a size is ROWSxCOLUMNS, two positive numbers, but this is {text!r}"
            )
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.rows}x{self.columns}"


@dataclass(frozen=True)
class Layout:
    """How a tensor lies in memory.

    Attributes:
        name: As it ends a work's name; empty for the usual one.
        arrange: Returns a view of values that lie in a row, as many as a size has.
    """

    name: str
    arrange: Callable[[Tensor, Size], Tensor]


def _matrix(values: Tensor, size: Size) -> Tensor:
    return values.view(size.rows, size.columns)


def _transposed(values: Tensor, size: Size) -> Tensor:
    return values.view(size.columns, size.rows).t()


def _channels_last(values: Tensor, size: Size) -> Tensor:
    """A weight of 3 x 3 kernels `[rows, columns // 9, 3, 3]`, the channels next to each other."""
    channels = max(1, size.columns // 9)
    return values[: size.rows * 9 * channels].view(size.rows, 3, 3, channels).permute(0, 3, 1, 2)


MATRIX = Layout("", _matrix)
TRANSPOSED = Layout("transposed", _transposed)
CHANNELS_LAST = Layout("channels_last", _channels_last)


class Operands:
    """Tensors of a size and a dtype on a device, the same in every run, others for each seed.

    What is drawn on another device than it lies on has the same bits on both.
    """

    def __init__(
        self,
        size: Size,
        dtype: torch.dtype,
        device: str | torch.device = "cpu",
        *,
        seed: int = 0,
        drawn_on: str | torch.device | None = None,
    ) -> None:
        self.size = size
        self.dtype = dtype
        self.device = torch.device(device)
        self._drawn_on = torch.device(drawn_on or device)
        self._seed = seed

    def _random(self, subject: int) -> dict[str, Any]:
        """Return what a drawing function is to be told, for each subject another sequence."""
        generator = torch.Generator(self._drawn_on).manual_seed(1000 * self._seed + subject)
        return {"generator": generator, "device": self._drawn_on}

    @cached_property
    def _drawn(self) -> Tensor:
        count = self.size.rows * self.size.columns
        return torch.randn(count, **self._random(0)).to(self.dtype)

    @cached_property
    def _values(self) -> Tensor:
        return self._drawn.to(self.device)

    def real(self, layout: Layout = MATRIX) -> Tensor:
        """Return normal values, in that layout."""
        return layout.arrange(self._values, self.size)

    @cached_property
    def approximation(self) -> Tensor:
        """The values, rounded to multiples of a scale."""
        values = _matrix(self._drawn, self.size).float()
        rounded = values.div(_MEAN_SCALE).round().mul(_MEAN_SCALE)
        return rounded.to(self.dtype).to(self.device)

    @cached_property
    def grad(self) -> Tensor:
        """A gradient by a result of the matrix's shape."""
        size = (self.size.rows, self.size.columns)
        return torch.randn(size, **self._random(1)).to(self.dtype).to(self.device)

    @cached_property
    def codes(self) -> Tensor:
        """All of int8."""
        size = (self.size.rows, self.size.columns)
        codes = torch.randint(-128, 128, size, dtype=torch.int8, **self._random(2))
        return codes.to(self.device)

    def qparams(self, granularity: Granularity, layout: Layout = MATRIX) -> tuple[Tensor, Tensor]:
        """Return scales and zero points that suit the values."""
        shape = granularity.qparams_shape(self.real(layout).shape)
        random = self._random(3)
        scale = torch.rand(shape, **random).add(0.5).mul(_MEAN_SCALE)
        zero_point = torch.randint(-10, 11, shape, dtype=torch.int32, **random)
        return scale.to(self.device), zero_point.to(self.device)

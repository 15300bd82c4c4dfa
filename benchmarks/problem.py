"""What is multiplied: shapes, and operands that use the whole 8-bit ranges."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

INPUT_SCALE = 0.02
INPUT_ZERO_POINT = 119

Operands = Literal["real", "static", "signed", "unsigned"]


@dataclass(frozen=True, order=True)
class Shape:
    """An `[m, k]` input by an `[n, k]` weight."""

    m: int
    k: int
    n: int

    @classmethod
    def parse(cls, text: str) -> Shape:
        """Read "M,K,N" from a command line."""
        sizes = text.split(",")
        if len(sizes) != 3 or not all(size.isdecimal() and int(size) > 0 for size in sizes):
            raise argparse.ArgumentTypeError(
                f"a shape is M,K,N, three positive numbers, but this is {text!r}"
            )
        return cls(*map(int, sizes))

    def __str__(self) -> str:
        return f"{self.m} x {self.k} x {self.n}"

    @property
    def operations(self) -> int:
        """Two to a multiply-add."""
        return 2 * self.m * self.k * self.n


class Inputs:
    """What the layers of a call share, in each form that a contender takes, the same for a seed.

    Attributes:
        real: A float input, by its dtype.
        codes: A quantized input.
        signed_codes: The uint8 codes less 128, in int8.
        static: The float32 input that the uint8 codes stand for.
    """

    def __init__(self, shape: Shape, seed: int) -> None:
        random = torch.Generator().manual_seed(seed)
        size = (shape.m, shape.k)
        real = torch.randn(size, generator=random)
        self.real = {torch.float32: real, torch.bfloat16: real.bfloat16()}
        self.codes = torch.randint(0, 256, size, dtype=torch.uint8, generator=random)
        self.signed_codes = self.codes.to(torch.int16).sub(128).to(torch.int8)
        self.static = self.codes.float().sub(INPUT_ZERO_POINT).mul(INPUT_SCALE)


class Problem:
    """The operands of one linear layer, its weight and bias the same for a seed.

    The seed is another than that of the inputs, or both would be of the same random numbers.
    """

    def __init__(self, shape: Shape, inputs: Inputs, seed: int) -> None:
        self.shape = shape
        self.inputs = inputs
        random = torch.Generator().manual_seed(seed)
        k, n = shape.k, shape.n
        self.weight_codes = torch.randint(-128, 128, (n, k), dtype=torch.int8, generator=random)
        # Such that outputs are of the order of 1; 74 is the deviation of uniform 8-bit codes.
        self.weight_scale = (0.5 + torch.rand(n, generator=random)) / (74 * k**0.5)
        self.bias = torch.randn(n, generator=random)
        self._expected: dict[Operands, Tensor] = {}

    @cached_property
    def weight(self) -> Tensor:
        """The float32 weight `[n, k]`, that the codes and scales give."""
        return self.weight_codes.float().mul(self.weight_scale[:, None])

    @cached_property
    def output_qparams(self) -> tuple[float, int]:
        """Scale and zero point of a uint8 output with static operands."""
        low, high = (end.item() for end in self.expected("static").aminmax())
        low, high = min(low, 0.0), max(high, 0.0)
        scale = (high - low) / 255
        return scale, round(-low / scale)

    def expected(self, operands: Operands) -> Tensor:
        """Return the float64 product: with scales and bias, or of the codes as they are."""
        if operands not in self._expected:
            self._expected[operands] = self._multiply(operands)
        return self._expected[operands]

    def _multiply(self, operands: Operands) -> Tensor:
        weight = self.weight_codes.double().t()
        inputs = self.inputs
        if operands == "signed":
            return inputs.signed_codes.double() @ weight
        if operands == "unsigned":
            return inputs.codes.double() @ weight
        real = inputs.real[torch.float32] if operands == "real" else inputs.static
        product = real.double() @ weight
        return product.mul(self.weight_scale.double()).add(self.bias.double())


def relative_error(result: Tensor, expected: Tensor) -> float:
    """Return the Frobenius norm of the difference, relative to the expected."""
    return float((result.double() - expected).norm() / expected.norm())

"""What is compared: one way to compute a linear layer or an INT8 product."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, cast

import torch
from problem import Operands, Problem, Shape
from timing import Call
from torch import Tensor

Group = Literal["float", "exact", "static", "dynamic"]
GROUPS: dict[Group, str] = {
    "float": "float in, float out",
    "exact": "8-bit in, int32 out: the product alone",
    "static": "in 8 bits, or quantized with given parameters",
    "dynamic": "float in and out, quantized on the way",
}

_BRIEF = {
    torch.float32: "f32",
    torch.bfloat16: "bf16",
    torch.float16: "f16",
    torch.int32: "i32",
    torch.int8: "i8",
    torch.uint8: "u8",
}


def name_of(dtype: torch.dtype) -> str:
    """Return the name without the module's."""
    return str(dtype).removeprefix("torch.")


def _as_tensor(result: object) -> Tensor:
    return cast(Tensor, result)


def dequantized(scale: float, zero_point: int) -> Callable[[object], Tensor]:
    """Return what reads quantized codes."""
    return lambda codes: (_as_tensor(codes).double() - zero_point) * scale


@dataclass(frozen=True)
class Ready:
    """A contender with a problem's operands, prepared as a user would before the first call.

    Attributes:
        call: One call, as the user would write it, with a fresh output.
        read: What `call` returned, as real values.
        note: What is worth knowing about how it runs here.
    """

    call: Call
    read: Callable[[object], Tensor] = _as_tensor
    note: str = ""


class Dtypes(NamedTuple):
    """What a call takes and gives, and the weight that it reads."""

    input: torch.dtype
    output: torch.dtype
    weight: torch.dtype = torch.int8

    def __str__(self) -> str:
        return f"{_BRIEF[self.input]} -> {_BRIEF[self.output]}"


PrepareLayer = Callable[[Problem, int], Ready]
PrepareLayers = Callable[[Sequence[Problem], int], Ready]


def each(prepare: PrepareLayer) -> PrepareLayers:
    """Prepare each layer by itself, for a call that runs them in turn."""

    def prepare_layers(problems: Sequence[Problem], threads: int) -> Ready:
        first, *others = (prepare(problem, threads) for problem in problems)
        if not others:
            return first

        def call() -> object:
            result = first.call()
            for other in others:
                other.call()
            return result

        return Ready(call, first.read, first.note)

    return prepare_layers


@dataclass(frozen=True)
class Contender:
    """One way to compute it.

    Attributes:
        prepare: Makes a call of layers that share an input, on a number of threads; raises where
            that does not run. The result that it reads is the first layer's.
    """

    name: str
    group: Group
    dtypes: Dtypes
    prepare: PrepareLayers
    is_ours: bool = False

    @property
    def operands(self) -> Operands:
        """Of which operands of a problem its result is the product."""
        if self.group == "exact":
            return "signed" if self.dtypes.input == torch.int8 else "unsigned"
        return "static" if self.group == "static" else "real"

    def weight_bytes(self, shape: Shape) -> int:
        """Return the bytes of weights that a call reads."""
        return shape.k * shape.n * self.dtypes.weight.itemsize

    def moved_bytes(self, shape: Shape) -> int:
        """Return the least that a call moves: the weight, the input and the output."""
        row = shape.k * self.dtypes.input.itemsize + shape.n * self.dtypes.output.itemsize
        return self.weight_bytes(shape) + shape.m * row

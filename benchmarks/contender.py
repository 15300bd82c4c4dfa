"""What is compared: one way to compute a linear layer or an INT8 product."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, cast

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


def _as_tensor(result: object) -> Tensor:
    return cast(Tensor, result)


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


class ItemSizes(NamedTuple):
    """Bytes of an element."""

    input: int
    weight: int
    output: int


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
        operands: Of which operands of a problem its result is the product.
        prepare: Makes a call of layers that share an input, on a number of threads; raises where
            that does not run. The result that it reads is the first layer's.
    """

    name: str
    group: Group
    operands: Operands
    sizes: ItemSizes
    prepare: PrepareLayers
    is_ours: bool = False

    def weight_bytes(self, shape: Shape) -> int:
        """Return the bytes of weights that a call reads."""
        return shape.k * shape.n * self.sizes.weight

    def moved_bytes(self, shape: Shape) -> int:
        """Return the least that a call moves: the weight, the input and the output."""
        moved = shape.m * (shape.k * self.sizes.input + shape.n * self.sizes.output)
        return self.weight_bytes(shape) + moved

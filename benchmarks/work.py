"""What is compared elementwise: a work, and the ways to do it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

from check import Check, Results
from operands import MATRIX, Layout, Operands
from timing import Call
from torch import Tensor

Output = Literal["fresh", "out"]
Bind = Callable[[Operands], Call]
Read = Callable[[Any, Operands], Results]


def as_results(result: Tensor | Results, _operands: Operands) -> Results:
    """Return a tensor, or several, as a tuple."""
    return (result,) if isinstance(result, Tensor) else tuple(result)


@dataclass(frozen=True)
class Way:
    """One way to do a work: ours or a peer's.

    Attributes:
        bind: Makes a call as a user would write it; raises where that does not run.
        read: Brings what the call returned into the form in which the work's check compares it.
        output: Whether the result is a fresh tensor or goes into one that exists.
    """

    name: str
    bind: Bind
    read: Read = as_results
    output: Output = "fresh"
    is_ours: bool = False
    note: str = ""


def ours(
    name: str,
    bind: Callable[[Operands], partial[Any]],
    out: Callable[[Operands], Tensor] | None = None,
    read: Read = as_results,
) -> tuple[Way, ...]:
    """Return an operator of ours on its arguments: with a fresh output, and into `out`."""
    fresh = Way(name, bind, read, is_ours=True)
    if not out:
        return (fresh,)

    def bind_out(operands: Operands) -> Call:
        return partial(bind(operands), out=out(operands))

    return fresh, Way(name, bind_out, read, "out", is_ours=True)


class Traffic(NamedTuple):
    """Bytes in and bytes out; scales and zero points are not counted."""

    read: float
    written: float


@dataclass(frozen=True)
class Work:
    """What is done to each element of a tensor.

    Attributes:
        traffic: Of an element, by the bytes of the real dtype.
        is_of_codes: Whether no real value takes part, so that there is but one dtype, int8.
        is_main: Whether it is measured at the greatest size, too.
    """

    name: str
    ways: tuple[Way, ...]
    traffic: Callable[[int], Traffic]
    check: Check
    layout: Layout = MATRIX
    is_of_codes: bool = False
    is_main: bool = False

    def moved(self, operands: Operands) -> Traffic:
        """Return the bytes of a call."""
        count = operands.real(self.layout).numel()
        read, written = self.traffic(operands.dtype.itemsize)
        return Traffic(read * count, written * count)

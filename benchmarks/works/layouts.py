"""Inputs that are not contiguous, against a contiguous copy of them that is part of the call."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from check import CODES, QPARAMS, Check
from granularity import PER_CHANNEL_0, PER_TENSOR, Granularity
from operands import CHANNELS_LAST, TRANSPOSED, Layout, Operands
from timing import Call
from work import Traffic, Way, Work, ours

from works import choose, quantize


def _copied(bind: Callable[[Operands], partial[Any]]) -> Callable[[Operands], Call]:
    """Return the call with `.contiguous()` of its first argument."""

    def bind_copied(operands: Operands) -> Call:
        call = bind(operands)
        operator, x, arguments = call.func, call.args[0], call.args[1:]
        return lambda: operator(x.contiguous(), *arguments)

    return bind_copied


def _work(
    name: str,
    operator: str,
    layout: Layout,
    bind: Callable[[Operands], partial[Any]],
    peers: tuple[Way, ...],
    written: int,
    check: Check,
) -> Work:
    copied = Way(f"ops.{operator} after .contiguous()", _copied(bind))
    return Work(
        f"{name}, {layout.name}",
        (*ours(f"ops.{operator}", bind), copied, *peers),
        lambda itemsize: Traffic(itemsize, written),
        check,
        layout,
    )


def _quantize(granularity: Granularity, layout: Layout) -> Work:
    return _work(
        f"quantize {granularity.name}",
        f"quantize_{granularity.suffix}",
        layout,
        partial(quantize.bind_ours, granularity, layout),
        quantize.peers(granularity, layout),
        1,
        CODES,
    )


def _choose(granularity: Granularity, layout: Layout) -> Work:
    return _work(
        f"choose {granularity.name}",
        f"choose_qparams_{granularity.suffix}",
        layout,
        partial(choose.bind_ours, granularity, layout, False),
        choose.peers(granularity, layout),
        0,
        QPARAMS,
    )


_CASES = (
    (PER_TENSOR, TRANSPOSED),
    (PER_CHANNEL_0, TRANSPOSED),
    (PER_TENSOR, CHANNELS_LAST),
    (PER_CHANNEL_0, CHANNELS_LAST),
)

LAYOUTS = tuple(make(*case) for make in (_quantize, _choose) for case in _CASES)

"""Measures INT8 products and layers on a card, and sets ours against the peers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from contender import Group
from cuda_card import Card
from cuda_elementwise import Absence, HostRow, Kind, Outcome, compared_hosts, differing
from cuda_layers import FEWEST_ROWS, FLOAT_NAME, TINY_SHAPE, Contender, Layer, Truth
from cuda_timing import (
    EventClock,
    EventStopwatch,
    HostStopwatch,
    Times,
    check_alive,
    time_in_rounds,
)
from missing import Missing
from problem import Shape
from timing import Call, Plan
from torch import Tensor

# As in measure.py: INT8 costs about 1 %, what is above is wrong. The product alone is exact.
WRONG_ERROR = 0.03
_CACHES, _FEWEST_SETS, _MOST_SETS = 4, 2, 16


@dataclass(frozen=True)
class LayerRow:
    """One contender on one shape.

    Attributes:
        dtypes: What the contender takes and gives.
        sets: Sets of operands that the calls take in turn.
        tops: 10^12 operations a second, two to a multiply-add.
        percent_of_peak: Of the card's dense INT8 peak; NaN where that is unknown.
        gigabytes_per_second: Of the weight, the input and the output.
        error: Relative to the float64 product, of the first and last rows.
        differ: Ours alone: the share of those rows' elements that differ from the CPU operator's.
        wrong: Whether either is more than quantizing explains.
        waits: Whether a call waits for the device.
        best_peer: The quickest of its group, or in float, whose result is not wrong.
        vs_peer: Its time over ours: above 1, ours is faster.
        vs_float: The time of the layer in bfloat16 over this one.
    """

    shape: Shape
    contender: str
    group: Group
    dtypes: str
    kind: Kind
    seconds: float
    least: float
    greatest: float
    rounds: int
    sets: int
    tops: float
    percent_of_peak: float
    gigabytes_per_second: float
    error: float
    differ: float | None
    wrong: bool
    waits: bool
    note: str
    best_peer: str = ""
    vs_peer: float | None = None
    vs_float: float | None = None


def draw_layers(shape: Shape, device: torch.device, cache_bytes: int) -> list[Layer]:
    """Return as many layers as are not in the cache when they are met again, but not very many."""
    moved = shape.k * shape.n + shape.m * (shape.k + shape.n)
    count = max(_FEWEST_SETS, min(_MOST_SETS, math.ceil(_CACHES * cache_bytes / moved)))
    return [Layer.draw(shape, device, seed) for seed in range(count)]


def _call(name: str, call: Call) -> Tensor:
    result = call()
    if not isinstance(result, Tensor):
        raise TypeError(f"{name} gave {type(result).__name__}")
    return result


@dataclass(frozen=True)
class _Ready:
    """A contender that runs, and how right it is."""

    contender: Contender
    calls: Sequence[Call]
    error: float
    differ: float | None
    waits: bool

    @property
    def kind(self) -> Kind:
        return "ours" if self.contender.is_ours else "peer"

    @property
    def wrong(self) -> bool:
        """NaN is wrong."""
        allowed = 0 if self.contender.group == "exact" else WRONG_ERROR
        return bool(self.differ) or not self.error <= allowed


@dataclass(frozen=True)
class ProductBench:
    """Measures one shape after the other, as cuda_elementwise's does works."""

    clock: EventClock
    plan: Plan
    card: Card
    compiles: bool
    contenders: Sequence[Contender]

    @torch.inference_mode()
    def measure(self, shape: Shape) -> Outcome[LayerRow]:
        """Measure all contenders on a shape in the same rounds."""
        layers = draw_layers(shape, self.card.device, self.card.cache_bytes)
        ready, absences = self._prepare(layers, str(shape))
        watches: dict[int, EventStopwatch] = {}
        for index, each in enumerate(ready):
            try:
                watches[index] = EventStopwatch(each.calls, self.clock, waits=each.waits)
            except Exception as error:  # it may run once and yet not for all layers
                absences.append(self._absent(each.contender, str(shape), error))
        rows = []
        for index, times in time_in_rounds(watches, self.plan).items():
            each = ready[index]
            if isinstance(times, Missing):
                absences.append(_absence(each.contender, str(shape), times))
            else:
                rows.append(self._row(shape, each, times))
        check_alive(self.clock, str(shape))
        return Outcome(_compared(rows), absences)

    @torch.inference_mode()
    def measure_host(self) -> Outcome[HostRow]:
        """Measure what the host takes to enqueue a small layer."""
        on = f"{TINY_SHAPE}, host"
        ready, absences = self._prepare([Layer.draw(TINY_SHAPE, self.card.device, 0)], on)
        watches = {
            index: HostStopwatch(each.calls[0], self.clock) for index, each in enumerate(ready)
        }
        rows: list[tuple[Group, HostRow, bool]] = []
        for index, times in time_in_rounds(watches, self.plan).items():
            each = ready[index]
            name = each.contender.name
            if isinstance(times, Missing):
                absences.append(_absence(each.contender, on, times))
                continue
            group = each.contender.group
            row = HostRow(f"layer, {group}", name, each.kind, times.seconds, each.waits)
            rows.append((group, row, each.kind == "peer" and not each.wrong))
        groups = dict.fromkeys(group for group, _, _ in rows)
        compared = [
            row
            for group in groups
            for row in compared_hosts((row, fits) for of, row, fits in rows if of == group)
        ]
        return Outcome(compared, absences)

    def _prepare(self, layers: Sequence[Layer], on: str) -> tuple[list[_Ready], list[Absence]]:
        """Call each once, and compare its result with float64, and ours with the CPU."""
        ready, absences = [], []
        if self.compiles:
            torch._dynamo.reset()  # for each shape counts as one more compilation of the same
        truth = Truth(layers[0])
        for contender in self.contenders:
            if contender.is_compiled and not self.compiles:
                continue
            try:
                ready.append(self._ready(contender, layers, truth))
            except Exception as error:  # whatever it raises is why it is missing
                absences.append(self._absent(contender, on, error))
        return ready, absences

    def _ready(self, contender: Contender, layers: Sequence[Layer], truth: Truth) -> _Ready:
        name = contender.name
        calls = [contender.bind(layer) for layer in layers]
        rows = truth.rows(_call(name, calls[0]))
        self.clock.wait()
        error = truth.error(contender.read(rows), contender.source)
        differ = None
        if contender.is_ours:
            differ = differing((rows,), (_call(name, contender.bind(truth.here)),))
        waits = self.clock.waits(calls[0])
        self.clock.wait()
        return _Ready(contender, calls, error, differ, waits)

    def _absent(self, contender: Contender, on: str, error: Exception) -> Absence:
        """Return why one is missing; raises DeviceLost where nothing will run any more."""
        missing = Missing.because(error)
        check_alive(self.clock, f"{contender.name}, {on}: {missing.reason}")
        return _absence(contender, on, missing)

    def _row(self, shape: Shape, ready: _Ready, times: Times) -> LayerRow:
        contender = ready.contender
        tops = shape.operations / times.seconds / 1e12
        return LayerRow(
            shape=shape,
            contender=contender.name,
            group=contender.group,
            dtypes=str(contender.dtypes),
            kind=ready.kind,
            seconds=times.seconds,
            least=times.least,
            greatest=times.greatest,
            rounds=times.rounds,
            sets=len(ready.calls),
            tops=tops,
            percent_of_peak=100 * tops / self.card.peak_tops,
            gigabytes_per_second=contender.moved_bytes(shape) / times.seconds / 1e9,
            error=ready.error,
            differ=ready.differ,
            wrong=ready.wrong,
            waits=ready.waits,
            note=contender.few_rows if shape.m < FEWEST_ROWS else "",
        )


def _absence(contender: Contender, on: str, missing: Missing) -> Absence:
    return Absence(f"layer, {contender.group}", on, contender.name, missing.reason)


def _best(rows: Sequence[LayerRow], fits: Callable[[LayerRow], bool]) -> LayerRow | None:
    return min(filter(fits, rows), key=lambda row: row.seconds, default=None)


def _compared(rows: Sequence[LayerRow]) -> list[LayerRow]:
    """Set all rows against the layer in bfloat16, and ours against the best peer."""
    in_float = _best(rows, lambda row: row.contender == FLOAT_NAME)
    return [_against(row, rows, in_float) for row in rows]


def _against(row: LayerRow, rows: Sequence[LayerRow], in_float: LayerRow | None) -> LayerRow:
    if in_float:
        row = replace(row, vs_float=in_float.seconds / row.seconds)
    if row.kind != "ours":
        return row
    groups: set[Group] = {row.group} if row.group == "exact" else {row.group, "float"}
    best = _best(rows, lambda peer: peer.kind == "peer" and not peer.wrong and peer.group in groups)
    if not best:
        return row
    return replace(row, best_peer=best.contender, vs_peer=best.seconds / row.seconds)

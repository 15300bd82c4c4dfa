"""Measures the ways to do an elementwise work on a card, and sets ours against the peers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Generic, Literal, TypeVar

import torch
from check import Results
from cuda_card import Card
from cuda_timing import (
    EventClock,
    EventStopwatch,
    HostStopwatch,
    Times,
    check_alive,
    time_in_rounds,
)
from cuda_works import is_compiled
from missing import Missing
from operands import Operands, Size
from timing import Call, Plan
from torch import Tensor
from work import Way, Work

Kind = Literal["ours", "peer"]
R = TypeVar("R")

TINY = Size(16, 256)
CHECKED_ROWS = 97  # of a work that is compared with the CPU's, bit for bit
_CACHES, _FEWEST_SETS, _MOST_SETS = 4, 2, 16  # sets of inputs, by how many times the cache
_SNR, _SNR_TOLERANCE = 3, 1e-12  # its logarithm is the device's


@dataclass(frozen=True)
class Row:
    """One way to do a work on one size and dtype.

    Attributes:
        sets: Sets of inputs that the calls take in turn.
        bytes: The fewest that the work must read and write, the same for all of its rows.
        percent_of_copy: Of the GB/s of a large copy in this run.
        percent_of_nominal: Of the GB/s that the card's data give; NaN where they are unknown.
        error: Distance from the result of ours in `unit`; None where there is nothing to compare.
        differ: Ours alone: the share of the elements that differ from the CPU operator's.
        wrong: Whether either is more than roundings explain.
        waits: Whether a call waits for the device.
        best_peer: The quickest whose result is compared and not wrong.
        vs_peer: Its time over ours: above 1, ours is faster.
    """

    work: str
    size: Size
    dtype: str
    contender: str
    kind: Kind
    seconds: float
    least: float
    greatest: float
    rounds: int
    sets: int
    bytes: float
    gigabytes_per_second: float
    percent_of_copy: float
    percent_of_nominal: float
    error: float | None
    unit: str
    differ: float | None
    wrong: bool
    waits: bool
    note: str
    best_peer: str = ""
    vs_peer: float | None = None


@dataclass(frozen=True)
class HostRow:
    """What the host takes for a call on small tensors, in seconds."""

    work: str
    contender: str
    kind: Kind
    seconds: float
    waits: bool
    best_peer: str = ""
    vs_peer: float | None = None


@dataclass(frozen=True)
class Absence:
    """A contender that does not run, and on what it did not."""

    work: str
    on: str
    contender: str
    reason: str


@dataclass(frozen=True)
class Subject:
    """What the works of a block are done to.

    Attributes:
        cache_bytes: Of the card: the sets of inputs together are some times as large.
    """

    size: Size
    dtype: torch.dtype
    device: torch.device
    cache_bytes: int

    @property
    def dtype_name(self) -> str:
        """Without the module's."""
        return str(self.dtype).removeprefix("torch.")

    @cached_property
    def _all_sets(self) -> list[Operands]:
        """Made when they are first used, so that those not needed cost nothing."""
        return [
            Operands(self.size, self.dtype, self.device, seed=seed) for seed in range(_MOST_SETS)
        ]

    def sets(self, work: Work) -> list[Operands]:
        """Return as many sets of inputs as are not in the cache when they are met again."""
        read = work.moved(self._all_sets[0]).read
        count = math.ceil(_CACHES * self.cache_bytes / read)
        return self._all_sets[: max(_FEWEST_SETS, min(_MOST_SETS, count))]

    @cached_property
    def checked(self) -> tuple[Operands, Operands]:
        """The same few rows on the CPU and on the device, to compare the results of ours."""
        size = replace(self.size, rows=min(self.size.rows, CHECKED_ROWS))
        there = Operands(size, self.dtype, self.device, drawn_on="cpu")
        return Operands(size, self.dtype), there


_AS_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def _bits(values: Tensor) -> Tensor:
    """Return the values as integers, for 0 and -0 differ, and NaN is the same as itself."""
    if values.is_floating_point():
        return values.view(_AS_INTEGERS[values.dtype.itemsize])
    return values


def differing(results: Results, expected: Results) -> float:
    """Return the greatest share of a result's elements whose bits are not the expected ones."""
    greatest = 0.0
    for theirs, ours in zip(results, expected, strict=True):
        if (theirs.shape, theirs.dtype) != (ours.shape, ours.dtype):
            return 1.0
        if ours.numel():
            share = float((_bits(theirs.cpu()) != _bits(ours.cpu())).float().mean())
            greatest = max(greatest, share)
    return greatest


def _forgiven(work: Work, results: Results, expected: Results) -> Results:
    """Return the results with the expected logarithm, where theirs is near enough."""
    if work.name != "quantization_error":
        return results
    measures, wanted = results[0].cpu().clone(), expected[0]
    if torch.isclose(measures[_SNR], wanted[_SNR], rtol=_SNR_TOLERANCE, atol=0.0):
        measures[_SNR] = wanted[_SNR]
    return (measures,)


def _results(returned: object) -> Results:
    """Return a tensor, or several, as a tuple."""
    if isinstance(returned, Tensor):
        return (returned,)
    if isinstance(returned, tuple):
        return returned
    raise TypeError(f"a call gave {type(returned).__name__}")


def differs_from_cpu(work: Work, way: Way, checked: tuple[Operands, Operands]) -> float:
    """Return the share of the elements of ours that differ from the CPU operator's."""
    here, there = checked
    expected, results = (_results(way.bind(operands)()) for operands in (here, there))
    return differing(_forgiven(work, results, expected), expected)


@dataclass(frozen=True)
class _Ready:
    """A way that runs, and how right it is."""

    way: Way
    calls: Sequence[Call]
    error: float | None
    differ: float | None
    wrong: bool
    waits: bool

    @property
    def kind(self) -> Kind:
        return "ours" if self.way.is_ours else "peer"


@dataclass(frozen=True)
class Outcome(Generic[R]):
    """What was measured in one interleaving, and what could not be."""

    rows: Sequence[R]
    absences: Sequence[Absence]


@dataclass(frozen=True)
class Bench:
    """Measures one work after the other.

    Attributes:
        compiles: Whether what torch.compile makes is measured too.
    """

    clock: EventClock
    plan: Plan
    card: Card
    compiles: bool

    @torch.inference_mode()
    def measure(self, work: Work, subject: Subject) -> Outcome[Row]:
        """Measure all ways to do a work in the same rounds."""
        on = f"{subject.size} {self._dtype_name(work, subject)}"
        sets = subject.sets(work)
        ready, absences = self._prepare(work, subject, sets, on)
        watches: dict[int, EventStopwatch] = {}
        for index, each in enumerate(ready):
            try:
                watches[index] = EventStopwatch(each.calls, self.clock, waits=each.waits)
            except Exception as error:  # it may run once and yet not for all sets of inputs
                absences.append(self._absent(work, on, each.way, error))
        rows = []
        for index, times in time_in_rounds(watches, self.plan).items():
            if isinstance(times, Missing):
                absences.append(Absence(work.name, on, ready[index].way.name, times.reason))
            else:
                rows.append(self._row(work, subject, ready[index], times))
        check_alive(self.clock, f"{work.name}, {on}")
        return Outcome(_compared(rows), absences)

    @torch.inference_mode()
    def measure_host(self, work: Work, subject: Subject) -> Outcome[HostRow]:
        """Measure what the host takes to enqueue each way to do a work."""
        on = f"{subject.size} {self._dtype_name(work, subject)}, host"
        ready, absences = self._prepare(work, subject, subject.sets(work)[:1], on)
        watches = {
            index: HostStopwatch(each.calls[0], self.clock) for index, each in enumerate(ready)
        }
        rows = []
        for index, times in time_in_rounds(watches, self.plan).items():
            each = ready[index]
            if isinstance(times, Missing):
                absences.append(Absence(work.name, on, each.way.name, times.reason))
            else:
                row = HostRow(work.name, each.way.name, each.kind, times.seconds, each.waits)
                rows.append((row, _is_peer(each.kind, each.error, wrong=each.wrong)))
        check_alive(self.clock, f"{work.name}, {on}")
        return Outcome(compared_hosts(rows), absences)

    def _prepare(
        self, work: Work, subject: Subject, sets: Sequence[Operands], on: str
    ) -> tuple[list[_Ready], list[Absence]]:
        """Call each way once, and compare its result with the first of ours, and ours with the CPU.

        The device is asked after each, so that a failure is told of the way that it is of.
        """
        ready, absences = [], []
        expected: Results | None = None
        if self.compiles:
            torch._dynamo.reset()  # for each dtype counts as one more compilation of the same
        for way in sorted(work.ways, key=lambda way: not way.is_ours):
            if is_compiled(way) and not self.compiles:
                continue
            try:
                calls = [way.bind(operands) for operands in sets]
                results = way.read(calls[0](), sets[0])
                self.clock.wait()
                differ = differs_from_cpu(work, way, subject.checked) if way.is_ours else None
                if way.is_ours and expected is None:
                    expected = results
                error = work.check.distance(results, expected) if results and expected else None
                waits = self.clock.waits(calls[0])
                self.clock.wait()
            except Exception as error_of_way:  # whatever it raises is why it is missing
                absences.append(self._absent(work, on, way, error_of_way))
                continue
            # NaN is wrong
            wrong = bool(differ) or (error is not None and not error <= work.check.tolerance)
            ready.append(_Ready(way, calls, error, differ, wrong, waits))
        return ready, absences

    def _absent(self, work: Work, on: str, way: Way, error: Exception) -> Absence:
        """Return why a way is missing; raises DeviceLost where nothing will run any more."""
        reason = Missing.because(error).reason
        check_alive(self.clock, f"{work.name}, {on}, {way.name}: {reason}")
        return Absence(work.name, on, way.name, reason)

    def _dtype_name(self, work: Work, subject: Subject) -> str:
        return "int8" if work.is_of_codes else subject.dtype_name

    def _row(self, work: Work, subject: Subject, ready: _Ready, times: Times) -> Row:
        moved = sum(work.moved(subject.sets(work)[0]))
        gigabytes = moved / times.seconds / 1e9
        return Row(
            work=work.name,
            size=subject.size,
            dtype=self._dtype_name(work, subject),
            contender=ready.way.name,
            kind=ready.kind,
            seconds=times.seconds,
            least=times.least,
            greatest=times.greatest,
            rounds=times.rounds,
            sets=len(ready.calls),
            bytes=moved,
            gigabytes_per_second=gigabytes,
            percent_of_copy=100 * gigabytes / self.card.copy,
            percent_of_nominal=100 * gigabytes / self.card.nominal,
            error=ready.error,
            unit=work.check.unit,
            differ=ready.differ,
            wrong=ready.wrong,
            waits=ready.waits,
            note=ready.way.note,
        )


def _is_peer(kind: Kind, error: float | None, *, wrong: bool) -> bool:
    """Whether ours is set against it: not what does something else, or what is wrong."""
    return kind == "peer" and error is not None and not wrong


def _compared(rows: Sequence[Row]) -> list[Row]:
    """Set ours against the best of the peers."""
    peers = [row for row in rows if _is_peer(row.kind, row.error, wrong=row.wrong)]
    best = min(peers, key=lambda peer: peer.seconds, default=None)
    return [
        replace(row, best_peer=best.contender, vs_peer=best.seconds / row.seconds)
        if best and row.kind == "ours"
        else row
        for row in rows
    ]


def compared_hosts(rows: Iterable[tuple[HostRow, bool]]) -> list[HostRow]:
    """Set ours against the best of those that are said to be peers."""
    pairs = list(rows)
    peers = [row for row, is_peer in pairs if is_peer]
    best = min(peers, key=lambda peer: peer.seconds, default=None)
    return [
        replace(row, best_peer=best.contender, vs_peer=best.seconds / row.seconds)
        if best and row.kind == "ours"
        else row
        for row, _ in pairs
    ]

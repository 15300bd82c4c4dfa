"""Measures the ways to do a work, in turn with its limit, and sets ours against the peers."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from check import Results
from limit import Limit
from missing import Missing
from operands import Operands, Size
from timing import Plan, Stopwatch, interleave
from work import Output, Way, Work

Kind = Literal["ours", "peer", "limit"]


@dataclass(frozen=True)
class Row:
    """One way to do a work on one size and dtype.

    Attributes:
        kernels: The kernel set of ours, empty for others.
        bytes: What the work must read and write, the same for all of its rows.
        percent_of_limit: The limit's time over this one, both with the same kind of output.
        unrest: The limit's median over its least time: well above 1 where something else kept the
            machine busy.
        error: Distance from the result of ours in `unit`; None where there is nothing to compare.
        wrong: Whether that is more than the peer's rounding explains.
        best_peer: The quickest that is not wrong; with `out`, of those with fresh outputs too.
        vs_peer: Time of the best peer over ours: above 1, ours is faster.
    """

    work: str
    size: Size
    dtype: str
    threads: int
    contender: str
    kind: Kind
    output: Output
    kernels: str
    seconds: float
    least: float
    greatest: float
    rounds: int
    bytes: float
    gigabytes_per_second: float
    percent_of_limit: float
    unrest: float
    error: float | None
    unit: str
    wrong: bool
    note: str
    best_peer: str = ""
    vs_peer: float | None = None


@dataclass(frozen=True)
class Absence:
    """A way that does not run."""

    work: str
    size: Size
    dtype: str
    threads: int
    contender: str
    output: Output
    reason: str


@dataclass(frozen=True)
class Outcome:
    """What was measured of a work."""

    rows: Sequence[Row]
    absences: Sequence[Absence]


@dataclass(frozen=True)
class _Ready:
    """A way, or the limit, that is ready to be timed."""

    watch: Stopwatch
    contender: str
    kind: Kind
    output: Output
    error: float | None = None
    wrong: bool = False
    note: str = ""


def dtype_name(work: Work, operands: Operands) -> str:
    """Return the dtype that a work's figures are of."""
    return "int8" if work.is_of_codes else str(operands.dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Bench:
    """Measures one work after the other."""

    plan: Plan
    threads: int
    kernels: str

    @torch.inference_mode()
    def measure(self, work: Work, operands: Operands) -> Outcome:
        """Measure all ways to do a work, and its limits, in the same rounds."""
        torch.set_num_threads(self.threads)
        ready, missing = self._prepare(work, operands)
        outputs = dict.fromkeys(each.output for each in ready)
        ready += [self._limit(work, operands, output) for output in outputs]
        watches = {index: each.watch for index, each in enumerate(ready)}
        counts = {index: self._count(each) for index, each in enumerate(ready)}
        samples = interleave(watches, counts, lambda: None)
        rows = [self._row(work, operands, each, samples[index]) for index, each in enumerate(ready)]
        absences = [self._absence(work, operands, way, reason) for way, reason in missing.items()]
        return Outcome(_compared(rows), absences)

    def _prepare(self, work: Work, operands: Operands) -> tuple[list[_Ready], dict[Way, Missing]]:
        """Call each way once, compare its result with the first of ours, and take its time."""
        ready, missing = [], {}
        expected: Results | None = None
        for way in sorted(work.ways, key=lambda way: not way.is_ours):
            try:
                call = way.bind(operands)
                results = way.read(call(), operands)
            except Exception as reason:  # whatever a peer raises is why it is missing
                missing[way] = Missing.because(reason)
                continue
            if way.is_ours and expected is None:
                expected = results
            error = work.check.distance(results, expected) if expected else None
            del results
            wrong = error is not None and not error <= work.check.tolerance  # NaN is wrong
            watch = Stopwatch(call, self.threads)
            kind: Kind = "ours" if way.is_ours else "peer"
            ready.append(_Ready(watch, way.name, kind, way.output, error, wrong, way.note))
        return ready, missing

    def _count(self, ready: _Ready) -> int:
        """Return in how many rounds to sample; the limit, by which all are judged, in each."""
        rounds = self.plan.rounds
        return rounds if ready.kind == "limit" else self.plan.affordable(ready.watch.cost)

    def _limit(self, work: Work, operands: Operands, output: Output) -> _Ready:
        limit = Limit(work.moved(operands), output)
        return _Ready(Stopwatch(limit.call(), self.threads), limit.name, "limit", output)

    def _row(self, work: Work, operands: Operands, ready: _Ready, samples: Sequence[float]) -> Row:
        seconds = statistics.median(samples)
        moved = sum(work.moved(operands))
        return Row(
            work=work.name,
            size=operands.size,
            dtype=dtype_name(work, operands),
            threads=self.threads,
            contender=ready.contender,
            kind=ready.kind,
            output=ready.output,
            kernels=self.kernels if ready.kind == "ours" else "",
            seconds=seconds,
            least=min(samples),
            greatest=max(samples),
            rounds=len(samples),
            bytes=moved,
            gigabytes_per_second=moved / seconds / 1e9,
            percent_of_limit=math.nan,
            unrest=math.nan,
            error=ready.error,
            unit=work.check.unit,
            wrong=ready.wrong,
            note=ready.note,
        )

    def _absence(self, work: Work, operands: Operands, way: Way, missing: Missing) -> Absence:
        return Absence(
            work.name,
            operands.size,
            dtype_name(work, operands),
            self.threads,
            way.name,
            way.output,
            missing.reason,
        )


def _compared(rows: Sequence[Row]) -> list[Row]:
    """Set all rows of a work against its limits, and ours against the peers."""
    limits = {row.output: row for row in rows if row.kind == "limit"}
    return [_against(row, rows, limits) for row in rows]


def _against(row: Row, rows: Iterable[Row], limits: Mapping[Output, Row]) -> Row:
    limit = limits[row.output]
    row = replace(
        row,
        percent_of_limit=100 * limit.seconds / row.seconds,
        unrest=limit.seconds / limit.least,
    )
    if row.kind != "ours":
        return row
    peers = [
        peer
        for peer in rows
        if peer.kind == "peer" and not peer.wrong and peer.output in ("fresh", row.output)
    ]
    best = min(peers, key=lambda peer: peer.seconds, default=None)
    if not best:
        return row
    return replace(row, best_peer=best.contender, vs_peer=best.seconds / row.seconds)

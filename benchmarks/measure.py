"""Measures contenders on shapes, in turn with the machine's peak, and sets them against peers."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from contender import Contender, Group
from missing import Missing
from peak import Peak
from problem import Shape
from stage import CONTENDERS, Case, Prepared, Stage
from timing import Plan, Probe, interleave
from tqdm import tqdm

# Above it the result of a layer is called wrong: INT8 costs about 1 %, saturated sums ten times
# that. The product alone is exact.
WRONG_ERROR = 0.03


@dataclass(frozen=True)
class Ceiling:
    """What the machine gives at best: GOPS of exact INT8 products by instruction, and GB/s.

    Attributes:
        unrest: The greatest over the median of the samples of GOPS, over all instructions: above
            1 where something else kept the machine busy for half of the rounds.
    """

    gops: Mapping[str, float]
    bandwidth: float
    unrest: float = 1.0

    @property
    def best_gops(self) -> float:
        """GOPS of the best instruction, NaN where none was measured."""
        return max(self.gops.values(), default=math.nan)


@dataclass(frozen=True)
class Row:
    """One contender on one shape. Times are seconds of one layer.

    Attributes:
        dtypes: What the contender takes and gives.
        kernels: The kernel set of ours, empty for a peer.
        error: Relative to the float64 product of the operands; `wrong` where it is too large.
        vs_group: Time of the best peer of the group over ours: above 1, ours is faster.
        vs_right: The same, among the peers whose result is not wrong.
        vs_any: The same, among all peers of all groups.
    """

    shape: Shape
    threads: int
    contender: str
    group: Group
    dtypes: str
    kernels: str
    seconds: float
    least: float
    greatest: float
    rounds: int
    gops: float
    percent_of_peak: float
    weight_gigabytes_per_second: float
    operations_per_byte: float
    error: float
    note: str
    vs_group: float | None = None
    vs_right: float | None = None
    vs_any: float | None = None

    @property
    def wrong(self) -> bool:
        """Whether the result is further from the product than its group may be; NaN is, too."""
        return not self.error <= (0 if self.group == "exact" else WRONG_ERROR)


@dataclass(frozen=True)
class Absence:
    """A contender that did not run, with the first shape on which it did not."""

    contender: str
    kernels: str
    shape: Shape
    threads: int
    reason: str


@dataclass(frozen=True)
class Block:
    """What was measured in one interleaving: some shapes with one number of threads."""

    threads: int
    ceiling: Ceiling
    rows: Sequence[Row]
    absences: Sequence[Absence] = field(default=())


Key = tuple[str, Case]


@dataclass(frozen=True)
class Bench:
    """The stages by kernel set, the best first, and what to measure on them.

    Attributes:
        measured: The sets whose contenders of ours are measured; peers run on the first stage.
    """

    stages: Mapping[str, Stage]
    measured: Sequence[str]
    contenders: Sequence[Contender]
    peak: Peak | None
    plan: Plan

    def measure(self, shapes: Sequence[Shape], threads: int, layers: int = 1) -> Block:
        """Measure all contenders on the shapes in one interleaving."""
        ready: dict[Key, Prepared] = {}
        absences = []
        keys = [
            (kernels, Case(contender.name, shape, threads, layers))
            for shape in dict.fromkeys(shapes)
            for contender in self.contenders
            for kernels in self._kernels(contender)
        ]
        with tqdm(keys, desc="preparing", unit="case", leave=False, disable=None) as bar:
            for kernels, case in bar:
                outcome = self.stages[kernels].prepare(case)
                if isinstance(outcome, Missing):
                    absences.append(self._absence(kernels, case, outcome))
                else:
                    ready[kernels, case] = outcome
        samples, ceiling = self._sample(ready, threads)
        for stage in self.stages.values():
            stage.clear()
        rows = [self._row(key, ready[key], samples[key], ceiling) for key in ready]
        compared = [_against(row, rows) if row.kernels else row for row in rows]
        return Block(threads, ceiling, compared, absences)

    def _kernels(self, contender: Contender) -> Sequence[str]:
        return self.measured if contender.is_ours else [next(iter(self.stages))]

    def _sample(
        self, ready: Mapping[Key, Prepared], threads: int
    ) -> tuple[dict[Key, list[float]], Ceiling]:
        """Interleave the cases, and the machine's peak as one more contender."""
        plan = self.plan
        probes: dict[Key | str, Probe] = {}
        if peak := self.peak:
            probes = {name: partial(peak.gops, name, threads) for name in peak.instructions}
            probes["bandwidth"] = partial(peak.bandwidth, threads)
        counts: dict[Key | str, int] = dict.fromkeys(probes, plan.rounds)
        for key, prepared in ready.items():
            probes[key] = partial(self.stages[key[0]].sample, key[1])
            counts[key] = plan.affordable(prepared.cost)
        with tqdm(
            total=sum(counts.values()), desc="timing", unit="sample", leave=False, disable=None
        ) as bar:
            samples = interleave(probes, counts, bar.update)
        return {key: samples[key] for key in ready}, self._ceiling(samples)

    def _ceiling(self, samples: Mapping[Key | str, Sequence[float]]) -> Ceiling:
        if not self.peak:
            return Ceiling({}, math.nan)
        gops = {name: samples[name] for name in self.peak.instructions}
        return Ceiling(
            {name: statistics.median(values) for name, values in gops.items()},
            statistics.median(samples["bandwidth"]),
            max((max(values) / statistics.median(values) for values in gops.values()), default=1.0),
        )

    def _absence(self, kernels: str, case: Case, missing: Missing) -> Absence:
        is_ours = CONTENDERS[case.contender].is_ours
        named = kernels if is_ours else ""
        return Absence(case.contender, named, case.shape, case.threads, missing.reason)

    def _row(self, key: Key, prepared: Prepared, samples: Sequence[float], ceiling: Ceiling) -> Row:
        kernels, case = key
        contender, shape = CONTENDERS[case.contender], case.shape
        times = [seconds / case.layers for seconds in samples]
        seconds = statistics.median(times)
        gops = shape.operations / seconds / 1e9
        return Row(
            shape=shape,
            threads=case.threads,
            contender=contender.name,
            group=contender.group,
            dtypes=str(contender.dtypes),
            kernels=kernels if contender.is_ours else "",
            seconds=seconds,
            least=min(times),
            greatest=max(times),
            rounds=len(times),
            gops=gops,
            percent_of_peak=100 * gops / ceiling.best_gops,
            weight_gigabytes_per_second=contender.weight_bytes(shape) / seconds / 1e9,
            operations_per_byte=shape.operations / contender.moved_bytes(shape),
            error=prepared.error,
            note=prepared.note,
        )


def best_peer(row: Row, rows: Iterable[Row], fits: Callable[[Row], bool]) -> Row | None:
    """Return the quickest fitting peer on the row's shape with its number of threads."""
    peers = [
        peer
        for peer in rows
        if not peer.kernels
        and (peer.shape, peer.threads) == (row.shape, row.threads)
        and fits(peer)
    ]
    return min(peers, key=lambda peer: peer.seconds, default=None)


def _against(row: Row, rows: Sequence[Row]) -> Row:
    """Set a row of ours against the peers on its shape."""

    def ratio(fits: Callable[[Row], bool]) -> float | None:
        peer = best_peer(row, rows, fits)
        return peer.seconds / row.seconds if peer else None

    return replace(
        row,
        vs_group=ratio(lambda peer: peer.group == row.group),
        vs_right=ratio(lambda peer: peer.group == row.group and not peer.wrong),
        vs_any=ratio(lambda peer: True),
    )

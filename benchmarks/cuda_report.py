"""What was measured on a card, as tables for people and plain containers for JSON."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from contender import GROUPS
from cuda_elementwise import CHECKED_ROWS, Absence, HostRow, Row
from cuda_products import WRONG_ERROR, LayerRow
from problem import Shape
from table import Value, heading, render
from work import Work

_LEGEND = f"""\
us: microseconds of the device for a call, which is held busy while the host enqueues some: what the
host takes is in the table of hosts. Calls take several sets of inputs in turn, more than the cache
holds (up to 16, so that the smallest layers stay in it for everyone). GB/s: 10^9 bytes a second
that must move at least: each input read once, each output written once, for all contenders alike,
scales and zero points left out. % copy: of the GB/s, in and out, of a large copy_ in this run; more
than 100 is no error, for reading alone is quicker than copying. % nominal: of what the card's data
give. TOPS: 10^12 operations a second, two to a multiply-add. % peak: of the card's dense INT8 peak
by its data, for float layers too. vs peer: time of the best peer over ours, so above 1 ours is
faster: of the peers that are compared and not wrong; for a layer, of its group or in float. vs
bf16: time of F.linear in bfloat16 over this one. CPU: whether a result of ours has the very bits of
the CPU operator's, on {CHECKED_ROWS} rows of an elementwise work and the first and last rows of a
layer; only the signal-to-noise ratio of quantization_error, a logarithm, may differ by 1e-12 of
itself. error, of a layer: Frobenius, of the first and last rows, relative to the float64 product; !
where it is above {WRONG_ERROR:.0%}, or 0 in the group exact. waits: the call waits for the device,
as where it reads a scale on the host, and its time is the host's too. off, of an elementwise work:
greatest distance from our result, ! where it is more than roundings explain. Allowed are"""


@dataclass
class Report:
    """All that was measured so far.

    Attributes:
        left_out: What the time limit left no time for.
        lost: Why the device answered no more, if it did.
    """

    header: Mapping[str, object]
    rows: list[Row] = field(default_factory=list)
    layers: list[LayerRow] = field(default_factory=list)
    hosts: list[HostRow] = field(default_factory=list)
    absences: list[Absence] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    copies: list[float] = field(default_factory=list)
    lost: str = ""

    def as_json(self) -> object:
        """Return everything in plain containers."""
        return {
            "header": dict(self.header),
            "rows": [asdict(row) for row in self.rows],
            "layers": [asdict(row) for row in self.layers],
            "hosts": [asdict(row) for row in self.hosts],
            "missing": [asdict(absence) for absence in self.absences],
            "left out": self.left_out,
            "copy GB/s": self.copies,
            "lost": self.lost,
        }


def legend(works: Iterable[Work]) -> str:
    """Return how to read the tables, with the tolerances of the works."""
    checks = dict.fromkeys(work.check for work in works)
    lines = (f"{check.tolerance:g} {check.unit}, {check.meaning}" for check in checks)
    paragraphs = (_LEGEND.replace("\n", " "), *(f"- {line}" for line in lines))
    return "\n".join(textwrap.fill(paragraph, 100) for paragraph in paragraphs)


def _off(row: Row) -> str:
    if row.kind == "ours" or row.error is None:
        return ""
    figure = f"{row.error:.2g} {row.unit}" if row.error else "0"
    return f"{figure} !" if row.wrong else figure


def _like_cpu(differ: float | None) -> str:
    if differ is None:
        return ""
    return f"{100 * differ:.2g} % differ !" if differ else "same bits"


def _waits(row: Row | LayerRow | HostRow) -> str:
    return "waits" if row.waits else ""


def _percent(value: float) -> float | None:
    return None if math.isnan(value) else value


def _line(row: Row) -> dict[str, Value]:
    return {
        "work": row.work,
        "contender": row.contender,
        "us": row.seconds * 1e6,
        "GB/s": row.gigabytes_per_second,
        "% copy": row.percent_of_copy,
        "% nominal": _percent(row.percent_of_nominal),
        "vs peer": row.vs_peer,
        "off": _off(row),
        "CPU": _like_cpu(row.differ),
        "waits": _waits(row),
        "note": row.note,
    }


def rows_text(rows: Sequence[Row], title: str, *, markdown: bool) -> str:
    """Return the table of the works on one size and dtype."""
    table = render([_line(row) for row in rows], markdown=markdown)
    return f"{heading(title, markdown=markdown)}\n{table}"


def _layer_line(row: LayerRow) -> dict[str, Value]:
    wrong = " !" if row.wrong and not row.differ else ""
    return {
        "group": row.group,
        "contender": row.contender,
        "in -> out": row.dtypes,
        "us": row.seconds * 1e6,
        "TOPS": row.tops,
        "% peak": _percent(row.percent_of_peak),
        "GB/s": row.gigabytes_per_second,
        "vs peer": row.vs_peer,
        "vs bf16": row.vs_float,
        "error": f"{row.error:.1e}{wrong}" if row.error else "0",
        "CPU": _like_cpu(row.differ),
        "waits": _waits(row),
        "note": row.note,
    }


def layers_text(rows: Sequence[LayerRow], shape: Shape, *, markdown: bool) -> str:
    """Return the table of one shape, the groups in their order."""
    order = list(GROUPS)
    lines = [_layer_line(row) for row in sorted(rows, key=lambda row: order.index(row.group))]
    return f"{heading(f'{shape}', markdown=markdown)}\n{render(lines, markdown=markdown)}"


def hosts_text(rows: Sequence[HostRow], title: str, *, markdown: bool) -> str:
    """Return what the host takes for calls."""
    lines: list[dict[str, Value]] = [
        {
            "work": row.work,
            "contender": row.contender,
            "host us": row.seconds * 1e6,
            "vs peer": row.vs_peer,
            "waits": _waits(row),
        }
        for row in rows
    ]
    return f"{heading(title, markdown=markdown)}\n{render(lines, markdown=markdown)}"


def _summary_text(report: Report, *, markdown: bool) -> str:
    """Return ours beside the best peers."""
    works: list[dict[str, Value]] = [
        {
            "work": row.work,
            "size": str(row.size),
            "dtype": row.dtype,
            "us": row.seconds * 1e6,
            "GB/s": row.gigabytes_per_second,
            "% copy": row.percent_of_copy,
            "% nominal": _percent(row.percent_of_nominal),
            "best peer": row.best_peer,
            "vs peer": row.vs_peer,
            "CPU": _like_cpu(row.differ),
        }
        for row in report.rows
        if row.kind == "ours"
    ]
    layers: list[dict[str, Value]] = [
        {
            "M x K x N": str(row.shape),
            "contender": row.contender,
            "us": row.seconds * 1e6,
            "TOPS": row.tops,
            "% peak": _percent(row.percent_of_peak),
            "best peer": row.best_peer,
            "vs peer": row.vs_peer,
            "vs bf16": row.vs_float,
            "CPU": _like_cpu(row.differ),
        }
        for row in report.layers
        if row.kind == "ours"
    ]
    title = heading("ours and the best peers", markdown=markdown)
    tables = [render(lines, markdown=markdown) for lines in (works, layers) if lines]
    return "\n\n".join((title.rstrip(), *tables)) if markdown else "\n".join((title, *tables))


def _absences_text(absences: Sequence[Absence], *, markdown: bool) -> str:
    """Return each contender that is missing, once for a reason."""
    first: dict[tuple[str, str], Absence] = {}
    for absence in absences:
        first.setdefault((absence.contender, absence.reason), absence)
    lines: list[dict[str, Value]] = [
        {
            "contender": absence.contender,
            "first on": f"{absence.work}, {absence.on}",
            "reason": absence.reason,
        }
        for absence in first.values()
    ]
    return f"{heading('missing', markdown=markdown)}\n{render(lines, markdown=markdown)}"


def closing_text(report: Report, works: Iterable[Work], *, markdown: bool) -> str:
    """Return the summary, what is missing, and how to read it all."""
    parts = [
        _summary_text(report, markdown=markdown),
        _absences_text(report.absences, markdown=markdown),
    ]
    if report.left_out:
        parts.append(f"\nno time was left for: {'; '.join(report.left_out)} (--limit)")
    if len(report.copies) > 1:
        figures = ", ".join(f"{copy:,.0f}" for copy in report.copies)
        parts.append(f"\ncopy_ in the course of the run: {figures} GB/s")
    if report.lost:
        parts.append(f"\nTHE DEVICE WAS LOST, and nothing after it was measured: {report.lost}")
    return "\n".join((*parts, f"\n{legend(works)}"))

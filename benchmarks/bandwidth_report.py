"""What was measured of elementwise works, as tables for people and plain containers for JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict

from bandwidth import Absence, Outcome, Row
from operands import Size
from table import Value, heading, render
from work import Output, Work

_LEGEND = """\
GB/s: 10^9 bytes a second that the work must read and write, the same bytes for all its contenders:
one that makes several passes moves more. Scales and zero points are not counted. limit: PyTorch
moving as many bytes in and as many out, in the same rounds: copy_, and a sum or fill_ of what one
side has more; for works that only read, a sum. It is no strict bound: two calls cost some 3 us more
than one, which shows in cache. With a fresh output the limit allocates one of that size too. It is
a clone, then, and where the allocator takes new pages from the system, as with glibc always above
32 MB, mostly page faults. unrest: the limit's median time over its least; well above 1, something
else kept the machine busy. vs peer: time of the best peer that is not wrong over ours, so above 1
ours is faster; into an out, peers with fresh outputs count too. off: greatest distance from our
result, marked ! where it is wrong: more than roundings explain. Allowed are"""


def legend(works: Iterable[Work]) -> str:
    """Return how to read the tables, with the tolerances of the works."""
    checks = dict.fromkeys(work.check for work in works)
    lines = (f"{check.tolerance:g} {check.unit}, {check.meaning}" for check in checks)
    return "\n".join((_LEGEND, *(textwrap.fill(f"- {line}", 100) for line in lines)))


def _off(row: Row) -> str:
    if row.kind != "peer" or row.error is None:
        return ""
    figure = f"{row.error:.2g} {row.unit}" if row.error else "0"
    return f"{figure} !" if row.wrong else figure


def _name(row: Row) -> str:
    return f"limit: {row.contender}" if row.kind == "limit" else row.contender


def _line(row: Row) -> dict[str, Value]:
    return {
        "work": row.work,
        "dtype": row.dtype,
        "contender": _name(row),
        "output": row.output,
        "us": row.seconds * 1e6,
        "GB/s": row.gigabytes_per_second,
        "% of limit": row.percent_of_limit,
        "vs peer": row.vs_peer,
        "off": _off(row),
        "note": row.note,
    }


def rows_text(outcomes: Sequence[Outcome], *, markdown: bool) -> str:
    """Return all that was measured on one size, dtype and number of threads."""
    rows = [row for outcome in outcomes for row in outcome.rows]
    return render([_line(row) for row in rows], markdown=markdown)


def title(size: Size, dtype: str, threads: int, *, markdown: bool) -> str:
    """Return the heading of such a table."""
    text = f"{size} {dtype}, {threads} thread{'s' if threads > 1 else ''}"
    return heading(text, markdown=markdown)


def summary(outcomes: Sequence[Outcome]) -> list[dict[str, Value]]:
    """Return ours beside the best peers, a line for each work and output."""
    rows = [row for outcome in outcomes for row in outcome.rows]
    return [
        {
            "work": row.work,
            "size": str(row.size),
            "dtype": row.dtype,
            "threads": row.threads,
            "output": row.output,
            "us": row.seconds * 1e6,
            "GB/s": row.gigabytes_per_second,
            "% of limit": row.percent_of_limit,
            "best peer": row.best_peer,
            "peer us": row.seconds * row.vs_peer * 1e6 if row.vs_peer else None,
            "vs peer": row.vs_peer,
            "unrest": row.unrest,
        }
        for row in rows
        if row.kind == "ours"
    ]


def summary_text(outcomes: Sequence[Outcome], *, markdown: bool) -> str:
    """Return the summary as a table."""
    lines = render(summary(outcomes), markdown=markdown)
    return f"{heading('ours and the best peers', markdown=markdown)}\n{lines}"


def absences_text(outcomes: Sequence[Outcome], *, markdown: bool) -> str:
    """Return each contender that is missing, once for a reason."""
    absences = [absence for outcome in outcomes for absence in outcome.absences]
    first: dict[tuple[str, Output, str], Absence] = {}
    for absence in absences:
        first.setdefault((absence.contender, absence.output, absence.reason), absence)
    lines: list[dict[str, Value]] = [
        {
            "contender": absence.contender,
            "output": absence.output,
            "first on": f"{absence.work}, {absence.size} {absence.dtype}",
            "reason": absence.reason,
        }
        for absence in first.values()
    ]
    return f"{heading('missing', markdown=markdown)}\n{render(lines, markdown=markdown)}"


def as_json(header: Mapping[str, object], outcomes: Sequence[Outcome]) -> object:
    """Return everything that was measured in plain containers."""
    return {
        "header": dict(header),
        "rows": [asdict(row) for outcome in outcomes for row in outcome.rows],
        "missing": [asdict(each) for outcome in outcomes for each in outcome.absences],
        "summary": summary(outcomes),
    }

"""What was measured, as tables for people and plain containers for JSON."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict

from contender import GROUPS
from measure import WRONG_ERROR, Absence, Block, Ceiling, Row
from problem import Shape
from table import Value, heading, render

_BANDWIDTH_ROWS = 16  # up to this M, the weights' way from memory is what a product waits for
_CALM = 1.1
_RATIOS: dict[str, Callable[[Row], float | None]] = {
    "vs group": lambda row: row.vs_group,
    "vs right": lambda row: row.vs_right,
    "vs any": lambda row: row.vs_any,
}

LEGEND = f"""\
in -> out: what a call takes and gives, in which the peers of a group differ: OpenVINO static takes
floats. GOPS: 10^9 operations a second, two to a multiply-add. % peak: of a loop of the best exact
INT8 instruction, or pair of them, on registers alone, on as many threads, in the same rounds. It is
no strict bound for the AVX2 kernel, which multiplies half as often by Winograd's identity, and
peers whose sums saturate may exceed it. vs group: time of the group's best peer over ours, so above
1 ours is faster; vs right: among the group's peers that are not wrong; vs any: among all peers.
torch._int_mm takes its weight unpacked at every call, as int8_matmul does; that of
int8_matmul_packed is packed beforehand. error: Frobenius, relative to the float64 product of the
dequantized operands; marked ! where it is wrong: above {WRONG_ERROR:.0%}, as where sums of a peer
saturate, and in the group exact above 0. GB/s: weights read."""


def _ceiling_text(ceiling: Ceiling) -> str:
    gops = [f"{name} {value:,.0f} GOPS" for name, value in ceiling.gops.items()]
    if not math.isnan(ceiling.bandwidth):
        gops.append(f"reading {ceiling.bandwidth:,.1f} GB/s")
    text = "measured peak: " + (", ".join(gops) or "not measured")
    if ceiling.unrest > _CALM:
        text += (
            f"\nthe peak's best sample is {ceiling.unrest:.1f} times its median: something else "
            "kept this machine busy, so take these times again when it is quiet"
        )
    return text


def _line(row: Row, *, with_bandwidth: bool) -> dict[str, Value]:
    bandwidth = {"GB/s": row.weight_gigabytes_per_second} if with_bandwidth else {}
    return {
        "group": row.group,
        "contender": row.contender,
        "in -> out": row.dtypes,
        "kernels": row.kernels,
        "us": row.seconds * 1e6,
        "GOPS": row.gops,
        "% peak": row.percent_of_peak,
        **bandwidth,
        **{name: ratio(row) for name, ratio in _RATIOS.items()},
        "error": f"{row.error:.1e}{' !' if row.wrong else ''}" if row.error else "0",
        "note": row.note,
    }


def _threads_text(threads: int) -> str:
    return f"{threads} thread{'s' if threads > 1 else ''}"


def block_text(block: Block, shape: Shape, *, markdown: bool) -> str:
    """Return the table of one shape, the groups in their order."""
    order = list(GROUPS)
    rows = sorted(block.rows, key=lambda row: order.index(row.group))
    with_bandwidth = shape.m <= _BANDWIDTH_ROWS
    lines = [_line(row, with_bandwidth=with_bandwidth) for row in rows if row.shape == shape]
    return "\n".join(
        (
            heading(f"{shape}, {_threads_text(block.threads)}", markdown=markdown),
            _ceiling_text(block.ceiling),
            "",
            render(lines, markdown=markdown),
        )
    )


def odd_text(block: Block, pairs: Sequence[tuple[Shape, Shape]], *, markdown: bool) -> str:
    """Return the times of odd shapes over those of their rounded neighbours."""
    rows = {(row.contender, row.kernels, row.shape): row for row in block.rows}
    lines: list[dict[str, Value]] = [
        {
            "contender": contender,
            "kernels": kernels,
            "odd": str(odd),
            "rounded": str(rounded),
            "odd us": row.seconds * 1e6,
            "rounded us": rows[contender, kernels, rounded].seconds * 1e6,
            "odd / rounded": row.seconds / rows[contender, kernels, rounded].seconds,
        }
        for odd, rounded in pairs
        for (contender, kernels, shape), row in rows.items()
        if shape == odd
    ]
    title = f"odd shapes and their rounded neighbours, {_threads_text(block.threads)}"
    table = render(lines, markdown=markdown)
    return "\n".join((heading(title, markdown=markdown), _ceiling_text(block.ceiling), "", table))


def small_text(block: Block, *, markdown: bool, shown: int = 8) -> str:
    """Return, for each set of kernels, the shapes worst against float32, and the slowest call.

    Where float32 is not among the contenders, the worst are the slowest.
    """
    peers = {row.shape: row for row in block.rows if not row.kernels}
    texts = []
    for kernels in dict.fromkeys(row.kernels for row in block.rows if row.kernels):
        rows = [row for row in block.rows if row.kernels == kernels]
        rows.sort(key=lambda row: (row.vs_any or math.inf, -row.seconds))
        ratios = [row.vs_any for row in rows if row.vs_any]
        lines: list[dict[str, Value]] = [
            {
                "shape": str(row.shape),
                "ours us": row.seconds * 1e6,
                "float32 us": peers[row.shape].seconds * 1e6 if row.shape in peers else None,
                "float32 / ours": row.vs_any,
            }
            for row in rows[:shown]
        ]
        slowest = max(rows, key=lambda row: row.seconds)
        slower = sum(ratio < 1 for ratio in ratios)
        title = f"small shapes, {kernels}, {_threads_text(block.threads)}: the worst of {len(rows)}"
        texts += [
            heading(title, markdown=markdown),
            f"{_ceiling_text(block.ceiling)}\n",
            render(lines, markdown=markdown),
            f"\nslower than float32 on {slower} of {len(ratios)}; the greatest time of ours is "
            f"{slowest.seconds * 1e6:.3g} us, on {slowest.shape}",
        ]
    return "\n".join(texts) or "(nothing)"


def summary(rows: Sequence[Row]) -> list[dict[str, Value]]:
    """Return the geometric means over shapes of each ratio, for each contender of ours."""
    lines: list[dict[str, Value]] = []
    ours = [row for row in rows if row.kernels]
    for key in dict.fromkeys((row.group, row.contender, row.kernels, row.threads) for row in ours):
        group, contender, kernels, threads = key
        chosen = [
            row for row in ours if (row.group, row.contender, row.kernels, row.threads) == key
        ]
        lines.append(
            {
                "group": group,
                "contender": contender,
                "kernels": kernels,
                "threads": threads,
                "shapes": len(chosen),
                "% peak": _mean_ratio(chosen, lambda row: row.percent_of_peak),
                **{name: _mean_ratio(chosen, ratio) for name, ratio in _RATIOS.items()},
                "least vs group": min(
                    (row.vs_group for row in chosen if row.vs_group), default=None
                ),
            }
        )
    return lines


def _mean_ratio(rows: Sequence[Row], ratio: Callable[[Row], float | None]) -> float | None:
    values = [value for row in rows if (value := ratio(row)) and not math.isnan(value)]
    return statistics.geometric_mean(values) if values else None


def summary_text(rows: Sequence[Row], *, markdown: bool) -> str:
    """Return the summary as a table."""
    title = heading("geometric means over the shapes", markdown=markdown)
    return f"{title}\n{render(summary(rows), markdown=markdown)}"


def absences_text(absences: Sequence[Absence], *, markdown: bool) -> str:
    """Return each contender that is missing, once for a reason."""
    first = {(each.contender, each.kernels, each.reason): each for each in reversed(absences)}
    lines: list[dict[str, Value]] = [
        {
            "contender": each.contender,
            "kernels": each.kernels,
            "first on": f"{each.shape}, {_threads_text(each.threads)}",
            "reason": each.reason,
        }
        for each in reversed(first.values())
    ]
    return f"{heading('missing', markdown=markdown)}\n{render(lines, markdown=markdown)}"


def as_json(header: dict[str, object], blocks: Sequence[Block]) -> object:
    """Return everything that was measured in plain containers."""
    rows = [row for block in blocks for row in block.rows]
    return {
        "header": header,
        "peaks": [
            {
                "threads": block.threads,
                "shapes": [asdict(shape) for shape in dict.fromkeys(r.shape for r in block.rows)],
                "gops": dict(block.ceiling.gops),
                "gigabytes_per_second": block.ceiling.bandwidth,
                "unrest": block.ceiling.unrest,
            }
            for block in blocks
        ],
        "rows": [{**asdict(row), "wrong": row.wrong} for row in rows],
        "missing": [asdict(absence) for block in blocks for absence in block.absences],
        "summary": summary(rows),
    }

"""The roofline: what ours and the best peers reach, under what the machine can do."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol

from contender import GROUPS, Group
from measure import Block, Ceiling, Row, best_peer
from problem import Shape

_LEGEND = (
    ("o", "tab:blue", "ours"),
    ("o", "tab:orange", "best peer of the group"),
    ("x", "tab:orange", "best peer, its result wrong"),
)
_PANEL_GROUPS: tuple[Group, ...] = ("exact", "static", "dynamic")


class Axes(Protocol):
    """What is used of matplotlib's axes."""

    def loglog(self, *data: object, **options: object) -> object: ...

    def plot(self, *data: object, **options: object) -> object: ...

    def annotate(self, *data: object, **options: object) -> object: ...


def _ceiling(blocks: Sequence[Block]) -> Ceiling:
    """Return the median over the blocks."""
    names = blocks[0].ceiling.gops
    return Ceiling(
        {name: statistics.median(block.ceiling.gops[name] for block in blocks) for name in names},
        statistics.median(block.ceiling.bandwidth for block in blocks),
    )


def _points(rows: Sequence[Row], group: Group, kernels: str) -> list[tuple[Row, Row | None]]:
    """Return for each shape the quickest of ours in the group, and the best peer."""
    ours = [row for row in rows if row.group == group and row.kernels == kernels]
    chosen = [
        min((row for row in ours if row.shape == shape), key=lambda row: row.seconds)
        for shape in dict.fromkeys(row.shape for row in ours)
    ]
    return [(row, best_peer(row, rows, lambda peer: peer.group == group)) for row in chosen]


def roofline(blocks: Sequence[Block], kernels: str, title: str, path: Path) -> None:
    """Draw a panel for each group and number of threads, for one set of kernels, into a file."""
    matplotlib = import_module("matplotlib")
    matplotlib.use("Agg")
    pyplot = import_module("matplotlib.pyplot")
    shapes = list(dict.fromkeys(row.shape for block in blocks for row in block.rows))
    threads = list(dict.fromkeys(block.threads for block in blocks))
    size = (5 * len(_PANEL_GROUPS), 4.4 * len(threads) + 1.2)
    figure, panels = pyplot.subplots(
        len(threads), len(_PANEL_GROUPS), figsize=size, squeeze=False, sharex=True, sharey="row"
    )
    for line, count in zip(panels, threads, strict=True):
        chosen = [block for block in blocks if block.threads == count]
        rows = [row for block in chosen for row in block.rows]
        for panel, group in zip(line, _PANEL_GROUPS, strict=True):
            _draw_roof(panel, _ceiling(chosen))
            _draw_points(panel, _points(rows, group, kernels), shapes)
            panel.set_title(
                f"{group}: {GROUPS[group]}\n{count} thread{'s' * (count > 1)}", fontsize=9
            )
            panel.set_xlabel("operations per byte of weight, input and output", fontsize=8)
        line[0].set_ylabel("GOPS")
    for style, color, label in _LEGEND:
        panels[0][0].plot(
            [], [], style, color=color, mfc="none" if "peer" in label else color, label=label
        )
    panels[0][0].legend(loc="lower right", fontsize=7)
    key = ",  ".join(f"{number}: {shape}" for number, shape in enumerate(shapes, 1))
    figure.suptitle(f"{title}\nM x K x N   {key}", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _draw_roof(panel: Axes, ceiling: Ceiling) -> None:
    """Draw the peak of the best instruction, and the slope of memory's bandwidth up to it."""
    gops, bandwidth = ceiling.best_gops, ceiling.bandwidth
    label = f"measured: {gops:,.0f} GOPS, {bandwidth:,.0f} GB/s"
    panel.loglog([1, gops / bandwidth, 3000], [bandwidth, gops, gops], color="0.5", label=label)


def _draw_points(
    panel: Axes, points: Sequence[tuple[Row, Row | None]], shapes: Sequence[Shape]
) -> None:
    """Draw ours filled and numbered, the peer hollow or, where it is wrong, a cross."""
    for row, peer in points:
        at = (row.operations_per_byte, row.gops)
        if peer:
            ends = zip(at, (peer.operations_per_byte, peer.gops), strict=True)
            panel.plot(*ends, color="0.8", zorder=1)
            marker = "x" if peer.wrong else "o"
            panel.plot(
                peer.operations_per_byte,
                peer.gops,
                marker,
                color="tab:orange",
                mfc="none",
                zorder=2,
            )
        panel.plot(*at, "o", color="tab:blue", zorder=3)
        panel.annotate(
            str(shapes.index(row.shape) + 1), at, (4, 4), textcoords="offset points", fontsize=8
        )

"""Rows of values as lines of text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torchquant.strict_json import printable

Value = str | int | float | bool | None


def label(name: str) -> str:
    """A key as a heading: snr_db becomes SNR dB."""
    return name.replace("_", " ").replace(" db", " dB").replace("snr", "SNR")


def format_value(value: Value) -> str:
    """A value as a cell: four significant digits of a float, thousands separated; None is empty."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:#.4g}"
    return printable(value)


def for_json(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row, with "inf" for infinity, which JSON does not have."""
    return {key: "inf" if value == math.inf else value for key, value in row.items()}


def table(rows: Sequence[Mapping[str, Value]]) -> list[str]:
    """Numbers to the right, words to the left, a rule under the head."""
    names = list(rows[0])
    cells = [[label(name) for name in names]]
    cells += [[format_value(row[name]) if name in row else "" for name in names] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    left = [isinstance(rows[0][name], str) for name in names]

    def render(line: Sequence[str]) -> str:
        padded = (
            cell.ljust(width) if to_left else cell.rjust(width)
            for cell, width, to_left in zip(line, widths, left, strict=True)
        )
        return "  ".join(padded).rstrip()

    return [render(cells[0]), "  ".join("-" * width for width in widths), *map(render, cells[1:])]

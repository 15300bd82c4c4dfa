"""Tables in plain text or Markdown: words to the left, numbers to the right."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

Value = str | int | float | None


def _format(value: Value) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float):
        return _format_float(value)
    return f"{value:,}" if isinstance(value, int) else value


def _format_float(value: float) -> str:
    """Return three digits that count, without exponents where people read times and ratios."""
    if value == 0:
        return "0"
    digits = 2 - math.floor(math.log10(abs(value)))
    return f"{value:.1e}" if digits > 5 else f"{value:,.{max(0, digits)}f}"


def render(rows: Sequence[Mapping[str, Value]], *, markdown: bool = False) -> str:
    """Return the rows under the names of the first, without columns that are empty."""
    if not rows:
        return "(nothing)"
    names = [name for name in rows[0] if any(row[name] not in ("", None) for row in rows)]
    cells = [names, *([_format(row[name]) for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    left = [all(isinstance(row[name], str) for row in rows) for name in names]

    def line(texts: Sequence[str]) -> str:
        padded = [
            text.ljust(width) if to_left else text.rjust(width)
            for text, width, to_left in zip(texts, widths, left, strict=True)
        ]
        return f"| {' | '.join(padded)} |" if markdown else "  ".join(padded).rstrip()

    rule = [
        "-" * width if to_left or not markdown else "-" * (width - 1) + ":"
        for width, to_left in zip(widths, left, strict=True)
    ]
    return "\n".join([line(cells[0]), line(rule), *map(line, cells[1:])])


def heading(text: str, *, markdown: bool = False) -> str:
    """Return a heading, with a blank line before and, in Markdown, after it."""
    return f"\n### {text}\n" if markdown else f"\n{text}\n{'-' * len(text)}"

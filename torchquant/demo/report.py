"""What a demonstration found: one value that prints as a table and as JSON, so both agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Value = str | int | float | bool


class DemoError(RuntimeError):
    """The demo cannot go on; the message says what to do."""


@dataclass(frozen=True)
class Section:
    """One demonstration: a table, and the facts that are not of one row."""

    name: str
    title: str
    rows: Sequence[Mapping[str, Value]] = ()
    facts: Mapping[str, Value] = field(default_factory=dict)
    note: str = ""

    def as_json(self) -> dict[str, object]:
        """Return plain containers for `json.dumps`."""
        return {
            "title": self.title,
            "rows": [dict(row) for row in self.rows],
            "facts": dict(self.facts),
            "note": self.note,
        }

    def as_text(self) -> str:
        """Return the heading, the table, the facts and the note."""
        lines = ["", self.title, "-" * len(self.title)]
        if self.rows:
            lines += _table(self.rows)
        lines += [f"{_label(name)}: {_format(value)}" for name, value in self.facts.items()]
        if self.note:
            lines.append(self.note)
        return "\n".join(lines)


def _label(name: str) -> str:
    return name.replace("_", " ").replace(" db", " dB").replace("snr", "SNR")


def _format(value: Value) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:#.4g}"
    return value


def _table(rows: Sequence[Mapping[str, Value]]) -> list[str]:
    """Numbers to the right, words to the left, a rule under the head."""
    names = list(rows[0])
    cells = [[_label(name) for name in names]]
    cells += [[_format(row[name]) if name in row else "" for name in names] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    left = [isinstance(rows[0][name], str) for name in names]

    def render(line: Sequence[str]) -> str:
        padded = (
            cell.ljust(width) if to_left else cell.rjust(width)
            for cell, width, to_left in zip(line, widths, left, strict=True)
        )
        return "  ".join(padded).rstrip()

    return [render(cells[0]), "  ".join("-" * width for width in widths), *map(render, cells[1:])]

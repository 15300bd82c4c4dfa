"""What a demonstration found: one value that prints as a table and as JSON, so both agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torchquant.tables import Value, format_value, label, table

__all__ = ["DemoError", "Section", "Value"]


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
            lines += table(self.rows)
        lines += [f"{label(name)}: {format_value(value)}" for name, value in self.facts.items()]
        if self.note:
            lines.append(self.note)
        return "\n".join(lines)

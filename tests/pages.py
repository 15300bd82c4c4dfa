"""The pages of docs/ as programs."""

from __future__ import annotations

from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def code_of(page: str, heading: str | None = None) -> str:
    """The code before the first chapter and in this one, or all; each line in its place."""
    lines, in_code, chapter = [], False, None
    for line in page.splitlines():
        if line.startswith("## "):
            chapter = line.removeprefix("## ")
        if line.startswith("```"):
            in_code = line == "```python"
            lines.append("")
        else:
            wanted = heading is None or chapter in (None, heading)
            lines.append(line if in_code and wanted else "")
    return "\n".join(lines)

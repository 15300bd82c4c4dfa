"""What the command lines of the benchmarks share: options, choosing by name, and JSON."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TextIO, TypeVar

T = TypeVar("T")


def make_parser(
    doc: str, *, threads: str | None, only: str, rounds: int
) -> argparse.ArgumentParser:
    """Return a parser of the common options, described by a module's docstring.

    `threads` and `only` complete the help of those options; `rounds` is the default's. Without
    `threads` there is no such option.
    """
    first, _, rest = doc.partition("\n")
    parser = argparse.ArgumentParser(
        description=first, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if threads:
        parser.add_argument(
            "--threads", type=int, nargs="+", metavar="T", help=f"default: {threads}"
        )
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help=f"{only} by name; * stands for anything"
    )
    parser.add_argument("--list", action="store_true", help=f"list the {only}, and stop")
    parser.add_argument("--quick", action="store_true", help="few rounds, to see that it works")
    parser.add_argument("--rounds", type=int, help=f"default: {rounds}")
    parser.add_argument("--markdown", action="store_true", help="tables in Markdown")
    parser.add_argument("--json", metavar="PATH", help="all figures; - for standard output alone")
    return parser


def matching(
    items: Sequence[T], name: Callable[[T], str], patterns: Sequence[str], what: str
) -> list[T]:
    """Return the items whose name fits a pattern; a pattern that fits none ends the program."""

    def fits(item: T, pattern: str) -> bool:
        return fnmatchcase(name(item).lower(), pattern.lower())

    for pattern in patterns:
        if not any(fits(item, pattern) for item in items):
            raise SystemExit(f"no {what} here is named {pattern!r}; --list names them")
    return [item for item in items if any(fits(item, pattern) for pattern in patterns)]


def stream_of_tables(json_path: str | None) -> TextIO:
    """Return where tables go: standard error where standard output is for JSON."""
    return sys.stderr if json_path == "-" else sys.stdout


def write_json(report: object, path: str) -> None:
    """Write plain containers to a file, or to standard output for "-"; NaN becomes null."""
    text = json.dumps(_plain(report), indent=1)
    if path == "-":
        print(text)
    else:
        Path(path).write_text(text + "\n", encoding="utf-8")


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

"""JSON texts of strangers: csrc/model/json.cpp takes and refuses the same ones."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

MISSING = "missing"
_MOST_VALUES = 2**23  # 10^5 layers have 4 * 10^6; a gigabyte at most while they are read
_LONGEST = 200
# Control characters, and those that turn the direction of a line.
_OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def parse(text: str) -> object:
    """The value, its integers within 64 bits and its floats finite, or ValueError.

    A key that comes twice, half a surrogate pair, NaN, Infinity and a number that would become
    infinite or, without being it, zero, are errors too.
    """
    if sum(map(text.count, "[{,")) > _MOST_VALUES:
        raise ValueError(f"no JSON of ours: it has more than {_MOST_VALUES} values")
    try:
        return json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_float,
            parse_constant=_constant,
        )
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no JSON: {error}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key comes twice")
    for pair in pairs:
        for text in pair:
            if isinstance(text, str):
                text.encode()  # which half a surrogate pair is not
    return values


def _integer(text: str) -> int | float:
    if text == "-0" or len(text) > 20 or not -(2**63) <= int(text) < 2**63:
        return _float(text)
    return int(text)


def _float(text: str) -> float:
    number = float(text)
    digits = re.split("[eE]", text)[0]
    if math.isinf(number) or (number == 0 and re.search("[1-9]", digits)):
        raise ValueError(f"the number {printable(text)} is out of range")
    return number


def _constant(text: str) -> float:
    raise ValueError(f"{text} is no number")


def printable(text: str) -> str:
    """On one line, without what a terminal would obey, and not endless."""
    if len(text) > _LONGEST:
        text = text[:_LONGEST] + "..."
    return _OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def shown(value: object) -> str:
    """A value as JSON has it, for messages."""
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    except RecursionError:
        return "nested too deep to show"
    return printable(text)


def shown_entry(entries: Mapping[str, Any], key: str) -> str:
    """The value of a key, or that there is none."""
    return shown(entries[key]) if key in entries else MISSING


def some(names: Iterable[str]) -> str:
    """The first of some names, and how many more there are."""
    ordered = sorted(names)
    text = ", ".join(map(printable, ordered[:5])) or "nothing"
    return f"{text} and {len(ordered) - 5} more" if len(ordered) > 5 else text

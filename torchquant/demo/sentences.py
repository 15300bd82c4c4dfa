"""Distinct English sentences from the language reference that pydoc installs with Python."""

from __future__ import annotations

import importlib
import re

# Markup, tables, grammar and code are no sentences, so a line of this kind drops its paragraph.
_NOT_PROSE = re.compile(
    r"::=|>>>|^\s*[*=~^+|-]{3,}|^\s*\+--|\|$|^\s*[\w.]+\(.*\)\s*(->.*)?$", re.MULTILINE
)
_BULLET = re.compile(r"^\s*(?:[*-]|\d+\.|\[\d+\])\s+")
# A full stop ends a sentence unless it belongs to an abbreviation.
_SENTENCE_END = re.compile(
    r"(?<![eE]\.g\.)(?<!i\.e\.)(?<!cf\.)(?<!vs\.)(?<=[.!?])\s+(?=[\"'(“]?[A-Z])"
)
_WELL_FORMED = re.compile(r"^[\"'“(]?[A-Z][^|]*[a-z)\"”'][.!?]$")


def _is_prose(paragraph: str) -> bool:
    """Prose keeps one left margin after its first line (which may carry a bullet)."""
    lines = paragraph.splitlines()
    margins = {len(line) - len(line.lstrip()) for line in lines[1:]}
    return len(margins) <= 1 and not _NOT_PROSE.search(paragraph)


def _unwrap(paragraph: str) -> str:
    text = re.sub(r"(?<=\w)-\n\s*(?=\w)", "-", _BULLET.sub("", paragraph, count=1))
    return " ".join(text.split())


def _is_sentence(text: str, min_words: int, max_words: int) -> bool:
    words = text.split()
    letters = sum(char.isalpha() or char.isspace() for char in text)
    return (
        min_words <= len(words) <= max_words
        and letters >= 0.85 * len(text)
        and _WELL_FORMED.match(text) is not None
    )


def english_sentences(min_words: int = 6, max_words: int = 60) -> list[str]:
    """Return the distinct sentences of `pydoc_data.topics`, in the order of its topics' names."""
    topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    found: dict[str, None] = {}
    for name in sorted(topics):
        for paragraph in re.split(r"\n\s*\n", topics[name]):
            if not _is_prose(paragraph):
                continue
            for sentence in _SENTENCE_END.split(_unwrap(paragraph)):
                if _is_sentence(sentence, min_words, max_words):
                    found.setdefault(sentence)
    return list(found)

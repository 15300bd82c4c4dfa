"""The demo: a tutorial, a real model, and that model in C++. All figures are measured."""

from __future__ import annotations

import json as json_format
import platform
from collections.abc import Iterator, Sequence

import torch

from torchquant import ops
from torchquant.demo import cpp, minilm, tutorial
from torchquant.demo.report import DemoError, Section

__all__ = ["PARTS", "DemoError", "Section", "run", "sections"]

PARTS = ("tutorial", "model", "cpp")


def _environment() -> Section:
    return Section(
        "environment",
        "Where this ran",
        facts={
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "threads": torch.get_num_threads(),
            "kernels": ops.active_kernels(),
        },
    )


def sections(
    parts: Sequence[str] = PARTS, sentences: Sequence[str] | None = None
) -> Iterator[Section]:
    """Run the parts and yield what each finds, as soon as it is found.

    Args:
        parts: any of `PARTS`.
        sentences: for the model part; all of pydoc's by default.

    Raises:
        DemoError: a package or a tool is missing, or a step failed.
    """
    yield _environment()
    if "tutorial" in parts:
        yield from tutorial.sections()
    if "model" not in parts and "cpp" not in parts:
        return
    encoder, tokenizer = minilm.load()
    if "model" in parts:
        yield from minilm.sections(encoder, tokenizer, sentences)
    if "cpp" in parts:
        yield from cpp.sections(encoder, tokenizer)


def run(
    *,
    json: bool = False,
    parts: Sequence[str] = PARTS,
    sentences: Sequence[str] | None = None,
) -> bool:
    """Run the parts and print what they find, as tables or as one JSON document.

    Returns:
        Whether every comparison that must be exact was.

    Raises:
        DemoError: as `sections`.
    """
    found = []
    for section in sections(parts, sentences):
        found.append(section)
        if not json:
            print(section.as_text(), flush=True)
    if json:
        document = {section.name: section.as_json() for section in found}
        print(json_format.dumps(document, indent=2, allow_nan=False))
    return all(section.facts.get("bit_equal", True) for section in found)

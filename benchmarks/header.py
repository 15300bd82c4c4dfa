"""What stands above the tables of a run: the machine, the versions, the date."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence

import torch
from peak import cores, cpu_info


def describe(
    threads: Sequence[int], kernels: Sequence[str], rounds: int, missing: Mapping[str, str]
) -> dict[str, object]:
    """Return what a run is about; `missing` says why something is not measured at all."""
    return {
        "cpu": cpu_info("model name") or "unknown",
        "cores": cores(),
        "threads": list(threads),
        "kernels": list(kernels),
        "torch": torch.__version__,
        "date": datetime.date.today().isoformat(),
        "rounds": rounds,
        "not here": dict(missing),
    }


def header_text(header: Mapping[str, object]) -> str:
    """Return the header as lines."""
    lines = []
    for name, value in header.items():
        if isinstance(value, dict):
            lines += [f"{name}: {key}: {reason}" for key, reason in value.items()]
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list) else value
            lines.append(f"{name}: {text}")
    return "\n".join(lines)

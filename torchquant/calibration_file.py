"""The file of a calibration: safetensors, versioned, refused whole where anything is wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from torchquant._library import installed_version
from torchquant.histogram import Histogram

FORMAT = "torchquant.calibration"
VERSION = 1
KEY = "torchquant"
_NUMBERS: Mapping[str, type] = {
    "method": str,
    "percentile": float,
    "batches": int,
    "interrupted": bool,
    "calls": dict,
    "owners": dict,
}


def write(
    path: str | PathLike[str], histograms: Mapping[str, Histogram], numbers: Mapping[str, Any]
) -> None:
    """Writes a file beside ``path``, then puts it in its place. Equal states give equal bytes."""
    tensors = {}
    for name, histogram in histograms.items():
        tensors[f"{name}.counts"] = histogram.counts
        tensors[f"{name}.range"] = histogram.range
    about = {"format": FORMAT, "version": VERSION, "torchquant": installed_version(), **numbers}
    # Under one key, because safetensors writes several in no order.
    content = save(tensors, {KEY: json.dumps(about)})
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(content)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def read(path: str | PathLike[str]) -> tuple[dict[str, Histogram], dict[str, Any]]:
    """The histograms and numbers of a file, or ValueError that says what is wrong with it."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: pass what Calibration.save wrote")
    try:
        with safe_open(path, framework="pt") as file:
            about = _read_about(path, file.metadata() or {})
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} is no whole safetensors file ({error}): pass what Calibration.save wrote"
        ) from error
    return _read_histograms(path, tensors, about["calls"]), about


def _read_about(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    try:
        about = json.loads(metadata.get(KEY, "{}"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: its metadata is no JSON ({error})") from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise ValueError(
            f"{path} must hold a calibration, but its metadata is {metadata!r}: pass what "
            "Calibration.save wrote"
        )
    if about.get("version") != VERSION:
        raise ValueError(
            f"{path} must have version {VERSION}, but has {about.get('version')!r} (written by "
            f"torchquant {about.get('torchquant')}): install a newer torchquant, or calibrate again"
        )
    _check_numbers(path, about)
    return about


def _check_numbers(path: Path, about: Mapping[str, Any]) -> None:
    for key, kind in _NUMBERS.items():
        if type(about.get(key)) is not kind:
            raise ValueError(
                f"{path}: {key} must be of type {kind.__name__}, but is {about.get(key)!r}"
            )
    counts = [*about["calls"].items(), *about["owners"].items()]
    for key, count in [("batches", about["batches"]), *counts]:
        if type(count) is not int or count < 0:
            raise ValueError(f"{path}: {key} must be a number of times, but is {count!r}")


def _read_histograms(
    path: Path, tensors: Mapping[str, Tensor], calls: Mapping[str, int]
) -> dict[str, Histogram]:
    wanted = {f"{name}.{part}" for name in calls for part in ("counts", "range")}
    if set(tensors) != wanted:
        raise ValueError(
            f"{path} must hold counts and range of each layer, but lacks "
            f"{sorted(wanted - set(tensors))} and has {sorted(set(tensors) - wanted)} beyond them"
        )
    histograms = {}
    for name in calls:
        counts, range = tensors[f"{name}.counts"], tensors[f"{name}.range"]
        histograms[name] = Histogram.checked(counts, range, f"{path}: {name}")
        if calls[name] == 0 and histograms[name].count > 0:
            raise ValueError(f"{path}: {name} was called 0 times, but its counts are not zero")
    return histograms

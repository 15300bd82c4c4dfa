"""The file of a calibration: safetensors, versioned, refused whole where anything is wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from os import PathLike
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from torchquant.histogram import Histogram

FORMAT = "torchquant.calibration"
VERSION = 1
_NUMBERS: Mapping[str, type] = {
    "method": str,
    "percentile": float,
    "batches": int,
    "interrupted": bool,
    "calls": dict,
}


def _library_version() -> str:
    try:
        return version("torchquant")
    except PackageNotFoundError:  # a source tree that was built but not installed
        return "unknown"


def write(
    path: str | PathLike[str], histograms: Mapping[str, Histogram], numbers: Mapping[str, Any]
) -> None:
    """Writes a file beside ``path``, then puts it in its place."""
    tensors = {}
    for name, histogram in histograms.items():
        tensors[f"{name}.counts"] = histogram.counts
        tensors[f"{name}.range"] = histogram.range
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "torchquant": _library_version(),
        "calibration": json.dumps(numbers),
    }
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(tensors, beside, metadata)
        os.replace(beside, path)
    except SafetensorError as error:
        raise OSError(f"{path} cannot be written: {error}") from error
    finally:
        beside.unlink(missing_ok=True)


def read(path: str | PathLike[str]) -> tuple[dict[str, Histogram], dict[str, Any]]:
    """The histograms and numbers of a file, or ValueError that says what is wrong with it."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: pass what Calibration.save wrote")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            _check_version(path, metadata)
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} is no whole safetensors file ({error}): pass what Calibration.save wrote"
        ) from error
    numbers = _read_numbers(path, metadata)
    return _read_histograms(path, tensors, numbers["calls"]), numbers


def _check_version(path: Path, metadata: Mapping[str, str]) -> None:
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"{path} must hold a calibration, but its format is {metadata.get('format')!r}: pass "
            "what Calibration.save wrote"
        )
    if metadata.get("version") != str(VERSION):
        raise ValueError(
            f"{path} must have version {VERSION}, but has {metadata.get('version')!r} (written by "
            f"torchquant {metadata.get('torchquant')}): install a newer torchquant, or calibrate "
            "again"
        )


def _read_numbers(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    try:
        numbers = json.loads(metadata.get("calibration", ""))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: the key calibration is no JSON ({error})") from error
    if not isinstance(numbers, dict) or set(numbers) != set(_NUMBERS):
        raise ValueError(
            f"{path}: the key calibration must hold {', '.join(_NUMBERS)}, but holds {numbers!r}"
        )
    for key, kind in _NUMBERS.items():
        if type(numbers[key]) is not kind:
            raise ValueError(f"{path}: {key} must be of type {kind.__name__}: {numbers[key]!r}")
    for key, count in {"batches": numbers["batches"], **numbers["calls"]}.items():
        if type(count) is not int or count < 0:
            raise ValueError(f"{path}: {key} must be a number of times, but is {count!r}")
    return numbers


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

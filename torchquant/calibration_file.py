"""The file of a calibration: the histograms, and how often each of its tensors was observed."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

from torch import Tensor

from torchquant import safetensors_file
from torchquant.histogram import Histogram

KIND = safetensors_file.Kind(
    format="torchquant.calibration",
    version=1,
    content="a calibration",
    writer="Calibration.save",
    remedy="calibrate again",
)
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
    """Writes a file, or leaves what was there."""
    tensors = {}
    for name, histogram in histograms.items():
        tensors[f"{name}.counts"] = histogram.counts
        tensors[f"{name}.range"] = histogram.range
    safetensors_file.write(path, KIND, numbers, tensors)


def read(path: str | PathLike[str]) -> tuple[dict[str, Histogram], dict[str, Any]]:
    """The histograms and numbers of a file, or ValueError that says what is wrong with it."""
    with safetensors_file.opened(path, KIND) as (file, about):
        _check_numbers(path, about)
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    return _read_histograms(path, tensors, about["calls"]), about


def _check_numbers(path: str | PathLike[str], about: Mapping[str, Any]) -> None:
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
    path: str | PathLike[str], tensors: Mapping[str, Tensor], calls: Mapping[str, int]
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

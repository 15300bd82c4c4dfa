"""The file of a calibration: the histograms, and how often each of its tensors was observed."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

from torchquant import safetensors_file
from torchquant.histogram import Histogram, check_method
from torchquant.strict_json import printable, shown_entry, some

_KINDS: Mapping[str, type] = {
    "method": str,
    "percentile": float,
    "batches": int,
    "interrupted": bool,
    "calls": dict,
    "owners": dict,
}
KIND = safetensors_file.Kind(
    format="torchquant.calibration",
    version=1,
    entries=frozenset(_KINDS),
    content="a calibration",
    writer="Calibration.save",
    remedy="calibrate again",
)


def write(
    path: str | PathLike[str], histograms: Mapping[str, Histogram], numbers: Mapping[str, Any]
) -> None:
    """Writes a file, or leaves what was there."""
    tensors = {}
    for name, histogram in histograms.items():
        tensors[f"{name}.counts"] = histogram.counts
        tensors[f"{name}.range"] = histogram.range
    safetensors_file.write(path, KIND, numbers, tensors, _checked)


def read(path: str | PathLike[str]) -> tuple[dict[str, Histogram], dict[str, Any]]:
    """The histograms and numbers of a file, or ValueError that says what is wrong with it."""
    with (
        safetensors_file.opened(path, KIND) as (file, about),
        safetensors_file.refusing(path, KIND.remedy),
    ):
        return _checked(file, about), about


def _checked(file: safetensors_file.Opened, about: Mapping[str, Any]) -> dict[str, Histogram]:
    _check_numbers(about)
    return _read_histograms(file, about["calls"])


def _check_numbers(about: Mapping[str, Any]) -> None:
    for key, kind in _KINDS.items():
        if type(about.get(key)) is not kind:
            raise ValueError(
                f"{key} must be of type {kind.__name__}, but is {shown_entry(about, key)}"
            )
    check_method(printable(about["method"]), about["percentile"])
    for counts in ({"batches": about["batches"]}, about["calls"], about["owners"]):
        for key, count in counts.items():
            if type(count) is not int or count < 0:
                raise ValueError(
                    f"{printable(key)} must be a number of times, but is {shown_entry(counts, key)}"
                )


def _read_histograms(
    file: safetensors_file.Opened, calls: Mapping[str, int]
) -> dict[str, Histogram]:
    wanted = {f"{name}.{part}" for name in calls for part in ("counts", "range")}
    found = set(file.keys())
    if found != wanted:
        raise ValueError(
            f"it must hold counts and range of each layer, but lacks {some(wanted - found)} and "
            f"has {some(found - wanted)} beyond them"
        )
    histograms = {}
    for name in calls:
        counts, range = file.get_tensor(f"{name}.counts"), file.get_tensor(f"{name}.range")
        histograms[name] = Histogram.checked(counts, range, printable(name))
        if calls[name] == 0 and histograms[name].count > 0:
            raise ValueError(f"{printable(name)} was called 0 times, but its counts are not zero")
    return histograms

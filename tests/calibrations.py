"""Calibrations to test with, and what a histogram is by its definition."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import torchquant
from torchquant import Calibration

METHODS = ("minmax", "percentile", "mse", "entropy")


def calibrated(model: nn.Module, *batches: Any, **keywords: Any) -> Calibration:
    return torchquant.calibrate(model, batches, progress=False, **keywords)


def exact_model() -> nn.Sequential:
    """Weights of -1, 0 and 1: on :func:`exact_data` no sum is rounded, in whatever order."""
    generator = torch.Generator().manual_seed(1)
    model = nn.Sequential(nn.Linear(16, 12, bias=False), nn.ReLU(), nn.Linear(12, 3, bias=False))
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.weight.copy_(torch.randint(-1, 2, layer.weight.shape, generator=generator))
    return model


def exact_data(rows: int = 192) -> Tensor:
    """Normal values rounded to multiples of 1/64."""
    generator = torch.Generator().manual_seed(2)
    return torch.randn(rows, 16, generator=generator).mul(64).round().div(64)


def counts_of(*tensors: Tensor) -> Tensor:
    """The histogram by its definition: float32 bits without the lower 17."""
    values = np.concatenate([x.detach().float().contiguous().numpy().ravel() for x in tensors])
    return torch.from_numpy(np.bincount(values.view(np.uint32) >> 17, minlength=32_768))


def range_of(*tensors: Tensor) -> list[float]:
    return [min(x.min().item() for x in tensors), max(x.max().item() for x in tensors)]


def assert_same_state(one: Calibration, other: Calibration, *, but_for: Iterable[str] = ()) -> None:
    """Equal to the bit, but for how often and in how many batches where that is named."""
    assert one.names == other.names
    for name, histogram in one.histograms.items():
        assert torch.equal(histogram.counts, other.histograms[name].counts)
        assert torch.equal(
            histogram.range.view(torch.int32), other.histograms[name].range.view(torch.int32)
        )
    for attribute in {"calls", "batches", "method", "percentile", "interrupted"} - set(but_for):
        assert getattr(one, attribute) == getattr(other, attribute)

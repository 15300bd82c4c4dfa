"""A calibrated histogram, drawn with the range that each method would keep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from torchquant.histogram import Histogram

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

_DRAWN_BINS = 256


def densities(histogram: Histogram) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Share of the values for each of 256 linear bins, and the bins' edges.

    The values of a logarithmic bin are spread evenly over it.
    """
    low, high, counts = (tensor.numpy() for tensor in histogram.occupied())
    edges = np.linspace(low[0], high[-1], _DRAWN_BINS + 1)
    if low[0] == high[-1]:
        edges = np.linspace(low[0] - 0.5, low[0] + 0.5, _DRAWN_BINS + 1)
    ends = np.stack((low, high), axis=1).ravel()
    before = np.concatenate(([0.0], np.cumsum(counts)))
    reached = np.stack((before[:-1], before[1:]), axis=1).ravel()
    cumulative = np.interp(edges, ends, reached)
    cumulative[0], cumulative[-1] = 0.0, before[-1]  # ends without width are steps of it
    return np.diff(cumulative) / before[-1], edges


def draw(
    histogram: Histogram,
    clips: Mapping[str, tuple[float, float]],
    title: str,
    ax: Axes | None,
) -> Axes:
    """On a logarithmic scale, so that tails are seen."""
    try:
        import matplotlib.pyplot as plt
    except ModuleNotFoundError as error:
        raise ImportError("plot needs matplotlib: pip install 'torchquant[plot]'") from error
    if ax is None:
        ax = plt.subplots(figsize=(9, 4), layout="constrained")[1]
    shares, edges = densities(histogram)
    ax.stairs(shares, edges, fill=True, color="0.8")
    for index, (method, (low, high)) in enumerate(clips.items()):
        label = f"{method} [{low:.4g}, {high:.4g}]"
        ax.axvline(low, color=f"C{index}", linestyle="--", label=label)
        ax.axvline(high, color=f"C{index}", linestyle="--")
    ax.set_yscale("log")
    ax.set_xlabel("value")
    ax.set_ylabel("share of the values")
    ax.set_title(title)
    ax.legend()
    return ax

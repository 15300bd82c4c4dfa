"""The calibration state of one tensor: a histogram with fixed bins, logarithmic in |x|."""

from __future__ import annotations

import torch
from torch import Tensor

from torchquant import ops
from torchquant.arguments import check_number

NUM_BINS = 32_768
_SHIFT = 17  # the bin of a float32 is what is left of its bits
_NEGATIVE = NUM_BINS // 2  # the first bin of the negative values
_FINITE = 255 * 64  # bins of either sign; those beyond count Inf and NaN


METHODS = ("minmax", "percentile", "mse", "entropy")


def check_method(method: str, percentile: float) -> None:
    """Raises ValueError where no range can be read in this way, TypeError for what is no number."""
    if method not in METHODS:
        raise ValueError(
            f'method must be one of {", ".join(METHODS)}, but got {method!r}: "mse" suits most '
            "activations"
        )
    check_number(percentile, "percentile", "99.99 is usual")
    if not 50 < percentile <= 100:
        raise ValueError(f"percentile must lie in (50, 100], but got {percentile}: 99.99 is usual")


def merge_state(counts: Tensor, range: Tensor, others: Tensor, other_range: Tensor) -> None:
    """Adds one state to another, in place, from whatever device."""
    other_range = other_range.to(range.device)
    counts += others.to(counts.device)
    range[0] = torch.minimum(range[0], other_range[0])
    range[1] = torch.maximum(range[1], other_range[1])


def bin_ends() -> tuple[Tensor, Tensor]:
    """The least and the greatest float32 of each bin, ``[32768]``, on the CPU."""
    first = torch.arange(NUM_BINS, dtype=torch.int64, device="cpu") << _SHIFT
    near_zero, far_from_zero = _floats(first), _floats(first | ((1 << _SHIFT) - 1))
    return torch.minimum(near_zero, far_from_zero), torch.maximum(near_zero, far_from_zero)


def _floats(bits: Tensor) -> Tensor:
    """The float32 of these 32 bits."""
    return (bits - (bits >= 2**31) * 2**32).to(torch.int32).view(torch.float32)


class Histogram:
    """Counts and range of what was observed: 256 KB, whatever and however much that is.

    ``counts``, int64 ``[32768]``: how many values had these upper 15 bits as a float32 (sign,
    exponent, 6 bits of mantissa). ``range``, float32 ``[2]``: the exact minimum and maximum of the
    finite ones, (+Inf, -Inf) before any. Both add up over tensors in any order.
    """

    def __init__(self, counts: Tensor | None = None, range: Tensor | None = None) -> None:
        if counts is None:
            counts = torch.zeros(NUM_BINS, dtype=torch.int64, device="cpu")
        if range is None:
            range = torch.tensor([torch.inf, -torch.inf], dtype=torch.float32, device="cpu")
        # Made under inference_mode, they could not be written outside of it.
        with torch.inference_mode(False):
            self.counts = counts.clone() if counts.is_inference() else counts
            self.range = range.clone() if range.is_inference() else range

    def observe(self, tensor: Tensor) -> None:
        """Adds a float tensor of any shape and device."""
        ops.histogram_observe_(self.counts, self.range, tensor.detach().cpu())

    def merge(self, other: Histogram) -> None:
        """Adds what another one observed."""
        merge_state(self.counts, self.range, other.counts, other.range)

    @property
    def count(self) -> int:
        """How many values were observed."""
        return int(self.counts.sum())

    @property
    def zeros(self) -> int:
        """How many of them were zero (or below 2^-132)."""
        return int(self.counts[0] + self.counts[_NEGATIVE])

    def has_nan_or_inf(self) -> bool:
        """Whether one of them was not finite."""
        return bool(self.counts.view(2, -1)[:, _FINITE:].any())

    def qparams(
        self, quant_min: int, quant_max: int, symmetric: bool, method: str, percentile: float
    ) -> tuple[Tensor, Tensor]:
        """As :func:`torchquant.ops.histogram_qparams`."""
        return ops.histogram_qparams(
            self.counts, self.range, quant_min, quant_max, symmetric, method, percentile
        )

    def occupied(self) -> tuple[Tensor, Tensor, Tensor]:
        """Lower ends, upper ends and counts, float64, of the bins that hold finite values.

        Ascending, and the outermost ends trimmed to the range.
        """
        low, high = bin_ends()
        finite = torch.arange(_FINITE, device="cpu")
        index = torch.cat((finite.flip(0) + _NEGATIVE, finite))
        index = index[self.counts[index] > 0]
        least, greatest = self.range
        return (
            low[index].clamp(least, greatest).double(),
            high[index].clamp(least, greatest).double(),
            self.counts[index].double(),
        )

    @classmethod
    def checked(cls, counts: Tensor, range: Tensor, name: str) -> Histogram:
        """Of tensors from outside: raises ValueError, naming them, where they are no state."""
        expected = {
            "counts": (counts, torch.int64, [NUM_BINS]),
            "range": (range, torch.float32, [2]),
        }
        for key, (tensor, dtype, shape) in expected.items():
            if tensor.dtype != dtype or list(tensor.shape) != shape:
                raise ValueError(
                    f"{name}: {key} must be {dtype} {shape}, but is {tensor.dtype} "
                    f"{list(tensor.shape)}"
                )
        histogram = cls(counts, range)
        if bool((counts < 0).any()) or histogram.has_nan_or_inf():
            raise ValueError(f"{name}: counts must not be negative, nor count NaN or Inf")
        if counts.double().sum() >= 2**62:  # or no range could be read from them
            raise ValueError(f"{name}: counts must add up to less than 2^62")
        if not histogram._range_fits():
            raise ValueError(
                f"{name}: range {range.tolist()} does not fit the bins that were counted"
            )
        return histogram

    def _range_fits(self) -> bool:
        least, greatest = self.range.tolist()
        occupied = torch.nonzero(self.counts).flatten()
        if not len(occupied):
            return bool(least == torch.inf and greatest == -torch.inf)
        low, high = bin_ends()
        low, high = low[occupied], high[occupied]
        lowest, highest = int(low.argmin()), int(high.argmax())
        return bool(
            low[lowest] <= least <= high[lowest] and low[highest] <= greatest <= high[highest]
        )

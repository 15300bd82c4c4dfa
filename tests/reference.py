"""What every operator must return, in numpy's int64 and float64, written from docs/numerics.md.

Functions have the names and arguments of the operators. Where the contract rounds a step to
float32, the step is taken in numpy's float32; nothing here is shared with csrc, and half types
convert through torch.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[Any]

FLT_MIN = float(np.finfo(np.float32).tiny)
FLT_MAX = float(np.finfo(np.float32).max)
BLOCK = 4096
LANES = 16


def _float32(tensor: Tensor) -> Array:
    return tensor.detach().float().numpy()


def _int64(tensor: Tensor) -> Array:
    return tensor.detach().numpy().astype(np.int64)


def _along(values: Array, axis: int, ndim: int) -> Array:
    """Reshapes [C] so that it broadcasts along `axis` of an array of `ndim` dimensions."""
    shape = [1] * ndim
    shape[axis] = -1
    return values.reshape(shape)


# choose_qparams


def _qparams_of_range(
    minimum: Array, maximum: Array, quant_min: int, quant_max: int, symmetric: bool
) -> tuple[Array, Array]:
    """Scale and zero point of float64 ranges; min = +Inf, max = -Inf stand for no values at all."""
    empty = minimum > maximum
    low = np.where(empty, 0.0, np.minimum(minimum, 0.0))
    high = np.where(empty, 0.0, np.maximum(maximum, 0.0))
    zero = int(np.clip(0, quant_min, quant_max))
    if symmetric:
        scale = np.maximum(-low, high) / float(quant_max)
        zero_point = np.zeros_like(scale)
    else:
        scale = (high - low) / float(quant_max - quant_min)
        zero_point = np.clip(quant_min - np.rint(low / scale), quant_min, quant_max)
    finite = np.isfinite(low) & np.isfinite(high)
    clamped = np.clip(scale, FLT_MIN, FLT_MAX).astype(np.float32)
    all_zero = (low == 0) & (high == 0)
    scale = np.where(finite, np.where(all_zero, np.float32(1), clamped), np.float32(np.nan))
    zero_point = np.where(finite & ~all_zero, zero_point, zero)
    return scale.astype(np.float32), zero_point.astype(np.int32)


def _choose_qparams(
    rows: Array, quant_min: int, quant_max: int, symmetric: bool
) -> tuple[Array, Array]:
    """One range for each row of a 2-D float32 array; np.min and np.max hand NaN on."""
    with np.errstate(all="ignore"):
        values = rows.astype(np.float64)
        return _qparams_of_range(
            values.min(axis=1, initial=np.inf),
            values.max(axis=1, initial=-np.inf),
            quant_min,
            quant_max,
            symmetric,
        )


def choose_qparams_per_tensor(
    input: Tensor, quant_min: int, quant_max: int, symmetric: bool
) -> tuple[Tensor, Tensor]:
    scale, zero_point = _choose_qparams(
        _float32(input).reshape(1, -1) if input.numel() else np.zeros((1, 0), np.float32),
        quant_min,
        quant_max,
        symmetric,
    )
    return torch.from_numpy(scale).reshape(()), torch.from_numpy(zero_point).reshape(())


def choose_qparams_per_channel(
    input: Tensor, axis: int, quant_min: int, quant_max: int, symmetric: bool
) -> tuple[Tensor, Tensor]:
    channels = np.moveaxis(_float32(input), axis, 0)
    count = channels.shape[0]
    rows = channels.reshape(count, -1) if channels.size else np.zeros((count, 0), np.float32)
    scale, zero_point = _choose_qparams(rows, quant_min, quant_max, symmetric)
    return torch.from_numpy(scale), torch.from_numpy(zero_point)


def _groups(length: int, group_size: int) -> list[slice]:
    return [slice(start, start + group_size) for start in range(0, length, group_size)]


def choose_qparams_per_group(
    input: Tensor, group_size: int, quant_min: int, quant_max: int, symmetric: bool
) -> tuple[Tensor, Tensor]:
    groups = _groups(input.shape[-1], group_size)
    chosen = [
        choose_qparams_per_token(input[..., group], quant_min, quant_max, symmetric)
        for group in groups
    ]
    if not chosen:
        empty = torch.empty(*input.shape[:-1], 0)
        return empty, empty.int()
    return torch.cat([c[0] for c in chosen], -1), torch.cat([c[1] for c in chosen], -1)


def choose_qparams_per_token(
    input: Tensor, quant_min: int, quant_max: int, symmetric: bool
) -> tuple[Tensor, Tensor]:
    tokens = math.prod(input.shape[:-1])
    scale, zero_point = _choose_qparams(
        _float32(input).reshape(tokens, input.shape[-1]), quant_min, quant_max, symmetric
    )
    shape = [*input.shape[:-1], 1]
    return torch.from_numpy(scale).reshape(shape), torch.from_numpy(zero_point).reshape(shape)


# quantize


def _quantize(x: Array, scale: Array, zero_point: Array, quant_min: int, quant_max: int) -> Array:
    with np.errstate(all="ignore"):
        value = x * (np.float32(1) / scale)
        assert value.dtype == np.float32
        low = (quant_min - zero_point).astype(np.float32)
        high = (quant_max - zero_point).astype(np.float32)
        nan = np.isnan(value)
        clamped = np.where(value > low, value, low)
        clamped = np.where(clamped < high, clamped, high)
        code = np.rint(clamped.astype(np.float64)).astype(np.int64) + zero_point
    return np.where(nan, quant_min, np.clip(code, quant_min, quant_max))


def _quantized(
    input: Tensor,
    scale: Array,
    zero_point: Array,
    quant_min: int,
    quant_max: int,
    dtype: torch.dtype,
) -> Tensor:
    codes = _quantize(_float32(input), scale, zero_point, quant_min, quant_max)
    return torch.from_numpy(np.ascontiguousarray(codes)).reshape(input.shape).to(dtype)


def quantize_per_tensor(
    input: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    quant_min: int,
    quant_max: int,
    dtype: torch.dtype,
) -> Tensor:
    return _quantized(
        input,
        _float32(scale).reshape(()),
        _int64(zero_point).reshape(()),
        quant_min,
        quant_max,
        dtype,
    )


def quantize_per_channel(
    input: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    axis: int,
    quant_min: int,
    quant_max: int,
    dtype: torch.dtype,
) -> Tensor:
    return _quantized(
        input,
        _along(_float32(scale), axis, input.ndim),
        _along(_int64(zero_point), axis, input.ndim),
        quant_min,
        quant_max,
        dtype,
    )


def quantize_per_token(
    input: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    quant_min: int,
    quant_max: int,
    dtype: torch.dtype,
) -> Tensor:
    return _quantized(input, _float32(scale), _int64(zero_point), quant_min, quant_max, dtype)


def _of_elements(qparams: Array, length: int, group_size: int) -> Array:
    """[..., groups] to [..., length]: the value of each element's group."""
    return np.repeat(qparams, group_size, axis=-1)[..., :length]


def quantize_per_group(
    input: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    group_size: int,
    quant_min: int,
    quant_max: int,
    dtype: torch.dtype,
) -> Tensor:
    length, group_size = input.shape[-1], min(group_size, max(1, input.shape[-1]))
    return _quantized(
        input,
        _of_elements(_float32(scale), length, group_size),
        _of_elements(_int64(zero_point), length, group_size),
        quant_min,
        quant_max,
        dtype,
    )


def quantize_dynamic_per_tensor(
    input: Tensor, quant_min: int, quant_max: int, symmetric: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    qparams = choose_qparams_per_tensor(input, quant_min, quant_max, symmetric)
    return quantize_per_tensor(input, *qparams, quant_min, quant_max, dtype), *qparams


def quantize_dynamic_per_token(
    input: Tensor, quant_min: int, quant_max: int, symmetric: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    qparams = choose_qparams_per_token(input, quant_min, quant_max, symmetric)
    return quantize_per_token(input, *qparams, quant_min, quant_max, dtype), *qparams


def quantize_dynamic_per_group(
    input: Tensor,
    group_size: int,
    quant_min: int,
    quant_max: int,
    symmetric: bool,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    qparams = choose_qparams_per_group(input, group_size, quant_min, quant_max, symmetric)
    codes = quantize_per_group(input, *qparams, group_size, quant_min, quant_max, dtype)
    return codes, *qparams


# dequantize


def _dequantized(input: Tensor, scale: Array, zero_point: Array, out_dtype: torch.dtype) -> Tensor:
    with np.errstate(all="ignore"):
        values = (_int64(input) - zero_point).astype(np.float32) * scale
    assert values.dtype == np.float32
    return torch.from_numpy(np.ascontiguousarray(values)).reshape(input.shape).to(out_dtype)


def dequantize_per_tensor(
    input: Tensor, scale: Tensor, zero_point: Tensor, *, out_dtype: torch.dtype = torch.float32
) -> Tensor:
    return _dequantized(
        input, _float32(scale).reshape(()), _int64(zero_point).reshape(()), out_dtype
    )


def dequantize_per_channel(
    input: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    axis: int,
    *,
    out_dtype: torch.dtype = torch.float32,
) -> Tensor:
    return _dequantized(
        input,
        _along(_float32(scale), axis, input.ndim),
        _along(_int64(zero_point), axis, input.ndim),
        out_dtype,
    )


def dequantize_per_token(
    input: Tensor, scale: Tensor, zero_point: Tensor, *, out_dtype: torch.dtype = torch.float32
) -> Tensor:
    return _dequantized(input, _float32(scale), _int64(zero_point), out_dtype)


def dequantize_per_group(
    input: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    group_size: int,
    *,
    out_dtype: torch.dtype = torch.float32,
) -> Tensor:
    length, group_size = input.shape[-1], min(group_size, max(1, input.shape[-1]))
    return _dequantized(
        input,
        _of_elements(_float32(scale), length, group_size),
        _of_elements(_int64(zero_point), length, group_size),
        out_dtype,
    )


# quantization_error


def _sum_in_blocks(values: Array) -> float:
    """Element i of a block of 4096 goes to lane i % 16; lanes, then blocks, add in index order."""
    total = 0.0
    for start in range(0, values.size, BLOCK):
        block = values[start : start + BLOCK]
        padded = np.zeros(-(-block.size // LANES) * LANES)
        padded[: block.size] = block
        lanes = np.zeros(LANES)
        for row in padded.reshape(-1, LANES):
            lanes = lanes + row
        block_sum = 0.0
        for lane in lanes:
            block_sum += float(lane)
        total += block_sum
    return total


def quantization_error(original: Tensor, approximation: Tensor) -> Tensor:
    exact = original.detach().double().numpy().reshape(-1)
    with np.errstate(all="ignore"):
        error = exact - approximation.detach().double().numpy().reshape(-1)
        max_error = float(np.max(np.abs(error)))
        absolute = _sum_in_blocks(np.abs(error))
        noise = _sum_in_blocks(error * error)
        signal = _sum_in_blocks(exact * exact)
        ratio = np.float64(signal) / np.float64(noise)
        snr_db = math.inf if max_error == 0 else float(10 * np.log10(ratio))
    return torch.tensor(
        [max_error, absolute / exact.size, noise / exact.size, snr_db], dtype=torch.float64
    )


# fake_quantize


def _fake_quantized(
    input: Tensor, scale: Array, zero_point: Array, quant_min: int, quant_max: int
) -> Tensor:
    codes = _quantized(input, scale, zero_point, quant_min, quant_max, torch.int32)
    return _dequantized(codes, scale, zero_point, input.dtype)


def fake_quantize_per_tensor(
    input: Tensor, scale: Tensor, zero_point: Tensor, quant_min: int, quant_max: int
) -> Tensor:
    one = _float32(scale).reshape(()), _int64(zero_point).reshape(())
    return _fake_quantized(input, *one, quant_min, quant_max)


def fake_quantize_per_channel(
    input: Tensor, scale: Tensor, zero_point: Tensor, axis: int, quant_min: int, quant_max: int
) -> Tensor:
    each = _along(_float32(scale), axis, input.ndim), _along(_int64(zero_point), axis, input.ndim)
    return _fake_quantized(input, *each, quant_min, quant_max)


def _slopes(
    x: Array, scale: Array, zero_point: Array, quant_min: int, quant_max: int
) -> tuple[Array, Array]:
    """Where the gradient of x passes, and the float32 derivative by the scale."""
    with np.errstate(all="ignore"):
        value = x * (np.float32(1) / scale)
        rounded = np.rint(value)
        slope = rounded - value
        assert slope.dtype == np.float32
        code = rounded.astype(np.float64) + zero_point
        nan, below, above = np.isnan(value), code < quant_min, code > quant_max
        slope = np.where(below, (quant_min - zero_point).astype(np.float32), slope)
        slope = np.where(above, (quant_max - zero_point).astype(np.float32), slope)
    return ~(nan | below | above), np.where(nan, np.float32(0), slope)


def _gradient_of_channels(grad: Array, slope: Array, axis: int) -> Array:
    """float32 [C]: the products of each slice of axis, summed in the order of their indices."""
    with np.errstate(all="ignore"):
        products = grad.astype(np.float64) * slope.astype(np.float64)
        channels = np.moveaxis(products, axis, 0)
        count = channels.shape[0]
        rows = channels.reshape(count, -1) if channels.size else np.zeros((count, 0))
        sums = np.array([_sum_in_blocks(row) for row in rows], np.float64)
        return sums.astype(np.float32)


def fake_quantize_per_channel_backward(
    grad: Tensor,
    input: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    axis: int,
    quant_min: int,
    quant_max: int,
    scale_requires_grad: bool,
) -> tuple[Tensor, Tensor]:
    each = _along(_float32(scale), axis, input.ndim), _along(_int64(zero_point), axis, input.ndim)
    inside, slope = _slopes(_float32(input), *each, quant_min, quant_max)
    gradient = np.where(inside, _float32(grad), np.float32(0))
    of_input = torch.from_numpy(np.ascontiguousarray(gradient)).reshape(input.shape).to(input.dtype)
    if not scale_requires_grad:
        return of_input, torch.empty(0)
    return of_input, torch.from_numpy(_gradient_of_channels(_float32(grad), slope, axis))


def fake_quantize_per_tensor_backward(
    grad: Tensor,
    input: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    quant_min: int,
    quant_max: int,
    scale_requires_grad: bool,
) -> tuple[Tensor, Tensor]:
    of_input, of_scale = fake_quantize_per_channel_backward(
        grad.reshape(1, -1),
        input.reshape(1, -1),
        scale.reshape(1),
        zero_point.reshape(1),
        0,
        quant_min,
        quant_max,
        scale_requires_grad,
    )
    if scale_requires_grad:
        of_scale = of_scale.reshape(scale.shape)
    return of_input.reshape(input.shape), of_scale


# histogram


def _integer_bits(input: Tensor) -> Array:
    input = input.detach().contiguous().reshape(-1)
    return input.view({4: torch.int32, 2: torch.int16}[input.element_size()]).numpy()


def _nan_payload(bits: Array, dtype: torch.dtype) -> Array:
    """The 6 bits of mantissa of a NaN as float32, which a float16 becomes as a quiet one."""
    if dtype == torch.float16:
        return bits >> 4 & 63 | 32
    return bits >> (17 if dtype == torch.float32 else 1) & 63


def _bins(input: Tensor) -> Array:
    """Sign, exponent and 6 bits of mantissa, from the value; but the sign, and of NaN the mantissa,
    are in its bits only."""
    x, bits = _float32(input).reshape(-1), _integer_bits(input)
    with np.errstate(all="ignore"):
        magnitude = np.abs(x.astype(np.float64))
        fraction, exponent = np.frexp(magnitude)
        octave = exponent.astype(np.int64) + 126
        within = np.floor((2 * fraction - 1) * 64)
        bins = np.where(magnitude >= FLT_MIN, octave * 64 + within, np.floor(magnitude * 2.0**132))
    bins = np.where(np.isinf(x), 255 * 64, bins)
    bins = np.where(np.isnan(x), 255 * 64 + _nan_payload(bits, input.dtype), bins)
    return bins.astype(np.int64) + np.where(bits < 0, 1 << 14, 0)


def histogram_observe_(counts: Tensor, range: Tensor, input: Tensor) -> tuple[Tensor, Tensor]:
    """The counts and the range afterwards; the arguments stay as they are."""
    x = _float32(input).reshape(-1)
    added = np.bincount(_bins(input), minlength=1 << 15)
    seen = np.concatenate([_float32(range), x[np.isfinite(x)]])
    ends = np.array([seen[0], seen[1]])
    if seen.size > 2:
        ends = np.array([min(seen[0], seen[2:].min()), max(seen[1], seen[2:].max())])
    ends = np.where(ends == 0, np.float32(0), ends)
    return counts + torch.from_numpy(added), torch.from_numpy(ends.astype(np.float32))


class Stretches:
    """A histogram as stretches [low, high], ascending, with the count that is uniform on each.

    Values in the bin of a known end, the greatest and perhaps the least, count as that end. If both
    ends are known and in one bin, values are spread between them.
    """

    def __init__(
        self, low: Array, high: Array, count: Array, ends: tuple[float, float], known: str
    ) -> None:
        some = count > 0
        self.low, self.high = low[some], high[some]
        self.count = count[some].astype(np.float64)
        self.ends = ends
        if known == "both" and self.low.size == 1:
            self.low[0], self.high[0] = ends
            return
        if known == "both":
            self.low[0] = self.high[0] = ends[0]
        self.low[-1] = self.high[-1] = ends[1]


def _edges() -> Array:
    """Where the positive bins begin, and where the last ends: values whose other bits are zero."""
    starts = np.arange(255 * 64, dtype=np.uint32) << 17
    return np.append(starts.view(np.float32).astype(np.float64), 2.0**128)


def _of_signs(counts: Tensor) -> tuple[Array, Array]:
    both = counts.numpy().reshape(2, 1 << 14)[:, : 255 * 64]
    return both[0], both[1]


def histogram_values(counts: Tensor, range: Tensor) -> Stretches:
    edges, (positive, negative) = _edges(), _of_signs(counts)
    return Stretches(
        np.concatenate([-edges[:0:-1], edges[:-1]]),
        np.concatenate([-edges[-2::-1], edges[1:]]),
        np.concatenate([negative[::-1], positive]),
        (float(range[0]), float(range[1])),
        "both",
    )


def histogram_magnitudes(counts: Tensor, range: Tensor) -> Stretches:
    edges, (positive, negative) = _edges(), _of_signs(counts)
    absmax = max(-float(range[0]), float(range[1]))
    return Stretches(edges[:-1], edges[1:], positive + negative, (0.0, absmax), "greatest")


def _ordered(all: Stretches) -> Array:
    """Every value by itself, in the middle of its part of its stretch."""
    each = all.count.astype(np.int64)
    index = np.repeat(np.arange(each.size), each)
    order = np.arange(index.size) - np.repeat(np.cumsum(each) - each, each)
    share = (order + 0.5) / all.count[index]
    values: Array = all.low[index] + (all.high - all.low)[index] * share
    return values


def _percentile_range(
    counts: Tensor, range: Tensor, symmetric: bool, percentile: float
) -> tuple[float, float]:
    if symmetric:
        end = np.quantile(_ordered(histogram_magnitudes(counts, range)), percentile / 100)
        return -float(end), float(end)
    values = _ordered(histogram_values(counts, range))
    outside = (100 - percentile) / 200
    low, high = np.quantile(values, [outside, 1 - outside])
    return float(low), float(high)


class Moments:
    """Of the values below a point: how many they are, their sum and the sum of their squares."""

    def __init__(self, all: Stretches) -> None:
        wide = all.high > all.low
        self.points, self.weights = all.low[~wide], all.count[~wide]
        self.low, self.high, self.count = all.low[wide], all.high[wide], all.count[wide]
        whole = [self._of_part(power, self.high, slice(None)) for power in (0, 1, 2)]
        self.before = [np.cumsum(part) - part for part in whole]

    def _of_part(self, power: int, to: Array, index: Array | slice) -> Array:
        low, high = self.low[index], self.high[index]
        density = self.count[index] / (high - low)
        part: Array = density * (to ** (power + 1) - low ** (power + 1)) / (power + 1)
        return part

    def below(self, at: Array) -> list[Array]:
        """One array for each power, 0, 1 and 2, of the stretches that are wider than a point."""
        if self.low.size == 0:
            return [np.zeros_like(at)] * 3
        index = np.minimum(np.searchsorted(self.high, at), self.high.size - 1)
        to = np.clip(at, self.low[index], self.high[index])
        return [self.before[power][index] + self._of_part(power, to, index) for power in (0, 1, 2)]


def histogram_error(
    moments: Moments, quant_min: int, quant_max: int, scale: float, zero_point: int
) -> float:
    """The expected sum of squared errors: each code serves the values that are nearest to it, and
    sum((x - c)^2) = sum(x^2) - 2 c sum(x) + c^2 count. Up to 10 bits or so: it cancels."""
    codes = np.arange(quant_min, quant_max + 1) - float(zero_point)
    centres = scale * codes
    edges = np.concatenate([[-1e300], scale * (codes[1:] - 0.5), [1e300]])
    count, total, squares = (np.diff(m) for m in moments.below(edges))
    error = float(np.sum(squares - 2 * centres * total + centres * centres * count))
    nearest = np.clip(np.rint(moments.points / scale), codes[0], codes[-1]) * scale
    return error + float(np.sum(moments.weights * (moments.points - nearest) ** 2))


def histogram_error_of_range(
    moments: Moments, low: float, high: float, quant_min: int, quant_max: int, symmetric: bool
) -> float:
    ends = np.array([low]), np.array([high])
    scale, zero_point = _qparams_of_range(*ends, quant_min, quant_max, symmetric)
    return histogram_error(moments, quant_min, quant_max, float(scale[0]), int(zero_point[0]))


def least_histogram_error(
    counts: Tensor, range: Tensor, quant_min: int, quant_max: int, symmetric: bool
) -> float:
    """Over all ranges on a grid of shares of the exact one, both ends by themselves if affine: 12
    octaves in steps of 2^(1/2), then closely around the best of these."""
    moments = Moments(histogram_values(counts, range))
    least, greatest = min(float(range[0]), 0.0), max(float(range[1]), 0.0)
    if symmetric:
        greatest = max(-least, greatest)
        least = -greatest

    def best_of(lows: Array, highs: Array) -> tuple[float, float, float]:
        pairs = [(a, a) for a in highs] if symmetric else [(a, b) for a in lows for b in highs]
        parameters = (quant_min, quant_max, symmetric)
        return min(
            (histogram_error_of_range(moments, least * a, greatest * b, *parameters), a, b)
            for a, b in pairs
        )

    def usable(shares: Array, end: float) -> Array:
        return shares if end != 0 else np.ones(1)

    coarse = 2.0 ** -(np.arange(24) / 2)
    _, low, high = best_of(usable(coarse, least), usable(coarse, greatest))
    close = 2.0 ** np.linspace(-0.5, 0.5, 201 if symmetric else 21)
    found = best_of(
        usable(np.minimum(low * close, 1), least), usable(np.minimum(high * close, 1), greatest)
    )
    return found[0]


LINEAR_BINS = 2048


def _linear_counts(all: Stretches) -> Array:
    """Of magnitudes, zeros left out: each linear bin takes the part of a stretch that it covers."""
    counts = np.zeros(LINEAR_BINS)
    edges = np.arange(LINEAR_BINS + 1.0)
    unit = all.ends[1] / LINEAR_BINS
    for low, high, count in zip(all.low / unit, all.high / unit, all.count, strict=True):
        if low == 0:
            continue
        covered = np.clip(np.minimum(high, edges[1:]) - np.maximum(low, edges[:-1]), 0, None)
        if high == low:
            covered = np.zeros(LINEAR_BINS)
            covered[-1] = 1
        counts += count * covered / covered.sum()
    return counts


def _divergence(counts: Array, bins: int, levels: int) -> float:
    """KL(P || Q) in nats, each of them normalised."""
    p, q = counts[:bins].copy(), np.zeros(bins)
    p[-1] += counts[bins:].sum()
    starts = np.arange(levels) * bins // levels
    mass = np.add.reduceat(counts[:bins], starts)
    occupied = np.add.reduceat((counts[:bins] > 0).astype(np.float64), starts)
    mean = mass / np.maximum(occupied, 1)
    q = np.where(counts[:bins] > 0, np.repeat(mean, np.diff(np.append(starts, bins))), 0)
    some = p > 0
    if (q[some] == 0).any():
        return math.inf
    p, q = p[some] / p.sum(), q[some] / q.sum()
    return float(np.sum(p * np.log(p / q)))


def entropy_bins(counts: Tensor, range: Tensor, levels: int) -> int:
    """How many of the linear bins are kept: those of the least divergence, of equal ones most."""
    linear = _linear_counts(histogram_magnitudes(counts, range))
    best, least = LINEAR_BINS, math.inf
    for bins in np.arange(LINEAR_BINS, levels - 1, -1):
        found = _divergence(linear, int(bins), levels)
        if found < least:
            best, least = int(bins), found
    return best


def _entropy_range(
    counts: Tensor, range: Tensor, quant_min: int, quant_max: int, symmetric: bool
) -> tuple[float, float]:
    low, high = float(range[0]), float(range[1])
    levels = quant_max - quant_min + 1
    if symmetric:
        levels = quant_max + 1
    elif low < 0 < high:
        levels = -(-levels // 2)
    end = max(-low, high) * entropy_bins(counts, range, levels) / LINEAR_BINS
    return min(max(low, -end), 0.0), max(min(high, end), 0.0)


def histogram_qparams(
    counts: Tensor,
    range: Tensor,
    quant_min: int,
    quant_max: int,
    symmetric: bool,
    method: str,
    percentile: float,
) -> tuple[Tensor, Tensor]:
    """Of every method but "mse", whose error is known, see least_histogram_error, not its range.
    What is chosen is a float32 range, of which come scale and zero point as of any other."""
    low, high = math.inf, -math.inf
    if counts.sum() > 0:
        low, high = float(range[0]), float(range[1])
        if method == "percentile" and (low, high) != (0, 0):
            low, high = _percentile_range(counts, range, symmetric, percentile)
        if method == "entropy" and (low, high) != (0, 0):
            low, high = _entropy_range(counts, range, quant_min, quant_max, symmetric)
    ends = np.float32([low]).astype(np.float64), np.float32([high]).astype(np.float64)
    with np.errstate(all="ignore"):
        scale, zero_point = _qparams_of_range(*ends, quant_min, quant_max, symmetric)
    return torch.from_numpy(scale).reshape(()), torch.from_numpy(zero_point).reshape(())


# pack_bits


def pack_bits(input: Tensor, num_bits: int) -> Tensor:
    length = input.shape[-1]
    rows = _int64(input).reshape(math.prod(input.shape[:-1]), length)
    bits = (rows[:, :, None] >> np.arange(num_bits)) & 1
    packed = np.packbits(
        bits.reshape(rows.shape[0], length * num_bits).astype(np.uint8), axis=1, bitorder="little"
    )
    return torch.from_numpy(packed).reshape(*input.shape[:-1], -(-length * num_bits // 8))


def unpack_bits(packed: Tensor, num_bits: int, last_dim: int, dtype: torch.dtype) -> Tensor:
    rows = packed.numpy().reshape(math.prod(packed.shape[:-1]), packed.shape[-1])
    bits = np.unpackbits(rows, axis=1, count=last_dim * num_bits, bitorder="little")
    codes = bits.reshape(rows.shape[0], last_dim, num_bits).astype(np.int64) @ (
        1 << np.arange(num_bits, dtype=np.int64)
    )
    if dtype == torch.int8:
        codes = np.where(codes >= 1 << (num_bits - 1), codes - (1 << num_bits), codes)
    return torch.from_numpy(codes).reshape(*packed.shape[:-1], last_dim).to(dtype)


# int8_matmul


def int8_matmul(a: Tensor, b: Tensor) -> Tensor:
    product = np.matmul(_int64(a), _int64(b))
    assert product.size == 0 or np.abs(product).max() < 1 << 31
    return torch.from_numpy(product).to(torch.int32)


def pack_weight(weight: Tensor) -> Tensor:
    rows, columns = weight.shape
    padded = np.zeros((-(-rows // 16) * 16, -(-columns // 4) * 4), np.int8)
    padded[:rows, :columns] = weight.numpy()
    blocks = padded.reshape(padded.shape[0] // 16, 16, padded.shape[1] // 4, 4)
    return torch.from_numpy(np.ascontiguousarray(blocks.transpose(0, 2, 1, 3)))


def unpack_weight(packed: Tensor, out_features: int, in_features: int) -> Tensor:
    panels, groups, outputs, inputs = packed.shape
    weight = packed.numpy().transpose(0, 2, 1, 3).reshape(panels * outputs, groups * inputs)
    return torch.from_numpy(np.ascontiguousarray(weight[:out_features, :in_features]))


def int8_matmul_packed(
    a: Tensor, packed_weight: Tensor, out_features: int, weight_sum: Tensor | None = None
) -> Tensor:
    return int8_matmul(a, unpack_weight(packed_weight, out_features, a.shape[-1]).t())


# linear


def _linear(
    codes: Tensor,
    scale: Array,
    zero_point: Array,
    packed_weight: Tensor,
    weight_scale: Tensor,
    weight_sum: Tensor,
    bias: Tensor | None,
    activation: str,
) -> Array:
    """float32 [..., N] of [..., K] codes with a scale and zero point that broadcast to [..., 1]."""
    weight = unpack_weight(packed_weight, weight_scale.numel(), codes.shape[-1])
    accumulator = np.matmul(_int64(codes), _int64(weight).T) - zero_point * _int64(weight_sum)
    accumulator = accumulator.astype(np.int32)  # modulo 2^32
    with np.errstate(all="ignore"):
        result = accumulator.astype(np.float32) * scale
        result = result * _float32(weight_scale)
        if bias is not None:
            result = result + _float32(bias)
        if activation == "relu":
            result = np.where(result < 0, np.float32(0), result)  # -0 stays, as in torch
    assert result.dtype == np.float32
    return result


def _rounded(result: Array, dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(result)).to(dtype)


def linear_dynamic(
    input: Tensor,
    packed_weight: Tensor,
    weight_scale: Tensor,
    weight_sum: Tensor,
    bias: Tensor | None = None,
    activation: str = "none",
) -> Tensor:
    scale, zero_point = choose_qparams_per_token(input, 0, 255, False)
    codes = quantize_per_token(input, scale, zero_point, 0, 255, torch.uint8)
    layer = (packed_weight, weight_scale, weight_sum, bias, activation)
    return _rounded(_linear(codes, _float32(scale), _int64(zero_point), *layer), input.dtype)


def linear_static(
    input: Tensor,
    input_scale: Tensor,
    input_zero_point: Tensor,
    packed_weight: Tensor,
    weight_scale: Tensor,
    weight_sum: Tensor,
    bias: Tensor | None = None,
    activation: str = "none",
    output_scale: Tensor | None = None,
    output_zero_point: Tensor | None = None,
    output_dtype: torch.dtype | None = None,
) -> Tensor:
    codes, out_dtype = input, output_dtype or torch.float32
    if input.is_floating_point():
        codes = quantize_per_tensor(input, input_scale, input_zero_point, 0, 255, torch.uint8)
        out_dtype = output_dtype or input.dtype
    result = _linear(
        codes,
        _float32(input_scale).reshape(()),
        _int64(input_zero_point).reshape(()),
        packed_weight,
        weight_scale,
        weight_sum,
        bias,
        activation,
    )
    if output_scale is None or output_zero_point is None:
        return _rounded(result, out_dtype)
    out_dtype = output_dtype or torch.uint8
    limits = torch.iinfo(out_dtype)
    return quantize_per_tensor(
        _rounded(result, torch.float32),
        output_scale,
        output_zero_point,
        limits.min,
        limits.max,
        out_dtype,
    )

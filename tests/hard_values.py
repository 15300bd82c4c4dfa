"""Values, scales and zero points of every kind that quantizing treats apart, mixed at random."""

from __future__ import annotations

import functools
import math

import torch
from reference import FLT_MAX, FLT_MIN
from samples import I8, I16, I32, U8, floats, integers, scales, zero_points
from torch import Tensor

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1
HARD_SCALES = [
    0.0, -0.0, -0.05, math.nan, math.inf, -math.inf, 1e-45, -1e-45, 2e-39, FLT_MIN, FLT_MAX,
    -FLT_MAX,
]  # fmt: skip
# Beyond the codes, beyond what float32 counts exactly, and at the ends of int32.
HARD_ZERO_POINTS = [
    256, -129, 65535, 2**23 - 1, 2**23 + 1, -(2**24) - 1, 2**30, INT32_MIN, INT32_MIN + 128,
    INT32_MAX, INT32_MAX - 127,
]  # fmt: skip
_SIZE = 1 << 18  # of the values that others are drawn from


def _chosen(kinds: list[Tensor], seed: int) -> Tensor:
    """Of each element, the kind that chance takes."""
    generator = torch.Generator().manual_seed(seed)
    which = torch.randint(len(kinds), (1, _SIZE), generator=generator)
    return torch.stack(kinds).gather(0, which).squeeze(0)


def _any_of(values: list[float], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.tensor(values)[torch.randint(len(values), (_SIZE,), generator=generator)]


@functools.cache
def _all_values(dtype: torch.dtype, finite: bool) -> Tensor:
    info = torch.finfo(dtype)
    normal = floats(_SIZE)
    ties = (integers(_SIZE, low=-300, high=300, dtype=I32, seed=1) + 0.5) * 0.25
    denormal = integers(_SIZE, low=-9, high=9, dtype=I32, seed=2) * info.smallest_normal / 8
    ends = [info.max, -info.max, info.max / 3] if not finite else [0.0]
    special = [math.nan, -math.nan, math.inf, -math.inf] if not finite else [-0.0]
    few = [0.0, -0.0, *ends, *special, info.tiny, -info.tiny, info.smallest_normal]
    kinds = [normal, normal, ties, ties, 300 * floats(_SIZE, seed=3), denormal, _any_of(few, 4)]
    return _chosen(kinds, 5).to(dtype)


def values(*shape: int, dtype: torch.dtype, seed: int = 0, finite: bool = False) -> Tensor:
    """Normal ones, ties of a scale of 1/4, far ones, denormals, zeros of both signs and, unless
    they are to be finite and of moderate size, NaN, infinities and the greatest."""
    return _drawn(_all_values(dtype, finite), *shape, seed=seed)


def _drawn(pool: Tensor, *shape: int, seed: int) -> Tensor:
    size = math.prod(shape)
    if size > len(pool):
        pool = pool.repeat(-(-size // len(pool)))
    begin = 997 * seed % (len(pool) - size + 1)
    return pool[begin : begin + size].reshape(shape).clone()


@functools.cache
def _all_codes(dtype: torch.dtype) -> Tensor:
    info = torch.iinfo(dtype)
    low, high = max(info.min, -65536), min(info.max, 65535)
    usual = integers(_SIZE, low=low, high=high, dtype=I32)
    ends = torch.tensor([info.min, info.max, info.min + 1, 0], dtype=I32)
    return torch.where(usual % 5 == 0, ends[usual % 4], usual).to(dtype)


def codes(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Of the whole range of the dtype, its ends among them."""
    return _drawn(_all_codes(dtype), *shape, seed=seed)


def hard_scales(*shape: int, seed: int = 0) -> Tensor:
    """Ordinary ones, powers of two that make ties, and one in four of the others."""
    usual, hard = scales(*shape, seed=seed), torch.tensor(HARD_SCALES)
    chance = integers(*shape, low=0, high=7, dtype=torch.int64, seed=seed + 1)
    which = integers(*shape, low=0, high=len(hard) - 1, dtype=torch.int64, seed=seed + 2)
    result = torch.where(chance < 2, hard[which], usual)
    return torch.where(chance == 7, 0.25, result)


def hard_zero_points(*shape: int, seed: int = 0) -> Tensor:
    """Ordinary ones, and one in four of the others."""
    usual, hard = zero_points(*shape, seed=seed), torch.tensor(HARD_ZERO_POINTS, dtype=I32)
    chance = integers(*shape, low=0, high=7, dtype=torch.int64, seed=seed + 3)
    which = integers(*shape, low=0, high=len(hard) - 1, dtype=torch.int64, seed=seed + 4)
    return torch.where(chance < 2, hard[which], usual)


# The dtypes of codes, each with a range of them.
LIMITS = {I8: (-128, 127), U8: (0, 255), I16: (-3000, 3000), I32: (-65536, 65535)}

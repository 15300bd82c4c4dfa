"""Codes of few bits without gaps, and back."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial, reduce
from math import lcm
from typing import Any

import torch
from check import EXACT
from operands import Operands
from timing import Call
from torch import Tensor
from work import Traffic, Way, Work, ours

from torchquant import ops


def _codes(num_bits: int, operands: Operands) -> Tensor:
    return operands.codes >> (8 - num_bits)


def _shift(x: Tensor, left: int) -> Tensor:
    """Shift to the left, or by a negative count to the right; bits beyond the byte are lost."""
    if left == 0:
        return x
    return x << left if left > 0 else x >> -left


def _meetings(num_bits: int) -> Iterator[tuple[int, int, int]]:
    """Return which code meets which byte, and how many bits after its start, until all repeats."""
    period = lcm(num_bits, 8)
    for code in range(period // num_bits):
        for byte in range(period // 8):
            left = num_bits * code - 8 * byte
            if -num_bits < left < 8:
                yield code, byte, left


def _grouped(x: Tensor, count: int) -> Tensor:
    return x.view(*x.shape[:-1], -1, count)


def _joined(parts: list[Tensor]) -> Tensor:
    """Return the parts in turn, as rows."""
    return parts[0] if len(parts) == 1 else torch.stack(parts, -1).flatten(-2)


def _plain_pack(codes: Tensor, num_bits: int) -> Tensor:
    """Shift the codes that share a byte, each to its place, and combine them."""
    period = lcm(num_bits, 8)
    unsigned = codes.view(torch.uint8) & ((1 << num_bits) - 1)
    groups = _grouped(unsigned, period // num_bits)
    parts: list[list[Tensor]] = [[] for _ in range(period // 8)]
    for code, byte, left in _meetings(num_bits):
        parts[byte].append(_shift(groups[..., code], left))
    return _joined([reduce(torch.bitwise_or, shifted) for shifted in parts])


def _plain_unpack(packed: Tensor, num_bits: int) -> Tensor:
    """Shift each code to the top of a byte, and back with its sign."""
    period, top = lcm(num_bits, 8), 8 - num_bits
    groups = _grouped(packed, period // 8)
    parts: list[list[Tensor]] = [[] for _ in range(period // num_bits)]
    for code, byte, left in _meetings(num_bits):
        parts[code].append(_shift(groups[..., byte], top - left))
    combined = (reduce(torch.bitwise_or, shifted) for shifted in parts)
    return _joined([byte.view(torch.int8) >> top for byte in combined])


def _bind_pack(num_bits: int, operands: Operands) -> partial[Any]:
    return partial(ops.pack_bits, _codes(num_bits, operands), num_bits)


def _bind_plain_pack(num_bits: int, operands: Operands) -> Call:
    return partial(_plain_pack, _codes(num_bits, operands), num_bits)


def _bind_unpack(num_bits: int, operands: Operands) -> partial[Any]:
    packed = ops.pack_bits(_codes(num_bits, operands), num_bits)
    return partial(ops.unpack_bits, packed, num_bits, operands.size.columns, torch.int8)


def _bind_plain_unpack(num_bits: int, operands: Operands) -> Call:
    return partial(_plain_unpack, ops.pack_bits(_codes(num_bits, operands), num_bits), num_bits)


_PEER = "plain torch shifts"


def _pack(num_bits: int) -> Work:
    peer = Way(_PEER, partial(_bind_plain_pack, num_bits), note="takes the codes on trust")
    return Work(
        f"pack {num_bits} bits",
        (*ours("ops.pack_bits", partial(_bind_pack, num_bits)), peer),
        lambda _itemsize: Traffic(1, num_bits / 8),
        EXACT,
        is_of_codes=True,
    )


def _unpack(num_bits: int) -> Work:
    peer = Way(_PEER, partial(_bind_plain_unpack, num_bits))
    return Work(
        f"unpack {num_bits} bits",
        (*ours("ops.unpack_bits", partial(_bind_unpack, num_bits)), peer),
        lambda _itemsize: Traffic(num_bits / 8, 1),
        EXACT,
        is_of_codes=True,
    )


BITS = (*map(_pack, (4, 2, 3)), *map(_unpack, (4, 2, 3)))

"""Tensors between pages that nobody may touch: whoever reads or writes beyond them crashes."""

from __future__ import annotations

import ctypes
import mmap

import torch
from torch import Tensor

PAGE = mmap.PAGESIZE
_PROT_NONE = 0

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def _fence(address: int) -> None:
    if _libc.mprotect(address, PAGE, _PROT_NONE) != 0:
        raise OSError(ctypes.get_errno(), "mprotect")


def _room(size: int, at_end: bool) -> Tensor:
    """`size` bytes that begin just after one such page, or end just before another."""
    pages = -(-size // PAGE)
    memory = mmap.mmap(-1, (pages + 2) * PAGE)
    begin = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    _fence(begin)
    _fence(begin + (pages + 1) * PAGE)
    offset = PAGE + (pages * PAGE - size if at_end else 0)
    room = torch.frombuffer(memory, dtype=torch.uint8, count=size, offset=offset)
    assert room.data_ptr() == begin + offset
    return room


def guarded(tensor: Tensor, at_end: bool) -> Tensor:
    """The same values at the same strides, from the first of its bytes to the last."""
    if tensor.numel() == 0:
        return tensor
    extent = 1 + sum(
        (size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )
    room = _room(extent * tensor.element_size(), at_end).view(tensor.dtype)
    copy = room.as_strided(tensor.shape, tensor.stride())
    copy.copy_(tensor)
    return copy

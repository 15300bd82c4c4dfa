"""The limit of a work: PyTorch moving as many bytes in and as many out, without any arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from timing import Call
from torch import Tensor
from work import Output, Traffic


@dataclass(frozen=True)
class Limit:
    """A call that moves the bytes: `copy_`, and a sum or `fill_` of what one side has more.

    Into a fresh tensor where the work's output is one, since its pages cost more than the bytes.
    """

    traffic: Traffic
    output: Output

    @property
    def name(self) -> str:
        """Of what it consists."""
        read, written = self.traffic
        parts = ["empty"] if self.output == "fresh" and written else []
        parts += ["copy_"] if read and written else []
        parts += ["sum"] if read > written else ["fill_"] if written > read else []
        return " + ".join(parts)

    def call(self) -> Call:
        """Allocate, and return the call."""
        read, written = (round(count) // 4 for count in self.traffic)  # in float32
        copied = min(read, written)
        source = torch.ones(read)
        if not written:
            return source.sum
        head, rest = source[:copied], source[copied:]
        has_rest, is_filled = read > written, written > read
        out = torch.zeros(written) if self.output == "out" else None

        def move() -> Tensor:
            target = torch.empty(written) if out is None else out
            if is_filled:
                target[copied:].fill_(0)
                return target[:copied].copy_(head)
            if has_rest:
                rest.sum()
            return target.copy_(head)

        return move

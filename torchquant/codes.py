"""The codes that a number of bits has."""

from __future__ import annotations

from torchquant.arguments import check_integer


def code_range(num_bits: int, symmetric: bool) -> tuple[int, int]:
    """quant_min and quant_max: [-2^(b-1), 2^(b-1) - 1], or [0, 2^b - 1] where affine."""
    check_integer(num_bits, "num_bits", "8 is usual")
    if not 2 <= num_bits <= 16:
        raise ValueError(f"num_bits must lie in [2, 16], but got {num_bits}: 8 is usual")
    if symmetric:
        return -(2 ** (num_bits - 1)), 2 ** (num_bits - 1) - 1
    return 0, 2**num_bits - 1

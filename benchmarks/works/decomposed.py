"""The operators of quantized_decomposed, which torch.export programs call, by granularity."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.ao.quantization.fx._decomposed
from granularity import Granularity
from torch import Tensor

RANGE = (-128, 127)  # of the codes of all works, unless they say otherwise

_NAMES = {"per_group": "per_channel_group"}


def name_of(verb: str, granularity: Granularity) -> str:
    """Return the operator's name."""
    return f"quantized_decomposed::{verb}_{_NAMES.get(granularity.suffix, granularity.suffix)}"


def bind(
    verb: str,
    granularity: Granularity,
    x: Tensor,
    qparams: tuple[Tensor, Tensor],
    out_dtype: torch.dtype | None = None,
) -> partial[Any]:
    """Return a call of quantize or, with an out_dtype, dequantize, in int8."""
    operator = getattr(
        torch.ops.quantized_decomposed, name_of(verb, granularity).partition("::")[2]
    )
    suffix, arguments = granularity.suffix, granularity.arguments
    if suffix == "per_tensor":
        scale, zero_point = qparams
        call = partial(operator, x, scale.item(), zero_point.item(), *RANGE, torch.int8)
    elif suffix == "per_channel":
        call = partial(operator, x, *qparams, *arguments, *RANGE, torch.int8)
    else:
        call = partial(operator, x, *qparams, *RANGE, torch.int8, *arguments)
    if out_dtype is None:
        return call
    if suffix in ("per_tensor", "per_channel"):
        return partial(call, out_dtype=out_dtype)
    return partial(call, out_dtype)

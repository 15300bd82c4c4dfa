"""Quantizing the weight of a linear layer: which can be, and how its scales are chosen."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from torchquant import ops

QUANT_MIN, QUANT_MAX = -128, 127
MAX_IN_FEATURES = 65_793  # above it the sums of uint8 x int8 products may not fit int32
WEIGHT_METHODS = ("minmax", "mse")

_SHARES = tuple(2 ** (-step / 32) for step in range(65))  # of the range, down to a quarter


def check_weight(linear: torch.nn.Linear, name: str) -> None:
    """Raises ValueError, naming the layer, where its weight cannot be quantized."""
    weight = linear.weight.detach()
    if weight.is_meta or not weight.is_floating_point():
        raise ValueError(
            f"{name} must have a floating-point weight with data, but got {weight.dtype} on "
            f"{weight.device}: load the model's weights first"
        )
    if not torch.isfinite(weight.float()).all():
        raise ValueError(
            f"{name} must have a finite weight, but {list(weight.shape)} holds NaN or Inf (as "
            "float32): quantize a model whose weights are sound"
        )


def check_replaceable(linear: torch.nn.Linear, name: str) -> None:
    """Raises ValueError, naming the layer, where none with a quantized weight can stand for it."""
    check_no_hooks(linear, name)
    check_weight(linear, name)


def check_no_hooks(linear: torch.nn.Module, name: str) -> None:
    """Raises ValueError, naming the layer, where a layer in its place would leave something out."""
    hooks = linear._forward_hooks or linear._forward_pre_hooks or linear._backward_hooks
    if hooks or linear._backward_pre_hooks or "forward" in vars(linear):
        raise ValueError(
            f"{name} must have no hooks, which a quantized layer would not run, but has some: "
            "remove them first (torch.nn.utils.remove_weight_norm, torch.nn.utils.prune.remove, "
            "handle.remove()), or leave the layer in float by filter_fn"
        )


def check_quantizable(linear: torch.nn.Linear, name: str) -> None:
    """Raises ValueError, naming the layer, where none that multiplies in int8 can stand for it."""
    check_replaceable(linear, name)
    if linear.in_features > MAX_IN_FEATURES:
        raise ValueError(
            f"{name} must have at most {MAX_IN_FEATURES} inputs, or the int32 sums may overflow, "
            f"but has {linear.in_features}: leave it in float by filter_fn"
        )


def check_weight_method(weight_method: str) -> None:
    """Raises ValueError where scales cannot be chosen in this way."""
    if weight_method not in WEIGHT_METHODS:
        raise ValueError(
            f'weight_method must be "minmax" or "mse", but got {weight_method!r}: "minmax" keeps '
            "every weight in range"
        )


def quantize_weight(weight: Tensor, weight_method: str = "minmax") -> tuple[Tensor, Tensor]:
    """Codes, int8 ``[N, K]``, and scales, float32 ``[N]``: symmetric, one for each row.

    "minmax": ``scale = max|w| / 127``. "mse": of 65 shares of that, down to a quarter, the one
    whose codes have the least squared error over the row, measured on the weights themselves.
    """
    weight = weight.float()
    scale, zero_point = ops.choose_qparams_per_channel(weight, 0, QUANT_MIN, QUANT_MAX, True)
    if weight_method == "mse" and weight.numel() > 0:
        scale = _least_error_scale(weight, scale, zero_point)
    codes = ops.quantize_per_channel(weight, scale, zero_point, 0, QUANT_MIN, QUANT_MAX, torch.int8)
    return codes, scale


def _least_error_scale(weight: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    best, least = scale, torch.full_like(scale, torch.inf, dtype=torch.float64)
    for share in _SHARES:
        tried = (scale * share).clamp_min(torch.finfo(torch.float32).tiny)
        restored = ops.fake_quantize_per_channel(weight, tried, zero_point, 0, QUANT_MIN, QUANT_MAX)
        error = (restored.double() - weight.double()).square().sum(dim=1)
        best = torch.where(error < least, tried, best)
        least = torch.minimum(error, least)
    return best


def snr_db(original: Tensor, approximation: Tensor) -> float:
    """That of :func:`torchquant.ops.quantization_error`; nothing is lost of an empty tensor."""
    if original.numel() == 0:
        return math.inf
    return ops.quantization_error(original, approximation)[3].item()

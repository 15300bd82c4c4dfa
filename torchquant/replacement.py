"""Putting quantized layers in the place of float ones."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from torchquant.nn import QuantizedLinear


def replace(
    model: torch.nn.Module, layers: Mapping[torch.nn.Module, QuantizedLinear]
) -> torch.nn.Module:
    """The model with each key of ``layers`` replaced by its value, wherever the model has it."""
    _disable_fast_paths(model, layers)
    if model in layers:
        return layers[model]
    for module in list(model.modules()):
        # _modules, unlike named_children, lists a child under each of its names.
        for name, child in list(module._modules.items()):
            if child is not None and child in layers:
                setattr(module, name, layers[child])
    return model


def _disable_fast_paths(
    model: torch.nn.Module, layers: Mapping[torch.nn.Module, QuantizedLinear]
) -> None:
    """Turns off the fused kernels that read linear1.weight themselves, and the nested tensors that
    only they can take."""
    for module in model.modules():
        if not any(child in layers for child in module.modules()):
            continue
        if isinstance(module, torch.nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0  # the first thing that the fused path asks for
        if isinstance(module, torch.nn.TransformerEncoder):
            module.use_nested_tensor = False

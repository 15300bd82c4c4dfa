"""Putting quantized layers in the place of float ones."""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch

from torchquant.nn import QuantizedLinear

Place = tuple[torch.nn.Module, str]  # a module, and the name under which it holds another


def replace(
    model: torch.nn.Module, names: Collection[str], make: Callable[[str], QuantizedLinear]
) -> torch.nn.Module:
    """Puts ``make(name)`` in the place of the layer of each name, wherever the model holds it.

    One after the other: a float layer that nobody else holds is freed before the next is made.
    """
    if "" in names:
        return make("")
    places = _places(model, names)
    _disable_fast_paths(model, {id(parent) for found in places.values() for parent, _ in found})
    for name, found in places.items():
        layer = make(name)
        for parent, attribute in found:
            setattr(parent, attribute, layer)
    return model


def _places(model: torch.nn.Module, names: Collection[str]) -> dict[str, list[Place]]:
    name_of = {id(model.get_submodule(name)): name for name in names}
    places: dict[str, list[Place]] = {name: [] for name in names}
    for parent in model.modules():
        # _modules, unlike named_children, lists a child under each of its names.
        for attribute, child in parent._modules.items():
            if id(child) in name_of:
                places[name_of[id(child)]].append((parent, attribute))
    return places


def _disable_fast_paths(model: torch.nn.Module, parents: Collection[int]) -> None:
    """Turns off the fused kernels that read linear1.weight themselves, and the nested tensors that
    only they can take."""
    for module in model.modules():
        if not isinstance(module, torch.nn.TransformerEncoderLayer | torch.nn.TransformerEncoder):
            continue
        if not any(id(child) in parents for child in module.modules()):
            continue
        if isinstance(module, torch.nn.TransformerEncoder):
            module.use_nested_tensor = False
        else:
            module.activation_relu_or_gelu = 0  # the first thing that the fused path asks for

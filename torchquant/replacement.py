"""Putting quantized layers in the place of float ones."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

import torch

from torchquant.nn import QuantizedLinear

_OWN = frozenset(vars(torch.nn.Module()))  # the attributes of nn.Module itself


class Place(NamedTuple):
    """A module's attribute, or its plain list, tuple, dict or set, that holds a layer."""

    parent: torch.nn.Module
    attribute: str
    is_child: bool

    def put(self, new: torch.nn.Module, old: torch.nn.Module) -> None:
        """Puts ``new`` where ``old`` is."""
        if self.is_child:
            setattr(self.parent, self.attribute, new)
        else:
            values = vars(self.parent)
            values[self.attribute] = _exchanged(values[self.attribute], old, new, set())


def replace(
    model: torch.nn.Module, names: Collection[str], make: Callable[[str], QuantizedLinear]
) -> torch.nn.Module:
    """Puts ``make(name)`` in the place of the layer of each name, wherever the model holds it.

    One after the other: a float layer that nobody else holds is freed before the next is made.
    """
    if "" in names:
        return make("")
    places = _places(model, names)
    for module, attribute, off in _fast_paths(model, places):
        setattr(module, attribute, off)
    for name, found in places.items():
        _put(found, make(name), model.get_submodule(name))
    return model


def replace_all(model: torch.nn.Module, layers: Mapping[str, QuantizedLinear]) -> torch.nn.Module:
    """As :func:`replace`, with layers that are made: all of them or, where it fails, none."""
    if "" in layers:
        return layers[""]
    places = _places(model, layers)
    before = {name: model.get_submodule(name) for name in layers}
    fast = _fast_paths(model, places)
    was = [getattr(module, attribute) for module, attribute, _ in fast]
    try:
        for module, attribute, off in fast:
            setattr(module, attribute, off)
        for name, found in places.items():
            _put(found, layers[name], before[name])
    except BaseException:  # Ctrl-C too
        for name, found in places.items():
            _put(found, before[name], layers[name])
        for (module, attribute, _), value in zip(fast, was, strict=True):
            setattr(module, attribute, value)
        raise
    return model


def _put(places: list[Place], new: torch.nn.Module, old: torch.nn.Module) -> None:
    for place in places:
        place.put(new, old)


def _places(model: torch.nn.Module, names: Collection[str]) -> dict[str, list[Place]]:
    name_of = {id(model.get_submodule(name)): name for name in names}
    places: dict[str, list[Place]] = {name: [] for name in names}
    for parent in model.modules():
        # _modules, unlike named_children, lists a child under each of its names.
        for attribute, child in parent._modules.items():
            if id(child) in name_of:
                places[name_of[id(child)]].append(Place(parent, attribute, True))
        for attribute, value in vars(parent).items():
            if attribute not in _OWN:
                for held in set(_modules_in(value, set())) & name_of.keys():
                    places[name_of[held]].append(Place(parent, attribute, False))
    return places


def _modules_in(value: object, seen: set[int]) -> Iterator[int]:
    """The ids of the modules in plain containers."""
    if isinstance(value, torch.nn.Module):
        yield id(value)
    elif isinstance(value, list | tuple | dict | set) and id(value) not in seen:
        seen.add(id(value))
        for item in value.values() if isinstance(value, dict) else value:
            yield from _modules_in(item, seen)


def _exchanged(value: Any, old: torch.nn.Module, new: torch.nn.Module, seen: set[int]) -> Any:  # noqa: ANN401
    """The value with another module in it: lists, dicts and sets themselves, a new tuple."""
    if value is old:
        return new
    if not isinstance(value, list | tuple | dict | set) or id(value) in seen:
        return value
    seen.add(id(value))
    if isinstance(value, set):
        if old in value:
            value.remove(old)
            value.add(new)
        return value
    if type(value) is tuple:
        items = tuple(_exchanged(item, old, new, seen) for item in value)
        return items if any(a is not b for a, b in zip(items, value, strict=True)) else value
    if isinstance(value, list | dict):
        for key, item in list(value.items() if isinstance(value, dict) else enumerate(value)):
            exchanged = _exchanged(item, old, new, seen)
            if exchanged is not item:
                value[key] = exchanged
    return value


def _fast_paths(
    model: torch.nn.Module, places: Mapping[str, list[Place]]
) -> list[tuple[torch.nn.Module, str, int]]:
    """Which attributes to set, and to what, against the fused kernels that read linear1.weight
    themselves, and the nested tensors that only they can take."""
    parents = {id(place.parent) for found in places.values() for place in found}
    found: list[tuple[torch.nn.Module, str, int]] = []
    for module in model.modules():
        if not any(id(child) in parents for child in module.modules()):
            continue
        if isinstance(module, torch.nn.TransformerEncoder):
            found.append((module, "use_nested_tensor", False))
        elif isinstance(module, torch.nn.TransformerEncoderLayer):
            found.append((module, "activation_relu_or_gelu", 0))  # what it asks for first
    return found

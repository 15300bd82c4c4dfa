"""Static layers that follow each other: between them activations can stay in 8 bits."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import fx, nn
from torch.nn import functional as F

Layers = Mapping[nn.Module, nn.Module]

_RELU_FUNCTIONS = (torch.relu, torch.relu_, F.relu, F.relu_)
# Which leave codes as they are, in evaluation.
_TRANSPARENT_MODULES = (nn.Identity, nn.Dropout, nn.Flatten)
_TRANSPARENT_FUNCTIONS = (torch.flatten,)
_TRANSPARENT_METHODS = ("flatten",)

log = logging.getLogger("torchquant")


@dataclass(frozen=True)
class Link:
    """``reader`` takes what ``writer`` gives, after a relu or none; ``relu`` is its module."""

    writer: nn.Module
    reader: nn.Module
    has_relu: bool
    relu: nn.ReLU | None


class _CallsOfChildren(fx.Tracer):
    """Enters no child but nn.Sequential, whose children are as good as the parent's own."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m) is not nn.Sequential


def find_links(model: nn.Module, layers: Layers) -> list[Link]:
    """The links between ``layers`` (keys) inside the modules that hold two or more of them.

    Only where every step between is known to keep 8-bit codes, each result has one reader, and a
    layer has one place in the model: there the codes are those that the reader would compute.
    """
    places = Counter(m for _, m in model.named_modules(remove_duplicate=False))
    found: dict[nn.Module, Link] = {}
    for parent in model.modules():
        if sum(child in layers for child in _own(parent)) < 2:
            continue
        for link in _links_of(parent, layers):
            once = (link.writer, link.reader, link.relu)
            if all(part is None or places[part] == 1 for part in once):
                found.setdefault(link.writer, link)
    return list(found.values())


def _own(parent: nn.Module) -> Iterator[nn.Module]:
    """Its children, and those of the nn.Sequential among them."""
    for child in parent.children():
        yield child
        if type(child) is nn.Sequential:
            yield from _own(child)


def _links_of(parent: nn.Module, layers: Layers) -> Iterator[Link]:
    try:
        graph = _CallsOfChildren().trace(parent)
    except Exception as error:  # tracing runs the model's own code, which may raise anything
        log.info("%s is not traceable, so stays in float between layers: %s", type(parent), error)
        return
    modules = dict(parent.named_modules(remove_duplicate=False))
    called = Counter(modules[node.target] for node in graph.nodes if node.op == "call_module")
    for node in graph.nodes:
        module = _module(node, modules)
        if module is not None and module in layers and called[module] == 1:
            link = _follow(node, modules, called, layers)
            if link is not None:
                yield link


def _module(node: fx.Node, modules: Mapping[str, nn.Module]) -> nn.Module | None:
    return modules[str(node.target)] if node.op == "call_module" else None


def _follow(
    writer: fx.Node, modules: Mapping[str, nn.Module], called: Counter[nn.Module], layers: Layers
) -> Link | None:
    """From a layer along its one reader, to the next layer or to what needs floats."""
    has_relu, relu, node = False, None, writer
    while len(node.users) == 1:
        node = next(iter(node.users))
        module = _module(node, modules)
        if module is not None and module in layers:
            first = modules[str(writer.target)]
            return Link(first, module, has_relu, relu) if called[module] == 1 else None
        if _is_relu(node, module):
            has_relu = True
            if isinstance(module, nn.ReLU) and called[module] == 1:
                relu = module
        elif not _is_transparent(node, module):
            return None
    return None


def _is_relu(node: fx.Node, module: nn.Module | None) -> bool:
    if module is not None:
        return type(module) is nn.ReLU
    if node.op == "call_function":
        return node.target in _RELU_FUNCTIONS
    return node.op == "call_method" and node.target in ("relu", "relu_")


def _is_transparent(node: fx.Node, module: nn.Module | None) -> bool:
    if module is not None:
        return type(module) in _TRANSPARENT_MODULES
    if node.op == "call_function":
        return node.target in _TRANSPARENT_FUNCTIONS
    return node.op == "call_method" and node.target in _TRANSPARENT_METHODS

"""Static layers that follow each other: between them activations can stay in 8 bits."""

from __future__ import annotations

import copy
import inspect
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

Layers = Mapping[nn.Module, nn.Module]
Callers = defaultdict[nn.Module, set[nn.Module]]

_RELU_FUNCTIONS = (torch.relu, torch.relu_, F.relu, F.relu_)
# Which leave codes as they are, in evaluation.
_TRANSPARENT_MODULES = (nn.Identity, nn.Dropout, nn.Flatten)
_TRANSPARENT_FUNCTIONS = (torch.flatten,)
_TRANSPARENT_METHODS = ("flatten",)

log = logging.getLogger("torchquant")


@dataclass(frozen=True)
class Link:
    """``reader`` takes what ``writer`` gives, after a relu or none.

    ``relu`` is its module, where that has nothing else to do.
    """

    writer: nn.Module
    reader: nn.Module
    has_relu: bool
    relu: nn.Module | None

    def among(self, others: Layers) -> Link:
        """The link of the modules that stand for its own."""
        relu = None if self.relu is None else others[self.relu]
        return Link(others[self.writer], others[self.reader], self.has_relu, relu)


class _TensorProxy(fx.Proxy):
    """Passes for a tensor, so that a forward that looks at types takes its usual branch."""

    __class__ = property(lambda self: torch.Tensor)
    _is_param = False


class _Tracer(fx.Tracer):
    """Enters no child but nn.Sequential, whose children are as good as the parent's own.

    ``callers`` gets, for each module that was called, those whose forward did it.
    """

    def __init__(self, callers: Callers) -> None:
        super().__init__()
        self._callers = callers
        self._entered: list[nn.Module] = []

    def graph_of(self, root: nn.Module, arguments: dict[str, Any]) -> fx.Graph:
        self._entered = [root]
        return self.trace(root, arguments)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _TensorProxy(node, self)

    def create_arg(self, a: Any) -> Any:  # noqa: ANN401  (the type of torch.fx)
        return a.node if type(a) is _TensorProxy else super().create_arg(a)

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., object],
        args: tuple[object, ...],
        kwargs: dict[str, object],
    ) -> object:
        self._callers[m].add(self._entered[-1])
        self._entered.append(m)
        try:
            return super().call_module(m, forward, args, kwargs)
        finally:
            self._entered.pop()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m) is not nn.Sequential or _has_hooks(m)


def find_links(model: nn.Module, layers: Layers) -> list[Link]:
    """The links between ``layers`` (keys) in the forwards of the model's modules.

    Only where every step between is known to keep 8-bit codes, each result has one reader, and one
    place in the model calls what is linked: there the codes are those that the reader would
    compute.
    """
    twin = _twin(model)
    if twin is None:
        return []
    original = dict(zip(twin.modules(), model.modules(), strict=True))
    twins = {copied for copied, module in original.items() if module in layers}
    return [link.among(original) for link in _links(twin, twins)]


def _twin(model: nn.Module) -> nn.Module | None:
    """A copy in evaluation, of the same weights: tracing may write attributes and buffers."""
    try:
        return copy.deepcopy(model, {id(weight): weight for weight in model.parameters()}).eval()
    except Exception as error:  # the model's own __deepcopy__
        log.info("%s cannot be copied, so stays in float between layers: %s", type(model), error)
        return None


def _links(model: nn.Module, layers: set[nn.Module]) -> Iterator[Link]:
    places = Counter(m for _, m in model.named_modules(remove_duplicate=False))
    callers: Callers = defaultdict(set)
    found: dict[nn.Module, tuple[Link, set[nn.Module]]] = {}
    for parent in model.modules():
        if parent not in layers and not layers.isdisjoint(parent.modules()):
            for link, path in _links_of(parent, layers, callers):
                found.setdefault(link.writer, (link, path))

    def has_one_caller(module: nn.Module) -> bool:
        return places[module] == 1 and len(callers[module]) <= 1

    for link, path in found.values():
        if all(map(has_one_caller, path)):
            relu = link.relu if link.relu is not None and has_one_caller(link.relu) else None
            yield replace(link, relu=relu)


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _links_of(
    parent: nn.Module, layers: set[nn.Module], callers: Callers
) -> list[tuple[Link, set[nn.Module]]]:
    """With the modules on the paths from the parent to what is linked."""
    modules = dict(parent.named_modules(remove_duplicate=False))
    graphs = _graphs(parent, callers)
    found = [list(_links_in(graph, modules, layers)) for graph in graphs]
    return [link for link in found[0] if all(link in others for others in found)] if found else []


def _graphs(parent: nn.Module, callers: Callers) -> list[fx.Graph]:
    """With something for each argument, and with optional ones left out; none where one fails.

    What torch.fx passes is not None, so the first alone would follow one branch of two.
    """
    try:
        parameters = inspect.signature(parent.forward).parameters.values()
        optional = {p.name: p.default for p in parameters if p.default is not p.empty}
        return [
            _Tracer(callers).graph_of(parent, arguments)
            for arguments in ({}, optional)[: 2 if optional else 1]
        ]
    except Exception as error:  # tracing runs the model's own code, which may raise anything
        log.info("%s is not traceable, so stays in float between layers: %s", type(parent), error)
        return []


def _links_in(
    graph: fx.Graph, modules: Mapping[str, nn.Module], layers: set[nn.Module]
) -> Iterator[tuple[Link, set[nn.Module]]]:
    called = Counter(modules[str(node.target)] for node in graph.nodes if node.op == "call_module")
    for node in graph.nodes:
        module = _module(node, modules)
        if module is not None and module in layers and called[module] == 1:
            link = _follow(node, modules, called, layers)
            if link is not None:
                yield link


def _path(node: fx.Node, modules: Mapping[str, nn.Module]) -> set[nn.Module]:
    names = str(node.target).split(".")
    return {modules[".".join(names[:end])] for end in range(1, len(names) + 1)}


def _module(node: fx.Node, modules: Mapping[str, nn.Module]) -> nn.Module | None:
    return modules[str(node.target)] if node.op == "call_module" else None


def _follow(
    writer: fx.Node,
    modules: Mapping[str, nn.Module],
    called: Counter[nn.Module],
    layers: set[nn.Module],
) -> tuple[Link, set[nn.Module]] | None:
    """From a layer along its one reader, to the next layer or to what needs floats."""
    has_relu, relu, node = False, None, writer
    path = _path(writer, modules)
    while len(node.users) == 1:
        node = next(iter(node.users))
        module = _module(node, modules)
        if module is not None and module in layers:
            if called[module] > 1:
                return None
            first = modules[str(writer.target)]
            return Link(first, module, has_relu, relu), path | _path(node, modules)
        if module is not None and _has_hooks(module):
            return None
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

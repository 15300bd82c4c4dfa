"""Static layers that follow each other: between them activations can stay in 8 bits.

Only where nothing else can see these activations: among the own layers of an nn.Sequential, or of a
module whose forward takes one tensor and always does the same, and that was always called as a
whole.
"""

from __future__ import annotations

import copy
import inspect
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

Layers = set[nn.Module]

_RELU_FUNCTIONS = (torch.relu, torch.relu_, F.relu, F.relu_)
# Which leave codes as they are.
_TRANSPARENT_MODULES = (nn.Identity, nn.Dropout, nn.Flatten)
_TRANSPARENT_FUNCTIONS = (torch.flatten,)
_TRANSPARENT_METHODS = ("flatten",)
_LISTS = (nn.ModuleList, nn.ModuleDict)

log = logging.getLogger("torchquant")


@dataclass(frozen=True)
class Link:
    """``reader`` takes what ``writer`` gives, after a relu or none, in a call of ``owner``."""

    owner: nn.Module
    writer: nn.Module
    reader: nn.Module
    has_relu: bool


def owners(model: nn.Module, layers: Layers) -> list[str]:
    """The names of the modules that have two or more of the layers as their own."""
    return [
        name for name, module in model.named_modules() if len(layers.intersection(_own(module))) > 1
    ]


def _own(module: nn.Module) -> Iterator[nn.Module]:
    """Its children; those of its lists, which nobody calls, are its own."""
    for child in module.children():
        if type(child) in _LISTS:
            yield from _own(child)
        else:
            yield child


def find_links(model: nn.Module, layers: Layers) -> list[Link]:
    """The links between ``layers`` in one call of their owner.

    Every step between them is known to keep 8-bit codes, and each result has one reader: there the
    codes are those that the reader would compute. Whether that call is the only one, and the owner
    the only one to make it, is left to calibration, which counts calls.
    """
    return [
        link
        for name in owners(model, layers)
        for link in _links_of(model.get_submodule(name), layers)
    ]


def _links_of(owner: nn.Module, layers: Layers) -> Iterator[Link]:
    if type(owner).__call__ is not nn.Module.__call__ or type(owner) in _LISTS:
        return iter(())
    if _is_plain(owner, nn.Sequential):
        return _links_in_steps(owner, layers)
    return _traced(owner, layers)


def _is_plain(module: nn.Module, *types: type[nn.Module]) -> bool:
    """Whether it computes what its type says: no subclass, no hook, no forward of its own."""
    has_hooks = bool(module._forward_hooks or module._forward_pre_hooks)
    return type(module) in types and not has_hooks and "forward" not in vars(module)


def _is_relu(module: nn.Module) -> bool:
    return _is_plain(module, nn.ReLU)


def _is_transparent(module: nn.Module) -> bool:
    return _is_plain(module, *_TRANSPARENT_MODULES) and not (
        isinstance(module, nn.Dropout) and module.training
    )


def _links_in_steps(owner: nn.Module, layers: Layers) -> Iterator[Link]:
    """Of an nn.Sequential, whose children are its steps."""
    writer, has_relu = None, False
    for module in owner._modules.values():
        assert module is not None
        if module in layers:
            if writer is not None:
                yield Link(owner, writer, module, has_relu)
            writer, has_relu = module, False
        elif _is_relu(module):
            has_relu = True
        elif not _is_transparent(module):
            writer = None


class _TensorProxy(fx.Proxy):
    """Passes for a tensor, so that a forward that looks at types takes its usual branch."""

    __class__ = property(lambda self: torch.Tensor)
    _is_param = False


class _Tracer(fx.Tracer):
    """Enters no child, and notes whether forward itself made every call.

    Other methods may be called by themselves, and have to give floats then.
    """

    by_forward = True

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., object],
        args: tuple[object, ...],
        kwargs: dict[str, object],
    ) -> object:
        caller = sys._getframe(2).f_code  # beneath torch.fx's wrapper of nn.Module.__call__
        self.by_forward &= caller is self.root.forward.__code__
        return super().call_module(m, forward, args, kwargs)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _TensorProxy(node, self)

    def create_arg(self, a: Any) -> Any:  # noqa: ANN401  (the type of torch.fx)
        return a.node if type(a) is _TensorProxy else super().create_arg(a)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def _traced(owner: nn.Module, layers: Layers) -> Iterator[Link]:
    """Of a forward of one tensor, which torch.fx follows."""
    graph = _graph(owner)
    if graph is None:
        return
    modules = dict(owner.named_modules(remove_duplicate=False))
    own = set(_own(owner))
    for node in graph.nodes:
        writer = _module(node, modules)
        found = None if writer not in layers else _follow(node, modules, layers)
        if writer is None or found is None:
            continue
        reader, has_relu = found
        if {writer, reader} <= own:
            yield Link(owner, writer, reader, has_relu)


def _graph(owner: nn.Module) -> fx.Graph | None:
    """None where the forward takes more than a tensor, cannot be traced, or keeps what it saw."""
    try:
        parameters = list(inspect.signature(owner.forward).parameters.values())
        if len(parameters) != 1 or parameters[0].kind != inspect.Parameter.POSITIONAL_OR_KEYWORD:
            return None
        if parameters[0].default is not inspect.Parameter.empty:
            return None
        # Of a copy with the same weights, in evaluation: a forward may write attributes.
        twin = copy.deepcopy(owner, {id(weight): weight for weight in owner.parameters()})
        if twin is owner:
            return None
        with torch.random.fork_rng(devices=[]):
            tracer = _Tracer()
            graph = tracer.trace(twin.eval())
    except Exception as error:  # tracing runs the model's own code, which may raise anything
        log.info("%s is not traceable, so stays in float between layers: %s", type(owner), error)
        return None
    is_seen = any(_holds_proxy(vars(module)) for module in twin.modules())
    return graph if tracer.by_forward and not is_seen else None


def _holds_proxy(value: object) -> bool:
    """Whether a traced tensor is still held: a reader that no graph shows."""
    if type(value) is dict:
        return any(map(_holds_proxy, value.values()))
    if type(value) in (list, tuple, set):
        return any(map(_holds_proxy, value))  # type: ignore[call-overload]
    return type(value) is _TensorProxy


def _module(node: fx.Node, modules: Mapping[str, nn.Module]) -> nn.Module | None:
    return modules[str(node.target)] if node.op == "call_module" else None


def _follow(
    node: fx.Node, modules: Mapping[str, nn.Module], layers: Layers
) -> tuple[nn.Module, bool] | None:
    """From a layer along its one reader, to the next layer or to what needs floats."""
    has_relu = False
    while len(node.users) == 1:
        node = next(iter(node.users))
        module = _module(node, modules)
        if module is not None and module in layers:
            return module, has_relu
        if _is_relu_node(node, module):
            has_relu = True
        elif not _is_transparent_node(node, module):
            return None
    return None


def _is_relu_node(node: fx.Node, module: nn.Module | None) -> bool:
    if module is not None:
        return _is_relu(module)
    if node.op == "call_function":
        return node.target in _RELU_FUNCTIONS
    return node.op == "call_method" and node.target in ("relu", "relu_")


def _is_transparent_node(node: fx.Node, module: nn.Module | None) -> bool:
    if module is not None:
        return _is_transparent(module)
    if node.op == "call_function":
        return node.target in _TRANSPARENT_FUNCTIONS
    return node.op == "call_method" and node.target in _TRANSPARENT_METHODS

"""Quantizing a whole model: its layers replaced by quantized ones."""

import copy
from collections import Counter
from collections.abc import Callable, Collection

import torch

from torchquant.nn import DynamicLinear, check_quantizable

Filter = Callable[[torch.nn.Module, str], bool]


def quantize_dynamic(
    model: torch.nn.Module,
    modules: Collection[type[torch.nn.Module]] = frozenset({torch.nn.Linear}),
    *,
    inplace: bool = False,
    filter_fn: Filter | None = None,
) -> torch.nn.Module:
    """Replaces the linear layers of a model by :class:`torchquant.nn.DynamicLinear`.

    Only modules of the exact type are replaced: subclasses (such as the ``out_proj`` of
    nn.MultiheadAttention, whose weight is read directly) stay as they are. A module used in several
    places stays one module, and layers that share a weight share the quantized one. The fused fast
    path of nn.TransformerEncoderLayer, which would compute in float, is turned off.

    Args:
        model: Any module; a lone nn.Linear is replaced itself.
        modules: The types to replace: a subset of {nn.Linear}.
        inplace: Whether to change ``model`` rather than a deep copy of it.
        filter_fn: Called with (module, qualified name), once for every name of a module; False
            leaves that module in float.

    Returns:
        The model with its layers replaced.

    Raises:
        TypeError: ``model`` is not a module, ``modules`` no set or ``filter_fn`` no function.
        ValueError: ``modules`` has a type that cannot be quantized, the model has no layer to
            quantize, or a layer cannot be quantized (see :meth:`DynamicLinear.from_float`); the
            message names it, and the model is as it was.
    """
    _check_arguments(model, modules, filter_fn)
    names = _names_to_replace(model, modules, filter_fn)
    if not names:
        raise ValueError(_nothing_to_quantize(model, modules, filter_fn))
    for name in names:
        check_quantizable(_linear(model, name), name or "model")
    model = model if inplace else copy.deepcopy(model)
    replacements = _quantized_layers(model, names)
    _disable_fast_paths(model, replacements)
    return _replace(model, replacements)


def _check_arguments(
    model: torch.nn.Module,
    modules: Collection[type[torch.nn.Module]],
    filter_fn: Filter | None,
) -> None:
    if not isinstance(model, torch.nn.Module):
        raise TypeError(
            f"model must be a torch.nn.Module, but got {type(model).__name__}: pass the model "
            "itself"
        )
    if not isinstance(modules, Collection) or isinstance(modules, str):
        raise TypeError(
            f"modules must be a set of module types, but got {modules!r}: pass {{torch.nn.Linear}}"
        )
    if set(modules) != {torch.nn.Linear}:
        raise ValueError(
            f"modules must be {{torch.nn.Linear}}, but got {modules!r}: leave it out to quantize "
            "every nn.Linear"
        )
    if filter_fn is not None and not callable(filter_fn):
        raise TypeError(
            f"filter_fn must be a function of (module, name), but got {filter_fn!r}: return False "
            "from it for layers that stay in float"
        )


def _linear(model: torch.nn.Module, name: str) -> torch.nn.Linear:
    module = model.get_submodule(name)
    assert isinstance(module, torch.nn.Linear)
    return module


def _names_to_replace(
    model: torch.nn.Module,
    modules: Collection[type[torch.nn.Module]],
    filter_fn: Filter | None,
) -> list[str]:
    """One name for each layer to replace: not those that filter_fn refuses under any name."""
    names: dict[torch.nn.Module, str] = {}
    refused: set[torch.nn.Module] = set()
    for name, module in model.named_modules(remove_duplicate=False):
        if type(module) not in modules:
            continue
        names.setdefault(module, name)
        if filter_fn is not None and not filter_fn(module, name):
            refused.add(module)
    return [name for module, name in names.items() if module not in refused]


def _nothing_to_quantize(
    model: torch.nn.Module,
    modules: Collection[type[torch.nn.Module]],
    filter_fn: Filter | None,
) -> str:
    counts = Counter(type(module).__name__ for module in model.modules())
    found = ", ".join(f"{count} {name}" for name, count in counts.most_common())
    wanted = ", ".join(sorted(kind.__name__ for kind in modules))
    if filter_fn is not None and any(type(module) in modules for module in model.modules()):
        return f"model has nothing to quantize: filter_fn refused every {wanted} (found {found})"
    return (
        f"model has nothing to quantize: no module is exactly a {wanted} (found {found}). "
        "Subclasses and functional calls are left in float"
    )


def _quantized_layers(
    model: torch.nn.Module, names: list[str]
) -> dict[torch.nn.Module, DynamicLinear]:
    """The quantized layer of each float one; layers with one weight get one packed weight."""
    replacements: dict[torch.nn.Module, DynamicLinear] = {}
    first_with: dict[torch.Tensor, DynamicLinear] = {}
    for name in names:
        linear = _linear(model, name)
        layer = DynamicLinear.from_float(linear)
        twin = first_with.setdefault(linear.weight, layer)
        layer.packed_weight, layer.weight_scale = twin.packed_weight, twin.weight_scale
        layer.weight_sum = twin.weight_sum
        replacements[linear] = layer
    return replacements


def _disable_fast_paths(
    model: torch.nn.Module, replacements: dict[torch.nn.Module, DynamicLinear]
) -> None:
    """Turns off the fused kernels that read linear1.weight themselves, and the nested tensors that
    only they can take."""
    for module in model.modules():
        if not any(child in replacements for child in module.modules()):
            continue
        if isinstance(module, torch.nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0  # the first thing that the fused path asks for
        if isinstance(module, torch.nn.TransformerEncoder):
            module.use_nested_tensor = False


def _replace(
    model: torch.nn.Module, replacements: dict[torch.nn.Module, DynamicLinear]
) -> torch.nn.Module:
    if model in replacements:
        return replacements[model]
    for module in list(model.modules()):
        # _modules, unlike named_children, lists a child under each of its names.
        for name, child in list(module._modules.items()):
            if child is not None and child in replacements:
                setattr(module, name, replacements[child])
    return model

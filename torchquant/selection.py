"""Which layers of a model are meant: by their type, and by a function of the user's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping

import torch

Filter = Callable[[torch.nn.Module, str], bool]
Types = Collection[type[torch.nn.Module]]

LINEAR: Types = frozenset({torch.nn.Linear})


def check_selection(
    model: torch.nn.Module, modules: Types | None, filter_fn: Filter | None
) -> None:
    """Raises TypeError or ValueError where an argument is not what its name says."""
    if not isinstance(model, torch.nn.Module):
        raise TypeError(
            f"model must be a torch.nn.Module, but got {type(model).__name__}: pass the model "
            "itself"
        )
    _check_not_compiled(model)
    if modules is not None:
        _check_modules(modules)
    if filter_fn is not None and not callable(filter_fn):
        raise TypeError(
            f"filter_fn must be a function of (module, name), but got {filter_fn!r}: return False "
            "from it for layers that stay in float"
        )


def _check_not_compiled(model: torch.nn.Module) -> None:
    """Names would be those of the wrapper, and what was compiled would stay as it was."""
    for name, module in model.named_modules():
        if "_orig_mod" in module._modules:
            raise ValueError(
                f"{name or 'model'} must not be wrapped by torch.compile, but is: pass what was "
                "compiled, its _orig_mod, and compile the result"
            )


def _check_modules(modules: Types) -> None:
    is_set = isinstance(modules, Collection) and not isinstance(modules, Mapping)
    if not is_set or not all(isinstance(kind, type) for kind in modules):
        raise TypeError(
            f"modules must be a set of module types, but got {modules!r}: pass {{torch.nn.Linear}}"
            ", and choose layers by name with filter_fn=lambda module, name: name in names"
        )
    if set(modules) != LINEAR:
        others = ", ".join(kind.__name__ for kind in modules if kind not in LINEAR)
        remark = f"{others} must stay in float; " if others else ""
        raise ValueError(
            f"modules must be {{torch.nn.Linear}}, but got {modules!r}: {remark}leave modules out "
            "to quantize every nn.Linear"
        )


def select(model: torch.nn.Module, modules: Types | None, filter_fn: Filter | None) -> list[str]:
    """One name for each layer of these exact types, but for those refused under any name.

    None stands for all types that can be quantized.

    Raises:
        ValueError: there is none.
    """
    modules = LINEAR if modules is None else modules
    names: dict[torch.nn.Module, str] = {}
    refused: set[torch.nn.Module] = set()
    for name, module in model.named_modules(remove_duplicate=False):
        if type(module) not in modules:
            continue
        names.setdefault(module, name)
        if filter_fn is not None and not filter_fn(module, name):
            refused.add(module)
    selected = [name for module, name in names.items() if module not in refused]
    if not selected:
        raise ValueError(_nothing_to_quantize(model, modules, filter_fn))
    return selected


def _nothing_to_quantize(model: torch.nn.Module, modules: Types, filter_fn: Filter | None) -> str:
    counts = Counter(type(module).__name__ for module in model.modules())
    found = ", ".join(f"{count} {name}" for name, count in counts.most_common())
    wanted = ", ".join(sorted(kind.__name__ for kind in modules))
    if filter_fn is not None and any(type(module) in modules for module in model.modules()):
        return f"model has nothing to quantize: filter_fn refused every {wanted} (found {found})"
    return (
        f"model has nothing to quantize: no module is exactly a {wanted} (found {found}). "
        "Subclasses and functional calls are left in float"
    )


def linear(model: torch.nn.Module, name: str) -> torch.nn.Linear:
    """The linear layer of that name."""
    module = model.get_submodule(name)
    assert isinstance(module, torch.nn.Linear)
    return module

"""Loading a quantized model into a float one: all of a file that fits, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from os import PathLike

import torch
from torch import Tensor

from torchquant import model_file
from torchquant.model_file import ModelFile, key_of, split_key
from torchquant.nn import QuantizedLinear
from torchquant.replacement import replace
from torchquant.saving import plain_state
from torchquant.strict_json import printable, some
from torchquant.weights import check_no_hooks


def load_quantized(
    model_or_factory: torch.nn.Module | Callable[[], torch.nn.Module], path: str | PathLike[str]
) -> torch.nn.Module:
    """Turns a float model into the quantized one that :func:`torchquant.save_quantized` wrote.

    The layers are converted one by one, each float weight freed before the next layer is read, so
    that it takes hardly more memory than the float model. One on the meta device takes none::

        with torch.device("meta"):
            model = Model()
        model = torchquant.load_quantized(model, "model.safetensors")

    Args:
        model_or_factory: A model of the architecture that was quantized, whatever its weights, or a
            function that returns one, in the dtype and mode that it is to be used in: buffers
            that are not persistent stay its own. The model is changed; a lone nn.Linear is replaced
            itself. Its layers may be quantized already.
        path: What :func:`torchquant.save_quantized` wrote.

    Returns:
        The model, with the tensors of the file in their dtypes, on the devices of those that they
        replace (those on the meta device: the CPU).

    Raises:
        TypeError: ``model_or_factory`` is not, or does not return, a module.
        FileNotFoundError: there is no such file.
        OSError: it cannot be read.
        ValueError: it is no file of a quantized model, damaged, of a newer version, or of another
            model; the message says what is wrong with which key, and the model is as it was.
    """
    with model_file.opened(path) as file:
        model = _model_of(model_or_factory)
        names = _names_of_layers(model, file)
        replaced = {alias for aliases in names.values() for alias in aliases}
        _check_fits(model, names, replaced, file)
        return _Loading(model, replaced, file).run()


def _model_of(model_or_factory: object) -> torch.nn.Module:
    if isinstance(model_or_factory, torch.nn.Module):
        return model_or_factory
    if not callable(model_or_factory):
        raise TypeError(
            "model_or_factory must be a torch.nn.Module or a function that returns one, but got "
            f"{type(model_or_factory).__name__}"
        )
    model = model_or_factory()
    if not isinstance(model, torch.nn.Module):
        raise TypeError(
            f"model_or_factory must return a torch.nn.Module, but returned {type(model).__name__}"
        )
    return model


def _names_of_layers(model: torch.nn.Module, file: ModelFile) -> dict[str, list[str]]:
    """All names in the model of each layer of the file; ValueError where it is another layer."""
    names: dict[str, list[str]] = {name: [] for name in file.layers}
    found = dict(model.named_modules(remove_duplicate=False))
    name_of: dict[torch.nn.Module, str] = {}
    for name, entry in file.layers.items():
        module = found.get(name)
        if type(module) is not torch.nn.Linear and not isinstance(module, QuantizedLinear):
            what = "no such module" if module is None else f"a {type(module).__name__}"
            raise ValueError(
                f"{file.path} is of another model: {name!r} must be an nn.Linear, but the model "
                f"has {what}"
            )
        check_no_hooks(module, name or "model")
        wanted = (entry.in_features, entry.out_features, entry.bias)
        given = (module.in_features, module.out_features, module.bias is not None)
        if given != wanted:
            raise ValueError(
                f"{file.path} is of another model: {name!r} must have (in_features, out_features, "
                f"bias) = {wanted}, but the model's has {given}"
            )
        if name_of.setdefault(module, name) != name:
            raise ValueError(
                f"{file.path} is of another model: {name!r} and {name_of[module]!r} are two layers "
                "of the file, but one in the model"
            )
    for name, module in found.items():
        if module in name_of:
            names[name_of[module]].append(name)
    return names


def _check_fits(
    model: torch.nn.Module, names: Mapping[str, list[str]], replaced: set[str], file: ModelFile
) -> None:
    """Raises ValueError where the file has not just what the model would have once quantized."""
    state = plain_state(model)
    rest = {key: value for key, value in state.items() if split_key(key)[0] not in replaced}
    of_layers = {
        key_of(alias, tensor)
        for name, aliases in names.items()
        for tensor in file.layers[name].forms()
        for alias in aliases
    }
    wanted = rest.keys() | of_layers
    if file.forms.keys() != wanted:
        raise ValueError(
            f"{file.path} is of another model: it lacks {some(wanted - file.forms.keys())} and "
            f"has {some(file.forms.keys() - wanted)} beyond it"
        )
    for key, value in rest.items():
        dtype, shape = file.forms[key]
        both_float = value.is_floating_point() and dtype.is_floating_point
        if list(value.shape) != shape or not (both_float or value.dtype == dtype):
            raise ValueError(
                f"{file.path} is of another model: {printable(key)} must be {dtype} {shape}, but "
                f"the model's is {value.dtype} {list(value.shape)}"
            )
    _check_one_tensor_a_slot(model, rest, file)
    _check_nothing_stays_without_data(model, replaced, rest)


def _check_one_tensor_a_slot(
    model: torch.nn.Module, rest: Mapping[str, Tensor], file: ModelFile
) -> None:
    """A module that the model has under several names can take one tensor only."""
    modules = dict(model.named_modules(remove_duplicate=False))
    first: dict[tuple[torch.nn.Module, str], str] = {}
    for key in rest:
        owner, name = split_key(key)
        other = first.setdefault((modules[owner], name), key)
        if file.stored_key(other) != file.stored_key(key):
            raise ValueError(
                f"{file.path} is of another model: {other!r} and {key!r} are two tensors of the "
                "file, but one in the model"
            )


def _check_nothing_stays_without_data(
    model: torch.nn.Module, replaced: set[str], rest: Mapping[str, Tensor]
) -> None:
    for key, buffer in model.named_buffers(remove_duplicate=False):
        if buffer.is_meta and key not in rest and split_key(key)[0] not in replaced:
            raise ValueError(
                f"model has the buffer {key} on the meta device, and no file holds it, as it is "
                "not persistent: build the model on the CPU"
            )


class _Loading:
    """Tensors of a checked file on their way into a model that they fit."""

    def __init__(self, model: torch.nn.Module, replaced: set[str], file: ModelFile) -> None:
        self.model, self.replaced, self.file = model, replaced, file
        self.shared: dict[str, Tensor | None] = dict.fromkeys(file.aliases.values())

    def run(self) -> torch.nn.Module:
        model = replace(self.model, list(self.file.layers), self._layer)
        for key in self.file.forms:
            owner, name = split_key(key)
            if owner not in self.replaced:
                self._put(model.get_submodule(owner), name, key)
        return model

    def _layer(self, name: str) -> QuantizedLinear:
        old = self.model.get_submodule(name)
        device = _device_of(next(iter(old.state_dict().values())))
        keys = self.file.layer_tensors(name)
        tensors = {tensor: self._tensor(keys[tensor], device) for tensor in keys}
        return self.file.layers[name].make(tensors).train(old.training)

    def _put(self, owner: torch.nn.Module, name: str, key: str) -> None:
        old = getattr(owner, name)
        tensor = self._tensor(key, _device_of(old))
        if name in owner._parameters and not isinstance(tensor, torch.nn.Parameter):
            tensor = torch.nn.Parameter(tensor, requires_grad=old.requires_grad)
            self._keep(key, tensor)
        setattr(owner, name, tensor)  # which nn.LSTM, for one, watches

    def _tensor(self, key: str, device: torch.device) -> Tensor:
        kept = self.shared.get(self.file.stored_key(key))
        if kept is not None and kept.device == device:
            return kept
        tensor = self.file.tensor(key).to(device)
        self._keep(key, tensor)
        return tensor

    def _keep(self, key: str, tensor: Tensor) -> None:
        """For the other keys of a shared tensor, that it stays shared."""
        stored = self.file.stored_key(key)
        if stored in self.shared:
            self.shared[stored] = tensor


def _device_of(tensor: Tensor) -> torch.device:
    return torch.device("cpu") if tensor.is_meta else tensor.device

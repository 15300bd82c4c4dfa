"""Saving a quantized model: one state dict for every road, in safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike

import torch
from torch import Tensor

from torchquant import model_file
from torchquant.layer_entry import SCHEMES, LayerEntry
from torchquant.model_file import DTYPES, split_key
from torchquant.nn import QuantizedLinear


def save_quantized(model: torch.nn.Module, path: str | PathLike[str]) -> None:
    """Writes a quantized model to a safetensors file, for :func:`torchquant.load_quantized`.

    The file holds every tensor of the state dict once, shared ones under one key, and in its header
    what each quantized layer is. There is no pickle in it. It is written beside ``path`` first,
    read again and checked, so that an old file is replaced whole or not at all, and only by one
    that can be loaded. A process that is killed while it saves may leave a folder
    ``.torchquant-*`` there, which can be deleted.

    Args:
        model: What :func:`torchquant.quantize_dynamic`, :func:`torchquant.quantize_static` or
            :func:`torchquant.quantize_weights` returned.
        path: Where to write; the folder must be there.

    Raises:
        TypeError: ``model`` is not a module.
        ValueError: it has no quantized layer, or its state has something that the file cannot
            hold or that loading would refuse; the message names it. Nothing is written.
        OSError: the file cannot be written; an old one is as it was.
    """
    layers = _quantized_layers(model)
    state = plain_state(model)
    _check_storable(state)
    tensors, aliases = _distinct(state)
    entries = {name: LayerEntry.of(layer) for name, layer in layers.items()}
    model_file.write(path, entries, tensors, aliases)


def _quantized_layers(model: torch.nn.Module) -> dict[str, QuantizedLinear]:
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, but got {type(model).__name__}")
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, QuantizedLinear)
    }
    if not layers:
        raise ValueError(
            f"model must have quantized layers, but this {type(model).__name__} has none: quantize "
            "it first, by torchquant.quantize_dynamic for example"
        )
    for name, layer in layers.items():
        if type(layer) not in SCHEMES.values():
            raise ValueError(
                f"{name or 'model'} must be of a type of torchquant.nn itself, but is a "
                f"{type(layer).__name__}, which the file has no word for"
            )
    return layers


def plain_state(model: torch.nn.Module) -> dict[str, Tensor]:
    """The state dict, of parameters and buffers themselves; ValueError where it has others."""
    state: dict[str, Tensor] = model.state_dict(keep_vars=True)
    modules = dict(model.named_modules(remove_duplicate=False))
    for key, value in state.items():
        owner, name = split_key(key)
        module = modules.get(owner)
        if module is None or (name not in module._parameters and name not in module._buffers):
            raise ValueError(
                f"model must have parameters and buffers only in its state dict, but {key} is "
                f"neither (a {type(value).__name__}): leave it out of the state"
            )
    return state


def _check_storable(state: Mapping[str, Tensor]) -> None:
    for key, value in state.items():
        plain = type(value) in (Tensor, torch.nn.Parameter) and value.layout == torch.strided
        if not plain or value.is_meta or value.dtype not in DTYPES.values():
            raise ValueError(
                f"{key} must be a plain dense tensor with data, of a dtype of safetensors, but is "
                f"a {type(value).__name__} of {value.dtype} on {value.device}"
            )


def _distinct(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Each tensor once, under its first key, and the key that each other one stands for."""
    first: dict[object, str] = {}
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    storages: set[int] = set()
    for key, tensor in state.items():
        found = first.setdefault(_identity(tensor), key)
        if found != key:
            aliases[key] = found
            continue
        storage = tensor.untyped_storage()
        is_whole = storage.nbytes() == tensor.nbytes and tensor.is_contiguous()
        is_alone = storage.data_ptr() not in storages
        storages.add(storage.data_ptr())
        tensors[key] = tensor.detach()
        if not (is_whole and is_alone):  # safetensors takes none that shares memory with another
            tensors[key] = tensors[key].clone(memory_format=torch.contiguous_format)
    return tensors, aliases


def _identity(tensor: Tensor) -> object:
    """Equal for tensors that are the same memory in the same shape."""
    if tensor.numel() == 0:
        return id(tensor)
    return tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride()

"""The file of a quantized model: what each layer is, and every tensor of the state dict once."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from torchquant import ops, safetensors_file
from torchquant.layer_entry import Form, LayerEntry, form_name
from torchquant.strict_json import printable, shown, shown_entry

KIND = safetensors_file.Kind(
    format="torchquant.model",
    version=1,
    entries=frozenset({"layers", "aliases"}),
    content="a quantized model",
    writer="torchquant.save_quantized",
    remedy="quantize the float model again",
)

#: What can be stored, by safetensors' name.
DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}


def key_of(layer: str, tensor: str) -> str:
    """The state dict's key: a layer that is the whole model has no name."""
    return f"{layer}.{tensor}" if layer else tensor


def split_key(key: str) -> tuple[str, str]:
    """The inverse of :func:`key_of`: the name of the module, and that of the tensor in it."""
    module, _, tensor = key.rpartition(".")
    return module, tensor


def write(
    path: str | PathLike[str],
    layers: Mapping[str, LayerEntry],
    tensors: Mapping[str, Tensor],
    aliases: Mapping[str, str],
) -> None:
    """Writes a file, or leaves what was there."""
    entries = {name: entry.as_json() for name, entry in layers.items()}
    about = {"layers": entries, "aliases": dict(aliases)}
    safetensors_file.write(path, KIND, about, tensors, partial(ModelFile, str(path)))


@contextmanager
def opened(path: str | PathLike[str]) -> Iterator[ModelFile]:
    """A file whose header and layers have been found whole.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be read.
        ValueError: it is no file of a quantized model, damaged, or of a newer version; the message
            says what is wrong with which key.
    """
    with safetensors_file.opened(path, KIND) as (file, about):
        with safetensors_file.refusing(path, KIND.remedy):
            found = ModelFile(str(path), file, about)
        yield found


class ModelFile:
    """An open file of a quantized model, found whole; ValueError where it is not.

    Attributes:
        path: For messages.
        writer: The version of torchquant that wrote it.
        layers: What the header says of each layer, by its name in the model.
        forms: The dtype and shape of each tensor, by its key in the state dict; shared ones have
            several.
    """

    def __init__(self, path: str, file: safetensors_file.Opened, about: Mapping[str, Any]) -> None:
        self.path, self._file = path, file
        self.writer: str = about["torchquant"]
        for key in ("layers", "aliases"):
            if not isinstance(about.get(key), dict):
                raise ValueError(f"{key} must be a JSON object, but is {shown_entry(about, key)}")
        self.layers = {
            name: LayerEntry.from_json(entry, f"layer '{printable(name)}'")
            for name, entry in about["layers"].items()
        }
        stored = {key: self._form(key) for key in file.keys()}  # noqa: SIM118
        self.aliases = _checked_aliases(about["aliases"], stored)
        self.forms = stored | {alias: stored[key] for alias, key in self.aliases.items()}
        self._check_layers()

    def _form(self, key: str) -> Form:
        entry = self._file.get_slice(key)
        if entry.get_dtype() not in DTYPES:
            raise ValueError(
                f"{printable(key)} has the dtype {entry.get_dtype()}, which no model of torchquant "
                "has"
            )
        return DTYPES[entry.get_dtype()], entry.get_shape()

    def stored_key(self, key: str) -> str:
        """The key under which a tensor lies in the file: shared ones have one."""
        return self.aliases.get(key, key)

    def tensor(self, key: str) -> Tensor:
        """The tensor of a key of :attr:`forms`, in memory of its own."""
        return self._file.get_tensor(self.stored_key(key)).clone()

    def stored_bytes(self, key: str) -> int:
        """What a tensor takes in the file: none for an alias."""
        dtype, shape = self.forms[key]
        return 0 if key in self.aliases else math.prod(shape) * dtype.itemsize

    def layer_tensors(self, name: str) -> dict[str, str]:
        """The key of each tensor of a layer, by its name in the layer."""
        return {tensor: key_of(name, tensor) for tensor in self.layers[name].forms()}

    def _check_layers(self) -> None:
        """Raises ValueError where the tensors of a layer are not such as its operator takes."""
        owned: dict[str, set[str]] = {name: set() for name in self.layers}
        for key in self.forms:
            owner, _ = split_key(key)
            if owner in owned:
                owned[owner].add(key)
        for name in self.layers:
            self._check_forms(name, owned[name])
            self._check_values(name)

    def _check_forms(self, name: str, owned: set[str]) -> None:
        keys = self.layer_tensors(name)
        for tensor, form in self.layers[name].forms().items():
            found, key = self.forms.get(keys[tensor]), printable(keys[tensor])
            if found is None:
                raise ValueError(f"{key} is missing, but must be {form_name(form)}")
            if found != form:
                raise ValueError(f"{key} must be {form_name(form)}, but is {form_name(found)}")
        if beyond := sorted(owned - set(keys.values())):
            raise ValueError(
                f"layer '{printable(name)}' does not have the tensor {printable(beyond[0])}, but "
                "the file has"
            )

    def _check_values(self, name: str) -> None:
        entry, keys = self.layers[name], self.layer_tensors(name)
        values = {tensor: self._file.get_tensor(self.stored_key(keys[tensor])) for tensor in keys}
        for tensor, value in values.items():
            if tensor.endswith("_scale"):
                _check_scale(printable(keys[tensor]), value)
            if tensor.endswith("_zero_point"):
                _check_zero_point(printable(keys[tensor]), value, entry)
        packed = values["packed_weight"]
        codes = ops.unpack_weight(packed, entry.out_features, entry.in_features)
        if not torch.equal(ops.pack_weight(codes), packed):
            raise ValueError(f"{printable(keys['packed_weight'])} must be zero in its padding")
        if not torch.equal(codes.sum(dim=1, dtype=torch.int32), values["weight_sum"]):
            raise ValueError(
                f"{printable(keys['weight_sum'])} must be the row sums of the weight, so one of "
                "the two was damaged"
            )


def _checked_aliases(aliases: Mapping[str, Any], stored: Collection[str]) -> dict[str, str]:
    for alias, key in aliases.items():
        if alias in stored or not isinstance(key, str) or key not in stored:
            raise ValueError(
                f"the alias '{printable(alias)}' must be of a stored tensor, and none itself, but "
                f"stands for {shown(key)}"
            )
    return dict(aliases)


def _check_scale(key: str, value: Tensor) -> None:
    wrong = value[~((value > 0) & value.isfinite())]
    if wrong.numel() > 0:
        raise ValueError(f"{key} must be positive and finite, but has {wrong[0].item():g}")


def _check_zero_point(key: str, value: Tensor, entry: LayerEntry) -> None:
    of_output = key.endswith("output_zero_point") and entry.output_dtype == torch.int8
    limits = torch.iinfo(torch.int8 if of_output else torch.uint8)
    if not limits.min <= int(value) <= limits.max:
        raise ValueError(f"{key} must lie in [{limits.min}, {limits.max}], but is {int(value)}")

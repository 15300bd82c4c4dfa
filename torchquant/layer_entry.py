"""What the header of a saved model says of one layer, to and from JSON."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from torchquant.nn import (
    ACTIVATIONS,
    DynamicLinear,
    QuantizedLinear,
    StaticLinear,
    WeightOnlyLinear,
)
from torchquant.strict_json import printable, shown, shown_entry
from torchquant.tables import for_json
from torchquant.weights import MAX_IN_FEATURES

SCHEMES: Mapping[str, type[QuantizedLinear]] = {
    "dynamic": DynamicLinear,
    "static": StaticLinear,
    "weight_only": WeightOnlyLinear,
}

_FLOATS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_CODES = {"uint8": torch.uint8, "int8": torch.int8}

Choice = TypeVar("Choice")
Form = tuple[torch.dtype, list[int]]  # dtype and shape of a tensor


def dtype_name(dtype: torch.dtype) -> str:
    """Its name in the header and in messages."""
    return str(dtype).removeprefix("torch.")


def form_name(form: Form) -> str:
    """A form, for messages."""
    return f"{dtype_name(form[0])} {form[1]}"


@dataclass(frozen=True)
class LayerEntry:
    """What the header says of a layer: all of it but its tensors."""

    scheme: str
    in_features: int
    out_features: int
    bias: bool
    activation: str
    weight_snr_db: float | None
    requantize: bool = False
    output_dtype: torch.dtype | None = None

    @classmethod
    def of(cls, layer: QuantizedLinear) -> LayerEntry:
        """That of a layer, which is of a type of SCHEMES."""
        static = layer if isinstance(layer, StaticLinear) else None
        return cls(
            next(scheme for scheme, kind in SCHEMES.items() if type(layer) is kind),
            layer.in_features,
            layer.out_features,
            layer.bias is not None,
            layer.activation,
            layer.weight_snr_db,
            static is not None and static.output_scale is not None,
            static.output_dtype if static else None,
        )

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        entry = for_json(vars(self))
        if self.scheme != "static":
            del entry["requantize"], entry["output_dtype"]
        elif self.output_dtype is not None:
            entry["output_dtype"] = dtype_name(self.output_dtype)
        return entry

    @classmethod
    def from_json(cls, entry: object, where: str) -> LayerEntry:
        """The inverse, of values from a stranger: ValueError where one is not as it must be."""
        if not isinstance(entry, dict):
            raise ValueError(f"{where} must be a JSON object, but is {shown(entry)}")
        take = _Entry(entry, where)
        scheme = take.one_of("scheme", list(SCHEMES))
        static = scheme == "static"
        made = cls(
            scheme,
            take.count("in_features"),
            take.count("out_features"),
            take.one_of("bias", [True, False]),
            take.one_of("activation", list(ACTIVATIONS)),
            take.snr("weight_snr_db"),
            take.one_of("requantize", [True, False]) if static else False,
            take.dtype("output_dtype") if static else None,
        )
        take.nothing_else()
        made._check(where)
        return made

    def _check(self, where: str) -> None:
        """ValueError where two entries do not go together."""
        gives_codes = self.output_dtype in _CODES.values()
        if self.output_dtype is not None and self.requantize != gives_codes:
            raise ValueError(
                f"{where}: output_dtype must be float without requantize and uint8 or int8 with "
                f"it, but is {dtype_name(self.output_dtype)}"
            )
        if self.scheme != "weight_only" and self.in_features > MAX_IN_FEATURES:
            raise ValueError(
                f"{where}: in_features must be at most {MAX_IN_FEATURES} in a layer that "
                f"multiplies in int8, or its sums may overflow, but is {self.in_features}"
            )

    def forms(self) -> dict[str, Form]:
        """The dtype and shape of each tensor that the layer has."""
        outputs, inputs = self.out_features, self.in_features
        packed = [-(-outputs // 16), -(-inputs // 4), 16, 4]
        forms: dict[str, Form] = {
            "packed_weight": (torch.int8, packed),
            "weight_scale": (torch.float32, [outputs]),
            "weight_sum": (torch.int32, [outputs]),
        }
        if self.bias:
            forms["bias"] = (torch.float32, [outputs])
        for end in ("input",) * (self.scheme == "static") + ("output",) * self.requantize:
            forms[f"{end}_scale"] = (torch.float32, [])
            forms[f"{end}_zero_point"] = (torch.int32, [])
        return forms

    def make(self, tensors: Mapping[str, Tensor]) -> QuantizedLinear:
        """A layer of these tensors, whose dtypes and shapes are those of :meth:`forms`."""
        options: dict[str, Any] = {"requantize": True} if self.requantize else {}
        with torch.device("meta"):  # what is replaced at once need not be allocated
            layer = SCHEMES[self.scheme](
                self.in_features, self.out_features, self.bias, self.activation, **options
            )
        for name, tensor in tensors.items():
            setattr(layer, name, tensor)
        layer.weight_snr_db = self.weight_snr_db
        if isinstance(layer, StaticLinear):
            layer.output_dtype = self.output_dtype
        return layer


class _Entry:
    """Values of a JSON object, each checked when it is taken."""

    def __init__(self, entry: Mapping[str, Any], where: str) -> None:
        self.entry, self.where, self.taken = entry, where, set[str]()

    def _refuse(self, key: str, wanted: str) -> ValueError:
        given = shown_entry(self.entry, key)
        return ValueError(f"{self.where}: {key} must be {wanted}, but is {given}")

    def _get(self, key: str) -> object:
        self.taken.add(key)
        return self.entry.get(key)

    def one_of(self, key: str, choices: Sequence[Choice]) -> Choice:
        value = self._get(key)
        for choice in choices:
            if type(value) is type(choice) and value == choice:
                return choice
        *others, last = map(shown, choices)
        raise self._refuse(key, f"{', '.join(others)} or {last}")

    def count(self, key: str) -> int:
        value = self._get(key)
        if type(value) is not int or not 0 <= value < 2**31:
            raise self._refuse(key, "a number of features")
        return value

    def snr(self, key: str) -> float | None:
        value = self._get(key)
        if value == "inf":
            return math.inf
        if value is None and key in self.entry:
            return None
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        number = cast(float, value) if is_number else math.nan
        if abs(number) <= sys.float_info.max:  # which NaN is not
            return float(number)
        raise self._refuse(key, 'a number of dB, "inf" or null')

    def dtype(self, key: str) -> torch.dtype | None:
        value, names = self._get(key), _FLOATS | _CODES
        if value is None and key in self.entry:
            return None
        if not isinstance(value, str) or value not in names:
            raise self._refuse(key, f"null or one of {', '.join(names)}")
        return names[value]

    def nothing_else(self) -> None:
        if unknown := sorted(self.entry.keys() - self.taken):
            raise ValueError(f"{self.where} has the unknown entry {printable(unknown[0])}")

"""What fewer bits cost the weights of a model, and what they save: no data needed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from torchquant import ops
from torchquant.codes import code_range
from torchquant.selection import LINEAR, Filter, check_selection, linear, select
from torchquant.tables import Value, for_json, table
from torchquant.weights import check_weight

SCALE_BYTES = 4
GRANULARITIES = ("tensor", "channel", "group")


@dataclass(frozen=True)
class StoredWeight:
    """One weight, stored in one way."""

    layer: str
    shape: tuple[int, int]
    num_bits: int
    granularity: str
    bytes: int
    float_bytes: int
    signal: float  # sum of w^2
    error: float  # sum of (w - restored)^2

    @property
    def way(self) -> tuple[int, str]:
        """Bits and granularity."""
        return self.num_bits, self.granularity

    @property
    def snr_db(self) -> float:
        """Infinite where nothing is lost."""
        return _snr_db(self.signal, self.error)

    def as_row(self) -> dict[str, Any]:
        """What :meth:`WeightReport.rows` shows."""
        return {
            "layer": self.layer,
            "shape": list(self.shape),
            "num_bits": self.num_bits,
            "granularity": self.granularity,
            "bytes": self.bytes,
            "compression": _ratio(self.float_bytes, self.bytes),
            "snr_db": self.snr_db,
        }


@dataclass(frozen=True)
class WeightReport:
    """What :func:`weight_report` found: as rows, as totals, as JSON and as text.

    Attributes:
        model_bytes: The size of all parameters and buffers of the model.
        kept_bytes: The size of those that are not measured here.
    """

    weights: Sequence[StoredWeight]
    ways: Sequence[tuple[int, str]]
    group_size: int
    model_bytes: int
    kept_bytes: int

    def rows(self) -> list[dict[str, Any]]:
        """One for each layer, num_bits and granularity.

        Each has ``layer``, the qualified name ("" for a lone layer), ``shape`` ``[N, K]``,
        ``num_bits``, ``granularity``, ``bytes`` as stored, scales included, ``compression``, the
        weight's own bytes over these, and ``snr_db``, infinite where nothing is lost.
        """
        return [weight.as_row() for weight in self.weights]

    def totals(self) -> list[dict[str, Any]]:
        """One for each num_bits and granularity, over all layers.

        ``bytes`` and ``compression`` are those of the weights, ``model_bytes`` the size of all
        parameters and buffers with these weights quantized, and ``snr_db`` is
        ``10 log10(sum(w^2) / sum(error^2))`` over all of them, in float64.
        """
        return [self._total(*way) for way in self.ways]

    def _total(self, num_bits: int, granularity: str) -> dict[str, Any]:
        weights = [weight for weight in self.weights if weight.way == (num_bits, granularity)]
        size = sum(weight.bytes for weight in weights)
        error = sum(weight.error for weight in weights)
        signal = sum(weight.signal for weight in weights)
        return {
            "num_bits": num_bits,
            "granularity": granularity,
            "bytes": size,
            "compression": _ratio(sum(weight.float_bytes for weight in weights), size),
            "model_bytes": self.kept_bytes + size,
            "snr_db": _snr_db(signal, error),
        }

    def to_json(self) -> str:
        """Rows and totals as a JSON object; it has no infinity, so that is the string "inf"."""
        found = {
            "group_size": self.group_size,
            "model_bytes": self.model_bytes,
            "rows": list(map(for_json, self.rows())),
            "totals": list(map(for_json, self.totals())),
        }
        return json.dumps(found, indent=2, allow_nan=False)

    def __str__(self) -> str:
        """SNR of each layer by bits and granularity, then the totals."""
        lines: dict[str, dict[str, Value]] = {}
        for weight in self.weights:
            first: dict[str, Value] = {
                "layer": weight.layer or "model",
                "shape": " x ".join(map(str, weight.shape)),
            }
            column = f"{weight.num_bits} {weight.granularity}"
            lines.setdefault(weight.layer, first)[column] = weight.snr_db
        return "\n".join(
            [
                f"SNR in dB of each weight, by bits and granularity (groups of {self.group_size})",
                "",
                *table(list(lines.values())),
                "",
                f"All of them, in a model of {self.model_bytes:,} bytes",
                "",
                *table(self.totals()),
            ]
        )


def weight_report(
    model: torch.nn.Module,
    num_bits: Sequence[int] = (8, 4, 2),
    granularity: Sequence[str] = GRANULARITIES,
    *,
    group_size: int = 128,
    filter_fn: Filter | None = None,
    progress: bool = True,
) -> WeightReport:
    """Quantizes the weight of each linear layer in several ways: what each costs and saves.

    Symmetric, codes ``[-2^(b-1), 2^(b-1) - 1]``, one scale for the whole weight ("tensor"), for
    each output feature ("channel") or for ``group_size`` neighbours within one ("group"). The model
    is not changed, and no data is needed.

    Stored, a row of K codes takes ``ceil(K * b / 8)`` bytes up to 8 bits, as
    :func:`torchquant.ops.pack_bits` packs it, and 2 K above; each scale takes 4.

    Args:
        model: Any module. The weights of its layers of the exact type nn.Linear are measured, each
            once, in float32. One that others hold too, such as an embedding, stays in the model.
        num_bits: Of 2 to 16.
        granularity: Of "tensor", "channel" and "group".
        group_size: How many weights share a scale in "group"; the last of a row may be fewer.
        filter_fn: Called with (module, qualified name), once for every name of a module; False
            leaves that module out.
        progress: Whether to show a progress bar, on standard error.

    Raises:
        TypeError: ``model`` is not a module or ``filter_fn`` no function.
        ValueError: another argument is not as above, the model has no such layer, or a weight holds
            NaN or Inf or has no data; the message names it.
    """
    check_selection(model, LINEAR, filter_fn)
    _check_num_bits(num_bits)
    _check_granularity(granularity)
    _check_group_size(group_size)
    layers = [(name, linear(model, name)) for name in select(model, LINEAR, filter_fn)]
    for name, layer in layers:
        check_weight(layer, name or "model")
    ways = [(bits, kind) for bits in num_bits for kind in granularity]
    names: dict[Tensor, str] = {}
    for name, layer in layers:
        names.setdefault(layer.weight, name)
    weights = [
        stored
        for weight, name in tqdm(names.items(), desc="weights", unit="layer", disable=not progress)
        for stored in _measure(name, weight.detach(), ways, group_size)
    ]
    selected = {layer for _, layer in layers}
    return WeightReport(weights, ways, group_size, _size(model, set()), _size(model, selected))


def _measure(
    layer: str, weight: Tensor, ways: Sequence[tuple[int, str]], group_size: int
) -> list[StoredWeight]:
    original = weight.float()
    signal = _square_sum(original, torch.zeros_like(original))
    rows, columns = weight.shape
    measured = []
    for num_bits, granularity in ways:
        restored, scales = _RESTORED[granularity](original, *code_range(num_bits, True), group_size)
        measured.append(
            StoredWeight(
                layer,
                (rows, columns),
                num_bits,
                granularity,
                _stored_bytes(rows, columns, num_bits, scales),
                weight.nbytes,
                signal,
                _square_sum(original, restored),
            )
        )
    return measured


def _stored_bytes(rows: int, columns: int, num_bits: int, scales: int) -> int:
    row = -(-columns * num_bits // 8) if num_bits <= 8 else 2 * columns
    return rows * row + SCALE_BYTES * scales


def _square_sum(original: Tensor, approximation: Tensor) -> float:
    """Of the error, in float64, the same for any number of threads."""
    if original.numel() == 0:
        return 0.0
    return ops.quantization_error(original, approximation)[2].item() * original.numel()


def _per_tensor(weight: Tensor, least: int, most: int, group_size: int) -> tuple[Tensor, int]:
    """The dequantized weight, and how many scales it took."""
    scale, zero_point = ops.choose_qparams_per_tensor(weight, least, most, True)
    codes = ops.quantize_per_tensor(weight, scale, zero_point, least, most, torch.int16)
    return ops.dequantize_per_tensor(codes, scale, zero_point), scale.numel()


def _per_channel(weight: Tensor, least: int, most: int, group_size: int) -> tuple[Tensor, int]:
    scale, zero_point = ops.choose_qparams_per_channel(weight, 0, least, most, True)
    codes = ops.quantize_per_channel(weight, scale, zero_point, 0, least, most, torch.int16)
    return ops.dequantize_per_channel(codes, scale, zero_point, 0), scale.numel()


def _per_group(weight: Tensor, least: int, most: int, group_size: int) -> tuple[Tensor, int]:
    scale, zero_point = ops.choose_qparams_per_group(weight, group_size, least, most, True)
    codes = ops.quantize_per_group(weight, scale, zero_point, group_size, least, most, torch.int16)
    return ops.dequantize_per_group(codes, scale, zero_point, group_size), scale.numel()


_RESTORED: Mapping[str, Callable[[Tensor, int, int, int], tuple[Tensor, int]]] = {
    "tensor": _per_tensor,
    "channel": _per_channel,
    "group": _per_group,
}


def _size(model: torch.nn.Module, quantized: set[torch.nn.Linear]) -> int:
    """Bytes of all parameters and buffers, but for the weights of these layers."""
    kept = {
        tensor
        for module in model.modules()
        for name, tensor in (*module._parameters.items(), *module._buffers.items())
        if tensor is not None and not (module in quantized and name == "weight")
    }
    return sum(tensor.nbytes for tensor in kept)


def _snr_db(signal: float, error: float) -> float:
    return 10 * math.log10(signal / error) if error > 0 else math.inf


def _ratio(before: int, after: int) -> float:
    return before / after if after > 0 else 1.0


def _check_num_bits(num_bits: Sequence[int]) -> None:
    if not _are_some(num_bits, lambda bits: type(bits) is int and 2 <= bits <= 16):
        raise ValueError(
            f"num_bits must be different integers from 2 to 16, but got {num_bits!r}: pass (8, 4) "
            "for example"
        )


def _check_granularity(granularity: Sequence[str]) -> None:
    if not _are_some(granularity, lambda kind: kind in GRANULARITIES):
        raise ValueError(
            f"granularity must be different ones of {GRANULARITIES}, but got {granularity!r}: pass "
            '("channel",) for example'
        )


def _check_group_size(group_size: int) -> None:
    if type(group_size) is not int or group_size < 1:
        raise ValueError(
            f"group_size must be a positive integer, but got {group_size!r}: 128 is usual"
        )


def _are_some(values: object, is_one: Callable[[Any], bool]) -> bool:
    """Whether this is a sequence of different values of a kind, with one at least."""
    if not isinstance(values, Sequence) or isinstance(values, str):
        return False
    return all(map(is_one, values)) and 0 < len(set(values)) == len(values)
